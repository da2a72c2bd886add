# ruff: noqa: SIM905 (lists of words read better as text)
"""Readers of annotations on tiers: Praat's TextGrids and ELAN's .eaf files.

praatio and pympi-ling read these files, but not those with a fault, name no lines, and pympi-ling reads XML unguarded.
"""

import re
import xml.sax
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

import defusedxml.sax
from defusedxml import DefusedXmlException

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.cues import PAUSE, Cue, Reading, check_size, lines_of, utterances_of

# Words in the names of tiers with transcripts, the most reliable first; the last kind has a word an interval.
_LEVELS = (
    set(
        "utterance utterances utt sentence sentences phrase phrases turn turns satz sätze äußerung äußerungen énoncé "
        "énoncés oración oraciones frase frasi frases предложение фраза высказывание 句子".split()
    ),
    set(
        "transcript transcripts transcription transcriptions trs tx text texts transkript transkription texte texto "
        "testo transcripción transcrição trascrizione текст транскрипция 文本 转写".split()
    ),
    {"orthography", "orthographic", "ortho", "orth", "ort", "speech", "ipu", "ipus", "default"},
    {"word", "words", "wort", "wörter", "mot", "mots", "palabra", "palabras", "parole", "слово", "слова", "词"},
)
# Words in the names of tiers with something else.
_OTHERS = frozenset(
    "phone phones phoneme phonemes phon phonetic phonetics segment segments seg mau kan syllable syllables syll tone "
    "tones break breaks tobi pos lemma lemmas gloss glosses translation translations comment comments "
    "gesture gestures morph morphemes ipa übersetzung glosse glossen anmerkung anmerkungen "
    "kommentar kommentare notiz notizen silbe silben geste gesten traduction traducción tradução traduzione "
    "glosa glosas commentaire commentaires comentario comentarios syllabe syllabes sílaba sílabas "
    "phonème phonèmes fonema fonemas перевод комментарий примечание фонема слог 翻译 注释".split()
)
_PERHAPS_OTHERS = frozenset("laut laute note notes nota notas".split())  # if there is any other tier
_NUMBERS = frozenset("ref refs reference id ids".split())  # if they hold numbers
_PAUSES = {"", "sil", "sp", "<p:>", "<p>", "<sil>", "<eps>", "pau", "silence", "#", "##", "_"}


@dataclass
class Tier:
    """A tier of intervals.

    Attributes:
        name: as in the file.
        cues: in the order of the file.
        participant: the speaker, if the file names them.
        is_dependent: whether it annotates another tier.
        pauses: labels that mark a pause → how many.
    """

    name: str
    cues: list[Cue] = field(default_factory=list)
    participant: str = ""
    is_dependent: bool = False
    pauses: Counter[str] = field(default_factory=Counter)


# --- Tiers ------------------------------------------------------------------------------------------------------------


def chosen(path: Path, tiers: Sequence[Tier], wanted: Sequence[str], are_speakers: bool) -> Reading:
    """Return the cues of the tiers that hold the transcripts, and notes that name them and the others.

    Args:
        path: of the file.
        tiers: all of its tiers.
        wanted: the names of the tiers to read; by default, those with transcripts by their names.
        are_speakers: whether a tier is named after its speaker, if it isn't after what it holds.

    Raises:
        InputError: no tier has one of the names, or none looks like transcripts.
    """
    there = ", ".join(dict.fromkeys(repr(tier.name) for tier in tiers)) or "none"
    if wanted:
        names = {name.casefold() for name in wanted}
        used = [tier for tier in tiers if tier.name.casefold() in names]
        if not used:
            raise InputError(f"{path}: no tier {' or '.join(map(repr, wanted))} (--tier); it has {there}")
    else:
        used = _with_transcripts(tiers)
        if not used:
            raise InputError(f"{path}: no tier of transcripts among {there}; name one with --tier")
    notes = [f"read {_named(used)}"]
    if others := [tier for tier in tiers if not any(tier is one for one in used)]:
        notes[0] += f"; not read: {_named(others)}"
    if pauses := sum((tier.pauses for tier in used), Counter()):
        notes.append(f"read as pauses: the labels {', '.join(sorted(pauses))}")
    cues: list[Cue] = []
    for tier in used:
        speaker = tier.participant or _speaker(tier.name, are_speakers or len(used) > 1)
        own = [replace(cue, speaker=speaker, tier=tier.name) for cue in tier.cues]
        if _has_words(tier):
            notes.append(f"tier {tier.name!r} has a word an interval: joined to utterances, up to {PAUSE:g} s of pause")
            own = list(utterances_of(own))
        cues += own
    return Reading(cues, notes, has_tiers=True)


