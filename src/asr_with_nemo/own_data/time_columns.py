"""Checks of the columns of times of a table: whether they hold times, in which unit, and what else may be some."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from asr_with_nemo.own_data import times

if TYPE_CHECKING:
    from asr_with_nemo.own_data.tables import Table

Texts = Sequence[Mapping[str, str]]
"""The first rows of a table: column → text."""
_ROLES = ("start", "end", "seconds")
_RATES = (1_000, 8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # units of times in a second


def check(table: "Table", texts: Texts) -> None:
    """Take the roles of times from columns that hold none (people, from whom to whom, or dates), and find the unit."""
    for role in _ROLES:
        column = table.roles.get(role)
        cells = [cell for row in texts if column and (cell := row.get(column, ""))]
        if cells and not any(_is_time(cell) for cell in cells):
            del table.roles[role]
            table.scales.pop(role, None)
            table.unread.append(column)
    _find_samples(table, texts)


def lacks_ends(table: "Table") -> bool:
    """Return whether a table has a column of starts, and none of ends or lengths."""
    return "start" in table.roles and not {"end", "seconds"} & set(table.roles)


def _is_time(written: str) -> bool:
    try:
        times.parse_time(written)
    except ValueError:
        return False
    return True


def _find_samples(table: "Table", texts: Texts) -> None:
    """Set the unit of start and end to that in which they differ by the duration: samples, as in SpeechBrain, or ms."""
    if not {"start", "end", "seconds"} <= set(table.roles) or any(scale != 1.0 for scale in table.scales.values()):
        return
    written = ([row.get(table.roles[role], "") for role in _ROLES] for row in texts)
    known = [[times.parse_time(cell) for cell in cells] for cells in written if all(map(_is_time, cells))]
    units = [(end - start) / seconds for start, end, seconds in known if seconds > 0]
    for per_second in _RATES:
        if units and all(abs(unit / per_second - 1) < 0.01 for unit in units):
            table.scales |= {"start": 1 / per_second, "end": 1 / per_second}
            table.notes.append(f"start and end of {table.path.name} are read in 1/{per_second:g} s, by its durations")


def notes(table: "Table", texts: Texts) -> Iterator[str]:
    """Yield what is odd about a table's times: columns that may be some, a start without an end."""
    name = table.path.name
    for column in table.unread:
        yield f"not understood: column {column!r} of {name}, a time?"
    if lacks_ends(table):
        yield (
            f"{name} has starts ({table.roles['start']!r}) and no column of ends: each row is read to the next start "
            "in its recording, the last one to its end; if there is such a column, name it end, or duration"
        )
    free = [column for column in table.columns if column not in (*table.roles.values(), *table.unread)]
    audio = table.roles.get("audio", "")
    pair = next(
        (pair for pair in pairwise(free) if "start" not in table.roles and _may_be_times(pair, texts, audio)), None
    )
    if pair:
        named = " and ".join(map(repr, pair))
        yield f"columns {named} of {name}, start and end? Name them so if they are times, in seconds"


def _may_be_times(columns: tuple[str, str], texts: Texts, audio: str) -> bool:
    """Return whether two columns hold numbers with parts, or clock times, as those of parts of recordings.

    The second is always the larger, some are beyond 1, and both grow within a recording, of which one has two rows at
    least.
    """
    pairs = [[row.get(column, "") for column in columns] for row in texts]
    try:
        parsed = [(times.parse_time(start), times.parse_time(end)) for start, end in pairs]
    except ValueError:
        return False
    is_fine = any(re.search("[.,:]", cell) for pair in pairs for cell in pair)
    parts: dict[str, list[tuple[float, float]]] = {}
    for row, pair in zip(texts, parsed, strict=True):
        parts.setdefault(row.get(audio, ""), []).append(pair)
    if not is_fine or all(end <= 1 for _, end in parsed) or all(len(part) < 2 for part in parts.values()):
        return False
    grows = (
        before < after
        for part in parts.values()
        for pair in pairwise(part)
        for before, after in zip(*pair, strict=True)
    )
    return all(start < end for start, end in parsed) and all(grows)
