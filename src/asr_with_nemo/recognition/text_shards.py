"""Shards of transcripts: files of JSON lines in a folder or an object storage, with notes on what is done.

A shard is committed in two phases, as Ray Data's checkpoints are, whose files these are:

1. `.progress/ids/NAME.pending.parquet` gets the ids of its recordings;
2. `NAME.jsonl` is written, and `.progress/facts/NAME.json` about it;
3. the first is renamed to `NAME.parquet`.

Whatever dies, the next run deletes a shard whose ids are still pending, and leaves out the recordings whose ids are
committed. So it doesn't matter which engine wrote a shard. One that has been cut short since is noticed by its size.
"""

import contextlib
import io
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow
from pyarrow import fs, parquet

from asr_with_nemo.base.files import reason_of, replacing
from asr_with_nemo.data import object_storage
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.recordings import Recording, clip_of, id_of, mean_seconds

_SHARD = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}-\d{6}")
"""The name of a shard, `Shards.name_of`."""
ID = "id"
"""The key of a recording's id in listings, shards and checkpoints."""
_ID = np.dtype("S24")  # of `id_of`; a million take 24 MB, as texts in a set 130
_NONE = np.empty(0, _ID)
_SHARD_SECONDS, _SHARD_ROWS = 3600.0, 1_000
"""A shard has about so much sound, and no more recordings than this."""
_SHARES = 8  # shards that each worker gets at least, if there are recordings enough, so that all end at about one time
_NAMED = 5  # failed recordings that are named at the end
_SAMPLED = 200  # recordings of whose sizes the length of all is estimated
_AT_ONCE = 16  # notes that are read at a time


@dataclass
class Tally:
    """What shards hold.

    Attributes:
        recordings: their number, those that failed included.
        seconds: of sound.
        failed: recordings that can't be read or recognised.
        first: the errors of a few of them.
        size: of the shards, in bytes.
    """

    recordings: int = 0
    seconds: float = 0.0
    failed: int = 0
    first: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, other: "Tally") -> None:
        """Add what other shards hold."""
        self.recordings += other.recordings
        self.seconds += other.seconds
        self.failed += other.failed
        self.first = [*self.first, *other.first][:_NAMED]
        self.size += other.size

    @classmethod
    def of(cls, content: bytes) -> "Tally":
        """Count the lines of a shard."""
        tally = cls(size=len(content))
        for line in content.splitlines():
            row = json.loads(line)
            error = [row["error"]] if "error" in row else []
            tally.add(cls(1, row.get("duration", 0.0), len(error), error))
        return tally


def as_bytes(lines: Iterable[str]) -> bytes:
    """Return the content of a shard."""
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _described(recording: Recording) -> str:
    """Return a line of a listing: the id, and the rest as JSON in a text, so that no engine guesses at types."""
    return json.dumps({ID: id_of(recording), "recording": json.dumps([recording.name, clip_of(recording)])})


