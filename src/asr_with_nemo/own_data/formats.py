"""Readers of corpora in many formats: a folder, table or data set becomes a stream of recordings with transcripts.

`FORMATS` has a reader for each format; `detect` finds the format of a source.
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import islice
from pathlib import Path

import re2

from asr_with_nemo.base.files import read_text
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import (
    aligned,
    beside,
    channels,
    label_studio,
    layouts,
    prompts,
    sheets,
    tables,
    text_files,
    time_columns,
    twins,
)
from asr_with_nemo.own_data.sources import Entry, Finder, Missing, Source, split_of
from asr_with_nemo.own_data.store import AUDIO, NO_TRANSCRIPTS, clean_text, name_key

# --- Tables -----------------------------------------------------------------------------------------------------------


def _read_table(source: Source) -> Iterator[Entry]:
    """Read CSV, TSV and JSON: those of the source's tables that have columns of recordings and transcripts."""
    finder = Finder(source)
    found, reasons = _usable_tables(source, finder)
    found, reasons = _clear_ones(found, reasons)
    if not found:
        raise InputError("\n".join(reasons) or f"{source.path}: no table found; expected a .csv, .tsv or .jsonl file")
    source.notes += [f"not read: {reason}" for reason in reasons]
    source.notes += _not_read(source, found, reasons)
    for number, table in enumerate(found):
        if number < _SHOWN or table.notes:
            source.notes += [f"read {table}", *table.notes]
        elif number == _SHOWN:
            source.notes.append(f"read {len(found) - number:,} more tables")
        split = _part_of(table.path, source.root) if len(found) > 1 else ""
        starts = _Starts(table, source) if time_columns.lacks_ends(table) else None
        yield from (_of_row(row, table, finder, split, starts) for row in tables.read(table))


_TABLES = tables.SUFFIXES - tables.LISTS
_MOST_UNUSABLE = (1_000, 50)  # tables at one depth, and those of one recording, after which no further one is tried
_HANDFUL = 5  # rows; fewer may not tell a table's columns apart
_SHOWN = 8  # names in a note
_TEXT_BESIDE = ".txt"  # such files beside a list may be anything
_NO_SPEAKER = {"n/a", "na", "none", "unknown", "-", "?", "null"}


def _usable_tables(
    source: Source, finder: Finder, kinds: Sequence[Set[str]] = (_TABLES, tables.LISTS)
) -> tuple[list[tables.Table], list[str]]:
    """Return the usable tables with the first kind of suffixes that has any, and the reasons against the others."""
    found, reasons, tried = [], [], set()
    for suffixes in kinds:
        for paths in [[source.path]] if source.path.is_file() else _tables_of(source, suffixes):
            paths = [path for path in paths if path not in tried]
            tried.update(paths)
            # One with a recording's name holds the texts, or the pitch, of that recording; so the others come first.
            looked = [0, 0]
            for is_own, path in sorted(((_is_of_one(source, path), path) for path in paths), key=lambda one: one[0]):
                looked[is_own] += 1
                if looked[is_own] > _MOST_UNUSABLE[is_own] and not found:
                    continue

                def is_audio(value: str, base: Path = path.parent) -> bool:
                    return finder.is_audio(value, base)

                try:
                    found.append(tables.inspect(path, is_audio, source.encoding, source.delimiter, source.columns))
                except InputError as error:
                    reasons.append(str(error))
            if found:
                order = {path: place for place, path in enumerate(paths)}
                return _alike(sorted(found, key=lambda table: order[table.path])), reasons
        if source.path.is_file():
            break
    return found, reasons


def _clear_ones(found: list[tables.Table], reasons: list[str]) -> tuple[list[tables.Table], list[str]]:
    """Return the tables of which it is clear which column has the transcripts, and the reasons against the others.

    Raises:
        InputError: it is clear of none.
    """
    clear, unclear = [], []
    for table in found:
        try:
            tables.check_texts(table)
            clear.append(table)
        except tables.UnclearTextsError as error:
            unclear.append(error)
    if unclear and not clear:
        raise unclear[0]
    return clear, reasons + [str(error) for error in unclear]


