#!/usr/bin/env python3
"""Draw the package's folders and the imports between them: docs/imports.svg, which CONTRIBUTING.md shows."""

import tomllib
from html import escape
from pathlib import Path
from typing import Annotated

import grimp
import typer

from asr_with_nemo import cli
from asr_with_nemo.base.files import write_if_changed

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "asr_with_nemo"
WIDTH, BOX, HEIGHT, ROW, GAP = 760, 120, 36, 84, 36  # pixels
STYLE = """
    rect { fill: #eef3f9; stroke: #3b6ea5 } text { font: 15px system-ui, sans-serif; fill: #1b1d21 }
    path { fill: none; stroke: #3b6ea5; stroke-opacity: 0.55 } marker path { fill: #3b6ea5 }
    @media (prefers-color-scheme: dark) { rect { fill: #22303f; stroke: #7aa7d6 } text { fill: #e4e6ea }
      path { stroke: #7aa7d6 } marker path { fill: #7aa7d6 } }
"""


def layers() -> list[list[str]]:
    """The folders by layer, the top one first, from the contract in pyproject.toml that a test enforces."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    found = next(contract for contract in contracts if contract["type"] == "layers")["layers"]
    return [[name.strip() for name in layer.split("|")] for layer in found]


def imports() -> set[tuple[str, str]]:
    """Which folder imports which, as (importer, imported), without those that a longer chain of imports implies."""
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    graph = {
        name: {
            imported.split(".")[1]
            for module in {f"{PACKAGE}.{name}", *graph.find_descendants(f"{PACKAGE}.{name}")}
            for imported in graph.find_modules_directly_imported_by(module)
            if "." in imported
        }
        - {name}
        for name in (name for layer in layers() for name in layer)
    }

    def reached(name: str) -> set[str]:
        return graph[name].union(*(reached(other) for other in graph[name]))

    return {
        (importer, imported)
        for importer, found in graph.items()
        for imported in found
        if not any(imported in reached(other) for other in found - {imported})
    }


def draw() -> str:
    """The picture as SVG. Arrows point from the importing folder to the imported one."""
    rows = layers()
    places = {}
    for depth, row in enumerate(rows):
        left = (WIDTH - len(row) * BOX - (len(row) - 1) * GAP) / 2
        places |= {name: (left + number * (BOX + GAP), 10 + depth * ROW) for number, name in enumerate(row)}
    height = 20 + (len(rows) - 1) * ROW + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The folders of the package; an arrow points from a folder to one that it imports, always down</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
    ]
    for importer, imported in sorted(imports()):
        if importer in places and imported in places:
            (x, y), (u, v) = places[importer], places[imported]
            start, end = f"{x + BOX / 2:g} {y + HEIGHT:g}", f"{u + BOX / 2:g} {v - 1:g}"
            bend = f"{x + BOX / 2:g} {y + HEIGHT + 30:g} {u + BOX / 2:g} {v - 30:g}"
            parts.append(f'<path d="M{start} C{bend} {end}" marker-end="url(#head)"/>')
    for name, (x, y) in places.items():
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="6"/>')
        parts.append(f'<text x="{x + BOX / 2:g}" y="{y + 23:g}" text-anchor="middle">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(
    output: Annotated[Path, typer.Argument(help="The picture to write.", metavar="FILE.svg")] = ROOT
    / "docs"
    / "imports.svg",
) -> None:
    """Draw the package's folders and the imports between them.

    Example:

        python scripts/tools/draw_imports.py
    """
    write_if_changed(output, draw())
    print(output)


if __name__ == "__main__":
    cli.run(main)
