"""The sweeps' tests, and scripts/sweep.py called in their own process."""

import importlib.util
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
