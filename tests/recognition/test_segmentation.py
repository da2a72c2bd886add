"""Texts are found in the output of a model for a long recording, and what doesn't belong to it is told apart."""

import itertools
import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from asr_with_nemo.recognition.segmentation import Found, Output, Segmenter, Text
from asr_with_nemo.recognition.trellis import best_path, states_of

LABELS = " abcdefghijklmnopqrstuvwxyz"
BLANK = len(LABELS)
FRAME = 0.04  # seconds
PAUSE = 5  # frames before each text


def heard(text: str, sure: float = 0.98) -> np.ndarray:
    """The output of a model that hears a text: a frame of each letter, and one of the blank after it."""
    columns = [column for letter in text for column in (LABELS.index(letter), BLANK)]
    columns = [BLANK] * PAUSE + columns
    probs = np.full((len(columns), BLANK + 1), (1 - sure) / BLANK, np.float32)
    probs[np.arange(len(columns)), columns] = sure
    return np.log(probs)


def recording(texts: Sequence[str], sure: float = 0.98) -> tuple[list[Output], list[tuple[float, float]]]:
    """The outputs for texts in a row, each a piece, and where each text is."""
    outputs, spans, start = [], [], 0.0
    for text in texts:
        output = heard(text, sure)
        outputs.append(Output(start, output))
        end = start + len(output) * FRAME
        spans.append((start + PAUSE * FRAME, end))
        start = end + 0.6
    return outputs, spans


def words(text: str) -> list[list[int]]:
    return [[LABELS.index(letter) for letter in word] for word in text.split()]


def align(texts: Sequence[Text], outputs: Sequence[Output]) -> list[Found]:
    return Segmenter(FRAME, BLANK, (0,)).align(texts, outputs)


def is_at(found: Found, span: tuple[float, float]) -> bool:
    return bool(found.is_found and span[0] - FRAME <= found.times[0, 0] and found.times[-1, 1] <= span[1] + FRAME)


def test_the_path_is_the_best_of_all():
    def likelihood(path: Sequence[int], labels: Sequence[int], emissions: np.ndarray) -> float:
        collapsed = [key for key, _ in itertools.groupby(path) if key != 2]
        return sum(emissions[range(len(path)), path]) if collapsed == list(labels) else -np.inf

    generator = np.random.default_rng(0)
    for labels in ([0], [0, 1], [0, 0], [1, 0, 1]):
        for _ in range(5):
            emissions = np.log(generator.dirichlet(np.ones(3), 6))
            best = max(itertools.product(range(3), repeat=6), key=lambda path: likelihood(path, labels, emissions))
            states = states_of(labels, 2)
            assert states.columns[best_path(emissions, states)].tolist() == list(best)


def test_texts_are_found_between_sound_that_belongs_to_none():
    said = ["music and applause", "the first text", "somebody coughs here", "and the second", "the end of the show"]
    outputs, spans = recording(said)
    found = align([Text(words(said[1])), Text(words(said[3]))], outputs)
    assert is_at(found[0], spans[1]) and is_at(found[1], spans[3])
    assert found[0].score == pytest.approx(1, abs=0.05)
    assert [len(one.times) for one in found] == [3, 3]
    times = np.concatenate([one.times for one in found])
    assert (np.diff(times.reshape(-1)) >= 0).all()
    assert found[0].strange[0] > 10 and found[0].strange[1] == 0  # a text without sound before it has 0


@pytest.mark.parametrize("timed", [True, False])
def test_a_text_that_is_not_in_the_sound_does_not_harm_the_others(timed: bool):
    said = ["one of the texts", "quite another thing", "the last of them", "no this is the last"]
    outputs, spans = recording(said)
    reach = 3.0 if timed else np.inf
    texts = [
        Text(words(text), start - reach, end + reach)
        for text, (start, end) in zip([said[0], "zebras jump quickly", *said[2:]], spans, strict=True)
    ]
    found = align(texts, outputs)
    assert [one.is_found for one in found] == [True, False, True, True]
    assert found[1].score == 0
    assert all(is_at(found[place], spans[place]) for place in (0, 2, 3))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_texts_of_a_stretch_that_was_left_out_as_quiet_do_not_harm_the_others(place: int):
    said = ["one of the texts", "quite another thing", "the last of them"]
    outputs, spans = [], []
    start = 0.0
    for number, text in enumerate(said):
        start += 60.0 if number == place else 0.0
        output = heard(text)
        outputs.append(Output(start, output))
        spans.append((start + PAUSE * FRAME, start + len(output) * FRAME))
        start = spans[-1][1] + 0.6
    texts = [Text(words(text), *span) for text, span in zip(said, [(s - 2, e + 2) for s, e in spans], strict=True)]
    quiet = spans[place][0] - 40
    lost = [Text(words("nobody hears this"), quiet + 5 * number, quiet + 5 * number + 3) for number in range(3)]
    found = align([*texts[:place], *lost, *texts[place:]], outputs)
    assert [one.is_found for one in found] == [True] * place + [False] * 3 + [True] * (3 - place)
    assert all(is_at(one, span) for one, span in zip([*found[:place], *found[place + 3 :]], spans, strict=True))


def test_of_equal_texts_each_is_found_near_its_own_time():
    outputs, spans = recording(["yes"] * 9)
    texts = [Text(words("yes"), start - 1, end + 1) for start, end in (spans[2], spans[7])]
    found = align(texts, outputs)
    assert is_at(found[0], spans[2]) and is_at(found[1], spans[7])


def test_the_score_falls_with_each_letter_that_the_model_hears_otherwise():
    outputs, _ = recording(["the quick brown fox"])
    scores = [align([Text(words(text))], outputs)[0].score for text in ("the quick brown fox", "the quick brawn fox")]
    letters, other = 16, np.log(0.98 / (0.02 / BLANK))  # nats that one letter costs
    assert scores[0] == pytest.approx(1, abs=0.02)
    assert scores[1] == pytest.approx(np.exp(-other / letters), rel=0.05)


def test_any_sound_will_do_for_a_word_that_the_model_cannot_write():
    outputs, spans = recording(["it costs eleven dollars", "she said"])
    found = align([Text([*words("it costs"), (), *words("dollars")]), Text(words("she said"))], outputs)
    assert is_at(found[0], spans[0]) and is_at(found[1], spans[1])
    first = spans[0][0]
    letter = 2 * FRAME
    assert found[0].times[2] == pytest.approx([first + 9 * letter, first + 15 * letter], abs=2 * letter)
    assert found[0].score > 0.9


@pytest.mark.parametrize("texts", [[], [Text(words("far too long a text for a recording of this length"))]])
def test_texts_that_cannot_be_in_the_sound(texts: list[Text]):
    outputs, _ = recording(["hi"])
    assert not any(one.is_found for one in align(texts, outputs))
    assert not any(one.is_found for one in align(texts, []))


def test_a_recording_three_times_as_long_takes_no_more_memory():
    def peak(copies: int) -> int:
        said = [f"text {word} of the talk" for word in ("one", "two", "three", "four", "five")] * copies
        starts = list(itertools.accumulate((len(heard(text)) * FRAME + 1 for text in said), initial=0.0))

        def outputs() -> Iterator[Output]:
            for start, text in zip(starts, said, strict=False):
                yield Output(start, heard(text))

        texts = [Text(words(text), start - 9, start + 9) for start, text in zip(starts, said, strict=False)]
        tracemalloc.start()
        found = align(texts, outputs())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert all(one.is_found for one in found)
        return most

    assert peak(45) < 1.3 * peak(15)  # three minutes are as much as is kept
