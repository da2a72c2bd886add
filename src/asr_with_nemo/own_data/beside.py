"""Text files beside recordings: transcripts, or labels that begin with their times, as Audacity's and TIMIT's do."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from asr_with_nemo.data.sound import open_sound
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import text_files, times
from asr_with_nemo.own_data.cues import Cue, checked, entries
from asr_with_nemo.own_data.sources import Entry, Source
from asr_with_nemo.own_data.store import NO_TRANSCRIPTS, clean_text, name_key

# The end of the recordings' names if a speaker was recorded by several microphones, as in VCTK.
_MICROPHONE = re.compile(r"[_.-](?:mic|ch|chan|channel)[_-]?\d+$")


def read(source: Source) -> Iterator[Entry]:
    """Read audio files with text files of the same name, in the same folder or in a parallel tree."""
    database = source.store.db
    database.execute("CREATE TEMP TABLE used (path TEXT PRIMARY KEY, folder TEXT) WITHOUT ROWID")
    for path, stem in source.store.select("SELECT path, stem FROM files WHERE kind = 'audio' ORDER BY path"):
        text = text_of(source, path, stem)
        if text is None:
            continue  # a recording without a row
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


def there_are_texts(source: Source) -> bool:
    """Return whether a text file has the name of a recording: x.txt, x.wav.txt or x.normalized.txt beside x.wav."""
    texts = "SELECT stem FROM files WHERE kind = 'text'"
    named = f"stem IN ({texts}) OR name IN ({texts}) OR stem || '.normalized' IN ({texts})"
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
            if beside.is_file():
                return beside
    query = "SELECT path FROM files WHERE kind = 'text' AND stem = ? LIMIT 2"
    for name in dict.fromkeys((stem, _MICROPHONE.sub("", stem))):
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
    words = " ".join(" ".join(_spoken([row for _, row in rows])).split())
    # As in VCTK, p225/p225_001.wav.
    folder = os.path.basename(os.path.dirname(path))
    speaker = folder if re.match(rf"{re.escape(name_key(folder))}[_-]", stem) else ""
    entry = Entry(place, str(source.root / path), path, clean_text(words), clean_text(speaker), doubt=lines.doubt())
    if not _are_labels([row for _, row in rows]):
        yield entry
        return
    note = f"lines that begin with two numbers, such as those of {place}: read as start, end and text"
    if not any(known.startswith("lines that begin") for known in source.notes):
        source.notes.append(note)
    yield from _of_labels(entry, rows)


def _spoken(rows: Sequence[str]) -> Sequence[str]:
    """Return the lines that are the transcript: of THCHS-30's three lines the first, before pinyin and its parts."""
    if len(rows) == 3 and not rows[0].isascii() and all(re.fullmatch(r"[a-z0-9 ]+", row) for row in rows[1:]):
        return rows[:1]
    return rows


# --- Labels -----------------------------------------------------------------------------------------------------------

# A line of Audacity's labels (seconds) or of TIMIT (samples): start, end, text.
_LABEL = re.compile(r"(\d+(?:[.,]\d+)?)\s+(\d+(?:[.,]\d+)?)\s+(\S.*)")
_WITHOUT_TEXT = re.compile(r"(\d+[.,]\d+)\t(\d+[.,]\d+)()")
_NUMBERS = re.compile(r"[\d ]+")
_MOST = 0.8  # share of the lines that are labels; the others are then damaged


def _label(row: str) -> re.Match[str] | None:
    return _LABEL.fullmatch(row) or _WITHOUT_TEXT.fullmatch(row)


def _are_labels(rows: Sequence[str]) -> bool:
    labels = [row for row in rows if _label(row)]
    # A transcript may be digits: 1 2 3 4.
    return bool(labels) and len(labels) >= _MOST * len(rows) and not all(_NUMBERS.fullmatch(row) for row in labels)


def _of_labels(entry: Entry, rows: Sequence[tuple[int, str]]) -> Iterator[Entry]:
    """Yield an entry for each label of a recording; numbers that can't be seconds are samples."""
    try:
        with open_sound(entry.audio) as sound:
            rate, whole = sound.rate, sound.seconds
    except InputError as error:
        yield replace(entry, text="", problem="unreadable", detail=str(error).removeprefix(f"{entry.audio}: "))
        return
    labels = [(number, row, _label(row)) for number, row in rows]
    known = [label for _, _, label in labels if label]
    is_whole = all(label[1].isdecimal() and label[2].isdecimal() for label in known)
    longest = max(_time(label[2]) for label in known)
    unit = 1 / rate if is_whole and whole is not None and longest > whole + 1 else 1.0
    cues = []
    for number, row, label in labels:
        if label is None:
            detail = f"expected start, end and text: {row[:80]}"
            cues.append(Cue(f"line {number}", problem="broken row", detail=detail))
            continue
        start, end = (_time(label[group]) * unit for group in (1, 2))
        cues.append(Cue(f"line {number}", start, end, label[3]))
    if len(cues) > 1:
        yield from entries(checked(cues), entry, lambda cue: f"{entry.place}, {cue.place}")
        return
    for one in entries(checked(cues), entry, lambda cue: entry.place):
        # TIMIT counts a few samples more than there are; one label for all is no cut.
        is_rest = not one.problem and one.start == 0 and whole is not None and abs(cues[0].end - whole) < 0.5
        yield replace(one, seconds=None) if is_rest else one


def _time(written: str) -> float:
    """Return a number of a label; infinity if it is beyond all numbers."""
    try:
        return times.parse_time(written)
    except ValueError:
        return float("inf")