def _named(tiers: Sequence[Tier]) -> str:
    names = list(dict.fromkeys(tier.name for tier in tiers))
    shown = ", ".join(map(repr, names[:8])) + (" ..." if names[8:] else "")
    return f"tier{'s' * (len(names) > 1)} {shown}"


def _with_transcripts(tiers: Sequence[Tier]) -> list[Tier]:
    filled = [tier for tier in tiers if any(any(map(str.isalpha, cue.text)) for cue in tier.cues)]
    wanted = [tier for tier in filled if not _is_other(tier.name)]
    wanted = [tier for tier in wanted if not (_NUMBERS & set(_words(tier.name)) and _are_numbers([tier]))]
    sure = [tier for tier in wanted if not _PERHAPS_OTHERS & set(_words(tier.name))]
    wanted = wanted if not sure and len(wanted) == len(filled) else sure
    free = [tier for tier in wanted if not tier.is_dependent]
    # In a glossed text, the free tier only numbers the utterances.
    if not any(map(_is_transcript, free)) and _are_numbers(free):
        free = [tier for tier in wanted if _is_transcript(tier)] or free or wanted
    levels = [level for tier in free if (level := _level(tier.name)) is not None]
    return [tier for tier in free if _level(tier.name) == min(levels)] if levels else free


def _are_numbers(tiers: Sequence[Tier]) -> bool:
    """Return whether tiers hold nothing but single tokens, most of them with digits: ann.001."""
    texts = [cue.text for tier in tiers for cue in tier.cues if cue.text]
    return all(len(text.split()) == 1 for text in texts) and (
        sum(any(map(str.isdigit, text)) for text in texts) >= len(texts) / 2
    )


def _is_transcript(tier: Tier) -> bool:
    level = _level(tier.name)
    return level is not None and level < len(_LEVELS) - 1


def _is_other(name: str) -> bool:
    words = set(_words(name))
    # WebMAUS calls its tiers ORT-MAU (words), KAN-MAU and MAU (sounds).
    return bool((words - {"mau"} if "ort" in words else words) & _OTHERS)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", name.casefold()) if word]


def _level(name: str) -> int | None:
    words = set(_words(name))
    return next((number for number, known in enumerate(_LEVELS) if words & known), None)


def _speaker(name: str, is_named: bool) -> str:
    """Return the speaker in a tier's name: `Ann - words`, or the name itself if it isn't that of a level."""
    known = set().union(*_LEVELS)
    if _level(name) is None:
        return name if is_named else ""
    parts = re.split(r"([\s_:.@-]+)", name)
    kept = [part for part in parts[::2] if part and part.casefold() not in known]
    return " ".join(kept)


def _has_words(tier: Tier) -> bool:
    """Return whether the intervals of a tier are single words that follow each other, as an aligner writes them."""
    cues = [cue for cue in tier.cues if not cue.problem and cue.text]
    single = sum(len(cue.text.split()) == 1 for cue in cues)
    if not cues or single < 0.95 * len(cues):
        return False
    if _level(tier.name) == len(_LEVELS) - 1:
        return True
    gaps = [following.start - cue.end for cue, following in pairwise(cues)]
    lengths = [cue.end - cue.start for cue in cues]
    return len(cues) >= 10 and median(gaps) < 0.05 and median(lengths) < 0.8


# --- Praat ------------------------------------------------------------------------------------------------------------


def read_textgrid(path: Path, encoding: str = "", wanted: Sequence[str] = ()) -> Reading:
    """Read a TextGrid, in Praat's long or short text form: the intervals with a text.

    Raises:
        InputError: the file can't be read, is of another form, or has no tier to read.
    """
    with open(path, "rb") as file:
        if file.read(12).startswith(b"ooBinaryFile"):
            raise InputError(f"{path}: a binary TextGrid; in Praat, use Save as text file")
    lines = lines_of(path, encoding)
    content = "".join(lines)
    tokens = _Tokens(content)
    kinds = [tokens.text(), tokens.text()]
    if "chronological" in content[:80]:
        raise InputError(f"{path}: a chronological TextGrid; in Praat, use Save as text file")
    if kinds[1] != "TextGrid":
        raise InputError(f"{path}: not a TextGrid; expected Praat's text form, which begins with ooTextFile")
    tokens.number(), tokens.number(), tokens.number()  # its times, and how many tiers
    tiers = list(_tiers(tokens, [("encoding", "")] if lines.doubt() else []))
    return chosen(path, tiers, wanted, are_speakers=False)


