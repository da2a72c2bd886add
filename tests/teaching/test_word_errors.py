"""Pictures of alignments show what they are given; computer voices say what they are asked."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex

from asr_with_nemo.recognition import wer
from asr_with_nemo.teaching import word_errors


def test_the_path_goes_through_the_matrix_in_the_colours_of_its_errors():
    alignment = [("a", "a"), ("b", "x"), ("", "y"), ("c", "")]
    cost = np.arange(16).reshape(4, 4)
    figure, axes = plt.subplots()
    word_errors.draw_matrix(axes, cost, alignment)
    numbers = {text.get_text(): text for text in axes.texts if text.get_text()}
    assert {int(name) for name in numbers} == set(range(16))
    on_path = {int(name) for name, text in numbers.items() if text.get_weight() == "bold"}
    assert on_path == {cost[0, 0], cost[1, 1], cost[2, 2], cost[2, 3], cost[3, 3]}
    arrows = [text.arrow_patch for text in axes.texts if not text.get_text()]
    assert [to_hex(arrow.get_edgecolor()) for arrow in arrows] == ["#444444", "#b87510", "#3b82c4", "#d8504d"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["(start)", "a", "b", "c"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["(start)", "a", "x", "y"]
    plt.close(figure)


def test_an_alignment_stands_in_three_rows():
    figure = word_errors.draw_alignment(wer.align("one two", "one to three"))
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["said", "heard", "error", "one", "one", "", "two", "to", "S", "–", "three", "I"]
    plt.close(figure)


def test_computer_voices_say_each_text_in_each_voice():
    phrases = {"English": ("en-us", "five", "stop"), "German": ("de", "fünf")}
    spoken = word_errors.computer_voices(phrases, variants=("m1", "f2"))
    assert [(one.kind, one.text, one.voice) for one in spoken] == [
        ("English", "five", "m1"),
        ("English", "stop", "m1"),
        ("English", "five", "f2"),
        ("English", "stop", "f2"),
        ("German", "fünf", "m1"),
        ("German", "fünf", "f2"),
    ]
    assert all(8_000 < len(one.samples) < 32_000 and one.samples.dtype == np.float32 for one in spoken)
    again = word_errors.computer_voices(phrases, variants=("m1", "f2"))
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(spoken, again, strict=True))
