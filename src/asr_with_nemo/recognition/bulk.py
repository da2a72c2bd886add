"""Transcripts of very many recordings: shards of JSON lines in a folder or an object storage, each recording once.

A shard is committed in two phases, as Ray Data's checkpoints are, whose files these are:

1. `.progress/ids/NAME.pending.parquet` gets the ids of its recordings;
2. `NAME.jsonl` is written;
3. the first is renamed to `NAME.parquet`.

Whatever dies, the next run deletes a shard whose ids are still pending, and leaves out the recordings whose ids are
committed. So it doesn't matter which engine wrote a shard: processes of this machine (`run_locally`) or a cluster
(`places.ray_cluster`).
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import pyarrow
from pyarrow import fs, parquet
from tqdm import tqdm

from asr_with_nemo.base.files import reason_of
from asr_with_nemo.base.processes import Workers
from asr_with_nemo.data import audio, object_storage
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.formats import json_row
from asr_with_nemo.recognition.recordings import Recording, clip_of, id_of, mean_seconds
from asr_with_nemo.recognition.transcripts import Sound, Transcript

_SHARD = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}-\d{6}")
"""The name of a shard, `Shards.name_of`."""
ID = "id"
"""The key of a recording's id in listings, shards and checkpoints."""
_SHARD_SECONDS, _SHARD_ROWS = 3600.0, 1_000
"""A shard has about so much sound, and no more recordings than this."""
_SHARES = 8  # shards that each worker gets at least, if there are recordings enough, so that all end at about one time
_ISOLATED, _GIVEN_UP = 2, 6
"""Deaths of a worker over a group, after which its recordings run one by one in a process each, or all ends."""
_OF_THE_MACHINE = ("allocate memory", "bad_alloc", "out of memory", "CUDA", "cuDNN", "CUBLAS")
"""Signs of an error of PyTorch or ONNX Runtime that isn't the recording's fault."""
_NAMED = 5  # failed recordings that are named at the end

Load = Callable[[], Callable[[Sequence[Sound]], Iterator[Transcript | InputError]]]
"""Loads a model in a worker and returns its `transcribe_each`."""


