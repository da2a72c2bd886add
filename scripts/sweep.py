#!/usr/bin/env python3
"""Search for the best hyperparameters, as one of W&B's sweep files says."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(
    file: Annotated[Path, typer.Argument(help="A sweep file, as W&B takes it.", metavar="SWEEP.yaml")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides of the training config: key=value.", metavar="[KEY=VALUE]..."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Trials, finished ones included; by default run_cap, or the whole grid.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work on it side by side.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the store has, or help there.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed draws the same trials (one worker).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and print what would be tried.")] = False,
    objective: Annotated[
        str | None,
        typer.Option(help="Optimise this instead of a training; it is called with (config, report).", metavar="M:F"),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="The sweep's folder; by default runs/sweeps/ and the file's name.")
    ] = None,
    join: Annotated[
        str | None, typer.Option(help="With an account: help with the sweep of this id.", metavar="[ENTITY/PROJECT/]ID")
    ] = None,
    config_path: Annotated[Path, typer.Option(help="The folder of the training config.")] = CONFIGS,
    config_name: Annotated[str, typer.Option(help="The training config's name.")] = "config",
) -> None:
    """Search for the best hyperparameters, as one of W&B's sweep files says.

    With an account, W&B's server chooses each trial, and other machines help with --join. With none, Optuna does, in a
    store on this machine or on a shared folder: there --count says how many trials the store shall have, and the same
    command with --resume goes on, or helps from another machine. At the end the store (online, runs/sweeps/ID) has the
    best config as best.yaml, a table, and pictures.

    Any dotted key of the training config can be a parameter, and so can lr, epoch and dropout (of the last block).
    A function of your own, --objective MODULE:FUNCTION, is called with the config and with report(metrics, step);
    it may return the final metrics.

    Examples:

        python scripts/sweep.py configs/sweep.yaml --dry-run

        python scripts/sweep.py configs/sweep_bayes.yaml --count 20 --workers 2 data_dir=data/synthetic

        python scripts/sweep.py configs/sweep.yaml --count 5 --join ENTITY/PROJECT/ID

        python scripts/train.py --config-path runs/sweeps/sweep_bayes --config-name best
    """
    from asr_with_nemo.sweeps.run import FOLDER, run_sweep
    from asr_with_nemo.sweeps.space import load_sweep, preview_trials
    from asr_with_nemo.sweeps.workers import SweepJob
    from asr_with_nemo.tracking.session import configure_wandb

    sweep = load_sweep(file)
    if dry_run:
        for config in preview_trials(sweep, count or sweep.run_cap or 5, seed):
            print(json.dumps(config))
        if sweep.note:
            print(sweep.note, file=sys.stderr)
        return
    if configure_wandb() == "online":
        for option, given in (("--workers", workers > 1), ("--resume", resume), ("--seed", seed is not None)):
            if given:
                raise InputError(f"{option}: W&B's server rules this sweep; see --join, or set WANDB_MODE=offline")
    folder = store or FOLDER / file.stem
    job = SweepJob(sweep, folder, objective, (str(config_path), config_name, tuple(overrides or ())))
    results = run_sweep(job, count, workers, resume, seed, join)
    print(results)
    for path in results.files:
        print(f"wrote {path}")


if __name__ == "__main__":
    run(main)
