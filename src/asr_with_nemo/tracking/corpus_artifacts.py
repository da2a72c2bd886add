"""The corpus as W&B artifacts: recordings by reference with their digests, and the manifests."""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.data.digests import file_digests
from asr_with_nemo.data.object_storage import is_remote
from asr_with_nemo.data.shards import Shards
from asr_with_nemo.data.training_data import TrainingData
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.wandb_internals import add_reference, log_input

if TYPE_CHECKING:
    import wandb


class Stopped(Exception):
    """An artifact was not made because it is no longer needed."""


def recordings_artifact(
    manifests: Sequence[str | os.PathLike], data: TrainingData | None = None, progress: bool = False
) -> "wandb.Artifact":
    """Make an artifact of the raw recordings of some manifests; for AN4 the SPHERE files, with the transcripts.

    The manifests in the same folder count too, as in `manifests_artifact`. The files are not uploaded: W&B stores their
    paths and MD5 digests, by which other copies of them can be checked.

    Args:
        manifests: the paths.
        data: the manifests that have been parsed already.
        progress: show a progress bar.

    Raises:
        InputError: a manifest can't be used, or a recording is missing.
    """
    folder, data = _folder(manifests), data or TrainingData()
    raw = []
    for recording in _recordings(_with_neighbors(manifests, folder, data), data):
        sphere = recording.with_suffix(".sph")
        raw.append(sphere if sphere.is_file() else recording)
    artifact = _artifact(folder, "recordings", "what was recorded, before any processing", len(raw))
    return _refer(artifact, [*raw, *sorted(folder.glob("etc/*.transcription"))], folder, progress=progress)


def manifests_artifact(
    manifests: Sequence[str | os.PathLike],
    data: TrainingData | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> "wandb.Artifact":
    """Make an artifact of manifests and of the notes on their origin, with references to their sound files.

    The other manifests in the same folder (`*_manifest.json`) are included if their recordings exist. So the artifact
    is the same whichever manifests of a corpus it is made for, and the input of a training is the artifact that
    `log_corpus` logged.

    Args:
        manifests: the paths.
        data: the manifests that have been parsed already.
        is_stopped: called for each recording; True ends the work.
        progress: show a progress bar.

    Raises:
        InputError: a manifest can't be used, or a recording is missing.
        Stopped: `is_stopped` returned True.
    """
    folder, data = _folder(manifests), data or TrainingData()
    manifests = _with_neighbors(manifests, folder, data)
    recordings = _recordings(manifests, data)
    artifact = _artifact(folder, "manifests", "what a model is trained and measured on", len(recordings))
    artifact.metadata["utterances"] = {path.name: data.listing(path).utterances for path in manifests}
    for path in [*manifests, folder / manifest.CORPUS_NOTES]:
        if path.is_file():
            artifact.add_file(str(path), name=_name(path, folder))
    return _refer(artifact, recordings, folder, is_stopped, progress)


def shards_artifact(
    shards: Shards, dev: str | os.PathLike, is_stopped: Callable[[], bool] = lambda: False
) -> "wandb.Artifact":
    """Make an artifact of the notes on shards, with references to their files, and of the manifest of the dev set.

    The digests are those of the notes: nothing is read again.

    Args:
        shards: the notes.
        dev: the manifest.
        is_stopped: called for each shard; True ends the work.

    Raises:
        Stopped: `is_stopped` returned True.
    """
    artifact = _artifact(_folder([dev]), "shards", "what a model is trained on, in shards", shards.rows)
    artifact.metadata |= {"utterances": shards.rows, "hours": round(shards.seconds / 3600, 2)}
    artifact.add_file(str(dev), name=Path(dev).name)
    place = shards.place if is_remote(shards.place) else Path(shards.place).absolute().as_uri()
    for shard in shards.shards:
        if is_stopped():
            raise Stopped
        for name, file in shard.files.items():
            add_reference(artifact, name, f"{place}/{name}", int(file["size"]), bytes.fromhex(str(file["md5"])))
    return artifact


def log_corpus(run: "wandb.Run", manifests: Sequence[str | os.PathLike], progress: bool = False) -> "wandb.Artifact":
    """Log a corpus as two artifacts, the manifests made of the recordings, and return the second.

    Each recording is read once, for its digest, by which W&B tells whether the corpus has changed; later calls read
    those whose size or time of change is another (`data.digests`).

    Raises:
        InputError: a manifest can't be used, or a recording is missing.
    """
    data = TrainingData()
    log_input(run, recordings_artifact(manifests, data, progress))
    made = manifests_artifact(manifests, data, progress=progress)
    run.log_artifact(made)
    return made


def _folder(manifests: Sequence[str | os.PathLike]) -> Path:
    return Path(manifests[0]).absolute().parent


def _with_neighbors(manifests: Sequence[str | os.PathLike], folder: Path, data: TrainingData) -> list[Path]:
    given = [Path(path).absolute() for path in manifests]
    for path in given:
        if not data.listing(path).has_audio:
            manifest.read_manifest(path)  # raises the error, with the line
    for path in sorted(folder.glob("*_manifest.json")):
        if path not in given:
            try:
                usable = data.listing(path).has_audio
            except InputError:  # the caller did not ask for this one
                continue
            if usable:
                given.append(path)
    return sorted(given)


def _recordings(manifests: Iterable[Path], data: TrainingData) -> list[Path]:
    files = (file for path in manifests for file in data.listing(path).recordings)
    return [Path(file) for file in dict.fromkeys(files)]


def _artifact(folder: Path, kind: str, description: str, recordings: int) -> "wandb.Artifact":
    import wandb

    corpus = an4.corpus_of(folder / manifest.CORPUS_NOTES)
    name = artifacts.valid_name(f"{corpus}-{kind}")
    metadata = {"corpus": corpus, "recordings": recordings}
    return wandb.Artifact(name, type="dataset", description=f"{corpus}: {description}", metadata=metadata)


def _refer(
    artifact: "wandb.Artifact",
    files: Sequence[Path],
    folder: Path,
    is_stopped: Callable[[], bool] = lambda: False,
    progress: bool = False,
) -> "wandb.Artifact":
    bar = tqdm(total=len(files), desc="digests", unit="file", delay=1, leave=False, disable=not progress)
    with bar, contextlib.closing(file_digests(files, folder)) as digests:
        for file, size, md5 in digests:
            bar.update()
            if is_stopped():
                raise Stopped
            add_reference(artifact, _name(file, folder), file.as_uri(), size, md5)
    return artifact


def _name(file: Path, folder: Path) -> str:
    """Of a file in an artifact; one from outside the manifests' folder keeps its whole path, as names may repeat."""
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file.relative_to(file.anchor))
