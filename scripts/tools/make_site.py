#!/usr/bin/env python3
"""Build the course's pages, build/site, from the committed notebooks; nothing is executed."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import nbformat
import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.places.repository import repository_url
from asr_with_nemo.teaching import frame

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "docs" / "site"
TEXTS = {
    "README.md": "index.md",
    "docs/article.md": "docs/article.md",
    "RESULTS.md": "RESULTS.md",
    "src/asr_with_nemo/assets/README.md": "src/asr_with_nemo/assets/README.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
"""Texts of the repository beside the notebooks → where they are on the site; README is its first page."""

_BADGE = re.compile(r"\[!\[([^\]]*)\]\([^)]*\)\]\(([^)]*)\)")
_TARGET = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, str]:
    """Return what becomes a page: path in the repository → path in the site's source."""
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    solutions = sorted((ROOT / "notebooks" / "solutions").glob("[0-9][0-9]_*.ipynb"))
    found = {name: place for name, place in TEXTS.items() if (ROOT / name).is_file()}
    return found | {(name := path.relative_to(ROOT).as_posix()): name for path in (*notebooks, *solutions)}


class Stage:
    """Copies texts and notebooks for Sphinx, with their links led to the site's pages, or else to the repository."""

    def __init__(self, target: Path, repository: str):
        self.target = target
        self.repository = repository
        self.pages = pages()
        self.broken: list[str] = []

    def place(self) -> None:
        """Write all pages and the pictures that they show.

        Raises:
            InputError: a link leads nowhere.
        """
        shutil.rmtree(self.target, ignore_errors=True)
        for source, place in self.pages.items():
            target = self.target / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.endswith(".ipynb"):
                nbformat.write(self._notebook(source), target)
            else:
                text = self._text((ROOT / source).read_text(encoding="utf-8"), source)
                target.write_text(text + (self._contents() if place == "index.md" else ""), encoding="utf-8")
        if self.broken:
            raise InputError("links that lead nowhere:\n  " + "\n  ".join(self.broken))

    def _notebook(self, source: str) -> nbformat.NotebookNode:
        notebook = nbformat.read(ROOT / source, as_version=4)
        notebook.metadata.setdefault("language_info", {"name": "python"})  # by which code is coloured
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self._text(cell.source, source)
            elif frame.PLACES in cell.metadata.get("tags", []):
                cell.metadata.tags = [*cell.metadata.tags, "remove-cell"]  # of use on Colab and Kaggle only
            if cell.source == "":
                cell.metadata.tags = ["remove-cell"]
        return notebook

    def _text(self, text: str, source: str) -> str:
        """Return Markdown with its badges as plain links and its links as the site needs them; code stays."""
        parts = _CODE.split(text)
        for index in range(0, len(parts), 2):
            plain = _BADGE.sub(r"[\1](\2)", parts[index])
            parts[index] = _TARGET.sub(lambda found: f"]({self._link(found[2], source)})", plain)
        return "".join(parts)

    def _link(self, link: str, source: str) -> str:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return link
        anchor = f"#{slug(unquote(parts.fragment))}" if parts.fragment else ""
        if not parts.path:
            return anchor
        path = Path(os.path.normpath(ROOT / source / ".." / unquote(parts.path)))
        if not path.exists() or not path.is_relative_to(ROOT):
            self.broken.append(f"{source}: {link}")
            return link
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in {".png", ".svg"}:
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, self.target / name)
        elif name not in self.pages:
            return f"{self.repository}/{'tree' if path.is_dir() else 'blob'}/main/{name}{anchor}"
        here = Path(self.pages[source]).parent
        return os.path.relpath(self.pages.get(name, name), here) + anchor

    def _contents(self) -> str:
        """Return the tables of contents that Sphinx makes the sidebar of."""
        names = [place for place in self.pages.values() if place != "index.md"]
        groups = {
            "The course": [name for name in names if re.fullmatch(r"notebooks/\w+\.ipynb", name)],
            "More": [name for name in names if name.endswith(".md")],
            "Solutions": [name for name in names if name.startswith("notebooks/solutions/")],
        }
        text = ""
        for caption, entries in groups.items():
            if entries:
                lines = (f"{Path(name).stem} <{name}>" if caption == "Solutions" else name for name in entries)
                text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(lines) + "\n```\n"
        return text


def slug(heading: str) -> str:
    """Return a heading's anchor, as the code host makes it; an anchor of Jupyter's gives the same.

    Example:
        >>> slug("CTC: paths and blanks") == slug("CTC:-paths-and-blanks")
        True
    """
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def copy_mathjax(static: Path) -> None:
    """Copy MathJax, which sets the formulas, with its fonts, so that no page asks another host for it.

    Raises:
        InputError: the package that brings its files isn't installed.
    """
    spec = importlib.util.find_spec("mathjax")  # of django-static-mathjax, which is nothing but MathJax's files
    if spec is None or not spec.submodule_search_locations:
        raise InputError("MathJax's files are not here; make setup installs requirements-dev.txt")
    files = Path(spec.submodule_search_locations[0], "static", "mathjax")
    for name in ("es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2", "es5/input/tex/extensions", "LICENSE"):
        target = static / "mathjax" / name.removeprefix("es5/")
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (files / name).is_dir() else shutil.copy2)(files / name, target)


def weights(site: Path) -> dict[str, int]:
    """Return what each page weighs in bytes, with the files that it loads from the site."""
    found = {}
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:img|script|link)\b[^>]*?(?:src|href)="([^"#?:]+)[^"]*"', text)
        files = {(page.parent / unquote(name)).resolve() for name in loaded}
        size = sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".html")
        found[page.relative_to(site).as_posix()] = page.stat().st_size + size
    return found


def main(
    output: Annotated[Path, typer.Option(help="Where the pages go.")] = ROOT / "build" / "site",
    fresh: Annotated[bool, typer.Option(help="Build all pages again, not only those that changed.")] = True,
) -> None:
    """Build the course's pages: the notebooks with their outputs, their solutions, the texts; nothing is executed.

    A link that leads nowhere and a picture without alt text are errors.
    """
    started = time.perf_counter()
    output = output.absolute()
    source = output.with_name(f"{output.name}-source")
    Stage(source, repository_url().rstrip("/")).place()
    shutil.copytree(SETTINGS, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    copy_mathjax(source / "static")
    if fresh:
        shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going", "-j", "auto"]
    environment = os.environ | {"COURSE_REPOSITORY": repository_url().rstrip("/")}
    cache = output.with_name(f"{output.name}-cache")
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    done = subprocess.run([*command, "-d", cache, source, output], env=environment)
    if done.returncode:
        raise InputError("Sphinx found what stands above; mend it in the notebook or text that it names")
    (output / ".nojekyll").touch()  # GitHub Pages then serves folders whose names begin with an underscore
    static = output / "_static"
    for left_over in (*static.rglob("*.js.map"), *static.glob("*.html")):  # of use to the theme's developers only
        left_over.unlink()
    heavy = weights(output)
    largest = max(heavy, key=heavy.__getitem__)
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{len(heavy)} pages in {output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output}")
    print(f"{total / 1e6:.1f} MB together; the largest page with all that it loads, {largest}: ", end="")
    print(f"{heavy[largest] / 1e6:.1f} MB; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    run(main)
