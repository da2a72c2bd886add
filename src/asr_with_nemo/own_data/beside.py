"""Text files beside recordings: transcripts, captions, or lines that begin with their times (`timed_lines`)."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from asr_with_nemo.data.sound import open_sound
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import captions, text_files, timed_lines, twins
from asr_with_nemo.own_data.cues import Cue, checked, entries, speaker_in
from asr_with_nemo.own_data.sources import Entry, Source
from asr_with_nemo.own_data.store import NO_TRANSCRIPTS, clean_text, is_film, name_key

# The end of the recordings' names if a speaker was recorded by several microphones, as in VCTK.
_MICROPHONE = re.compile(r"[_.-](?:mic|ch|chan|channel)[_-]?\d+$")

# The last line of a text that a service wrote: Transcribed by https://otter.ai
_FOOTER = re.compile(
    r"(?:this\s)?(?:transcri(?:bed|ption|pts?)|captions?|captioned|subtitles?|subtitled)\b.{0,60}?\b(?:by|with|from|using|on|at)\s+"
    r"(?:.{0,40}\s)?(?:https?://|www\.|[\w-]+\.[a-z]{2,4}\b)\S*(?:\s\S+){0,2}",
    re.IGNORECASE,
)

_LABELS = (" labels", "_labels", "-labels", " label track", " label", ".labels")
"""Behind the recordings' names, where Audacity's labels are exported: a Labels.txt."""


def read(source: Source) -> Iterator[Entry]:
    """Read audio files with text files of the same name, in the same folder or in a parallel tree."""
    database = source.store.db
    database.execute("CREATE TEMP TABLE used (path TEXT PRIMARY KEY, folder TEXT) WITHOUT ROWID")
    for path, stem in source.store.select("SELECT path, stem FROM files WHERE kind = 'audio' ORDER BY path"):
        text = text_of(source, path, stem)
        if text is None:
            continue  # a recording without a row
        if better := _better(source, path, stem, text):
            _say(source, twins.note(better, path), path)
            continue
        place = source.name_of(text)
        database.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (place, os.path.dirname(place)))
        yield from read_text(source, path, stem, text)
    # In a folder where no text file has a recording, the files are something else: a README, a list of speakers.
    database.create_function("folder", 1, os.path.dirname, deterministic=True)
    unused = (
        "SELECT path, stem FROM files WHERE kind = 'text' AND path NOT IN (SELECT path FROM used) "
        "AND folder(path) IN (SELECT folder FROM used) ORDER BY path"
    )
    for path, stem in source.store.select(unused):
        if stem not in NO_TRANSCRIPTS and not stem.endswith(".original"):
            yield Entry(path, name=path, problem="no audio", detail=f"no recording has the name of {path}")


def _better(source: Source, path: str, stem: str, text: Path) -> str:
    """Return a better file of a recording, which has the same text file; "" if there is none."""
    if is_film(path):
        query = "SELECT path FROM files WHERE kind = 'audio' AND stem = ? AND path != ? ORDER BY path"
        named = [one for (one,) in source.store.select(query, (stem, path))]
    else:
        named = twins.twins_of(source, path, stem, across=False)
    others = (one for one in named if twins.is_better(one, path))
    return next((one for one in others if text_of(source, one, stem) == text), "")


def there_are_texts(source: Source) -> bool:
    """Return whether a text file has the name of a recording: x.txt, x.wav.txt or x.normalized.txt beside x.wav."""
    texts = "SELECT stem FROM files WHERE kind = 'text'"
    named = f"stem IN ({texts}) OR name IN ({texts}) OR stem || '.normalized' IN ({texts})"
    named += "".join(f" OR stem || '{ending}' IN ({texts})" for ending in _LABELS)
    if source.store.value(f"SELECT 1 FROM files WHERE kind = 'audio' AND ({named})"):
        return True
    some = source.store.select("SELECT stem FROM files WHERE kind = 'audio' ORDER BY path LIMIT 100")
    bare = [_MICROPHONE.sub("", stem) for (stem,) in some]
    return any(source.store.value(f"SELECT 1 WHERE ? IN ({texts})", (stem,)) for stem in bare)


def text_of(source: Source, path: str, stem: str) -> Path | None:
    """Return the text file of a recording; None if it has none.

    Args:
        source: lists the files.
        path, stem: of the recording, as in the store's table `files`.
    """
    whole = source.root / path
    for suffix in (".normalized.txt", ".txt", ".lab", ".trn", ".TXT"):  # the first as in LibriTTS
        for beside in (whole.with_suffix(suffix), whole.with_name(whole.name + suffix)):
            if os.path.isfile(beside):  # no error, where such a name is too long for a file
                return beside
    query = "SELECT path FROM files WHERE kind = 'text' AND stem = ? LIMIT 2"
    for name in dict.fromkeys((stem, _MICROPHONE.sub("", stem), *(f"{stem}{ending}" for ending in _LABELS))):
        found = list(source.store.select(query, (name,)))
        if len(found) == 1:
            return source.root / found[0][0]
    return None


def read_text(source: Source, path: str, stem: str, text: Path) -> Iterator[Entry]:
    """Yield the entries of a recording's text file: one, or one for each of its labels with times."""
    place = source.name_of(text)
    lines = text_files.Lines(text, source.encoding or text_files.encoding_of(text))
    # Below a label, Audacity writes its frequencies in a line that begins with a backslash.
    rows = [(lines.number, row) for line in lines if (row := line.strip()) and not row.startswith("\\\t")]
    if len(rows) > 1 and _FOOTER.fullmatch(rows[-1][1]):
        _say(source, f"not read, since no one says it: the last line, {rows[-1][1]!r}", place)
        rows.pop()
    words = " ".join(" ".join(_spoken([row for _, row in rows])).split())
    # As in VCTK, p225/p225_001.wav.
    folder = os.path.basename(os.path.dirname(path))
    speaker = folder if re.match(rf"{re.escape(name_key(folder))}[_-]", stem) else ""
    entry = Entry(place, str(source.root / path), path, clean_text(words), clean_text(speaker), doubt=lines.doubt())
    if reason := _no_transcript([row for _, row in rows]):
        yield replace(entry, text="", problem="unreadable text", detail=reason)
    elif captions.are_in(row for _, row in rows):
        try:
            reading = captions.read(text, source.encoding)
        except InputError as error:
            yield replace(entry, text="", problem="unreadable text", detail=str(error).removeprefix(f"{text}: "))
            return
        _say(source, "captions in a text file: read with their times", place)
        cues, note = captions.from_zero(reading.cues, twins.seconds_of_sound(entry.audio))
        if note:
            _say(source, note, place)
        cues = _of_recording_alone(entry, cues)
        yield from entries(checked(cues), replace(entry, text=""), lambda cue: f"{place}, {cue.place}")
    else:
        yield from _with_times(source, entry, rows)


