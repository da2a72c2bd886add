"""CTC prefix beam search over the words of a lexicon, with a language model.

Greedy decoding takes the most likely letter of each frame, whether or not the letters spell a word. Here every
hypothesis consists of the lexicon's words, the probabilities of its alignments are summed, and a language model scores
the word sequence:

    log p_ctc(text) + alpha · log p_lm(text) + beta · words

Words and phrases can be boosted, with a bonus of their own each (`boosting`). For models of subword pieces, and for
letters without a lexicon, see `token_beam`. The sources are in `prefix_search`.
"""

import contextlib
import copy
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import boosting, language_model, ngrams
from asr_with_nemo.recognition.language_model import Weights
from asr_with_nemo.recognition.ngrams import LanguageModel
from asr_with_nemo.recognition.prefix_search import Grid, Prefix, PrefixSearch, check_weights, described, steps
from asr_with_nemo.recognition.spelling import Spelling
from asr_with_nemo.recognition.token_beam import TOKEN_GRID, TOKEN_WEIGHTS, TokenSearch

if TYPE_CHECKING:
    from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecoding

WORD_WEIGHTS = Weights(0.5, 0.0, 32)
"""Defaults for a language model of words without tuned weights."""


_WORD_GRID = Grid(steps(0, 2, 0.2), steps(-2, 3, 0.5), (16, 32, 64, 128))


class _Node:
    """Node of the lexicon's trie: the letters that follow, and the word that ends here."""

    __slots__ = ("children", "word")

    def __init__(self, children: "dict[int, _Node] | None" = None, word: str | None = None) -> None:
        self.children = {} if children is None else children
        self.word = word


class BeamSearch(PrefixSearch):
    """Beam search over the words of a lexicon, with a word n-gram model.

    Attributes:
        labels: the model's letters in the order of its outputs; the blank comes after the last.
        language_model: the language model; its words are the lexicon.
        weights: alpha, beta and width.
        boosts: bonus for each of some words or phrases, in natural logs, added to beta; below 0, it holds a word back.
            A boosted word that isn't in the lexicon joins it, with the language model's score of an unknown word.
        grid: the values that tuning tries.

    Raises:
        InputError: the labels lack the space, or spell no word of the language model; a weight is out of range; a
            boosted word has letters that the labels lack.

    Example:
        >>> search = BeamSearch([" ", "g", "o"], ngrams.build_ngrams([["go"]], order=1))
        >>> probs = np.array([[0.1, 0.6, 0.2, 0.1], [0.1, 0.5, 0.3, 0.1]])  # greedy: "g"
        >>> search.decode(np.log(probs))[0].text
        'go'
    """

    grid = _WORD_GRID

    def __init__(
        self,
        labels: Sequence[str],
        language_model: LanguageModel,
        alpha: float = WORD_WEIGHTS.alpha,
        beta: float = WORD_WEIGHTS.beta,
        width: int = WORD_WEIGHTS.width,
        boosts: boosting.Phrases | None = None,
    ):
        self.labels = list(labels)
        self.language_model = language_model
        self.weights = Weights(alpha, beta, width)
        check_weights(self.weights)
        if " " not in self.labels:
            raise InputError(f"the model's alphabet {''.join(self.labels)!r} lacks the space, which separates words")
        self._space, self._lexicon = self.labels.index(" "), _trie(language_model.vocabulary, self.labels)
        self._boost(boosts or {})

    def _boost(self, boosts: boosting.Phrases) -> None:
        boosting.check_letters(boosts, self.labels)
        self._root = self._lexicon
        self.boosts = boosting.weighted(boosts)
        expected = sorted({word for phrase, weight in self.boosts.items() if weight > 0 for word in phrase.split()})
        self._added = {word for word in expected if not self.language_model.knows(word)}
        for word in sorted(self._added):
            self._root = _with_word(self._root, [self.labels.index(letter) for letter in word], word)
        self._tree = boosting.PhraseTree((phrase.split(), weight) for phrase, weight in self.boosts.items())
        self._forget()

    def _forget(self) -> None:
        self._words: dict[tuple, tuple[float, float, float, tuple]] = {}

    def __str__(self) -> str:
        weights, boosted = self.weights, boosting.described(self.boosts)
        if not weights.alpha:
            return f"beam, lexicon (beta {weights.beta:g}, width {weights.width}){boosted}"
        return f"beam, lexicon + word {self.language_model.order}-gram ({described(weights)}){boosted}"

    def _empty(self) -> Prefix:
        # The history is the language model's, and the state of the boosted phrases.
        history = (self.language_model.start, self._tree.start)
        return Prefix("", len(self.labels), self._root, history, 0.0, 0.0)

    def _is_whole(self, prefix: Prefix) -> bool:
        return prefix.node is self._root or bool(prefix.node.word)

    def _child(self, prefix: Prefix, label: int) -> tuple[Prefix, float] | None:
        text, node = prefix.text + self.labels[label], prefix.node
        if label != self._space:
            after = node.children.get(label)
            return after and (Prefix(text, label, after, prefix.history, prefix.lm, prefix.bonus), 1.0)
        if node.word is None:
            return None
        log_prob, bonus, factor, history = self._word(node.word, prefix.history)
        return Prefix(text, label, self._root, history, prefix.lm + log_prob, prefix.bonus + bonus), factor

    def _word(self, word: str, history: tuple) -> tuple[float, float, float, tuple]:
        """Score a word: its log-probability, its bonus, exp of what both add to the score, and the history after it."""
        known = self._words.get((word, history))
        if known is None:
            before, state = history
            score = self.language_model.score_unknown if word in self._added else self.language_model.score
            log_prob, after = score(word, before)
            if word == ngrams.END:
                bonus = self._tree.end(state)
            else:
                state, bonus = self._tree.step(state, word)
                bonus += self.weights.beta
            factor = math.exp(self.weights.alpha * log_prob + bonus)
            known = self._words[word, history] = (log_prob, bonus, factor, (after, state))
        return known

    def _ending(self, prefix: Prefix) -> tuple[str, float, float, float]:
        text, lm, bonus, history, factor = prefix.text, prefix.lm, prefix.bonus, prefix.history, 1.0
        if prefix.node.word:
            log_prob, added, factor, history = self._word(prefix.node.word, history)
            lm, bonus = lm + log_prob, bonus + added
        else:
            text = text.rpartition(" ")[0]
        log_prob, added, last, _ = self._word(ngrams.END, history)
        return text, lm + log_prob, bonus + added, factor * last


