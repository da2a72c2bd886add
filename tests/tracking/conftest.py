"""Commands of the course in this process: most tests here are about what a command does, not about its process."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from asr_with_nemo.tracking import session
from tests.conftest import ROOT

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """A function with the arguments of `run_script` that runs the command in this process."""

    def call(name: str, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        command = [str(ROOT / "scripts" / name), *map(str, arguments)]
        capsys.readouterr()
        with monkeypatch.context() as patch, mock.patch.dict(os.environ, kept | environment, clear=True):
            patch.setattr(session, "_chosen", None)
            patch.setattr(session, "keep_artifacts", lambda: None)  # it would stay for the other tests of this process
            patch.setattr(sys, "argv", command)
            patch.chdir(cwd)
            status = 0
            try:
                runpy.run_path(command[0], run_name="__main__")
            except SystemExit as end:
                status = end.code or 0
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(command, status, printed.out, printed.err)

    return call
