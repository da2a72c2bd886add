#!/usr/bin/env python3
"""List every table and figure of the notebooks with the sentence that says what it shows."""

import re
from pathlib import Path
from typing import Annotated

import nbformat
import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.teaching import frame

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def kind_of(cell: nbformat.NotebookNode) -> str:
    """Return what a code cell shows: a figure, a table, an interactive piece, text, or "" for nothing."""
    found = ""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        html = str(data.get("text/html", ""))
        if "asr-piece" in html:
            return "interactive"
        if "image/png" in data or "image/svg+xml" in data:
            return "figure"
        if "<table" in html:
            return "table"
        if output.get("text") or "text/plain" in data:
            found = "text"
    return found


def first_words(markdown: str) -> str:
    """Return the first paragraph that isn't a heading, on one line."""
    for paragraph in re.split(r"\n\s*\n", markdown):
        lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
        if lines:
            return " ".join(lines)
    return ""


def main(
    only: Annotated[
        list[str] | None, typer.Option(help="Only this notebook, say 02_features; may be repeated.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="List cells that print text, too.")] = False,
) -> None:
    """List every table and figure of the notebooks: notebook, cell, kind, and the sentence behind it.

    Whoever changes a notebook reads each sentence against its output. The exit status is 1 if a table or figure has no
    sentence behind it.

    Example:

        python scripts/tools/list_exhibits.py --only 02_features
    """
    without = []
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        if only and path.stem not in only:
            continue
        cells = nbformat.read(path, as_version=4).cells
        for place, cell in enumerate(cells):
            kind = kind_of(cell) if cell.cell_type == "code" else ""
            if not kind or (kind == "text" and not text):
                continue
            # A second picture or a few numbers may come before the sentence that is about both.
            following = next((one for one in cells[place + 1 : place + 4] if one.cell_type == "markdown"), None)
            said = following is not None and not frame.is_written_here(following)
            sentence = first_words(following.source) if said and not following.source.startswith("#") else ""
            print(f"{path.stem}\t{place}\t{kind}\t{sentence}")
            if not sentence and kind != "text":
                without.append(f"{path.stem} {place}")
    if without:
        raise InputError(f"nothing says what is shown in {', '.join(without)}")


if __name__ == "__main__":
    run(main)
