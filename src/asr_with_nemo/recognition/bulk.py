"""Transcripts of very many recordings, written as shards of JSON lines (`text_shards`), each recording once.

The work is done by processes of this machine (`run_locally`) or a cluster (`places.ray_cluster`): an engine gets lists
of recordings and turns each into a shard. A recording that can't be read, or that kills its worker, costs no other one.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from tqdm import tqdm

from asr_with_nemo.base.files import reason_of
from asr_with_nemo.base.processes import Workers
from asr_with_nemo.base.threads import every
from asr_with_nemo.data import audio, object_storage
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.formats import json_row
from asr_with_nemo.recognition.recordings import Recording
from asr_with_nemo.recognition.text_shards import ID, Shards, Tally
from asr_with_nemo.recognition.transcripts import Sound, Transcript

_ISOLATED, _GIVEN_UP = 2, 6
"""Deaths of a worker over a group, after which its recordings run one by one in a process each, or all ends."""
_SAMPLED, _TRIED = 100, 10
"""Recordings of the lists among which others of a bucket are looked for, and those of them that are tried."""
_OF_THE_MACHINE = ("allocate memory", "bad_alloc", "out of memory", "CUDA", "cuDNN", "CUBLAS")
"""Signs of an error of PyTorch or ONNX Runtime that isn't the recording's fault."""

Load = Callable[[], Callable[[Sequence[Sound]], Iterator[Transcript | InputError]]]
"""Loads a model in a worker and returns its `transcribe_each`."""


# --- A worker ---------------------------------------------------------------------------------------------------------


class Worker:
    """Transcribes groups of recordings in a process of its own.

    A recording that can't be read, or that kills the process, becomes a line with its error; the others are done.

    Args:
        load: loads the model, when there is something to do.
        shards: where deaths are noted, and the lists are.
        is_child: whether the process is a worker's own, which notes its death.
    """

    def __init__(self, load: Load, shards: Shards, is_child: bool = False):
        self._load, self._shards, self._is_child, self._each = load, shards, is_child, None
        self._read: dict[str, str] = {}  # by bucket, the URL of the recording that was copied from it last

    def lines(self, rows: Sequence[Mapping[str, str]]) -> list[str]:
        """Transcribe the rows of a list, and return a line of JSON for each.

        Raises:
            InputError: the model can't be loaded, or a worker has died again and again.
        """
        if self._is_child:
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
            sounds, found, refused, urls = [], {}, {}, {}
            for place, (_, clip) in enumerate(described):
                try:
                    sounds.append((place, _local(audio.Clip(*clip), Path(scratch, str(place)), urls)))
                except InputError as error:
                    if object_storage.is_refused(error):
                        refused[place] = error
                    elif object_storage.is_missing(error):
                        found[place] = error
                    else:  # it may be there later, and so the shard isn't written
                        raise
            self._read |= {object_storage.bucket_of(url): url for url in urls.values()}
            if refused:
                self._check_access({described[place][1][0]: error for place, error in refused.items()})
                found |= refused
            heard = self._heard([sound for _, sound in sounds])
            found |= {place: one for (place, _), one in zip(sounds, heard, strict=True)}
        return [
            _line(row[ID], name, found[place], urls)
            for place, (row, (name, _)) in enumerate(zip(rows, described, strict=True))
        ]

    def _check_access(self, refused: Mapping[str, InputError]) -> None:
        """Make sure that the storage refuses some objects only: credentials that have ended are no recording's fault.

        A bucket is in order if it gives another recording: the one that was read last, or one of the lists'. Where
        there is no other one, it is if the folder's names can be listed.

        Args:
            refused: errors by their objects' URLs.

        Raises:
            InputError: a bucket isn't in order.
        """
        for bucket, url in {object_storage.bucket_of(url): url for url in refused}.items():
            others = [self._read[bucket]] if bucket in self._read else self._others(bucket, refused)
            readable = next(filter(object_storage.is_readable, others), None)
            if readable:
                self._read[bucket] = readable
            elif others:
                raise InputError(
                    f"{refused[url]}. None of {len(others)} other recording(s) of its bucket that were tried can be "
                    "read now; what is written stays, and the same command goes on"
                ) from refused[url]
            else:
                next(object_storage.files_below(url.rpartition("/")[0]), None)

    def _others(self, bucket: str, known: Container[str]) -> list[str]:
        """Return the URLs of a few recordings of a bucket that the lists name, without known ones."""
        named = (json.loads(row["recording"])[1][0] for row in self._shards.some_rows(_SAMPLED))
        urls = [url for url in dict.fromkeys(named) if url.startswith(f"{bucket}/") and url not in known]
        return urls[:: max(1, len(urls) // _TRIED)][:_TRIED]

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
        pool = _pool(1, self._load, self._shards, are_children=True)
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


def _begin(*given: object) -> None:
    global _worker
    _worker = Worker(*given)


def _work(rows: Sequence[Mapping[str, str]]) -> list[str]:
    return _worker.lines(rows)


def _pool(workers: int, load: Load, shards: Shards, are_children: bool = False) -> Workers:
    threads = {"OMP_NUM_THREADS": "1"} if workers > 1 or are_children else {}
    return Workers(workers, _begin, (load, shards, are_children), threads or None)


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
    pending, total = shards.pending(recordings)
    lists, before = shards.write_lists(recordings, pending, workers), total - len(pending)
    if shards.lost:
        say(f"{shards.place}: {shards.lost:,} shards were missing or cut short; their recordings are done again")
    if before:
        others = shards.tally.recordings - before
        said = f"{before:,} of {total:,} recordings were done before"
        said += f", and {others:,} others" if others > 0 else ""
        say(f"{said} ({shards.tally.seconds / 3600:,.2f} hours)")
    if lists:
        with _watched(shards, total, before, progress):
            engine(shards, lists, load)
    shards.finish()
    shards.tally.add(shards.news())
    return shards.tally


@contextlib.contextmanager
def _watched(shards: Shards, total: int, before: int, progress: bool) -> Iterator[None]:
    """Show hours of sound and numbers of recordings on a bar, in the background, while shards appear."""
    started, others = shards.tally.seconds, shards.tally.recordings - before
    form = "{n:.2f} h of sound in {elapsed}{postfix}"
    bar = tqdm(bar_format=form, disable=not progress, leave=False, mininterval=0, delay=1)

    def show() -> None:
        with contextlib.suppress(OSError, InputError):  # of a storage; the engine reports it
            shards.tally.add(shards.news())
        bar.set_postfix_str(f"{shards.tally.recordings - others:,} of {total:,} recordings", refresh=False)
        bar.n = (shards.tally.seconds - started) / 3600
        bar.refresh()

    with bar, every(1.0 if sys.stderr.isatty() else 30.0, show):
        yield


def local_engine(workers: int) -> Callable[[Shards, Sequence[str], Load], None]:
    """Return the engine of this machine's processes."""
    return partial(run_locally, workers=workers)
