#!/usr/bin/env python3
"""Write a training manifest as shards: a few large files, for corpora of more than some 100,000 utterances."""

from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run


def main(
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest, of the training set.", metavar="MANIFEST")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The output folder; by default shards/train beside train_manifest.json (the manifest's name).",
            metavar="DIR",
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="The number of shards; by default one for an hour of speech.", metavar="N"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the utterances.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="The number of processes; by default, one per CPU core.", metavar="N")
    ] = None,
) -> None:
    """Write a training manifest as shards: a few large files, for corpora of more than some 100,000 utterances.

    A training that reads a manifest keeps all its rows in memory and opens each recording by itself. One that reads
    shards starts in seconds and has the same memory whatever the number of rows; and it can read them from an object
    storage. The dev set stays a manifest.

    The files are Lhotse Shar's, which NeMo reads: texts in cuts.NNNNNN.jsonl.gz, recordings as 16-bit FLAC in
    recording.NNNNNN.tar (half the size of WAV). The utterances are shuffled over them, each is in one. shards.json and
    the tables beside it are notes by which a training checks letters, sample rate, lost files, and speakers and
    recordings of the dev and test sets, without reading the shards.

    **How many?** Files of 50 to 500 MB; at least as many as processes x workers of the training, better a multiple.
    After an interruption, the same command goes on.

    **Train from them**, here on one GPU with batches of up to 360 seconds of speech:

        python scripts/train.py --config-name small_corpus data_dir=data/mine \\
            model.train_ds.shar_path=data/mine/shards/train model.train_ds.batch_duration=360

    **From an object storage** that speaks S3: copy the folder (aws s3 sync), then name it. AWS_ENDPOINT_URL names
    another storage than AWS's.

        python scripts/train.py ... model.train_ds.shar_path=s3://BUCKET/mine/train

    Examples:

        python scripts/make_shards.py data/mine/train_manifest.json

        python scripts/make_shards.py data/mine/train_manifest.json --out /fast/mine --shards 512
    """
    from asr_with_nemo.own_data import sharding

    place = out or sharding.default_place(manifest)
    made = sharding.make(manifest, place, shards, seed, workers, say=typer.echo)
    size = sum(file["size"] for shard in made.shards for file in shard.files.values())
    typer.echo(
        f"{place}: {made.rows:,} utterances, {made.seconds / 3600:,.1f} hours in {len(made.shards):,} shards of "
        f"{size / len(made.shards) / 1e6:,.1f} MB"
    )
    typer.echo(f"train from them: scripts/train.py ... model.train_ds.shar_path={place}")


if __name__ == "__main__":
    run(main)
