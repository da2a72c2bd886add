"""The course's HTML pages: one style in light and dark, histograms, and sortable tables.

The templates are the files of base/templates.
"""

import base64
import hashlib
import json
import mimetypes
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from asr_with_nemo.errors import InputError

LIGHT, DARK = "#ffffff", "#16181d"
"""The background of pages and of their pictures."""
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("asr_with_nemo.base", "templates"),
    autoescape=jinja2.select_autoescape(disabled_extensions=("md",), default=True),
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Jinja's environment for base/templates; values are escaped."""
STYLE = Markup(ENVIRONMENT.get_template("style.css").render(light=LIGHT, dark=DARK))
"""The style sheet of every page."""
_WIDE, _TALL, _BELOW = 480, 120, 34  # of a diagram, and of its labels


def html_bars(counts: Sequence[int], labels: Sequence[str], title: str, axis: str) -> Markup:
    """Return a histogram as SVG, in the page's colours; empty without counts.

    Args:
        counts: of each bar, from left to right.
        labels: of each bar: as many as fit are shown below the bars, each when the pointer is on its bar.
        title: text alternative, for readers who don't see the picture.
        axis: label of the x axis.
    """
    if not counts:
        return Markup("")
    width, highest = _WIDE / len(counts), max(*counts, 1)
    bars = [
        {
            "left": place * width,
            "middle": (place + 0.5) * width,
            "width": max(0.5, width - 1),
            "height": _TALL * count / highest,
            "label": label,
            "count": count,
        }
        for place, (count, label) in enumerate(zip(counts, labels, strict=True))
    ]
    every = max(1, round(len(counts) * max(map(len, labels)) * 7 / _WIDE + 0.5))
    size = {"wide": _WIDE, "tall": _TALL, "below": _BELOW}
    return Markup(ENVIRONMENT.get_template("bars.svg").render(bars=bars, every=every, title=title, axis=axis, **size))


# --- Sortable tables --------------------------------------------------------------------------------------------------


def columns_of(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        InputError: there are no rows.

    Example:
        >>> columns_of([{"word": "stop", "errors": 2}])
        ['word', 'errors']
    """
    if not rows:
        raise InputError("a table without rows: there is nothing to show")
    return list(rows[0])


def html_table(
    rows: Sequence[Mapping[str, object]],
    page: int = 8,
    sort: str = "",
    descending: bool = False,
    beside: str | os.PathLike | None = None,
    limit: int = 4_000_000,
) -> str:
    """Return rows as an HTML table with sorting by a click, search, and pages of rows.

    Args:
        rows: column → value; a `Path` is a picture or a recording.
        page, sort, descending, beside: as in `explore.browse`.
        limit: most bytes of pictures and recordings that are embedded in the table.

    Raises:
        InputError: there are no rows, or no such column.
    """
    columns = columns_of(rows)
    if sort and sort not in columns:
        raise InputError(f"no column {sort!r} to sort by; there are {', '.join(columns)}")
    if sort:
        known = [row for row in rows if row[sort] is not None]
        rows = sorted(known, key=lambda row: row[sort], reverse=descending) + [r for r in rows if r[sort] is None]
    address = _Addresses(None if beside is None else Path(beside).absolute(), limit)
    heads = [_head(name, [row[name] for row in rows], sort, descending) for name in columns]
    cells = [[_cell(name, value, str(row[columns[0]]), address) for name, value in row.items()] for row in rows]
    # A digest, not a random number: the same table makes the same output.
    name = "table-" + hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:8]
    return ENVIRONMENT.get_template("table.html").render(name=name, page=page, heads=heads, rows=cells)


def still_table(html: str) -> str:
    """Return a table of `html_table` for where neither scripts nor the recordings are: its first page, as plain text.

    A recording becomes ▶, a picture ▦.
    """
    rows = html.count("<tr>") + html.count("<tr hidden>") - 1
    for pattern, instead in (
        (r"<script>.*?</script>\n?|<tr hidden>.*?</tr>\n?|<p><input.*?</p>\n?", ""),
        (r"<audio.*?</audio>", "▶"),
        (r'<button class="picture".*?</button>', "▦"),
        (r"</?button>", ""),
    ):
        html = re.sub(pattern, instead, html, flags=re.DOTALL)
    note = (
        f"<p>The first {html.count('<tr>') - 1} of {rows} rows. All of them, their sound (▶) and pictures (▦) are there"
    )
    return html.replace("</tbody></table>", f"</tbody></table>\n{note} when the notebook runs.</p>")


class _Addresses:
    """URLs by which a notebook finds a file: a relative link, or the file itself as a data URL."""

    def __init__(self, beside: Path | None, limit: int):
        self.beside, self.left = beside, limit

    def __call__(self, path: Path) -> str | None:
        path = path.absolute()
        # Jupyter refuses a file that a symbolic link keeps elsewhere, as with a data folder on another disk.
        inside = all(one.is_relative_to(Path.cwd()) for one in (path, path.resolve()))
        if self.beside and inside and "google.colab" not in sys.modules:
            return quote(os.fsencode(os.path.relpath(path, self.beside)))
        size = path.stat().st_size
        if size > self.left:
            return None
        self.left -= size
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _head(name: str, values: Sequence[object], sort: str, descending: bool) -> dict[str, str]:
    if any(isinstance(value, Path) for value in values):
        return {"name": name}  # can't be sorted
    number = all(value is None or isinstance(value, int | float) for value in values)
    order = ("descending" if descending else "ascending") if name == sort else "none"
    return {"name": name, "kind": "number" if number else "text", "order": order}


def _cell(column: str, value: object, of: str, address: _Addresses) -> dict[str, str]:
    if not isinstance(value, Path):
        return {"text": "" if value is None else str(value)}
    source = address(value)
    if source is None:
        return {"text": "(too large to embed)"}
    return {"picture" if value.suffix == ".png" else "sound": source, "label": f"{column}, {of}"}
