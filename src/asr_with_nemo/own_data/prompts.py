"""Readers of lists that name recordings, each in its own form: CMU Sphinx and Arctic, VoxForge, fairseq; and of two
corpora of conversations, Switchboard and CHiME."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import text_files, times
from asr_with_nemo.own_data.cues import seconds_of
from asr_with_nemo.own_data.json_rows import Cells, read_objects
from asr_with_nemo.own_data.sources import Entry, Finder, Missing, Source, split_of
from asr_with_nemo.own_data.store import clean_text

_DEPTHS = ("", "*/", "*/*/", "*/*/*/")
_LOOKED = 200  # files of a kind's names, to tell whether they are of the kind
_SHOWN = 8  # lists in the notes
_HEAD = 4096  # bytes of a file that are looked at
_SPHINX = re.compile(r"(?:<s>\s*)?(?P<text>.*?)\s*(?:</s>)?\s*\((?P<id>[^()\s]+)\)\s*")
_FESTIVAL = re.compile(r'\(\s*(?P<id>\S+)\s+"(?P<text>.*)"\s*\)\s*')
_FILLER = re.compile(r"\+\+(\S+?)\+\+")
_PRONUNCIATION = re.compile(r"(?<=\w)\(\d+\)")
_ARCTIC = re.compile(r"cmu_\w+?_(\w+)_arctic")
_SIDE = re.compile(r"(?P<call>sw\d{4})(?P<side>[AB])-ms98-a-trans")  # of a telephone call of Switchboard
# Of Switchboard: what is no word; a word said with laughter, said/meant, {coined}, of a list of sounds (an_1), th[at]-.
_NO_WORD = re.compile(r"\[(?:silence|noise|laughter|vocalized-noise)\]|<[be]_aside>")
_MARKED = re.compile(r"\[laughter-(.+)\]|\[([^/]+)/.+\]|\{(.+)\}|(.+)_1")
_NOT_SAID = re.compile(r"\[[^\]]*\](?=-$)|(?<=^-)\[[^\]]*\]")
_LONG = 100  # characters; no word is as long


def lists_of(source: Source) -> list[Path]:
    """Return the lists of a source, of the first kind that it has any of."""
    return _found(source)[1]


def _found(source: Source) -> tuple["_Kind | None", list[Path]]:
    for kind in _KINDS:
        found = sorted({path for name in kind.names for path in _matches(source, name) if path.is_file()})
        if any(map(kind.is_one, found[:_LOOKED])):
            return kind, [path for path in found if kind.is_one(path)]
    return None, []


def _matches(source: Source, pattern: str) -> Iterator[Path]:
    if source.path.is_file():
        yield from [source.path] if source.path.match(pattern) else []
        return
    for depth in _DEPTHS:
        yield from source.path.glob(depth + pattern)


def read(source: Source) -> Iterator[Entry]:
    """Read the lists of one of the kinds, and the recordings that they name.

    - CMU Sphinx: `NAME.transcription`, lines of `<s> text </s> (id)`, and `NAME.fileids` with the paths

    - CMU Arctic: `etc/txt.done.data`, lines of `( id "text" )`

    - VoxForge: `PACKAGE/etc/PROMPTS`, lines of a path and a text; or `prompts-original`, of a name and a text

    - fairseq: `train.tsv`, and the texts in the same order in `train.wrd` or `train.ltr`

    - Switchboard: `sw2001A-ms98-a-trans.text`, lines of `id start end text`, for a side of the call sw02001.sph

    - CHiME-5 and 6: `S03.json`, a list of objects with the session, the speaker, times and words, for S03_P09.wav

    Raises:
        InputError: there is no such list, or two that belong together differ in length.
    """
    kind, found = _found(source)
    if kind is None:
        raise InputError(
            f"{source.path}: no list found; expected NAME.transcription, txt.done.data, PROMPTS, train.tsv with "
            "train.wrd or train.ltr, sw2001A-ms98-a-trans.text, or CHiME's S03.json"
        )
    finder = Finder(source)
    for number, path in enumerate(found):
        if number < _SHOWN:
            source.notes.append(f"read {source.name_of(path)}")
        elif number == _SHOWN:
            source.notes.append(f"read {len(found) - number:,} more lists of this kind")
        split = (split_of(path.stem) or split_of(path.parent.name)) if len(found) > 1 else ""
        yield from kind.read(source, finder, path, split)


def _lines(source: Source, path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, text and doubt of each line that isn't empty."""
    lines = text_files.Lines(path, source.encoding or text_files.encoding_of(path))
    for line in lines:
        if line.strip():
            yield lines.number, clean_text(line).strip(), lines.doubt()


def _entry(finder: Finder, named: dict[str, str], value: str, *bases: Path) -> Entry:
    """Return the entry of a recording, which is searched from each of several folders."""
    audio: Path | Missing = Missing("no recording is named")
    for base in bases:
        audio = finder.find(value, base)
        if isinstance(audio, Path):
            return Entry(**named, audio=str(audio), name=finder.source.name_of(audio))
    return Entry(**named, name=value, problem=audio.problem, detail=audio.detail)


