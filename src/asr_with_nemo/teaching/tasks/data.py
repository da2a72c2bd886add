"""Checks of the tasks of 01_data."""

from collections.abc import Collection, Sequence

from asr_with_nemo.data.manifest import Utterance
from asr_with_nemo.teaching.tasks import Wrong, number


def task_1(answer: object, train: Sequence[Utterance], test: Sequence[Utterance]) -> str:
    """Check the number of test utterances whose transcript occurs in train."""
    known = {row["text"] for row in train}
    right = sum(row["text"] in known for row in test)
    answer = number(answer, "The answer is a number: how many of the test utterances.")
    if answer == right:
        return (
            f"{right} of {len(test)}. New speakers, but not only new sentences: short commands come again and again. "
            "For a system that must understand new sentences, look at the others by themselves."
        )
    if answer == len({row["text"] for row in test} & known) != right:
        raise Wrong("You counted texts. Utterances are asked for: a text that the test set has twice counts twice.")
    if answer == sum(row["text"] in {other["text"] for other in test} for row in train):
        raise Wrong("This is the other way round: utterances of train whose transcript occurs in test.")
    if abs(answer - right / len(test)) < 0.01 or abs(answer - 100 * right / len(test)) < 0.6:
        raise Wrong("The share is right; give the number of utterances.")
    raise Wrong("Put the transcripts of train into a set, and count the rows of test whose `text` is in it.")


def task_2(answer: object, rows: Sequence[Utterance]) -> str:
    """Check a choice of speakers to hold out: their share of the utterances, and of women and men."""
    speakers = {row["speaker"] for row in rows}
    if isinstance(answer, str) or not isinstance(answer, Collection):
        raise Wrong("The answer is a list or a set of speakers' names, as the key `speaker` has them.")
    unknown = sorted(str(name) for name in answer if name not in speakers)
    if unknown:
        raise Wrong(f"There is no speaker {unknown[0]!r} among these utterances.")
    held = [row for row in rows if row["speaker"] in set(answer)]
    share = len(held) / len(rows)
    if not 0.08 <= share <= 0.25:
        raise Wrong(f"They said {share:.0%} of the utterances; between 8% and 25% are asked for.")
    women, women_held = (_women(part) for part in (rows, held))
    if abs(women - women_held) > (0.1 if len(speakers) >= 20 else 0.3):  # few speakers leave little choice
        raise Wrong(
            f"Women said {women_held:.0%} of what you hold out, and {women:.0%} of all. On this dev set a change that "
            "helps the ones and harms the others would look better or worse than it is."
        )
    return f"{len(held)} utterances of {len(set(answer))} speakers, {women_held:.0%} by women ({women:.0%} in all)."


def _women(rows: Sequence[Utterance]) -> float:
    return sum(row["speaker"].startswith("f") for row in rows) / len(rows)
