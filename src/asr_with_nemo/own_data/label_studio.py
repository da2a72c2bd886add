"""Reader of what Label Studio exports: JSON (also a task a line), JSON-MIN, CSV and TSV, of recordings and regions.

Its target storage, a folder with a file of JSON for each annotation, is read as one export.

Of a task's annotations one is taken: the one that is marked as ground truth, else the last that was changed; skipped
ones never. What was taken, and what wasn't read, is said. `recognition.label_studio` writes tasks to be corrected.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import tables, text_files
from asr_with_nemo.own_data.cues import Cue, checked, entries, seconds_of
from asr_with_nemo.own_data.sources import Entry, Finder, Missing, Source, split_of
from asr_with_nemo.own_data.store import clean_text

_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
_MIN = {"annotator", "annotation_id", "lead_time"}  # columns that JSON-MIN, CSV and TSV have
_NOT_OUTPUT = {*_MIN, "id", "created_at", "updated_at", "agreement", "history"}
_STORED = (".json", "")  # suffixes of the files of a target storage
_LARGEST = 16_000_000  # bytes of one of them
_LOOKED = 20  # of its files are looked at, to tell it from other folders
_MOST_EXPORTS = 50  # files of a folder that are looked at
_SAMPLE = 200  # tasks from which names are found out
_TEXTS = ("transcription", "transcript", *tables.ROLES["text"])
_NO_SPEAKER = frozenset(("speech", "voice", "noise", "music", "silence", "segment", "utterance", "text", "other"))
# Speakers that are counted anew in each recording.
_NUMBERED = re.compile(
    r"(?:speaker|spk|person|voice|talker|channel)?[\s_-]*(?:\d+|[a-z]|one|two|three|four)", re.IGNORECASE
)


@dataclass
class _Region:
    """A part of a recording with its texts, by the name of their field."""

    start: object = None
    end: object = None
    channel: object = None
    labels: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class _Annotation:
    """What one person has made of a task."""

    by: str = ""
    when: str = ""
    is_truth: bool = False
    is_skipped: bool = False
    whole: dict[str, list[str]] = field(default_factory=dict)
    regions: list[_Region] = field(default_factory=list)
    problem: str = ""

    def texts(self) -> list:
        """Return what it says, to compare annotations by."""
        return [sorted(self.whole.items()), *([r.start, r.end, sorted(r.texts.items())] for r in self.regions)]


@dataclass
class _Task:
    """A recording to be annotated.

    Attributes:
        place: within the file.
        data: what was imported.
        annotations: of all people.
        has_draft: whether somebody has begun one and not submitted it.
    """

    place: str
    data: Mapping[str, object]
    annotations: list[_Annotation]
    has_draft: bool = False


# --- Detection --------------------------------------------------------------------------------------------------------


def exports_of(source: Source, with_tasks: bool = True) -> list[Path]:
    """Return the exports in a source: itself, or the files of a folder.

    Args:
        source: a folder or a file.
        with_tasks: return tasks for an import, too, which have predictions alone.
    """
    if source.path.is_file():
        return [source.path] if _is_export(source.path, source, with_tasks) else []
    if stores := [folder for folder in _folders(source.path) if _is_stored(folder, _LOOKED)]:
        return stores
    return [path for path in islice(_candidates(source), _MOST_EXPORTS) if _is_export(path, source, with_tasks)]


def _folders(top: Path) -> list[Path]:
    """Return a folder and those in it; the folder alone if it can't be listed."""
    try:
        return [path for path in (top, *sorted(top.iterdir())) if path.is_dir()]
    except OSError:
        return [top]


def _candidates(source: Source) -> Iterator[Path]:
    """Yield the files of a source, and of the folders in it, that may be exports by their names."""
    for depth in ("*", "*/*"):
        found = [path for path in source.path.glob(depth) if path.suffix.lower() in _SUFFIXES]
        yield from (path for path in sorted(found) if not path.name.startswith(".") and path.is_file())


def _say_unread(source: Source, stores: Sequence[Path]) -> None:
    """Add a note with the exports that are in target storages or beside them, which aren't read."""
    inside = (path for path in _candidates(source) if path.parent not in stores or not any(True for _ in _stored(path)))
    if unread := [path for path in islice(inside, _MOST_EXPORTS) if _is_export(path, source, with_tasks=False)]:
        names = ", ".join(_name_of(path, source) for path in unread[:5]) + (", ..." if unread[5:] else "")
        source.notes.append(
            f"not read, because a folder has a file for each annotation: {names}; to read an export instead, name it"
        )


