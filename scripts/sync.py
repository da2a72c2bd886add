#!/usr/bin/env python3
"""Send W&B what was kept on this machine while it could not be reached."""

import os
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.session import WANDB_FOLDER
from asr_with_nemo.tracking.sync import send_runs


def main(
    folder: Annotated[
        Path | None, typer.Argument(help="W&B's folder of the project; by default `wandb`, or that in WANDB_DIR.")
    ] = None,
) -> None:
    """Send W&B what was kept on this machine while it could not be reached.

    Each run goes once: runs that were offline, and online ones whose server went away before they ended. Metrics,
    config, tables with their media, and model artifacts go along. It needs a key (`wandb login`, or WANDB_API_KEY).
    A run that can't be sent is named, the others are sent, and the exit status is 1.

    Examples:

        python scripts/sync.py

        python scripts/sync.py ../other-project/wandb
    """
    result = send_runs(folder or Path(os.environ.get("WANDB_DIR", "."), WANDB_FOLDER))
    typer.echo(result)
    if result.failed:
        raise InputError(f"{len(result.failed)} runs were not sent; they are named above")


if __name__ == "__main__":
    run(main)
