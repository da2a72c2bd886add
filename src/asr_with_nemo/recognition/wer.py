"""Word and character error rates: raw counts, 95% confidence intervals and paired comparisons of two results.

WER = (S + D + I) / N: the minimum number of substituted, deleted and inserted words that turn the reference into the
hypothesis, summed over all utterances and divided by the words of all references. CER is the same over characters. Runs
of spaces count as one space. Where several alignments are equally short, `kaldialign` takes one of them (`align` says
which); another program may split the same number of errors into S, D and I a little differently.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from asr_with_nemo.errors import InputError

Unit = Literal["word", "character"]
_RESAMPLES, _SEED = 10_000, 0
"""Of the bootstrap; the seed is fixed, so that the same result has the same interval."""
_MANY = 20_000
"""With more utterances, those with equal counts are drawn together, in a hundredth of the time."""
_FEW = 10
"""With errors in fewer utterances than these, a percentile bootstrap is too narrow."""


@dataclass(frozen=True)
class Counts:
    """Number of errors by kind, and of the reference's words (for a CER: its characters).

    Example:
        >>> (Counts(substitutions=1, words=5) + Counts(deletions=1, words=3)).rate
        0.25
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0

    @property
    def errors(self) -> int:
        """Number of errors, S + D + I."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per word, as a fraction; above 1 with many insertions, None if the reference has no words."""
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
    """Count the errors of a hypothesis, in words or in characters (spaces included).

    Example:
        >>> count_errors("g l e n n", "g l a n")
        Counts(substitutions=1, deletions=1, insertions=0, words=5)
        >>> count_errors("nine", "none", "character").rate
        0.25
    """
    import kaldialign

    counts = kaldialign.edit_distance(_units(reference, unit), _units(hypothesis, unit))
    return Counts(counts["sub"], counts["del"], counts["ins"], counts["ref_len"])


def align(reference: str, hypothesis: str, unit: Unit = "word") -> list[tuple[str, str]]:
    """Align a hypothesis with its reference, with as few errors as possible: (reference, hypothesis) of each step.

    A deleted word has "" as its hypothesis, an inserted one as its reference. Of several such alignments it is the one
    that is found from the end on by taking an insertion, else a deletion, else a substitution or a correct word.

    Example:
        >>> align("g l e n n", "g l a n")
        [('g', 'g'), ('l', 'l'), ('e', 'a'), ('n', 'n'), ('n', '')]
    """
    import kaldialign

    return [tuple(pair) for pair in kaldialign.align(_units(reference, unit), _units(hypothesis, unit), "")]


@dataclass(frozen=True)
class ScoredUtterance:
    """One utterance of an evaluation; `file` is relative to the manifest's folder, `speaker` is empty if unknown."""

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
    """Sum the errors of all utterances."""
    return sum((row.words if unit == "word" else row.characters for row in rows), Counts())


def by_speaker(rows: Sequence[ScoredUtterance]) -> dict[str, Counts]:
    """Count the errors in words by speaker, lowest WER first; empty if the manifest names no speakers.

    Example:
        >>> rows = [ScoredUtterance("1.wav", "anna", "go", "no"), ScoredUtterance("2.wav", "ben", "yes", "yes")]
        >>> {speaker: counts.rate for speaker, counts in by_speaker(rows).items()}
        {'ben': 0.0, 'anna': 1.0}
    """
    groups = defaultdict(Counts)
    for row in rows:
        if row.speaker:
            groups[row.speaker] += row.words
    return dict(sorted(groups.items(), key=lambda item: (item[1].rate or 0, item[0])))


def confusions(rows: Sequence[ScoredUtterance], unit: Unit = "word") -> Counter[tuple[str, str]]:
    """Count the confusion pairs of all utterances: (reference, hypothesis) → times.

    ("nine", "five") is a substitution, ("nine", "") a deletion, ("", "nine") an insertion. Correct words don't count.

    Example:
        >>> confusions([ScoredUtterance("1.wav", "", "nine five", "five five")])
        Counter({('nine', 'five'): 1})
    """
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts.update(pair for pair in align(row.reference, row.hypothesis, unit) if pair[0] != pair[1])
    return counts


def of_letters(confusions: Mapping[tuple[str, str], int]) -> Counter[tuple[str, str]]:
    """Select the confusions of spelled letters, which are words of one character.

    An inserted letter counts too.

    Example:
        >>> of_letters({("b", "v"): 2, ("five", "v"): 3, ("", "e"): 1})
        Counter({('b', 'v'): 2, ('', 'e'): 1})
    """
    return Counter({pair: times for pair, times in confusions.items() if len(pair[0] or pair[1]) == 1})


