# ruff: noqa: SIM905 (lists of words read better as text)
"""Which column of a table has the transcripts, where its name doesn't say so: by what the columns hold.

Only one column may be left: where two could be the transcripts, the user is asked.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median

# Columns that hold something else, whatever their values look like.
_OTHERS = frozenset(
    "date day time year month weekday gender sex age accent accents dialect variant locale language lang country city "
    "region state place room device microphone mic phone source origin url link license licence status quality type "
    "kind format time_format category topic domain genre emotion intent comment comments note notes remark remarks "
    "translation gloss phones phonemes phonetic ipa lemma md5 sha256 hash checksum annotator transcriber email "
    "up_votes down_votes native_language nationality education datum geschlecht alter gerät ort notiz anmerkung "
    "fecha sexo edad dispositivo lugar nota notas appareil genre_humain lieu âge".split()
)
_DATES = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri sat sun "
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sep sept oct nov dec am pm utc gmt "
    "montag dienstag mittwoch donnerstag freitag samstag sonntag januar februar märz mai juni juli oktober dezember "
    "uhr lundi mardi mercredi jeudi vendredi samedi dimanche janvier février mars avril juin juillet août septembre "
    "octobre novembre décembre lunes martes miércoles jueves viernes sábado domingo enero febrero marzo abril mayo "
    "junio julio agosto septiembre octubre noviembre diciembre de of the st nd rd th t z".split()
)
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_NO_WORD = re.compile(r"\S*[\d/@\\_]\S*|\S+\.\S+")  # an id, a path, an address, a number of something
_FEW = 0.5  # of the rows: a column with fewer different values is a label, not a sentence
_SAME = 0.6  # of the shorter text's pairs of letters are in the longer one: the same text in two spellings

# What the values of a column are, the likeliest transcripts first.
_SENTENCES, _PHRASE, _WORDS, _LABELS, _CONSTANT = range(5)


def candidates(columns: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> list[str]:
    """Return the columns that may hold the transcripts: one, if it is clear; the likeliest is the last.

    Two columns with the same texts, as printed and as spoken, count as one: the later, which has the numbers spelled
    out, as in LJSpeech.

    Args:
        columns: name → its values in the first rows, "" for none, at least one with a letter; in the table's order.
        names: name → the name as `tables.plain` has it.

    Example:
        >>> candidates({"heard": ["go on", "stop it"], "gear": ["phone", "phone"]}, {"heard": "heard", "gear": "gear"})
        ['heard']
        >>> candidates({"a": ["go on", "stop it"], "b": ["we left", "he came"]}, {"a": "a", "b": "b"})
        ['a', 'b']
    """
    free = {column: values for column, values in columns.items() if names[column] not in _OTHERS}
    kinds = {column: _kind_of([*filter(None, values)], bool(names[column])) for column, values in free.items()}
    best = min(kinds.values(), default=_CONSTANT)
    left: list[str] = []
    for column in free:
        if kinds[column] == best:
            left = [one for one in left if not _are_alike(free[one], free[column])] + [column]
    return left


def is_label(values: Sequence[str]) -> bool:
    """Return whether values are labels rather than sentences: few, or ids, or dates."""
    return _kind_of(values) >= _LABELS


def is_sentences(values: Sequence[str]) -> bool:
    """Return whether most values are different and have several words."""
    return _kind_of(values) == _SENTENCES


def _kind_of(values: Sequence[str], is_named: bool = True) -> int:
    """Return what the values of a column are; the smaller, the likelier they are transcripts."""
    if len(values) > 1 and len(set(values)) == 1:
        # Without names of columns, the same words in each row are those that all have said, as "hey computer".
        return _PHRASE if not is_named and _size(values[0]) >= 2 else _CONSTANT
    bare = {" ".join(re.findall(r"[^\W\d_]+", value.casefold())) for value in values}
    if fmean(map(_is_no_text, values)) > 0.5 or len(bare) == 1 < len(values):  # "Marker 01", "Marker 02"
        return _LABELS
    most = Counter(values).most_common(1)[0][1]
    is_few = len(set(values)) < _FEW * len(values) or most > max(1, _FEW * len(values))
    if fmean(map(_size, values)) >= 2:
        return _LABELS if is_few else _SENTENCES
    return _LABELS if is_few else _WORDS


def _is_no_text(value: str) -> bool:
    """Return whether a value is one token that is no word, or a date."""
    if " " not in value and _NO_WORD.fullmatch(value):
        return True
    words = re.findall(r"[^\W\d_]+", value.casefold())
    return bool(words) and any(map(str.isdigit, value)) and all(word in _DATES for word in words)


def _size(value: str) -> float:
    """Return the number of a text's words; of two letters each, where a script has no spaces."""
    return max(len(value.split()), len(_WITHOUT_SPACES.findall(value)) / 2)


def _are_alike(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two columns hold the same texts, row by row, in two spellings."""
    shares = []
    for one, other in zip(first, second, strict=True):
        pairs, others = _pairs(one), _pairs(other)
        shorter = min(pairs.total(), others.total())
        if shorter:
            shares.append((pairs & others).total() / shorter)
    return bool(shares) and median(shares) >= _SAME


def _pairs(text: str) -> Counter[str]:
    """Return the pairs of letters that follow each other in a text."""
    letters = [letter for letter in text.casefold() if letter.isalnum()]
    return Counter(map("".join, pairwise(letters)))
