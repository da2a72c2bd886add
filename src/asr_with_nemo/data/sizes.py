"""Sizes of a model and its training that follow from the corpus, for configs such as `configs/small_corpus.yaml`.

`${corpus:${data_dir},KEY}` in a config is one of `sizes`: the letters of the corpus, the width of the network, the
number of epochs. All of it follows from the manifests, so it works for any folder that has them, AN4's too.
"""

import json
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from asr_with_nemo.data import manifest
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.data.shards import NOTES, Shards
from asr_with_nemo.data.sound import open_sound
from asr_with_nemo.data.training_data import parse_manifest
from asr_with_nemo.errors import InputError

_SPLITS = ("train", "dev", "test")
_SHARDS = Path("shards", "train", NOTES)
_STEPS = 2_500  # of a training, at least
_HOURS = 80  # of speech in all epochs together; more costs time and hardly improves the model
_FEWEST, _MOST = 15, 150  # epochs
_BATCH_SECONDS = 40  # of speech in a batch, about


def register() -> None:
    """Register the resolver of `${corpus:FOLDER,KEY}` with OmegaConf."""
    OmegaConf.register_new_resolver("corpus", _look_up, replace=True)


def _look_up(folder: str, key: str) -> object:
    known = sizes(folder)
    if key not in known:
        raise InputError(f"${{corpus:{folder},{key}}}: no such size; expected one of {', '.join(known)}")
    return known[key]


def sizes(folder: str | os.PathLike) -> dict[str, object]:
    """Return the sizes of a model and its training for the corpus whose manifests are in a folder.

    Returns:
        labels: the letters of all transcripts and the space.
        sample_rate: of the WAVs, in Hz.
        highest: the highest frequency of the recordings in Hz (telephone speech); None for half the sample rate.
        width: channels of the network.
        repeat: sub-blocks in each of its blocks.
        dropout: higher for a smaller corpus.
        batch_size: utterances, about 40 seconds of speech together.
        epochs, check_every: of the training, and from one validation to the next.
        average: the decay of the moving average of the weights.
        longest: seconds of the longest utterance.
        use_cer: whether to validate by CER, for languages that write no spaces between words.

    Raises:
        InputError: the folder has no train or dev manifest, or one of them can't be used.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder}: a file; name the folder that scripts/prepare_corpus.py wrote")
    stamps = tuple(_stamp(folder / name) for name in (*map(_name_of, _SPLITS), _SHARDS))
    return dict(_sizes(folder.absolute(), stamps))


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=4)
def _sizes(folder: Path, stamps: tuple[int, ...]) -> Mapping[str, object]:
    paths = {split: folder / _name_of(split) for split in _SPLITS}
    totals = {split: _totals(path) for split, path in paths.items() if split != "test" or path.is_file()}
    letters = {" "}.union(*(one.letters for one in totals.values()))
    longest, train = max(one.longest for one in totals.values()), totals["train"]
    rate, utterances, seconds, words, characters = train.rate(), *train[:4]
    hours = seconds / 3600
    batch_size = min(32, max(4, 2 ** round(math.log2(_BATCH_SECONDS * utterances / seconds))))
    steps = math.ceil(utterances / batch_size)
    epochs = min(_MOST, max(_FEWEST, round(_HOURS / hours), math.ceil(_STEPS / steps)))
    return {
        "labels": sorted(letters),
        "sample_rate": rate,
        "highest": _highest(folder, rate),
        "width": 256 if hours < 0.25 else 384 if hours < 5 else 512,
        "repeat": 1 if hours < 5 else 2,
        "dropout": 0.25 if hours < 5 else 0.15,
        "batch_size": batch_size,
        "epochs": epochs,
        "check_every": max(1, min(5, epochs // 20)),
        # The average spans about the last tenth of the training.
        "average": round(min(0.998, max(0.9, 1 - 10 / (epochs * steps))), 4),
        "longest": math.ceil(longest),
        "use_cer": characters > 15 * words,
    }


class _Totals(NamedTuple):
    """The totals of a manifest's utterances: their number, seconds, words and characters, the longest, the letters."""

    utterances: int
    seconds: float
    words: int
    characters: int
    longest: float
    letters: frozenset[str]
    first: str | int
    """The first recording, or the sample rate of all in Hz."""

    def rate(self) -> int:
        """Return the sample rate of the recordings, in Hz."""
        return self.first if isinstance(self.first, int) else _rate_of(self.first)


def _totals(path: Path) -> _Totals:
    """Return the totals of a manifest; of one whose shards are beside it, those of their notes, for any size.

    Raises:
        InputError: the manifest can't be used.
    """
    if path.name == _name_of("train") and (known := _shards_of(path)):
        longest, letters = float(known.durations[-1]), frozenset(known.letters)
        return _Totals(known.rows, known.seconds, known.words, known.characters, longest, letters, known.sample_rate)
    parsed = parse_manifest(path)  # which the training then has already
    rows = parsed.utterances
    return _Totals(
        len(rows),
        sum(row["duration"] for row in rows),
        sum(len(row["text"].split()) for row in rows),
        sum(len(row["text"]) for row in rows),
        max(row["duration"] for row in rows),
        frozenset(parsed.letters),
        rows[0]["audio_filepath"],
    )


def _shards_of(path: Path) -> Shards | None:
    """Return the notes on the shards beside a manifest, if they were made of it as it is now, or it isn't here."""
    if not (path.parent / _SHARDS).is_file():
        return None
    try:
        known = Shards(path.parent / _SHARDS.parent)
    except InputError:  # damaged; a training from the manifest doesn't need them
        return None
    return known if not path.is_file() or known.notes.get("manifest") == sha256_of(path) else None


def _name_of(split: str) -> str:
    return f"{split}_manifest.json"


def _rate_of(path: str) -> int:
    with open_sound(path, f"{path} (which a manifest names)") as sound:
        return sound.rate


def _highest(folder: Path, rate: int) -> int | None:
    """Half of the lowest source rate of at least 20% of the speech, if that rate is lower than the WAVs'."""
    try:
        note = json.loads((folder / manifest.CORPUS_NOTES).read_text(encoding="utf-8"))
        rates = {int(source): seconds for source, seconds in note.get("source_rates", {}).items()}
    except (OSError, ValueError, AttributeError):
        return None
    total = sum(rates.values())
    common = [source for source, seconds in rates.items() if seconds >= 0.2 * total]
    return min(common) // 2 if common and min(common) < rate else None
