"""Pictures show what they are given."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from asr_with_nemo.recognition.prefix_search import Hypothesis
from asr_with_nemo.teaching import drawings


@pytest.fixture
def axes() -> Iterator[Axes]:
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_mel_spectrograms_share_colours_and_seconds():
    generator = np.random.default_rng(0)
    long, short = generator.normal(size=(64, 200)), generator.normal(size=(64, 150))
    short[0, 0] = 1000  # one value doesn't darken all others
    figure = drawings.mel_spectrograms({"slow": long, "fast": short})
    panels = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title(loc="left") or panel.get_title() for panel in panels] == ["slow", "fast"]
    images = [panel.images[0] for panel in panels]
    assert images[0].get_clim() == images[1].get_clim()
    assert images[0].get_clim()[1] < 5
    assert [image.get_extent()[1] for image in images] == pytest.approx([2.0, 1.5])
    assert all(panel.get_xlim() == pytest.approx((0, 2)) for panel in panels)
    plt.close(figure)


def test_letters_that_never_count_are_left_out(axes: Axes):
    probabilities = np.full((10, 4), 0.001)
    probabilities[3, 0], probabilities[6, 2] = 0.5, 0.02
    probabilities[:, 3] = 0.9
    drawings.letters_over_time(axes, np.log(probabilities), ["a", "b", "c", "blank"], 0.02)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "c", "blank"]
    shown = axes.images[0].get_array()
    assert shown[:2, [3, 6]].tolist() == pytest.approx(np.array([[0.5, 0.001], [0.001, 0.02]]))


def hypothesis(text: str, total: float) -> Hypothesis:
    return Hypothesis(text, total, 0.0, total)


def test_rivals_share_a_line_until_they_part(axes: Axes):
    steps = [
        [hypothesis("", -1), hypothesis("n", -2)],
        [hypothesis("n", -1), hypothesis("f", -3)],
        [hypothesis("no ", -2), hypothesis("no", -2.5), hypothesis("fo", -6)],
    ]
    ends = [hypothesis("no no", -4), hypothesis("no", -5), hypothesis("fo", -7), hypothesis("x", -9)]
    drawings.rivals(axes, steps, ends, 0.02)
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert lines["no no"] == [*lines["no"][:3], 0]
    assert lines["no"] == [0, 0, 0, -1]
    assert lines["fo"] == [0, -2, -4, -3]
    assert lines["x"][0] == 0
    assert np.isnan(lines["x"][1:3]).all()
    assert axes.lines[0].get_xdata() == pytest.approx([0.02, 0.04, 0.06, 0.08])


def test_letters_that_sound_alike_stand_together_in_a_frame(axes: Axes):
    pairs = {("m", "n"): 3, ("b", "v"): 2, ("h", "eight"): 1, ("e", ""): 4, ("", "d"): 5, ("e", "ee"): 1}
    drawings.letter_confusions(axes, pairs, ("bdev", "mn"))
    order = [label.get_text() for label in axes.get_yticklabels()]
    assert order == [*"bdevmn", "h", "…", "–"]
    assert order == [label.get_text() for label in axes.get_xticklabels()]
    counts = {
        (order[round(text.get_position()[1])], order[round(text.get_position()[0])]): int(text.get_text())
        for text in axes.texts
    }
    expected = {("m", "n"): 3, ("b", "v"): 2, ("h", "…"): 1, ("e", "–"): 4, ("–", "d"): 5, ("e", "…"): 1}
    assert counts == expected
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(*frame.get_xy(), frame.get_width()) for frame in frames] == [(-0.5, -0.5, 4), (3.5, 3.5, 2)]
    assert {frame.get_edgecolor() for frame in frames} == {to_rgba("tab:red")}


def test_no_confusions_are_a_picture_too(axes: Axes):
    drawings.letter_confusions(axes, {}, ("mn",))
    assert not axes.texts
    axes.figure.canvas.draw()
