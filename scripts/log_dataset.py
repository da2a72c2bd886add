#!/usr/bin/env python3
"""Log manifests as a table with audio and spectrograms to Weights & Biases."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.base.files import place_of, reason_of
from asr_with_nemo.cli import run
from asr_with_nemo.data import an4
from asr_with_nemo.data.manifest import count_rows
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.session import configure_wandb, describe_mode, ending, project_name


def main(
    manifests: Annotated[
        list[Path] | None, typer.Argument(help="NeMo manifests; by default the corpus's train_all.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="The folder for pictures; by default in the first manifest's folder.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Most rows of the table; of more utterances, so many are drawn at random.")
    ] = 10_000,
    artifacts: Annotated[
        bool,
        typer.Option(
            help="Also log the corpus as artifacts, recordings and the manifests made of them, by digests of the "
            "recordings: a training's run then names its data, and W&B keeps a new version only of what has changed. "
            "All rows are in memory, and each recording is read once: 1,000 of 5 seconds take 0.3 s of CPU time, and "
            "10,000 hours as long as the disk needs for 1.2 TB. A later run reads only those whose size or time of "
            "change is another. --no-artifacts logs the table alone."
        ),
    ] = True,
) -> None:
    """Log manifests as a table with audio and spectrograms to Weights & Biases, offline without an API key.

    One row per utterance: file, player, duration, transcript, spectrogram, mel spectrogram, speaker and split. Pictures
    are cached.

    Examples:

        python scripts/log_dataset.py

        python scripts/log_dataset.py data/an4/train_manifest.json data/an4/dev_manifest.json

        python scripts/log_dataset.py my_recordings/manifest.json --pictures /tmp/pictures

        python scripts/log_dataset.py data/large/train_manifest.json --rows 500 --no-artifacts
    """
    from asr_with_nemo.tracking import explore
    from asr_with_nemo.tracking.corpus_artifacts import log_corpus

    manifests = manifests or [an4.locate().manifest("train_all")]
    started = time.perf_counter()
    table = explore.dataset_rows(manifests, pictures, most=rows)
    typer.echo(f"{len(table):,} recordings, pictures made in {time.perf_counter() - started:.1f} s")
    if len(table) == rows and (count := count_rows(manifests)) > rows:
        typer.echo(f"the table has {rows:,} of {count:,} utterances, drawn at random; --rows takes more")
    mode = configure_wandb()
    typer.echo(describe_mode(mode, project_name()))

    import wandb

    started = time.perf_counter()
    corpus = an4.corpus_of(manifests[0])
    try:
        with ending(wandb.init(project=project_name(), name=f"dataset-{corpus}", job_type="dataset")) as run:
            run.config.update({"corpus": corpus, "manifests": [path.name for path in manifests]})
            run.log({"dataset": explore.wandb_table(table)})
            if artifacts:
                log_corpus(run, manifests, progress=True)
            place = os.path.relpath(Path(run.dir).parent) if run.offline else run.url
    except OSError as error:  # for example a full disk
        raise InputError(
            f"{place_of(error, os.environ['WANDB_DIR'])}: can't be written ({reason_of(error)})"
        ) from error
    typer.echo(f"logged in {time.perf_counter() - started:.1f} s: {place or 'nowhere (WANDB_MODE=disabled)'}")


if __name__ == "__main__":
    run(main)
