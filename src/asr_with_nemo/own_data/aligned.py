"""Texts with times beside recordings: captions, tiers, segments and labels, each of their texts an utterance.

`read` finds the file of each recording, chooses if there are several, and says what it didn't read. Readers of the
forms: `captions`, `annotations`, `segments`, and `beside` for text files.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import annotations, beside, captions, channels, segments, tables, twins
from asr_with_nemo.own_data.cues import Cue, Reading, checked, entries, speaker_in
from asr_with_nemo.own_data.sources import Entry, Finder, Missing, Source, split_of
from asr_with_nemo.own_data.store import ALIGNED, AUDIO, name_key

_READERS: dict[str, Callable[[Path, Source], Reading | None]] = {
    ".eaf": lambda path, source: annotations.read_elan(path, source.encoding, source.tiers),
    ".textgrid": lambda path, source: annotations.read_textgrid(path, source.encoding, source.tiers),
    ".vtt": lambda path, source: captions.read(path, source.encoding),
    ".srt": lambda path, source: captions.read(path, source.encoding),
    ".json": lambda path, source: segments.read_json(path, source.encoding),
    ".tsv": lambda path, source: segments.read_table(path, source.encoding, source.delimiter, source.columns),
    ".csv": lambda path, source: segments.read_table(path, source.encoding, source.delimiter, source.columns),
}
"""Suffix → reader of a file beside its recording, in the order in which one of several is chosen.

A person has made tiers for this recording; captions may be shortened; JSON and tables are often a machine's.
"""
_LISTS: dict[str, Callable[[Path, Source], Reading]] = {
    ".stm": lambda path, source: segments.read_stm(path, source.encoding),
    ".ctm": lambda path, source: segments.read_ctm(path, source.encoding),
}
"""Suffix → reader of a file that names its recordings."""
_CAPTIONS = (".srt", ".vtt")
_MAYBE = (".json", ".tsv", ".csv")  # these hold texts with times, or anything else
# Between a recording's name and the suffix of its captions: a language, or as in Zoom's talk.transcript.vtt.
_LANGUAGE = re.compile(
    r"\.(?:transcript|captions?|subtitles?|subs?|auto|cc|(?P<code>[a-z]{2,3})(?:[-_][a-z0-9]+)*)", re.IGNORECASE
)
_UNKNOWN = (".ass", ".ssa", ".sbv", ".ttml", ".dfxp", ".lrc", ".trs", ".cha", ".sub", ".smi", ".sami", ".rttm", ".exb")
_DOCUMENTS = (".docx", ".doc", ".odt", ".rtf", ".pdf", ".pages")
_SLOWEST = 0.3  # letters in a unit of time: speech has some 10 in a second, and 0.01 in a millisecond
_SHORT = 30.0  # seconds; in a shorter recording, tiers are the alignment of the text beside it


# --- Detection --------------------------------------------------------------------------------------------------------


def is_one(path: Path, source: Source) -> bool:
    """Return whether a file holds texts with times, by its suffix, or by its content and a recording of its name."""
    suffix = path.suffix.lower()
    if suffix in (*_CAPTIONS, ".eaf", ".textgrid", *_LISTS):
        return True
    if suffix not in (*_MAYBE, ".txt") or not _recordings_of(source, path):
        return False
    return suffix == ".txt" or _holds_times(path, source)


def fits(source: Source, with_tiers: bool = False) -> bool:
    """Return whether a folder has texts with times beside its recordings.

    Args:
        source: a folder.
        with_tiers: count TextGrids too, which are often beside short recordings that have their text elsewhere.
    """
    if not source.store.value("SELECT 1 FROM files WHERE kind = 'audio'"):
        return False
    found = source.store.select("SELECT path, stem FROM files WHERE kind = 'aligned' ORDER BY path")
    looked = 0
    for path, _ in found:
        suffix = os.path.splitext(path)[1].lower()
        if suffix in (".eaf", *_LISTS):
            return True
        whole = source.root / path
        if suffix in _CAPTIONS or (with_tiers and suffix == ".textgrid"):
            if _recordings_of(source, whole):
                return True
        elif suffix in _MAYBE and looked < 20 and _recordings_of(source, whole):
            looked += 1
            if _holds_times(whole, source):
                return True
    return False


def _holds_times(path: Path, source: Source) -> bool:
    try:
        return _READERS[path.suffix.lower()](path, source) is not None
    except tables.UnclearTextsError:
        return True  # the user is asked when it is read
    except InputError:
        return False


def not_read(folder: Path) -> list[str]:
    """Return a line about each of a few files of a folder with texts in a form that isn't read here."""
    found = ((path, instead(path)) for depth in ("*", "*/*") for path in folder.glob(depth))
    return [f"{path.name}: {line}" for path, line in islice((one for one in found if one[1]), 3)]


