"""The most likely path through the states of a text, by the rules of CTC (Viterbi), in a stream of any length.

A text's letters are states with a blank between them. Between utterances there may be gaps instead, in which the sound
belongs to no text, and from a gap a path may go to a later one, for a price: the texts between are not in the sound.
Only the states of a band are followed, and the path is settled some time after it was heard, so that neither time nor
memory grows with the product of sound and text. The method is that of L. Kürzinger et al., "CTC-Segmentation of Large
Corpora for German End-to-End Speech Recognition", 2020, with bands and prices in place of a table of the whole.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_STAY, _ADVANCE, _JUMP, _SKIP = range(4)


@dataclass(frozen=True)
class States:
    """The states of a text, S in their order.

    Attributes:
        columns: the column of the emissions that each state has, (S,).
        may_jump: whether a state may follow the one before the last, over a blank, (S,).
        gaps: the states that are gaps, (G,), in order.
        prices: of being in each gap without the texts before it, (G,), growing: from gap i to gap j it costs
            prices[j] - prices[i].
    """

    columns: np.ndarray
    may_jump: np.ndarray
    gaps: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    prices: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.columns)


def states_of(columns: Sequence[int], blank: int) -> States:
    """Return the states of one text without gaps: a blank before, between and after the letters."""
    states = np.full(2 * len(columns) + 1, blank)
    states[1::2] = columns
    may_jump = np.zeros(len(states), bool)
    may_jump[3::2] = states[3::2] != states[1:-2:2]
    return States(states, may_jump)


@dataclass(frozen=True)
class _Block:
    """What is kept of some frames, T, with a band of N states: from `low` on; the ways that led to them."""

    low: int
    ways: np.ndarray  # (T, N), int8
    sources: np.ndarray  # (T, gaps in the band): the gap that a path came from
    first_gap: int
    emissions: np.ndarray  # (T, columns)
    carried: tuple[int, int] | None  # a gap, and the one before the band from which a path came into it


class Search:
    """The search for the best path.

    Args:
        states: of the text.
        settled: frames after which a path is settled; None: at the end, as for a short recording.
    """

    def __init__(self, states: States, settled: int | None = None):
        self._states, self._settled = states, settled
        self._low, self._scores = 0, np.array([0.0])
        self._begun = False
        self._blocks: deque[_Block] = deque()
        self._waiting = 0  # frames

    @property
    def best(self) -> int:
        """The state in which the best path is."""
        return self._low + int(self._scores.argmax())

    def feed(self, emissions: np.ndarray, low: int, high: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Go on with the path.

        Args:
            emissions: log-probabilities, (T, columns).
            low, high: the band: the states to follow, and the one after them. Neither may be less than before.

        Returns:
            the parts of the path that are settled now, in order: states (T,), and their log-probabilities (T,).
        """
        carried = self._move(low, high)
        self._blocks.append(self._run(np.ascontiguousarray(emissions, np.float32), carried))
        self._waiting += len(emissions)
        found = []
        if self._settled is not None and self._waiting >= 2 * self._settled:
            path = self._trace(self.best)
            while self._waiting - len(self._blocks[0].ways) >= self._settled:
                found.append(self._settle(path))
        return found

    def finish(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """End the path, and return what wasn't settled: it ends in a gap or after an utterance, else with the text.

        A path that ends before the last gap pays for the texts after it.
        """
        states, high = self._states, self._low + len(self._scores)
        final = np.full(len(self._scores), -np.inf)
        ends = states.gaps if len(states.gaps) else np.array([len(states) - 1])
        prices = states.prices if len(states.gaps) else np.zeros(1)
        for back in (0, 1):
            inside = (ends - back >= self._low) & (ends - back < high)
            places = ends[inside] - back - self._low
            final[places] = self._scores[places] - (prices[-1] - prices[inside])
        path = self._trace(self._low + int(final.argmax()))
        found = []
        while self._blocks:
            found.append(self._settle(path))
        return found

    def _move(self, low: int, high: int) -> tuple[int, int] | None:
        """Move the band; the best path in a gap that leaves it skips to the lowest one in it, and both are returned."""
        top = self._low + len(self._scores)
        low, high = max(low, self._low), max(min(high, len(self._states)), top)
        low = min(low, high - 1)
        kept = self._scores[low - self._low :]
        scores = np.full(high - low, -np.inf)
        scores[: len(kept)] = kept
        gaps, prices, carried = self._states.gaps, self._states.prices, None
        first, after, to = np.searchsorted(gaps, [self._low, min(low, top), low])
        if self._begun and first < after and to < len(gaps) and gaps[to] < high:
            paid = self._scores[gaps[first:after] - self._low] + prices[first:after]
            best = int(paid.argmax())
            if paid[best] - prices[to] > scores[gaps[to] - low]:
                scores[gaps[to] - low] = paid[best] - prices[to]
                carried = int(gaps[to]), int(gaps[first + best])
        self._low, self._scores = low, scores
        return carried

    def _run(self, emissions: np.ndarray, carried: tuple[int, int] | None) -> _Block:
        """Follow the band through some frames."""
        states, low = self._states, self._low
        frames, size = len(emissions), len(self._scores)
        columns = states.columns[low : low + size]
        closed = np.where(states.may_jump[low : low + size], 0.0, -np.inf)[2:]
        first_gap, after_gap = np.searchsorted(states.gaps, [low, low + size])
        gaps, prices = states.gaps[first_gap:after_gap] - low, states.prices[first_gap:after_gap]
        numbers = np.arange(len(gaps))
        ways = np.zeros((frames, size), np.int8)
        sources = np.zeros((frames, len(gaps)), np.int32)
        scores, options = self._scores, np.full((3, size), -np.inf)
        for frame in range(frames):
            if not self._begun:  # at the first frame the path is in the first state, or in the first letter
                self._begun = True
                scores = np.where(np.arange(size) + low < 2, 0.0, -np.inf)
                if len(gaps):  # or the first texts are not in the sound
                    scores[gaps[0]] = max(scores[gaps[0]], states.prices[0] - prices[0])
            else:
                options[0] = scores
                options[1, 1:] = scores[:-1]
                np.add(scores[:-2], closed, out=options[2, 2:])
                ways[frame] = options.argmax(axis=0)
                before, scores = scores, options.max(axis=0)
                if len(gaps) > 1:
                    paid = before[gaps] + prices
                    best = np.maximum.accumulate(paid)
                    skipped = best - prices
                    better = skipped > scores[gaps]
                    if better.any():
                        came = np.maximum.accumulate(np.where(paid >= best, numbers, 0))
                        sources[frame] = came
                        scores[gaps[better]] = skipped[better]
                        ways[frame, gaps[better]] = _SKIP
            scores = scores + emissions[frame, columns]
        most = scores.max()
        self._scores = scores - most if np.isfinite(most) else scores
        return _Block(low, ways, sources, first_gap, emissions, carried)

    def _trace(self, state: int) -> deque[np.ndarray]:
        """Return the states of the best path to a state, block by block."""
        found: deque[np.ndarray] = deque()
        for block in reversed(self._blocks):
            path = np.empty(len(block.ways), np.int64)
            gaps = self._states.gaps
            for frame in range(len(path) - 1, -1, -1):
                path[frame] = state
                way = int(block.ways[frame, state - block.low])
                if way == _SKIP:
                    gap = int(np.searchsorted(gaps, state)) - block.first_gap
                    state = int(gaps[block.first_gap + block.sources[frame, gap]])
                else:
                    state -= way
            if block.carried and state == block.carried[0]:
                state = block.carried[1]
            found.appendleft(path)
        return found

    def _settle(self, path: deque[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the first block's part of the path, and forget the block."""
        block, states = self._blocks.popleft(), path.popleft()
        self._waiting -= len(block.ways)
        return states, block.emissions[np.arange(len(states)), self._states.columns[states]]


def best_path(emissions: np.ndarray, states: States) -> np.ndarray:
    """Return the best path through all states of a short text, (T,)."""
    search = Search(states)
    search.feed(emissions, 0, len(states))
    return np.concatenate([part for part, _ in search.finish()])
