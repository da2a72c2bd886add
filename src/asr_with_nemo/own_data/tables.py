# ruff: noqa: SIM905 (lists of words read better as text)
"""Tables of recordings and transcripts: CSV, TSV, JSON and Excel's workbooks, in any encoding and with any columns.

A table is read line by line, so memory use doesn't grow with it. Encoding, delimiter, quotes, header and the columns'
roles are detected from the file.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import channels, delimited, sheets, text_columns, time_columns, times
from asr_with_nemo.own_data.json_rows import Cells, TableRow, flat, is_list_of_rows, json_row, of_columns, read_objects
from asr_with_nemo.own_data.sources import split_of
from asr_with_nemo.own_data.text_files import Lines, encoding_of, is_wide

SUFFIXES = {".csv", ".tsv", ".psv", ".jsonl", ".ndjson", ".json", ".txt", ".lst", ".list", *sheets.SUFFIXES}
"""Suffixes of tables."""
LISTS = {".txt", ".lst", ".list"}
"""Suffixes of tables that other text files have too."""
_DELIMITERS = ("\t", "|", ";", ",")
_SAMPLE = 200  # rows from which a table's form is detected
_FEW = 6  # keys of an object with everything; one of more is of names
_SHOWN = 8  # columns that aren't read, in a note
ROLES: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio_filepath audio_filename audio_path audio_file audiofile wav_filename wav_path wav_file file_name "
        "filename filepath file_path path file audio wav clip clip_path recording sound utterance_id utt_id uttid id "
        "key name"
    ).split(),
    "text": (
        "normalized_text normalised_text normalized_transcription sentence text transcript transcription transcripts "
        "said spoken spoken_text phrase words utterance word label labels keyword command content caption prompt "
        "orthographic raw_text raw_transcription text_tn reference ref ground_truth transkription transkript "
        "transcripción texto texte testo текст 文本 description"
    ).split(),
    "speaker": (
        "speaker speaker_id speakerid speaker_name spk spk_id client_id user_id user reader voice actor sprecher "
        "sprecherin locuteur hablante falante parlante диктор спикер 说话人 話者"
    ).split(),
    "split": "split subset set partition".split(),
    # Found by `times.time_roles`, since their names hold a unit, too.
    "start": "offset start".split(),
    "end": "end".split(),
    "seconds": "duration".split(),
    "channel": "channel channel_id channel_number kanal canal canale канал 声道".split(),
}
"""Role of a column → its usual names, the most reliable first."""
_TEXTS = frozenset(ROLES["text"])
_WORDS = {"word", "words"}
_TIMES = ("start", "end", "seconds")


class UnclearTextsError(InputError):
    """A table has several columns that could have the transcripts."""


@dataclass
class Table:
    """A table and its form.

    Attributes:
        path: the file.
        encoding: of the file; lines that aren't valid in it are decoded as Windows-1252.
        delimiter: between columns; "" for JSON, " " if a line is a file name followed by the transcript.
        quoted: whether cells may be quoted, and then contain delimiters and line breaks.
        columns: names; numbers from 1 if the file has no header.
        has_header: whether the first row has the names.
        roles: "audio", "text", "speaker" ... → column.
        scales: "start", "end", "seconds" → seconds per unit of that column.
        first_channel: the number of the first channel.
        notes: what the user should know of its columns.
        texts: the columns of which each may hold the transcripts, if it can't be told which.
        unread: columns whose names speak of times, but which were not understood.
        is_object: whether it is one JSON object, name → transcript or name → object.
        inside: the key of the list with the rows, where a JSON object has them in one.
        sheet: the name of the sheet of a workbook; "" for other tables.
        others: the names of the sheets that aren't read.
    """

    path: Path
    encoding: str = "utf-8"
    delimiter: str = ""
    quoted: bool = True
    columns: list[str] = field(default_factory=list)
    has_header: bool = True
    roles: dict[str, str] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    first_channel: int = 1
    notes: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    is_object: bool = False
    inside: str = ""
    sheet: str = ""
    others: list[str] = field(default_factory=list)

    def part_of(self, cells: Mapping[str, str]) -> tuple[float, float | None]:
        """Return the start and the length of a row's part, in seconds; None for the rest of the recording.

        Args:
            cells: role → text.

        Raises:
            ValueError: a time can't be read.
        """
        written = {role: cells[role] for role in _TIMES if cells.get(role)}
        known = {role: times.parse_time(text, self.scales.get(role, 1.0)) for role, text in written.items()}
        start, end = known.get("start", 0.0), known.get("end")
        if "start" not in self.roles:  # a duration is then that of the whole recording
            return 0.0, None
        return start, known.get("seconds") if end is None else end - start

    def __str__(self) -> str:
        kind = {"\t": "tabs", "": "JSON", " ": "name and text"}.get(self.delimiter, f"{self.delimiter!r}")
        kind += f", its list {self.inside!r}" if self.inside else ""
        if self.sheet:
            kind = f"sheet {self.sheet!r}"
            kind += f" of several, not read: {', '.join(map(repr, self.others))}" if self.others else ""
        header = "a header" if self.has_header else "no header"
        return f"{self.path.name} ({kind}, {header}; {self.what_is_read()})"

    def what_is_read(self) -> str:
        """Return the columns with their roles, and the others, for the user."""
        units = {role: f" in {times.UNITS[scale]}" for role, scale in self.scales.items() if scale in times.UNITS}
        named = ", ".join(f"{role}: {column}{units.get(role, '')}" for role, column in self.roles.items())
        rest = [column for column in self.columns if column not in (*self.roles.values(), *self.unread)]
        more = " ..." if rest[_SHOWN:] else ""
        others = f"; not read: {', '.join(rest[:_SHOWN])}{more}" if rest else ""
        return f"{named}{others}"


# --- Detecting the form -----------------------------------------------------------------------------------------------


def inspect(
    path: Path,
    is_audio: Callable[[str], bool],
    encoding: str = "",
    delimiter: str = "",
    columns: Mapping[str, str] | None = None,
    needs: Sequence[str] = ("audio", "text"),
) -> Table:
    """Detect a table's form and the roles of its columns.

    Args:
        path: the table.
        is_audio: whether a cell names a recording.
        encoding, delimiter: override the detection.
        columns: role → a column's name, or its number from 1; overrides the detection.
        needs: the roles without which it isn't such a table; one of ("text",) may have no recordings.

    Raises:
        InputError: the file can't be read, isn't a table, or has no column of recordings or of transcripts.
    """
    if path.suffix.lower() in sheets.SUFFIXES:
        return _with_roles(_of_workbook(path, is_audio), is_audio, columns or {}, needs)
    try:
        codecs.lookup(encoding or "utf-8")
        table = Table(path, encoding or encoding_of(path))
        first = next((line.lstrip()[:1] for line in Lines(path, table.encoding) if line.strip()), "")
    except LookupError as error:
        raise InputError(
            f"--encoding {encoding}: unknown to Python; use a name such as utf-8, cp1251 or gb18030"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: can't be read as a table ({error.strerror})") from error
    if not first:
        raise InputError(f"{path}: the table is empty; expected rows of a path and a transcript")
    with open(path, "rb") as file:
        if b"\0" in file.read(4096) and not is_wide(table.encoding):
            raise InputError(f"{path}: not a text file; expected CSV, TSV or JSON")
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json") or first in "{[":
        rows = list(islice(read(table), _SAMPLE))
        table.columns = list(dict.fromkeys(key for row in rows for key in row.cells))
        if rows and all(row.doubt == "broken" for row in rows):
            raise InputError(f"{path}, line {rows[0].line}: {rows[0].detail}")
    else:
        _find_delimiter(table, delimiter, is_audio)
    return _with_roles(table, is_audio, columns or {}, needs)


def _of_workbook(path: Path, is_audio: Callable[[str], bool]) -> Table:
    """Return the sheet of a workbook that names the most recordings, the first of several."""
    found = []
    names = sheets.names_of(path)
    for name in names:
        rows = [[as_text(cell) for cell in cells] for _, cells in islice(sheets.rows_of(path, name), _SAMPLE)]
        width = max(map(len, rows), default=0)
        if width > 1:
            leading = sum(any(map(is_audio, row)) for row in rows)
            rows = [row for row in rows if not delimited.is_remark(row, width)]
            found.append((leading, name, [[*row, *[""] * (width - len(row))] for row in rows]))
    if not found:
        raise InputError(f"{path}: no sheet with two columns or more; expected rows of a path and a transcript")
    leading, name, rows = max(found, key=lambda at: at[0])
    first, *rest = rows
    table = Table(path, sheet=name, others=[one for one in names if one != name])
    table.has_header = _is_header(first, rest, is_audio)
    table.columns = delimited.unique(first) if table.has_header else [str(place) for place in range(1, len(first) + 1)]
    return table


def _with_roles(
    table: Table, is_audio: Callable[[str], bool], columns: Mapping[str, str], needs: Sequence[str]
) -> Table:
    """Set the roles of a table's columns; raise InputError if it lacks one that it needs."""
    path = table.path
    sample = [row.cells for row in islice(read(table), _SAMPLE) if row.doubt != "broken"]
    if table.is_object and not any(is_audio(as_text(cell)) for row in sample for cell in row.values()):
        raise InputError(
            f"{path}: JSON that names no recording; expected name → transcript, or rows with a path and a transcript. "
            f"The text of one recording belongs into a text file with its name, {path.stem}.txt"
        )
    table.roles = named_roles(table, columns)
    find_times(table)
    texts = [{column: as_text(value) for column, value in row.items()} for row in sample]
    time_columns.check(table, texts)
    for role in ROLES:
        if (
            role == "audio"
            and role not in needs
            and not any(is_audio(as_text(cell)) for row in sample for cell in row.values())
        ):
            continue
        if role not in table.roles and role not in _TIMES and (column := guess(role, table, sample, is_audio)):
            table.roles[role] = column
    check_channels(table, sample)
    table.notes += time_columns.notes(table, texts)
    for role, what in (("audio", "recordings"), ("text", "transcripts")):
        if role in needs and role not in table.roles:
            first = sample[0] if sample and not table.has_header else {}
            there = ", ".join(f"{name} ({first[name]!r})" if first.get(name) else repr(name) for name in table.columns)
            why = f"; {text_columns.NEVER_GUESSED}" if role == "text" and there else ""
            raise InputError(
                f"{path}: no column of {what} found; it has {there or 'none'}{why}. Give the column's name or number "
                f"with --{role}-column"
            )
    return table