def _trie(words: Iterable[str], labels: Sequence[str]) -> _Node:
    index = {label: number for number, label in enumerate(labels) if label != " "}
    root = _Node()
    for word in words:
        if any(letter not in index for letter in word):
            continue
        node = root
        for letter in word:
            node = node.children.setdefault(index[letter], _Node())
        node.word = word
    if not root.children:
        raise InputError(
            f"the model's letters {''.join(labels)!r} spell no word of the language model's lexicon; make one from "
            "transcripts like the model's own with scripts/build_lm.py"
        )
    return root


def _with_word(root: _Node, columns: Sequence[int], word: str) -> _Node:
    """Return a trie with one more word; the old one stays as it is, and they share the nodes that are the same."""
    first = node = _Node(dict(root.children), root.word)
    for column in columns:
        old = node.children.get(column, _Node())
        node.children[column] = _Node(dict(old.children), old.word)
        node = node.children[column]
    node.word = word
    return first


# --- NeMo's own beam search, with a model of characters ---------------------------------------------------------------


class CharacterSearch:
    """NeMo's `beam_batch` with a character n-gram model: no lexicon, so it can spell any word.

    Equivalent to `model.change_decoding_strategy`, but leaves the model unchanged.

    Attributes:
        labels: the model's letters in the order of its outputs; the blank comes after the last.
        arpa: file of a character model, as scripts/build_lm.py --characters writes it.
        weights: alpha, beta (per character, not per word) and width.
        grid: the values that tuning tries.

    Raises:
        InputError: the file can't be read, or was made for other labels.
    """

    grid = TOKEN_GRID

    def __init__(
        self,
        labels: Sequence[str],
        arpa: str | os.PathLike,
        alpha: float = TOKEN_WEIGHTS.alpha,
        beta: float = TOKEN_WEIGHTS.beta,
        width: int = TOKEN_WEIGHTS.width,
    ):
        self.labels, self.arpa = list(labels), arpa
        self.weights = Weights(alpha, beta, width)
        check_weights(self.weights)
        model = ngrams.read_arpa(arpa)
        language_model.check_tokens(arpa, model, self.labels)
        self.order = model.order

    def with_weights(self, weights: Weights) -> "CharacterSearch":
        """Copy the search with other weights."""
        check_weights(weights)
        other = copy.copy(self)
        other.weights = weights
        other.__dict__.pop("_decoding", None)
        return other

    def __str__(self) -> str:
        return f"beam_batch, character {self.order}-gram ({described(self.weights)})"

    @cached_property
    def _decoding(self) -> "CTCDecoding":
        from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecoding, CTCDecodingConfig
        from omegaconf import OmegaConf

        from asr_with_nemo.base.machine import quieten

        quieten()
        beam = {
            "beam_size": self.weights.width,
            "ngram_lm_model": str(self.arpa),
            "ngram_lm_alpha": self.weights.alpha,
            "beam_beta": self.weights.beta,
        }
        config = OmegaConf.merge(OmegaConf.structured(CTCDecodingConfig), {"strategy": "beam_batch", "beam": beam})
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for a file that is read at once
            return CTCDecoding(config, self.labels)

    def texts(self, log_probs: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each utterance; log-probs (T, V) each."""
        import torch

        lengths = torch.tensor([len(utterance) for utterance in log_probs])
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in log_probs], batch_first=True)
        hypotheses = self._decoding.ctc_decoder_predictions_tensor(padded, decoder_lengths=lengths)  # padded: (B, T, V)
        return [(row[0] if isinstance(row, list) else row).text for row in hypotheses]


Search = BeamSearch | CharacterSearch | TokenSearch


def load(
    arpa: str | os.PathLike | None,
    labels: Sequence[str],
    alpha: float | None = None,
    beta: float | None = None,
    width: int | None = None,
    boosts: boosting.Phrases | None = None,
    spelling: Spelling | None = None,
) -> Search:
    """Load the search for an ARPA file, for boosted phrases, or for both, of a CTC decoder.

    A model of words takes `BeamSearch`, one of letters NeMo's `beam_batch`, one of pieces `TokenSearch`. Boosts alone,
    or with a model of letters, take `TokenSearch`.

    Args:
        arpa: the language model; its words are the lexicon, in lower case if they are all capitals and the labels none.
            None for none.
        labels: the acoustic model's letters or pieces, from `models.loading.alphabet`.
        alpha, beta, width: by default the file's tuned weights, else this module's defaults.
        boosts: words or phrases that are expected, with a bonus each (`boosting`).
        spelling: of a model that writes pieces (`spelling.of`).

    Raises:
        InputError: the file or its notes can't be read, or don't fit the labels; or the model can't write what is
            boosted.
    """
    given = {"alpha": alpha, "beta": beta, "width": width}
    given = {name: value for name, value in given.items() if value is not None}
    if not arpa:
        return TokenSearch(labels, spelling, weights=replace(TOKEN_WEIGHTS, **given), boosts=boosts)
    model = ngrams.read_arpa(arpa)
    of_tokens = language_model.is_of_characters(model)
    if of_tokens:
        language_model.check_tokens(arpa, model, labels)
    elif any(len(label) != 1 for label in labels):
        raise InputError(
            f"{arpa}: a language model of words, which needs a model of letters; this one has subword pieces: make a "
            "language model of its pieces with scripts/build_lm.py --model"
        )
    if "".join(model.vocabulary).isupper() and "".join(labels).islower() and not of_tokens:
        model = ngrams.lowered(model)
    weights = language_model.tuned_weights(arpa) or (TOKEN_WEIGHTS if of_tokens else WORD_WEIGHTS)
    weights = replace(weights, **given)
    if of_tokens and (spelling or boosts):
        return TokenSearch(labels, spelling, model, weights, boosts)
    if of_tokens:
        return CharacterSearch(labels, arpa, weights.alpha, weights.beta, weights.width)
    try:
        return BeamSearch(labels, model, weights.alpha, weights.beta, weights.width, boosts)
    except InputError as error:
        raise InputError(f"{arpa}: {error}") from None
