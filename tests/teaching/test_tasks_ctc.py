"""The checks of 05_ctc's tasks tell right from wrong, and typical mistakes by name."""

import numpy as np
import pytest

from asr_with_nemo.teaching.tasks import check
from asr_with_nemo.teaching.tasks.ctc import _FRAMES, _PATHS


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((_FRAMES, _PATHS), "right"),
        (8, "two whole numbers"),
        (("x", 3), "two whole numbers"),
        ((_FRAMES + 0.5, _PATHS), "two whole numbers"),
        ((_FRAMES, _PATHS, 1), "two whole numbers"),
        ((6, 1), "two fs"),
        ((7, 5), "shortest path"),
        ((8, 1), "one frame more"),
        ((8, 455), "aren't free"),
        ((8, 9), "row of runs"),
    ],
)
def test_counting_frames_and_paths(answer, said: str, capsys: pytest.CaptureFixture[str]):
    check("05_ctc 1", answer)
    printed = capsys.readouterr().out
    assert said in printed
    assert printed.startswith("Task 1: right.") == (said == "right")


def over_the_lattice(log_probs: np.ndarray, text: list[int], blank: int, join=np.maximum, last=None) -> float:
    states = [blank] + [symbol for letter in text for symbol in (letter, blank)]
    values = np.full((len(log_probs), len(states)), -np.inf)
    values[0, :2] = log_probs[0, states[:2]]
    for t in range(1, len(log_probs)):
        for s, symbol in enumerate(states):
            jump = s > 1 and symbol != blank and symbol != states[s - 2]
            values[t, s] = join.reduce(values[t - 1, max(0, s - 1 - jump) : s + 1]) + log_probs[t, symbol]
    return (last or join).reduce(values[-1, -2:])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (over_the_lattice, "right"),
        (0.5, "the function itself"),
        (lambda *given: None, "one number is wanted"),
        (lambda *given: over_the_lattice(*given, join=np.logaddexp), "still the sum"),
        (lambda *given: over_the_lattice(*given, last=np.logaddexp), "two last states"),
        (lambda *given: -over_the_lattice(*given), "but for the sign"),
        (lambda *given: np.exp(over_the_lattice(*given)), "return its logarithm"),
        (lambda log_probs, text, blank: log_probs.max(axis=1).sum(), "must say the text"),
        (lambda *given: -99.0, "it should be"),
    ],
)
def test_the_likeliest_path(answer, said: str, capsys: pytest.CaptureFixture[str]):
    check("05_ctc 2", answer)
    printed = capsys.readouterr().out
    assert said in printed
    assert printed.startswith("Task 2: right.") == (said == "right")