def check_texts(table: Table) -> None:
    """Check that it is known which column has the transcripts.

    Raises:
        UnclearTextsError: several could; the error shows them.
    """
    if not table.texts:
        return
    rows = [row.cells for row in islice(read(table), _SAMPLE)]
    shown = [
        f"{column!r} ({next(filter(None, (as_text(row.get(column)) for row in rows)), '')[:40]!r})"
        for column in table.texts
    ]
    raise UnclearTextsError(
        f"{table.path}: which column has the transcripts: {' or '.join(shown)}? Name it with --text-column"
    )


def _find_delimiter(table: Table, given: str, is_audio: Callable[[str], bool]) -> None:
    """Set delimiter, quotes, header and columns.

    The best delimiter is the one with the most rows that name a recording, then with the most rows of one width.
    """
    lines = list(islice(Lines(table.path, table.encoding), _SAMPLE))
    given = {"tab": "\t", "\\t": "\t"}.get(given, given)
    if len(given) > 1 or given in ('"', "\r", "\n"):
        raise InputError(f"--delimiter {given!r}: expected one character, such as ; or |, or the word tab")
    best, most, leading_most = (",", 1), (0.0, 0.0), 0
    for delimiter in [given] if given else _DELIMITERS:
        for quoted in (True, False):
            rows = [row for row in delimited.records(lines, delimiter, quoted) if any(row)]
            widths = Counter(map(len, rows))
            width, count = max(widths.items(), key=lambda item: (item[0] > 1, item[1]), default=(1, 0))
            leading = sum(len(row) > 1 and any(map(is_audio, row)) for row in rows)
            score = (round(leading / max(1, len(rows)), 1), count / max(1, len(rows)) if width > 1 else 0.0)
            if score > most:  # on a tie, the rarer character wins
                best, most, leading_most = (delimiter, width), score, leading
    table.delimiter, width = best
    names = [delimited.name_and_text(line) for line in lines if line.strip()]
    named = sum(len(name) == 2 and is_audio(name[0]) for name in names)
    has_tabs = table.delimiter == "\t" and most[1] >= 0.9  # nearly all rows have the same number of columns
    if not given and not has_tabs and named > max(leading_most, len(names) / 2):
        table.delimiter, table.has_header, table.columns = " ", False, ["1", "2"]
        return
    table.quoted = _has_quotes(table, width)
    rows = [row for row in delimited.records(lines, table.delimiter, table.quoted) if any(row)]
    first, *rest = [row for row in rows if not delimited.is_remark(row, width)] or [[]]
    table.has_header = _is_header(first, rest, is_audio)
    if table.has_header:
        table.columns = delimited.unique(first)
    else:
        table.columns = [str(number) for number in range(1, width + 1)]