def wer_interval(rows: Sequence[ScoredUtterance]) -> tuple[float, float]:
    """Estimate the 95% confidence interval of the WER, by a percentile bootstrap over utterances.

    Utterances are drawn with replacement, as many as there are, 10,000 times. Source: M. Bisani and H. Ney, "Bootstrap
    estimates for confidence intervals in ASR performance evaluation", ICASSP 2004. Utterances are taken as independent;
    with many utterances per speaker the true interval is wider.

    If every draw has the same WER (no errors, every word wrong, a single utterance), a bootstrap has no width; and if
    fewer than ten utterances have errors, its width is too small. The interval is then at least as wide as the exact
    binomial one over words, which takes words as independent: C. J. Clopper and E. S. Pearson, "The use of confidence
    or fiducial limits illustrated in the case of the binomial", Biometrika 26(4), 1934. No error in N words: up to
    about 3.7 / N (the "rule of three", 3 / N, is the one-sided bound).

    Example:
        >>> rows = [ScoredUtterance(f"{number}.wav", "", "yes", "yes") for number in range(50)]
        >>> low, high = wer_interval(rows)  # no errors in 50 words
        >>> f"{low:.1%} to {high:.1%}"
        '0.0% to 7.1%'
    """
    return rate_interval([row.words.errors for row in rows], [row.words.words for row in rows])


def rate_interval(errors: Sequence[int], words: Sequence[int], trainings: int = 1) -> tuple[float, float]:
    """As `wer_interval`, of errors and words by utterance, each the sum over a number of trainings.

    It holds for other shares of words too, such as those that were found.
    """
    from scipy import stats

    low, high = _bootstrap(errors, words)
    if low < high and np.count_nonzero(errors) >= _FEW:
        return low, high
    # The same words, read by several models, are no more words.
    count = max(1, round(sum(words) / trainings))
    exact = stats.binomtest(min(count, round(sum(errors) / trainings)), count).proportion_ci(0.95, method="exact")
    return float(min(exact.low, low)), float(max(exact.high, high))  # a WER above 1 is no proportion


