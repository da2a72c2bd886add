"""What every script of the course does at its edge: parse the command line, and say what is wrong in plain words."""

import os
import sys
from collections.abc import Callable

import typer

from asr_with_nemo.errors import InputError


def run(main: Callable[..., None]) -> None:
    """Run a script's `main` with Typer; an `InputError` is printed without a traceback and exits with 1."""
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
