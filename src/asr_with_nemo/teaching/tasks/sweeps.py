"""The tasks of 07_sweeps."""

import math

from asr_with_nemo.teaching import tuning
from asr_with_nemo.teaching.tasks import Wrong, number, pair, whole

_GOOD, _SURE = 0.02, 0.95


def task_1(answer: int) -> str:
    """The number of random trials of which one is among the best 2% with a probability of 95%."""
    needed = math.ceil(math.log(1 - _SURE) / math.log(1 - _GOOD))
    number(answer, "Answer with a number of trials.")
    trials = whole(answer, "A number of trials is whole. Which way do you have to round?")
    if trials == needed - 1:
        raise Wrong("Very close. Does that number reach 95%, or just miss it?")
    if trials == math.ceil(_SURE / _GOOD):
        raise Wrong(
            "Probabilities of several trials don't add up: two trials may both be good. How likely do all miss?"
        )
    if trials < needed:
        sure = 1 - (1 - _GOOD) ** max(0, trials)
        raise Wrong(f"With {trials} trials one is good with a probability of {sure:.0%} only.")
    if trials > needed:
        raise Wrong(f"{trials} are enough, but fewer are too. Solve 0.98 to the power of n = 0.05 for n.")
    return "It depends on the share that is good alone, not on how many settings you search."


def task_2(answer: tuple[int, int]) -> str:
    """The min_iter and eta of Hyperband that keep the recorded sweep's winner with the fewest epochs."""
    first, eta = pair(answer, "Answer with two whole numbers, (min_iter, eta).", whole)
    study = tuning.read_study()
    epochs, winner = study.curves.shape[1], int(study.rates.argmin())
    if not (1 <= first < epochs and eta in (2, 3, 4)):
        raise Wrong(f"min_iter is from 1 to {epochs - 1}, and eta 2, 3 or 4.")
    costs = {}
    for tried in ((first, eta) for first in range(1, epochs) for eta in (2, 3, 4)):
        got = tuning.replay(study.curves, *tried)
        if got[winner] == epochs:
            costs[tried] = sum(got)
    if (first, eta) not in costs:
        raise Wrong("With that pair the winner is stopped: its number of epochs is below the full one.")
    if costs[first, eta] > min(costs.values()):
        raise Wrong(f"It keeps the winner, with {costs[first, eta]} epochs. Another pair needs fewer.")
    saved = 1 - costs[first, eta] / study.curves.size
    return (
        f"It saves {saved:.0%} of the epochs. It was chosen by looking at this very sweep, though: the winner's curse "
        "again. The next sweep may lose its winner with it."
    )
