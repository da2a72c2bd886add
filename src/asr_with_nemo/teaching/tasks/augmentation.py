"""The checks of 10_augmentation's tasks."""

from collections.abc import Set

import numpy as np

from asr_with_nemo.recognition import wer
from asr_with_nemo.recognition.results import read_utterances
from asr_with_nemo.teaching.tasks import Wrong, whole

_FRAMES, _MASKS, _WANTED = 80, 2, 0.1


def task_1(answer: object) -> str:
    """Check the names of the runs that differ significantly from the recipe of seed 1."""
    if isinstance(answer, str) or not isinstance(answer, (Set, list, tuple)):
        raise Wrong(f'Expected a set of names, such as {{"no dropout"}}; this is {answer!r}.')
    runs = {(row["name"], row["seed"]): heard for row, heard in read_utterances("ablation")}
    names = {name for name, _ in runs} - {"the recipe"}
    given = set(answer)
    if unknown := sorted(map(str, given - names)):
        raise Wrong(f"There is no run {unknown[0]!r} beside the recipe; the runs are {', '.join(sorted(names))}.")
    clear = {
        seed: {name for name in names if wer.compare(runs[name, 0], runs["the recipe", seed]).is_significant}
        for seed in (0, 1)
    }
    if given == clear[1]:
        changed = ", ".join(sorted(clear[0] ^ clear[1])) or "none"
        return (
            f"Verdicts that change with the baseline's seed: {changed}. One seed of the baseline is one draw of luck."
        )
    if given == clear[0]:
        raise Wrong("That is the list for the recipe of seed 0. Compare with the rows of seed 1.")
    missing, extra = len(clear[1] - given), len(given - clear[1])
    raise Wrong(
        f"{missing} run(s) are missing and {extra} too many. `wer.compare(rows, recipe).is_significant`, with "
        'recipe = the rows of ("the recipe", 1), for each other run.'
    )


def _hidden(width: int) -> float:
    """Return the mean share of frames that masks of a `time_width` hide, drawn as NeMo draws them."""
    rng = np.random.default_rng(0)
    widths = (rng.random((100_000, _MASKS)) * width).astype(int)
    starts = (rng.random((100_000, _MASKS)) * (_FRAMES - widths)).astype(int)
    (first, second), ends = starts.T, (starts + widths).T
    both = np.maximum(0, np.minimum(*ends) - np.maximum(first, second))
    return float((widths.sum(axis=1) - both).mean() / _FRAMES)


def task_2(answer: object) -> str:
    """Check the largest `time_width` with which two masks hide at most 10% of 80 frames on average."""
    otherwise = f"Give a number of frames, from 1 to {_FRAMES - 1}; this is {answer!r}."
    answer = whole(answer, otherwise)
    if not 0 < answer < _FRAMES:
        raise Wrong(otherwise)
    hidden, wider = _hidden(answer), _hidden(answer + 1)
    if hidden <= _WANTED < wider:
        return (
            f"On average {hidden:.1%} is hidden. The recipe's 25 would hide {_hidden(25):.0%} of so short a recording; "
            "NeMo also takes a share of the length, `time_width: 0.1`."
        )
    if answer == _FRAMES * _WANTED / _MASKS:
        raise Wrong(
            "That is right if every mask had its full width. `time_width` is the limit; the mean is about half."
        )
    if hidden > _WANTED:
        raise Wrong(f"With {answer}, {hidden:.1%} of the frames are hidden on average.")
    raise Wrong(f"With {answer}, {hidden:.1%} is hidden on average; one frame more still hides no more than 10%.")
