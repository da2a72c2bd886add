"""The greedy search of an exported transducer, RNN-T or TDT, with NumPy and onnxruntime.

Label looping (Bataev et al., 2024, arXiv:2406.06220): the joint network looks through the frames until it chooses a
letter or piece; then the prediction network reads it, once for all recordings of the batch. Here the joint network gets
several frames at once, since up to the next letter or piece its other input stays the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnxruntime

from asr_with_nemo.errors import InputError

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


class Transducer:
    """The prediction and joint networks of an exported transducer. It may be used from several threads at once.

    Args:
        prediction: the prediction network, a session of a graph from labels (N,) and states (N, S) to the joint's input
            (N, H) and states; the first label is the blank, the first state zeros.
        joint: the joint network, a session of a graph from frames (N, K, H) and the prediction network's output (N, H)
            to labels, probabilities and, by TDT, indexes of durations, (N, K) each.
        blank: the label of the blank, after all letters or pieces.
        durations: in frames, from which TDT chooses; empty for RNN-T.
        most_symbols: the most letters or pieces in one frame.
        seconds: frame length.

    Raises:
        ValueError: the graphs aren't of this form, or don't fit each other.
    """

    def __init__(
        self,
        prediction: onnxruntime.InferenceSession,
        joint: onnxruntime.InferenceSession,
        blank: int,
        durations: Sequence[int],
        most_symbols: int,
        seconds: float,
    ):
        inputs = {one.name: one for session in (prediction, joint) for one in session.get_inputs()}
        names = {"labels": 1, "states": 2, "encoded": 3, "predicted": 2}
        wrong = [name for name, rank in names.items() if name not in inputs or len(inputs[name].shape) != rank]
        self._size, self.width = (None, None) if wrong else (inputs["states"].shape[1], inputs["encoded"].shape[2])
        outputs = len(joint.get_outputs())
        if wrong or not isinstance(self._size, int) or not isinstance(self.width, int) or outputs < 2 + bool(durations):
            raise ValueError("its decoder's networks are of another form")
        self._prediction, self._joint, self.blank, self.durations = prediction, joint, blank, tuple(durations)
        self.most_symbols = most_symbols
        self._window = np.arange(max(1, round(_AT_ONCE / seconds)))

    def search(self, encoded: np.ndarray, frames: Sequence[int]) -> list[list[Choice]]:
        """Return what is written for each recording of a batch.

        Args:
            encoded: the encoder's output for the joint network, (B, T, H).
            frames: the number of valid frames of each recording, (B,).

        Raises:
            InputError: the file's networks choose labels or durations that it doesn't have.
        """
        rows = [_Row(place, end) for place, end in enumerate(frames)]
        predicted, states = self.start(len(rows))
        active = [row for row in rows if row.frame < row.end]
        while active:
            searching = active
            while searching:
                choices = self._choices(encoded, predicted, searching)
                searching = [
                    row for row, *ahead in zip(searching, *choices, strict=True) if not self._found(row, *ahead)
                ]
            active = [row for row in active if row.frame < row.end]  # all have a new letter or piece
            if active:
                places, labels = [row.place for row in active], [row.written[-1].column for row in active]
                predicted[places], states[places] = self.predict(labels, states[places])
        return [row.written for row in rows]

    def start(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the joint's input, (B, H), and the states, (B, S), before the first letter or piece."""
        return self.predict([self.blank] * batch, np.zeros((batch, self._size), np.float32))

    def predict(self, labels: Sequence[int], states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read a label for each recording, from states (N, S); return the joint's input, (N, H), and the new states."""
        return self._prediction.run(None, {"labels": np.array(labels), "states": states})

    def choose(self, encoded: np.ndarray, predicted: np.ndarray) -> list[np.ndarray]:
        """Return labels, probabilities and, by TDT, indexes of durations, (N, K) each, for frames (N, K, H)."""
        return self._joint.run(None, {"encoded": encoded, "predicted": predicted})

    def _choices(self, encoded: np.ndarray, predicted: np.ndarray, rows: Sequence["_Row"]) -> list[list[list]]:
        """Return labels, probabilities and durations of the next frames of each row, K each."""
        places = np.array([row.place for row in rows])
        frames = np.minimum(np.array([row.frame for row in rows])[:, None] + self._window, encoded.shape[1] - 1)
        labels, probabilities, *indexes = self.choose(encoded[places[:, None], frames], predicted[places])
        if labels.min() < 0 or labels.max() > self.blank or (indexes and indexes[0].max() >= len(self.durations)):
            raise InputError("the decoder chooses what the model doesn't have; make it again: scripts/export.py")
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
            row.frame += ahead
            return True
        return row.frame >= row.end


@dataclass
class _Row:
    """A recording of a batch: its place, its number of frames, and how far the search is.

    Attributes:
        frame: the current one.
        here: the letters or pieces that were written in it.
        written: so far.
    """

    place: int
    end: int
    frame: int = 0
    here: int = 0
    written: list[Choice] = field(default_factory=list)