def _alike(found: list[tables.Table]) -> list[tables.Table]:
    """Return tables, those with the same columns read alike: a small one may lack what tells its columns apart."""
    sure: dict[tuple, tables.Table] = {}
    for table in sorted(found, key=lambda one: one.path.stat().st_size, reverse=True):
        key = (*table.columns, table.has_header, table.roles.get("audio"))
        largest = sure.setdefault(key, table)
        if table is largest or not (table.has_header or _is_unsure(table, largest)):
            continue
        table.roles, table.scales, table.unread = dict(largest.roles), dict(largest.scales), list(largest.unread)
        table.first_channel, table.texts = largest.first_channel, list(largest.texts)
        table.notes = []  # those of the largest are true of it, too
    return found


def _is_unsure(table: tables.Table, largest: tables.Table) -> bool:
    """Return whether a table without a header has a handful of rows, and another's column of texts may be its own."""
    rows = [row.cells for row in islice(tables.read(table), _HANDFUL)]
    own, other = (
        sum(map(str.isalpha, "".join(tables.as_text(cells.get(one.roles["text"])) for cells in rows)))
        for one in (table, largest)
    )
    return len(rows) < _HANDFUL and other > own / 2


def _is_of_one(source: Source, path: Path) -> bool:
    """Return whether a file has the name of a recording, up to a dot: a.f0.csv beside A.wav."""
    name = name_key(path.name)
    stems = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
    query = f"SELECT 1 FROM files WHERE kind = 'audio' AND stem IN ({', '.join('?' * len(stems))})"
    return bool(source.store.value(query, stems))


def _not_read(source: Source, found: Sequence[tables.Table], reasons: Sequence[str]) -> list[str]:
    """Return a note about the tables beside those that are read, of which the splits or the validated rows were."""
    if source.path.is_file():
        return []
    read = {table.path for table in found}
    kinds = {path.suffix.lower() for path in read}
    beside = (path for folder in {path.parent for path in read} for path in folder.iterdir())
    beside = sorted(path for path in beside if path.suffix.lower() in kinds)  # not of 100,000 recordings
    others = [path for path in beside if path not in read and path.is_file()]
    others = [path for path in others if path.name[0] not in ".~" and path.stem.lower() not in NO_TRANSCRIPTS]
    others = [path for path in others if not any(reason.startswith(f"{path}:") for reason in reasons)]
    if not others or _TEXT_BESIDE in kinds:
        return []
    shown = ", ".join(source.name_of(path) for path in others[:_SHOWN]) + (" ..." if others[_SHOWN:] else "")
    return [f"not read: {shown}, with rows of their own? Name one as the source to read it alone"]


def _tables_of(source: Source, suffixes: Set[str]) -> Iterator[list[Path]]:
    """Yield the tables of a folder, at one depth after the other.

    If they overlap, as in Common Voice, those of the train, dev and test splits.
    """
    folder = source.path
    for pattern in ("*", "*/*", "*/*/*"):
        found = [path for path in sorted(folder.glob(pattern)) if path.suffix.lower() in suffixes]
        # Excel's own files of an open workbook begin with ~$.
        found = [path for path in found if path.is_file() and not path.name.startswith((".", "~$"))]
        found = [path for path in found if path.stem.lower() not in NO_TRANSCRIPTS]
        # Next to transcripts.txt there may be other lists, of segments for example.
        found = [path for path in found if "trans" in path.stem.lower()] or found
        parts = {path: split for path in found if (split := _part_of(path, folder))}
        parts = {path: split for path, split in parts.items() if "all" not in re.split("[^a-z]", path.stem.lower())}
        if "train" in parts.values() and len(set(parts.values())) > 1:
            found = list(parts)
        yield [path for path in found if path.stem.lower() == "validated"] or found
    # Further down, the tables that are called the same: M-AILABS has a metadata.csv for each book.
    query = "SELECT path, name FROM files WHERE kind = 'aligned' ORDER BY path"
    named = [(path, name) for path, name in source.store.select(query) if os.path.splitext(name)[1] in suffixes]
    yield [folder / path for path, name in named if name == named[0][1]] if len(named) < 10_000 else []


