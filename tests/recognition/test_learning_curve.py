"""A learning curve finds the law that made its points, and says what more data would bring, and how surely."""

from xml.etree import ElementTree

import numpy as np
import pytest

from asr_with_nemo.recognition import learning_curve
from asr_with_nemo.recognition.learning_curve import Point
from asr_with_nemo.recognition.wer import ScoredUtterance


def training(wer: float, utterances: int = 300, seed: int = 0) -> list[ScoredUtterance]:
    """Utterances of ten words, of which each is wrong with a probability."""
    generator = np.random.default_rng(seed)
    said = " ".join(["yes"] * 10)
    wrong = generator.random((utterances, 10)) < wer
    return [
        ScoredUtterance(f"{n}.wav", "", said, " ".join("no" if one else "yes" for one in row))
        for n, row in enumerate(wrong)
    ]


def law(scale: float, exponent: float, seeds: int = 1, utterances: int = 300) -> learning_curve.Curve:
    sizes = (250, 500, 1000)
    return learning_curve.fit(
        [
            Point(n, n / 1000, [training(scale * n**-exponent, utterances, n + k) for k in range(seeds)])
            for n in sizes[::-1]
        ]
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_law_that_made_the_points_is_found(seeds: int):
    curve = law(5.0, 0.5, seeds)
    expected = 5.0 * 2000**-0.5
    assert curve.exponent == pytest.approx(0.5, abs=0.08)
    assert curve.forecast == pytest.approx(expected, rel=0.1)
    assert curve.interval[0] < expected < curve.interval[1]
    assert [point.utterances for point in curve.points] == [250, 500, 1000]
    assert curve.interval[1] < curve.points[-1].wer[0]
    assert "more data of this kind would help" in learning_curve.says(curve)
    assert any("that of the seed" in line for line in learning_curve.says(curve)) == (seeds == 1)


def test_more_dev_utterances_make_a_narrower_interval():
    widths = [high - low for low, high in (law(5.0, 0.5, 1, count).interval for count in (50, 1000))]
    assert widths[1] < widths[0] / 2


def test_a_flat_curve_promises_nothing_and_a_rising_one_is_said():
    assert any("can't be told" in line for line in learning_curve.says(law(0.2, 0.0)))
    assert any("the curve rises" in line for line in learning_curve.says(law(0.002, -0.8)))
    assert any("above 80%" in line for line in learning_curve.says(law(0.95, 0.0)))


def test_no_errors_have_a_curve_too():
    curve = learning_curve.fit([Point(n, n / 60, [training(0.0, 20)]) for n in (10, 20, 40)])
    assert 0 < curve.forecast < 0.01


def test_two_ways_are_compared_by_the_same_utterances():
    curves = {"from scratch": law(5.0, 0.5), "fine-tuning an4": law(2.5, 0.5)}
    assert learning_curve.compared(curves)[0].startswith("fine-tuning an4 is better: -")
    assert "can't be told apart" in learning_curve.compared({"a": law(5.0, 0.5), "b": law(5.0, 0.5)})[0]
    assert learning_curve.compared({"a": law(5.0, 0.5)}) == []


def test_the_picture_is_an_image_of_both_kinds():
    curves = {"from scratch": law(5.0, 0.5), "fine-tuning an4": law(2.5, 0.5)}
    assert learning_curve.draw(curves, "png").startswith(b"\x89PNG")
    svg = learning_curve.draw(curves)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == learning_curve.draw(curves) or svg.count(b"<path") == learning_curve.draw(curves).count(b"<path")
