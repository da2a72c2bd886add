#!/usr/bin/env python3
"""Measure a model's word error rate on a manifest."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo import cli


def main(
    model: Annotated[Path, typer.Argument(help="A .nemo file or a Lightning .ckpt.")],
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest with the right texts.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the results there (.json), and the utterances beside it (.tsv).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Utterances at a time; the results don't depend on it.")] = 16,
    compare: Annotated[
        Path | None, typer.Option(help="A results file of another model on the same manifest.", metavar="OTHER.json")
    ] = None,
) -> None:
    """Measure a model's word error rate on a manifest.

    WER and CER come with their counts; the 95% interval of the WER is a bootstrap over utterances. --compare says
    whether two models differ by more than chance. Choose models by their WER on dev, and read test once, at the end.

    Examples:

        python scripts/evaluate.py MODEL.nemo data/an4/dev_manifest.json

        python scripts/evaluate.py MODEL.nemo data/an4/test_manifest.json --output results/mine.json

        python scripts/evaluate.py BETTER.nemo data/an4/test_manifest.json --compare results/mine.json
    """
    from asr_with_nemo import decoding, evaluation

    # What can be wrong is told before the slow part.
    others = evaluation.read_rows(compare) if compare else None
    if output:
        evaluation.check_output(output)
    loaded = decoding.load_model(model)
    result = evaluation.evaluate(loaded, manifest, batch_size, model_path=model)
    typer.echo(result)
    if result.unspellable:
        letters = " ".join(map(repr, result.unspellable))
        typer.echo(f"warning: the texts have {letters}, which this model can't spell: each is an error", err=True)
    if result.corpus == "synthetic":
        typer.echo("warning: this is the built-in synthetic corpus; its figures say nothing about AN4", err=True)
    if output:
        command = ["python", "scripts/evaluate.py", str(model), str(manifest), "--batch-size", str(batch_size)]
        evaluation.save(result, output, command=shlex.join(command))
        typer.echo(f"results: {output}, utterances: {output.with_suffix('.tsv')}")
    if others:
        typer.echo(f"against {compare}: {evaluation.compare(result.rows, others)}")


if __name__ == "__main__":
    cli.run(main)
