"""The tasks of 11_language_model."""

from collections.abc import Callable, Sequence

from asr_with_nemo.teaching.tasks import Wrong, pair


def task_1(answer: Sequence[float]) -> str:
    """Check the pair (alpha, beta) at which hypotheses of equal score change places."""
    alpha, beta = pair(answer, "Give a pair of numbers, (alpha, beta).")
    if abs(alpha - 2) < 1e-6:
        raise Wrong("α is upside down: how much of B's lead in language makes up for A's lead in sound?")
    if abs(alpha - 0.5) > 1e-6:
        scores = f"A {-1 - 21 * alpha:g} and B {-4 - 15 * alpha:g}"
        raise Wrong(f"α: at {alpha:g} the scores are {scores}, without β's share; they should be equal.")
    if abs(beta + 2.5) < 1e-6:
        raise Wrong("β has the wrong sign: C has a word more than B, and is behind without a bonus.")
    if abs(beta - 2.5) > 1e-6:
        scores = f"B {-19 + 6 * beta:g} and C {-21.5 + 7 * beta:g}"
        raise Wrong(f"β: at {beta:g}, with α = 1, the scores are {scores}; they should be equal.")
    return "B's three points less of sound are six points of language, and C's extra word is worth β."


_WORDS = ["nine", "nineteen", "no", "a"]
_CASES = [
    ("", "n", True, "a text begins with a word's first letter"),
    ("", "x", False, "no word begins with 'x'"),
    ("n", "i", True, "'ni' begins 'nine'"),
    ("nine", " ", True, "'nine' is a word"),
    ("nine", "t", True, "'nine' begins 'nineteen' too"),
    ("nin", " ", False, "'nin' is no word"),
    ("", " ", False, "a text doesn't begin with a space"),
    ("nine ", " ", False, "two spaces have no word between them"),
    ("nine ", "n", True, "after a space a new word begins"),
    ("nine no", "n", False, "what counts is the last word: 'non' begins none"),
    ("a nine", "t", True, "what counts is the last word"),
    ("no", "o", False, "no word begins with 'noo'"),
    ("nineteen", "n", False, "no word begins with 'nineteenn'"),
]


def task_2(may_follow: Callable[[str, str, Sequence[str]], bool]) -> str:
    """Check a function that says whether a text's beginning may grow by a letter."""
    if not callable(may_follow):
        raise Wrong("Give the function itself: answer = may_follow.")
    for text, letter, expected, why in _CASES:
        found = may_follow(text, letter, _WORDS)
        if bool(found) != expected:
            raise Wrong(f"May {text!r} grow by {letter!r}, with the words {_WORDS}? {why}, so expected {expected}.")
    return "BeamSearch walks a tree of the words for it, which costs one step a letter."
