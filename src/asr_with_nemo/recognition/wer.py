"""Word and character error rates with raw counts, 95% intervals, and comparisons of results.

WER = (S + D + I) / N: the fewest words to substitute, delete and insert that turn the reference into the hypothesis,
over all utterances, divided by the words of all references. CER is the same over characters. Runs of spaces count as
one. Of several equally short alignments, `kaldialign` takes one; another program may split the same number of errors
into S, D and I a little differently.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from asr_with_nemo.errors import InputError

Unit = Literal["word", "character"]
RESAMPLES, SEED = 10_000, 0
"""Of the bootstrap; the seed is fixed, so that the same result has the same interval."""


@dataclass(frozen=True)
class Counts:
    """Errors, and the words (for a CER: the characters) of the reference."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0

    @property
    def errors(self) -> int:
        """S + D + I."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors a word, 0 for none; None where the reference has no words."""
        return self.errors / self.words if self.words else None

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.words + other.words,
        )


def _units(text: str, unit: Unit) -> list[str]:
    return text.split() if unit == "word" else list(" ".join(text.split()))


def count_errors(reference: str, hypothesis: str, unit: Unit = "word") -> Counts:
    """Count the errors of a hypothesis, in words or in characters (spaces included)."""
    import kaldialign

    counts = kaldialign.edit_distance(_units(reference, unit), _units(hypothesis, unit))
    return Counts(counts["sub"], counts["del"], counts["ins"], counts["ref_len"])


@dataclass(frozen=True)
class ScoredUtterance:
    """One utterance of an evaluation; `file` is relative to the manifest's folder, `speaker` empty where unknown."""

    file: str
    speaker: str
    reference: str
    hypothesis: str

    @cached_property
    def words(self) -> Counts:
        """Errors in words."""
        return count_errors(self.reference, self.hypothesis)

    @cached_property
    def characters(self) -> Counts:
        """Errors in characters."""
        return count_errors(self.reference, self.hypothesis, "character")


def total_errors(rows: Sequence[ScoredUtterance], unit: Unit = "word") -> Counts:
    """The errors of all utterances together."""
    return sum((row.words if unit == "word" else row.characters for row in rows), Counts())


def by_speaker(rows: Sequence[ScoredUtterance]) -> dict[str, Counts]:
    """Errors in words by speaker, the best first; empty where the manifest names no speakers."""
    groups = defaultdict(Counts)
    for row in rows:
        if row.speaker:
            groups[row.speaker] += row.words
    return dict(sorted(groups.items(), key=lambda item: (item[1].rate or 0, item[0])))


def confusions(rows: Sequence[ScoredUtterance], unit: Unit = "word") -> Counter[tuple[str, str]]:
    """How often what was taken for what: (reference, hypothesis) → times.

    ("nine", "five") is a substitution, ("nine", "") a deletion, ("", "nine") an insertion. What is right isn't counted.
    """
    import kaldialign

    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        pairs = kaldialign.align(_units(row.reference, unit), _units(row.hypothesis, unit), "")
        counts.update(tuple(pair) for pair in pairs if pair[0] != pair[1])
    return counts


def of_letters(confusions: Mapping[tuple[str, str], int]) -> Counter[tuple[str, str]]:
    """Those of the confusions of words that are about a letter said by its name, a word of one letter.

    Also counted is a letter that was heard where nothing was said.
    """
    return Counter({pair: times for pair, times in confusions.items() if len(pair[0] or pair[1]) == 1})


def wer_interval(rows: Sequence[ScoredUtterance]) -> tuple[float, float]:
    """The 95% interval of the WER, by a percentile bootstrap over utterances.

    Utterances are drawn with replacement, as many as there are, `RESAMPLES` times. Source: M. Bisani and H. Ney,
    "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004. It takes utterances as
    independent; where a speaker says many, the truth is wider.
    """
    return _bootstrap([row.words.errors for row in rows], [row.words.words for row in rows])


