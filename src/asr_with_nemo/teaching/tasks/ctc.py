"""Checks of the tasks of 05_ctc."""

from collections.abc import Callable
from itertools import groupby, product

import numpy as np

from asr_with_nemo.teaching.tasks import Wrong, pair, whole

_FRAMES, _PATHS = 8, 13  # "coffee": 6 letters, 2 pairs of equal neighbours; 9 frames for 6 letters and 2 forced blanks


def task_1(answer: object) -> str:
    """Frames that "coffee" needs, and the number of paths over one frame more that say it."""
    frames, paths = pair(answer, "Give two whole numbers, (frames, paths).", whole)
    if frames == 6:
        raise Wrong("Six letters need six frames, but what keeps the two fs apart? And the two es?")
    if frames != _FRAMES:
        raise Wrong("Write the shortest path down: each letter once, and a blank wherever two equal letters meet.")
    if paths == 1:
        raise Wrong("There is one path over the fewest frames. The question is about one frame more.")
    if paths == 455:  # comb(15, 12)
        raise Wrong("Blanks between equal letters aren't free to be left out: take them off before you share out.")
    if paths != _PATHS:
        raise Wrong("The shortest path is a row of runs: blanks (perhaps none), c, blanks, o, ... Which may be longer?")
    return "The spare frame can lengthen any of the 13 runs, blanks at both ends included."


def task_2(answer: object) -> str:
    """A function that computes the log-probability of the likeliest path that says a text."""
    if not callable(answer):
        raise Wrong("Give the function itself: answer = best_path, without brackets.")
    generator = np.random.default_rng(0)
    for text in ([0, 1], [0, 0], [1], [0, 1, 1]):
        log_probs = np.log(generator.dirichlet(np.ones(3), size=5))  # (T, V), the blank last
        _compare(answer, log_probs, text)
    return "That is Viterbi's algorithm: with the way back kept as well, it tells when each letter was said."


def _compare(answer: Callable, log_probs: np.ndarray, text: list[int]) -> None:
    given = answer(log_probs.copy(), list(text), 2)
    try:
        given = float(given)
    except (TypeError, ValueError):
        raise Wrong(f"The function returned {type(given).__name__}; one number is wanted.") from None
    scores = {}
    for path in product(range(3), repeat=len(log_probs)):
        if [symbol for symbol, _ in groupby(path) if symbol != 2] == text:
            scores[path] = sum(row[symbol] for row, symbol in zip(log_probs, path, strict=True))
    best, total = max(scores.values()), np.logaddexp.reduce(list(scores.values()))
    if np.isclose(given, best):
        return
    if np.isclose(given, total):
        raise Wrong("That is still the sum over all paths. Where does the recursion add, and what if it took the best?")
    if np.isclose(given, -best):
        raise Wrong("Right but for the sign: the log-probability is asked for, not the loss.")
    if np.isclose(given, np.exp(best)):
        raise Wrong("Right, but as a probability: return its logarithm.")
    if np.isclose(given, log_probs.max(axis=1).sum()):
        raise Wrong("That is the likeliest path of all, whatever it says. It must say the text.")
    if best < given < total:
        raise Wrong("Larger than the best path: somewhere it still adds. Look at the two last states as well.")
    raise Wrong(f"For the text {text} over {len(log_probs)} frames, it should be {best:.4f}, not {given:.4f}.")