def _part_of(table: Path, folder: Path) -> str:
    """Return the split that a table's name stands for, or the name of its folder within the source."""
    inner = table.parent.name if table.parent != folder else ""
    return split_of(table.stem) or split_of(inner)


class _Starts:
    """The starts of a table without ends, each row of which lasts until the next one of its recording and channel."""

    def __init__(self, table: tables.Table, source: Source):
        self._table, self._store = table, source.store
        database = source.store.db
        database.execute("DROP TABLE IF EXISTS temp.starts")
        database.execute("CREATE TEMP TABLE starts (audio TEXT, channel TEXT, start REAL)")
        read = (self._place_of(_roles_of(row, table)) for row in tables.read(table) if row.doubt != "broken")
        database.executemany("INSERT INTO temp.starts VALUES (?, ?, ?)", filter(None, read))
        database.execute("CREATE INDEX temp.starts_by_audio ON starts (audio, channel, start)")

    def _place_of(self, roles: Mapping[str, str]) -> tuple[str, str, float] | None:
        try:
            return roles.get("audio", ""), roles.get("channel", ""), self._table.part_of(roles)[0]
        except ValueError:
            return None

    def until_next(self, roles: Mapping[str, str]) -> float | None:
        """Return the seconds from a row's start to the next one; None for the last row of a recording."""
        if (place := self._place_of(roles)) is None:
            return None
        query = "SELECT min(start) FROM temp.starts WHERE audio = ? AND channel = ? AND start > ?"
        following = self._store.value(query, place)
        return None if following is None else round(following - place[2], 6)


def _roles_of(row: tables.TableRow, table: tables.Table) -> dict[str, str]:
    return {role: tables.as_text(row.cells.get(column)) for role, column in table.roles.items()}


def _of_row(row: tables.TableRow, table: tables.Table, finder: Finder, split: str, starts: _Starts | None) -> Entry:
    place = f"{finder.source.name_of(table.path)}, line {row.line}"
    if row.doubt == "broken":
        return Entry(place, problem="broken row", detail=row.detail)
    roles = _roles_of(row, table)
    text = clean_text(roles.get("text", ""))
    speaker = clean_text(roles.get("speaker", ""))
    speaker = "" if speaker.casefold() in _NO_SPEAKER else speaker
    named = {"place": place, "text": text, "speaker": speaker, "doubt": row.doubt}
    named["split"] = split_of(roles.get("split", "")) or split
    if table.sheet and (odd := sheets.what_it_is(row.cells.get(table.roles.get("text")))):
        is_lost = odd != "a number" and odd != "a formula"
        if is_lost:
            return Entry(**named, name=clean_text(roles.get("audio", "")), problem="no words", detail=odd)
        named["doubts"] = (("not text", odd),)
    path = finder.find(roles.get("audio", ""), table.path.parent)
    if isinstance(path, Missing):
        is_tarred = "shard_id" in row.cells and path.problem == "no audio"
        detail = f"{path.detail}; the data set is tarred: unpack its .tar files here" if is_tarred else path.detail
        return Entry(**named, name=clean_text(roles["audio"]), problem=path.problem, detail=detail)
    try:
        start, length = table.part_of(roles)
    except ValueError as error:
        return Entry(
            **named, name=clean_text(roles["audio"]), problem="broken row", detail=f"{error}, in a time's column"
        )
    if length is None and starts:
        length = starts.until_next(roles)
    elif length is None and start:
        named["doubts"] = (*named.get("doubts", ()), ("no end", f"from {start:g} s"))
    channel = channels.number_of(roles.get("channel", ""), table.first_channel)
    name = finder.source.name_of(path)
    return Entry(**named, audio=str(path), name=name, start=start, seconds=length, channel=channel)


# --- Names ------------------------------------------------------------------------------------------------------------


