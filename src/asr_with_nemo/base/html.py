"""What the course's HTML pages have in common: one look in light and dark, diagrams, and tables that can be browsed."""

import base64
import hashlib
import html
import mimetypes
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from asr_with_nemo.errors import InputError

LIGHT, DARK = "#ffffff", "#16181d"
"""The page's background, and its pictures'."""
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("asr_with_nemo.base", "templates"),
    autoescape=jinja2.select_autoescape(disabled_extensions=("md",), default=True),
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Templates lie in base/templates."""
STYLE = Markup(ENVIRONMENT.get_template("style.css").render(light=LIGHT, dark=DARK))
"""The style sheet of every page."""
"""For templates: what is filled in is escaped."""
WIDE, TALL, BELOW = 480, 120, 34  # of a diagram, and of its labels


def html_bars(counts: Sequence[int], labels: Sequence[str], title: str, axis: str) -> Markup:
    """A histogram as SVG, drawn in the page's colours.

    Args:
        counts: of each bar, from left to right.
        labels: what stands below it: as many as there is room for are shown, all on pointing at the bar.
        title: what it shows, for those who don't see it.
        axis: what stands below the bars.
    """
    if not counts:
        return Markup("")
    width, highest = WIDE / len(counts), max(*counts, 1)
    every = max(1, round(len(counts) * max(map(len, labels)) * 7 / WIDE + 0.5))
    parts = []
    for place, (count, label) in enumerate(zip(counts, labels, strict=True)):
        left, height = place * width, TALL * count / highest
        size = f'x="{left:.1f}" y="{TALL - height:.1f}" width="{max(0.5, width - 1):.1f}" height="{height:.1f}"'
        parts.append(
            Markup("<rect {} fill='var(--bar)'><title>{}: {:,}</title></rect>").format(Markup(size), label, count)
        )
        if place % every == 0:
            middle = left + width / 2
            text = Markup("<text x='{:.1f}' y='{}' text-anchor='middle'>{}</text>").format(middle, TALL + 13, label)
            parts.append(text)
    below = Markup("<text x='{}' y='{}' text-anchor='middle'>{}</text>").format(WIDE / 2, TALL + BELOW - 6, axis)
    return Markup(
        "<svg viewBox='0 0 {} {}' role='img' aria-label='{}' font-size='11' fill='currentColor' "
        "style='width: 100%; max-width: 34rem'>{}{}</svg>"
    ).format(WIDE, TALL + BELOW, escape(title), Markup("").join(parts), below)


# --- Tables that can be browsed ---------------------------------------------------------------------------------------


def columns_of(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """The columns of a table's rows.

    Raises:
        InputError: there are no rows.
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
    """Rows as an HTML table that is sorted by a click and searched, a page of rows at a time.

    Args:
        rows: column → value; a `Path` is a picture or a recording.
        page, sort, descending, beside: as in `explore.browse`.
        limit: bytes of pictures and recordings, at most, that the table carries itself.

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
    heads = "".join(_head(name, [row[name] for row in rows], sort, descending) for name in columns)
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(_cell(name, value, str(row[columns[0]]), address) for name, value in row.items())
        lines.append(f"<tr{' hidden' if number >= page else ''}>{cells}</tr>")
    # A digest, not a random number: the same table makes the same output.
    name = "table-" + hashlib.sha256("".join(lines).encode()).hexdigest()[:8]
    replaced = {"NAME": name, "PAGE": str(page), "HEADS": heads, "ROWS": "\n".join(lines)}
    text = _BROWSER
    for key, value in replaced.items():
        text = text.replace(f"@{key}@", value)
    return text


class _Addresses:
    """Where a notebook finds a file: by a relative link, or in itself."""

    def __init__(self, beside: Path | None, limit: int):
        self.beside, self.left = beside, limit

    def __call__(self, path: Path) -> str | None:
        path = path.absolute()
        if self.beside and path.is_relative_to(Path.cwd()) and "google.colab" not in sys.modules:
            return quote(Path(os.path.relpath(path, self.beside)).as_posix())
        size = path.stat().st_size
        if size > self.left:
            return None
        self.left -= size
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _head(name: str, values: Sequence[object], sort: str, descending: bool) -> str:
    if any(isinstance(value, Path) for value in values):
        return f"<th>{html.escape(name)}</th>"
    number = all(value is None or isinstance(value, int | float) for value in values)
    order = ("descending" if descending else "ascending") if name == sort else "none"
    kind = "number" if number else "text"
    return f'<th aria-sort="{order}" data-kind="{kind}"><button>{html.escape(name)}</button></th>'


def _cell(column: str, value: object, of: str, address: _Addresses) -> str:
    if value is None:
        return "<td></td>"
    if not isinstance(value, Path):
        return f"<td>{html.escape(str(value))}</td>"
    source = address(value)
    if source is None:
        return "<td>(too large to be carried along)</td>"
    label = html.escape(f"{column}, {of}")
    if value.suffix == ".png":
        picture = f'<img loading="lazy" src="{source}" alt="{label}">'
        return f'<td><button class="picture" title="larger, smaller">{picture}</button></td>'
    return f'<td><audio controls preload="none" src="{source}" aria-label="{label}"></audio></td>'


_BROWSER = """<div id="@NAME@" style="overflow-x: auto">
<style>
#@NAME@ table { border-collapse: collapse; width: 100%; table-layout: auto }
#@NAME@ td, #@NAME@ th { padding: 3px 8px; text-align: left; vertical-align: middle; border-bottom: 1px solid #8884 }
#@NAME@ td:first-child { overflow-wrap: anywhere }
#@NAME@ tr[hidden] { display: none }
#@NAME@ th button { font: inherit; font-weight: bold; color: inherit; background: none; border: 0; cursor: pointer }
#@NAME@ th[aria-sort=ascending] button::after { content: " ▲" }
#@NAME@ th[aria-sort=descending] button::after { content: " ▼" }
#@NAME@ .picture { background: none; border: 0; padding: 0; cursor: zoom-in }
#@NAME@ img { max-height: 80px; max-width: 240px }
#@NAME@ .large img { max-height: none; max-width: none }
#@NAME@ audio { width: 190px; height: 34px }
</style>
<p><input type="search" placeholder="find" aria-label="find rows">
<button class="back">‹ back</button> <span role="status"></span> <button class="on">on ›</button></p>
<table><thead><tr>@HEADS@</tr></thead>
<tbody>
@ROWS@
</tbody></table>
<script>
(() => {
  const root = document.getElementById("@NAME@"), page = @PAGE@;
  const body = root.querySelector("tbody"), heads = [...root.querySelectorAll("th")];
  const all = [...body.rows], said = root.querySelector("[role=status]"), find = root.querySelector("input");
  let rows = all, first = 0;
  const show = () => {
    all.forEach(row => { row.hidden = true; });
    rows.slice(first, first + page).forEach(row => { row.hidden = false; });
    all.filter(row => row.hidden).forEach(row => row.querySelectorAll("audio").forEach(player => player.pause()));
    const last = Math.min(first + page, rows.length);
    said.textContent = rows.length ? `${first + 1} to ${last} of ${rows.length}` : "none";
    root.querySelector(".back").disabled = first === 0;
    root.querySelector(".on").disabled = last === rows.length;
  };
  const choose = () => {
    const wanted = find.value.toLowerCase();
    rows = [...body.rows].filter(row => row.textContent.toLowerCase().includes(wanted));
    first = 0;
    show();
  };
  const sort = (head, column) => {
    const down = head.getAttribute("aria-sort") === "ascending", number = head.dataset.kind === "number";
    heads.forEach(one => one.hasAttribute("aria-sort") && one.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[column].textContent;
    const order = number ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
    all.sort((one, other) => {
      const a = value(one), b = value(other);
      return a === "" || b === "" ? (a === "") - (b === "") : (down ? order(b, a) : order(a, b));
    });
    body.append(...all);
    choose();
  };
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => sort(head, column)));
  root.querySelectorAll(".picture").forEach(one => one.addEventListener("click", () => one.classList.toggle("large")));
  root.querySelector(".back").addEventListener("click", () => { first = Math.max(0, first - page); show(); });
  root.querySelector(".on").addEventListener("click", () => { first += page; show(); });
  find.addEventListener("input", choose);
  show();
})();
</script>
</div>"""