def _has_quotes(table: Table, width: int) -> bool:
    """Return whether quotes enclose cells: more rows then have the right width. In Common Voice, they don't."""
    right = {
        quoted: sum(
            len(row) == width for row in delimited.records(Lines(table.path, table.encoding), table.delimiter, quoted)
        )
        for quoted in (True, False)
    }
    return right[True] >= right[False]


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]], is_audio: Callable[[str], bool]) -> bool:
    names = {name for known in ROLES.values() for name in known}
    known = sum(plain(cell) in names for cell in first)
    if any(map(is_audio, first)):
        return known > 1  # recordings may be named "text" or "path", but not in one row
    # In a table of recordings, a first row that names none is a header.
    return bool(known) or any(is_audio(cell) for row in rest for cell in row)


def plain(name: str) -> str:
    """Return a column's name for comparison: in lower case, with underscores between its words.

    Example:
        >>> plain("Audio File-Path"), plain("startMs"), plain("SpeakerID")
        ('audio_file_path', 'start_ms', 'speaker_id')
    """
    name = re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def named_roles(table: Table, given: Mapping[str, str]) -> dict[str, str]:
    """Return role → column, by the user's role → name or number (from 1).

    Raises:
        InputError: the table has no such column.
    """
    roles = {}
    for role, column in given.items():
        number = int(column) if column.isdecimal() else 0
        if column in table.columns:
            roles[role] = column
        elif 1 <= number <= len(table.columns):
            roles[role] = table.columns[number - 1]
        else:
            there = ", ".join(map(repr, table.columns))
            raise InputError(f"{table.path}: no column {column!r} (--{role}-column); it has {there}")
    return roles


