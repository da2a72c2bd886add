"""The drawings of CTC show what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Circle, FancyArrowPatch

from asr_with_nemo.teaching import ctc_drawings


def written(figure: plt.Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_path_is_drawn_three_times():
    figure = ctc_drawings.collapse_steps("aa-a b")
    texts = written(figure)
    assert "".join(text for text in texts if len(text) == 1) == "aa–a␣b" + "a–a␣b" + "aa␣b"
    plt.close(figure)


@pytest.mark.parametrize(
    ("states", "state", "before"),
    [("–a–b–", 0, [0]), ("–a–b–", 1, [0, 1]), ("–a–b–", 2, [1, 2]), ("–a–b–", 3, [1, 2, 3]), ("–a–a–", 3, [2, 3])],
)
def test_only_a_blank_between_different_letters_is_jumped_over(states: str, state: int, before: list[int]):
    assert list(ctc_drawings.steps_into(states, state)) == before


def test_the_lattice_writes_what_lies_on_a_way_to_the_end():
    alpha = np.arange(15).reshape(3, 5) / 100
    figure = ctc_drawings.lattice("–a–b–", alpha, np.full((3, 5), 0.2))
    # Of 15 nodes, 7 lie on a way from one of the first two rows to one of the last two within 3 frames.
    numbers = [text for text in written(figure) if text.startswith("0.")]
    assert numbers == ["0.000", "0.010", "0.060", "0.070", "0.080", "0.130", "0.140"]
    patches = figure.axes[0].patches
    assert sum(isinstance(patch, Circle) for patch in patches) == 15
    assert sum(isinstance(patch, FancyArrowPatch) for patch in patches) == 2 * (5 + 4 + 1)
    plt.close(figure)


def test_three_architectures_stand_side_by_side():
    figure = ctc_drawings.architectures()
    assert len(figure.axes) == 3
    assert [text for text in written(figure) if text in ("CTC", "transducer", "attention")] == [
        "CTC",
        "transducer",
        "attention",
    ]
    assert all(text.get_fontsize() >= 9 for axes in figure.axes for text in axes.texts)
    plt.close(figure)
