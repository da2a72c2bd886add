"""Word boosting: words or phrases that are expected, each with a bonus for the score of the texts that have it.

The weight of a phrase is a bonus in natural logs: with a weight of 3, a text with the phrase counts as e³ = 20 times as
likely as before. A phrase counts as whole words only: a bonus for "no" is none for "november". While a search is inside
a phrase, it has a share of the bonus, which is taken back if the phrase isn't finished.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np

from asr_with_nemo.base.files import read_text
from asr_with_nemo.errors import InputError

WEIGHT, TRANSDUCER_WEIGHT = 5.0, 1.0
"""The weights of a phrase that is given without one, by CTC and by a transducer; AN4's dev set chose them."""
_MOST_WEIGHT = 100.0
Phrases = Mapping[str, float | None]
"""Boosted phrases, words with a space between them, and their weights; None for the default of the decoder."""


# --- Lists of phrases -------------------------------------------------------------------------------------------------


def read_boosts(values: Iterable[str]) -> dict[str, float | None]:
    """Read phrases and their weights from the values of --boost: "rubout", "rubout:3", or a file of such lines.

    A value is a file if it ends in .txt or has a slash, as in ./names. Of its lines, empty ones and those that begin
    with # are left out.

    Raises:
        InputError: a file can't be read or has no phrases, a weight isn't a number from -100 to 100, or a phrase is
            there twice with other weights.

    Example:
        >>> read_boosts(["rubout:3", "new york"])
        {'rubout': 3.0, 'new york': None}
    """
    phrases: dict[str, float | None] = {}
    for value in values:
        if not (value.lower().endswith(".txt") or "/" in value or os.sep in value):
            _add(phrases, value, "--boost")
            continue
        text = read_text(value, "a list of phrases", "no such list of phrases, one a line, such as rubout:3")
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
        if not lines:
            raise InputError(f"{value}: has no phrases; expected one a line, such as rubout or rubout:3")
        for number, line in lines:
            _add(phrases, line, f"{value}, line {number}")
    return phrases


def parse_boosts(text: str) -> dict[str, float | None]:
    """Read phrases from a text, as a request has them: separated by commas or line ends, with or without weights.

    Raises:
        InputError: as of `read_boosts`.

    Example:
        >>> parse_boosts("rubout:3, new york")
        {'rubout': 3.0, 'new york': None}
    """
    phrases: dict[str, float | None] = {}
    for part in text.replace("\n", ",").split(","):
        if part.strip():
            _add(phrases, part, "boost")
    return phrases


def _add(phrases: dict[str, float | None], value: str, where: str) -> None:
    phrase, colon, number = value.rpartition(":")
    phrase, weight = " ".join((phrase if colon else value).split()), None
    if colon:
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
    if not phrase or not (weight is None or -_MOST_WEIGHT <= weight <= _MOST_WEIGHT):
        raise InputError(
            f"{where}: {value[:100]!r}: expected a word or phrase, and after a colon its weight from -100 to 100, as "
            "in rubout:3"
        )
    if phrases.setdefault(phrase, weight) != weight:
        weights = " and ".join("none" if one is None else f"{one:g}" for one in (phrases[phrase], weight))
        raise InputError(f"{where}: {phrase[:100]!r} has two weights, {weights}; leave out one")


def weighted(phrases: Phrases, weight: float = WEIGHT) -> dict[str, float]:
    """Return phrases with a weight each: its own, or the default."""
    return {phrase: weight if own is None else own for phrase, own in phrases.items()}


def described(phrases: Phrases) -> str:
    """Return how many phrases are boosted, for the name of a decoder; empty for none."""
    return f", {len(phrases):,} boosted" if phrases else ""


def key(phrases: Phrases) -> str:
    """Return phrases and weights as a text, the same for the same ones in any order."""
    return "\n".join(f"{phrase}:{weight}" for phrase, weight in sorted(phrases.items()))


# --- Phrases as sequences of tokens -----------------------------------------------------------------------------------