def guess(role: str, table: Table, sample: Sequence[Cells], is_audio: Callable[[str], bool]) -> str:
    """Return the column with a role, by its name and its values; "" for none."""
    free = [column for column in table.columns if column not in table.roles.values()]
    by_name = [column for name in ROLES[role] for column in free if name in _names(column, table)]
    values = {column: [value for row in sample if (value := as_text(row.get(column)))] for column in free}
    if role == "audio":
        leads = {column: sum(map(is_audio, values[column])) for column in free}
        surest = max(free, key=lambda column: (leads[column], column in by_name), default="")
        by_name = [column for column in by_name if leads[column]] or by_name
        # None of the recordings exists: take the column by its name, so that each row is reported.
        return next(iter(by_name), surest if surest and leads[surest] else "")
    if role != "text":
        return next(iter(by_name), "") if table.has_header else ""
    # Markers of a sound editor have their texts in the description; other tables describe the recording there.
    passed_over = "" if "start" in table.roles else "description"
    by_name = [column for column in by_name if values[column] and _names(column, table)[-1] != passed_over]
    # Numbers alone are sizes, times or ids, never guessed to be transcripts; --text-column takes them all the same.
    others = [column for column in free if any(map(_letters, values[column])) and column not in by_name]
    others = [column for column in others if sum(map(is_audio, values[column])) < len(values[column]) / 2]
    # FLEURS has its texts letter by letter, too.
    others = [column for column in others if not _is_spelled(values[column])] or others
    columns = [column for column in free if column in (*others, *by_name)]
    names = {column: _names(column, table)[-1] if table.has_header else "" for column in columns}
    written = {column: [as_text(row.get(column)) for row in sample] for column in columns}
    elsewhere = {name for role, known in ROLES.items() if role != "text" for name in known}
    found = text_columns.choose(written, names, by_name, elsewhere)
    table.texts = found if len(found) > 1 else []
    if len(found) == 1 and not by_name and text_columns.is_other(names[found[0]]):
        table.notes.append(f"the transcripts are taken from column {found[0]!r}, since no other has texts")
    return found[-1] if found else ""


