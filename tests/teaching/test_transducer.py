"""The grid of a transducer, its paths and its drawings."""

from math import comb

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Circle, FancyArrowPatch

from asr_with_nemo.teaching import transducer
from asr_with_nemo.teaching.tasks import Wrong, beyond_ctc


def arrows(axes: plt.Axes) -> int:
    return sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches)


@pytest.mark.parametrize(("text", "frames"), [("", 2), ("ab", 3), ("abc", 4), ("abcd", 1)])
def test_a_path_has_a_blank_for_each_frame_and_ends_with_one(text: str, frames: int):
    found = transducer.paths(text, frames)
    assert len(set(found)) == len(found) == comb(frames - 1 + len(text), len(text))
    assert all(path.replace(transducer.BLANK, "") == text for path in found)
    assert all(path.count(transducer.BLANK) == frames and path.endswith(transducer.BLANK) for path in found)


def test_timed_paths_are_the_paths_with_neighbouring_moves_made_in_one():
    timed = list(transducer.timed_paths("ab", 3, [0, 1, 2]))
    taken = {
        "".join(move.strip(transducer.BLANK) + transducer.BLANK * length for move, length in path) for path in timed
    }
    assert taken == set(transducer.paths("ab", 3))
    assert len(timed) == 23
    assert all(length > 0 for path in timed for move, length in path if move == transducer.BLANK)


def test_with_the_durations_of_an_rnnt_there_are_no_other_paths():
    # A letter stays and a blank goes on by one: with 0 and 1 alone, a letter may also take its blank with it.
    plain = [path for path in transducer.timed_paths("ab", 4, [0, 1]) if all(n == (m == "–") for m, n in path)]
    assert len(plain) == len(transducer.paths("ab", 4))


def test_the_grid_has_a_node_for_each_frame_and_history():
    figure = transducer.grid("ab", np.full((3, 3, 2), 0.5), np.full((3, 3), 0.125), path="a–b––")
    (axes,) = figure.axes
    assert sum(isinstance(patch, Circle) for patch in axes.patches) == 9
    assert arrows(axes) == 2 * 3 + 3 * 2 + 1  # blanks between frames, letters, and the last blank
    assert [text.get_text() for text in axes.texts].count("0.125") == 9
    assert all(text.get_fontsize() >= 9 for text in axes.texts)
    plt.close(figure)


def test_the_ways_of_two_transducers_have_an_arrow_for_each_move():
    rnnt = [("–", 1), ("a", 0), ("–", 1), ("–", 1)]
    tdt = [("–", 1), ("a", 1), ("–", 1)]
    figure = transducer.ways("a", 3, {"RNN-T": rnnt, "TDT": tdt})
    assert [axes.get_title() for axes in figure.axes] == ["RNN-T: 4 moves", "TDT: 3 moves"]
    assert [arrows(axes) for axes in figure.axes] == [4, 3]
    assert all(text.get_fontsize() >= 9 for axes in figure.axes for text in axes.texts)
    plt.close(figure)


def test_the_check_of_the_greedy_decoder_counts_its_questions():
    def decode(choose, frames, most):
        written = ""
        for frame in range(frames):
            count = 0
            while (symbol := choose(frame, written)) != "–" and count < most:
                written, count = written + symbol, count + 1
        return written

    with pytest.raises(Wrong, match="asks 9 times where 6 are enough"):
        beyond_ctc.task_2(decode)