def instead(path: Path) -> str:
    """Return that a file is of a form that isn't read, and what to save it as; "" for any other file."""
    suffix = path.suffix.lower()
    if suffix in _UNKNOWN:
        return "not read in this form; save it as .srt, .vtt or .TextGrid"
    if suffix in _DOCUMENTS:
        return "a document, not read; save it as plain text (.txt) in UTF-8, with the name of its recording"
    if path.name.endswith(".words.xml"):
        return "words of AMI or ICSI, not read in this form; see --recipe ami, or save them as CTM"
    return ""


def why_not(source: Source) -> str:
    """Return why a file with a recording's name isn't read, for the error about a folder without transcripts; or ""."""
    query = "SELECT path FROM files WHERE kind = 'aligned' ORDER BY path LIMIT 1000"
    found = [path for (path,) in source.store.select(query)]
    named = (path for path in found if path.lower().endswith(".json") and _recordings_of(source, source.root / path))
    for path in islice(named, 3):
        try:
            segments.read_json(source.root / path, source.encoding)
        except InputError as error:
            return str(error)
    tables_there = (path for path in found if path.lower().endswith((".csv", ".tsv")))
    named = next((path for path in tables_there if _recordings_of(source, source.root / path)), "")
    if named and (reason := segments.why_no_table(source.root / named, source.encoding, source.delimiter)):
        return f"{named}: {reason}"
    return named and f"{named}: for the texts of its recording, its first line must be their names: start, end, text"


def without_recordings(source: Source) -> list[str]:
    """Return a few files of captions, tiers or lists, for the error about a folder in which they have no recording."""
    found = source.store.select("SELECT path FROM files WHERE kind = 'aligned' ORDER BY path")
    suffixes = (*_CAPTIONS, ".textgrid", ".eaf", *_LISTS)
    names = (path for (path,) in found if os.path.splitext(path)[1].lower() in suffixes)
    return [name for name, _ in zip(names, range(3), strict=False)]


def _recordings_of(source: Source, path: Path) -> list[str]:
    """Return the recordings that have the name of a file: those of its folder, or else the only one elsewhere."""
    stem, suffix = name_key(path.stem), path.suffix.lower()
    names = [stem]
    if suffix in _CAPTIONS and (code := _LANGUAGE.fullmatch(os.path.splitext(stem)[1])):
        names.append(stem[: -len(code[0])])
    for name in names:
        query = "SELECT path FROM files WHERE kind = 'audio' AND (stem = ? OR name = ?) ORDER BY path LIMIT 1000"
        found = [one for (one,) in source.store.select(query, (name, name))]
        folder = os.path.dirname(source.name_of(path))
        near = [one for one in found if os.path.dirname(one) == folder]
        if near or _are_one_place(source, found):
            return near or found
    return []


def _are_one_place(source: Source, found: Sequence[str]) -> bool:
    """Return whether recordings are in one folder, but for films of a sound among them."""
    folders = {os.path.dirname(one) for one in found}
    if len(folders) != 2:
        return len(folders) == 1
    bests = {twins.twins_of(source, one, name_key(Path(one).stem))[0] for one in found}
    return len({os.path.dirname(one) for one in bests}) == 1


