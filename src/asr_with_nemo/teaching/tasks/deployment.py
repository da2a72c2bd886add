"""The checks of 14_deployment's tasks."""

from collections.abc import Callable

import numpy as np

from asr_with_nemo.teaching.tasks import Wrong, number

_LABELS = [" ", "a", "e", "l", "n"]
_BLANK = len(_LABELS)


def _output(path: str) -> np.ndarray:
    """Return log-probabilities (T, V) whose likeliest path is this one, with - as the blank."""
    symbols = [_BLANK if symbol == "-" else _LABELS.index(symbol) for symbol in path]
    likely = np.full((len(path), len(_LABELS) + 1), 0.02)
    likely[np.arange(len(path)), symbols] = 0.9
    return np.log(likely / likely.sum(1, keepdims=True))


def task_1(answer: object) -> str:
    """Check a function that decodes log-probabilities (T, V) greedily, with the blank as the last symbol."""
    if not callable(answer):
        raise Wrong("Give the function itself: answer = decode, without parentheses.")
    _expect(answer, "-a-l-", "al", "The blank, the last of the V symbols, stands for no letter.")
    _expect(answer, "-aa--ll-", "al", "A letter that lasts for several frames is one letter: merge equal neighbours.")
    _expect(answer, "ann-n-a", "anna", "Merge first, then drop blanks: a blank keeps two equal letters apart.")
    _expect(answer, "a-  -l", "a l", "A space is a symbol like the others.")
    _expect(answer, "----", "", "A recording in which nothing is said has an empty text.")
    _expect(answer, "eel--le-", "elle", "Something is wrong with letters at the start or the end.")
    return "That is all that a client needs; with the letters in the file's metadata, it needs no NeMo."


def _expect(decode: Callable, path: str, text: str, hint: str) -> None:
    try:
        given = decode(_output(path), list(_LABELS))
    except Exception as error:
        raise Wrong(f"It fails on an array of shape {_output(path).shape}: {type(error).__name__}: {error}") from error
    if given is None or given is ...:
        raise Wrong("It returns nothing yet.")
    if given != text:
        raise Wrong(f"The path {path!r} (- is the blank) should give {text!r}, not {given!r}. {hint}")


def task_2(answer: object) -> str:
    """Check the share of a core that hearing 4 seconds again every 0.16 s takes at an RTFx of 300."""
    answer = number(answer, "Give a fraction, such as 0.5.")
    looks = int(4 / 0.16)
    heard = sum(0.16 * look for look in range(1, looks + 1))  # 52 s
    if abs(answer - heard / 300 / 4) < 0.002:
        return f"It hears {heard:.0f} s of sound in all; for 8 seconds of speech it would be about four times as much."
    if abs(answer - 100 * heard / 300 / 4) < 0.2:
        raise Wrong("In percent that is right; give a fraction.")
    if abs(answer - heard / 300) < 0.005:
        raise Wrong("That is the computing time in seconds. It is spread over the 4 seconds of speech.")
    if abs(answer - 1 / 300) < 0.0005:
        raise Wrong("That would be a listener that hears each second once. This one begins at the start every time.")
    if abs(answer - looks * 4 / 300 / 4) < 0.002:
        raise Wrong("The first looks are cheaper: at the n-th, only 0.16 n seconds have been said.")
    raise Wrong("Add up how many seconds of sound are heard, 0.16 + 0.32 + ... + 4.0, and divide by RTFx and by 4.")
