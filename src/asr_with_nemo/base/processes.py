"""Worker processes."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing import resource_tracker

from joblib.externals.loky import ProcessPoolExecutor


class Workers(ProcessPoolExecutor):
    """joblib's executor, whose processes leave Ctrl-C to the one that started them: it ends them.

    A terminal sends Ctrl-C to all of them. It is blocked from their start on, so that they don't end with a traceback
    while they still import. (Windows can't block it.) Python's own executor either forks, which can hang if there are
    threads, as in a notebook, or runs the user's script again.
    """

    def submit(self, function: Callable, /, *arguments: object, **options: object) -> Future:
        """Run a function in a process; it starts the processes that are missing."""
        with _ctrl_c_waits():
            return super().submit(function, *arguments, **options)


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
