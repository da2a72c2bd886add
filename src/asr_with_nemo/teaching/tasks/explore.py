"""Checks of the tasks in 03_explore."""

from collections.abc import Mapping, Sequence

from asr_with_nemo.own_data.quality import frames_needed
from asr_with_nemo.teaching.tasks import Wrong, number, whole

_FRAME = 0.08
"""Seconds per output frame in the first task."""
Row = Mapping[str, object]


def _too_short(rows: Sequence[Row], needed, slack: float = 0.0) -> int:
    return sum(needed(row["Transcript"]) > int(row["Duration"] / _FRAME + slack) for row in rows)


def task_1(count: int, rows: Sequence[Row]) -> str:
    """The number of rows whose text needs more frames of 80 ms than there are.

    Args:
        count: the answer.
        rows: as from `explore.dataset_rows`.
    """
    count = whole(count, "The answer is a number of rows.")
    # A duration that is a multiple of 80 ms may come out a frame short, as floating-point numbers are.
    least, most = _too_short(rows, frames_needed, 1e-6), _too_short(rows, frames_needed, -1e-6)
    if least <= count <= most:
        return f"{count} of {len(rows)} rows: why networks with so few frames write pieces of words."
    without_blanks = {_too_short(rows, len, slack) for slack in (1e-6, 0.0, -1e-6)}
    without_spaces = {_too_short(rows, lambda text: len(text.replace(" ", "")), slack) for slack in (1e-6, 0.0, -1e-6)}
    if count == sum(row["Duration"] < 0.02 * frames_needed(row["Transcript"]) for row in rows):
        raise Wrong("That is the number for frames of 20 ms; here a frame is four times as long.")
    if count in without_blanks:
        raise Wrong("Two equal letters in a row need a frame between them: see frames_needed.")
    if count in without_spaces:
        raise Wrong("A space is a character too, and needs a frame.")
    raise Wrong("Compare frames_needed(text) with the whole frames that fit into the duration: int(duration / 0.08).")


def task_2(fraction: float, rows: Sequence[Row]) -> str:
    """The fraction of dev's words in texts that also stand in train.

    Args:
        fraction: the answer, from 0 to 1.
        rows: as from `explore.dataset_rows`.
    """
    fraction = number(fraction, "The answer is a fraction, from 0 to 1.")
    train = {row["Transcript"] for row in rows if row["Split"] == "train"}
    dev = [row["Transcript"] for row in rows if row["Split"] == "dev"]
    known = [text for text in dev if text in train]
    right = sum(len(text.split()) for text in known) / sum(len(text.split()) for text in dev)
    if abs(fraction - right) < 0.002:
        return f"{right:.1%} of the words, without having listened at all: know your texts before you trust a figure."
    if abs(fraction - 100 * right) < 0.2:
        raise Wrong("Right, but as a percentage; the answer is a fraction, from 0 to 1.")
    if abs(fraction - len(known) / len(dev)) < 0.002:
        raise Wrong("That is the fraction of utterances. A long text has more words than a short one: count words.")
    if abs(fraction - (1 - right)) < 0.002:
        raise Wrong("That is the fraction that it gets wrong.")
    words = {word for text in train for word in text.split()}
    if (
        abs(fraction - sum(word in words for text in dev for word in text.split()) / sum(map(len, map(str.split, dev))))
        < 0.002
    ):
        raise Wrong("The parrot knows whole texts, not words: all of an utterance's text must stand in train.")
    raise Wrong("Sum the words of those texts of dev that stand in train, and divide by the words of all texts of dev.")