# --- Reading ----------------------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """What a reading has seen.

    Attributes:
        source: lists the files.
        finder: of the recordings that a file names.
        said: suffix and note → how many files it holds for, the first of them, and the latest.
        has_tiers: whether a file with tiers was read.
        no_tier: why the first one with tiers wasn't read.
    """

    source: Source
    finder: Finder
    said: dict[tuple[str, str], list] = field(default_factory=dict)
    has_tiers: bool = False
    no_tier: str = ""

    def say(self, suffix: str, note: str, name: str) -> None:
        """Add a note, once for all files of which it is true."""
        known = self.said.setdefault((suffix, note), [0, name, ""])
        known[0] += known[2] != name
        known[2] = name

    def notes(self) -> Iterator[str]:
        """Yield a line for each note."""
        for (suffix, note), (count, name, _) in self.said.items():
            yield f"{name}: {note}" if count == 1 else f"{count:,} {suffix} files, such as {name}: {note}"


def read(source: Source) -> Iterator[Entry]:
    """Read the texts with times of a folder, or one file of them; recordings without one by their text file.

    Raises:
        InputError: `source.tiers` is given and no file has tiers.
    """
    session = _Session(source, Finder(source))
    database = source.store.db
    database.execute("CREATE TEMP TABLE done (path TEXT PRIMARY KEY) WITHOUT ROWID")
    if source.path.is_file():
        yield from _of_one_file(session)
    else:
        query = "SELECT path FROM files WHERE kind = 'aligned' AND lower(substr(path, -4)) = ? ORDER BY path"
        for suffix in _LISTS:
            for (path,) in source.store.select(query, (suffix,)):
                yield from _of_list(session, source.root / path)
        for path, stem in source.store.select("SELECT path, stem FROM files WHERE kind = 'audio' ORDER BY path"):
            of_channels = channels.texts_of(source, path, stem) if source.split_channels else []
            if not of_channels:
                yield from _of_recording(session, path, stem)
            elif _is_best(session, path, twins.twins_of(source, path, stem)):
                yield from _of_channels(session, path, of_channels)
        yield from _left_over(session)
    if source.tiers and not session.has_tiers:
        reason = session.no_tier or f"{source.path} has no TextGrid or .eaf beside a recording, so no tiers"
        raise InputError(f"--tier: {reason}")
    source.notes += session.notes()


def _is_done(source: Source, path: str) -> bool:
    return bool(source.store.value("SELECT 1 FROM temp.done WHERE path = ?", (path,)))


def _do(source: Source, path: str) -> None:
    source.store.db.execute("INSERT OR IGNORE INTO temp.done VALUES (?)", (path,))


def _of_one_file(session: _Session) -> Iterator[Entry]:
    source, path = session.source, session.source.path
    if path.suffix.lower() in _LISTS:
        yield from _of_list(session, path)
        return
    found = _recordings_of(source, path)
    with_twins = ((one, twins.twins_of(source, one, name_key(Path(one).stem))) for one in found)
    audio = next((one for one, same in with_twins if _is_best(session, one, same)), "")
    if not audio and path.suffix.lower() == ".eaf":
        audio = _media(session, path)
    if not audio:
        raise InputError(
            f"{path}: no recording has its name; put {path.stem}.wav (or .flac, .mp3 ...) into the same folder"
        )
    if path.suffix.lower() == ".txt":
        yield from beside.read_text(source, audio, name_key(Path(audio).stem), path)
        return
    yield from _of_file(session, audio, path)


def _of_channels(session: _Session, path: str, texts: list[tuple[int, str]]) -> Iterator[Entry]:
    """Yield the entries of the files of a recording's channels, each channel a speaker of its own."""
    source = session.source
    for channel, name in texts:
        _do(source, name)
        suffix = os.path.splitext(name)[1]
        session.say(suffix, "read, the texts of one channel", name)
        if suffix.lower() in _READERS:
            rows = _of_file(session, path, source.root / name)
        else:
            rows = beside.read_text(source, path, name_key(Path(path).stem), source.root / name)
        speaker = f"{Path(path).stem} channel {channel + 1}"
        yield from (replace(row, channel=channel, speaker=row.speaker or speaker) for row in rows)


def _is_best(session: _Session, path: str, same: Sequence[str]) -> bool:
    """Return whether a file is the best of those that hold its recording (`twins_of`), and say so."""
    best = same[0]
    if best != path:
        session.say(os.path.splitext(path)[1], twins.note(best, path), path)
    return best == path


def _of_recording(session: _Session, path: str, stem: str) -> Iterator[Entry]:
    """Yield the entries of the file of a recording, of all that have its name the most reliable one."""
    source = session.source
    if _is_done(source, path):
        return
    same = twins.twins_of(source, path, stem)
    found = _candidates(source, path, stem, same)
    text = beside.text_of(source, path, stem)
    if not (found or text) or not _is_best(session, path, same):
        return
    if found and text and found[0].lower().endswith(".textgrid") and not source.tiers and _is_short(source, path):
        found, text = [], text
        session.say(".TextGrid", "not read: the recordings are short, and have a text file", path)
    read_one = ""
    for name in found:
        if read_one:
            _do(source, name)
            continue
        rows = _of_file(session, path, source.root / name)
        first = next(rows, None)
        if first is None and name.lower().endswith(_MAYBE):
            continue  # not a file with times
        read_one = name
        _do(source, name)
        if first is not None:
            yield first
        yield from rows
    if read_one:
        others = [name for name in found if name != read_one and _is_done(source, name)]
        others += [source.name_of(text)] if text else []
        if others:
            suffix = os.path.splitext(read_one)[1]
            endings = ", ".join(_ending(other, stem, read_one) for other in others)
            advice = "; --language CODE chooses" if any(_language(name) for name in found[1:]) else ""
            session.say(suffix, f"beside it, not read: {endings}{advice}", read_one)
    elif text:
        _do(source, source.name_of(text))
        yield from beside.read_text(source, path, stem, text)