def _bootstrap(errors: Sequence[int], words: Sequence[int]) -> tuple[float, float]:
    from scipy import stats

    def rate(errors: np.ndarray, words: np.ndarray, axis: int = -1) -> np.ndarray:
        # A draw of nothing but empty references has no words: its rate counts as errors, not as nan.
        return errors.sum(axis) / np.maximum(words.sum(axis), 1)

    data = np.array(errors), np.array(words)
    if len(data[0]) < 2:  # every draw is the same
        return float(rate(*data)), float(rate(*data))
    result = stats.bootstrap(
        data,
        rate,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // len(data[0])),  # some megabytes at a time
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@dataclass(frozen=True)
class Comparison:
    """Two results on the same utterances.

    Attributes:
        this, other: errors in words of the two.
        ci95: 95% interval of the difference this WER - other WER, by a bootstrap over pairs of utterances.
    """

    this: Counts
    other: Counts
    ci95: tuple[float, float]

    @property
    def difference(self) -> float:
        """This WER - the other; below zero where this one is better."""
        return self.this.rate - self.other.rate

    @property
    def is_more_than_chance(self) -> bool:
        """Whether zero lies outside the 95% interval."""
        return not self.ci95[0] <= 0 <= self.ci95[1]

    def __str__(self) -> str:
        low, high = (f"{100 * bound:+.1f}" for bound in self.ci95)
        figures = f"WER {self.this.rate:.1%} against {self.other.rate:.1%}"
        if self.this.errors == self.other.errors and self.ci95 == (0, 0):
            return f"{figures}: no difference, utterance by utterance"
        figures += f": {100 * self.difference:+.1f} points, 95% interval {low} to {high}"
        if not self.is_more_than_chance:
            return f"{figures}; no difference that chance could not have made"
        return f"{figures}; {'better' if self.difference < 0 else 'worse'}, by more than chance"


def compare(rows: Sequence[ScoredUtterance], others: Sequence[ScoredUtterance]) -> Comparison:
    """Whether two results on the same utterances differ by more than chance (paired bootstrap).

    Raises:
        InputError: the two aren't of the same utterances with the same references.
    """
    ours, theirs = ({(row.file, row.reference): row for row in side} for side in (rows, others))
    if len(rows) != len(others) or ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys())
        example = f"; {alone[0][0]} ({alone[0][1]!r}) is in one only" if alone else ""
        raise InputError(
            f"the two results are not of the same utterances ({len(rows)} and {len(others)}){example}; "
            "evaluate both models on the same manifest"
        )
    pairs = [(ours[key], theirs[key]) for key in ours]
    differences = [one.words.errors - other.words.errors for one, other in pairs]
    ci95 = _bootstrap(differences, [one.words.words for one, _ in pairs])
    return Comparison(total_errors(rows), total_errors(others), ci95)


def mean_of_seeds(trainings: Sequence[Sequence[ScoredUtterance]]) -> tuple[float, tuple[float, float]]:
    """The mean WER of several trainings on the same utterances, and its 95% interval.

    The bootstrap draws utterances, each with what all the trainings made of it: it says how far another test set might
    lead elsewhere, and not another seed. The spread of the trainings themselves says that.

    Raises:
        InputError: they aren't of the same utterances.
    """
    errors, words = (counts.sum(0) for counts in _by_utterance(trainings))
    return float(errors.sum() / words.sum()), _bootstrap(errors, words)


def difference_of_seeds(
    these: Sequence[Sequence[ScoredUtterance]], others: Sequence[Sequence[ScoredUtterance]]
) -> tuple[float, tuple[float, float]]:
    """The mean WER of some trainings minus that of others, and its 95% interval by a bootstrap over utterances.

    Raises:
        InputError: they aren't of the same utterances, or not as many on both sides.
    """
    if len(these) != len(others):
        raise InputError(f"{len(these)} trainings against {len(others)}; expected as many on both sides")
    errors, words = _by_utterance([*these, *others])
    ours, theirs = errors[: len(these)].sum(0), errors[len(these) :].sum(0)
    words = words[: len(these)].sum(0)
    return float((ours.sum() - theirs.sum()) / words.sum()), _bootstrap(ours - theirs, words)


def _by_utterance(trainings: Sequence[Sequence[ScoredUtterance]]) -> tuple[np.ndarray, np.ndarray]:
    """Errors and words, (trainings, utterances) each, the utterances in one order.

    Raises:
        InputError: the trainings aren't of the same utterances.
    """
    tables = [{(row.file, row.reference): row.words for row in rows} for rows in trainings]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise InputError("the results are not of the same utterances; evaluate all models on the same manifest")
    order = sorted(tables[0])
    counts = [[table[key] for key in order] for table in tables]
    errors = np.array([[count.errors for count in row] for row in counts])
    return errors, np.array([[count.words for count in row] for row in counts])