def _of_speakers(source: Source, entry: Entry, rows: Sequence[str]) -> Entry:
    """Return the entry of a text without the names before what each person says, if its lines begin with some."""
    if not captions.are_names(rows) or not _are_people([name for name, _ in map(captions.without_name, rows)]):
        return entry
    _say(source, "nearly all lines begin with a name and a colon: read as who speaks, not as words", entry.place)
    names, said = zip(*map(captions.without_name, rows), strict=True)
    people = ", ".join(dict.fromkeys(filter(None, names)))
    doubts = (*entry.doubts, ("several speakers", people))
    return replace(entry, text=clean_text(" ".join(said)), doubts=doubts)


def _are_people(names: Sequence[str]) -> bool:
    """Return whether names are those of two people or more, each word with a capital: no `He said:`, `Remember:`."""
    people = set(filter(None, names))
    return len(people) > 1 and not any(word[0].islower() for name in people for word in name.split())


def _say(source: Source, note: str, place: str) -> None:
    """Add a note, once for all files of which it is true."""
    if not any(known.startswith(note) for known in source.notes):
        source.notes.append(f"{note} ({place})")


def _no_transcript(rows: Sequence[str]) -> str:
    """Return what a text file is that isn't a transcript, and what to do; "" for a transcript."""
    start = rows[0].lstrip("\ufeff").casefold() if rows else ""
    if start.startswith(("<!doctype html", "<html")):
        return "a web page, not a transcript; get the file again"
    if start.startswith("version https://git-lfs"):
        return "a pointer of Git LFS; get the file itself with: git lfs pull"
    if start.startswith("{\\rtf"):
        return "rich text; save it as plain text"
    if start.startswith("<?xml"):
        return "XML, not a transcript; save it as plain text"
    if start.startswith(("{", "[{")) and _is_json("\n".join(rows)):
        return "JSON, not a transcript; give it the suffix .json"
    if "#" in rows and any(re.match(r"\d+\.\d+\s+\d+\s", row) for row in rows[rows.index("#") :]):
        return "labels of ESPS, which have no starts; save them as a TextGrid"
    return ""


def _is_json(content: str) -> bool:
    try:
        return isinstance(json.loads(content), dict | list)
    except (ValueError, RecursionError):
        return False


def _spoken(rows: Sequence[str]) -> Sequence[str]:
    """Return the lines that are the transcript: of THCHS-30's three lines the first, before pinyin and its parts."""
    if len(rows) == 3 and not rows[0].isascii() and all(re.fullmatch(r"[a-z0-9 ]+", row) for row in rows[1:]):
        return rows[:1]
    return rows


# --- Times ------------------------------------------------------------------------------------------------------------


def _with_times(source: Source, entry: Entry, rows: timed_lines.Rows) -> Iterator[Entry]:
    """Yield an entry for each text with its times; the entry itself if the lines have none."""

    @cache
    def form() -> timed_lines.Form:
        with open_sound(entry.audio) as sound:
            return timed_lines.Form(sound.rate, sound.seconds, sound.channels)

    try:
        found = timed_lines.cues_of(rows, form)
    except InputError as error:
        yield replace(entry, text="", problem="unreadable", detail=str(error).removeprefix(f"{entry.audio}: "))
        return
    if found is None:
        yield _of_speakers(source, entry, [row for _, row in rows])
        return
    cues, note = found
    _say(source, note, entry.place)
    cues, whole = _of_recording_alone(entry, cues), form().seconds
    if len(cues) > 1:
        yield from entries(checked(cues), entry, lambda cue: f"{entry.place}, {cue.place}")
        return
    for one in entries(checked(cues), entry, lambda cue: entry.place):
        # TIMIT counts a few samples more than there are; one label for all is no cut.
        is_rest = not one.problem and one.start == 0 and whole is not None and abs(cues[0].end - whole) < 0.5
        yield replace(one, seconds=None) if is_rest else one


def _of_recording_alone(entry: Entry, cues: Sequence[Cue]) -> list[Cue]:
    return [replace(cue, speaker=speaker_in(entry.name, cue.speaker)) for cue in cues]
