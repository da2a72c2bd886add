"""Transcripts: one stated rule from what people write to what a model spells, and what looks wrong in a text.

Nothing here is of one language or script: letters are known by their Unicode categories.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from asr_with_nemo.errors import InputError

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))
# What stands inside words and belongs to them: the apostrophe, the dot of Catalan (col·legi), Hebrew's geresh and
# gershayim.
_INNER = "'·׳״"
_EDGE = re.compile(rf"(?<![^\W\d_])[{_INNER}]+|[{_INNER}]+(?![^\W\d_])")
# Joiners say how the letters around them are drawn, in Persian and in Indic scripts.
_JOINERS = "\u200c\u200d"
_LOOSE_JOINER = re.compile(rf"(?:(?<=\s)|^)[{_JOINERS}]+|[{_JOINERS}]+(?=\s|$)")
_WITH_POINT = {"en", "zh", "ja", "ko", "th", "he", "hi", "bn", "ta", "te", "ur", "fa"}  # 1,234.5; elsewhere 1.234,5
_DOTTED = {"tr", "az"}  # where I is the capital of ı, and İ of i
_SPOKEN_SYMBOLS = "%&@+=#§°€$£¥₽₹½¼¾²³"
"""Signs that somebody reads aloud as a word; with the punctuation, the word would go."""
_SYMBOL = re.compile(f"[{re.escape(_SPOKEN_SYMBOLS)}]")
_ANNOTATION = re.compile(r"\[[^\]]*\]|<[^>]*>|\([^)]*\)|\{[^}]*\}|\*[^*\s][^*]*\*")
# UTF-8 that was read as Windows-1252 begins its letters with these.
_GARBLED = re.compile("[ÂÃÄÅÆÇÎÏÐÑÒÓÔÕÖ×ØÙàáâãäåæçèé][\u0080-\u00bfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]")
_TWO_SCRIPTS = re.compile(
    "(?s)[A-Za-z].*[\u0370-\u052f]|[\u0370-\u052f].*[A-Za-z]|[\u0370-\u03ff].*[\u0400-\u052f]|[\u0400-\u052f].*[\u0370-\u03ff]"
)
# Letters that look alike, in the same order in each script.
_ALIKE = {
    "LATIN": "AaBCcEeHIiJjKMOoPpSsTXxYyÏï",
    "CYRILLIC": "АаВСсЕеНІіЈјКМОоРрЅѕТХхУуЇї",
}
_GREEK = {"LATIN": "ABEHIKMNOoPTXYZvu", "GREEK": "ΑΒΕΗΙΚΜΝΟοΡΤΧΥΖνυ"}
_TO_SCRIPT = {
    target: {
        ord(one): other
        for pair in (_ALIKE, _GREEK)
        if target in pair
        for script, letters in pair.items()
        if script != target
        for one, other in zip(letters, pair[target], strict=True)
    }
    for target in ("LATIN", "CYRILLIC", "GREEK")
}
# Letters that have no accent to take off, as they are written where a keyboard lacks them.
_SPELLED = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "ı": "i", "þ": "th", "ð": "d"}


# --- The rule ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How transcripts are normalised.

    Attributes:
        case: "lower", "upper" or "keep".
        punctuation: "remove" or "keep".
        digits: "keep", or "spell": numbers become words.
        language: an ISO 639-1 code; numbers need it, and Turkish and Azerbaijani for their two letters i.

    Raises:
        InputError: a setting that isn't one of these, or numbers can't be spelled in that language.
    """

    case: str = "lower"
    punctuation: str = "remove"
    digits: str = "keep"
    language: str = ""

    def __post_init__(self) -> None:
        allowed = {
            "case": ("lower", "upper", "keep"),
            "punctuation": ("remove", "keep"),
            "digits": ("keep", "spell"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise InputError(f"{name} {getattr(self, name)!r}: expected {' or '.join(values)}")
        if self.digits == "spell":
            _spell_number("1", self.language)

    def __str__(self) -> str:
        case = {"lower": "lower case", "upper": "upper case", "keep": "case kept"}[self.case]
        punctuation = "punctuation kept"
        if self.punctuation == "remove":
            punctuation = "punctuation and symbols replaced by spaces, apostrophes inside words kept"
        digits = "digits kept" if self.digits == "keep" else f"numbers spelled as words ({self.language})"
        return f"Unicode NFC; {case}; {digits}; {punctuation}; one space between words"

    def normalise(self, text: str) -> str:
        """A transcript by this rule; the same rule again changes nothing."""
        text = unicodedata.normalize("NFC", text)
        if self.digits == "spell":
            text = _numbers_of(self.language).sub(lambda match: f" {_spell_number(match[0], self.language)} ", text)
        if self.case != "keep":
            text = _change_case(text, self.case, self.language)
        if self.punctuation == "remove":
            text = _EDGE.sub(" ", text.translate(_APOSTROPHES).translate(_WORDS_ONLY))
        else:
            text = text.translate(_PRINTABLE)
        return " ".join(_LOOSE_JOINER.sub("", text).split())


def _change_case(text: str, case: str, language: str) -> str:
    if language in _DOTTED:
        text = text.replace("I", "ı").replace("İ", "i") if case == "lower" else text.replace("i", "İ")
    # By Unicode's own rule a lower-case İ is two characters.
    text = text.lower().replace("i\u0307", "i") if case == "lower" else text.upper()
    return unicodedata.normalize("NFC", text)


class _Kept(dict):
    """A table for `str.translate`, filled as characters come: some stay, others become a space or nothing."""

    def __init__(self, categories: set[str]):
        super().__init__()
        self.categories = categories

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category in self.categories or category[0] in "LM" or character in _INNER + _JOINERS:
            self[code] = character
        else:
            self[code] = "" if category == "Cf" else " "
        return self[code]


_WORDS_ONLY = _Kept({"Nd", "Nl"})
_PRINTABLE = _Kept({"Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So"})


@lru_cache
def _numbers_of(language: str) -> re.Pattern:
    group = r"[,\u00a0\u202f]" if language in _WITH_POINT else r"[.\u00a0\u202f]"
    point = r"\." if language in _WITH_POINT else ","
    ordinal = "(?:st|nd|rd|th)?" if language == "en" else ""
    return re.compile(rf"\d{{1,3}}(?:{group}\d{{3}}(?!\d))+(?:{point}\d+)?{ordinal}|\d+(?:[.,]\d+)?{ordinal}")


@lru_cache(maxsize=10_000)
def _spell_number(written: str, language: str) -> str:
    if not language:
        raise InputError("--digits spell: in which language? Add --language en, de, ru, ...")
    try:
        from num2words import num2words
    except ImportError as error:
        raise InputError("numbers are spelled by the package num2words: pip install -r requirements.txt") from error
    number = written.rstrip("stndrh")
    grouped = re.match(r"\d{1,3}([,.\u00a0\u202f])\d{3}(?!\d)", number)
    if grouped and (grouped[1] in "\u00a0\u202f" or (grouped[1] == ",") == (language in _WITH_POINT)):
        number = number.replace(grouped[1], "")
    whole, _, part = number.replace(",", ".").partition(".")
    try:
        if len(whole) > 12 or (len(whole) > 1 and unicodedata.digit(whole[0]) == 0):  # a telephone number, an id
            return " ".join(num2words(unicodedata.digit(digit), lang=language) for digit in whole + part)
        value = float(f"{int(whole)}.{part}") if part else int(whole)
        return num2words(value, lang=language, ordinal=number != written and not grouped and not part)
    except NotImplementedError as error:
        raise InputError(f"--language {language}: num2words can't spell numbers in it; use --digits keep") from error


# --- What looks wrong -------------------------------------------------------------------------------------------------


REPAIRABLE = ("mojibake", "annotation", "mixed scripts")
"""What `repaired` puts right."""


def doubts(text: str) -> dict[str, str]:
    """What looks wrong in a transcript as it was written: kind → what was found.

    The kinds: "mojibake", UTF-8 that was read as another encoding; "annotation", a remark in brackets that nobody said;
    "mixed scripts", a word with letters of two scripts that look alike; "symbol", a sign that is read as a word.
    """
    found = {}
    if _GARBLED.search(text) and (repaired := _ungarbled(text)) != text:
        found["mojibake"] = repaired
        text = repaired
    if annotations := _ANNOTATION.findall(text):
        found["annotation"] = " ".join(annotations)
    if (
        not text.isascii()
        and _TWO_SCRIPTS.search(text)
        and (mixed := [word for word in text.split() if _one_script(word) != word])
    ):
        found["mixed scripts"] = " ".join(mixed)
    if symbols := _SYMBOL.findall(_ANNOTATION.sub(" ", text)):
        found["symbol"] = " ".join(dict.fromkeys(symbols))
    return found


def repaired(text: str) -> str:
    """A transcript without what `doubts` finds, as far as it can be repaired: all but symbols."""
    if _GARBLED.search(text):
        text = _ungarbled(text)
    text = _ANNOTATION.sub(" ", text)
    return text if text.isascii() else re.sub(r"\S+", lambda match: _one_script(match[0]), text)


def _ungarbled(text: str) -> str:
    """UTF-8 that was read as Windows-1252 (or Latin-1), read again; unchanged where it is none."""
    try:
        return b"".join(map(_as_byte, text)).decode("utf-8")
    except UnicodeError:
        return text


def _as_byte(character: str) -> bytes:
    # Windows-1252 has five holes, which programs fill as Latin-1 does.
    return character.encode("latin-1") if character < "\u0100" else character.encode("cp1252")


@lru_cache(maxsize=10_000)
def script_of(character: str) -> str:
    """The script of a letter by its Unicode name, "LATIN", "CYRILLIC"; "" for what is no letter."""
    return unicodedata.name(character, "").split(" ")[0] if character.isalpha() else ""


def _one_script(word: str) -> str:
    """A word with the letters that only look like those of its script put right."""
    scripts = Counter(script for letter in word if (script := script_of(letter)) in _TO_SCRIPT)
    if len(scripts) < 2:
        return word
    # A script whose letters are all ambiguous is the guest, however many there are of them.
    for script, _ in scripts.most_common():
        put_right = word.translate(_TO_SCRIPT[script])
        if all(script_of(letter) in (script, "") for letter in put_right):
            return put_right
    return word


# --- Alphabets --------------------------------------------------------------------------------------------------------


def outside(text: str, alphabet: Iterable[str]) -> list[str]:
    """The characters of a text that an alphabet lacks, each once."""
    allowed = set(alphabet)
    return [letter for letter in dict.fromkeys(text) if letter not in allowed]


def respelled(text: str, alphabet: Iterable[str]) -> str:
    """A text in another alphabet as far as that can be done without loss of sense: other case, no accents, ß as ss."""
    allowed = set(alphabet)
    return " ".join("".join(_nearest(letter, allowed) for letter in text).split())


def _nearest(letter: str, allowed: set[str]) -> str:
    if letter in allowed:
        return letter
    bare = "".join(one for one in unicodedata.normalize("NFD", letter) if not unicodedata.combining(one))
    spelled = _SPELLED.get(letter.lower(), bare)
    for candidate in (letter.lower(), letter.upper(), bare, bare.lower(), bare.upper(), spelled, spelled.upper()):
        if candidate and set(candidate) <= allowed:
            return candidate
    return letter