def compile_pattern(pattern: str) -> re2._Regexp:
    """Compile a pattern of names, `{label}_{speaker}_{take}.wav`, to a regular expression for the end of a path.

    `{label}` and `{text}` match as many characters as possible, other fields as few. `*` matches any characters within
    a name. Without a suffix, the pattern matches any suffix of audio files. RE2 matches in linear time; Python's `re`
    would take for ever where fields touch each other.

    Raises:
        InputError: it has no field, or a field twice.

    Example:
        >>> match_name(compile_pattern("{label}_{speaker}_{take}.wav"), "a/yes_please_bob_3.WAV")
        {'label': 'yes_please', 'speaker': 'bob', 'take': '3'}
    """
    names = re.findall(r"\{(\w+)\}", pattern)
    if not names or len(set(names)) < len(names) or re.search(r"[{}]", re.sub(r"\{\w+\}", "", pattern)):
        raise InputError(f"--pattern {pattern!r}: expected fields in braces, each once: '{{label}}_{{speaker}}_*.wav'")
    pattern = unicodedata.normalize("NFC", pattern)
    expression = ""
    for part in re.split(r"(\{\w+\}|\*)", pattern):
        if part == "*":
            expression += "[^/]*"
        elif part.startswith("{"):
            expression += f"(?P<{part[1:-1]}>[^/]+{'' if part in ('{label}', '{text}') else '?'})"
        else:
            expression += re2.escape(part)
    suffix = os.path.splitext(pattern)[1].lower()
    if suffix in AUDIO:
        expression = expression[: -len(re2.escape(suffix))] + f"(?i:{re2.escape(suffix)})"
    else:
        expression += rf"(?i:{'|'.join(map(re2.escape, sorted(AUDIO)))})"
    return re2.compile(f"(?:.*/)?{expression}")


def match_name(pattern: re2._Regexp, path: str) -> dict[str, str] | None:
    """Return the fields of a path by a compiled pattern; None if it doesn't match."""
    found = pattern.fullmatch(unicodedata.normalize("NFC", path.replace(os.sep, "/")))
    return found.groupdict() if found else None


def _read_names(source: Source) -> Iterator[Entry]:
    """Read transcripts from the names of files or folders."""
    if not source.pattern:
        names = [path for (path,) in source.store.select("SELECT path FROM files WHERE kind = 'audio' LIMIT 3")]
        raise InputError(
            f"{source.path}: --format filename needs --pattern, such as '{{label}}_{{speaker}}_{{take}}.wav' or "
            f"'{{label}}/{{speaker}}_*.wav'; the recordings' names: {', '.join(names) or '(none)'}"
        )
    pattern = compile_pattern(source.pattern)
    if not {"label", "text"} & set(pattern.groupindex):
        raise InputError(_lacks_label(source.pattern))
    listed = _note_lists(source)
    matched, copies = 0, Counter()
    for path, stem in source.store.select("SELECT path, stem FROM files WHERE kind = 'audio' ORDER BY path"):
        if (best := twins.twins_of(source, path, stem, across=False)[0]) != path:
            copies[twins.note(best, path)] += 1
            continue
        fields = match_name(pattern, path)
        if fields is None:
            yield Entry(path, name=path, problem="no match", detail=f"doesn't match {source.pattern}")
            continue
        matched += 1
        label = fields.get("label") or fields.get("text", "")
        split = split_of(fields.get("split", ""))
        if listed:
            split = split or source.store.value("SELECT split FROM temp.listed WHERE path = ?", (path,)) or "train"
        entry = {"place": path, "name": path, "speaker": fields.get("speaker", "")}
        yield Entry(**entry, audio=str(source.root / path), text=label, split=split)
    source.notes += [f"{count:,} recordings {note}" for note, count in copies.items()]
    if not matched:
        example = source.store.value("SELECT path FROM files WHERE kind = 'audio' ORDER BY path")
        there = f"a name: {example}" if example else "it has no recordings"
        raise InputError(f"{source.path}: no recording's name matches --pattern {source.pattern!r}; {there}")


def _lacks_label(pattern: str) -> str:
    """Return the error text for a pattern without {label}."""
    there = ", ".join(f"{{{name}}}" for name in compile_pattern(pattern).groupindex)
    return f"--pattern {pattern!r} has {there} and no {{label}}; name the field with the transcript or label so"


