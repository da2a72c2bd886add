"""The words of a transcript in a model's own letters or subword pieces, for alignment alone."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, writes_letters
from asr_with_nemo.own_data.text import Rule, outside, repaired, respelled

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel


@dataclass(frozen=True)
class Spelled:
    """A word as the model writes it.

    Attributes:
        columns: of the model's output, in their order; empty if it can't write the word.
        is_spoken: False for a remark in brackets, or a dash: nothing that is spoken.
    """

    columns: tuple[int, ...] = ()
    is_spoken: bool = True


class Speller:
    """Spells words as a model writes them.

    What the model can't write is normalised: case, punctuation and accents, and numbers, if the language is known.

    Args:
        model: a recogniser.
        language: of the texts, to spell numbers: an ISO 639-1 code; "" leaves them to the model.

    Attributes:
        separator: the columns of what stands between two words.
    """

    def __init__(self, model: "ASRModel", language: str = ""):
        labels = alphabet(model)
        self._ids = None if writes_letters(model) else model.tokenizer.text_to_ids
        self._unknown = -1 if self._ids is None else _unknown_id(model)
        self._columns = {label: column for column, label in enumerate(labels)}
        self._letters = frozenset("".join(labels).replace("▁", "")) | {" "}
        self.separator = (self._columns[" "],) if self._ids is None and " " in self._columns else ()
        has_case = any(map(str.isupper, self._letters)) and any(map(str.islower, self._letters))
        self._rule = Rule(
            case="keep" if has_case else "lower",
            punctuation="keep" if {".", ","} <= self._letters else "remove",
            digits="spell" if language and not any(map(str.isdecimal, self._letters)) and _spells(language) else "keep",
            language=language,
        )
        self.spell = lru_cache(maxsize=100_000)(self._spell)

    @property
    def letters(self) -> str:
        """The letters that the model writes, sorted."""
        return "".join(sorted(self._letters)).strip()

    def _spell(self, word: str) -> Spelled:
        """Return a word, as written in a transcript, in the model's columns."""
        text = self._rule.normalise(repaired(word))
        if not any(map(str.isalnum, text)):
            return Spelled(is_spoken=False)
        text = respelled(text, self._letters)
        if outside(text, self._letters):
            return Spelled()
        if self._ids is not None:
            columns = self._ids(text)
            return Spelled() if self._unknown in columns else Spelled(tuple(columns))
        return Spelled(tuple(self._columns[letter] for letter in text if letter in self._columns))


def _unknown_id(model: "ASRModel") -> int:
    pieces = getattr(model.tokenizer, "tokenizer", None)
    return pieces.unk_id() if hasattr(pieces, "unk_id") else -1


def _spells(language: str) -> bool:
    try:
        Rule(digits="spell", language=language)
    except InputError:
        return False
    return True
