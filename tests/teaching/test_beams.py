"""What 11_language_model shows of a beam search, and its helpers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from asr_with_nemo.recognition import ngrams
from asr_with_nemo.recognition.beam import BeamSearch
from asr_with_nemo.recognition.wer import ScoredUtterance
from asr_with_nemo.teaching import beams

LETTERS = [" ", "g", "n", "o"]


def an_example() -> tuple[dict, np.ndarray]:
    """The piece's data of an output that reads "go", or perhaps "no", and the output."""
    lm = ngrams.build_ngrams([["no"], ["no", "no"], ["go"]], 2)
    search = BeamSearch(LETTERS, lm, 1.0, 0.5)
    probs = np.array([[0.01, 0.5, 0.44, 0.03, 0.02], [0.01, 0.01, 0.01, 0.95, 0.02], [0.01, 0.01, 0.01, 0.01, 0.96]])
    output = np.log(probs)
    plain = [{"g": (0.0, 0.5), "n": (0.0, 0.44)}, {"go": (0.0, 0.47), "no": (0.0, 0.42)}, {"go": (0.47, 0.0)}]
    lexicon = BeamSearch(LETTERS, lm, 0.0, 0.0)
    symbols = ["␣", *LETTERS[1:], "blank"]
    return beams.piece_data(output, symbols, 0.02, "no", plain, lexicon, search), output


def test_the_parts_of_each_hypothesis_add_up():
    data, output = an_example()
    assert {way: len(steps) for way, steps in data["ways"].items()} == dict.fromkeys(("letters", "lexicon", "lm"), 4)
    for steps in data["ways"].values():
        for rows in steps:
            totals = [row[-1] for row in rows]
            assert totals == sorted(totals, reverse=True)
            for _, ctc, lm, words, total in rows:
                assert total == pytest.approx(ctc + (lm or 0) + (words or 0), abs=0.16)  # rounded
    read = {way: data["texts"][steps[-1][0][0]] for way, steps in data["ways"].items()}
    assert read == {"letters": "go", "lexicon": "go", "lm": "no"}
    assert data["ways"]["lexicon"][-1][0][2:4] == [None, None]
    assert data["heard"][1][0] == [3, 95]
    plt.close(beams.still(data, output))


def test_the_example_is_one_that_the_second_way_puts_right():
    def read(*hypotheses: str) -> list[ScoredUtterance]:
        return [ScoredUtterance(f"{n}.wav", "", "a b", text) for n, text in enumerate(hypotheses)]

    before, after = read("a b", "a c", "a c", "a d"), read("a c", "a b", "a b", "a d")
    assert beams.telling(before, after, [1, 9, 5, 2]) == 2
    assert beams.telling(before[:1] + before[3:], after[:1] + after[3:], [1, 2]) == 0
    assert beams.telling(before[3:], after[3:], [2]) == 0


def test_the_fewest_errors_of_a_tuning_are_marked():
    trials = [(alpha, beta, 32, 50 + 10 * abs(alpha - 1) + abs(beta)) for alpha in (0, 1, 2) for beta in (-1, 0, 1)]
    figure, axes = plt.subplots()
    beams.tuning_grid(axes, [*trials, (1, 0, 64, 3)], 32)
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [("50", (1, 1))]
    plt.close(figure)


def test_a_study_that_was_not_run_says_so(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    assert beams.read_in_ways("decoders") == {}
    assert beams.tuning_picture("tuning") is None
    assert capsys.readouterr().out.count("scripts/tools/run_study.py") == 2
