#!/usr/bin/env python3
"""Get AN4, turn it into WAVs, and write NeMo manifests."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.data import an4


class Source(StrEnum):
    """Name of a corpus."""

    auto = "auto"
    an4 = "an4"
    synthetic = "synthetic"


def main(
    data_dir: Annotated[Path, typer.Option(help="Destination: an4/ or synthetic/ in this folder.")] = Path("data"),
    source: Annotated[
        Source, typer.Option(help="auto: AN4 if it is available, else the built-in corpus of synthesised speech.")
    ] = Source.auto,
    archive: Annotated[
        str | None,
        typer.Option(help="AN4's archive, a file or a URL.", envvar="AN4_ARCHIVE", metavar="FILE_OR_URL"),
    ] = None,
    utterances: Annotated[int | None, typer.Option(help="Limit of the number of utterances, for a quick try.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the built-in corpus.")] = 0,
) -> None:
    """Get AN4, turn it into WAVs, and write NeMo manifests.

    AN4's archive is taken from --archive or AN4_ARCHIVE, else from the data folder, else downloaded. Each SPHERE file
    is checked against its own checksum and converted to a 16-bit, 16 kHz, mono WAV next to it. The manifests train (848
    utterances), dev (100, of speakers held out of train), train_all (948) and test (130) have paths relative to
    themselves, so the folder can be moved. Running it again changes nothing; after an interruption it continues.

    Examples:

        python scripts/prepare_an4.py

        python scripts/prepare_an4.py --archive ~/Downloads/an4_sphere.tar.gz

        python scripts/prepare_an4.py --source synthetic --utterances 60 --data-dir /tmp/small
    """
    started = time.perf_counter()
    corpus = an4.prepare(data_dir, source.value, archive, utterances, seed)
    for problem in corpus.problems:
        typer.echo(f"problem: {problem}", err=True)
    seconds = time.perf_counter() - started
    if corpus.changed:
        typer.echo(f"{corpus.title}, in {corpus.folder}, made in {seconds:.1f} s:")
    else:
        typer.echo(f"{corpus.title}, in {corpus.folder}: all there already, nothing changed ({seconds:.1f} s)")
    for name, count in corpus.utterances.items():
        typer.echo(f"  {name:26} {count:5} utterances")
    if corpus.problems:
        typer.echo(f"error: {len(corpus.problems)} problem(s), named above; everything else is done", err=True)
        raise typer.Exit(1)
    override = "" if corpus.folder == Path("data/an4") else f" data_dir={corpus.folder}"
    typer.echo(f"next: python scripts/train.py{override}")


if __name__ == "__main__":
    run(main)