class Shards:
    """A folder of shards and the notes on them, in `.progress`, for one run.

    Attributes:
        run: the name of this run, with which its shards' names begin.
        done: the ids of the recordings that are in committed shards, as an array of bytes (N,).
        lost: committed shards that were missing, or shorter than they were written.
        tally: what those shards hold.

    Args:
        place: a folder, or `s3://BUCKET/FOLDER`; created if needed.
        settings: the model and its options; they have to be those of the shards that are there.

    Raises:
        InputError: the place can't be written, has other files, or shards of other settings.
    """

    def __init__(self, place: str | os.PathLike, settings: Mapping):
        self.place = str(place)
        self.run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        with self._explained():
            self.filesystem, self.root = object_storage.filesystem(place)
        self.ids, self.lists = f"{self.root}/.progress/ids", f"{self.root}/.progress/lists"
        self._facts, self._deaths = f"{self.root}/.progress/facts", f"{self.root}/.progress/deaths"
        self._counted: set[str] = set()
        self.lost = 0
        with self._explained():
            self._check(json.dumps(settings, sort_keys=True))
            self._write(f"{self.root}/.progress/run", self.run.encode())  # from here on, no other run commits a shard
            self._clean()
            self.done, self.tally = self._read_notes()
            if self.lost:
                self.sweep()

    def __getstate__(self) -> dict:
        """Leave out what only the main process needs, and can be large."""
        return self.__dict__ | {"done": _NONE, "_counted": set(), "tally": Tally()}

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if object_storage.is_remote(self.place):
                raise object_storage.explain(self.place, error) from error
            raise InputError(f"{self.place}: can't be written ({reason_of(error)})") from error

    def _check(self, settings: str) -> None:
        note = f"{self.root}/.progress/settings.json"
        there = self._names(self.root)
        if ".progress" not in self._folders(self.root) and any(name.endswith(".jsonl") for name in there):
            raise InputError(f"{self.place}: has other files than shards ({min(there)}); name an empty or a new folder")
        for folder in (self.root, self.ids, self.lists, self._facts, self._deaths):
            self.filesystem.create_dir(folder, recursive=True)
        before = self._settings(note)
        if before is None:
            self._replace(note, settings.encode())
        elif before != settings:
            raise InputError(
                f"{self.place}: its shards were made with another model or other options ({before}; now {settings}); "
                "name another folder, or delete this one"
            )

    def _settings(self, note: str) -> str | None:
        """Return the settings of the shards that are there; None without any."""
        if "settings.json" not in self._names(f"{self.root}/.progress"):
            return None
        before = self._read(note).decode(errors="replace")
        try:
            json.loads(before)
        except ValueError:
            if not any(name.endswith(".parquet") for name in self._names(self.ids)):
                return None
            raise InputError(
                f"{self.place}/.progress/settings.json: is damaged; delete this file if the shards were made with the "
                "model and options that you give now, and they are kept; otherwise name another folder"
            ) from None
        return before

    def _clean(self) -> None:
        """Delete what earlier runs left unfinished: pending ids first, so that none of them is committed meanwhile."""
        for name in self._names(self.ids):
            if name.endswith(".pending.parquet"):
                with contextlib.suppress(FileNotFoundError):  # committed a moment ago
                    self.filesystem.delete_file(f"{self.ids}/{name}")
        self.sweep()
        for folder in (self.lists, self._deaths):
            self.filesystem.delete_dir_contents(folder)

    def sweep(self) -> None:
        """Delete shards whose ids aren't committed."""
        with self._explained():
            whole = {name.removesuffix(".parquet") for name in self._names(self.ids)}
            for folder, suffix in ((self.root, ".jsonl"), (self._facts, ".json")):
                for name in self._names(folder):
                    is_shard = name.endswith(suffix) and _SHARD.fullmatch(name.removesuffix(suffix))
                    if is_shard and name.removesuffix(suffix) not in whole:  # other files are the user's
                        self.filesystem.delete_file(f"{folder}/{name}")

    def _read_notes(self) -> tuple[np.ndarray, Tally]:
        """Return the ids of all shards and what they hold, but for those that are lost: theirs are to be done again."""
        sizes = {info.base_name.removesuffix(".jsonl"): info.size for info in self._infos(self.root) if info.size}
        names = [name.removesuffix(".parquet") for name in self._names(self.ids)]
        found, tally = [_NONE], Tally()
        with ThreadPoolExecutor(_AT_ONCE) as threads:  # a storage answers each request in some hundredths of a second
            noted = threads.map(lambda name: self._noted(name, sizes.get(name, 0)), names)
            for name, note in zip(names, noted, strict=True):
                if note is None:
                    self.filesystem.delete_file(f"{self.ids}/{name}.parquet")
                    self.lost += 1
                    continue
                found.append(note[0])
                tally.add(note[1])
                self._counted.add(f"{name}.json")
        return np.concatenate(found), tally

    def _noted(self, name: str, size: int) -> tuple[np.ndarray, Tally] | None:
        """Return the ids of a committed shard of so many bytes and what it holds; None if it is lost."""
        if not size:
            return None
        content = self._read(f"{self.ids}/{name}.parquet")
        try:
            ids = parquet.read_table(io.BytesIO(content))[ID].to_pylist()
        except (pyarrow.ArrowException, OSError, KeyError) as error:  # OSError: of what is in it
            raise InputError(
                f"{self.place}/.progress/ids/{name}.parquet: is damaged ({error}); delete it, and its recordings "
                "are done again"
            ) from error
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            facts = Tally(**json.loads(self._read(f"{self._facts}/{name}.json")))
            if facts.size:
                return (np.array(ids, dtype=_ID), facts) if size >= facts.size else None
        content = self._read(f"{self.root}/{name}.jsonl")
        try:
            if [json.loads(line)[ID] for line in content.splitlines()] != ids:
                return None
        except (ValueError, TypeError, KeyError):
            return None
        return np.array(ids, dtype=_ID), self.write_facts(name, content)

    def check_run(self) -> None:
        """Raise InputError if another command has begun to write here."""
        if self._read(f"{self.root}/.progress/run").decode() != self.run:
            raise InputError(f"{self.place}: another command has begun to write here; this one ends")

    def pending(self, recordings: Sequence[Recording]) -> tuple[np.ndarray, int]:
        """Return the places of the recordings that aren't in shards yet, each once, and how many all of them are."""
        ids = np.fromiter((id_of(one).encode() for one in recordings), _ID, len(recordings))
        _, places = np.unique(ids, return_index=True)
        places.sort()
        return places[~np.isin(ids[places], self.done)], len(places)

    def write_lists(self, recordings: Sequence[Recording], places: Sequence[int], workers: int) -> list[str]:
        """Write recordings as lists, one for each shard to come, and return their paths.

        Args:
            recordings: all of them.
            places: of those that are to be written.
            workers: that work at a time.
        """
        mean = mean_seconds([recordings[place] for place in places[:: max(1, len(places) // _SAMPLED)]])
        rows = min(_SHARD_ROWS, round(_SHARD_SECONDS / mean)) if mean else _SHARD_ROWS
        rows = max(1, min(rows, -(-len(places) // (workers * _SHARES))))
        paths = []
        with self._explained():
            for first in range(0, len(places), rows):
                paths.append(f"{self.lists}/{len(paths):06d}.jsonl")
                text = "".join(f"{_described(recordings[place])}\n" for place in places[first : first + rows])
                self._write(paths[-1], text.encode())
        return paths

    def read_list(self, path: str) -> list[dict[str, str]]:
        """Return the rows of a list."""
        with self._explained():
            return [json.loads(line) for line in self._read(path).splitlines()]

    def some_rows(self, count: int) -> list[dict[str, str]]:
        """Return about so many rows, from all over the lists."""
        with self._explained():
            names = sorted(self._names(self.lists))
        names = names[:: max(1, len(names) // count)]
        each = -(-count // max(1, len(names)))
        found = (self.read_list(f"{self.lists}/{name}") for name in names)
        return [row for rows in found for row in rows[:: max(1, len(rows) // each)][:each]]

    def name_of(self, number: int) -> str:
        """Return the name of a shard of this run."""
        return f"{self.run}-{number:06d}"

    def write(self, number: int, ids: Sequence[str], lines: Sequence[str]) -> None:
        """Write a shard, and commit it.

        Raises:
            InputError: it can't be written, or another command writes here.
        """
        name = self.name_of(number)
        pending = f"{self.ids}/{name}.pending.parquet"
        with self._explained():
            table = io.BytesIO()
            parquet.write_table(pyarrow.table({ID: list(ids)}), table)
            self._write(pending, table.getvalue())
            self.check_run()
            content = as_bytes(lines)
            self._write(f"{self.root}/{name}.jsonl", content)
            self.write_facts(name, content)
            self.filesystem.move(pending, f"{self.ids}/{name}.parquet")

    def write_facts(self, name: str, content: bytes) -> Tally:
        """Note what a shard holds, for the progress and the next run."""
        tally = Tally.of(content)
        self._write(f"{self._facts}/{name}.json", json.dumps(asdict(tally)).encode())
        return tally

    def sync(self, name: str) -> None:
        """Make sure that a shard is on the disk, if it is one of this machine, before its ids say that it is there."""
        if isinstance(self.filesystem, fs.LocalFileSystem):
            with open(f"{self.root}/{name}.jsonl", "rb") as file:
                os.fsync(file.fileno())

    def news(self) -> Tally:
        """Count the shards that were written since the last call."""
        tally = Tally()
        with self._explained():
            names = self._names(self._facts)
        for name in names:
            if name not in self._counted:
                with contextlib.suppress(OSError, ValueError):  # half written
                    tally.add(Tally(**json.loads(self._read(f"{self._facts}/{name}"))))
                    self._counted.add(name)
        return tally

    def died(self, key: str) -> int:
        """Note that work on a group begins, and return how often a worker has died of it."""
        with self._explained():
            before = sum(name.startswith(f"{key}-") for name in self._names(self._deaths))
            self._write(f"{self._deaths}/{key}-{uuid.uuid4().hex}", b"")
        return before

    def lived(self, key: str) -> None:
        """Note that work on a group has ended well."""
        with self._explained():
            for name in self._names(self._deaths):
                if name.startswith(f"{key}-"):
                    with contextlib.suppress(FileNotFoundError):
                        self.filesystem.delete_file(f"{self._deaths}/{name}")

    def finish(self) -> None:
        """Remove the lists, and what a run that has been stopped has written since."""
        self.sweep()
        with self._explained():
            for folder in (self.lists, self._deaths):
                self.filesystem.delete_dir_contents(folder)

    def _names(self, folder: str) -> list[str]:
        return [info.base_name for info in self._infos(folder) if info.type == fs.FileType.File]

    def _folders(self, folder: str) -> list[str]:
        return [info.base_name for info in self._infos(folder) if info.type == fs.FileType.Directory]

    def _infos(self, folder: str) -> list[fs.FileInfo]:
        return self.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))

    def _read(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(path) as file:
            return file.read()

    def _write(self, path: str, data: bytes) -> None:
        if isinstance(self.filesystem, fs.LocalFileSystem):
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # before the ids of a shard say that it is there
            return
        with self.filesystem.open_output_stream(path) as file:
            file.write(data)

    def _replace(self, path: str, data: bytes) -> None:
        """Write a file that is there whole or not at all; an object storage has no others."""
        if isinstance(self.filesystem, fs.LocalFileSystem):
            with replacing(path, shared=True) as partial:
                self._write(str(partial), data)
        else:
            self._write(path, data)
