"""The checks of 09_inference's tasks."""

from collections.abc import Sequence

import numpy as np

from asr_with_nemo.recognition.results import read_utterances
from asr_with_nemo.recognition.wer import ScoredUtterance
from asr_with_nemo.teaching.tasks import Wrong, pair, whole


def task_1(answer: object) -> str:
    """Check the least number of words without an error that show a WER below 1%: 1 - 0.025^(1 / N) < 0.01."""
    answer = whole(answer, f"Give a number of words, a whole one; this is {answer!r}.")
    bound = 1 - 0.025 ** (1 / max(1, answer))
    if 298 <= answer <= 301:
        raise Wrong(
            "That is the rule of three, which leaves 5% on one side. The two-sided interval leaves 2.5% on each, and "
            "so needs a few more words."
        )
    if bound >= 0.01:
        raise Wrong(f"With {answer} words the interval goes up to {bound:.2%}, which isn't below 1%.")
    if 1 - 0.025 ** (1 / (answer - 1)) < 0.01:
        raise Wrong(f"With {answer} words it goes up to {bound:.2%}: below 1%, but fewer words would do as well.")
    return (
        f"The interval goes up to {bound:.3%}. It takes the words as independent, so that of one speaker you would "
        "need more."
    )


def task_2(answer: object) -> str:
    """Check the interval of a paired difference, drawn by speakers."""
    low, high = pair(answer, f"Give two numbers, (low, high), in points of WER; this is {answer!r}.")
    study = {(row["name"], row["seed"]): heard for row, heard in read_utterances("ablation")}
    sides = study["no SpecAugment", 0], study["the recipe", 0]
    expected = _paired(*sides, by_speaker=True)
    if _near((low, high), expected, 0.5):
        outside = "still outside" if low > 0 or high < 0 else "inside now"
        return f"Zero is {outside}: what was seen doesn't hang on one or two of the speakers."
    if _near((100 * low, 100 * high), expected, 0.5):
        raise Wrong("These are fractions; the answer is wanted in points, that is, times 100.")
    if _near((-high, -low), expected, 0.5):
        raise Wrong('The sign is the other way round: the difference is "no SpecAugment" - "the recipe".')
    if low > high:
        raise Wrong("The lower bound comes first.")
    if _near((low, high), _paired(*sides, by_speaker=False), 0.25):
        raise Wrong("That is the interval for drawn utterances. Sum the errors and words of each speaker first.")
    if high - low > 2 * (expected[1] - expected[0]):
        raise Wrong("Too wide: have both models been given the same drawn speakers in each draw?")
    raise Wrong(
        "Sum errors of both models and words by speaker, draw as many speakers as there are, with replacement, and "
        "take 100 * (one's errors - the other's) / words; then the 2.5th and 97.5th percentile of 10,000 draws."
    )


def _near(bounds: tuple[float, float], expected: tuple[float, float], tolerance: float) -> bool:
    return all(abs(bound - other) <= tolerance for bound, other in zip(bounds, expected, strict=True))


def _paired(
    rows: Sequence[ScoredUtterance], others: Sequence[ScoredUtterance], by_speaker: bool
) -> tuple[float, float]:
    """Return the 95% interval of the difference of two WERs, in points, by a paired bootstrap."""
    theirs = {row.file: row.words.errors for row in others}
    groups: dict[str, np.ndarray] = {}
    for row in rows:
        name = row.speaker if by_speaker else row.file
        counts = np.array([row.words.errors - theirs[row.file], row.words.words])
        groups[name] = groups.get(name, 0) + counts
    values = np.array(list(groups.values()))
    drawn = values[np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))].sum(axis=1)
    low, high = np.percentile(100 * drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(low), float(high)
