"""CTC prefix beam search over the words of a lexicon, with a language model.

Greedy decoding takes the most likely letter of each frame, whether or not the letters spell a word. Here every
hypothesis consists of the lexicon's words, the probabilities of its alignments are summed, and a language model scores
the word sequence:

    log p_ctc(text) + alpha · log p_lm(text) + beta · words

Words can be boosted, with a bonus of their own each.

Sources: A. Graves and N. Jaitly, "Towards end-to-end speech recognition with recurrent neural networks", ICML 2014;
A. Hannun, A. Maas, D. Jurafsky and A. Ng, "First-pass large vocabulary continuous speech recognition using
bi-directional recurrent DNNs", arXiv 1408.2873, 2014.
"""

import contextlib
import copy
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import language_model, ngrams
from asr_with_nemo.recognition.language_model import Weights
from asr_with_nemo.recognition.ngrams import LanguageModel

if TYPE_CHECKING:
    from nemo.collections.asr.parts.submodules.ctc_decoding import CTCDecoding

WORD_WEIGHTS, _CHARACTER_WEIGHTS = Weights(0.5, 0.0, 32), Weights(0.5, 0.0, 16)
"""Defaults for a language model without tuned weights."""


class Grid(NamedTuple):
    """Grid of values for tuning; alphas and betas in even steps."""

    alphas: Sequence[float]
    betas: Sequence[float]
    widths: Sequence[int]


def _steps(first: float, last: float, step: float) -> tuple[float, ...]:
    return tuple(round(first + step * number, 6) for number in range(round((last - first) / step) + 1))


_WORD_GRID = Grid(_steps(0, 2, 0.2), _steps(-2, 3, 0.5), (16, 32, 64, 128))
# NeMo's search takes about fifty times as long.
_CHARACTER_GRID = Grid(_steps(0.3, 1.7, 0.2), _steps(-1, 0.5, 0.5), (8, 16, 32))
# With lower thresholds or a width above 32, AN4's dev set takes several times as long, and its number of errors
# changes by at most one.
LEAST_LETTER = 1e-5
"""A hypothesis is extended by a letter if the letter has at least this probability in the frame."""
LEAST_PREFIX = 1e-9
"""A hypothesis is kept while it has at least this fraction of the best one's probability."""


@dataclass(frozen=True)
class Hypothesis:
    """Hypothesis of a beam search.

    Attributes:
        text: its words; during the search, the last may be unfinished.
        ctc: natural log of the text's acoustic probability, summed over the alignments that the search kept.
        lm: natural log of the finished words' probability by the language model, including `</s>` at the end.
        total: the score, ctc + alpha · lm + beta · words, and the bonuses of boosted words.
    """

    text: str
    ctc: float
    lm: float
    total: float


class _Node:
    """Node of the lexicon's trie: the letters that follow, and the word that ends here."""

    __slots__ = ("children", "word")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.word: str | None = None


class _Prefix:
    """Prefix in the beam: its probability over all alignments that end in blank, and over those that end in its letter.

    Both include the weighted language model score, as does `gain`, which a frame adds. `history`, `lm` and `bonus` are
    those of its finished words; `bonus` is beta for each, and what boosts them. There is one object per text, so that
    alignments with the same text are merged.
    """

    __slots__ = ("blank", "bonus", "children", "gain", "history", "label", "letter", "lm", "node", "text", "total")

    def __init__(self, text: str, label: int, node: _Node, history: tuple, lm: float, bonus: float):
        self.text, self.label, self.node = text, label, node
        self.history, self.lm, self.bonus = history, lm, bonus
        self.children: dict[int, tuple[_Prefix, float] | None] = {}
        self.blank = self.letter = self.total = self.gain = 0.0


