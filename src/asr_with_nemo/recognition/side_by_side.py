"""Two models side by side on the same utterances, word by word: which words one has right and the other wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from asr_with_nemo.recognition.wer import Comparison, ScoredUtterance, align, compare, paired

Step = tuple[str, str, str]
"""A word of the reference, and what the one and the other model have for it; "" for nothing."""


def aligned(reference: str, this: str, other: str) -> list[Step]:
    """Align two hypotheses with their reference, with as few errors as possible each (`wer.align`).

    Words that both models insert between the same two words of the reference are in one step, in their order.

    Example:
        >>> aligned("go to rome", "go two rome", "oh go to rome")
        [('', '', 'oh'), ('go', 'go', 'go'), ('to', 'two', 'to'), ('rome', 'rome', 'rome')]
    """
    inserted, heard = zip(*(_by_place(reference, text) for text in (this, other)), strict=True)
    steps: list[Step] = []
    for place, word in enumerate([*reference.split(), None]):
        steps += [("", one, two) for one, two in zip_longest(inserted[0][place], inserted[1][place], fillvalue="")]
        if word is not None:
            steps.append((word, heard[0][place], heard[1][place]))
    return steps


def _by_place(reference: str, hypothesis: str) -> tuple[list[list[str]], list[str]]:
    """Return the words inserted before each word of the reference and after the last, and the word heard for each."""
    inserted: list[list[str]] = [[]]
    heard: list[str] = []
    for said, word in align(reference, hypothesis):
        if said:
            heard.append(word)
            inserted.append([])
        else:
            inserted[-1].append(word)
    return inserted, heard


@dataclass(frozen=True)
class SideBySide:
    """Two models' results on the same utterances.

    Attributes:
        name: of the other model.
        others: its utterances, in the order of this one's.
        comparison: of the two WERs, a paired bootstrap.
        utterances: how many utterances this model has fewer errors in, the other one, and both as many.
    """

    name: str
    others: Sequence[ScoredUtterance]
    comparison: Comparison
    utterances: tuple[int, int, int]

    @property
    def verdict(self) -> str:
        """Who wins, in words: only where chance is unlikely to have made the difference."""
        if not self.comparison.is_significant:
            return "no winner: the 95% interval includes 0"
        return "this model wins" if self.comparison.difference < 0 else "the other model wins"


def pair(rows: Sequence[ScoredUtterance], others: Sequence[ScoredUtterance], name: str) -> SideBySide:
    """Pair the utterances of two results.

    Raises:
        InputError: the utterances or their references differ.
    """
    pairs = paired(rows, others)
    signs = Counter((one.words.errors > two.words.errors) - (one.words.errors < two.words.errors) for one, two in pairs)
    return SideBySide(name, [two for _, two in pairs], compare(rows, others), (signs[-1], signs[1], signs[0]))


def words_won(steps: Sequence[Sequence[Step]]) -> list[dict[str, object]]:
    """Count, for each word of the references, how often only this model has it right, and only the other one.

    Args:
        steps: of each utterance (`aligned`).

    Returns:
        The words on which they differ, those with the most differences first.

    Example:
        >>> words_won([aligned("go to rome", "go two rome", "go to home")])
        [{'word': 'rome', 'this': 1, 'other': 0}, {'word': 'to', 'this': 0, 'other': 1}]
    """
    this, other = Counter[str](), Counter[str]()
    for said, one, two in (step for of_utterance in steps for step in of_utterance):
        if said and (said == one) != (said == two):
            (this if said == one else other)[said] += 1
    words = sorted({*this, *other}, key=lambda word: (-this[word] - other[word], word))
    return [{"word": word, "this": this[word], "other": other[word]} for word in words]
