"""CTC segmentation: where the texts of a long recording are spoken, and how well each fits.

The texts are one after the other in the recording, in their order; between them may be sound without text, and a text
that isn't in the sound is left out. The recording comes as a stream of the model's outputs, and of it only a few
minutes are kept.
"""

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from asr_with_nemo.recognition.trellis import Search, States

UNSPOKEN, UNWRITTEN = 2.0, 1.5
"""The price, in nats, of a letter that isn't in the sound, and of a frame of sound that isn't in the text.

Of a model with few errors, the letters of a wrong text cost 6 to 10 nats each, those of the right one less than 1.
"""
SLOW, BROKEN = 0.5, 4.0
"""The price of a second between the letters of a word, and of a pause between them: words are spoken in one go."""
_STEP = 0.5  # seconds after which the band moves
_AHEAD, _BEHIND = 3_000, 1_000  # states of the band before and after the best path, if the texts have no times
_SETTLED, _SETTLED_WITHOUT_TIMES = 60.0, 240.0  # seconds after which the path is settled


@dataclass(frozen=True)
class Text:
    """A text to find.

    Attributes:
        words: the columns of each word in the model's output; an empty word is one that the model can't write, for
            which any sound will do.
        earliest, latest: seconds between which it is searched.
        is_loose: whether sound that isn't in the text may be between its words, too.
    """

    words: Sequence[Sequence[int]]
    earliest: float = -math.inf
    latest: float = math.inf
    is_loose: bool = False


@dataclass(frozen=True)
class Output:
    """The model's output for a piece of a recording.

    Attributes:
        start: seconds from the start of the recording.
        log_probs: (T, V), the blank last; the pieces of a recording are separated by quiet.
    """

    start: float
    log_probs: np.ndarray


@dataclass(frozen=True)
class Found:
    """Where the words of a text, n, were found.

    Attributes:
        times: start and end of each word in seconds, (n, 2); NaN if the text wasn't found.
        costs: of each word with the sound up to the next one, in nats below the model's own best path, (n,).
        letters: that the model writes of each word, (n,); 0 for one that it can't write.
        strange: what sound without text before each word costs, in nats, (n,): 0 if it is quiet.
    """

    times: np.ndarray
    costs: np.ndarray
    letters: np.ndarray
    strange: np.ndarray

    @property
    def is_found(self) -> bool:
        """Whether the text was found."""
        return bool(len(self.times)) and bool(np.isfinite(self.times).all())

    @property
    def score(self) -> float:
        """How well text and sound fit, from 0 to 1: 1 if the text is what the model itself writes.

        It is the probability of the text divided by that of the model's own best path, as a mean over the letters
        (geometric). 0 if the text wasn't found.
        """
        letters = int(self.letters.sum())
        cost = float(self.costs[self.letters > 0].sum())
        return math.exp(-cost / letters) if letters and self.is_found else 0.0