class BeamSearch:
    """Beam search over the words of a lexicon, with a word n-gram model.

    Attributes:
        labels: the model's letters in the order of its outputs; the blank comes after the last.
        language_model: the language model; its words are the lexicon.
        weights: alpha, beta and width.
        boosts: bonus for each of some words of the lexicon, in natural logs, added to beta; below 0, it holds a word
            back.
        grid: the values that tuning tries.

    Raises:
        InputError: the labels lack the space, or spell no word of the language model; a weight is out of range; a
            boosted word isn't in the lexicon.

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
        boosts: Mapping[str, float] | None = None,
    ):
        self.labels = list(labels)
        self.language_model = language_model
        self.weights = Weights(alpha, beta, width)
        _check_weights(self.weights)
        self.boosts = dict(boosts or {})
        strange = sorted(self.boosts.keys() - {*language_model.vocabulary})
        if strange:
            raise InputError(f"{', '.join(strange)}: not in the lexicon, so a boost can't make the search write it")
        self._words: dict[tuple, tuple[float, float, tuple]] = {}
        if " " not in self.labels:
            raise InputError(f"the model's alphabet {''.join(self.labels)!r} lacks the space, which separates words")
        self._space, self._root = self.labels.index(" "), _trie(language_model.vocabulary, self.labels)

    def with_weights(self, weights: Weights) -> "BeamSearch":
        """Copy the search with other weights."""
        _check_weights(weights)
        other = copy.copy(self)
        other.weights, other._words = weights, {}
        return other

    def with_boosts(self, boosts: Mapping[str, float]) -> "BeamSearch":
        """Copy the search with other boosts.

        Raises:
            InputError: a word isn't in the lexicon.
        """
        return BeamSearch(self.labels, self.language_model, *astuple(self.weights), boosts)

    def __str__(self) -> str:
        weights, boosted = self.weights, f", {len(self.boosts)} boosted" if self.boosts else ""
        if not weights.alpha:
            return f"beam, lexicon (beta {weights.beta:g}, width {weights.width}){boosted}"
        return f"beam, lexicon + word {self.language_model.order}-gram ({_described(weights)}){boosted}"

    def texts(self, log_probs: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each utterance; log-probs (T, V) each."""
        return [self.decode(utterance)[0].text for utterance in log_probs]

    def decode(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """Decode an utterance.

        Args:
            log_probs: natural logs, (T, V): a row per frame, a column per letter, and the blank last.

        Returns:
            the hypotheses in the beam at the end, the best first; the text is empty if no word was recognised.

        Raises:
            InputError: the log-probs aren't (T, V) for these labels.
        """
        beam, scale = [self._empty()], 0.0
        for beam, scale in self._search(log_probs):  # noqa: B007
            pass
        # If the recording stops within every hypothesis' last word, that word is left out.
        whole = [prefix for prefix in beam if prefix.node is self._root or prefix.node.word] or beam
        merged: dict[str, tuple[float, float, float]] = {}
        for prefix in whole:
            text, lm, bonus, factor = self._ending(prefix)
            prob, _, _ = merged.get(text, (0.0, lm, bonus))  # "yes" and "yes " are one text
            merged[text] = prob + prefix.total * factor, lm, bonus
        return _ranked(self._hypothesis(text, *values, scale) for text, values in merged.items())

    def follow(self, log_probs: np.ndarray) -> Iterator[list[Hypothesis]]:
        """Yield the hypotheses after each frame of (T, V), the best first.

        Raises:
            InputError: the log-probs aren't (T, V) for these labels.
        """
        for beam, scale in self._search(log_probs):
            yield _ranked(
                self._hypothesis(prefix.text, prefix.total, prefix.lm, prefix.bonus, scale) for prefix in beam
            )

    def _empty(self) -> _Prefix:
        prefix = _Prefix("", len(self.labels), self._root, self.language_model.start, 0.0, 0.0)
        prefix.blank = prefix.total = 1.0
        return prefix

    def _search(self, log_probs: np.ndarray) -> Iterator[tuple[list[_Prefix], float]]:
        """Yield the beam after each frame, and a scale: probabilities are those of the beam times exp(scale)."""
        blank, width = len(self.labels), self.weights.width
        if log_probs.ndim != 2 or log_probs.shape[1] != blank + 1:
            raise InputError(f"log-probs of shape {log_probs.shape}; expected (T, {blank + 1}): the labels and a blank")
        probs = np.exp(log_probs.astype(np.float64))  # (T, V)
        likely: list[list[int]] = [[] for _ in probs]
        for frame, label in np.argwhere(probs[:, :blank] >= LEAST_LETTER).tolist():
            likely[frame].append(label)

        beam, scale = [self._empty()], 0.0
        for row, labels in zip(probs.tolist(), likely, strict=True):
            grown = []
            for prefix in beam if labels else ():
                children, last = prefix.children, prefix.label
                for label in labels:
                    if label in children:
                        child = children[label]
                    else:
                        child = children[label] = self._child(prefix, label)
                    if child is None:
                        continue
                    longer, factor = child
                    # Its last letter can be repeated only after a blank.
                    added = (prefix.blank if label == last else prefix.total) * row[label] * factor
                    if added > 0:
                        if not (longer.total or longer.gain):
                            grown.append(longer)
                        longer.gain += added
            for prefix in beam:
                prefix.letter = prefix.letter * row[prefix.label] + prefix.gain
                prefix.blank = prefix.total * row[blank]
                prefix.total = prefix.blank + prefix.letter
                prefix.gain = 0.0
            for prefix in grown:
                prefix.letter = prefix.total = prefix.gain
                prefix.gain = 0.0
            beam += grown
            best = max(prefix.total for prefix in beam)
            if labels:
                beam = _pruned(beam, width, best * LEAST_PREFIX)
            if not 1e-50 < best < 1e50:  # keep clear of underflow and overflow
                if not best:
                    raise InputError(
                        "the log-probs give every text the probability 0; pass the output of a log-softmax"
                    )
                scale += math.log(best)
                for prefix in beam:
                    prefix.blank, prefix.letter, prefix.total = (
                        value / best for value in (prefix.blank, prefix.letter, prefix.total)
                    )
            yield beam, scale

    def _child(self, prefix: _Prefix, label: int) -> tuple[_Prefix, float] | None:
        """Extend a prefix by a letter; return it with its probability's factor, None if no word continues so."""
        text, node = prefix.text + self.labels[label], prefix.node
        if label != self._space:
            after = node.children.get(label)
            return after and (_Prefix(text, label, after, prefix.history, prefix.lm, prefix.bonus), 1.0)
        if node.word is None:
            return None
        log_prob, factor, history = self._word(node.word, prefix.history)
        bonus = prefix.bonus + self._bonus(node.word)
        return _Prefix(text, label, self._root, history, prefix.lm + log_prob, bonus), factor

    def _bonus(self, word: str) -> float:
        return self.weights.beta + self.boosts.get(word, 0.0)

    def _word(self, word: str, history: tuple) -> tuple[float, float, tuple]:
        """Score a word: its log-probability, exp of its contribution to the total score, and the history after it."""
        known = self._words.get((word, history))
        if known is None:
            log_prob, after = self.language_model.score(word, history)
            gain = self.weights.alpha * log_prob + (0 if word == ngrams.END else self._bonus(word))
            known = self._words[word, history] = (log_prob, math.exp(gain), after)
        return known

    def _ending(self, prefix: _Prefix) -> tuple[str, float, float, float]:
        """Finish a prefix: its whole words, their log-probability and bonus, and the factor of the ending."""
        text, lm, bonus, history, factor = prefix.text, prefix.lm, prefix.bonus, prefix.history, 1.0
        if prefix.node.word:
            log_prob, factor, history = self._word(prefix.node.word, history)
            lm, bonus = lm + log_prob, bonus + self._bonus(prefix.node.word)
        else:
            text = text.rpartition(" ")[0]
        log_prob, last, _ = self._word(ngrams.END, history)
        return text, lm + log_prob, bonus, factor * last

    def _hypothesis(self, text: str, prob: float, lm: float, bonus: float, scale: float) -> Hypothesis:
        total = scale + (math.log(prob) if prob else -math.inf)
        return Hypothesis(text, total - self.weights.alpha * lm - bonus, lm, total)


def _ranked(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: (-hypothesis.total, hypothesis.text))


def _pruned(beam: list[_Prefix], width: int, least: float) -> list[_Prefix]:
    """Keep the `width` most likely prefixes, none below `least`; reset the others."""
    if len(beam) > width:
        beam.sort(key=attrgetter("total"), reverse=True)
    kept = []
    for place, prefix in enumerate(beam):
        if place < width and prefix.total >= least:
            kept.append(prefix)
        else:
            prefix.blank = prefix.letter = prefix.total = 0.0
    return kept


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


def _check_weights(weights: Weights) -> None:
    if not (0 <= weights.alpha <= 100 and -100 <= weights.beta <= 100 and weights.width >= 1):
        raise InputError(
            f"alpha {weights.alpha:g}, beta {weights.beta:g}, width {weights.width}: expected an alpha of 0 to 100, a "
            "beta of -100 to 100, and a width of 1 or more"
        )


def _described(weights: Weights) -> str:
    return f"alpha {weights.alpha:g}, beta {weights.beta:g}, width {weights.width}"


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

    grid = _CHARACTER_GRID

    def __init__(
        self,
        labels: Sequence[str],
        arpa: str | os.PathLike,
        alpha: float = _CHARACTER_WEIGHTS.alpha,
        beta: float = _CHARACTER_WEIGHTS.beta,
        width: int = _CHARACTER_WEIGHTS.width,
    ):
        self.labels, self.arpa = list(labels), arpa
        self.weights = Weights(alpha, beta, width)
        _check_weights(self.weights)
        model = ngrams.read_arpa(arpa)
        made_for = language_model.read_notes(arpa).get("labels", self.labels)
        known = {chr(number + language_model.TOKEN_OFFSET) for number in range(len(self.labels))}
        if made_for != self.labels or not known.issuperset(model.vocabulary):
            raise InputError(
                f"{arpa}: a character model for the labels {''.join(made_for)!r}, but the acoustic model has "
                f"{''.join(self.labels)!r}; NeMo looks letters up by index, so the two must be the same"
            )
        self.order = model.order

    def with_weights(self, weights: Weights) -> "CharacterSearch":
        """Copy the search with other weights."""
        _check_weights(weights)
        other = copy.copy(self)
        other.weights = weights
        other.__dict__.pop("_decoding", None)
        return other

    def __str__(self) -> str:
        return f"beam_batch, character {self.order}-gram ({_described(self.weights)})"

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


Search = BeamSearch | CharacterSearch


def load(
    arpa: str | os.PathLike,
    labels: Sequence[str],
    alpha: float | None = None,
    beta: float | None = None,
    width: int | None = None,
) -> Search:
    """Load the search for an ARPA file: `BeamSearch` for words, NeMo's `beam_batch` for characters.

    Args:
        arpa: the language model; its words are the lexicon, in lower case if they are all capitals and the labels none.
        labels: the acoustic model's letters, from `models.loading.alphabet`.
        alpha, beta, width: by default the file's tuned weights, else this module's defaults.

    Raises:
        InputError: the file or its notes can't be read, or don't fit the labels.
    """
    if any(len(label) != 1 for label in labels):
        raise InputError("beam search with a language model needs a model of letters; this one has subword pieces")
    model = ngrams.read_arpa(arpa)
    of_characters = language_model.is_of_characters(model)
    words = "".join(model.vocabulary)
    if not of_characters and words.isupper() and "".join(labels).islower():
        model = ngrams.lowered(model)
    weights = language_model.tuned_weights(arpa) or (_CHARACTER_WEIGHTS if of_characters else WORD_WEIGHTS)
    given = {"alpha": alpha, "beta": beta, "width": width}
    weights = replace(weights, **{name: value for name, value in given.items() if value is not None})
    if of_characters:
        return CharacterSearch(labels, arpa, weights.alpha, weights.beta, weights.width)
    try:
        return BeamSearch(labels, model, weights.alpha, weights.beta, weights.width)
    except InputError as error:
        raise InputError(f"{arpa}: {error}") from None