def _is_export(path: Path, source: Source, with_tasks: bool) -> bool:
    if _is_stored(path):
        return True
    if path.suffix.lower() not in _SUFFIXES:
        return False
    try:
        first = next(_rows(path, source), None)
    except (InputError, OSError, LookupError):
        return False
    if first is None or not _is_task(first.cells):
        return first is not None and set(first.cells) >= _MIN
    return with_tasks or "predictions" not in first.cells or "annotations" in first.cells


def _is_task(cells: Mapping) -> bool:
    return isinstance(cells.get("data"), dict) and any(
        isinstance(cells.get(key), list) for key in ("annotations", "completions", "predictions")
    )


def _stored(place: Path, most: int | None = None) -> Iterator[tuple[str, Mapping | None]]:
    """Yield name and content of each annotation of a target storage, or of one file of it; None if it isn't JSON.

    Args:
        place: the folder or the file.
        most: look only at so many files.
    """
    for path in sorted(_stored_files(place, most), key=lambda path: (len(path), path)):  # they are numbered
        try:
            content = Path(path).read_bytes()
            cells = json.loads(content) if content.lstrip()[:1] == b"{" else {}
        except (OSError, ValueError, RecursionError):
            yield os.path.basename(path), None
            continue
        task = cells.get("task")
        if isinstance(task, dict) and isinstance(task.get("data"), dict) and isinstance(cells.get("result"), list):
            yield os.path.basename(path), cells


def _is_stored(place: Path, most: int | None = None) -> bool:
    """Return whether a folder or a file is a target storage's (`_stored`)."""
    return any(cells for _, cells in _stored(place, most))


def _stored_files(place: Path, most: int | None) -> list[str]:
    """Return the paths of the files that may be a target storage's: the file itself, or those of a folder."""
    try:
        if place.is_dir():
            with os.scandir(place) as files:
                paths = [one.path for one in islice((one for one in files if _may_be_stored(one.name)), most)]
        else:
            paths = [str(place)] if _may_be_stored(place.name) else []
        return [path for path in paths if os.path.isfile(path) and os.path.getsize(path) <= _LARGEST]
    except OSError:  # a folder that can't be listed
        return []


