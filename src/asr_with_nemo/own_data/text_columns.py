# ruff: noqa: SIM905 (lists of words read better as text)
"""Which column of a table has the transcripts: by its name, or by what the columns hold.

Where two columns could have them, the user is asked.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from statistics import fmean

# Columns that hold something else, whatever their values look like.
_OTHERS = frozenset(
    "date day time year month weekday gender sex age accent accents dialect variant locale language lang country city "
    "region state place room device microphone mic phone origin url link license licence status quality type "
    "kind format time_format category topic domain genre emotion intent comment comments note notes remark remarks "
    "translation gloss phones phonemes phonetic ipa lemma md5 sha256 hash checksum annotator transcriber email "
    "up_votes down_votes native_language nationality education datum geschlecht alter gerät ort notiz anmerkung "
    "fecha sexo edad dispositivo lugar nota notas appareil genre_humain lieu âge bemerkung "
    "bemerkungen remarque remarques observaciones комментарий 備考 备注".split()
)
# Parts of the names of columns with a machine's text.
_MACHINES = frozenset("hypothesis hyp prediction pred asr whisper auto".split())
_MAY_BE_CLASSES = frozenset("word label labels keyword command content caption description".split())
_MAY_BE_IDS = frozenset("reference ref".split())
_DATES = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri sat sun "
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sep sept oct nov dec am pm utc gmt "
    "montag dienstag mittwoch donnerstag freitag samstag sonntag januar februar märz mai juni juli oktober dezember "
    "uhr lundi mardi mercredi jeudi vendredi samedi dimanche janvier février mars avril juin juillet août septembre "
    "octobre novembre décembre lunes martes miércoles jueves viernes sábado domingo enero febrero marzo abril mayo "
    "junio julio agosto septiembre octubre noviembre diciembre de of the st nd rd th t z "
    "年 月 日 時 时 分 秒".split()
)
NEVER_GUESSED = "numbers, and labels under a name such as accent or note, aren't guessed to be transcripts"
"""Why a table may have no column of transcripts, for the user."""
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_TOKEN = re.compile(f"{_WITHOUT_SPACES.pattern}|(?:(?!{_WITHOUT_SPACES.pattern})[^\\W_])+\\.?")
_NO_WORD = re.compile(r"\S*[\d/@\\_]\S*|\S+\.\S+")  # an id, a path, an address, a number of something
_GENDERS = {"male", "female"}
_FEW = 0.5  # of the rows: a column with fewer different values is a label, not a sentence
_SAME = 0.9  # of the rows have the same words: one text in two spellings
_FULL, _SPARSE = 0.9, 0.5  # of the rows have a value: at least, in a column of transcripts; fewer, in one of remarks
_SHORT = 3  # words: texts with fewer may be names of people, or of devices

# What the values of a column are, the likeliest transcripts first: different texts of several words, few such texts,
# one text in all rows, different words, few words, the same words in all rows, ids or dates.
_SENTENCES, _PROMPTS, _PHRASE, _WORDS, _LABELS, _CONSTANT, _IDS = range(7)


def choose(
    columns: Mapping[str, Sequence[str]], names: Mapping[str, str], known: Sequence[str], elsewhere: Set[str]
) -> list[str]:
    """Return the columns that may hold the transcripts: one, if it is clear; else the user has to choose.

    A column whose name speaks of something else, such as a translation, is taken where no other has texts.

    Args:
        columns: name → its values in the first rows, "" for none, at least one with a letter or in `known`.
        names: name → the name as `tables.plain` has it, "" for none.
        known: the columns with a usual name of transcripts, the most reliable first.
        elsewhere: the usual names of columns with other roles.
    """
    unknown = {column: cells for column, cells in columns.items() if column not in known}
    unnamed = {column: cells for column, cells in unknown.items() if names[column] not in elsewhere}
    found = candidates({column: cells for column, cells in unnamed.items() if not is_other(names[column])}, names)
    known = [one for one in known if not found or names[one] not in _MAY_BE_IDS or _kind_of(columns[one]) != _IDS]
    if known:
        is_class = names[known[0]] in _MAY_BE_CLASSES and _kind_of(columns[known[0]]) >= _LABELS
        rivals = [one for one in found if is_class and _kind_of(columns[one]) == _SENTENCES]
        return [*(one for one in rivals if _filled(columns[one]) >= _SPARSE), known[0]]
    others = {column: cells for column, cells in unnamed.items() if is_other(names[column])}
    texts = {column: cells for column, cells in others.items() if _kind_of(cells) <= _WORDS}
    named = {column: cells for column, cells in unknown.items() if names[column] in elsewhere}
    return found or candidates(texts, names) or candidates(named, names)


def is_other(name: str) -> bool:
    """Return whether a column holds something else than transcripts, by its name as `tables.plain` has it.

    Example:
        >>> is_other("reviewer_notes"), is_other("whisper_output"), is_other("heard")
        (True, True, False)
    """
    parts = name.split("_")
    return name in _OTHERS or parts[-1] in _OTHERS or bool(_MACHINES & set(parts))


def candidates(columns: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> list[str]:
    """Return the columns that may hold the transcripts, by their values: one, if it is clear.

    Two columns with the same texts, as printed and as spoken, count as one: the one with fewer digits, as in LJSpeech,
    or the later.

    Args:
        columns: name → its values in the first rows, "" for none; in the table's order.
        names: name → the name as `tables.plain` has it, "" for none.

    Example:
        >>> candidates({"heard": ["go on", "stop it"], "gear": ["phone", "phone"]}, {"heard": "heard", "gear": "gear"})
        ['heard']
        >>> candidates({"a": ["go on", "stop it"], "b": ["we left", "he came"]}, {"a": "a", "b": "b"})
        ['a', 'b']
    """
    kinds = {column: _kind_of(cells, bool(names[column])) for column, cells in columns.items()}
    if any(kinds[column] <= _WORDS and _filled(cells) >= _FULL for column, cells in columns.items()):
        kinds = {column: kind for column, kind in kinds.items() if _filled(columns[column]) >= _SPARSE}
    best = min(kinds.values(), default=_IDS)
    left: list[str] = []
    for column, kind in kinds.items():
        if kind == best:
            twin = next((one for one in left if _are_alike(columns[one], columns[column])), None)
            if twin is None:
                left.append(column)
            elif _digits(columns[column]) <= _digits(columns[twin]):
                left[left.index(twin)] = column
    return left + [
        column for column, kind in kinds.items() if kind > best and _may_be_instead(columns, kinds, column, left)
    ]


def _may_be_instead(
    columns: Mapping[str, Sequence[str]], kinds: Mapping[str, int], column: str, left: Sequence[str]
) -> bool:
    """Return whether a column may have the transcripts though others look more like them: these may be names."""
    best, words = kinds[left[0]], fmean(_words(columns[one]) for one in left)
    if all(_filled(columns[one]) < _SPARSE for one in left) and _filled(columns[column]) >= _FULL:
        return kinds[column] == _LABELS  # the others may be remarks
    if best == _SENTENCES:
        return words < _SHORT and kinds[column] < _IDS and _words(columns[column]) > words
    if best == _PROMPTS:
        return words < _SHORT and kinds[column] == _WORDS
    return best == _WORDS and kinds[column] < _IDS


def _kind_of(cells: Sequence[str], is_named: bool = True) -> int:
    """Return what the values of a column are; the smaller, the likelier they are transcripts."""
    values = [*filter(None, cells)]
    if not values:
        return _IDS
    bare = {" ".join(re.findall(r"[^\W\d_]+", value.casefold())) for value in values}
    if fmean(map(_is_no_text, values)) > 0.5 or len(bare) == 1 < len(set(values)):  # "Marker 01", "Marker 02"
        return _IDS
    if len(values) > 1 and len(set(values)) == 1:
        # Without names of columns, the same words in each row are those that all have said, as "hey computer".
        return _PHRASE if not is_named and _size(values[0]) >= 2 else _CONSTANT
    most = Counter(values).most_common(1)[0][1]
    is_few = len(set(values)) < _FEW * len(values) or most > max(1, _FEW * len(values))
    if _words(values) >= 2:
        return _PROMPTS if is_few else _SENTENCES
    return _LABELS if is_few else _WORDS


def _is_no_text(value: str) -> bool:
    """Return whether a value is one token that is no word, or a date, or a gender."""
    if " " not in value and _NO_WORD.fullmatch(value) and len(_WITHOUT_SPACES.findall(value)) < 2:
        return True
    words = re.findall(f"{_WITHOUT_SPACES.pattern}|[^\\W\\d_]+", value.casefold())
    is_date = bool(words) and any(map(str.isdigit, value)) and all(word in _DATES for word in words)
    return is_date or value.casefold() in _GENDERS


def _size(value: str) -> float:
    """Return the number of a text's words; of two letters each, where a script has no spaces."""
    return max(len(value.split()), len(_WITHOUT_SPACES.findall(value)) / 2)


