"""Normalisation of transcripts by a stated rule, and detection and repair of typical mistakes in them.

It works for any language and script: characters are classified by their Unicode categories.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from asr_with_nemo.errors import InputError

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´＇", "'"))
# Punctuation inside words that belongs to them: the apostrophe, the dot of Catalan (col·legi), Hebrew's geresh and
# gershayim.
_INNER = "'·׳״"
_EDGE = re.compile(rf"(?<![^\W\d_])[{_INNER}]+|[{_INNER}]+(?![^\W\d_])")
# Joiners change the shape of the letters around them, in Persian and in Indic scripts.
_JOINERS = "\u200c\u200d"
_LOOSE_JOINER = re.compile(rf"(?:(?<=\s)|^)[{_JOINERS}]+|[{_JOINERS}]+(?=\s|$)")
_WITH_POINT = {"en", "zh", "ja", "ko", "th", "he", "hi", "bn", "ta", "te", "ur", "fa"}  # 1,234.5; elsewhere 1.234,5
_DOTTED = {"tr", "az"}  # the capital of ı is I, and that of i is İ
# Symbols that are spoken as a word, which is lost when they are removed with the punctuation.
_SPOKEN_SYMBOLS = "%&@+=#§°€$£¥₽₹½¼¾²³"
_SYMBOL = re.compile(f"[{re.escape(_SPOKEN_SYMBOLS)}]")
_ANNOTATION = re.compile(r"\[[^\]]*\]|<[^>]*>|\([^)]*\)|\{[^}]*\}|\*[^*\s][^*]*\*")
# A word in angle brackets isn't spoken: <noise>, <|en|>, TED-LIUM's <unk>(2). GigaSpeech writes punctuation so.
_TAG = re.compile(r"</?\|?[\w:.-]+\|?/?>(?:\(\d+\))?")
_MARK = re.compile(r"\s*<(comma|period|questionmark|exclamationpoint)>", re.IGNORECASE)
_MARKS = {"comma": ",", "period": ".", "questionmark": "?", "exclamationpoint": "!"}
_CLOCK = re.compile(r"(?<![\d:])\d{1,3}:[0-5]\d(:[0-5]\d)?(?:[.,]\d{1,3})?(?![\d:])")
_MANY = 3  # clock times without hours, which may be said
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+|\b[\w-]+\.(?:com|org|net|edu|gov|info|io|ai)\b", re.IGNORECASE)
_WORD = re.compile(rf"(?:{_ANNOTATION.pattern}|\S)+")
# The first byte of a UTF-8 character, decoded as Windows-1252, is one of these.
_GARBLED = re.compile("[ÂÃÄÅÆÇÎÏÐÑÒÓÔÕÖ×ØÙàáâãäåæçèé][\u0080-\u00bfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™]")
_TWO_SCRIPTS = re.compile(
    "(?s)[A-Za-z].*[\u0370-\u052f]|[\u0370-\u052f].*[A-Za-z]|[\u0370-\u03ff].*[\u0400-\u052f]|[\u0400-\u052f].*[\u0370-\u03ff]"
)
# Letters that look alike, in the same order for each script.
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
# Letters without an accent to remove, as they are spelled on a keyboard without them.
_SPELLED = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ł": "l", "ı": "i", "þ": "th", "ð": "d"}


# --- The rule ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How transcripts are normalised.

    Attributes:
        case: "lower", "upper" or "keep".
        punctuation: "remove" or "keep".
        digits: "keep", or "spell" to spell numbers out.
        language: an ISO 639-1 code; needed to spell numbers, and for the two letters i of Turkish and Azerbaijani.

    Raises:
        InputError: a setting has another value, or numbers can't be spelled in the language.

    Example:
        >>> Rule().normalise("“Don’t!” he said—twice.")
        "don't he said twice"
        >>> Rule(case="upper").normalise("straße")
        'STRASSE'
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
        """Return the normalised transcript; normalising it again changes nothing."""
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
    # By Unicode's rule, the lower case of İ is two characters.
    text = text.lower().replace("i\u0307", "i") if case == "lower" else text.upper()
    return unicodedata.normalize("NFC", text)


class _Kept(dict):
    """A table for `str.translate`, filled on demand: characters of the given categories stay, others become a space."""

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
        raise InputError("--digits spell needs the language of the transcripts: add --language en, de, ru ...")
    try:
        from num2words import num2words
    except ImportError as error:
        raise InputError("--digits spell needs the package num2words: pip install -r requirements.txt") from error
    number = written.rstrip("stndrh")
    grouped = re.match(r"\d{1,3}([,.\u00a0\u202f])\d{3}(?!\d)", number)
    if grouped and (grouped[1] in "\u00a0\u202f" or (grouped[1] == ",") == (language in _WITH_POINT)):
        number = number.replace(grouped[1], "")
    whole, _, part = number.replace(",", ".").partition(".")
    try:
        if len(whole) > 12 or (len(whole) > 1 and unicodedata.digit(whole[0]) == 0):  # a telephone number or an id
            return " ".join(num2words(unicodedata.digit(digit), lang=language) for digit in whole + part)
        value = float(f"{int(whole)}.{part}") if part else int(whole)
        return num2words(value, lang=language, ordinal=number != written and not grouped and not part)
    except NotImplementedError as error:
        raise InputError(f"--language {language}: num2words can't spell numbers in it; use --digits keep") from error


# --- Typical mistakes -------------------------------------------------------------------------------------------------


REPAIRABLE = ("mojibake", "annotation", "mixed scripts")
"""The kinds of problems that `repaired` corrects."""


def doubts(text: str) -> dict[str, str]:
    """Return the likely mistakes in a transcript as written: kind → the part affected.

    The kinds: "mojibake", UTF-8 decoded with another encoding; "annotation", a remark in brackets, which isn't spoken;
    "mixed scripts", a word with lookalike letters of two scripts; "symbol", a symbol that is spoken as a word; "clock
    times", those of its lines, which nobody says; "address", one of a web page.

    Example:
        >>> doubts("[noise] 100% cafÃ©")
        {'mojibake': '[noise] 100% café', 'annotation': '[noise]', 'symbol': '%'}
    """
    found = {}
    if _GARBLED.search(text) and (repaired := _ungarbled(text)) != text:
        found["mojibake"] = repaired
        text = repaired
    text = _MARK.sub("", text)
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
    clocks = list(_CLOCK.finditer(text)) if ":" in text else []
    if len(clocks) >= _MANY or any(clock[1] for clock in clocks):
        found["clock times"] = " ".join(clock[0] for clock in clocks[:_MANY])
    if "." in text and (addresses := _ADDRESS.findall(text)):
        found["address"] = " ".join(dict.fromkeys(addresses))
    return found


def without_tags(text: str) -> str:
    """Return a transcript without words in angle brackets; those of GigaSpeech's punctuation become punctuation.

    Example:
        >>> without_tags("WELL <COMMA> I <unk>(2) SEE <PERIOD>")
        'WELL, I SEE.'
    """
    if "<" not in text:
        return text
    text = _MARK.sub(lambda mark: _MARKS[mark[1].lower()], text)
    return " ".join(_TAG.sub(" ", text).split())


def repaired(text: str) -> str:
    """Return a transcript with the mistakes that `doubts` finds corrected, except for symbols.

    Example:
        >>> repaired("cafÃ© [noise]").strip()
        'café'
    """
    if _GARBLED.search(text):
        text = _ungarbled(text)
    text = _ANNOTATION.sub(" ", text)
    return text if text.isascii() else re.sub(r"\S+", lambda match: _one_script(match[0]), text)


def written_words(text: str) -> list[str]:
    """Split a transcript as written at its spaces, except for those within a remark in brackets.

    Example:
        >>> written_words("Well, [door slams] no.")
        ['Well,', '[door slams]', 'no.']
    """
    return _WORD.findall(text)


def _ungarbled(text: str) -> str:
    """Decode again UTF-8 that was decoded as Windows-1252 or Latin-1; other text is returned unchanged."""
    try:
        return b"".join(map(_as_byte, text)).decode("utf-8")
    except UnicodeError:
        return text


def _as_byte(character: str) -> bytes:
    # Windows-1252 leaves five bytes undefined, which programs decode as Latin-1.
    return character.encode("latin-1") if character < "\u0100" else character.encode("cp1252")


@lru_cache(maxsize=10_000)
def script_of(character: str) -> str:
    """Return the script of a letter by its Unicode name, "LATIN", "CYRILLIC"; "" for other characters."""
    return unicodedata.name(character, "").split(" ")[0] if character.isalpha() else ""


def _one_script(word: str) -> str:
    """Return a word with lookalike letters replaced, so that all are of one script."""
    scripts = Counter(script for letter in word if (script := script_of(letter)) in _TO_SCRIPT)
    if len(scripts) < 2:
        return word
    # A script whose letters all have lookalikes is the wrong one, however many of them there are.
    for script, _ in scripts.most_common():
        corrected = word.translate(_TO_SCRIPT[script])
        if all(script_of(letter) in (script, "") for letter in corrected):
            return corrected
    return word


# --- Alphabets --------------------------------------------------------------------------------------------------------


def outside(text: str, alphabet: Iterable[str]) -> list[str]:
    """Return the characters of a text that aren't in an alphabet, each once."""
    allowed = set(alphabet)
    return [letter for letter in dict.fromkeys(text) if letter not in allowed]


def respelled(text: str, alphabet: Iterable[str]) -> str:
    """Return a text in another alphabet, as far as case, accents and common spellings (ß as ss) allow.

    Example:
        >>> respelled("Straße Ärger", "abcdefghijklmnopqrstuvwxyz ")
        'strasse arger'
    """
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
