"""What the tests of sweeps have in common."""

import itertools
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a sweep file; by default, one that looks for the best x at random."""

    def write(text: str = "", name: str = "sweep.yaml", **changes: object) -> Path:
        config = {
            "method": "random",
            "metric": {"name": "loss", "goal": "minimize"},
            "parameters": {"x": {"min": -1.0, "max": 1.0}},
        }
        path = tmp_path / name
        path.write_text(textwrap.dedent(text) if text else OmegaConf.to_yaml(config | changes), encoding="utf-8")
        return path

    return write


@pytest.fixture
def objective(tmp_path: Path) -> Callable[[str], str]:
    """Writes a module of the user's and gives MODULE: back; each has a name of its own, since imports are kept."""
    numbers = itertools.count()

    def write(source: str) -> str:
        name = f"objective_{abs(hash(tmp_path))}_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        return name

    return write


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:
    """Those in it are ended with the test."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