def _names(column: str, table: Table) -> tuple[str, ...]:
    """Return the names that a column is known by: of a JSON object within another, its inner one too."""
    return (plain(column),) if table.delimiter or table.sheet else (plain(column), plain(column.rsplit(".", 1)[-1]))


def find_times(table: Table) -> None:
    """Set the roles and units of the columns of times of a table, and name those that aren't understood."""
    plain_names = [plain(column) for column in table.columns] if table.has_header else []
    found = times.time_roles(plain_names)
    if "start" not in found and not table.delimiter and not table.sheet:  # of an object within another
        for outer in dict.fromkeys(column.rpartition(".")[0] for column in table.columns if "." in column):
            inner = [
                plain(name) if head == outer else "" for head, _, name in (c.rpartition(".") for c in table.columns)
            ]
            of_outer = times.time_roles(inner)
            found = of_outer if {"start", "end"} <= set(of_outer) or {"start", "seconds"} <= set(of_outer) else found
    for role, (place, scale) in found.items():
        if role not in table.roles and table.columns[place] not in table.roles.values():
            table.roles[role], table.scales[role] = table.columns[place], scale
    used = set(table.roles.values())
    table.unread = [
        column
        for column, name in zip(table.columns, plain_names, strict=False)
        if column not in used and times.looks_like_time(name)
    ]


def check_channels(table: Table, sample: Sequence[Cells]) -> None:
    """Find out how a column numbers the channels; one with other values, such as a station's name, has no role."""
    if column := table.roles.get("channel"):
        first = channels.numbering([value for row in sample if (value := as_text(row.get(column)))])
        if first is None:
            del table.roles["channel"]
        else:
            table.first_channel = first


def _is_spelled(values: Sequence[str]) -> bool:
    """Return whether texts are written letter by letter, with bars between the words."""
    return sum("|" in value for value in values) > 0.5 * len(values)


def _letters(value: str) -> int:
    return sum(map(str.isalpha, value))


def as_text(value: object) -> str:
    """Return a cell as text; of an object of Hugging Face's for a recording, its path; of a list, its only item.

    Example:
        >>> as_text({"path": "a.wav"}), as_text(7), as_text(float("nan")), as_text(["yes"])
        ('a.wav', '7', '', 'yes')
    """
    if isinstance(value, dict):
        value = value.get("path")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, bool | dict | list) or value != value:
        return ""
    return str(value).strip()


# --- Rows -------------------------------------------------------------------------------------------------------------


def read(table: Table) -> Iterator[TableRow]:
    """Yield the rows of a table in order; empty lines are skipped."""
    if table.sheet:
        return _read_sheet(table)
    if table.delimiter:
        return _read_columns(table)
    rows = ((row, whole) for row in read_json(table) for whole in of_columns(row.cells))
    return (replace(row, cells=flat(cells)) for row, whole in rows for cells in _parts(whole))


def _parts(cells: Cells) -> Iterator[Cells]:
    """Yield the segments of a recording, where an object has no text but a list of them, as GigaSpeech's; or itself.

    A list of words isn't one of segments.
    """
    if any(map(is_list_of_rows, cells.values())) and not _has_text(flat(cells), _TEXTS):
        for key, value in cells.items():
            if not is_list_of_rows(value) or not any(_has_text(one, _TEXTS - _WORDS) for one in value):
                continue
            if plain(key) not in _WORDS and "start" in times.time_roles([plain(name) for name in value[0]]):
                names = [name for name in cells if name != key]
                of_whole = {names[place] for place, _ in times.time_roles([plain(name) for name in names]).values()}
                yield from ({name: cells[name] for name in names if name not in of_whole} | one for one in value)
                return
    yield cells


def _has_text(cells: Cells, names: Set[str]) -> bool:
    """Return whether an object has a text under one of these names, its own or that of an object within it."""
    return any(plain(name.rsplit(".", 1)[-1]) in names and as_text(value) for name, value in cells.items())


