"""Tables of utterances with audio players and spectrograms, in Weights & Biases and in a notebook without it.

A table is a list of rows, each a dict of column → value; a `Path` is a recording or a picture. `wandb_table` converts
it to a `wandb.Table`, `browse` to an HTML table for the notebook.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from IPython.display import HTML
from tqdm import tqdm

from asr_with_nemo.base.files import read_text
from asr_with_nemo.base.html import columns_of, html_table
from asr_with_nemo.data import audio, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.pictures import MEDIA, PictureSettings, make_pictures, playable_file
from asr_with_nemo.tracking.runs import Run
from asr_with_nemo.tracking.wandb_internals import wandb_api

if TYPE_CHECKING:
    import wandb

Row = dict[str, object]
"""Column → value; a `Path` is a recording or, by its suffix, a picture."""
EMBEDDED = 4_000_000
"""Maximum bytes of audio and pictures that are embedded in a table."""


# --- Tables -----------------------------------------------------------------------------------------------------------


def dataset_rows(
    manifests: Sequence[str | os.PathLike],
    pictures: str | os.PathLike | None = None,
    settings: PictureSettings = PictureSettings(),
    progress: bool = True,
    most: int | None = None,
) -> list[Row]:
    """Return the utterances of manifests as rows: Filename, Audio File, Duration (seconds), Transcript, Spectrogram...

    Args:
        manifests: one or more.
        pictures: the folder for pictures; by default `MEDIA` in the folder of the first manifest.
        settings: how to draw them.
        progress: show a progress bar.
        most: draw so many of the utterances at random, always the same ones, if there are more.

    Raises:
        InputError: a manifest or a recording can't be used, or the folder can't be written.
    """
    manifests = [Path(path) for path in manifests]
    utterances = list(_drawn(manifests, most))
    folder = Path(pictures or manifests[0].parent / MEDIA)
    files = [_file_of(utterance, folder) for _, utterance in utterances]
    pictured = make_pictures(files, folder, settings, progress)
    splits = {
        path: _splits(path, {row["audio_filepath"] for place, row in utterances if place == path}) for path in manifests
    }
    return [
        {
            "Filename": os.path.relpath(utterance["audio_filepath"], path.parent.absolute()),
            "Audio File": made.audio,
            "Duration": round(utterance["duration"], 3),
            "Transcript": utterance["text"],
            "Spectrogram": made.spectrogram,
            "Mel-Spectrogram": made.mel,
            "Speaker": str(utterance.get("speaker") or ""),
            "Split": splits[path].get(utterance["audio_filepath"], _split_name(path)),
        }
        for (path, utterance), made in zip(utterances, pictured, strict=True)
    ]


def _drawn(manifests: Sequence[Path], most: int | None) -> Iterator[tuple[Path, manifest.Utterance]]:
    """Yield the utterances of manifests, each with its manifest: all of them, or so many at random, in order."""
    numbers = None
    if most is not None:
        count = manifest.count_rows(manifests)
        numbers = set(random.Random(0).sample(range(count), most)) if count > most else None
    every = ((path, utterance) for path in manifests for utterance in manifest.each_utterance(path))
    yield from (one for number, one in enumerate(every) if numbers is None or number in numbers)


def _file_of(utterance: manifest.Utterance, folder: Path) -> Path:
    """Return an utterance's recording; of a part of a longer file, a WAV of that part, in the folder."""
    sound = audio.clip_of(utterance)
    if not isinstance(sound, audio.Clip):
        return Path(sound)
    facts = repr((os.path.abspath(sound.path), os.stat(sound.path).st_mtime_ns, sound.offset, sound.duration))
    wav = folder / "parts" / f"{Path(sound.path).stem}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.wav"
    if not wav.is_file():
        samples = np.round(np.clip(audio.load_audio(sound), -1, 1) * 32_767).astype(np.int16)
        try:
            wav.parent.mkdir(parents=True, exist_ok=True)
            audio.write_wav(wav, samples)
        except OSError as error:
            raise InputError(f"{wav}: can't be written ({error.strerror})") from error
    return wav


def _split_name(path: Path) -> str:
    return path.stem.removesuffix("_manifest")


