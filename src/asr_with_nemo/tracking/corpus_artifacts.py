"""The corpus as W&B artifacts: recordings by reference with their digests, and the manifests."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.wandb_internals import log_input

if TYPE_CHECKING:
    import wandb


def recordings_artifact(manifests: Sequence[str | os.PathLike]) -> "wandb.Artifact":
    """The raw recordings that manifests lead to, each with its digest; for AN4 the SPHERE files, with the transcripts.

    The manifests beside them count too, as in `manifests_artifact`. The files themselves aren't sent: W&B notes where
    they lie, and by the digest anybody can tell that theirs are the same.

    Raises:
        InputError: a manifest can't be used, or a recording isn't there.
    """
    folder = _folder(manifests)
    manifests = _with_those_beside(manifests, folder)
    raw = []
    for recording in _recordings(manifests):
        sphere = recording.with_suffix(".sph")
        raw.append(sphere if sphere.is_file() else recording)
    artifact = _artifact(folder, "recordings", "what was recorded, before any processing", len(raw))
    return _refer(artifact, [*raw, *sorted(folder.glob("etc/*.transcription"))], folder)


def manifests_artifact(manifests: Sequence[str | os.PathLike]) -> "wandb.Artifact":
    """Manifests, with the digests of the sound files they lead to, and what `an4.prepare` noted of their origin.

    Those that lie beside them (`*_manifest.json`) are a part of it too, where their recordings are there: so the same
    files are the same artifact, whichever of a corpus's manifests are asked for, and the input of a training is what
    `log_corpus` logged.

    Raises:
        InputError: a manifest can't be used, or a recording isn't there.
    """
    folder = _folder(manifests)
    manifests = _with_those_beside(manifests, folder)
    recordings = _recordings(manifests)
    artifact = _artifact(folder, "manifests", "what a model is trained and measured on", len(recordings))
    artifact.metadata["utterances"] = {
        Path(path).name: len(manifest.read_manifest(path, check_audio=False)) for path in manifests
    }
    for path in [*map(Path, manifests), folder / manifest.CORPUS_NOTES]:
        if path.is_file():
            artifact.add_file(str(path), name=_name(path.absolute(), folder))
    return _refer(artifact, recordings, folder)


def log_corpus(run: "wandb.Run", manifests: Sequence[str | os.PathLike]) -> "wandb.Artifact":
    """Log a corpus as two artifacts, the manifests made of the recordings, and return the second.

    Raises:
        InputError: a manifest can't be used, or a recording isn't there.
    """
    log_input(run, recordings_artifact(manifests))
    made = manifests_artifact(manifests)
    run.log_artifact(made)
    return made


def _folder(manifests: Sequence[str | os.PathLike]) -> Path:
    return Path(manifests[0]).absolute().parent


def _with_those_beside(manifests: Sequence[str | os.PathLike], folder: Path) -> list[Path]:
    given = [Path(path).absolute() for path in manifests]
    for path in sorted(folder.glob("*_manifest.json")):
        if path not in given:
            try:
                manifest.read_manifest(path)
            except InputError:  # it is nothing that was asked for
                continue
            given.append(path)
    return sorted(given)


def _recordings(manifests: Sequence[str | os.PathLike]) -> list[Path]:
    utterances = (utterance for path in manifests for utterance in manifest.read_manifest(path))
    return [Path(file) for file in dict.fromkeys(utterance["audio_filepath"] for utterance in utterances)]


def _artifact(folder: Path, kind: str, description: str, recordings: int) -> "wandb.Artifact":
    import wandb

    corpus = an4.corpus_of(folder / manifest.CORPUS_NOTES)
    name = artifacts.valid_name(f"{corpus}-{kind}")
    metadata = {"corpus": corpus, "recordings": recordings}
    return wandb.Artifact(name, type="dataset", description=f"{corpus}: {description}", metadata=metadata)


def _refer(artifact: "wandb.Artifact", files: Iterable[Path], folder: Path) -> "wandb.Artifact":
    for file in files:
        file = Path(os.path.abspath(file))
        artifact.add_reference(file.as_uri(), name=_name(file, folder))  # notes its MD5 and size
    return artifact


def _name(file: Path, folder: Path) -> str:
    """Of a file in an artifact; one from outside the manifests' folder keeps its whole path, as names may repeat."""
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file.relative_to(file.anchor))