def _broken(place: str, line: str, expected: str) -> Entry:
    return Entry(place, name=place, problem="broken row", detail=f"expected {expected}: {line[:80]}")


def _read_sphinx(source: Source, finder: Finder, path: Path, split: str) -> Iterator[Entry]:
    fileids = path.with_suffix(".fileids")
    ids = [line for _, line, _ in _lines(source, fileids)] if fileids.is_file() else []
    by_name: dict[str, list[str]] = {}
    for one in ids:
        by_name.setdefault(os.path.basename(one), []).append(one)
    for place, (number, line, doubt) in enumerate(_lines(source, path)):
        where = f"{source.name_of(path)}, line {number}"
        found = _SPHINX.fullmatch(" ".join(line.split()))  # long runs of spaces would take minutes
        if not found:
            yield _broken(where, line, "<s> text </s> (id)")
            continue
        name = found["id"]
        same = [one for one in by_name.get(os.path.basename(name), []) if one.endswith(name)]
        # Both files have the same order; names alone may occur more than once.
        value = ids[place] if place < len(ids) and ids[place] in same else same[0] if len(same) == 1 else name
        text = _FILLER.sub(r"[\1]", _PRONUNCIATION.sub("", found["text"])).replace("<sil>", " ")
        named = {"place": where, "text": " ".join(text.split()), "split": split, "doubt": doubt}
        named["speaker"] = os.path.basename(os.path.dirname(value))
        yield _entry(finder, named, value, path.parent, path.parent.parent)


def _read_arctic(source: Source, finder: Finder, path: Path, split: str) -> Iterator[Entry]:
    package = path.parent.parent
    voice = _ARCTIC.fullmatch(package.name)
    for number, line, doubt in _lines(source, path):
        where = f"{source.name_of(path)}, line {number}"
        found = _FESTIVAL.fullmatch(line)
        if not found:
            yield _broken(where, line, '( id "text" )')
            continue
        text = found["text"].replace('\\"', '"')
        named = {"place": where, "text": text, "speaker": voice[1] if voice else "", "doubt": doubt}
        yield _entry(finder, named, found["id"], package)


def _is_voxforge(path: Path) -> bool:
    """Return whether a package's list is the one to read: PROMPTS, without punctuation, rather than the original."""
    return path.name == "PROMPTS" or not path.with_name("PROMPTS").is_file()


def _read_voxforge(source: Source, finder: Finder, path: Path, split: str) -> Iterator[Entry]:
    package = path.parent.parent
    for number, line, doubt in _lines(source, path):
        name, _, text = line.replace("\t", " ").partition(" ")
        # A package is named after its user and a date: fash-20101231-abc.
        speaker = package.name.partition("-")[0]
        named = {"place": f"{source.name_of(path)}, line {number}", "text": text.strip(), "speaker": speaker}
        yield _entry(finder, named | {"doubt": doubt}, os.path.basename(name.replace("\\", "/")), package)


def _letters_beside(path: Path) -> Path | None:
    """Return the texts of a list of fairseq's: words, or letters with | between words."""
    beside = (path.with_suffix(suffix) for suffix in (".wrd", ".ltr"))
    return next((one for one in beside if one.is_file()), None)


def _read_fairseq(source: Source, finder: Finder, path: Path, split: str) -> Iterator[Entry]:
    texts = _letters_beside(path)
    rows = [(number, line.partition("\t")[0], doubt) for number, line, doubt in _lines(source, path)]
    root, rows = (rows[0][1], rows[1:]) if rows else ("", [])
    # A row without a text has an empty line, so that the lines are counted as they are.
    lines = [
        clean_text(line).strip() for line in text_files.Lines(texts, source.encoding or text_files.encoding_of(texts))
    ]
    if len(lines) != len(rows):
        raise InputError(
            f"{texts}: has {len(lines):,} lines, and {path.name} names {len(rows):,} recordings below its first line; "
            "they belong together line by line"
        )
    for (number, name, doubt), text in zip(rows, lines, strict=True):
        if texts.suffix == ".ltr":
            text = text.replace(" ", "").replace("|", " ").strip()
        named = {"place": f"{source.name_of(path)}, line {number}", "text": text, "split": split, "doubt": doubt}
        yield _entry(finder, named, name, path.parent / root, path.parent)


# --- Conversations ----------------------------------------------------------------------------------------------------


