"""CTC prefix beam search: what the search for words (`beam`) and the one for letters or pieces (`token_beam`) share.

The probabilities of the alignments of a text are summed, and a score is

    log p_ctc(text) + alpha · log p_lm(text) + beta · tokens + bonuses of boosted phrases

Sources: A. Graves and N. Jaitly, "Towards end-to-end speech recognition with recurrent neural networks", ICML 2014;
A. Hannun, A. Maas, D. Jurafsky and A. Ng, "First-pass large vocabulary continuous speech recognition using
bi-directional recurrent DNNs", arXiv 1408.2873, 2014.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.boosting import Phrases
from asr_with_nemo.recognition.language_model import Weights

# With lower thresholds or a width above 32, AN4's dev set takes several times as long, and its number of errors
# changes by at most one.
LEAST_LETTER = 1e-5
"""A hypothesis is extended by a letter if the letter has at least this probability in the frame."""
LEAST_PREFIX = 1e-9
"""A hypothesis is kept while it has at least this fraction of the best one's probability."""


class Grid(NamedTuple):
    """Grid of values for tuning; alphas and betas in even steps."""

    alphas: Sequence[float]
    betas: Sequence[float]
    widths: Sequence[int]


def steps(first: float, last: float, step: float) -> tuple[float, ...]:
    """Return the values of an axis of a grid, in even steps."""
    return tuple(round(first + step * number, 6) for number in range(round((last - first) / step) + 1))


@dataclass(frozen=True)
class Hypothesis:
    """Hypothesis of a beam search.

    Attributes:
        text: its words; during the search, the last may be unfinished.
        ctc: natural log of the text's acoustic probability, summed over the alignments that the search kept.
        lm: natural log of the finished words' (letters', pieces') probability by the language model, including `</s>`
            at the end.
        total: the score, ctc + alpha · lm + beta · words, and the bonuses of boosted phrases.
    """

    text: str
    ctc: float
    lm: float
    total: float


class Prefix:
    """Prefix in the beam: its probability over all alignments that end in blank, and over those that end in its letter.

    Both include the weighted language model score, as does `gain`, which a frame adds. `history`, `lm` and `bonus` are
    those of its finished words; `bonus` is beta for each, and what boosts them. There is one object per sequence of
    letters or pieces, so that its alignments are merged.
    """

    __slots__ = ("blank", "bonus", "children", "gain", "history", "label", "letter", "lm", "node", "text", "total")

    def __init__(self, text: str, label: int, node: Any, history: tuple, lm: float, bonus: float):
        self.text, self.label, self.node = text, label, node
        self.history, self.lm, self.bonus = history, lm, bonus
        self.children: dict[int, tuple[Prefix, float] | None] = {}
        self.blank = self.letter = self.total = self.gain = 0.0


class PrefixSearch(ABC):
    """CTC prefix beam search. A subclass says how a prefix grows (`_child`) and how it ends (`_ending`).

    Attributes:
        labels: the model's letters or pieces in the order of its outputs; the blank comes after the last.
        weights: alpha, beta and width.
    """

    labels: list[str]
    weights: Weights

    @abstractmethod
    def _empty(self) -> Prefix:
        """Return the prefix of an empty text."""

    @abstractmethod
    def _child(self, prefix: Prefix, label: int) -> tuple[Prefix, float] | None:
        """Extend a prefix by a letter; return it with its probability's factor, None if no text continues so."""

    @abstractmethod
    def _ending(self, prefix: Prefix) -> tuple[str, float, float, float]:
        """Finish a prefix: its text, the text's log-probability and bonus, and the factor of the ending."""

    def _is_whole(self, prefix: Prefix) -> bool:
        """Return whether a recording may stop here."""
        return True

    @abstractmethod
    def _boost(self, boosts: Phrases) -> None:
        """Take these boosts, in place of those that there were."""

    @abstractmethod
    def _forget(self) -> None:
        """Forget what depends on the weights."""

    def with_boosts(self, boosts: Phrases) -> Self:
        """Copy the search with other boosts; it takes no longer for a large lexicon.

        Raises:
            InputError: the model can't write a phrase.
        """
        other = copy.copy(self)
        other._boost(boosts)
        return other

    def with_weights(self, weights: Weights) -> Self:
        """Copy the search with other weights."""
        check_weights(weights)
        other = copy.copy(self)
        other.weights = weights
        other._forget()
        return other

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
        whole = [prefix for prefix in beam if self._is_whole(prefix)] or beam
        merged: dict[str, tuple[float, float, float]] = {}
        for prefix in whole:
            text, lm, bonus, factor = self._ending(prefix)
            prob, *others = merged.get(text, (0.0, lm, bonus))  # "yes" and "yes " are one text
            merged[text] = prob + prefix.total * factor, *others
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

    def _search(self, log_probs: np.ndarray) -> Iterator[tuple[list[Prefix], float]]:
        """Yield the beam after each frame, and a scale: probabilities are those of the beam times exp(scale)."""
        blank, width = len(self.labels), self.weights.width
        if log_probs.ndim != 2 or log_probs.shape[1] != blank + 1:
            raise InputError(f"log-probs of shape {log_probs.shape}; expected (T, {blank + 1}): the labels and a blank")
        probs = np.exp(log_probs.astype(np.float64))  # (T, V)
        likely: list[list[int]] = [[] for _ in probs]
        for frame, label in np.argwhere(probs[:, :blank] >= LEAST_LETTER).tolist():
            likely[frame].append(label)

        first = self._empty()
        first.blank = first.total = 1.0
        beam, scale = [first], 0.0
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

    def _hypothesis(self, text: str, prob: float, lm: float, bonus: float, scale: float) -> Hypothesis:
        total = scale + (math.log(prob) if prob else -math.inf)
        return Hypothesis(text, total - self.weights.alpha * lm - bonus, lm, total)


def _ranked(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: (-hypothesis.total, hypothesis.text))


def _pruned(beam: list[Prefix], width: int, least: float) -> list[Prefix]:
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


def check_weights(weights: Weights) -> None:
    """Make sure that the weights of a search are in their ranges.

    Raises:
        InputError: one isn't.
    """
    if not (0 <= weights.alpha <= 100 and -100 <= weights.beta <= 100 and weights.width >= 1):
        raise InputError(
            f"alpha {weights.alpha:g}, beta {weights.beta:g}, width {weights.width}: expected an alpha of 0 to 100, a "
            "beta of -100 to 100, and a width of 1 or more"
        )


def described(weights: Weights) -> str:
    """Return the weights in words."""
    return f"alpha {weights.alpha:g}, beta {weights.beta:g}, width {weights.width}"