def _read_columns(table: Table) -> Iterator[TableRow]:
    lines = Lines(table.path, table.encoding)
    if table.delimiter == " ":
        records: Iterator[list[str]] = (delimited.name_and_text(line) if line.strip() else [] for line in lines)
    else:
        records = delimited.records(iter(lines), table.delimiter, table.quoted)
    width, line = len(table.columns), 1
    is_text_last = table.roles.get("text") == table.columns[-1]
    skip = table.has_header
    for cells in records:
        number, line = line, lines.number + 1
        doubt = lines.doubt()
        if not any(cells):
            continue
        if skip:
            skip = delimited.is_remark(cells, width)
            continue
        cells = [cell.strip() for cell in cells]
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if len(cells) > width and is_text_last:  # a comma in a transcript without quotes
            cells = [*cells[: width - 1], f"{table.delimiter} ".join(cells[width - 1 :])]
        if len(cells) > width or (len(cells) == 1 and width > 1):
            shown = table.delimiter.join(cells)[:80]
            yield TableRow(number, {}, "broken", f"has {len(cells)} columns instead of {width}: {shown}")
            continue
        yield TableRow(number, dict(zip(table.columns, cells, strict=False)), doubt)


def _read_sheet(table: Table) -> Iterator[TableRow]:
    width, skip = len(table.columns), table.has_header
    for number, cells in sheets.rows_of(table.path, table.sheet):
        if delimited.is_remark([as_text(cell) for cell in cells], width) and skip:
            continue
        if not skip:
            cells = [*cells, *[""] * (width - len(cells))]
            yield TableRow(number, dict(zip(table.columns, cells, strict=False)))
        skip = False


def read_json(table: Table) -> Iterator[TableRow]:
    """Yield the rows of JSON lines, of one JSON list of objects, or of one object of name → transcript, as written."""
    lines = Lines(table.path, table.encoding)
    first = next((line for line in Lines(table.path, table.encoding) if line.strip()), "").strip()
    if first.startswith("["):
        yield from read_objects(lines, "[")
    elif table.path.suffix.lower() == ".json" and not _isjson_row(first):
        yield from _read_json_object(table)
    elif first == "{":  # objects over several lines
        yield from read_objects(lines)
    else:
        for line in lines:
            if line.strip():
                doubt = lines.doubt()
                try:
                    cells = json.loads(line.rstrip().rstrip(","))
                except (ValueError, RecursionError) as error:
                    reason = "more than one object; write one object a line" if "Extra data" in str(error) else error
                    yield TableRow(lines.number, {}, "broken", f"not JSON ({reason}): {line.strip()[:80]}")
                    continue
                yield json_row(lines.number, cells, doubt)


def _isjson_row(line: str) -> bool:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(cells, dict) and bool({plain(name) for name in cells} & set(ROLES["audio"]))


def _read_json_object(table: Table) -> Iterator[TableRow]:
    """Yield the rows of one JSON object, name → transcript or name → object, which is read into memory as a whole."""
    try:
        content = json.loads("".join(Lines(table.path, table.encoding)))
    except (ValueError, RecursionError) as error:
        if "Extra data" in str(error):  # several objects
            yield from read_objects(Lines(table.path, table.encoding))
            return
        raise InputError(f"{table.path}: can't be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{table.path}: expected JSON objects, one per line, or a list of them")
    within = content
    inner = [value for value in content.values() if isinstance(value, dict)]
    are_texts = bool(inner) and all(_has_text(value, _TEXTS) for value in inner)  # by names, of which each has a text
    if (
        not any(map(is_list_of_rows, content.values()))
        and len(content) < _FEW
        and not any("." in key for key in content)
        and not are_texts
    ):
        within = flat(content)  # the list is in an object
    lists = [key for key, value in within.items() if is_list_of_rows(value)]
    if len(lists) > 1 and all(map(split_of, lists)):
        table.inside = ", ".join(lists)
        rows = ({"split": key} | cells for key in lists for cells in within[key])
        yield from (json_row(number, cells) for number, cells in enumerate(rows, 1))
        return
    if len(lists) > 1:
        raise InputError(
            f"{table.path}: has several lists of rows ({', '.join(map(repr, lists))}); save the one with the "
            "transcripts as a file of its own"
        )
    if lists:
        table.inside = lists[0]
        yield from (json_row(number, value) for number, value in enumerate(within[lists[0]], 1))
        return
    table.is_object = True
    for number, (name, value) in enumerate(content.items(), 1):
        yield json_row(number, {"name": name} | (value if isinstance(value, dict) else {"text": value}))
