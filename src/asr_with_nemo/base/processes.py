"""Worker processes."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from multiprocessing import resource_tracker

from joblib.externals.loky import ProcessPoolExecutor


class Workers(ProcessPoolExecutor):
    """joblib's executor, whose processes leave Ctrl-C to the one that started them, and end when it is gone.

    A terminal sends Ctrl-C to all of them. It is blocked from their start on, so that they don't end with a traceback
    while they still import. (Windows can do neither.) Python's own executor either forks, which can hang if there are
    threads, as in a notebook, or runs the user's script again.

    Args:
        workers: number of processes.
        begin: called in each process before its first function.
        arguments: of `begin`.
        env: variables of the processes' environment, beside this process's.
    """

    def __init__(
        self,
        workers: int,
        begin: Callable | None = None,
        arguments: tuple = (),
        env: Mapping[str, str] | None = None,
    ):
        super().__init__(workers, initializer=_begin, initargs=(os.getpid(), begin, arguments), env=env)

    def submit(self, function: Callable, /, *arguments: object, **options: object) -> Future:
        """Run a function in a process; it starts the processes that are missing."""
        with _ctrl_c_waits():
            return super().submit(function, *arguments, **options)


def _begin(parent: int, begin: Callable | None, arguments: tuple) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if begin:
        begin(*arguments)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Let Ctrl-C wait, in this thread and for good in the processes that it starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # when it starts, with the first process, it lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
