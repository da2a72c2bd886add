"""The greedy search of a transducer, RNN-T or TDT, with NumPy; its networks are those of an exported file, or others.

Label looping (Bataev et al., 2024, arXiv:2406.06220): the joint network looks through the frames until it chooses a
letter or piece; then the prediction network reads it, once for all recordings of the batch. Here the joint network gets
several frames at once, since up to the next letter or piece its other input stays the same.

Words and phrases can be boosted (`BoostedGreedy`), as NeMo's `greedy_batch` does it with a boosting tree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnxruntime

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import boosting
from asr_with_nemo.recognition.spelling import Spelling

_AT_ONCE = 0.24
"""Seconds of frames that the joint network gets at once."""
MOST_SYMBOLS = 100
"""The most letters or pieces in one frame, so that the search of any model ends."""


class Choice(NamedTuple):
    """A letter or piece that was written, by its column, at which frame, for how many frames, and its probability."""

    column: int
    frame: int
    frames: int
    probability: float


@dataclass
class Memory:
    """Where a search has got to in each recording of a batch, from which it goes on with the next frames.

    Attributes:
        predicted: what the prediction network gives the joint network, (B, H).
        states: of the prediction network, (B, S).
        ahead: frames of the next ones that each recording leaves out.
        here: the letters or pieces that each has written in its current frame.
    """

    predicted: np.ndarray
    states: np.ndarray
    ahead: list[int]
    here: list[int]


class BoostedGreedy:
    """The words and phrases that a greedy search prefers, each with a bonus for its letters or pieces.

    Whether something is written at a frame, the transducer alone decides; the bonuses only decide what. So however
    large they are, they write nothing into silence. It may be used from several threads at once.

    Attributes:
        labels: the model's letters or pieces, in the order of its outputs.
        spelling: how the pieces are written; None for letters.
        boosts: bonus for each of the words or phrases, in natural logs.
        start: the state before the first letter or piece.

    Raises:
        InputError: the model can't write a phrase.
    """

    def __init__(self, labels: Sequence[str], spelling: Spelling | None, boosts: boosting.Phrases):
        self.labels, self.spelling = labels, spelling
        self.boosts = boosting.weighted(boosts, boosting.TRANSDUCER_WEIGHT)
        self._tree = boosting.tree_of(self.boosts, labels, spelling.columns if spelling else None)
        self._bonuses: dict[int, np.ndarray] = {}
        self.start = self._tree.start

    def __str__(self) -> str:
        return f"greedy{boosting.described(self.boosts)}"

    def with_boosts(self, boosts: boosting.Phrases) -> "BoostedGreedy":
        """Return the search with other boosts.

        Raises:
            InputError: the model can't write a phrase.
        """
        return BoostedGreedy(self.labels, self.spelling, boosts)

    def after(self, state: int, column: int) -> int:
        """Return the state after a letter or piece."""
        return self._tree.step(state, column)[0]

    def choose(
        self, states: Sequence[int], labels: np.ndarray, probabilities: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose again what is written, with the bonuses; where the blank was chosen, it stays.

        Args:
            states: of the recordings, (N,).
            labels, probabilities: what the joint network chose at each frame, (N, K).
            scores: of all labels and the blank, (N, K, V + 1).

        Returns:
            the labels, and their probabilities without the bonuses, (N, K) each.
        """
        rows, frames = np.nonzero(labels < len(self.labels))
        before, scores = labels[rows, frames], scores[rows, frames]  # (M,), (M, V + 1)
        bonuses = np.stack([self._bonus(state) for state in states])  # (N, V)
        best = (scores[:, :-1] + bonuses[rows]).argmax(1)
        labels, probabilities, each = labels.copy(), probabilities.copy(), np.arange(len(best))
        labels[rows, frames] = best
        probabilities[rows, frames] *= np.exp(scores[each, best] - scores[each, before])
        return labels, probabilities

    def _bonus(self, state: int) -> np.ndarray:
        """Return the bonus of each letter or piece, (V,)."""
        if state not in self._bonuses:
            self._bonuses[state] = self._tree.changes(state, len(self.labels))
        return self._bonuses[state]


