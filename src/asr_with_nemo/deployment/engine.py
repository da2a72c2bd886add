"""Dynamic batching: segments of audio from all requests are recognised together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.data import pauses
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.recognition import transcripts
from asr_with_nemo.recognition.transcripts import Transcript

if TYPE_CHECKING:
    from asr_with_nemo.deployment.cache_aware import StreamingModel
    from asr_with_nemo.deployment.runtime import Search

BATCH = 8
"""The largest batch, in segments."""
_LENGTH_RATIO = 1.5
"""The longest segment of a batch is at most so many times as long as the first: the rest would be padding."""
_IN_FLIGHT = 8
"""Segments of one recording that are queued at a time, so that a long recording doesn't hold up the others."""


class Engine:
    """Recognises queued segments in batches of similar length. It belongs to the event loop that first uses it.

    Args:
        recognizer: with a single thread, since several batches are computed in parallel.
        search: beam search with a language model; by default decoding is greedy.
        threads: batches that are computed at the same time.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        recognizer: "Recognizer | StreamingModel",
        search: "Search | None",
        threads: int,
        observe: Callable[[int], None],
    ):
        self.recognizer, self.search, self.threads = recognizer, search, threads
        self._pool = ThreadPoolExecutor(threads, "recognise")
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[Transcript], Search | None]] = deque()
        self._running = 0
        self._observe = observe

    async def recognise(self, samples: np.ndarray, search: "Search | None" = None) -> Transcript:
        """Transcribe one segment, (t,), as soon as a thread is free; with a search of its own, or with the engine's."""
        future: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self._waiting.append((samples, future, search or self.search))
        self._go_on()
        return await future

    async def transcribe(self, samples: np.ndarray, search: "Search | None" = None) -> Transcript:
        """Transcribe a recording, (t,), of any length, as `recognise` does; long ones are cut at pauses."""
        rate = self.recognizer.sample_rate
        cut = await asyncio.to_thread(lambda: list(pauses.cut_at_pauses([samples], rate)))
        parts: list[Transcript] = []
        for first in range(0, len(cut), _IN_FLIGHT):
            segments = [segment for _, segment in cut[first : first + _IN_FLIGHT]]
            parts += await asyncio.gather(*(self.recognise(segment, search) for segment in segments))
        return transcripts.joined([(start, part) for (start, _), part in zip(cut, parts, strict=True)])

    @property
    def waiting(self) -> int:
        """The number of queued segments."""
        return len(self._waiting)

    def close(self) -> None:
        """Wait for the running batches."""
        self._pool.shutdown()

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        while self._running < self.threads and (batch := self._next()):
            self._running += 1
            self._observe(len(batch))
            work = loop.run_in_executor(
                self._pool, self.recognizer.recognise, [samples for samples, *_ in batch], batch[0][2]
            )
            work.add_done_callback(lambda work, batch=batch: self._done(work, batch))

    def _next(self) -> list[tuple[np.ndarray, asyncio.Future, "Search | None"]]:
        """Take the segment that has waited longest from the queue, and others of similar length with its search."""
        batch, others = [], deque()
        while self._waiting and len(batch) < BATCH:
            segment = self._waiting.popleft()
            if segment[1].done():  # its request has timed out
                continue
            size = len(batch[0][0]) if batch else len(segment[0])
            alike = max(size, len(segment[0])) <= _LENGTH_RATIO * min(size, len(segment[0]))
            alike = alike and (not batch or segment[2] is batch[0][2])
            (batch if alike else others).append(segment)
        self._waiting.extendleft(reversed(others))
        return batch

    def _done(self, work: asyncio.Future, batch: list[tuple[np.ndarray, asyncio.Future, "Search | None"]]) -> None:
        self._running -= 1
        error = work.exception()
        for number, (_, future, _) in enumerate(batch):
            if not future.done():
                if error:
                    future.set_exception(error)
                else:
                    future.set_result(work.result()[number])
        self._go_on()


class EngineRecognizer:
    """The engine with a recogniser's interface, for a `Listener` that runs in another thread.

    Args:
        engine: the engine.
        search: of this recogniser; by default the engine's.
    """

    def __init__(self, engine: Engine, search: "Search | None" = None):
        self.sample_rate = engine.recognizer.sample_rate
        self._engine, self._search, self._loop = engine, search, asyncio.get_running_loop()

    def recognise(self, batch: Sequence[np.ndarray], search: None = None) -> list[Transcript]:
        """As `Recognizer.recognise`; `search` is ignored, since this recogniser or the engine has its own."""
        work = (self._engine.recognise(one, self._search) for one in batch)
        futures = [asyncio.run_coroutine_threadsafe(one, self._loop) for one in work]
        return [future.result() for future in futures]
