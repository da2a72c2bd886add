"""The sweeps' tests, and scripts/sweep.py called in their own process."""

import csv
import importlib.util
import io
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import typer
from typer.testing import CliRunner, Result

from tests.conftest import ROOT


def invoke(*arguments: str | Path) -> Result:
    """Call scripts/sweep.py in this process; an `InputError` is the result's `exception`."""
    spec = importlib.util.spec_from_file_location("sweep_script", ROOT / "scripts" / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    return CliRunner().invoke(app, [*map(str, arguments)])


DIARY = """
import os, time

def diary(config, report):
    with open("started", "a") as file:
        file.write(f"{config['x']}\\n")
    with open("started") as file:
        number = len(file.readlines())
    while not os.path.exists("go") and not os.path.exists(f"go-{number}"):  # a trial lasts until the test lets it end
        time.sleep(0.02)
    for epoch in range(1, 9):
        report({"loss": config["x"] ** 2 + 1 / epoch}, epoch)
    with open("finished", "a") as file:
        file.write(f"{config['x']}\\n")
"""


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def start(cwd: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start scripts/sweep.py."""
    return subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "scripts/sweep.py"), *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a terminal, even where the tests run in the background of a shell, which ignores Ctrl-C for them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def lines_until(process: subprocess.Popen[str], pattern: str) -> tuple[list[str], re.Match[str]]:
    lines = []
    for line in process.stdout:
        lines.append(line)
        match = re.search(pattern, line)
        if match:
            return lines, match
    raise AssertionError(f"never said {pattern!r}:\n{''.join(lines)}")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text(encoding="utf-8"))))