def _tiers(tokens: "_Tokens", doubts: list[tuple[str, str]]) -> Iterator[Tier]:
    while kind := tokens.text():
        tier = Tier(tokens.text() or "")
        tokens.number(), tokens.number()
        count = tokens.number()
        for _ in range(int(count) if count and 0 <= count < 1e7 else 0):
            place = f"line {tokens.line()}"
            times = [tokens.number()] if kind == "TextTier" else [tokens.number(), tokens.number()]
            # Praat writes the number of a tier's next interval where a tier is damaged; a label is always in quotes.
            label = tokens.text()
            if None in times or label is None:
                detail = f"tier {tier.name!r}: no valid interval; the file is damaged or truncated"
                tier.cues.append(Cue(place, problem="broken row", detail=detail))
                break
            label = " ".join(label.split())
            if label.casefold() in _PAUSES:
                tier.pauses.update([label] if label else [])
            elif kind == "IntervalTier":
                tier.cues.append(Cue(place, *times, label, doubts=tuple(doubts)))
        if kind != "IntervalTier":
            tier.name, tier.is_dependent = f"{tier.name} (points)", True
        yield tier


class _Tokens:
    """The strings and free-standing numbers of a TextGrid, which is all that Praat reads of it."""

    _TOKEN = re.compile(r'"|![^\n]*|[^\s"]+|\s+')

    def __init__(self, content: str):
        self.content, self.at = content, 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", content))]

    def line(self) -> int:
        """Return the line of the next token."""
        place = (
            self.at + len(self.content[self.at : self.at + 200]) - len(self.content[self.at : self.at + 200].lstrip())
        )
        return bisect_right(self._starts, place)

    def text(self) -> str | None:
        """Return the next string; None if there is none before the next number."""
        token = self._next()
        return token if isinstance(token, str) else None

    def number(self) -> float | None:
        """Return the next number; None if there is none before the next string."""
        token = self._next()
        return None if isinstance(token, str) else token

    def _next(self) -> str | float | None:
        while match := self._TOKEN.match(self.content, self.at):
            if match[0] == '"':
                return self._string()
            self.at = match.end()
            try:
                number = float(match[0]) if match[0][0] in "0123456789-+." else None
            except ValueError:
                continue
            if number is not None:
                return number
        return None

    def _string(self) -> str | None:
        """Return the string that begins here, in which a quote is written twice; None if it never ends."""
        start = end = self.at + 1
        while True:
            end = self.content.find('"', end)
            if end < 0:
                self.at = len(self.content)
                return None
            if self.content[end + 1 : end + 2] != '"':
                break
            end += 2
        self.at = end + 1
        return self.content[start:end].replace('""', '"')


# --- ELAN -------------------------------------------------------------------------------------------------------------


def read_elan(path: Path, encoding: str = "", wanted: Sequence[str] = ()) -> Reading:
    """Read an ELAN annotation file: the annotations with times; the tiers are the speakers.

    The XML may define no entities, which can fill the memory or name other files.

    Raises:
        InputError: the file can't be read, isn't ELAN's, or has no tier to read.
    """
    check_size(path)
    handler = _Elan()
    try:
        defusedxml.sax.parse(str(path), handler, forbid_dtd=True)
    except DefusedXmlException as error:
        raise InputError(
            f"{path}: its XML defines a document type or entities, which ELAN never writes; refused"
        ) from error
    except xml.sax.SAXParseException as error:
        where = f"line {error.getLineNumber()}: {error.getMessage()}"
        raise InputError(f"{path}: not valid XML ({where}); save it again with ELAN") from error
    except (xml.sax.SAXException, ValueError, LookupError, OSError) as error:
        raise InputError(f"{path}: can't be read as XML ({error}); save it again with ELAN") from error
    if not handler.is_elan:
        raise InputError(f"{path}: not an annotation document of ELAN")
    reading = chosen(path, handler.finished(), wanted, are_speakers=True)
    if handler.spread:
        reading.notes.append(
            f"{handler.spread:,} times that nobody has set: spread evenly between those beside them, as ELAN shows them"
        )
    shift = handler.origin
    if shift:
        reading.notes.append(f"times shifted by {shift:g} s, the file's TIME_ORIGIN")
        reading.cues = [replace(cue, start=cue.start + shift, end=cue.end + shift) for cue in reading.cues]
    reading.media = handler.media
    return reading


