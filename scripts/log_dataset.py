#!/usr/bin/env python3
"""Log manifests as a table with sound and pictures to Weights & Biases."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.data import an4
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name


def main(
    manifests: Annotated[
        list[Path] | None, typer.Argument(help="NeMo manifests; by default all that the corpus has to train with.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="The folder where pictures are kept; by default beside the first manifest.")
    ] = None,
    artifacts: Annotated[
        bool, typer.Option(help="Log the corpus as artifacts too: recordings, and the manifests made of them.")
    ] = True,
) -> None:
    """Log manifests as a table with sound and pictures to Weights & Biases, offline where there is no key.

    A row an utterance: file, player, duration, transcript, spectrogram, mel spectrogram, speaker and split. Pictures
    are made once and kept.

    Examples:

        python scripts/log_dataset.py

        python scripts/log_dataset.py data/an4/train_manifest.json data/an4/dev_manifest.json

        python scripts/log_dataset.py my_recordings/manifest.json --pictures /tmp/pictures
    """
    from asr_with_nemo.tracking import explore
    from asr_with_nemo.tracking.corpus_artifacts import log_corpus

    manifests = manifests or [an4.locate().manifest("train_all")]
    started = time.perf_counter()
    rows = explore.dataset_rows(manifests, pictures)
    typer.echo(f"{len(rows):,} recordings, pictured in {time.perf_counter() - started:.1f} s")
    mode = configure_wandb()
    typer.echo(describe_mode(mode, project_name()))

    import wandb

    started = time.perf_counter()
    corpus = an4.corpus_of(manifests[0])
    try:
        with wandb.init(project=project_name(), name=f"dataset-{corpus}", job_type="dataset") as run:
            run.config.update({"corpus": corpus, "manifests": [path.name for path in manifests]})
            run.log({"dataset": explore.wandb_table(rows)})
            if artifacts:
                log_corpus(run, manifests)
            place = os.path.relpath(Path(run.dir).parent) if run.offline else run.url
    except OSError as error:  # a full disk, say
        raise InputError(f"{error.filename or os.environ['WANDB_DIR']}: can't be written ({error.strerror})") from error
    typer.echo(f"logged in {time.perf_counter() - started:.1f} s: {place or 'nowhere, as WANDB_MODE says'}")


if __name__ == "__main__":
    run(main)