def _splits(path: Path, recordings: set[str]) -> dict[str, str]:
    """Return recording → split: the smallest manifest in this folder that contains the recording.

    So the recordings of train_all are assigned to train or dev.
    """
    found: list[tuple[int, str, set[str]]] = []
    for other in sorted(path.parent.glob("*_manifest.json")):
        held, rows = set(), 0
        for utterance in manifest.each_utterance(other, check_audio=False):
            rows += 1
            held |= {utterance["audio_filepath"]} & recordings
        found.append((rows, _split_name(other), held))
    return {name: split for _, split, held in sorted(found, key=lambda one: -one[0]) for name in held}


def prediction_rows(rows: Sequence, folder: str | os.PathLike) -> list[Row]:
    """Return a model's hypotheses as rows: FileName, Audio, Prediction, Ground Truth, WER.

    Args:
        rows: `ScoredUtterance`s, from `evaluation.evaluate`.
        folder: of the manifest; the rows' files are relative to it.

    Raises:
        InputError: a recording is missing, or can't be read.
    """
    folder = Path(folder)
    table = []
    for row in rows:
        path = folder.absolute() / row.file
        if not path.is_file():
            raise InputError(f"{path}: the recording is missing; put it where the manifest expects it")
        rate = row.words.rate
        table.append(
            {
                "FileName": row.file,
                "Audio": playable_file(path, folder / MEDIA),
                "Prediction": row.hypothesis,
                "Ground Truth": row.reference,
                "WER": None if rate is None else round(rate, 4),
            }
        )
    return table


def wandb_table(rows: Sequence[Row], progress: bool = True) -> "wandb.Table":
    """Return rows as a `wandb.Table` for `run.log`, with audio players and pictures; files are logged unchanged.

    Raises:
        InputError: there are no rows.
    """
    import wandb

    def shown(value: object) -> object:
        if not isinstance(value, Path):
            return value
        return wandb.Image(str(value)) if value.suffix == ".png" else wandb.Audio(str(value))

    table = wandb.Table(columns=columns_of(rows))
    for row in tqdm(rows, "table", unit="row", delay=1, disable=not progress):
        table.add_data(*map(shown, row.values()))
    return table


def read_table(folder: str | os.PathLike, name: str) -> list[Row]:
    """Read the rows of a `wandb.Table` that was logged under a name, from the folder of its artifact.

    Raises:
        InputError: the table's file is missing, or isn't a table.
    """
    folder = Path(folder)
    return _rows(folder / f"{name}.table.json", lambda path: folder / path)


def logged_rows(run: Run, name: str) -> list[Row]:
    """Read the rows of the newest table that a run has logged under a name.

    Raises:
        InputError: the run has no such table, or it can't be read.
    """
    if name not in run.tables:
        raise InputError(f"run {run.label}: has no table {name!r}; it has {', '.join(run.tables) or 'none'}")
    files = run.tables[name]
    if not files:  # on the server
        artifact = wandb_api().artifact(f"{run.project}/run-{run.id}-{name}:latest")
        return read_table(artifact.download(), name)
    return _rows(files[f"{name}.table.json"], lambda path: files.get(path, Path(path)))


def _rows(path: Path, place: Callable[[str], Path]) -> list[Row]:
    """Read a table's file; `place` finds the recordings and pictures that it names."""
    text = read_text(path, "a table", "no such table; expected the artifact of a wandb.Table")
    try:
        content = json.loads(text)
        columns, lines = content["columns"], content["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: can't be read as a wandb.Table ({error!r}); log it again") from error

    def value(cell: object) -> object:
        if isinstance(cell, dict) and "path" in cell:  # a recording or a picture
            file = place(cell["path"])
            return file if file.is_file() else None
        return cell if cell is None or isinstance(cell, int | float | str) else json.dumps(cell)

    return [dict(zip(map(str, columns), map(value, line), strict=True)) for line in lines]


def browse(
    rows: Sequence[Row],
    page: int = 8,
    sort: str = "",
    descending: bool = False,
    beside: str | os.PathLike | None = "notebooks",
) -> HTML:
    """Return rows as a sortable, paged HTML table for the notebook, without an account or a network.

    The notebook stays small: the table links to recordings and pictures, and the browser loads those of the current
    page. Files outside the course's folder, and all files in Colab, can't be linked: they are embedded, up to
    `EMBEDDED` bytes.

    Args:
        rows: from `dataset_rows` or `prediction_rows`.
        page: rows per page.
        sort: the column to sort by at first; by default the given order.
        descending: sort the largest first.
        beside: the notebook's folder, or one of the same depth; None to embed all files.

    Raises:
        InputError: there are no rows, or no such column.
    """
    return HTML(html_table(rows, page, sort, descending, beside, EMBEDDED))
