"""Bulk work on a Ray cluster: lists of recordings go in, shards come out (`recognition.bulk`), by Ray Data.

Ray is an extra (`pip install .[ray]`), imported when it is used. Ray Data starts a worker for each core or GPU, starts
those of a machine that has died again elsewhere, and commits each shard in two phases (its checkpoint).
"""

import contextlib
import importlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import ModuleType

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import bulk
from asr_with_nemo.recognition.text_shards import ID, Shards, as_bytes

_TRIES = 3
_REACHED_WITHIN, _ANSWERS_WITHIN = 10, 60
"""Seconds for a cluster's port to open a connection, and for what listens there to answer as Ray does."""
_OBJECTS = 256 << 20
"""Bytes of the object store of a cluster that is started here: lists and texts are small."""
_LITTLE = 0.05
"""Of a core, for a task that writes a shard; a worker leaves twice as much of its core to such tasks."""
_LOCAL, _AUTO = "local", "auto"


@dataclass(frozen=True)
class Cluster:
    """A cluster to which this process is connected.

    Attributes:
        workers: that transcribe at a time.
        gpus: whether each has a GPU.
    """

    workers: int
    gpus: bool

    def run(self, shards: Shards, lists: Sequence[str], load: bulk.Load) -> None:
        """Transcribe the recordings of lists, each a shard: an engine of `bulk.transcribe`.

        Raises:
            InputError: the model can't be used, a shard can't be written, or the cluster fails.
        """
        data = _ray_data()
        context = data.DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.issue_detectors_config.detectors = []
        context.checkpoint_config = _checkpoint(shards)
        needed = {"num_cpus": 1 - 2 * _LITTLE} | ({"num_gpus": 1} if self.gpus else {})
        pool = data.ActorPoolStrategy(min_size=1, max_size=self.workers, max_tasks_in_flight_per_actor=2)
        with data.DataContext.current(context), _explained():
            rows = data.read_json(
                list(lists),
                filesystem=shards.filesystem,
                override_num_blocks=len(lists),  # a list, a block, a shard
                **needed,  # as for the workers, which then read the lists themselves
            )
            heard = rows.map_batches(
                _actor(),
                fn_constructor_args=(load, shards),
                batch_size=None,
                compute=pool,
                zero_copy_batch=False,
                **needed,
            )
            heard.write_datasink(_sink(shards), ray_remote_args={"num_cpus": _LITTLE}, concurrency=2)


@dataclass(frozen=True)
class _Task:
    """A function that runs on a cluster: what `own_data.recordings` uses of a future."""

    reference: object

    def done(self) -> bool:
        """Return whether it has ended."""
        return bool(_ray().wait([self.reference], timeout=0)[0])

    def result(self) -> object:
        """Wait for its result.

        Raises:
            BrokenProcessPool: its process dies whenever it runs.
            InputError: raised by the function; or the cluster fails.
        """
        from ray.exceptions import OutOfMemoryError, WorkerCrashedError

        with _explained():
            try:
                return _ray().get(self.reference)
            except (WorkerCrashedError, OutOfMemoryError) as error:
                crashed = BrokenProcessPool(str(error))
        raise crashed


class Pool:
    """Runs functions on a cluster, each on a core; Ray runs those of a machine that has died again elsewhere."""

    def __init__(self, workers: int = 1):
        """The cluster decides how many run at a time."""

    def submit(self, function: Callable, *arguments: object) -> _Task:
        """Run a function."""
        return _Task(_ray().remote(num_cpus=1, max_retries=2)(function).remote(*arguments))

    def shutdown(self, *, kill_workers: bool = False) -> None:
        """Do nothing: processes are the cluster's."""


# --- The connection ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def connected(
    address: str, workers: int | None = None, prefers_gpus: bool = False, say: Callable[[str], object] = print
) -> Iterator[Cluster]:
    """Connect to a cluster, and leave it at the end; one that was started for this ends then.

    Args:
        address: `local` (start one), `auto` (RAY_ADDRESS, or the one that this machine belongs to), or HOST:PORT.
        workers: that transcribe at a time; by default one per core, or per GPU if they are preferred and there are any.
        prefers_gpus: whether a worker gains by a GPU.
        say: called with a line about the cluster.

    Raises:
        InputError: Ray isn't installed or doesn't start, or the cluster can't be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to Ray's makers
    # A process starts in seconds; by default, one that is idle for a second is ended. For a cluster that starts here.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    ray = _ray()
    started = time.monotonic()
    with _silent():
        if address == _LOCAL:
            _start(ray, workers)
        else:
            _join(ray, address)
        yield from _led(ray, workers, prefers_gpus, started, say)


def _led(
    ray: ModuleType, workers: int | None, prefers_gpus: bool, started: float, say: Callable[[str], object]
) -> Iterator[Cluster]:
    try:
        found = ray.cluster_resources()
        gpus = bool(prefers_gpus and found.get("GPU"))
        workers = workers or max(1, int(found.get("GPU" if gpus else "CPU", 1)))
        machines = sum(node["Alive"] for node in ray.nodes())
        say(
            f"Ray {ray.__version__}: {machines} machine{'s' * (machines > 1)}, {found.get('CPU', 0):g} cores, "
            f"{found.get('GPU', 0):g} GPUs; {workers} worker{'s' * (workers > 1)} (ready in "
            f"{time.monotonic() - started:.0f} s)"
        )
        yield Cluster(workers, gpus)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep off the terminal what Ray's parts print, in C++ too; what this program says still gets there.

    Ray has the same in its log files, and what goes wrong is raised.
    """
    sys.stderr.flush()
    stderr, before = os.dup(2), sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        os.dup2(nothing.fileno(), 2)
        try:
            with open(stderr, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False) as said:
                sys.stderr = said
                yield
        finally:
            sys.stderr = before
            os.dup2(stderr, 2)
            os.close(stderr)


