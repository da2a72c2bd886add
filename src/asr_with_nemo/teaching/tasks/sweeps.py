"""The tasks of 07_sweeps."""

import math

from asr_with_nemo.teaching import tuning
from asr_with_nemo.teaching.tasks import Wrong

_GOOD, _SURE = 0.02, 0.95


def task_1(answer: int) -> str:
    """The number of random trials of which one is among the best 2% with a probability of 95%."""
    needed = math.ceil(math.log(1 - _SURE) / math.log(1 - _GOOD))
    try:
        number = int(answer)
    except (TypeError, ValueError):
        raise Wrong("Answer with a number of trials.") from None
    if number != answer:
        raise Wrong("A number of trials is whole. Which way do you have to round?")
    if number == needed - 1:
        raise Wrong("Very close. Does that number reach 95%, or just miss it?")
    if number == math.ceil(_SURE / _GOOD):
        raise Wrong(
            "Probabilities of several trials don't add up: two trials may both be good. How likely do all miss?"
        )
    if number < needed:
        sure = 1 - (1 - _GOOD) ** max(0, number)
        raise Wrong(f"With {number} trials one is good with a probability of {sure:.0%} only.")
    if number > needed:
        raise Wrong(f"{number} are enough, but fewer are too. Solve 0.98 to the power of n = 0.05 for n.")
    return "It depends on the share that is good alone, not on how many settings you search."


def task_2(answer: tuple[int, int]) -> str:
    """The min_iter and eta of Hyperband that keep the recorded sweep's winner with the fewest epochs."""
    try:
        first, eta = (int(number) for number in answer)
    except (TypeError, ValueError):
        raise Wrong("Answer with two numbers, (min_iter, eta).") from None
    study = tuning.read_study()
    epochs, winner = study.curves.shape[1], int(study.rates.argmin())
    if not (1 <= first < epochs and eta in (2, 3, 4)):
        raise Wrong(f"min_iter is from 1 to {epochs - 1}, and eta 2, 3 or 4.")
    costs = {}
    for pair in ((first, eta) for first in range(1, epochs) for eta in (2, 3, 4)):
        got = tuning.replay(study.curves, *pair)
        if got[winner] == epochs:
            costs[pair] = sum(got)
    if (first, eta) not in costs:
        raise Wrong("With that pair the winner is stopped: its number of epochs is below the full one.")
    if costs[first, eta] > min(costs.values()):
        raise Wrong(f"It keeps the winner, with {costs[first, eta]} epochs. Another pair needs fewer.")
    saved = 1 - costs[first, eta] / study.curves.size
    return (
        f"It saves {saved:.0%} of the epochs. It was chosen by looking at this very sweep, though: the winner's curse "
        "again. The next sweep may lose its winner with it."
    )
