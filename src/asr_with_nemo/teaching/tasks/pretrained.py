"""Checks of the tasks in 04_pretrained."""

from collections.abc import Callable

from asr_with_nemo.recognition import wer
from asr_with_nemo.teaching.tasks import Wrong

_SAID = "enter seventy one"
_SAME = (
    ("It's nine o'clock.", "it's nine o'clock"),
    ("STOP!", "stop"),
    ("Dial 7, 0 and 3 -- now", "dial seven zero and three now"),
    ("  two   spaces\n", "two spaces"),
    ("9", "nine"),
)
_DIFFERENT = (
    ("we're", "were", "the apostrophe belongs to the word"),
    ("no", "know", "words that only sound alike are different words"),
    ("seven one", "sevenone", "the space between two words must stay"),
)
_KEPT = (
    ("42", "only a digit that stands alone is to be spelled out: 42 is not said 'four two'"),
    ("mp3", "only a digit that stands alone is to be spelled out"),
)


def task_1(hypothesis: str) -> str:
    """A hypothesis of "enter seventy one" with a WER of 150% or more, and a CER below 20%."""
    if not isinstance(hypothesis, str):
        raise Wrong("The answer is the hypothesis, a text in quotes.")
    words, characters = wer.count_errors(_SAID, hypothesis), wer.count_errors(_SAID, hypothesis, "character")
    figures = f"Its WER is {words.rate:.0%}, its CER {characters.rate:.0%}."
    if words.rate < 1.5 and len(hypothesis.split()) < 3:
        raise Wrong(f"{figures} Joining words can't exceed 100%: the WER grows beyond that by insertions alone.")
    if words.rate < 1.5:
        raise Wrong(f"{figures} Which single character makes two wrong words of a right one?")
    if characters.rate >= 0.2:
        raise Wrong(f"{figures} You may change three characters at most: the reference has {characters.words}.")
    return f"{figures} A space too many breaks a word in two: a substitution and an insertion for one character."


def task_2(normalise: Callable[[str], str]) -> str:
    """A function that normalises texts, and keeps apart what is different."""
    if not callable(normalise):
        raise Wrong("The answer is a function of a text: answer = normalise, without parentheses.")
    for written, expected in _SAME:
        got = normalise(written)
        if not isinstance(got, str):
            raise Wrong(f"It returns {type(got).__name__} for {written!r}; it has to return the text.")
        if got != expected:
            raise Wrong(f"{written!r} becomes {got!r}; expected {expected!r}.")
    for text, reason in _KEPT:
        if normalise(text) != text:
            raise Wrong(f"{text!r} becomes {normalise(text)!r}, but {reason}.")
    for one, other, reason in _DIFFERENT:
        if normalise(one) == normalise(other):
            raise Wrong(f"{one!r} and {other!r} both become {normalise(one)!r}, but {reason}.")
    return "Whatever it does to a hypothesis, it must do to the reference too."
