"""CTC prefix beam search over letters or pieces of words, without a lexicon: for boosted phrases and n-gram models.

Unlike the search for words (`beam.BeamSearch`), it can write whatever the model can, and takes models of pieces. A
language model, if there is one, is of the model's own letters or pieces: scripts/build_lm.py --model.
"""

import math
from collections.abc import Sequence

from asr_with_nemo.recognition import boosting, ngrams
from asr_with_nemo.recognition.language_model import Weights, token_of
from asr_with_nemo.recognition.ngrams import LanguageModel
from asr_with_nemo.recognition.prefix_search import Grid, Prefix, PrefixSearch, check_weights, described, steps
from asr_with_nemo.recognition.spelling import Spelling

TOKEN_WEIGHTS = Weights(0.5, 0.0, 16)
"""Defaults for a language model of letters or pieces without tuned weights."""
# NeMo's search with letters takes about fifty times as long as the one with words.
TOKEN_GRID = Grid(steps(0.3, 1.7, 0.2), steps(-1, 0.5, 0.5), (8, 16, 32))


class TokenSearch(PrefixSearch):
    """Beam search over a model's letters or pieces, with boosted phrases, and with an n-gram model of them.

    Attributes:
        labels: the model's letters or pieces in the order of its outputs; the blank comes after the last.
        spelling: how the pieces are written; None for letters.
        language_model: of NeMo's tokens of the letters or pieces (`language_model.token_of`); None for none.
        weights: alpha, beta (per letter or piece; without a language model, neither counts) and width.
        boosts: bonus for each of some words or phrases, in natural logs.
        grid: the values that tuning tries.

    Raises:
        InputError: a weight is out of range, or the model can't write a boosted phrase.

    Example:
        >>> import numpy as np
        >>> probs = np.array([[0.1, 0.4, 0.3, 0.1, 0.1], [0.1, 0.1, 0.1, 0.6, 0.1]])
        >>> [TokenSearch([" ", "g", "n", "o"], boosts=boosts).texts(np.log([probs]))[0] for boosts in ({}, {"no": 2})]
        ['go', 'no']
    """

    grid = TOKEN_GRID

    def __init__(
        self,
        labels: Sequence[str],
        spelling: Spelling | None = None,
        language_model: LanguageModel | None = None,
        weights: Weights = TOKEN_WEIGHTS,
        boosts: boosting.Phrases | None = None,
    ):
        self.labels, self.spelling, self.language_model = list(labels), spelling, language_model
        check_weights(weights)
        self.weights = weights if language_model else Weights(0.0, 0.0, weights.width)
        self._written = list(spelling.pieces) if spelling else self.labels
        self._boost(boosts or {})

    def _boost(self, boosts: boosting.Phrases) -> None:
        self.boosts = boosting.weighted(boosts)
        columns = self.spelling.columns if self.spelling else None
        self._tree = boosting.tree_of(self.boosts, self.labels, columns)
        self._forget()

    def _forget(self) -> None:
        self._known: dict[tuple[str, tuple], tuple[float, tuple]] = {}

    def __str__(self) -> str:
        unit = "pieces" if self.spelling else "letters"
        boosted = boosting.described(self.boosts)
        if not self.language_model:
            return f"beam over {unit} (width {self.weights.width}){boosted}"
        return f"beam over {unit} + {self.language_model.order}-gram of them ({described(self.weights)}){boosted}"

    def _empty(self) -> Prefix:
        history = self.language_model.start if self.language_model else ()
        return Prefix("", len(self.labels), self._tree.start, history, 0.0, 0.0)

    def _child(self, prefix: Prefix, label: int) -> tuple[Prefix, float] | None:
        state, bonus = self._tree.step(prefix.node, label)
        log_prob, history = self._scored(token_of(label), prefix.history)
        bonus += self.weights.beta
        text = prefix.text + self._written[label]
        longer = Prefix(text, label, state, history, prefix.lm + log_prob, prefix.bonus + bonus)
        return longer, math.exp(self.weights.alpha * log_prob + bonus)

    def _scored(self, token: str, history: tuple) -> tuple[float, tuple]:
        if not self.language_model:
            return 0.0, ()
        known = self._known.get((token, history))
        if known is None:
            known = self._known[token, history] = self.language_model.score(token, history)
        return known

    def _ending(self, prefix: Prefix) -> tuple[str, float, float, float]:
        log_prob, _ = self._scored(ngrams.END, prefix.history)
        bonus = self._tree.end(prefix.node)
        text = self.spelling.tidy(prefix.text.replace("▁", " ")) if self.spelling else prefix.text.strip()
        factor = math.exp(self.weights.alpha * log_prob + bonus)
        return text, prefix.lm + log_prob, prefix.bonus + bonus, factor
