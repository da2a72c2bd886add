"""Streaming recognition with an offline model: audio arrives in chunks, partial and final texts come while it does.

The course's networks see the audio on both sides of a letter, and the whole utterance where they normalise it (or
squeeze and excite). So audio isn't recognised chunk by chunk: every `interval`, the utterance so far is recognised
again from its start, and its text may change. Words on which two consecutive hypotheses agree are called stable. At a
pause the utterance is recognised once more, whole, as a file would be: that text is final. This costs more than a
network made for streaming, the more the longer the utterance is. During silence nothing is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.data import audio, pauses
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.transcripts import Transcript, Word

if TYPE_CHECKING:
    from asr_with_nemo.deployment.runtime import Search

INTERVAL = 0.16
"""Seconds of new audio after which an utterance is recognised again."""
_FRAME = 0.02
"""Seconds per frame in which the level is measured."""
LEAD = 0.5
"""Seconds of audio that are kept before an utterance."""
_TAIL = 0.3
"""Seconds after the last loud frame that are still recognised: weak sounds end there, and normalisation may see it."""
_LOUD = 12.0
"""dB above the noise floor from which on a frame may be speech."""
_MEMORY = 10.0
"""Seconds whose quietest frame is the noise floor."""
_SILENCE = -90.0
"""dB of full scale below which a frame is digital silence: a microphone that is off, or padding."""
PATIENCE = 1.5
"""Seconds without a letter that end an utterance in constant noise."""


@dataclass(frozen=True)
class Heard:
    """A hypothesis for the current utterance.

    Attributes:
        text: may change, unless it is `final`.
        words: of the text, in seconds from the start of the stream.
        stable: the number of leading words on which this hypothesis and the one before agree.
        start, end: of the recognised audio, in seconds from the start of the stream.
        final: whether the utterance is over, and this is its text.
    """

    text: str
    words: list[Word]
    stable: int
    start: float
    end: float
    final: bool


def checked_samples(samples: np.ndarray) -> np.ndarray:
    """Return samples, (t,), as float32.

    Raises:
        InputError: they have another shape or type, or aren't finite.
    """
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"{samples.dtype} samples of shape {samples.shape}; expected mono float samples, (t,)")
    if not np.isfinite(samples).all():
        raise InputError("samples that are not finite (NaN or infinite)")
    return samples.astype(np.float32)


class Listener:
    """Transcribes one audio stream.

    Attributes:
        latency: seconds of audio that arrive between two texts.
        about: the way it works, in words.

    Args:
        recognizer: several listeners may share one.
        search: beam search with a language model; by default decoding is greedy.
        interval: seconds of new audio after which the utterance is recognised again.
        pause: seconds of quiet that end an utterance.

    Raises:
        InputError: the interval or the pause isn't positive.
    """

    def __init__(
        self, recognizer: Recognizer, search: "Search | None" = None, interval: float = INTERVAL, pause: float = 0.6
    ):
        if interval <= 0 or pause <= 0:
            raise InputError(f"interval {interval}, pause {pause}: expected positive seconds")
        self.recognizer, self.search, self.pause, self.latency = recognizer, search, pause, interval
        self.about = (
            f"the model hears whole recordings: each utterance is recognised again every {interval:g} s, and its words "
            "may change until it ends"
        )
        self._rate = recognizer.sample_rate
        self._step = max(1, round(interval * self._rate))
        self._frame = round(_FRAME * self._rate)
        self._memory: list[float] = []  # levels of the last frames, in dB
        self._waiting = np.zeros(0, np.float32)  # less than a step of samples
        self._sound = np.zeros(0, np.float32)  # of the utterance, or of the silence before it
        self._start = 0  # samples of the stream before `_sound`
        self._loud_until = 0  # samples of `_sound`, up to the last loud frame; 0 without one
        self._recognised = 0  # samples of `_sound`
        self._heard = Transcript("", [], 0.0)

    def feed(self, samples: np.ndarray) -> Iterator[Heard]:
        """Take more audio, and yield the partial texts that changed, and the final ones.

        Args:
            samples: mono float samples, (t,), at the recogniser's rate, of any length.

        Raises:
            InputError: the samples have another shape or type, or aren't finite.
        """
        self._waiting = np.concatenate([self._waiting, checked_samples(samples)])
        while len(self._waiting) >= self._step:
            piece, self._waiting = self._waiting[: self._step], self._waiting[self._step :]
            yield from self._take(piece)

    def finish(self) -> Iterator[Heard]:
        """Recognise the rest of the stream, which has ended."""
        if len(self._waiting):
            rest, self._waiting = self._waiting, self._waiting[:0]
            yield from self._take(rest)
        if self._heard.words:
            yield self._end(len(self._sound))

    def _take(self, piece: np.ndarray) -> Iterator[Heard]:
        self._sound = np.concatenate([self._sound, piece])
        self._measure(piece)
        until = min(len(self._sound), self._loud_until + round(_TAIL * self._rate)) if self._loud_until else 0
        if until > self._recognised:
            before, self._heard = self._heard, self._recognise(until)
            if self._heard.text.strip() != before.text.strip():
                yield self._report(self._heard, _agreeing(before, self._heard), until)
        if not self._heard.words:
            self._drop(len(self._sound) - round(LEAD * self._rate))
            return
        last_letter = self._heard.words[-1].end * self._rate
        quiet = len(self._sound) - max(last_letter, self._loud_until)
        if quiet >= self.pause * self._rate or len(self._sound) - last_letter >= PATIENCE * self._rate:
            yield self._end(until)
        elif len(self._sound) >= pauses.WHOLE * self._rate:
            yield self._end(self._quietest())

    def _measure(self, piece: np.ndarray) -> None:
        """Measure the level of new frames, and find the last loud one."""
        first = (len(self._sound) - len(piece)) // self._frame * self._frame
        levels = 10 * np.log10(audio.frame_powers(self._sound[first:], self._frame) + 1e-12)
        self._memory = (self._memory + [level for level in levels.tolist() if level > _SILENCE])[
            -round(_MEMORY / _FRAME) :
        ]
        least = min(self._memory, default=0.0) + _LOUD
        for place in np.flatnonzero(levels > max(least, _SILENCE)):
            self._loud_until = first + (int(place) + 1) * self._frame

    def _recognise(self, until: int) -> Transcript:
        self._recognised = until
        return self.recognizer.recognise([self._sound[:until]], self.search)[0]

    def _end(self, until: int) -> Heard:
        """Return the final text of the utterance, which ends at this sample; the rest belongs to the next one."""
        heard = self._heard if until == self._recognised else self._recognise(until)
        report = self._report(heard, len(heard.words), until)
        self._drop(until)
        self._heard = Transcript("", [], 0.0)
        return replace(report, final=True)

    def _drop(self, samples: int) -> None:
        if samples > 0:
            self._sound = self._sound[samples:]
            self._start += samples
            self._loud_until = max(0, self._loud_until - samples)
            self._recognised = max(0, self._recognised - samples)

    def _quietest(self) -> int:
        """Return the sample at which to cut an utterance without a pause: the quietest place of its second half."""
        half = len(self._sound) // 2
        return half + audio.quietest_place(self._sound[half:], self._frame, 5)

    def _report(self, heard: Transcript, stable: int, until: int) -> Heard:
        start = self._start / self._rate
        words = [
            replace(word, start=round(start + word.start, 3), end=round(start + word.end, 3)) for word in heard.words
        ]
        return Heard(heard.text.strip(), words, stable, start, (self._start + until) / self._rate, final=False)


def _agreeing(one: Transcript, other: Transcript) -> int:
    """Return the number of leading words that two transcripts have in common."""
    pairs = zip(one.words, other.words, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].word == pair[1].word, pairs))
