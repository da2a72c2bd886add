"""What every notebook of the course has: goals, links, recap, questions with answers, tasks, terms that are defined."""

import contextlib
import io
import os
import re
from pathlib import Path

import nbformat
import pytest

from asr_with_nemo.teaching import frame, glossary
from tests.conftest import ROOT, run_script
from tests.notebooks.test_notebooks import run_notebooks

COURSE = run_notebooks.course()
FORBIDDEN = re.compile(r"-dirty|has no results|holds this very training|finished on|is not here")


def sources(notebook: nbformat.NotebookNode, kind: str = "markdown") -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


@pytest.fixture(params=COURSE)
def notebook(request) -> nbformat.NotebookNode:
    read = nbformat.read(ROOT / "notebooks" / request.param, as_version=4)
    read.name = request.param
    return read


def test_the_chain_of_links_passes_through_all(monkeypatch: pytest.MonkeyPatch):
    name, seen = COURSE[0], [COURSE[0]]
    while True:
        last = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells[-1]
        assert frame.CHAIN in last.metadata.tags
        if name != COURSE[0]:
            assert f"**Previous:** [{Path(seen[-2]).stem}]({seen[-2]})" in last.source
        following = re.search(r"\*\*Next:\*\* \[\w+\]\((\w+\.ipynb)\)", last.source)
        if following is None:
            break
        name = following.group(1)
        seen.append(name)
    assert seen == COURSE


def test_it_begins_with_its_goals(notebook):
    opening = notebook.cells[0].source
    number = int(notebook.name[:2])
    assert opening.startswith(f"# {number} · ")
    goals = opening.partition("**You will learn**")[2]
    assert 3 <= len(re.findall(r"^- ", goals, re.MULTILINE)) <= 5
    assert "**You need**" in opening
    assert notebook.metadata.asr_with_nemo.minutes <= 5.4
    assert "**Time:** about" in notebook.cells[1].source


def test_it_ends_with_a_recap_questions_and_tasks(notebook):
    text = "\n".join(sources(notebook))
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[-3:] == ["Recap", "Questions", "Tasks"]
    recap = re.search(r"^## Recap\n+(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL).group(1)
    assert len(re.findall(r"^- ", recap, re.MULTILINE)) == 3
    questions = re.findall(r"<details>\s*<summary>(.+?)</summary>(.+?)</details>", text, re.DOTALL)
    assert 4 <= len(questions) <= 6
    assert all(question.strip().endswith("?") and len(answer.strip()) > 40 for question, answer in questions)
    checks = re.findall(r"^check\(\"(\w+) (\d)\"", "\n".join(sources(notebook, "code")), re.MULTILINE)
    assert checks == [(Path(notebook.name).stem, "1"), (Path(notebook.name).stem, "2")]


def test_a_term_is_defined_or_linked_where_it_first_stands(notebook):
    own = [cell for cell in notebook.cells if cell.cell_type == "markdown" and not frame.is_written_here(cell)]
    text = "\n\n".join(cell.source for cell in own)
    text = re.sub(r"```.*?```|`[^`]*`|<[^>]*>|\$\$?.*?\$\$?", " ", text, flags=re.DOTALL)  # code, tags, formulas
    stem = Path(notebook.name).stem
    for term in glossary.terms():
        if term.notebook == stem:
            bold = [span for span in re.findall(r"\*\*(.+?)\*\*", text) if term.pattern.search(span)]
            assert bold, f"{stem} introduces {term.name}, but it doesn't stand there in bold"
        elif stem < term.notebook and not term.everyday:
            first = term.pattern.search(re.sub(r"(?<=\])\([^)]*\.ipynb\)", "(notebook)", text))
            if first:
                links = re.findall(r"\[([^\]]+)\]\((?:00_start\.ipynb)?#Glossary\)", text)
                said = f"{stem} says {first.group()!r} before {term.notebook} introduces it"
                assert any(term.pattern.search(link) for link in links), f"{said}: link to 00_start.ipynb#Glossary"


def test_outputs_say_nothing_of_earlier_runs(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert not FORBIDDEN.search(shown), f"{notebook.name}: {shown[:300]}"


def test_no_heading_or_sentence_stands_without_its_exhibit(notebook):
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "markdown" and before.cell_type == "markdown":
            assert not re.match(r"#+ .+$", before.source.strip().rsplit("\n", 1)[-1]), (
                f"{before.source!r}: nothing below"
            )


def test_a_sentence_says_what_each_table_or_figure_shows():
    names = [Path(name).stem for name in COURSE]
    options = [word for name in names for word in ("--only", name)]
    done = run_script("tools/list_exhibits.py", *options, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_lines_of_code_are_few(notebook):
    counts = sorted(
        sum(bool(line.strip()) for line in cell.source.splitlines())
        for cell in notebook.cells
        if cell.cell_type == "code" and not frame.is_written_here(cell)
    )
    assert counts[-1] <= 13
    assert counts[len(counts) // 2] <= 6


@pytest.mark.slow
def test_the_solutions_pass_the_checks(notebook, tmp_path: Path, small_corpus, monkeypatch: pytest.MonkeyPatch):
    path = ROOT / "notebooks" / "solutions" / notebook.name
    solution = nbformat.read(path, as_version=4)
    monkeypatch.chdir(ROOT)
    said = io.StringIO()
    scope: dict = {"data_dir": str(small_corpus.folder.parent)}
    with contextlib.redirect_stdout(said):
        for cell in solution.cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, str(path), "exec"), scope)
    assert "Task 1: right." in said.getvalue(), said.getvalue()
    assert "Task 2: right." in said.getvalue(), said.getvalue()
    assert "not yet" not in said.getvalue()
    os.chdir(ROOT)


@pytest.mark.parametrize("term", glossary.terms(), ids=lambda term: term.name)
def test_the_glossary_says_what_a_term_means_and_where_it_stands(term: glossary.Term):
    assert f"{term.notebook}.ipynb" in COURSE or not (ROOT / "notebooks" / "05_ctc.ipynb").is_file()
    assert term.meaning.endswith(".")