@dataclass
class Tally:
    """What shards hold.

    Attributes:
        recordings: their number, those that failed included.
        seconds: of sound.
        failed: recordings that can't be read or recognised.
        first: the errors of a few of them.
    """

    recordings: int = 0
    seconds: float = 0.0
    failed: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add what other shards hold."""
        self.recordings += other.recordings
        self.seconds += other.seconds
        self.failed += other.failed
        self.first = [*self.first, *other.first][:_NAMED]

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Tally":
        """Count the lines of a shard."""
        tally = cls()
        for line in lines:
            row = json.loads(line)
            error = [row["error"]] if "error" in row else []
            tally.add(cls(1, row.get("duration", 0.0), len(error), error))
        return tally


def _described(key: str, recording: Recording) -> str:
    """Return a line of a listing: the id, and the rest as JSON in a text, so that no engine guesses at types."""
    return json.dumps({ID: key, "recording": json.dumps([recording.name, clip_of(recording)])})


# --- The folder -------------------------------------------------------------------------------------------------------


class Shards:
    """A folder of shards and the notes on them, in `.progress`, for one run.

    Attributes:
        run: the name of this run, with which its shards' names begin.
        done: the ids of the recordings that are in committed shards.
        lost: committed shards that were missing or empty.
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
            self.done = self._read_ids()
            if self.lost:
                self.sweep()
            self.tally = self.news()

    def __getstate__(self) -> dict:
        """Leave out what only the main process needs, and can be large."""
        return self.__dict__ | {"done": set(), "_counted": set(), "tally": Tally()}

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
        if "settings.json" not in self._names(f"{self.root}/.progress"):
            self._write(note, settings.encode())
        elif (before := self._read(note).decode()) != settings:
            raise InputError(
                f"{self.place}: its shards were made with another model or other options ({before}; now {settings}); "
                "name another folder, or delete this one"
            )

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

    def _read_ids(self) -> set[str]:
        """Return the ids of all shards but those that are missing or empty: their recordings are to be done again."""
        found: set[str] = set()
        shards = {info.base_name.removesuffix(".jsonl") for info in self._infos(self.root) if info.size}
        for name in self._names(self.ids):
            if name.removesuffix(".parquet") not in shards:
                self.filesystem.delete_file(f"{self.ids}/{name}")
                self.lost += 1
                continue
            note = io.BytesIO(self._read(f"{self.ids}/{name}"))
            try:
                found.update(parquet.read_table(note)[ID].to_pylist())
            except (pyarrow.ArrowException, OSError, KeyError) as error:  # OSError: of what is in it
                raise InputError(
                    f"{self.place}/.progress/ids/{name}: is damaged ({error}); delete it, and its recordings "
                    "are done again"
                ) from error
        return found

    def check_run(self) -> None:
        """Raise InputError if another command has begun to write here."""
        if self._read(f"{self.root}/.progress/run").decode() != self.run:
            raise InputError(f"{self.place}: another command has begun to write here; this one ends")

    def write_lists(self, listed: Mapping[str, Recording], workers: int) -> list[str]:
        """Write the recordings that aren't done yet as lists, one for each shard to come, and return their paths.

        Args:
            listed: the recordings, by their ids.
            workers: that work at a time.
        """
        pending = [(key, one) for key, one in listed.items() if key not in self.done]
        mean = mean_seconds([one for _, one in pending])
        rows = min(_SHARD_ROWS, round(_SHARD_SECONDS / mean)) if mean else _SHARD_ROWS
        rows = max(1, min(rows, -(-len(pending) // (workers * _SHARES))))
        paths = []
        with self._explained():
            for first in range(0, len(pending), rows):
                paths.append(f"{self.lists}/{len(paths):06d}.jsonl")
                text = "".join(f"{_described(*one)}\n" for one in pending[first : first + rows])
                self._write(paths[-1], text.encode())
        return paths

    def read_list(self, path: str) -> list[dict[str, str]]:
        """Return the rows of a list."""
        with self._explained():
            return [json.loads(line) for line in self._read(path).splitlines()]

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
            self._write(f"{self.root}/{name}.jsonl", as_bytes(lines))
            self.write_facts(name, lines)
            self.filesystem.move(pending, f"{self.ids}/{name}.parquet")

    def write_facts(self, name: str, lines: Iterable[str]) -> None:
        """Note what a shard holds, for the progress and the next run."""
        self._write(f"{self._facts}/{name}.json", json.dumps(asdict(Tally.of(lines))).encode())

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


def as_bytes(lines: Iterable[str]) -> bytes:
    """Return the content of a shard."""
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


# --- A worker ---------------------------------------------------------------------------------------------------------


class Worker:
    """Transcribes groups of recordings in a process of its own.

    A recording that can't be read, or that kills the process, becomes a line with its error; the others are done.

    Args:
        load: loads the model, when there is something to do.
        shards: where deaths are noted; None where the process is a worker's own.
    """

    def __init__(self, load: Load, shards: Shards | None):
        self._load, self._shards, self._each = load, shards, None

    def lines(self, rows: Sequence[Mapping[str, str]]) -> list[str]:
        """Transcribe the rows of a list, and return a line of JSON for each.

        Raises:
            InputError: the model can't be loaded, or a worker has died again and again.
        """
        if self._shards is None:
            return self._transcribe(rows)
        key = rows[0][ID]
        deaths = self._shards.died(key)
        if deaths >= _GIVEN_UP:
            first = json.loads(rows[0]["recording"])[0]
            raise InputError(
                f"{self._shards.place}: workers have died {deaths} times over the {len(rows)} recordings from {first} "
                "on; look at the memory of the machines (fewer --workers need less)"
            )
        found = self._one_by_one(rows) if deaths >= _ISOLATED else self._transcribe(rows)
        self._shards.lived(key)
        return found

    def _transcribe(self, rows: Sequence[Mapping[str, str]]) -> list[str]:
        described = [json.loads(row["recording"]) for row in rows]
        with _passing(), tempfile.TemporaryDirectory(prefix="recordings-") as scratch:
            self._each = self._each or self._load()
            sounds, found, urls = [], {}, {}
            for place, (_, clip) in enumerate(described):
                try:
                    sounds.append((place, _local(audio.Clip(*clip), Path(scratch, str(place)), urls)))
                except InputError as error:
                    if not object_storage.is_missing(error):  # it may be there later, and so the shard isn't written
                        raise
                    found[place] = error
            heard = self._heard([sound for _, sound in sounds])
            found |= {place: one for (place, _), one in zip(sounds, heard, strict=True)}
        return [
            _line(row[ID], name, found[place], urls)
            for place, (row, (name, _)) in enumerate(zip(rows, described, strict=True))
        ]

    def _heard(self, sounds: list[Sound]) -> list[Transcript | Exception]:
        """Transcribe, and where that fails as a whole, recording by recording."""
        try:
            return list(self._each(sounds))
        except Exception as error:  # a recording may not stop the others
            if _passes(error):  # and what passes may not be held against it
                raise
            if len(sounds) == 1:
                return [error]
        return [self._heard([sound])[0] for sound in sounds]

    def _one_by_one(self, rows: Sequence[Mapping[str, str]]) -> list[str]:
        """Transcribe each recording in a child process, which may die of it."""
        found: list[str] = []
        pool = None
        try:
            for row in rows:
                pool = pool or self._loaded_pool()
                try:
                    found += pool.submit(_work, [row]).result()
                except BrokenProcessPool:
                    name = json.loads(row["recording"])[0]
                    found.append(_line(row[ID], name, InputError(f"{name}: crashes the decoder"), {}))
                    pool.shutdown(kill_workers=True)
                    pool = None
        finally:
            if pool:
                pool.shutdown(kill_workers=True)
        return found

    def _loaded_pool(self) -> Workers:
        """Return a child process that has loaded the model."""
        pool = _pool(1, self._load, None)
        try:
            pool.submit(_work, []).result()
        except BaseException as error:
            pool.shutdown(kill_workers=True)
            if isinstance(error, BrokenProcessPool):
                raise InputError(
                    f"{self._shards.place}: a worker died while it loaded the model ({error}); look at the memory of "
                    "the machine (fewer --workers need less), and give the same command again"
                ) from error
            raise
        return pool


@contextlib.contextmanager
def _passing() -> Iterator[None]:
    """Raise what passes, such as a full disk, as an InputError, so that it ends the work and not only a recording's."""
    try:
        yield
    except Exception as error:
        if not _passes(error):
            raise
        if isinstance(error, OSError):
            said = f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
        else:
            said = f"{str(error) or 'the memory is full'}; fewer --workers need less memory"
        raise InputError(f"{said}; what is written stays, and the same command goes on") from error


def _passes(error: Exception) -> bool:
    """Return whether the machine failed, and not a recording; PyTorch and ONNX Runtime have no types for it."""
    return isinstance(error, OSError | MemoryError) or any(sign in str(error) for sign in _OF_THE_MACHINE)


def _local(clip: audio.Clip, place: Path, urls: dict[str, str]) -> Sound:
    """Return a recording as it is read: a file of an object storage is copied to `place`."""
    path = clip.path
    if object_storage.is_remote(path):
        place = place.with_suffix(Path(path).suffix)
        object_storage.download(path, place)
        urls[str(place)] = path
        path = str(place)
    whole = not clip.offset and clip.duration is None and clip.channel is None
    return path if whole else audio.Clip(path, clip.offset, clip.duration, clip.channel)


def _line(key: str, name: str, heard: Transcript | Exception, urls: Mapping[str, str]) -> str:
    if isinstance(heard, Exception):
        said = str(heard) if isinstance(heard, InputError) else f"{name}: {type(heard).__name__}: {heard}"
        for local, url in urls.items():
            said = said.replace(local, url)
        return json.dumps({ID: key, "file": name, "error": said}, ensure_ascii=False)
    return json.dumps({ID: key} | json_row(name, heard), ensure_ascii=False)


# --- Processes of this machine ----------------------------------------------------------------------------------------

_worker: Worker | None = None  # of a child process


def _begin(load: Load, shards: Shards | None) -> None:
    global _worker
    _worker = Worker(load, shards)


def _work(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return _worker.lines(rows)


def _pool(workers: int, load: Load, shards: Shards | None) -> Workers:
    threads = {"OMP_NUM_THREADS": "1"} if workers > 1 or shards is None else {}
    return Workers(workers, _begin, (load, shards), threads or None)


def run_locally(shards: Shards, lists: Sequence[str], load: Load, workers: int) -> None:
    """Transcribe the recordings of lists in processes of this machine; each list becomes a shard.

    Args:
        shards: where to write.
        lists: by `Shards.write_lists`.
        load: loads the model; it is called in each process.
        workers: number of processes, of one thread each if they are several.

    Raises:
        InputError: a shard can't be written, the model can't be used, or processes die again and again.
    """
    waiting = list(enumerate(lists))[::-1]
    running: dict[Future, tuple[int, str, list]] = {}
    pool = _pool(workers, load, shards)
    try:
        while waiting or running:
            with contextlib.suppress(BrokenProcessPool):  # the futures say so, too
                while waiting and len(running) < 2 * workers:
                    number, path = waiting[-1]
                    rows = shards.read_list(path)
                    running[pool.submit(_work, rows)] = (number, path, rows)
                    waiting.pop()
            broken = not running
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                number, path, rows = running.pop(future)
                try:
                    lines = future.result()
                except BrokenProcessPool:
                    waiting.append((number, path))
                    broken = True
                    continue
                shards.write(number, [row[ID] for row in rows], lines)
            if broken:
                waiting += [(number, path) for number, path, _ in running.values()]
                running.clear()
                pool.shutdown(kill_workers=True)
                pool = _pool(workers, load, shards)
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise
    pool.shutdown()


# --- All of it --------------------------------------------------------------------------------------------------------


def transcribe(
    recordings: Sequence[Recording],
    shards: Shards,
    engine: Callable[[Shards, Sequence[str], Load], None],
    load: Load,
    workers: int,
    say: Callable[[str], object],
    progress: bool = True,
) -> Tally:
    """Transcribe the recordings that aren't in shards yet, and say how far it is in hours of sound.

    Args:
        recordings: all of them.
        shards: where to write.
        engine: `run_locally` or a cluster's, which turns each list into a shard.
        load: loads the model, in a worker.
        workers: that work at a time, by which the number of shards is chosen.
        say: called with lines about what is done.
        progress: whether to show a bar.

    Returns:
        what all shards hold, those of earlier runs included.

    Raises:
        InputError: by the engine.
    """
    listed = {id_of(one): one for one in recordings}  # what is named twice is done once
    lists, total = shards.write_lists(listed, workers), len(listed)
    if shards.lost:
        say(f"{shards.place}: {shards.lost:,} shards were missing or empty; their recordings are done again")
    if shards.done:
        said = f"{shards.tally.recordings:,} of {total:,} recordings were done before"
        say(f"{said} ({shards.tally.seconds / 3600:,.2f} hours)")
    if lists:
        with _watched(shards, total, progress):
            engine(shards, lists, load)
    shards.finish()
    shards.tally.add(shards.news())
    return shards.tally


@contextlib.contextmanager
def _watched(shards: Shards, total: int, progress: bool) -> Iterator[None]:
    """Show hours of sound and numbers of recordings on a bar, in the background, while shards appear."""
    ended, started = threading.Event(), shards.tally.seconds
    every = 1.0 if sys.stderr.isatty() else 30.0  # seconds

    def watch() -> None:
        form = "{n:.2f} h of sound in {elapsed}{postfix}"
        with tqdm(bar_format=form, disable=not progress, leave=False, mininterval=0, delay=1) as bar:
            while not ended.wait(every):
                with contextlib.suppress(OSError, InputError):  # of a storage; the engine reports it
                    shards.tally.add(shards.news())
                bar.set_postfix_str(f"{shards.tally.recordings:,} of {total:,} recordings", refresh=False)
                bar.n = (shards.tally.seconds - started) / 3600
                bar.refresh()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def local_engine(workers: int) -> Callable[[Shards, Sequence[str], Load], None]:
    """Return the engine of this machine's processes."""
    return partial(run_locally, workers=workers)