def _may_be_stored(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _STORED and not name.startswith(".")


def _stored_tasks(place: Path) -> Iterator[tables.TableRow]:
    """Yield the tasks of a target storage, each with its annotations, as a full export has them."""
    tasks: dict[str, dict] = {}
    broken = []
    for number, (name, cells) in enumerate(_stored(place), 1):
        if cells is None:
            broken.append(tables.TableRow(number, {}, "broken", f"{name}: not JSON; is it cut short?"))
            continue
        task = cells["task"]
        key = str(task.get("id", name))
        tasks.setdefault(key, {"id": key, "data": task["data"], "annotations": []})["annotations"].append(cells)
    yield from (tables.TableRow(number, cells) for number, cells in enumerate(tasks.values(), 1))
    yield from broken


def _name_of(path: Path, source: Source) -> str:
    return path.name if path == source.path else source.name_of(path)


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _rows(path: Path, source: Source) -> Iterator[tables.TableRow]:
    if path.is_dir() or _is_stored(path):
        return _stored_tasks(path)
    table = tables.Table(path, source.encoding or text_files.encoding_of(path))
    if path.suffix.lower() in (".json", ".jsonl"):
        first = next((line.strip() for line in text_files.Lines(path, table.encoding) if line.strip()), "")
        return tables.read_json(table) if first.startswith("[") or _is_line(first) else iter(())
    header = next(iter(text_files.Lines(path, table.encoding)), "")
    delimiter = source.delimiter or ("\t" if "\t" in header else ",")
    table.delimiter, table.columns = delimiter, [name.strip().strip('"') for name in header.split(delimiter)]
    return tables.read(table) if set(table.columns) >= _MIN else iter(())


def _is_line(first: str) -> bool:
    """Return whether a file's first line is a task, as in JSON lines."""
    try:
        cells = json.loads(first) if first.startswith("{") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(cells, dict) and (_is_task(cells) or set(cells) >= _MIN)


# --- Reading ----------------------------------------------------------------------------------------------------------


def read(source: Source) -> Iterator[Entry]:
    """Read the exports of a source.

    Raises:
        InputError: there is none, or its recordings or texts can't be told.
    """
    found = exports_of(source)
    if not found:
        raise InputError(f"{source.path}: no export of Label Studio found; expected its JSON, JSON-MIN, CSV or TSV")
    if stores := [path for path in found if path.is_dir()]:
        _say_unread(source, stores)
    for path in found:
        yield from _read(path, source)


def _read(path: Path, source: Source) -> Iterator[Entry]:
    sample = list(islice(_tasks(path, source), _SAMPLE))
    if not any(task.annotations for task in _tasks(path, source)):
        raise InputError(
            f"{path}: {len(sample)}{'+' if len(sample) == _SAMPLE else ''} tasks of Label Studio without annotations; "
            "annotate and submit some, export them as JSON, and name the export"
        )
    roles, fields, others = _roles(path, sample, source)
    name, seen = _name_of(path, source), Counter[str]()
    finder, people = Finder(source), Counter[str]()
    by_channel = _has_channels(_tasks(path, source))
    for task in _tasks(path, source):
        usable = [one for one in task.annotations if not one.is_skipped]
        seen["skipped"] += bool(task.annotations and not usable)
        seen["open"] += not task.annotations
        seen["draft"] += task.has_draft
        chosen = max(enumerate(usable), key=lambda at: (at[1].is_truth, at[1].when, at[0]))[1] if usable else None
        if len(usable) > 1:
            seen["several"] += 1
            seen["differ"] += any(one.texts() != chosen.texts() for one in usable)
            people[chosen.by] += 1
        yield from _entries(task, chosen, roles, fields, finder, path, by_channel, seen)
    shown = ", ".join(map(repr, fields))
    unread = f"; not read: {', '.join(map(repr, others))}" if others else ""
    source.notes.append(f"read {name} (Label Studio; audio: {roles['audio']}, text: {shown}{unread})")
    source.notes += _notes(seen, people)


def _notes(seen: Counter[str], people: Counter[str]) -> Iterator[str]:
    if seen["several"]:
        taken = ", ".join(f"{by or 'unknown'} ({count:,})" for by, count in people.most_common(5))
        yield (
            f"{seen['several']:,} tasks have several annotations, which differ in {seen['differ']:,}: taken is the "
            f"ground truth, else the one changed last; by annotator: {taken}"
        )
    if seen["open"] or seen["skipped"]:
        yield f"left out: {seen['open']:,} tasks that nobody has annotated, {seen['skipped']:,} that were skipped"
    if seen["draft"]:
        yield f"{seen['draft']:,} tasks have drafts that were never submitted: not read"
    if seen["both"]:
        yield f"{seen['both']:,} tasks have texts of regions and of the whole recording: those of the regions are taken"
    if seen["empty"]:
        yield f"{seen['empty']:,} regions have no text, such as noise: not read"
    if seen["paired"]:
        yield f"regions and their texts of {seen['paired']:,} rows are paired by their order; JSON has them together"
    if seen["numbered"]:
        yield "labels that number the speakers are taken for other people in each recording"


def _roles(path: Path, sample: Sequence[_Task], source: Source) -> tuple[dict[str, str], list[str], list[str]]:
    """Return role → key of the data, the fields with texts, the most reliable first, and the other fields."""
    keys = list(dict.fromkeys(key for task in sample for key in task.data))
    table = tables.Table(path, columns=keys)
    given = {role: column for role, column in source.columns.items() if role != "text"}
    table.roles, finder = tables.named_roles(table, given), Finder(source)
    data = [dict(task.data) for task in sample]
    for role in ("audio", "speaker", "split"):
        if role not in table.roles and (
            key := tables.guess(role, table, data, lambda value: finder.is_audio(value, _folder_of(path)))
        ):
            table.roles[role] = key
    if "audio" not in table.roles:
        raise InputError(
            f"{path}: no recordings in the tasks' data, which has {', '.join(map(repr, keys)) or 'nothing'}; give the "
            "key with --audio-column"
        )
    made = [one for task in sample for one in task.annotations]
    there = list(dict.fromkeys(name for one in made for holder in [one.whole, *_of_regions(one)] for name in holder))
    there = [name for name in there if name not in table.roles.values()]
    known = [name for text in _TEXTS for name in there if tables.plain(name) == text]
    fields = list(dict.fromkeys(known)) or (there if len(there) == 1 else [])
    if wanted := source.columns.get("text"):
        fields = [wanted] if wanted in there else []
    if not fields and (wanted or there):
        raise InputError(
            f"{path}: {f'no field {wanted!r}' if wanted else 'which field has the transcripts?'} (--text-column); the "
            f"annotations have {', '.join(map(repr, there)) or 'no texts'}"
        )
    return table.roles, fields, [name for name in there if name not in fields]


def _of_regions(one: _Annotation) -> Iterator[dict[str, list[str]]]:
    return (region.texts for region in one.regions)


def _has_channels(tasks: Iterable[_Task]) -> bool:
    """Return whether any region is of another channel than the first, which Label Studio writes for all sound."""
    return any(region.channel in (1, "1") for task in tasks for one in task.annotations for region in one.regions)


# --- Entries ----------------------------------------------------------------------------------------------------------


def _entries(
    task: _Task,
    chosen: _Annotation | None,
    roles: Mapping[str, str],
    fields: Sequence[str],
    finder: Finder,
    path: Path,
    by_channel: bool,
    seen: Counter[str],
) -> Iterator[Entry]:
    place = f"{_name_of(path, finder.source)}, {task.place}"
    written = {role: clean_text(tables.as_text(task.data.get(key))) for role, key in roles.items()}
    base = Entry(place, speaker=written.get("speaker", ""), split=split_of(written.get("split", "")))
    audio = finder.find(written["audio"], _folder_of(path))
    if isinstance(audio, Missing):
        base = replace(base, name=written["audio"], problem=audio.problem, detail=audio.detail)
    else:
        base = replace(base, audio=str(audio), name=finder.source.name_of(audio))
    if chosen is None:
        detail = "skipped" if task.annotations else "only a model's text, or none"
        yield replace(base, problem="not annotated", detail=detail)
        return
    if chosen.problem:
        yield replace(base, problem="broken row", detail=chosen.problem)
        return
    seen["paired"] += any(region.texts for region in chosen.regions) and task.place.startswith("row")
    cues = list(_cues(chosen.regions, fields, by_channel, base, seen))
    whole = next((chosen.whole[name] for name in fields if chosen.whole.get(name)), [])
    if cues:
        seen["both"] += bool(whole)
        yield from entries(checked(cues), base, lambda cue: f"{place}, {cue.place}")
    elif len(whole) > 1:
        yield replace(base, problem="broken row", detail=_several(whole))
    else:
        yield replace(base, text=clean_text(whole[0] if whole else ""))


def _several(texts: Sequence[str]) -> str:
    return f"one field has {len(texts)} texts, of which one is right: {' | '.join(texts)[:80]}"


def _cues(
    regions: Sequence[_Region], fields: Sequence[str], by_channel: bool, base: Entry, seen: Counter[str]
) -> Iterator[Cue]:
    for number, region in enumerate(sorted(regions, key=lambda one: seconds_of(one.start) or 0.0), 1):
        texts = next((region.texts[name] for name in fields if region.texts.get(name)), [])
        if not any(texts):
            seen["empty"] += 1
            continue
        speaker = next((label for label in region.labels if label.casefold() not in _NO_SPEAKER), "")
        if speaker and _NUMBERED.fullmatch(speaker):
            seen["numbered"] += 1
            speaker = f"{Path(base.name).stem} {speaker}"
        start, end = seconds_of(region.start), seconds_of(region.end)
        channel = region.channel if by_channel and region.channel in (0, 1) else None
        cue = Cue(f"region {number}", start or 0.0, end or 0.0, texts[0], speaker, tier=speaker, channel=channel)
        if len(texts) > 1:
            cue = replace(cue, problem="broken row", detail=_several(texts))
        elif start is None or end is None:
            cue = replace(cue, problem="bad times", detail="the region has no start or no end")
        yield cue


# --- Tasks ------------------------------------------------------------------------------------------------------------


def _tasks(path: Path, source: Source) -> Iterator[_Task]:
    """Yield the tasks of an export; of JSON-MIN and tables, the rows of a task follow each other."""
    rows = enumerate(_rows(path, source), 1)
    first = next(_rows(path, source), None)
    if first is not None and _is_task(first.cells):
        for number, row in rows:
            cells = row.cells
            data = cells.get("data")
            made = cells.get("annotations") or cells.get("completions") or []
            annotations = [_of_json(one) for one in made if isinstance(one, dict)] if isinstance(made, list) else []
            place = f"task {cells.get('id', number)}" if not row.doubt else f"line {row.line}"
            if row.doubt == "broken":
                annotations = [_Annotation(problem=row.detail)]
            yield _Task(place, data if isinstance(data, dict) else {}, annotations, bool(cells.get("drafts")))
        return
    keyed = groupby(rows, key=lambda at: at[1].cells.get("id", at[0]))
    for key, group in keyed:
        some = [row for _, row in group]
        cells = some[0].cells
        annotations = [_of_row(row) for row in some if row.doubt == "broken" or row.cells.get("annotation_id")]
        yield _Task(f"row of task {key}", cells, annotations)


def _by(written: object) -> str:
    if isinstance(written, dict):
        written = written.get("email") or written.get("id")
    return clean_text(tables.as_text(written))


def _of_json(one: Mapping) -> _Annotation:
    """Return an annotation of a full export: a list of results, those of a region with the same id."""
    made = _Annotation(
        by=_by(one.get("completed_by")),
        when=str(one.get("updated_at") or one.get("created_at") or ""),
        is_truth=one.get("ground_truth") is True,
        is_skipped=bool(one.get("was_cancelled") or one.get("skipped")),
    )
    regions: dict[str, _Region] = {}
    results = one.get("result")
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        name, texts = str(result.get("from_name") or "text"), _strings(value.get("text"))
        if "start" not in value and "end" not in value:
            if texts:
                made.whole.setdefault(name, []).extend(texts)
            continue
        key = str(result.get("id") or (value.get("start"), value.get("end")))
        region = regions.setdefault(key, _Region(value.get("start"), value.get("end"), value.get("channel")))
        region.labels += _strings(value.get("labels"))
        if texts:
            region.texts.setdefault(name, []).extend(texts)
    made.regions = list(regions.values())
    return made


def _strings(value: object) -> list[str]:
    """Return the texts of a value as Label Studio writes them, a list or one alone."""
    values = value if isinstance(value, list) else [value]
    return [clean_text(" ".join(one.split())) for one in values if isinstance(one, str)]


def _of_row(row: tables.TableRow) -> _Annotation:
    """Return an annotation of JSON-MIN or a table: a value for each field, without the times of its texts."""
    cells = row.cells
    made = _Annotation(
        by=_by(cells.get("annotator")), when=str(cells.get("updated_at") or cells.get("created_at") or "")
    )
    if row.doubt == "broken":
        made.problem = row.detail
        return made
    names = list(cells)
    if "id" in names and "annotator" in names[names.index("id") :]:  # JSON-MIN: data, id, fields, annotator ...
        fields = names[names.index("id") + 1 : names.index("annotator")]
    else:
        fields = names
    values = {name: _unpacked(cells[name]) for name in (fields or names) if name not in _NOT_OUTPUT}
    for value in values.values():
        parts = value if isinstance(value, list) else []
        if parts and all(isinstance(one, dict) and {"start", "end"} <= set(one) and "text" not in one for one in parts):
            made.regions = [
                _Region(one["start"], one["end"], one.get("channel"), _strings(one.get("labels"))) for one in parts
            ]
            break
    for name, value in values.items():
        _place_texts(made, name, value)
    return made


def _unpacked(value: object) -> object:
    """Return a cell, unpacked if it is JSON within a table."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _place_texts(made: _Annotation, name: str, value: object) -> None:
    """Give the texts of a field to the regions, by their order, or to the whole."""
    if isinstance(value, dict):
        if texts := _strings(value.get("text")):
            made.whole[name] = texts
        return
    parts = value if isinstance(value, list) else [value]
    texts = [_strings(one.get("text") if isinstance(one, dict) else one) for one in parts]
    if not all(texts) or any(isinstance(one, dict) and "choices" in one for one in parts):
        return
    if not isinstance(value, list) and len(made.regions) != 1:
        made.whole[name] = texts[0]
    elif len(texts) == len(made.regions):
        for region, of_region in zip(made.regions, texts, strict=True):
            region.texts[name] = of_region
    elif made.regions and tables.plain(name) in _TEXTS:
        made.problem = f"{name!r} has {len(texts)} texts for {len(made.regions)} regions; export as JSON, not JSON-MIN"
    else:
        made.whole[name] = [text for some in texts for text in some]