class Transducer:
    """The prediction and joint networks of a transducer, and its greedy search.

    It may be used from several threads at once, if its networks may.

    Args:
        predict: the prediction network, from labels (N,) and states (N, S) to the joint network's input (N, H) and
            states; the first label is the blank, the first state zeros.
        choose: the joint network, from frames (N, K, H) and the prediction network's output (N, H) to labels,
            probabilities and, by TDT, indexes of durations, (N, K) each.
        size: S.
        blank: the label of the blank, after all letters or pieces.
        durations: in frames, from which TDT chooses; empty for RNN-T.
        most_symbols: the most letters or pieces in one frame.
        seconds: frame length.
        score: as `choose`, with the scores of all labels and the blank behind, (N, K, V + 1), for boosts; None if the
            joint network gives none.
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]],
        choose: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]],
        size: int,
        blank: int,
        durations: Sequence[int],
        most_symbols: int,
        seconds: float,
        score: Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]] | None = None,
    ):
        self.predict, self.choose, self.blank, self.durations = predict, choose, blank, tuple(durations)
        self.most_symbols, self.score, self._size = most_symbols, score, size
        self._window = np.arange(max(1, round(_AT_ONCE / seconds)))

    def start(self, batch: int) -> Memory:
        """Return the memory of recordings of which nothing has been heard."""
        labels, states = np.full(batch, self.blank), np.zeros((batch, self._size), np.float32)
        return Memory(*self.predict(labels, states), [0] * batch, [0] * batch)

    def search(
        self,
        encoded: np.ndarray,
        frames: Sequence[int],
        memory: Memory | None = None,
        boosted: BoostedGreedy | None = None,
    ) -> list[list[Choice]]:
        """Return what is written for each recording of a batch.

        Args:
            encoded: the encoder's output for the joint network, (B, T, H).
            frames: the number of valid frames of each recording, (B,).
            memory: of the frames before, which is brought up to date; by default these are the first.
            boosted: words and phrases to prefer, in whole recordings; needs `score`.

        Raises:
            InputError: the networks choose labels or durations that the model doesn't have.
        """
        goes_on, memory = memory is not None, memory or self.start(len(frames))
        phrase = boosted.start if boosted else 0
        places = zip(range(len(frames)), frames, memory.ahead, memory.here, strict=True)
        rows = [_Row(*place, phrase=phrase) for place in places]
        active = [row for row in rows if row.frame < row.end]
        while active:
            searching = active
            while searching:
                choices = self._choices(encoded, memory.predicted, searching, boosted)
                searching = [
                    row for row, *ahead in zip(searching, *choices, strict=True) if not self._found(row, *ahead)
                ]
            fresh = [row for row in active if row.is_fresh]
            active = [row for row in fresh if row.frame < row.end]
            if reading := fresh if goes_on else active:
                places, labels = [row.place for row in reading], [row.written[-1].column for row in reading]
                predicted, states = self.predict(np.array(labels), memory.states[places])
                memory.predicted[places], memory.states[places] = predicted, states
            for row in fresh:
                row.is_fresh = False
                if boosted:
                    row.phrase = boosted.after(row.phrase, row.written[-1].column)
        memory.ahead = [max(0, row.frame - row.end) for row in rows]
        memory.here = [row.here for row in rows]
        return [row.written for row in rows]

    def _choices(
        self, encoded: np.ndarray, predicted: np.ndarray, rows: Sequence["_Row"], boosted: BoostedGreedy | None
    ) -> list[list[list]]:
        """Return labels, probabilities and durations of the next frames of each row, K each."""
        places = np.array([row.place for row in rows])
        frames = np.minimum(np.array([row.frame for row in rows])[:, None] + self._window, encoded.shape[1] - 1)
        inputs = encoded[places[:, None], frames], predicted[places]
        if boosted:
            labels, probabilities, *indexes, scores = self.score(*inputs)
        else:
            (labels, probabilities, *indexes), scores = self.choose(*inputs), None
        if (
            labels.min() < 0
            or labels.max() > self.blank
            or (indexes and (indexes[0].min() < 0 or indexes[0].max() >= len(self.durations)))
            or (scores is not None and scores.shape != (*labels.shape, self.blank + 1))
        ):
            raise InputError("the decoder chooses what the model doesn't have; make it again: scripts/export.py")
        if boosted:
            labels, probabilities = boosted.choose([row.phrase for row in rows], labels, probabilities, scores)
        durations = np.array(self.durations)[indexes[0]] if self.durations else np.zeros_like(labels)
        return [labels.tolist(), probabilities.tolist(), durations.tolist()]

    def _found(self, row: "_Row", labels: list[int], probabilities: list[float], durations: list[int]) -> bool:
        """Go through the frames up to the next letter or piece, or to the last; return whether there are no more."""
        first = row.frame
        while row.frame < row.end and (place := row.frame - first) < len(labels):
            ahead = durations[place]
            if labels[place] == self.blank:
                row.frame, row.here = row.frame + max(1, ahead), 0
                continue
            # By RNN-T, the length of a letter or piece isn't known; it counts as one frame.
            frames = ahead if self.durations else 1
            row.written.append(Choice(labels[place], row.frame, frames, probabilities[place]))
            row.here = 0 if ahead else row.here + 1
            if row.here >= self.most_symbols:
                ahead, row.here = 1, 0
            row.frame, row.is_fresh = row.frame + ahead, True
            return True
        return row.frame >= row.end


@dataclass
class _Row:
    """A recording of a batch: its place, its number of frames, and how far the search is.

    Attributes:
        frame: the current one.
        here: the letters or pieces that were written in it.
        is_fresh: whether the last one has still to be read by the prediction network.
        written: so far.
        phrase: the state of the boosted phrases after what was written.
    """

    place: int
    end: int
    frame: int
    here: int
    is_fresh: bool = False
    written: list[Choice] = field(default_factory=list)
    phrase: int = 0


def of_sessions(
    prediction: onnxruntime.InferenceSession, joint: onnxruntime.InferenceSession, **settings: object
) -> tuple[Transducer, int]:
    """Return a transducer of the sessions of two graphs, and the width of the encoder's output that it takes, H.

    Args:
        prediction, joint: the graphs of an exported file.
        settings: of `Transducer`: blank, durations, most_symbols, seconds.

    Raises:
        ValueError: the graphs are of another form.
    """
    inputs = {one.name: one.shape for session in (prediction, joint) for one in session.get_inputs()}
    ranks = {"labels": 1, "states": 2, "encoded": 3, "predicted": 2}
    names = [output.name for output in joint.get_outputs()]
    outputs = 3 if settings["durations"] else 2
    has_scores = len(names) == outputs + 1  # older files have none
    if {name: len(shape) for name, shape in inputs.items()} != ranks or not (has_scores or len(names) == outputs):
        raise ValueError("its decoder's networks are of another form")
    size, width = inputs["states"][1], inputs["encoded"][2]
    if not (isinstance(size, int) and isinstance(width, int) and len(prediction.get_outputs()) == 2):
        raise ValueError("its decoder's networks are of another form")

    def predict(labels: np.ndarray, states: np.ndarray) -> list[np.ndarray]:
        return prediction.run(None, {"labels": labels, "states": states})

    def choose(encoded: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
        return joint.run(names[:outputs], {"encoded": encoded, "predicted": predicted})

    def score(encoded: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
        return joint.run(names, {"encoded": encoded, "predicted": predicted})

    return Transducer(predict, choose, size, **settings, score=score if has_scores else None), width
