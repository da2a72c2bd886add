"""Rows of delimited text as they are written: cells, the form `name text`, remarks above a table, repeated names."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence

_CELL = 10_000_000  # characters; a longer cell comes from a quote that was never closed


def unique(names: Sequence[str]) -> list[str]:
    """Return the names of columns, each once: a repeated one with its number."""
    seen: Counter[str] = Counter()
    made = []
    for name in names:
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


def name_and_text(line: str) -> list[str]:
    """Split a line into a file's name and the transcript: `a0001 the text`, `a0001: the text`."""
    name, *text = line.split(maxsplit=1)
    return [name.rstrip(":"), *text]


def is_remark(cells: Sequence[str], width: int) -> bool:
    """Return whether a row is a remark above the table: of one cell, or Excel's `sep=;`."""
    return (len(cells) == 1 < width) or (cells[0].casefold() in ("sep=", '"sep=') and not any(cells[1:]))


def records(lines: Iterator[str] | Sequence[str], delimiter: str, quoted: bool) -> Iterator[list[str]]:
    """Yield the cells of each row; none for a row that can't be read."""
    csv.field_size_limit(_CELL)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, skipinitialspace=delimiter != "\t")
    while True:
        try:
            yield [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error:  # a cell that never ends; go on with the next line
            yield []
