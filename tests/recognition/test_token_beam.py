"""Letters and pieces of words are searched without a lexicon: for boosted phrases, and with n-grams of them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import beam, language_model, ngrams, prefix_search
from asr_with_nemo.recognition.language_model import TOKEN_OFFSET, Weights
from asr_with_nemo.recognition.spelling import Spelling
from asr_with_nemo.recognition.token_beam import TokenSearch

LETTERS = [" ", *"abn"]
PIECES = Spelling(("▁a", "b", "▁", "▁ab"), (-1.0, -2.0, -9.0, -0.5), "unigram", "")
BONUS = {"ab": 1.5, "a b": 2.0}


def softmax(scores: np.ndarray) -> np.ndarray:
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def tokens_lm(size: int) -> ngrams.LanguageModel:
    texts = [[0, 1, 2], [1, 1], [2, 0, 3], [3, 1, 0]]
    marks = [chr(number + TOKEN_OFFSET) for number in range(size)]
    return ngrams.build_ngrams([[marks[one] for one in text] for text in texts], 2, marks)


@pytest.mark.parametrize("spelling", [None, PIECES], ids=["letters", "pieces"])
@pytest.mark.parametrize("has_lm", [False, True])
def test_a_wide_search_sums_all_alignments(monkeypatch: pytest.MonkeyPatch, spelling: Spelling | None, has_lm: bool):
    """Against every path of a small model, one by one."""
    monkeypatch.setattr(prefix_search, "LEAST_LETTER", 0.0)
    monkeypatch.setattr(prefix_search, "LEAST_PREFIX", 0.0)
    labels = list(spelling.pieces) if spelling else LETTERS
    lm, weights = tokens_lm(4) if has_lm else None, Weights(0.7, 0.3, 100_000)
    search = TokenSearch(labels, spelling, lm, weights, BONUS)
    log_probs = softmax(np.random.default_rng(1).normal(0, 1.5, (5, 5)))
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(5), repeat=5):
        columns = tuple(label for label, _ in itertools.groupby(path) if label < 4)
        found[columns] = found.get(columns, 0) + np.exp(sum(log_probs[frame, one] for frame, one in enumerate(path)))
    expected: dict[str, float] = {}
    for columns, prob in found.items():
        written = "".join(labels[one] for one in columns)
        text = spelling.text(columns) if spelling else written.strip()
        state, bonus = search._tree.start, 0.0
        for column in columns:
            state, change = search._tree.step(state, column)
            bonus += change
        score = np.log(prob) + bonus + search._tree.end(state)
        if lm:
            score += 0.7 * lm.log_prob(chr(one + TOKEN_OFFSET) for one in columns) + 0.3 * len(columns)
        expected[text] = expected.get(text, 0) + np.exp(score)
    totals = {one.text: one.total for one in search.decode(log_probs)}
    assert totals == pytest.approx({text: np.log(total) for text, total in expected.items()}, abs=1e-5)


def test_a_boosted_name_is_written_where_it_nearly_was():
    log_probs = softmax(np.array([[0, 4, 0, 0, 0], [0, 0, 2, 2.5, 0], [0, 0, 0, 0, 4]], float))  # "an", or perhaps "ab"
    search = TokenSearch(LETTERS)
    assert search.texts([log_probs]) == ["an"]
    boosted = search.with_boosts({"ab": 2})
    assert boosted.texts([log_probs]) == ["ab"]
    assert boosted.with_boosts({}).texts([log_probs]) == ["an"] and search.texts([log_probs]) == ["an"]
    assert str(boosted) == "beam over letters (width 16), 1 boosted"
    assert boosted.with_weights(Weights(0.0, 0.0, 2)).texts([log_probs]) == ["ab"]
    with pytest.raises(InputError, match="'z'"):
        search.with_boosts({"az": 2})
    assert search.texts([np.empty((0, 5), np.float32)]) == [""]


def test_pieces_take_language_models_of_these_pieces_alone(tmp_path: Path):
    letters = [f"▁{letter}" for letter in "abcdefghijklmnopqrstuvwxy"]
    spelling = Spelling(tuple(letters), (-1.0,) * 25, "bpe", "")
    pieces, words, others = (tmp_path / f"{name}.arpa" for name in ("pieces", "words", "others"))
    ngrams.write_arpa(tokens_lm(25), pieces)
    ngrams.write_arpa(ngrams.build_ngrams([["go", "on"]], 2), words)
    ngrams.write_arpa(tokens_lm(26), others)
    search = beam.load(pieces, letters, alpha=0.2, boosts={"a b": 2}, spelling=spelling)
    assert str(search) == "beam over pieces + 2-gram of them (alpha 0.2, beta 0, width 16), 1 boosted"
    assert beam.load(None, letters, boosts={"a b": 2}, spelling=spelling).weights.alpha == 0
    for arpa, reason in ((words, r"words\.arpa.*--model"), (others, r"others\.arpa.*--model")):
        with pytest.raises(InputError, match=reason):
            beam.load(arpa, letters, spelling=spelling)
    with pytest.raises(InputError, match="'z'"):
        beam.load(None, letters, boosts={"z": 2}, spelling=spelling)


def test_letters_with_n_grams_and_boosts(tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("five nine\ngo\n", encoding="utf-8")
    arpa = tmp_path / "letters.arpa"
    language_model.make(text, arpa, order=3, characters=True)
    search = beam.load(arpa, language_model.LABELS, boosts={"glenn": 3})
    assert str(search).startswith("beam over letters + 3-gram of them") and str(search).endswith(", 1 boosted")