def _note_lists(source: Source) -> bool:
    """Store splits given as lists of recordings, as in Speech Commands (`testing_list.txt`); return whether any are."""
    database = source.store.db
    database.execute("CREATE TEMP TABLE listed (path TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID")
    for path in sorted(source.root.glob("*_list.txt")):
        if (split := split_of(path.stem)) in ("dev", "test"):
            names = ((os.path.normpath(clean_text(line).strip()), split) for line in text_files.Lines(path, "utf-8"))
            database.executemany("INSERT OR IGNORE INTO temp.listed VALUES (?, ?)", names)
            source.notes.append(f"read {path.name}, a list of the {split} set")
    known = "SELECT 1 FROM files WHERE kind = 'audio' AND path IN (SELECT path FROM temp.listed)"
    return bool(source.store.value(known))


# --- Formats ----------------------------------------------------------------------------------------------------------


FORMATS = {
    "csv": _read_table,
    "txt": beside.read,
    "aligned": aligned.read,
    "lists": prompts.read,
    "librispeech": layouts.read_librispeech,
    "kaldi": layouts.read_kaldi,
    "nemo": _read_table,
    "labelstudio": label_studio.read,
    "filename": _read_names,
    "hf": layouts.read_hugging_face,
    "lhotse": layouts.read_lhotse,
}
"""Name → reader: a function from a `Source` to entries."""


def read(source: Source, format: str) -> Iterator[Entry]:
    """Yield the entries of a source, in an order that depends on the source alone.

    Raises:
        InputError: the source isn't in this format.
    """
    pattern = compile_pattern(source.pattern) if source.pattern and format != "filename" else None
    if source.tiers and format != "aligned":
        raise InputError(f"--tier: {source.path} is read as {format}, which has no tiers; see --format in --help")
    for entry in FORMATS[format](source):
        fields = (match_name(pattern, entry.name) or {}) if pattern else {}
        if fields:
            speaker, split = fields.get("speaker", ""), split_of(fields.get("split", ""))
            entry = replace(entry, speaker=entry.speaker or speaker, split=entry.split or split)
        if source.labels is not None and not entry.problem:
            entry = _labelled(entry, source.labels)
        yield entry


def _labelled(entry: Entry, labels: Mapping[str, str]) -> Entry:
    """Return an entry with the transcript of its label, or of several labels, as in YesNo's `0_1_1_0.wav`."""
    parts = [entry.text] if entry.text in labels else [part for part in re.split(r"[\s_-]+", entry.text) if part]
    missing = [part for part in parts if part not in labels]
    if missing or not parts:
        lacks = entry.text if len(missing) == len(parts) else missing[0]
        return replace(entry, problem="no label", detail=f"the label map has no {lacks!r}")
    return replace(entry, text=" ".join(labels[part] for part in parts))


def detect(source: Source) -> str:
    """Return the format of a source, by its files.

    Raises:
        InputError: no format fits.
    """
    path = source.path
    if source.recipe:
        return "lhotse"
    if path.is_file():
        return _detect_file(source)

    def has(*patterns: str) -> bool:
        return any(next(path.glob(pattern), None) for pattern in patterns)

    if has("dataset_info.json", "*/dataset_info.json"):
        return "hf"
    if has(*(f"{depth}wav.scp" for depth in layouts.DEPTHS)):
        return "kaldi"
    if has("*supervisions*.jsonl*") or (has("*supervisions*.json") and has("*recordings*.json")):
        return "lhotse"
    if layouts.cuts_of(path):
        return "lhotse"
    if source.store.value("SELECT 1 FROM files WHERE name LIKE '%.trans.txt' OR name LIKE '%.trans.tsv'"):
        return "librispeech"
    if label_studio.exports_of(source, with_tasks=False):
        return "labelstudio"
    if source.pattern and re.search(r"\{(label|text)\}", source.pattern):
        return "filename"
    is_table = source.columns or source.delimiter
    finder = Finder(source)
    found, reasons = _usable_tables(source, finder, [_TABLES])
    # A table of all recordings is a person's; captions of some of them may be a program's.
    of_all = any(not _is_of_one(source, table.path) for table in found)
    if (is_table and (found or not aligned.fits(source))) or (of_all and not source.tiers):
        return "csv"
    if source.tiers or (source.split_channels and channels.there_are_texts(source)) or aligned.fits(source):
        return "aligned"
    if found:
        return "csv"
    if prompts.lists_of(source):
        return "lists"
    if aligned.fits(source, with_tiers=True):
        return "aligned"
    if beside.there_are_texts(source):
        return "txt"
    if layouts.there_are_data_sets(path):
        return "hf"
    found, more = _usable_tables(source, finder, [tables.LISTS])
    if found:
        return "csv"
    if label_studio.exports_of(source):
        return "labelstudio"  # which says that they are tasks without annotations
    raise InputError(_what_is_missing(source, reasons + more))