@dataclass
class _Annotation:
    """An annotation as written: its line, its time slots or the annotation that it belongs to, and its text."""

    line: int
    slots: tuple[str, str] = ("", "")
    parent: str = ""
    text: str = ""


class _Elan(ContentHandler):
    """Collects tiers, annotations and time slots from the events of an XML parser, with their lines."""

    def __init__(self) -> None:
        super().__init__()
        self.is_elan, self.media, self.origin, self.spread = False, "", 0.0, 0
        self._slots: dict[str, float | None] = {}
        self._annotations: dict[str, _Annotation] = {}
        self._tiers: list[tuple[Tier, list[str]]] = []
        self._latest = ""
        self._text: list[str] | None = None

    def startElement(self, name: str, attrs: AttributesImpl) -> None:
        """Take an element's attributes."""
        line = self._locator.getLineNumber() if self._locator else 0
        if name == "ANNOTATION_DOCUMENT":
            self.is_elan = True
        elif name == "MEDIA_DESCRIPTOR" and not self.media:
            self.media = attrs.get("RELATIVE_MEDIA_URL") or attrs.get("MEDIA_URL") or ""
            origin = attrs.get("TIME_ORIGIN", "")
            self.origin = int(origin) / 1000 if re.fullmatch(r"-?\d{1,9}", origin) else 0.0
        elif name == "TIME_SLOT":
            value = attrs.get("TIME_VALUE", "")
            self._slots[attrs.get("TIME_SLOT_ID", "")] = int(value) / 1000 if re.fullmatch(r"\d{1,12}", value) else None
        elif name == "TIER":
            tier = Tier(attrs.get("TIER_ID", ""), participant=attrs.get("PARTICIPANT", "").strip())
            tier.is_dependent = bool(attrs.get("PARENT_REF"))
            self._tiers.append((tier, []))
        elif name in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION") and self._tiers:
            self._latest = attrs.get("ANNOTATION_ID", "") or f"line {line}"
            slots = (attrs.get("TIME_SLOT_REF1", ""), attrs.get("TIME_SLOT_REF2", ""))
            self._annotations[self._latest] = _Annotation(line, slots, attrs.get("ANNOTATION_REF", ""))
            self._tiers[-1][1].append(self._latest)
        elif name == "ANNOTATION_VALUE" and self._latest:
            self._text = []

    def characters(self, content: str) -> None:
        """Take text within an annotation."""
        if self._text is not None:
            self._text.append(content)

    def endElement(self, name: str) -> None:
        """End an annotation's text."""
        if name == "ANNOTATION_VALUE" and self._text is not None:
            self._annotations[self._latest].text = " ".join("".join(self._text).split())
            self._text = None

    def finished(self) -> list[Tier]:
        """Return the tiers, once everything is read: a file may name its times last."""
        for tier, names in self._tiers:
            self._spread(names)
            for name in names:
                one = self._annotations[name]
                if one.text.casefold() in _PAUSES:
                    tier.pauses.update([one.text] if one.text else [])
                    continue
                tier.cues.append(self._cue(name, one))
        return [tier for tier, _ in self._tiers]

    def _spread(self, names: Sequence[str]) -> None:
        """Set the times that are missing where one annotation follows another: ELAN divides them evenly."""
        uses = Counter(slot for name in names for slot in self._annotations[name].slots if slot)
        slots = list(uses)
        known = [place for place, slot in enumerate(slots) if self._slots.get(slot) is not None]
        for before, after in pairwise(known):
            start, end = self._slots[slots[before]], self._slots[slots[after]]
            within = range(before + 1, after)
            if start > end or any(uses[slots[place]] < 2 for place in within):
                continue
            for place in within:
                self._slots[slots[place]] = start + (end - start) * (place - before) / (after - before)
                self.spread += 1

    def _cue(self, name: str, one: _Annotation) -> Cue:
        place, timed = f"line {one.line} ({name})", one
        for _ in range(100):  # from an annotation without times to the one that it belongs to
            if timed.slots[0] or timed.parent not in self._annotations:
                break
            timed = self._annotations[timed.parent]
        start, end = (self._slots.get(slot) for slot in timed.slots)
        if start is None or end is None:
            slot = timed.slots[start is not None] or "none"
            detail = f"has no time: its time slot ({slot}) isn't aligned"
            return Cue(place, text=one.text, problem="bad times", detail=detail)
        return Cue(place, start, end, one.text)
