"""The checks of 01_data to 04_pretrained take right answers, and say what is wrong with wrong ones."""

import re

import numpy as np
import pytest
import torch

from asr_with_nemo.teaching.tasks import Wrong, data, explore, features, number, pretrained, tracking, whole

ROWS = [
    {"Transcript": "three", "Duration": 0.48, "Split": "train"},  # exactly six frames of 80 ms
    {"Transcript": "three", "Duration": 0.44, "Split": "dev"},  # five, and its blank has none
    {"Transcript": "a b c d", "Duration": 0.4, "Split": "dev"},  # five for seven characters
    {"Transcript": "yes", "Duration": 0.16, "Split": "train"},
    {"Transcript": "no no no", "Duration": 2.0, "Split": "dev"},
]


@pytest.mark.parametrize("answer", [2, 2.0, np.int64(2), np.array([2]), torch.tensor(2)])
def test_an_answer_may_be_a_number_of_any_library(answer):
    rows = [{"text": text, "speaker": "f1"} for text in ("yes", "no", "yes")]
    assert data.task_1(answer, rows[:1], rows).startswith("2 of 3")


@pytest.mark.parametrize("answer", ["2", None, True, float("nan"), np.array([2, 3]), [2]])
def test_what_is_no_number_is_said_to_be_none(answer):
    with pytest.raises(Wrong, match="give a number"):
        number(answer, "give a number")


@pytest.mark.parametrize("answer", [2.5, float("inf"), "2", None])
def test_what_is_no_whole_number_is_said_to_be_none(answer):
    with pytest.raises(Wrong, match="a whole one"):
        whole(answer, "a whole one")
    with pytest.raises(Wrong, match="number of rows"):
        explore.task_1(answer, ROWS)
    assert whole(np.float64(2.0), "a whole one") == 2


def test_versions_that_are_no_list_are_told():
    with pytest.raises(Wrong, match="list of their names"):
        tracking.task_2({"versions": 3, "latest": "v1", "best": "v1"})
    assert "moves them" in tracking.task_2({"versions": ["v2", "v0", "v1"], "latest": "v1", "best": "v1"})


def test_the_shortest_window_that_shows_two_tones():
    for answer in (9.6, 9.75, 10):
        assert features.task_2(answer)
    for answer, hint in (
        (7.2, "Too short"),
        (9.3, "Too short"),
        (12.3, "half a millisecond shorter"),
        (154, "samples"),
    ):
        with pytest.raises(Wrong, match=hint):
            features.task_2(answer)


def test_rows_without_enough_frames_are_counted():
    assert "3 of 5" in explore.task_1(3, ROWS)
    for answer, hint in ((2, "equal letters"), (1, "A space"), (0, "20 ms"), (5, "whole frames"), ("many", "a number")):
        with pytest.raises(Wrong, match=hint):
            explore.task_1(answer, ROWS)


def test_the_parrot_is_judged_by_words():
    assert "12.5%" in explore.task_2(1 / 8, ROWS)
    for answer, hint in ((12.5, "percentage"), (1 / 3, "utterances"), (7 / 8, "gets wrong"), (0.7, "Sum the words")):
        with pytest.raises(Wrong, match=hint):
            explore.task_2(answer, ROWS)


def test_a_hypothesis_with_a_high_wer_and_a_low_cer():
    assert "200%" in pretrained.task_1("en ter seven ty o ne")
    for answer, hint in (
        ("enterseventyone", "Joining"),
        ("enter seven ty one", "Which single character"),
        ("e n t e r s e v e n t y o n e", "three characters at most"),
        (1.5, "a text in quotes"),
    ):
        with pytest.raises(Wrong, match=hint):
            pretrained.task_1(answer)


def test_a_normaliser_keeps_apart_what_is_different():
    digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

    def right(text: str) -> str:
        words = re.sub(r"[^\w' ]", " ", text.lower()).split()
        return " ".join(digits[int(word)] if re.fullmatch("[0-9]", word) else word for word in words)

    def spells_each_digit(text: str) -> str:
        return " ".join(re.sub("[0-9]", lambda digit: f" {digits[int(digit.group())]} ", right(text)).split())

    def spells_all_digits(text: str) -> str:
        for digit, name in enumerate(digits):
            text = text.replace(str(digit), name)
        return right(text)

    assert pretrained.task_2(right)
    for answer, hint in (
        (lambda text: text.lower(), "becomes \"it's nine o'clock.\""),
        (spells_each_digit, "stands alone"),
        (spells_all_digits, "'42' becomes 'fourtwo'"),
        (lambda text: None, "has to return the text"),
        ("text", "The answer is a function"),
    ):
        with pytest.raises(Wrong, match=hint):
            pretrained.task_2(answer)
