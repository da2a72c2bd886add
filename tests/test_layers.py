"""The layout of the package: imports go one way, no module is too long, and no function either."""

import ast
import subprocess
from pathlib import Path

import pytest
from importlinter import cli

from tests.conftest import ROOT, run_script

MODULES = sorted((ROOT / "src" / "asr_with_nemo").rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 600, 80
LONG_FUNCTIONS = {
    "create_app": "FastAPI's routes are closures over the service",
}
"""Functions that may be longer, and why."""


def test_imports_go_one_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The contracts stand in pyproject.toml."""
    monkeypatch.chdir(ROOT)
    assert cli.lint_imports(no_cache=True) == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_no_module_and_no_function_is_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in LONG_FUNCTIONS:
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name


def test_the_picture_of_the_imports_is_up_to_date(tmp_path: Path) -> None:
    """After a change: python scripts/tools/draw_imports.py."""
    done = run_script("tools/draw_imports.py", tmp_path / "imports.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imports.svg").read_text() == (ROOT / "docs" / "imports.svg").read_text()
    assert "docs/imports.svg" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_readme_and_contributing_list_the_rooms() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder in (ROOT / "src" / "asr_with_nemo").iterdir():
        if (folder / "__init__.py").is_file():
            assert f"`{folder.name}/`" in contributing
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    tops = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = readme.partition("## What is where")[2].partition("```\n")[2].partition("```")[0]
    assert all(f"{top}/" in listed for top in tops)
