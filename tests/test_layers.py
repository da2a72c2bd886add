"""The layout of the package: imports go one way, no module is too long, and no function either."""

import ast
from pathlib import Path

import pytest
from importlinter import cli

from tests.conftest import ROOT

MODULES = sorted((ROOT / "src" / "asr_with_nemo").rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 620, 80
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