def _ending(path: str, stem: str, beside: str) -> str:
    name = os.path.basename(path)
    if os.path.dirname(path) != os.path.dirname(beside):
        return path
    return name[len(stem) :] if name_key(name).startswith(stem) and len(name) > len(stem) else name


def _is_short(source: Source, path: str) -> bool:
    seconds = twins.seconds_of_sound(source.root / path)
    return seconds is not None and seconds <= _SHORT


def _language(path: str) -> str:
    inner = os.path.splitext(os.path.splitext(path)[0])[1].lower()
    code = _LANGUAGE.fullmatch(inner) if inner not in AUDIO or inner in (".rm", ".ts") else None
    return code["code"] or "" if code else ""


def _candidates(source: Source, path: str, stem: str, same: Sequence[str]) -> list[str]:
    """Return the files that have a recording's name, or a twin's, and may hold its texts, the most reliable first."""
    own, names = name_key(os.path.basename(path)), {stem, *(name_key(os.path.basename(one)) for one in same)}
    # "/" follows "." in Unicode: all names that begin with the stem and a point, by the index.
    query = (
        "SELECT path, stem FROM files WHERE kind = 'aligned' AND (stem = ? OR (stem > ? AND stem < ?)) "
        "ORDER BY path LIMIT 1000"
    )
    found = []
    for one, of_file in source.store.select(query, (stem, f"{stem}.", f"{stem}/")):
        suffix, rest = os.path.splitext(one)[1].lower(), of_file[len(stem) :]
        if suffix not in _READERS:
            continue
        is_caption = suffix in _CAPTIONS and _LANGUAGE.fullmatch(rest)
        if of_file in names or is_caption:
            found.append(one)
    folder, folders = os.path.dirname(path), {os.path.dirname(one) for one in same}
    near = [one for one in found if os.path.dirname(one) in folders]
    if not near and found:
        elsewhere = source.store.select("SELECT path FROM files WHERE kind = 'audio' AND stem = ?", (stem,))
        near = found if _are_one_place(source, [one for (one,) in elsewhere]) else []

    def rank(one: str) -> tuple:
        suffix, language = os.path.splitext(one)[1].lower(), _language(one)
        is_right = language == source.language if source.language and language else not language
        is_near = os.path.dirname(one) == folder, name_key(os.path.basename(one)).startswith(own)
        order = list(_READERS).index(suffix), not is_right, not one.lower().endswith(f"-orig{suffix}")
        return *order, *(not near for near in is_near), one

    return sorted(near, key=rank)


def _left_over(session: _Session) -> Iterator[Entry]:
    """Yield the entries of ELAN's files that name another recording, and a problem for each file without one."""
    source = session.source
    query = "SELECT path FROM files WHERE kind = 'aligned' AND path NOT IN (SELECT path FROM temp.done) ORDER BY path"
    for (path,) in source.store.select(query):
        suffix = os.path.splitext(path)[1].lower()
        if suffix == ".eaf" and (audio := _media(session, source.root / path)):
            yield from _of_file(session, audio, source.root / path)
        elif suffix in (".eaf", *_CAPTIONS) and not _recordings_of(source, source.root / path):
            yield Entry(path, name=path, problem="no audio", detail=f"no recording has the name of {path}")
    others = [path for (path,) in source.store.select(query) if path.lower().endswith(_MAYBE)]
    if others:
        more = f" and {len(others) - 3:,} more" if others[3:] else ""
        source.notes.append(f"not read: {', '.join(others[:3])}{more}; --format csv reads tables instead")


def _media(session: _Session, path: Path) -> str:
    """Return the recording that an ELAN file names, which may be at another place now; "" if it isn't there."""
    try:
        media = annotations.read_elan(path).media
    except InputError:
        return ""
    found = session.finder.find(unquote(media).replace("\\", "/").rsplit("/", 1)[-1], path.parent) if media else None
    if not isinstance(found, Path) or found.suffix.lower() not in AUDIO:
        return ""
    session.say(".eaf", f"belongs to {session.source.name_of(found)}, which it names", session.source.name_of(path))
    return session.source.name_of(found)