def _bootstrap(errors: Sequence[int], words: Sequence[int], confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of sum(errors) / sum(words) over draws of utterances; errors may be differences."""
    from scipy import stats

    def rate(errors: np.ndarray, words: np.ndarray, axis: int = -1) -> np.ndarray:
        # A draw of only empty references has no words: its rate is the number of errors, not NaN.
        return errors.sum(axis) / np.maximum(words.sum(axis), 1)

    data = np.array(errors), np.array(words)
    if len(data[0]) < 2:  # every draw is the same
        return float(rate(*data)), float(rate(*data))
    if len(data[0]) > _MANY:
        return _bootstrap_of_many(*data, confidence)
    result = stats.bootstrap(
        data,
        rate,
        n_resamples=_RESAMPLES,
        batch=max(1, 1_000_000 // len(data[0])),  # some megabytes at a time
        vectorized=True,
        paired=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _bootstrap_of_many(errors: np.ndarray, words: np.ndarray, confidence: float) -> tuple[float, float]:
    """As `_bootstrap`: how often each pair of counts is drawn has a multinomial distribution."""
    kinds, counts = np.unique(np.stack([errors, words], axis=1), axis=0, return_counts=True)
    generator = np.random.default_rng(_SEED)
    sums = [generator.multinomial(counts.sum(), counts / counts.sum()) @ kinds for _ in range(_RESAMPLES)]
    errors, words = np.array(sums).T
    low, high = np.quantile(errors / np.maximum(words, 1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def difference_interval(
    differences: Sequence[int], words: Sequence[int], trainings: int = 1, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of sum(differences) / sum(words), where differences of errors are by utterance.

    If every draw has the same difference (none in any utterance, or a single utterance), a bootstrap has no width. Of
    N words none has then departed from that difference, so that up to 1 - 0.025^(1 / N) of all words may (at 95%, the
    exact bound of Clopper and Pearson): one that only the one model gets wrong, or only the other.
    """
    low, high = _bootstrap(differences, words, confidence)
    if low < high:
        return low, high
    departing = 1 - ((1 - confidence) / 2) ** (1 / max(1, round(sum(words) / trainings)))
    return low + departing * (min(-1, low) - low), high + departing * (max(1, high) - high)


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of two results on the same utterances.

    Attributes:
        this, other: errors in words of the two results.
        ci95: 95% confidence interval of the difference, this WER - other WER, by a bootstrap over pairs of utterances;
            where no two utterances differ it has no width, and an exact bound takes its place (`compare`).

    Example:
        >>> print(Comparison(Counts(4, words=100), Counts(9, words=100), (-0.08, -0.02)))
        WER 4.0% against 9.0%: -5.0 points, 95% interval -8.0 to -2.0; better, statistically significant
    """

    this: Counts
    other: Counts
    ci95: tuple[float, float]

    @property
    def difference(self) -> float:
        """This WER - the other WER, as a fraction; negative if this one is better."""
        return self.this.rate - self.other.rate

    @property
    def is_significant(self) -> bool:
        """Whether the 95% interval excludes 0."""
        return not self.ci95[0] <= 0 <= self.ci95[1]

    def __str__(self) -> str:
        low, high = (f"{100 * bound:+.1f}" for bound in self.ci95)
        figures = f"WER {self.this.rate:.1%} against {self.other.rate:.1%}"
        figures += f": {100 * self.difference:+.1f} points, 95% interval {low} to {high}"
        if not self.is_significant:
            return f"{figures}; not statistically significant (95% interval includes 0)"
        return f"{figures}; {'better' if self.difference < 0 else 'worse'}, statistically significant"


def compare(rows: Sequence[ScoredUtterance], others: Sequence[ScoredUtterance]) -> Comparison:
    """Test whether two results on the same utterances differ significantly, by a paired bootstrap.

    Two results without a difference in any utterance aren't proven to be equal: in N words, the interval of their
    difference is then ±(1 - 0.025^(1 / N)), the exact bound for what was never seen.

    Example:
        >>> rows = [ScoredUtterance(f"{number}.wav", "", "yes", "yes") for number in range(50)]
        >>> print(compare(rows, rows))
        WER 0.0% against 0.0%: +0.0 points, 95% interval -7.1 to +7.1; not statistically significant (95% interval \
includes 0)

    Raises:
        InputError: the utterances or their references differ.
    """
    pairs = paired(rows, others)
    differences = [one.words.errors - other.words.errors for one, other in pairs]
    ci95 = difference_interval(differences, [one.words.words for one, _ in pairs])
    return Comparison(total_errors(rows), total_errors(others), ci95)


def paired(
    rows: Sequence[ScoredUtterance], others: Sequence[ScoredUtterance]
) -> list[tuple[ScoredUtterance, ScoredUtterance]]:
    """Pair the utterances of two results, in the order of the first.

    Parts of one recording have one file. Those that also have one reference are paired in their order.

    Example:
        >>> one, other = ([ScoredUtterance("a.wav", "", "yes", text) for text in texts] for texts in ("xy", "uv"))
        >>> [(row.hypothesis, its.hypothesis) for row, its in paired(one, other)]
        [('x', 'u'), ('y', 'v')]

    Raises:
        InputError: the utterances or their references differ.
    """
    waiting: dict[tuple[str, str], deque[ScoredUtterance]] = defaultdict(deque)
    for row in others:
        waiting[row.file, row.reference].append(row)
    ours, theirs = Counter((row.file, row.reference) for row in rows), Counter({k: len(v) for k, v in waiting.items()})
    if ours != theirs:
        alone = sorted({*(ours - theirs), *(theirs - ours)})
        example = f"; only one has {alone[0][0]} ({alone[0][1]!r})" if alone else ""
        raise InputError(
            f"the two results are not of the same utterances ({len(rows)} and {len(others)}){example}; "
            "evaluate both models on the same manifest"
        )
    return [(row, waiting[row.file, row.reference].popleft()) for row in rows]


def mean_of_seeds(trainings: Sequence[Sequence[ScoredUtterance]]) -> tuple[float, tuple[float, float]]:
    """Average the WER of several trainings (seeds) on the same utterances, with its 95% confidence interval.

    The bootstrap draws utterances, each with the hypotheses of all trainings, so the interval covers the choice of the
    test set, not that of the seed. See the spread of the trainings' own WERs for the seed.

    Raises:
        InputError: the trainings' utterances differ.
    """
    errors, words = (counts.sum(0) for counts in _by_utterance(trainings))
    return float(errors.sum() / words.sum()), rate_interval(errors, words, len(trainings))


def difference_of_seeds(
    these: Sequence[Sequence[ScoredUtterance]],
    others: Sequence[Sequence[ScoredUtterance]],
    confidence: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """Subtract the mean WER of other trainings from that of these, with its interval by a bootstrap over utterances.

    Args:
        these, others: the scored utterances of as many trainings on both sides.
        confidence: of the interval. Of several comparisons, each at 95%, some exclude 0 by chance; with
            `1 - 0.05 / comparisons` there is any such with a probability of at most 5% (Bonferroni's correction).

    Raises:
        InputError: the utterances differ, or the numbers of trainings do.
    """
    if len(these) != len(others):
        raise InputError(f"{len(these)} trainings against {len(others)}; expected the same number on both sides")
    errors, words = _by_utterance([*these, *others])
    ours, theirs = errors[: len(these)].sum(0), errors[len(these) :].sum(0)
    words = words[: len(these)].sum(0)
    return float((ours.sum() - theirs.sum()) / words.sum()), difference_interval(
        ours - theirs, words, len(these), confidence
    )


def _by_utterance(trainings: Sequence[Sequence[ScoredUtterance]]) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and words, (trainings, utterances) each, with the utterances in one order.

    Raises:
        InputError: the trainings' utterances differ.
    """
    tables = [{(row.file, row.reference): row.words for row in rows} for rows in trainings]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise InputError("the results are not of the same utterances; evaluate all models on the same manifest")
    order = sorted(tables[0])
    counts = [[table[key] for key in order] for table in tables]
    errors = np.array([[count.errors for count in row] for row in counts])
    return errors, np.array([[count.words for count in row] for row in counts])
