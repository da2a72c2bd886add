"""Rows of tables, and how they are read from JSON: objects one after the other, in a list, and within each other."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from asr_with_nemo.own_data.store import AUDIO
from asr_with_nemo.own_data.text_files import Lines

_CELL = 10_000_000  # characters; a longer object is damaged
Cells = dict[str, object]
"""Column → value: text, or any JSON value."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        line: the number of its first line, from 1.
        cells: column → value.
        doubt: "encoding" if it wasn't valid UTF-8; "broken" if it isn't a row of this table (`cells` is then empty).
        detail: the reason.
    """

    line: int
    cells: Cells
    doubt: str = ""
    detail: str = ""


def flat(cells: Cells, depth: int = 5) -> Cells:
    """Return cells with those of objects within them as `outer.inner`, to a depth; recordings stay as they are.

    Example:
        >>> flat({"id": 1, "audio": {"path": "a.wav"}, "transcript": {"text": "yes", "by": {"name": "ann"}}})
        {'id': 1, 'audio': {'path': 'a.wav'}, 'transcript.text': 'yes', 'transcript.by.name': 'ann'}
    """
    made: Cells = {}
    for name, value in cells.items():
        if depth and isinstance(value, dict) and value and not {"path", "bytes", "array"} & set(value):
            made |= {f"{name}.{inner}": one for inner, one in flat(value, depth - 1).items()}
        else:
            made[name] = value
    return made


def of_columns(cells: Cells) -> Iterator[Cells]:
    """Yield the rows of an object whose lists are columns, one of them of recordings; any other object as it is.

    The lists are its own, or those of an object within it, as in the People's Speech.

    Example:
        >>> list(of_columns({"id": 7, "data": {"name": ["a.flac", "b.flac"], "label": ["yes", "no"]}}))
        [{'id': 7, 'name': 'a.flac', 'label': 'yes'}, {'id': 7, 'name': 'b.flac', 'label': 'no'}]
    """
    for within in (cells, *(value for value in cells.values() if isinstance(value, dict))):
        columns = {key: value for key, value in within.items() if isinstance(value, list)}
        if len(columns) > 1 and len({len(value) for value in columns.values()}) == 1:
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            if any(all(_is_audio(row[key]) for row in rows) for key in columns) and rows:
                others = {key: value for key, value in cells.items() if value is not within and key not in columns}
                yield from (others | row for row in rows)
                return
    yield cells


def _is_audio(value: object) -> bool:
    return isinstance(value, str) and os.path.splitext(value)[1].lower() in AUDIO


def is_list_of_rows(value: object) -> bool:
    """Return whether a JSON value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def json_row(line: int, cells: object, doubt: str = "") -> TableRow:
    """Return the row of a JSON value; one that isn't an object is broken."""
    if isinstance(cells, dict):
        return TableRow(line, cells, doubt)
    return TableRow(line, {}, "broken", f"not a JSON object: {str(cells)[:80]}")


def read_objects(lines: Lines, opening: str = "") -> Iterator[TableRow]:
    """Yield the objects of a list, after `opening`, or of a file that has one after the other."""
    decoder = json.JSONDecoder()
    rest, started, enough = "", not opening, 0
    for line in chain(lines, [""]):  # at the end, it is tried once more
        rest += line
        if not started and opening in rest:
            rest, started = rest.partition(opening)[2], True
        if line and len(rest) < enough:
            continue  # to try after each line of a long object would take the square of its time
        while started and (start := rest.lstrip(" \t\r\n,")):
            if start[0] == "]":
                return
            try:
                cells, end = decoder.raw_decode(start)
            except (ValueError, RecursionError):
                if len(start) > _CELL:
                    yield TableRow(lines.number, {}, "broken", f"not JSON: {start[:80]}")
                    return
                enough = len(rest) * 5 // 4
                break  # it continues on the next line
            rest, enough = start[end:], 0
            yield json_row(lines.number - rest.count("\n"), cells)
    if rest.strip(" \t\r\n,"):
        yield TableRow(lines.number, {}, "broken", f"not JSON, or truncated: {rest.strip()[:80]}")
