#!/usr/bin/env python3
"""Send offline runs to W&B."""

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
        Path | None, typer.Argument(help="W&B's folder of the project; by default `wandb`, or the one in WANDB_DIR.")
    ] = None,
) -> None:
    """Send offline runs to W&B, and online runs that lost their server before they ended.

    Each run is sent once, with metrics, config, tables with their media, and model artifacts. It needs an API key
    (`wandb login`, or WANDB_API_KEY). If a run can't be sent, it is named, the others are sent, and the exit status
    is 1.

    Examples:

        python scripts/sync.py

        python scripts/sync.py ../other-project/wandb
    """
    result = send_runs(folder or Path(os.environ.get("WANDB_DIR", "."), WANDB_FOLDER))
    typer.echo(result)
    if result.failed:
        raise InputError(f"{len(result.failed)} runs were not sent; fix the causes named above and run it again")


if __name__ == "__main__":
    run(main)
