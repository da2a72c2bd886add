"""Commands that a command starts."""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from functools import partial

from asr_with_nemo.errors import InputError


def run_command(command: Sequence[str], say: Callable[[str], object] = partial(print, flush=True)) -> list[str]:
    """Run a command, pass each line of its output on as it comes, and return the lines.

    Raises:
        InputError: the command failed.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        say(f"    {lines[-1]}")
    if process.wait():
        raise InputError(f"{shlex.join(command[1:])} failed; see its output above")
    return lines