# --- Entries ----------------------------------------------------------------------------------------------------------


def _of_file(session: _Session, audio: str, path: Path) -> Iterator[Entry]:
    """Yield the entries of a file with the texts of one recording; none if it holds something else."""
    source, name, suffix = session.source, session.source.name_of(path), path.suffix
    split = next((split for folder in Path(audio).parts[:-1] if (split := split_of(folder))), "")
    base = Entry(name, str(source.root / audio), audio, split=split)
    try:
        reading = _READERS[suffix.lower()](path, source)
    except InputError as error:
        if source.path.is_file():
            raise
        if suffix.lower() in (".eaf", ".textgrid"):
            session.no_tier = session.no_tier or str(error)
        yield replace(base, problem="unreadable text", detail=str(error).removeprefix(f"{path}: "))
        return
    if reading is None:
        if source.path.is_file():
            raise InputError(f"{path}: no segments with start, end and text in it")
        return
    session.has_tiers |= reading.has_tiers
    cues = reading.cues
    if reading.is_unitless or suffix.lower() in _CAPTIONS:
        cues, note = (_in_seconds if reading.is_unitless else captions.from_zero)(
            cues, twins.seconds_of_sound(base.audio)
        )
        if note:
            session.say(suffix, note, name)
    for note in reading.notes if reading.has_tiers else ["read", *reading.notes]:
        session.say(suffix, note, name)
    if not cues:
        session.say(suffix, "holds no texts", name)
    for entry in entries(checked(cues), base, lambda cue: f"{name}, {cue.place}"):
        yield replace(entry, speaker=_of_recording_alone(session, entry.speaker, audio, name, suffix))


def _in_seconds(cues: list[Cue], whole: float | None) -> tuple[list[Cue], str]:
    """Return cues of whole numbers in seconds, and a note, if they are milliseconds, as in Whisper's tables.

    They are, if as seconds they lie beyond the end of the recording, or nobody would speak as slowly.
    """
    timed = [cue for cue in cues if not cue.problem]
    letters = sum(map(str.isalnum, "".join(cue.text for cue in timed)))
    if whole is not None and max((cue.end for cue in timed), default=0.0) > whole + 1:
        why = "times beyond the end of the recording"
    elif letters < _SLOWEST * sum(max(0.0, cue.end - cue.start) for cue in timed):
        why = "whole numbers, as seconds too many for their texts"
    else:
        return cues, ""
    return [replace(cue, start=cue.start / 1000, end=cue.end / 1000) for cue in cues], f"{why}: read as milliseconds"


def _of_recording_alone(session: _Session, speaker: str, audio: str, name: str, suffix: str) -> str:
    """Return a speaker's name, with the recording's before it if it is a number that means nobody elsewhere."""
    named = speaker_in(audio, speaker)
    if named != speaker:
        session.say(suffix, "its speakers are numbered, so those of each recording are taken for other people", name)
    return named


def _of_list(session: _Session, path: Path) -> Iterator[Entry]:
    """Yield the entries of an STM or CTM, recording by recording."""
    source, name, suffix = session.source, session.source.name_of(path), path.suffix
    _do(source, name)
    try:
        reading = _LISTS[suffix.lower()](path, source)
    except InputError as error:
        if source.path.is_file():
            raise
        yield Entry(name, name=name, problem="unreadable text", detail=str(error).removeprefix(f"{path}: "))
        return
    split = next((split for folder in Path(name).parts[:-1] if (split := split_of(folder))), "")
    by_recording: dict[str, list[Cue]] = {}
    for cue in reading.cues:
        by_recording.setdefault(cue.recording, []).append(cue)
    for note in ["read", *reading.notes]:
        session.say(suffix, note, name)
    read: Counter[str] = Counter()
    for recording, cues in by_recording.items():
        audio = session.finder.find(recording, path.parent)
        if isinstance(audio, Missing):
            base = Entry(name, name=recording, split=split, problem=audio.problem, detail=audio.detail)
        else:
            inside = source.name_of(audio)
            if _is_done(source, inside):
                session.say(suffix, "recordings that another file has texts for: not read again", name)
                continue
            read[inside] += 1
            base = Entry(name, str(audio), inside, split=split)
        yield from entries(checked(cues), base, lambda cue: f"{name}, {cue.place}")
    for inside in read:
        _do(source, inside)


assert set(_READERS) | set(_LISTS) == ALIGNED