def _read_switchboard(source: Source, finder: Finder, path: Path, split: str) -> Iterator[Entry]:
    found = _SIDE.fullmatch(path.stem)
    call, side = found["call"], found["side"]
    calls = [f"{prefix}{call[2:]}" for prefix in ("sw0", "sw")]
    base, channel = _of_first(finder, path, [f"{name}{mark}{side}" for name in calls for mark in ("", "-", "_")]), None
    if base.problem:  # both sides are in one recording
        base, channel = _of_first(finder, path, calls), "AB".index(side)
    for number, line, doubt in _lines(source, path):
        named = {"place": f"{source.name_of(path)}, line {number}", "split": split, "doubt": doubt}
        fields = line.split(None, 3)
        start, end = (seconds_of(field) for field in [*fields[1:3], "", ""][:2])
        if start is None or end is None or len(fields) < 4:
            yield _broken(named["place"], line, "id, start, end and text")
            continue
        entry = replace(base, **named, text=" ".join(_said(fields[3])), speaker=f"{call} {side}")
        if not entry.problem and not entry.text:
            yield replace(entry, problem="no speech", detail=fields[3][:80])
        else:
            yield replace(entry, start=start, seconds=round(end - start, 6), channel=channel)


def _said(text: str) -> Iterator[str]:
    """Yield the words of Switchboard's text as they were said, as Kaldi's recipe has them.

    Example:
        >>> " ".join(_said("[noise] [laughter-yes] <b_aside> [it'n/isn't] {yuppiedom} a_1 th[at]- [vocalized-noise]"))
        "yes it'n yuppiedom a th-"
    """
    for word in text.split():
        if len(word) <= _LONG:
            word = "" if _NO_WORD.fullmatch(word) else word
            marked = _MARKED.fullmatch(word)
            word = _NOT_SAID.sub("", next(filter(None, marked.groups())) if marked else word)
        if word:
            yield word


def _is_chime(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            start = file.read(_HEAD)
    except OSError:
        return False
    return start.lstrip()[:1] == b"[" and all(f'"{key}"'.encode() in start for key in _OF_CHIME)


_OF_CHIME = ("session_id", "speaker", "start_time", "end_time", "words")


def _read_chime(source: Source, finder: Finder, path: Path, split: str) -> Iterator[Entry]:
    lines = text_files.Lines(path, source.encoding or text_files.encoding_of(path))
    known: dict[tuple[str, ...], Entry] = {}
    for row in read_objects(lines, "["):
        place = f"{source.name_of(path)}, line {row.line}"
        cells = {key: row.cells.get(key) for key in (*_OF_CHIME, "ref")}
        if row.doubt or not all(isinstance(cells[key], str) for key in ("session_id", "speaker", "words")):
            yield _broken(place, row.detail or str(row.cells), "session_id, speaker, start_time, end_time and words")
            continue
        session, speaker = cells["session_id"], cells["speaker"]
        # Each person wears a microphone; where there is no such recording, the nearest array has heard the words.
        names = [f"{session}_{speaker}"]
        names += [f"{session}_{cells['ref']}{ending}" for ending in (".CH1", "")] if cells["ref"] else []
        base = known.get(tuple(names)) or known.setdefault(tuple(names), _of_first(finder, path, names))
        text = " ".join(clean_text(cells["words"]).split())
        entry = replace(base, place=place, text=text, speaker=clean_text(speaker), split=split)
        try:
            start, end = (_time_of(cells, key, entry.name) for key in ("start_time", "end_time"))
        except ValueError as error:
            yield replace(entry, problem="bad times", detail=str(error))
            continue
        yield entry if entry.problem else replace(entry, start=start, seconds=round(end - start, 6))


def _time_of(cells: Cells, key: str, name: str) -> float:
    """Return a time in seconds; of CHiME-5, which has one for each device, that of a recording's.

    Raises:
        ValueError: it has none.
    """
    written = cells[key]
    if isinstance(written, dict):
        device = Path(name).stem.partition("_")[2].partition(".")[0]
        written = written.get(device) or written.get("original")
    if not isinstance(written, str):
        raise ValueError(f"no {key}")
    return times.parse_time(written)


def _of_first(finder: Finder, path: Path, names: Sequence[str]) -> Entry:
    """Return an entry of the first of several recordings that is there; of a problem that names them all."""
    for name in names:
        entry = _entry(finder, {"place": ""}, name, path.parent)
        if entry.problem != "no audio":
            return entry
    return Entry("", name=names[0], problem="no audio", detail=f"no such file: {', '.join(names)}")


class _Kind(NamedTuple):
    """A kind of lists: the names of its files, how one is read, and whether a file of this name is one."""

    names: tuple[str, ...]
    read: Callable[[Source, Finder, Path, str], Iterator[Entry]]
    is_one: Callable[[Path], bool] = Path.is_file


_KINDS = (
    _Kind(("*.transcription",), _read_sphinx),
    _Kind(("txt.done.data",), _read_arctic),
    _Kind(("PROMPTS", "prompts-original"), _read_voxforge, _is_voxforge),
    _Kind(("*.tsv",), _read_fairseq, lambda path: _letters_beside(path) is not None),
    _Kind(("*-ms98-a-trans.text",), _read_switchboard, lambda path: _SIDE.fullmatch(path.stem) is not None),
    _Kind(("*.json",), _read_chime, _is_chime),
)
