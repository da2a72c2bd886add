"""Commands in the test's own process, for errors that come before any model is loaded."""

import contextlib
import io
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.conftest import ROOT


def error_of(name: str, *arguments: str | Path) -> str:
    """Run a command that is to fail, in the current folder, and return what it prints on stderr."""
    script, stderr = ROOT / "scripts" / name, io.StringIO()
    with (
        mock.patch.object(sys, "argv", [str(script), *map(str, arguments)]),
        contextlib.redirect_stderr(stderr),
        pytest.raises(SystemExit) as ended,
    ):
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 1
    return stderr.getvalue()
