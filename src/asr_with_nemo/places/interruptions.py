"""Signals that wait until a request to AWS has been answered."""

import signal
import threading
from collections.abc import Callable


class Interruptions:
    """Defers Ctrl-C, SIGTERM and SIGHUP until `check` or `wait` raises KeyboardInterrupt.

    A request that is cut off from its response may have started an instance whose id is lost.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._came = threading.Event()

    def __enter__(self) -> "Interruptions":
        def note(number: int, frame: object) -> None:
            if not self._came.is_set():
                self._say("interrupted: ending the instance ...")
            self._came.set()

        self._before = {number: signal.signal(number, note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self._came.is_set():
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> None:
        """Wait so many seconds, or raise KeyboardInterrupt as soon as a signal comes."""
        self._came.wait(seconds)
        self.check()