def _detect_file(source: Source) -> str:
    path = source.path
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        return "hf"
    if ".jsonl" in path.suffixes and layouts.are_cuts(path):
        return "lhotse"
    instead = "is a recording; name its folder" if suffix in AUDIO else ""
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        instead = "is an archive; unpack it and name the folder"
    elif aligned.instead(path):
        instead = aligned.instead(path)
    elif _is_other_sheet(path):
        instead = "is a spreadsheet in a form that isn't read; save it as .xlsx, or as CSV in UTF-8"
    if instead:
        raise InputError(f"{path}: {instead}")
    if label_studio.exports_of(source):
        return "labelstudio"
    is_table = source.columns or source.delimiter
    if not is_table and prompts.lists_of(source):
        return "lists"
    return "aligned" if aligned.is_one(path, source) else "csv"


def _is_other_sheet(path: Path) -> bool:
    return path.suffix.lower() in sheets.OTHERS and not path.name.startswith((".", "~$"))


def _what_is_missing(source: Source, reasons: list[str]) -> str:
    """Return the error text for a folder in no known format, with the reasons against its tables."""
    if source.pattern:
        return f"{source.path}: no table and no text files found, and {_lacks_label(source.pattern)}"
    sounds = source.store.value("SELECT count(*) FROM files WHERE kind = 'audio'")
    tables_there = "".join(f"\n  {reason}" for reason in reasons[:3])
    if not sounds and (timed := aligned.without_recordings(source)):
        return (
            f"{source.path}: no recordings found, and so none for {', '.join(timed)}; put them into the same folder, "
            f"each with the name of its file: {Path(timed[0]).stem}.wav"
        )
    if not sounds:
        return (
            f"{source.path}: no recordings found (.wav .flac .mp3 .m4a ...), and no table, data set or Kaldi "
            f"folder; name a folder that has one of these{tables_there}"
        )
    if timed := aligned.without_recordings(source):
        tables_there = f"\n  {', '.join(timed)}: no recording has this name{tables_there}"
    if of_channels := channels.there_are_texts(source):
        tables_there = f"\n  {', '.join(of_channels)}: the texts of a channel each? --channels split{tables_there}"
    known = (*layouts.not_read(source.path), *aligned.not_read(source.path), aligned.why_not(source))
    for line in filter(None, known):
        tables_there += f"\n  {line}"
    for sheet in sorted(path for depth in ("*", "*/*") for path in source.path.glob(depth) if _is_other_sheet(path))[
        :3
    ]:
        tables_there += f"\n  {source.name_of(sheet)} is a spreadsheet: save it as .xlsx or CSV, in the same folder"
    query = "SELECT path FROM files WHERE kind = 'audio' ORDER BY path LIMIT 1 OFFSET ?"
    names = dict.fromkeys(source.store.value(query, (place,)) for place in (0, sounds // 2))
    return (
        f"{source.path}: {sounds:,} recordings without transcripts. Add a table (.csv, .tsv, .jsonl) with a column of "
        "paths and one of transcripts, or a .txt file with the name of each recording. If the names contain the "
        "transcripts, give --pattern, such as '{label}_{speaker}_{take}.wav' or '{label}/{speaker}_*.wav'; the names "
        f"here: {', '.join(names)}{tables_there}"
    )


def read_labels(path: str | os.PathLike) -> dict[str, str]:
    """Read a label map: a JSON object, label → transcript.

    Raises:
        InputError: the file can't be read, or isn't one.
    """
    content = read_text(path, "a label map", "no such file; expected JSON, label → transcript")
    try:
        labels = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); expected an object, label → transcript") from error
    if not isinstance(labels, dict) or not labels or any(not isinstance(text, str) for text in labels.values()):
        raise InputError(f'{path}: expected a JSON object, label → transcript: {{"0": "zero"}}')
    return labels
