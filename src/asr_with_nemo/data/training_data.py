"""The manifests of a training, each parsed once, for all that needs their rows: checks, sizes, W&B artifacts.

`parse_manifest` keeps the last few manifests that it has read, so that what is asked of a corpus while a config is
composed (`data.sizes`) and the training after it share them. `TrainingData` is what one training has read; it gives the
memory of the rows back before the model is built.
"""

import os
import threading
from collections import OrderedDict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.shards import Shards
from asr_with_nemo.errors import InputError

_MOST_KEPT = 4  # train, dev, test and train_all
_kept: OrderedDict[tuple[str, int, int], "ParsedManifest"] = OrderedDict()
_lock = threading.Lock()


class ParsedManifest:
    """The utterances of a manifest, as `read_manifest` returns them, and what follows from them, computed once.

    Raises:
        InputError: the manifest can't be used. Whether its recordings exist is checked by `check_audio`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.utterances = manifest.read_manifest(path, check_audio=False)

    @cached_property
    def recordings(self) -> list[str]:
        """The absolute paths of the sound files, each once, in the order of the utterances."""
        return list(dict.fromkeys(os.path.abspath(row["audio_filepath"]) for row in self.utterances))

    @cached_property
    def real_recordings(self) -> set[str]:
        """The paths of the sound files with symbolic links resolved."""
        real_folder = lru_cache(maxsize=1_000)(os.path.realpath)

        def real(path: str) -> str:
            if os.path.islink(path):
                return os.path.realpath(path)
            folder, name = os.path.split(path)
            return os.path.join(real_folder(folder), name)

        return {real(path) for path in self.recordings}

    @cached_property
    def speakers(self) -> set[str]:
        return {row["speaker"] for row in self.utterances if row.get("speaker")}

    @cached_property
    def letters(self) -> set[str]:
        """The characters of all transcripts."""
        return set().union(*(row["text"] for row in self.utterances))

    @cached_property
    def has_audio(self) -> bool:
        """Whether all recordings exist."""
        return all(map(os.path.isfile, self.recordings))

    def check_audio(self) -> None:
        """Make sure that all recordings exist.

        Raises:
            InputError: one doesn't, with the number of its line.
        """
        if not self.has_audio:
            manifest.read_manifest(self.path)


def parse_manifest(path: str | os.PathLike, keep: bool = True) -> ParsedManifest:
    """Parse a manifest, or return it as it was parsed before if its size and time of modification are the same.

    Args:
        path: the manifest.
        keep: whether to keep it for the next call.

    Raises:
        InputError: the manifest can't be used.
    """
    with _lock:
        key = _key(path)
        if key not in _kept:
            parsed = ParsedManifest(path)
            if not keep:
                return parsed
            _kept[key] = parsed
        _kept.move_to_end(key)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
        return _kept[key]


def _key(path: str | os.PathLike) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return os.path.abspath(path), 0, 0  # the reader finds the words for it
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


class Listing(NamedTuple):
    """The number of utterances of a manifest, its recordings (absolute paths, each once), and whether all exist."""

    utterances: int
    recordings: list[str]
    has_audio: bool


class TrainingData:
    """The manifests that one training reads, each parsed once. After `release`, only `listing` needs no new parse."""

    def __init__(self):
        self._manifests: dict[str, ParsedManifest] = {}
        self._listings: dict[str, Listing] = {}
        self._shards: dict[str, Shards] = {}

    def parsed(self, path: str | os.PathLike) -> ParsedManifest:
        """Return a manifest, parsed now if it has not been before.

        Raises:
            InputError: the manifest can't be used.
        """
        key = os.path.abspath(path)
        if key not in self._manifests:
            self._manifests[key] = parse_manifest(path)
        return self._manifests[key]

    def shards(self, place: str) -> Shards:
        """Return the notes on shards, read now if they have not been before.

        Raises:
            InputError: there are none, or they can't be read.
        """
        if place not in self._shards:
            self._shards[place] = Shards(place)
        return self._shards[place]

    def check_recordings(self, path: str | os.PathLike, labels: list[str] | None, sample_rate: int) -> None:
        """Make sure that a model can spell the transcripts of a manifest and be trained on its recordings.

        Args:
            path: the manifest.
            labels: the letters of the model; None for one of pieces, whose tokenizer is checked elsewhere.
            sample_rate: of the model, in Hz.

        Raises:
            InputError: a recording is missing or unusable, or a transcript has other letters.
        """
        parsed = self.parsed(path)
        parsed.check_audio()
        if labels is not None and not parsed.letters <= set(labels):
            manifest.check_alphabet(path, parsed.utterances, labels)
        manifest.check_recordings(path, parsed.utterances, sample_rate)

    def check_held_out(self, training: str | os.PathLike, held_out: str | os.PathLike, split: str) -> None:
        """Make sure that a training set has no recording of a held-out set, and no speaker where both name them.

        Args:
            training, held_out: the manifests.
            split: the name of the held-out set: "dev", "test".

        Raises:
            InputError: the two share a recording or a speaker.
        """
        ours, theirs = self.parsed(training), self.parsed(held_out)
        kinds = {
            "recording": ours.real_recordings & theirs.real_recordings,
            "speaker": ours.speakers & theirs.speakers,
        }
        for kind, shared in kinds.items():
            if shared:
                raise InputError(
                    f"{training}: shares {len(shared)} {kind}(s) with the {split} set {held_out} ({min(shared)}); a "
                    f"model that was trained on the {split} set can't be measured on it"
                )

    def sample(self, path: str | os.PathLike, count: int) -> list[manifest.Utterance]:
        """Return some utterances, evenly spaced over a manifest so that they are of several speakers.

        Utterances that are cut out of longer files, by their `offset` or a shorter `duration`, are left out.
        """
        whole = [row for row in self.parsed(path).utterances if not row.get("offset")]
        spaced = whole[:: max(1, len(whole) // count)][:count]
        return [row for row in spaced if not isinstance(audio.clip_of(row), audio.Clip)]

    def write(self, path: Path, utterances: list[manifest.Utterance]) -> None:
        """Write a manifest of some utterances, which need not be parsed again.

        Raises:
            OSError: it can't be written.
        """
        manifest.write_manifest(path, utterances)
        recordings = list(dict.fromkeys(os.path.abspath(row["audio_filepath"]) for row in utterances))
        self._listings[os.path.abspath(path)] = Listing(len(utterances), recordings, has_audio=True)

    def listing(self, path: str | os.PathLike) -> Listing:
        """Return the number of utterances of a manifest and its recordings. Of a new manifest, no more is kept.

        Raises:
            InputError: the manifest can't be used.
        """
        key = os.path.abspath(path)
        if key not in self._listings:
            parsed = self._manifests.get(key) or parse_manifest(path, keep=False)
            self._listings[key] = Listing(len(parsed.utterances), parsed.recordings, parsed.has_audio)
        return self._listings[key]

    def release(self) -> None:
        """Free the memory of the rows, also in the cache of `parse_manifest`."""
        for key, parsed in self._manifests.items():
            self.listing(key)
            with _lock:
                for kept in [kept for kept, one in _kept.items() if one is parsed]:
                    del _kept[kept]
        self._manifests.clear()
