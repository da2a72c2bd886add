"""Live recognition: sound comes in pieces, and text comes while somebody speaks.

The course's networks look at the sound on both sides of a letter, and at the whole utterance when they normalise it (or
squeeze and excite). So nothing is heard piece by piece: every `interval` the utterance so far is heard again from its
start, and its text may change. Words that two such looks agree on are called stable. At a pause the utterance is heard
once more, whole, as a file would be: that text is final. It costs more than a network that was made for streams: the
longer an utterance, the more is heard again. While nobody speaks, nothing is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.data import audio
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.transcripts import WHOLE, Transcript, Word

if TYPE_CHECKING:
    from asr_with_nemo.recognition.beam import Search

FRAME = 0.02
"""Seconds over which loudness is measured."""
LEAD = 0.5
"""Seconds of sound that are kept before an utterance."""
TAIL = 0.3
"""Seconds after the last loud sound that are still heard: where weak sounds end, and what normalisation may see."""
LOUD = 12.0
"""dB above the quietest moment of late, from which on sound may be speech."""
MEMORY = 10.0
"""Seconds of that "of late"."""
SILENCE = -90.0
"""dB of full scale below which is no sound at all: a microphone that is off, or padding."""
PATIENCE = 1.5
"""Seconds without a letter that end an utterance in noise, where it never becomes quiet."""


@dataclass(frozen=True)
class Heard:
    """What was heard of an utterance up to now.

    Attributes:
        text: may change, unless it is `final`.
        words: of the text, in seconds from the start of the stream.
        stable: how many of the words two looks at the utterance agree on, from the first one on.
        start, end: of the sound that was looked at, in seconds from the start of the stream.
        final: the utterance is over, and this is its text.
    """

    text: str
    words: list[Word]
    stable: int
    start: float
    end: float
    final: bool


class Listener:
    """Listens to one stream of sound.

    Args:
        recognizer: does the hearing; several listeners may share one.
        search: a beam search with a language model; by default greedy.
        interval: seconds of new sound after which the utterance is heard again.
        pause: seconds of quiet that end an utterance.

    Raises:
        InputError: the interval or pause is not above zero.
    """

    def __init__(
        self, recognizer: Recognizer, search: "Search | None" = None, interval: float = 0.16, pause: float = 0.6
    ):
        if interval <= 0 or pause <= 0:
            raise InputError(f"interval {interval}, pause {pause}: expected seconds above zero")
        self.recognizer, self.search, self.pause = recognizer, search, pause
        self._rate = recognizer.sample_rate
        self._step = max(1, round(interval * self._rate))
        self._frame = round(FRAME * self._rate)
        self._memory: list[float] = []  # dB of the frames of late
        self._waiting = np.zeros(0, np.float32)  # less than a step
        self._sound = np.zeros(0, np.float32)  # of the utterance, or before it
        self._start = 0  # samples of the stream before `_sound`
        self._loud_until = 0  # samples of `_sound`; 0 where nothing in it is loud
        self._looked_at = 0  # samples of `_sound`
        self._heard = Transcript("", [], 0.0)

    def feed(self, samples: np.ndarray) -> Iterator[Heard]:
        """Take more sound, and say what came of it: partial texts where they changed, and final ones.

        Args:
            samples: mono float samples (t,) at the recogniser's rate, of any length.

        Raises:
            InputError: they aren't.
        """
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise InputError(f"{samples.dtype} samples of shape {samples.shape}; expected mono float samples, (t,)")
        if not np.isfinite(samples).all():
            raise InputError("samples that are no numbers (NaN or infinite)")
        self._waiting = np.concatenate([self._waiting, samples.astype(np.float32)])
        while len(self._waiting) >= self._step:
            piece, self._waiting = self._waiting[: self._step], self._waiting[self._step :]
            yield from self._take(piece)

    def finish(self) -> Iterator[Heard]:
        """The stream has ended: hear what is left."""
        if len(self._waiting):
            rest, self._waiting = self._waiting, self._waiting[:0]
            yield from self._take(rest)
        if self._heard.words:
            yield self._end(len(self._sound))

    def _take(self, piece: np.ndarray) -> Iterator[Heard]:
        self._sound = np.concatenate([self._sound, piece])
        self._measure(piece)
        until = min(len(self._sound), self._loud_until + round(TAIL * self._rate)) if self._loud_until else 0
        if until > self._looked_at:
            before, self._heard = self._heard, self._look(until)
            if self._heard.text != before.text:
                yield self._report(self._heard, _agreeing(before, self._heard), until)
        if not self._heard.words:
            self._drop(len(self._sound) - round(LEAD * self._rate))
            return
        last_letter = self._heard.words[-1].end * self._rate
        quiet = len(self._sound) - max(last_letter, self._loud_until)
        if quiet >= self.pause * self._rate or len(self._sound) - last_letter >= PATIENCE * self._rate:
            yield self._end(until)
        elif len(self._sound) >= WHOLE * self._rate:
            yield self._end(self._quietest())

    def _measure(self, piece: np.ndarray) -> None:
        """Find how far the sound is loud."""
        first = (len(self._sound) - len(piece)) // self._frame * self._frame
        levels = 10 * np.log10(audio.frame_powers(self._sound[first:], self._frame) + 1e-12)
        self._memory = (self._memory + [level for level in levels.tolist() if level > SILENCE])[
            -round(MEMORY / FRAME) :
        ]
        least = min(self._memory, default=0.0) + LOUD
        for place in np.flatnonzero(levels > max(least, SILENCE)):
            self._loud_until = first + (int(place) + 1) * self._frame

    def _look(self, until: int) -> Transcript:
        self._looked_at = until
        return self.recognizer.recognise([self._sound[:until]], self.search)[0]

    def _end(self, until: int) -> Heard:
        """The final text of the utterance, whose sound ends there; what follows belongs to the next."""
        heard = self._heard if until == self._looked_at else self._look(until)
        report = self._report(heard, len(heard.words), until)
        self._drop(until)
        self._heard = Transcript("", [], 0.0)
        return replace(report, final=True)

    def _drop(self, samples: int) -> None:
        if samples > 0:
            self._sound = self._sound[samples:]
            self._start += samples
            self._loud_until = max(0, self._loud_until - samples)
            self._looked_at = max(0, self._looked_at - samples)

    def _quietest(self) -> int:
        """Where to cut an utterance without a pause: in the quietest moment of its second half, in samples."""
        half = len(self._sound) // 2
        return half + audio.quietest_place(self._sound[half:], self._frame, 5)

    def _report(self, heard: Transcript, stable: int, until: int) -> Heard:
        start = self._start / self._rate
        words = [
            replace(word, start=round(start + word.start, 3), end=round(start + word.end, 3)) for word in heard.words
        ]
        return Heard(heard.text.strip(), words, stable, start, (self._start + until) / self._rate, final=False)


def _agreeing(one: Transcript, other: Transcript) -> int:
    """How many words two texts have in common from their start."""
    pairs = zip(one.words, other.words, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].word == pair[1].word, pairs))
