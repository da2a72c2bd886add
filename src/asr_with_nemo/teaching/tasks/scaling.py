"""The checks of 15_scaling's tasks."""

from collections.abc import Callable

import numpy as np

from asr_with_nemo.teaching.tasks import Wrong, number, whole

_WEIGHTS, _BYTES, _PROCESSES = 600e6, 2, 16


def task_1(answer: object) -> str:
    """Check how many gigabytes a process sends in an all-reduce."""
    answer = number(answer, "Give a number of gigabytes.")
    gradient = _WEIGHTS * _BYTES / 1e9
    right = 2 * (_PROCESSES - 1) / _PROCESSES * gradient
    if abs(answer - 2 * right) < 0.02:
        raise Wrong("That would be 32 bits a number. How many bytes have 16?")
    if abs(answer - gradient) < 0.02 or abs(answer - right / 2) < 0.02:
        raise Wrong("That is the collecting alone. The complete parts have to travel, too.")
    if abs(answer - 2 * (_PROCESSES - 1) * gradient) < 0.2:
        raise Wrong("In each step a process sends only one part of the gradient, a sixteenth of it.")
    if abs(answer - right) > 0.02:
        raise Wrong("How many steps has the ring, and how large is the part that is sent in each?")
    return "And with 1,000 processes it would be hardly more: it never reaches twice the gradient."


def task_2(answer: object) -> str:
    """Check a function that deals utterances out to processes: `shares(durations, processes)`."""
    if not callable(answer):
        raise Wrong("Give the function itself: answer = shares.")
    random = np.random.default_rng(0)
    for count, processes in ((12, 3), (101, 4), (64, 8)):
        durations = random.gamma(3.0, 1.2, size=count).tolist()
        _check_shares(answer, durations, processes)
    return "The longest process is the clock of all; whoever sorts first has almost done it."


def _check_shares(shares: Callable, durations: list[float], processes: int) -> None:
    given = shares(list(durations), processes)
    otherwise = "It should return a list of lists of indices."
    try:
        dealt = [[whole(place, otherwise) for place in share] for share in given]
    except TypeError:
        raise Wrong(otherwise) from None
    if len(dealt) != processes:
        raise Wrong(f"For {processes} processes, it returns {len(dealt)} lists.")
    if sorted(place for share in dealt for place in share) != list(range(len(durations))):
        raise Wrong("Each utterance's index must be in exactly one of the lists.")
    sizes = [len(share) for share in dealt]
    if max(sizes) - min(sizes) > 1:
        raise Wrong(f"The processes have {min(sizes)} to {max(sizes)} utterances; at most one more is allowed.")
    seconds = [sum(durations[place] for place in share) for share in dealt]
    mean, allowed = sum(durations) / processes, sum(durations) / processes + max(durations) / 3
    if max(seconds) > allowed:
        raise Wrong(
            f"One of {processes} processes has {max(seconds):.1f} s of sound; the mean is {mean:.1f} s, and at most "
            f"{allowed:.1f} s are allowed. Sorting helps, but who gets the shortest of each round must change."
        )
