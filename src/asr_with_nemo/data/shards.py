"""Shards: a training set in a few hundred large files that are read from front to back, and the notes on them.

The files are Lhotse Shar's, which NeMo reads: `cuts.000000.jsonl.gz` has the texts of a shard, `recording.000000.tar`
its recordings as FLAC, in the same order. They lie in a folder or in an object storage (`data.object_storage`).

The notes are what a training has to know of its utterances without reading them: `shards.json` has counts, letters,
and the size and digest of each file; `rows.npy` the duration of each utterance, `recordings.npy` and `speakers.npy`
hashes by which shared ones are found, `texts.txt` a sample of the texts. So the time until the first step, and the
memory, don't grow with the number of rows.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from asr_with_nemo.data import digests, object_storage
from asr_with_nemo.errors import InputError

NOTES = "shards.json"
ROWS, RECORDINGS, SPEAKERS, TEXTS = "rows.npy", "recordings.npy", "speakers.npy", "texts.txt"
TABLES = (ROWS, RECORDINGS, SPEAKERS, TEXTS)
FORMAT = 1
ROW = np.dtype([("duration", "f4"), ("symbols", "u4")])
"""A row of `rows.npy`: seconds, and the least number of frames that CTC needs for the letters of the text."""
QUANTILES = 101
"""Durations in the notes: the shortest, that of 1%, ... the longest."""
_MAKE = "python scripts/make_shards.py MANIFEST"


class HeldOut(Protocol):
    """A held-out set, such as a `ParsedManifest`: the paths of its recordings, and its speakers."""

    path: Path
    recordings: list[str]
    speakers: set[str]


@dataclass(frozen=True)
class Shard:
    """A shard: its number as in the names of its files, its utterances, and for each file its size and MD5.

    Attributes:
        name: such as "000012".
        rows: utterances.
        seconds: of speech.
        files: name of a file → {"size": bytes, "md5": hexadecimal}.
    """

    name: str
    rows: int
    seconds: float
    files: dict[str, dict[str, object]]

    @property
    def cuts(self) -> str:
        """The name of the file with the texts."""
        return f"cuts.{self.name}.jsonl.gz"

    @property
    def recording(self) -> str:
        """The name of the file with the recordings."""
        return f"recording.{self.name}.tar"


def is_place(place: object) -> bool:
    """Return whether a name is that of shards: a folder with notes, or a place in an object storage."""
    return isinstance(place, str | os.PathLike) and (
        object_storage.is_remote(place) or os.path.isfile(os.path.join(place, NOTES))
    )


def hashed(content: bytes) -> int:
    """Return the number of 64 bits by which `recordings.npy` and `speakers.npy` know something."""
    return int.from_bytes(content[:8], "little")


def speaker_hash(name: str) -> int:
    """Return the number of 64 bits by which a speaker is known."""
    return hashed(hashlib.blake2b(str(name).encode(errors="surrogatepass"), digest_size=8).digest())


class Shards:
    """The notes on shards.

    Args:
        place: the folder, or `s3://BUCKET/FOLDER`.

    Raises:
        InputError: there are no shards, or their notes can't be read.
    """

    def __init__(self, place: str | os.PathLike):
        self.place = str(place) if str(place) in ("/", object_storage.SCHEME) else str(place).rstrip("/")
        self._copies: tempfile.TemporaryDirectory | None = None
        object_storage.check_place(self.place)
        if not object_storage.is_remote(self.place) and not os.path.isdir(self.place):
            what = "it is a file" if os.path.exists(self.place) else "there is no such folder"
            raise InputError(
                f"{self.place}: expected a folder of shards, but {what}; give a manifest as "
                f"model.train_ds.manifest_filepath, or make shards of it: {_MAKE}"
            )
        path = self._local(NOTES, f"the folder has no notes of shards ({NOTES}); make them: {_MAKE}")
        try:
            self.notes = json.loads(path.read_text(encoding="utf-8"))
            if self.notes["format"] != FORMAT:
                raise InputError(
                    f"{self.path_of(NOTES)}: of format {self.notes['format']}, where this version reads {FORMAT}; make "
                    f"the shards again: {_MAKE}"
                )
            self.shards = [Shard(**one) for one in self.notes["shards"]]
            self.rows, self.seconds = int(self.notes["rows"]), float(self.notes["seconds"])
            self.sample_rate, self.digest = int(self.notes["sample_rate"]), str(self.notes["digest"])
            self.durations = np.array(self.notes["durations"], dtype=float)
            self.letters = {
                letter: (int(one["count"]), str(one["text"])) for letter, one in self.notes["letters"].items()
            }
            self.words, self.characters = int(self.notes["words"]), int(self.notes["characters"])
            self.source = str(self.notes["source"])
            files = [self.notes["tables"], *(shard.files for shard in self.shards)]
            self.sizes = {name: int(about["size"]) for one in files for name, about in one.items()}
            """Name of each file but the notes → its bytes."""
            for shard in self.shards:
                if {shard.cuts, shard.recording} != set(shard.files) or "/" in shard.name:
                    raise ValueError(f"a shard of the name {shard.name[:80]!r} with other files")
                for about in shard.files.values():
                    bytes.fromhex(str(about["md5"]))
            counted = sum(shard.rows for shard in self.shards)
            agrees = counted == self.rows > 0 and 0 < self.seconds < math.inf and len(self.durations) == QUANTILES
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{self.path_of(NOTES)}: damaged, or no notes of shards ({error!r}); make the shards again: {_MAKE}"
            ) from error
        if not agrees:
            raise InputError(
                f"{self.path_of(NOTES)}: doesn't agree with itself ({counted:,} rows in its shards, {self.rows:,} in "
                f"all); make the shards again: {_MAKE}"
            )

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs; it makes copies of its own."""
        return self.__dict__ | {"_copies": None}

    def path_of(self, name: str) -> str:
        """Return the path or URL of one of the files."""
        return f"{self.place}/{name}"

    def _local(self, name: str, missing: str = "") -> Path:
        """Return the path of a file; of one in an object storage, that of a copy which lives as long as this object."""
        if not object_storage.is_remote(self.place):
            path = Path(self.place, name)
            if not path.is_file():
                raise InputError(f"{self.place}: {missing or f'{name} is missing; make the shards again: {_MAKE}'}")
            return path
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory(prefix="shards-")
        path = Path(self._copies.name, name)
        if not path.is_file():
            object_storage.download(self.path_of(name), path)
        return path

    def check_files(self) -> None:
        """Make sure, by their sizes, that all files are there and whole.

        Raises:
            InputError: one is missing, cut short, or another than the notes say.
        """
        if object_storage.is_remote(self.place):
            found = object_storage.files_in(self.place)
        else:
            with os.scandir(self.place) as entries:
                found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        wrong = [name for name, size in self.sizes.items() if found.get(name) != size]
        if not wrong:
            return
        name = wrong[0]
        what = "is missing" if name not in found else f"has {found[name]:,} bytes"
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(
            f"{self.path_of(name)}{more}: {what}, where {NOTES} says {self.sizes[name]:,} bytes; copy the whole "
            f"folder again, or make the shards again: {_MAKE}"
        )

    def table(self, name: str) -> np.ndarray:
        """Return one of the tables (`ROWS`, `RECORDINGS`, `SPEAKERS`), mapped into memory.

        Raises:
            InputError: it is missing, or damaged.
        """
        kind = ROW if name == ROWS else np.dtype(np.uint64)
        try:
            table = np.load(self._local(name), mmap_mode="r", allow_pickle=False)
            if table.ndim != 1 or table.dtype != kind:
                raise ValueError(f"expected a table of {kind}")
            return table
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{self.path_of(name)}: damaged ({error}); make the shards again: {_MAKE}") from error

    @cached_property
    def texts(self) -> list[str]:
        """A sample of the texts in the order of the manifest, all of a small one; each letter is in one of them."""
        try:
            return self._local(TEXTS).read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path_of(TEXTS)}: damaged ({error}); make the shards again: {_MAKE}") from error

    def check(self, labels: Iterable[str] | None, sample_rate: int) -> None:
        """Make sure that the shards are whole and that a model can spell their texts and be trained on them.

        Args:
            labels: the letters of the model; None for one of pieces.
            sample_rate: of the model, in Hz.

        Raises:
            InputError: a file is missing or cut short, or letters or the rate are other ones.
        """
        self.check_files()
        if self.sample_rate != sample_rate:
            raise InputError(
                f"{self.place}: recordings of {self.sample_rate:,} Hz, where the model expects {sample_rate:,} Hz; "
                f"make shards of recordings of that rate (scripts/prepare_corpus.py --rate {sample_rate})"
            )
        if labels is None:
            return
        strange = sorted(set(self.letters) - set(labels))
        if strange:
            count, text = self.letters[strange[0]]
            raise InputError(
                f"{self.place}: {count:,} text(s) have {strange[0]!r} ({text!r}), and the model's alphabet "
                f"{''.join(sorted(labels))!r} lacks {' '.join(map(repr, strange))}; change the texts or model.labels"
            )

    def check_held_out(self, other: HeldOut, split: str) -> None:
        """Make sure that the shards have no recording and no speaker of a held-out set.

        Recordings are compared by their content, so that copies and moved files are found as well.

        Args:
            other: the manifest of that set.
            split: its name, "dev" or "test".

        Raises:
            InputError: they share a recording or a speaker, or a recording of that set can't be read.
        """
        try:
            files = [Path(path) for path in other.recordings]
            contents = [hashed(one.md5) for one in digests.file_digests(files, other.path.absolute().parent)]
        except OSError as error:
            raise InputError(f"{other.path}: {error.filename}: can't be read ({error.strerror})") from error
        speakers = sorted(other.speakers)
        kinds = {
            "recording": (RECORDINGS, contents, other.recordings),
            "speaker": (SPEAKERS, [speaker_hash(name) for name in speakers], speakers),
        }
        for kind, (table, keys, names) in kinds.items():
            shared = [name for name, there in zip(names, _contains(self.table(table), keys), strict=True) if there]
            if shared:
                raise InputError(
                    f"{self.place}: shares {len(shared)} {kind}(s) with the {split} set {other.path} ({min(shared)}); "
                    f"a model that was trained on the {split} set can't be measured on it"
                )

    def source_folder(self) -> Path | None:
        """Return the folder of the manifest that the shards were made of, if it is on this machine."""
        if object_storage.is_remote(self.place):
            return None
        folder = Path(self.place, self.source).parent
        return folder if folder.is_dir() else None

    def damaged(self, shards: Iterable[Shard]) -> str | None:
        """Return the path of the first file of some shards whose content isn't what was written; None if all are."""
        if object_storage.is_remote(self.place):
            return None
        for shard in shards:
            for name, about in shard.files.items():
                try:
                    with open(self.path_of(name), "rb") as file:
                        if hashlib.file_digest(file, digests.new_md5).hexdigest() != about["md5"]:
                            return self.path_of(name)
                except OSError:
                    return self.path_of(name)
        return None


def _contains(table: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """Return for each key whether a sorted table has it, (K,)."""
    wanted = np.array(keys, dtype=np.uint64)
    places = np.searchsorted(table, wanted)
    return np.array([place < len(table) and table[place] == key for place, key in zip(places, wanted, strict=True)])
