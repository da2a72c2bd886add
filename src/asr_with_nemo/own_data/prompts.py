"""Readers of lists that name recordings, each in its own form: CMU Sphinx, CMU Arctic, VoxForge, and fairseq."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import text_files
from asr_with_nemo.own_data.sources import Entry, Finder, Missing, Source, split_of
from asr_with_nemo.own_data.store import clean_text

_DEPTHS = ("", "*/", "*/*/")
_SPHINX = re.compile(r"(?:<s>\s*)?(?P<text>.*?)\s*(?:</s>)?\s*\((?P<id>[^()\s]+)\)\s*")
_FESTIVAL = re.compile(r'\(\s*(?P<id>\S+)\s+"(?P<text>.*)"\s*\)\s*')
_FILLER = re.compile(r"\+\+(\S+?)\+\+")
_PRONUNCIATION = re.compile(r"(?<=\w)\(\d+\)")
_ARCTIC = re.compile(r"cmu_\w+?_(\w+)_arctic")


def lists_of(source: Source) -> list[Path]:
    """Return the lists of a source, of the first kind that it has any of."""
    for patterns, _ in _KINDS:
        found = {path for pattern in patterns for path in _matches(source, pattern) if path.is_file()}
        found = {path for path in found if path.suffix != ".tsv" or _letters_beside(path)}
        if found:
            return sorted(found)
    return []


def _matches(source: Source, pattern: str) -> Iterator[Path]:
    if source.path.is_file():
        yield from [source.path] if source.path.match(pattern) else []
        return
    for depth in _DEPTHS:
        yield from source.path.glob(depth + pattern)


def read(source: Source) -> Iterator[Entry]:
    """Read the lists of one of the four kinds, and the recordings that they name.

    - CMU Sphinx: `NAME.transcription`, lines of `<s> text </s> (id)`, and `NAME.fileids` with the paths

    - CMU Arctic: `etc/txt.done.data`, lines of `( id "text" )`

    - VoxForge: `PACKAGE/etc/PROMPTS`, lines of a path and a text

    - fairseq: `train.tsv`, and the texts in the same order in `train.wrd` or `train.ltr`

    Raises:
        InputError: there is no such list, or two that belong together differ in length.
    """
    found = lists_of(source)
    if not found:
        raise InputError(
            f"{source.path}: no list found; expected NAME.transcription, txt.done.data, PROMPTS, or train.tsv with "
            "train.wrd or train.ltr"
        )
    reader = next(reader for patterns, reader in _KINDS if any(found[0].match(pattern) for pattern in patterns))
    finder = Finder(source)
    for path in found:
        source.notes.append(f"read {source.name_of(path)}")
        split = split_of(path.stem) if len(found) > 1 else ""
        yield from reader(source, finder, path, split)


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


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Source, Finder, Path, str], Iterator[Entry]]], ...] = (
    (("*.transcription",), _read_sphinx),
    (("txt.done.data",), _read_arctic),
    (("PROMPTS",), _read_voxforge),
    (("*.tsv",), _read_fairseq),
)
