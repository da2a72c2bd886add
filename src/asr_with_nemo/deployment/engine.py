"""Dynamic batching: pieces of audio from all requests are recognised together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.data import audio
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.recognition import transcripts
from asr_with_nemo.recognition.transcripts import Transcript

if TYPE_CHECKING:
    from asr_with_nemo.recognition.beam import Search

BATCH = 8
"""Pieces of sound that are computed together at most."""
UNLIKE = 1.5
"""How many times as long as another a piece in the same batch may be: the rest is padding."""
IN_FLIGHT = 8
"""Pieces of one recording that wait at a time, so that a long one doesn't keep the others waiting."""


class Engine:
    """Computes what waits, together where it is about as long. It belongs to the event loop that it is first used in.

    Args:
        recognizer: with one thread of its own, since several batches are computed beside each other.
        search: a beam search with a language model; by default greedy.
        threads: batches that are computed at a time.
    """

    def __init__(self, recognizer: Recognizer, search: "Search | None", threads: int, batches: Callable[[int], None]):
        self.recognizer, self.search, self.threads = recognizer, search, threads
        self._pool = ThreadPoolExecutor(threads, "recognise")
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[Transcript]]] = deque()
        self._running = 0
        self._tell = batches

    async def recognise(self, samples: np.ndarray) -> Transcript:
        """Transcribe one piece, (t,), as soon as a thread is free."""
        future: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self._waiting.append((samples, future))
        self._go_on()
        return await future

    async def transcribe(self, samples: np.ndarray) -> Transcript:
        """Transcribe a recording of any length, (t,)."""
        rate = self.recognizer.sample_rate
        sizes = transcripts.WHOLE, transcripts.LONGEST_PIECE, transcripts.SHORTEST_PIECE
        cut = await asyncio.to_thread(lambda: list(audio.cut_at_pauses([samples], rate, *sizes)))
        heard: list[Transcript] = []
        for first in range(0, len(cut), IN_FLIGHT):
            heard += await asyncio.gather(*(self.recognise(piece) for _, piece in cut[first : first + IN_FLIGHT]))
        return transcripts.joined([(start, one) for (start, _), one in zip(cut, heard, strict=True)])

    @property
    def waiting(self) -> int:
        """Pieces that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Wait until what is being computed is done."""
        self._pool.shutdown()

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        while self._running < self.threads and (batch := self._next()):
            self._running += 1
            self._tell(len(batch))
            work = loop.run_in_executor(
                self._pool, self.recognizer.recognise, [samples for samples, _ in batch], self.search
            )
            work.add_done_callback(lambda work, batch=batch: self._done(work, batch))

    def _next(self) -> list[tuple[np.ndarray, asyncio.Future]]:
        """The piece that has waited longest, and others of about its length."""
        batch, others = [], deque()
        while self._waiting and len(batch) < BATCH:
            piece = self._waiting.popleft()
            if piece[1].done():  # nobody waits for it any more
                continue
            size = len(batch[0][0]) if batch else len(piece[0])
            alike = max(size, len(piece[0])) <= UNLIKE * min(size, len(piece[0]))
            (batch if alike else others).append(piece)
        self._waiting.extendleft(reversed(others))
        return batch

    def _done(self, work: asyncio.Future, batch: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        self._running -= 1
        error = work.exception()
        for number, (_, future) in enumerate(batch):
            if not future.done():
                if error:
                    future.set_exception(error)
                else:
                    future.set_result(work.result()[number])
        self._go_on()


class EngineRecognizer:
    """The engine as a recogniser for `Listener`, which computes in a thread of its own."""

    def __init__(self, engine: Engine):
        self.sample_rate = engine.recognizer.sample_rate
        self._engine, self._loop = engine, asyncio.get_running_loop()

    def recognise(self, batch: Sequence[np.ndarray], search: None = None) -> list[Transcript]:
        futures = [asyncio.run_coroutine_threadsafe(self._engine.recognise(one), self._loop) for one in batch]
        return [future.result() for future in futures]
