"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "src"
MODULES = [
    path for path in sorted((SOURCE / "asr_with_nemo").rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    examples = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    for test in examples:
        runner.run(test, out=report.append)
    assert examples, f"{path}: has >>>, but no docstring with an example"
    assert not runner.failures, "".join(report)