class PhraseTree:
    """Follows all phrases through a text at once, token by token (words, or columns of letters or pieces).

    The bonus of a text is the sum of the weights of all phrases in it, as often as they are there, and of those that
    are inside another. An automaton as of A. V. Aho and M. J. Corasick, "Efficient string matching", Communications of
    the ACM 18(6), 1975: a state is the longest end of the text that begins a phrase.

    Args:
        phrases: the tokens of each phrase, and its weight.
        begins_word: whether a token begins a word; a phrase has ended only if the next token does, or the text ends.
        leading: the token before the first word of a text, if words are separated by one: it begins every phrase.

    Example:
        >>> tree = PhraseTree([(("new", "york"), 4.0)])
        >>> state, bonus = tree.step(tree.start, "new")  # half of the phrase
        >>> bonus, tree.step(state, "york")[1], tree.step(state, "shoes")[1], tree.end(state)
        (2.0, 2.0, -2.0, -2.0)
    """

    def __init__(
        self,
        phrases: Iterable[tuple[Sequence[Hashable], float]],
        begins_word: Callable[[Hashable], bool] = lambda token: True,
        leading: Hashable | None = None,
    ):
        self._begins_word = begins_word
        self._next: list[dict[Hashable, int]] = [{}]
        self._fail = [0]
        self._ended = [0.0]  # the weights of the phrases that end in a state
        self._share = [0.0]  # of the weight of a phrase that isn't finished
        self._steps: dict[tuple[int, Hashable], tuple[int, float]] = {}
        before = 0 if leading is None else 1
        for tokens, weight in phrases:
            state = 0
            for place, token in enumerate(tokens, 1):
                state = self._next[state].setdefault(token, len(self._next))
                if state == len(self._next):
                    self._next.append({})
                    self._fail.append(0)
                    self._ended.append(0.0)
                    self._share.append(0.0)
                share = weight * (place - before) / (len(tokens) - before)
                self._share[state] = max(self._share[state], share, key=abs)
            self._ended[state] += weight
        queue = deque(self._next[0].values())
        while queue:  # the states by their length, so that the shorter ones are done
            state = queue.popleft()
            self._ended[state] += self._ended[self._fail[state]]
            for token, after in self._next[state].items():
                self._fail[after] = self._find(self._fail[state], token)
                queue.append(after)
        self.start = 0 if leading is None else self._next[0].get(leading, 0)

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self._next)

    def _find(self, state: int, token: Hashable) -> int:
        while state and token not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(token, 0)

    def step(self, state: int, token: Hashable) -> tuple[int, float]:
        """Go on by a token from a state, at first `start`; return the next state, and what the bonus changes by."""
        known = self._steps.get((state, token))
        if known is None:
            after = self._find(state, token)
            ended = self._ended[state] if self._begins_word(token) else 0.0
            known = self._steps[state, token] = (after, ended + self._share[after] - self._share[state])
        return known

    def changes(self, state: int, columns: int) -> np.ndarray:
        """Return what the bonus changes by with each of so many tokens, which are columns from 0 on: (V,), float32."""
        ends = np.fromiter(map(self._begins_word, range(columns)), bool, columns)
        changes = ends.astype(np.float32) * self._ended[state] - self._share[state]  # if no phrase goes on or begins
        place = state
        while True:
            for column in self._next[place]:
                changes[column] = self.step(state, column)[1]
            if not place:
                return changes
            place = self._fail[place]

    def end(self, state: int) -> float:
        """Return what the bonus changes by when the text ends."""
        return self._ended[state] - self._share[state]


def tree_of(
    phrases: Mapping[str, float], labels: Sequence[str], columns: Callable[[str], Sequence[int]] | None = None
) -> PhraseTree:
    """Return the tree of phrases for a model of letters, or of pieces, if `columns` cuts a text into them.

    Raises:
        InputError: the model can't write a phrase.
    """
    return tree_of_pieces(phrases, labels, columns) if columns else tree_of_letters(phrases, labels)


def tree_of_letters(phrases: Mapping[str, float], labels: Sequence[str]) -> PhraseTree:
    """Return the tree of phrases for a model of letters, whose tokens are columns of its outputs.

    Raises:
        InputError: a phrase has a letter that the model lacks, or the model has no space.
    """
    if " " not in labels:
        raise InputError(f"the model's alphabet {''.join(labels)!r} lacks the space, which separates words")
    column = {label: number for number, label in enumerate(labels)}
    check_letters(phrases, labels)
    sequences = [([column[letter] for letter in f" {phrase}"], weight) for phrase, weight in phrases.items()]
    return PhraseTree(sequences, column[" "].__eq__, leading=column[" "])


def check_letters(phrases: Iterable[str], labels: Iterable[str]) -> None:
    """Make sure that a model can write phrases.

    Raises:
        InputError: one has a letter that isn't among the labels.
    """
    known = {*labels, " "}
    for phrase in phrases:
        if strange := sorted({*phrase} - known):
            hint = "; write it in lower case" if {*phrase.lower()} <= known else ""
            raise InputError(f"boost {phrase!r}: the model can't write {' '.join(map(repr, strange))}{hint}")


def tree_of_pieces(
    phrases: Mapping[str, float], pieces: Sequence[str], columns: Callable[[str], Sequence[int]]
) -> PhraseTree:
    """Return the tree of phrases for a model of pieces of words, whose tokens are columns of its outputs.

    Args:
        phrases: the phrases.
        pieces: in the order of the outputs; ▁ is the space before a word.
        columns: cuts a text into pieces (`spelling.Spelling.columns`); a text in other pieces gets no bonus.

    Raises:
        InputError: a phrase has a letter that the model lacks.
    """
    begins = {column for column, piece in enumerate(pieces) if piece.startswith("▁")}
    return PhraseTree([(columns(phrase), weight) for phrase, weight in phrases.items()], begins.__contains__)
