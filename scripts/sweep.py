#!/usr/bin/env python3
"""Search for the best hyperparameters by a W&B sweep file."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(
    file: Annotated[
        Path, typer.Argument(help="A W&B sweep file: method, metric and parameters.", metavar="SWEEP.yaml")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides of the training config, for all trials.", metavar="[KEY=VALUE]..."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of trials; offline, those already in the store included. By default the file's run_cap, or "
            "the whole grid; without either it is required.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Offline: number of processes that run trials in parallel.")] = 1,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Offline: continue the sweep in the store, also while other workers run it."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Offline: the same seed samples the same trials, with one worker.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the file, print the configs of --count trials (by default run_cap, or 5), and stop.",
        ),
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Optimize this Python function, called with (config, report), instead of training a model.",
            metavar="MODULE:FUNCTION",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Offline: folder for the trials and results; by default runs/sweeps/ and the file's name."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="OPTUNA_STORAGE",
            help="Offline: the database in which machines without a shared folder meet; postgresql://..., mysql://... "
            "or sqlite:///FILE. The study has the name of the folder --store, which then has the results alone.",
            metavar="URL",
        ),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            help="With a W&B account: run trials of the existing sweep with this id.", metavar="[ENTITY/PROJECT/]ID"
        ),
    ] = None,
    config_path: Annotated[Path, typer.Option(help="Folder of the training config.")] = CONFIGS,
    config_name: Annotated[str, typer.Option(help="Name of the training config, without .yaml.")] = "config",
) -> None:
    """Search for the best hyperparameters by a W&B sweep file.

    Each trial trains a model with the values that were sampled for it. Any dotted key of the training config can be a
    parameter, and so can lr, epoch (or epochs), and dropout, that of the encoder's last block.

    With a W&B account (WANDB_API_KEY or `wandb login`), W&B's server chooses the trials, and other machines join with
    --join. Without one, Optuna does, in a store: a folder on this machine or a shared one, or a database (--storage; a
    password is better kept in OPTUNA_STORAGE than on the command line). To continue a sweep, or to join it from another
    machine that sees the folder or the database, run the same command with --resume.

    The results are in the store (with an account, in runs/sweeps/ID): best.yaml, the best trial's config; trials.csv,
    a table; and plots. Optuna's own dashboard (pip install optuna-dashboard) shows a sweep without an account while it
    runs. It opens trials.journal of the store's folder, or the URL of --storage, MySQL's with its driver.

    With --objective, a trial calls your function instead, with its config (a dict) and report(metrics, step), to be
    called after each epoch or so; it may return the final metrics as a dict.

    Examples:

        python scripts/sweep.py configs/sweep.yaml --dry-run

        python scripts/sweep.py configs/sweep_bayes.yaml --count 20 --workers 2 data_dir=data/synthetic

        python scripts/sweep.py configs/sweep_bayes.yaml --count 40 --resume data_dir=data/synthetic

        python scripts/sweep.py configs/sweep_bayes.yaml --count 40 --resume --storage postgresql://me@db/sweeps

        optuna-dashboard runs/sweeps/sweep_bayes/trials.journal

        optuna-dashboard mysql+pymysql://me@db/sweeps

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
        for option, given in (
            ("--workers", workers > 1),
            ("--resume", resume),
            ("--seed", seed is not None),
            ("--storage", storage is not None),
        ):
            if given:
                raise InputError(f"{option}: not available with W&B's server; use --join, or set WANDB_MODE=offline")
    folder = store or FOLDER / file.stem
    job = SweepJob(sweep, folder, objective, (str(config_path), config_name, tuple(overrides or ())), storage)
    results = run_sweep(job, count, workers, resume, seed, join)
    print(results)
    for path in results.files:
        print(f"wrote {path}")


if __name__ == "__main__":
    run(main)