def _ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            f"--ray: Ray isn't installed ({error}); on each machine: pip install -e '.[ray]'. Without it, leave out "
            "--ray, and processes of this machine do the work"
        ) from error


def _ray_data() -> ModuleType:
    try:
        found = importlib.import_module("ray.data")
    except ImportError as error:
        raise InputError(f"--ray: Ray is there without its library Data ({error}); pip install -e '.[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return found


def _quiet() -> dict[str, object]:
    return {"log_to_driver": False, "logging_level": logging.ERROR}


def _start(ray: ModuleType, workers: int | None) -> None:
    """Start a cluster of this machine; on a busy one it may take several tries."""
    failed: list[str] = []
    while len(failed) < _TRIES:
        try:
            cores = max(1, workers or usable_cores())
            ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=_OBJECTS, **_quiet())
            return
        except Exception as error:  # Ray raises RuntimeError, ConnectionError, ValueError and its own
            failed.append((str(error).strip() or type(error).__name__).splitlines()[0])
            ray.shutdown()
    raise InputError(
        f"--ray {_LOCAL}: Ray didn't start in {_TRIES} tries ({'; '.join(dict.fromkeys(failed))}); on a busy machine "
        "its processes can miss their time limits: try again later, or without --ray. Its logs are in "
        f"{os.environ.get('RAY_TMPDIR', '/tmp')}/ray/session_latest/logs"
    )


def _join(ray: ModuleType, address: str) -> None:
    if address == _AUTO:
        address = os.environ.get("RAY_ADDRESS") or _AUTO
    if address != _AUTO:
        _check_address(address)
    try:
        ray.init(address, **_quiet())
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if address == _AUTO:
            raise InputError(
                f"--ray {_AUTO}: no cluster is known here ({reason}); start one with `ray start --head`, set "
                f"RAY_ADDRESS, or use --ray {_LOCAL}"
            ) from error
        raise InputError(
            f"--ray {address}: can't be joined ({reason}); this machine has to belong to the cluster: "
            f"`ray start --address={address}`"
        ) from error


def _check_address(address: str) -> None:
    """Make sure that Ray answers at an address; its own client would wait for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise InputError(
            f"--ray {address}: a URL of Ray's client isn't taken, since this command has to run on a machine of the "
            "cluster; give HOST:PORT of `ray start --head`, 6379 by default, or auto"
        )
    if not host or not port.isdecimal():
        raise InputError(f"--ray {address}: expected {_LOCAL}, {_AUTO} or HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.removeprefix("[").removesuffix("]"), int(port)), _REACHED_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--ray {address}: can't be reached ({error}); name the machine and port of `ray start --head`, 6379 by "
            "default"
        ) from error
    program = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWERS_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(
            f"--ray {address}: what listens there doesn't answer as Ray does, in {_ANSWERS_WITHIN} s; name the port of "
            "`ray start --head`, 6379 by default"
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise InputError(f"--ray {address}: isn't a Ray cluster that this Ray can use ({said})")


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raise what went wrong in a worker as an InputError, with the cause."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause: BaseException = error
        while (deeper := getattr(cause, "cause", None) or cause.__cause__) and deeper is not cause:
            cause = deeper
        if isinstance(cause, InputError):
            raise InputError(str(cause)) from error
        reason = next(
            (line for line in reversed(str(cause).strip().splitlines()) if line.strip()), type(cause).__name__
        )
        raise InputError(
            f"the cluster gave up ({type(cause).__name__}: {reason.strip()}); what is written stays, and the same "
            "command goes on. All machines need the same Python, Ray and course, and the same paths"
        ) from error


# --- What Ray Data is given -------------------------------------------------------------------------------------------


def _checkpoint(shards: Shards):
    """Return the checkpoint by which Ray commits shards; what is done is left out of the lists, so it loads nothing."""
    from ray.data.checkpoint import CheckpointConfig, CheckpointManager

    class Committed(CheckpointManager):
        def load_checkpoint(self, *_: object, **__: object) -> tuple[None, int]:
            return None, 0

    return CheckpointConfig(
        ID,
        shards.ids,
        delete_checkpoint_on_success=False,
        override_filesystem=shards.filesystem,
        checkpoint_manager_cls=Committed,
    )


def _actor() -> type:
    class Transcriber:
        """A worker of the cluster: a list in, the lines of a shard out."""

        def __init__(self, load: bulk.Load, shards: Shards):
            self._worker = bulk.Worker(load, shards)

        def __call__(self, batch: dict) -> dict:
            ids, described = batch[ID].tolist(), batch["recording"].tolist()
            rows = [{ID: key, "recording": one} for key, one in zip(ids, described, strict=True)]
            return {ID: ids, "line": self._worker.lines(rows)}

    return Transcriber


def _sink(shards: Shards):
    from ray.data.datasource import BlockBasedFileDatasink, FilenameProvider

    class Names(FilenameProvider):
        def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
            return f"{shards.name_of(task_index)}.jsonl"

    class Sink(BlockBasedFileDatasink):
        """Writes the lines as they are, unless another command has taken over."""

        def write_block_to_file(self, block, file) -> None:
            shards.check_run()
            file.write(as_bytes(block.to_arrow()["line"].to_pylist()))

        def write_block(self, block, block_index: int, ctx) -> None:
            super().write_block(block, block_index, ctx)
            name = self.filename_provider.get_filename_for_task("", ctx.task_idx).removesuffix(".jsonl")
            shards.sync(name)
            shards.write_facts(name, as_bytes(block.to_arrow()["line"].to_pylist()))

    return Sink(shards.root, filesystem=shards.filesystem, filename_provider=Names())