class Segmenter:
    """Finds texts in recordings.

    Args:
        seconds: frame length of the model's output.
        blank: its last column.
        separator: the columns of what stands between words: the space, of a model of letters.
    """

    def __init__(self, seconds: float, blank: int, separator: Sequence[int] = ()):
        self._seconds, self._blank, self._separator = seconds, blank, tuple(separator)

    def align(self, texts: Sequence[Text], outputs: Iterable[Output]) -> list[Found]:
        """Find the texts of one recording.

        Args:
            texts: in the order in which they are spoken.
            outputs: of the recording.
        """
        layout = _layout(texts, self._separator, self._blank)
        timed = any(math.isfinite(text.latest) for text in texts)
        settled = round((_SETTLED if timed else _SETTLED_WITHOUT_TIMES) / self._seconds)
        search = Search(layout.states, settled)
        band = _band_of_times(texts, layout) if timed else _band_of_best(search, layout)
        times: deque[np.ndarray] = deque()  # of the frames that aren't settled
        ledger = _Ledger(layout, self._seconds)
        for start, frames in self._steps(outputs):
            low, high = band(start)
            times.append(start + np.arange(len(frames)) * self._seconds)
            ledger.add(search.feed(frames, low, high), times)
        ledger.add(search.finish(), times)
        return list(ledger.found())

    def _steps(self, outputs: Iterable[Output]) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the emissions in short steps, each with its start in seconds: relative to each frame's best column.

        The columns are the model's, one for any sound, and one for the blank within a word.
        """
        step = max(1, round(_STEP / self._seconds))
        for output in outputs:
            size = output.log_probs.shape[1]
            quiet = np.full((1, size + 2), -math.inf, np.float32)
            quiet[0, self._blank :] = 0.0, 0.0, -BROKEN
            yield output.start, quiet
            relative = output.log_probs - output.log_probs.max(axis=1, keepdims=True)
            free = relative[:, [self._blank, *self._separator]].max(axis=1, keepdims=True)
            inside = relative[:, [self._blank]] - SLOW * self._seconds
            emissions = np.concatenate([relative, np.maximum(free, -UNWRITTEN), inside], axis=1)
            for first in range(0, len(emissions), step):
                yield output.start + first * self._seconds, emissions[first : first + step]


# --- States -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """The states of texts: a gap, the states of a text, a gap ...

    Attributes:
        states: all of them, S.
        words: the number of the word that each state belongs to, (S,), from 0; a gap before word w has -1 - w.
        spoken: whether a state is a letter of its word, (S,).
        first_words: the number of each text's first word, and the number of words, (texts + 1,).
        letters: that are written of each word, (words,).
    """

    states: States
    words: np.ndarray
    spoken: np.ndarray
    first_words: np.ndarray
    letters: np.ndarray


def _layout(texts: Sequence[Text], separator: Sequence[int], blank: int) -> _Layout:
    any_sound, inside = blank + 1, blank + 2
    columns, words, spoken, gaps = array("i"), array("i"), bytearray(), array("q")
    letters, first_words = array("i"), array("q", [0])

    def add(column: int, word: int, is_spoken: bool) -> None:
        columns.append(column)
        words.append(word)
        spoken.append(is_spoken)

    for text in texts:
        gaps.append(len(columns))
        for place, word in enumerate(text.words):
            number = len(letters)
            if place == 0 or text.is_loose:
                add(any_sound, -1 - number, False)
            else:
                add(blank, number - 1, False)
                for column in separator:
                    add(column, number - 1, False)
                    add(blank, number - 1, False)
            for at, column in enumerate(word or (any_sound,)):
                if at:
                    add(inside, number, False)
                add(column, number, True)
            letters.append(len(word))
        first_words.append(len(letters))
    gaps.append(len(columns))
    add(any_sound, -1 - len(letters), False)
    states, numbers = np.array(columns, np.int32), np.array(letters)
    may_jump = np.zeros(len(states), bool)
    may_jump[2:] = (states[2:] != states[:-2]) & (states[2:] != blank) & (states[2:] != inside)
    numbers_of = np.array(words)
    may_jump[numbers_of < 0] = False
    firsts = np.array(first_words)
    of_texts = np.concatenate([[0], np.cumsum(numbers)])[firsts]  # letters before each text
    prices = UNSPOKEN * (of_texts + np.arange(len(of_texts)))
    return _Layout(
        States(states, may_jump, np.array(gaps), prices), numbers_of, np.array(spoken, bool), firsts, numbers
    )


def _band_of_times(texts: Sequence[Text], layout: _Layout) -> Callable[[float], tuple[int, int]]:
    """Return a function from the time to the band: the texts that may be spoken then."""
    # The band never goes back, whatever the order of the times.
    opens = np.minimum.accumulate([text.earliest for text in texts][::-1])[::-1]
    closes = np.maximum.accumulate([text.latest for text in texts])

    def band(time: float) -> tuple[int, int]:
        first = int(np.searchsorted(closes, time))
        after = max(int(np.searchsorted(opens, time, side="right")), first)
        return int(layout.states.gaps[first]), int(layout.states.gaps[after]) + 1

    return band


def _band_of_best(search: Search, layout: _Layout) -> Callable[[float], tuple[int, int]]:
    """Return a function that gives the band around the best path."""

    def band(time: float) -> tuple[int, int]:
        best = search.best
        return max(0, best - _BEHIND), min(len(layout.states), best + _AHEAD)

    return band


# --- Settled paths ----------------------------------------------------------------------------------------------------


class _Ledger:
    """Adds up the path that is settled: times and costs of words, costs of gaps."""

    def __init__(self, layout: _Layout, seconds: float):
        self._layout, self._seconds = layout, seconds
        words = len(layout.letters)
        self._starts, self._ends = np.full(words, np.inf), np.full(words, -np.inf)
        self._costs = np.zeros(2 * words + 1)  # those of the gaps from behind

    def add(self, settled: list[tuple[np.ndarray, np.ndarray]], times: deque[np.ndarray]) -> None:
        """Add parts of the path, and remove their frames' times from those that wait."""
        for path, values in settled:
            at, words = times.popleft(), self._layout.words[path]
            inside = self._layout.spoken[path]
            np.minimum.at(self._starts, words[inside], at[inside])
            np.maximum.at(self._ends, words[inside], at[inside] + self._seconds)
            np.subtract.at(self._costs, words, values)

    def found(self) -> Iterator[Found]:
        """Yield what was found of each text."""
        strange = self._costs[::-1]
        for first, after in pairwise(self._layout.first_words.tolist()):
            times = np.stack([self._starts[first:after], self._ends[first:after]], axis=1)
            if not np.isfinite(times).all():
                times = np.full_like(times, np.nan)
            costs, letters = self._costs[first:after], self._layout.letters[first:after]
            yield Found(times, costs, letters, strange[first:after])