def _words(cells: Sequence[str]) -> float:
    """Return the mean number of words of the values of a column."""
    return fmean(map(_size, filter(None, cells)))


def _filled(cells: Sequence[str]) -> float:
    """Return the share of a column's cells that have a value."""
    return sum(map(bool, cells)) / max(1, len(cells))


def _digits(cells: Sequence[str]) -> int:
    return sum(map(str.isdigit, "".join(cells)))


def _are_alike(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two columns have the same words but for case, punctuation, and what is spelled out."""
    same = [
        _is_spelled_out(one, other) or _is_spelled_out(other, one)
        for one, other in zip(first, second, strict=True)
        if one and other
    ]
    return bool(same) and fmean(same) >= _SAME


def _is_spelled_out(text: str, spoken: str) -> bool:
    """Return whether two texts have the same words, but for the first one's numbers and abbreviations.

    Example:
        >>> _is_spelled_out("Mr. Lee came in 1844.", "mister lee came in eighteen forty-four")
        True
        >>> _is_spelled_out("he came in may", "he came in march")
        False
    """
    written, words = _tokens(text), [token.rstrip(".") for token in _tokens(spoken)]
    kept = [
        token.rstrip(".")
        for place, token in enumerate(written, 1)
        if not any(map(str.isdigit, token)) and not (token.endswith(".") and len(token) < 5 and place < len(written))
    ]
    if len(kept) == len(written):
        return kept == words
    rest = iter(words)
    return len(kept) >= len(written) / 2 and all(token in rest for token in kept)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(re.sub("['’]", "", text.casefold()))
