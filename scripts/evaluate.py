#!/usr/bin/env python3
"""Measure a model's word error rate on a manifest."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, LanguageModel, Model, run
from asr_with_nemo.errors import InputError


def main(
    model: Model,
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest with the right texts.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the results there (.json), and the utterances beside it (.tsv).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Utterances at a time; the results don't depend on it.")] = 16,
    compare: Annotated[
        Path | None, typer.Option(help="A results file of another model on the same manifest.", metavar="OTHER.json")
    ] = None,
    lm: LanguageModel = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Tune alpha, beta and width on this manifest, and note them by the FILE.")
    ] = False,
    alpha: Annotated[float | None, typer.Option(help="The language model's weight; by default as tuned.")] = None,
    beta: Annotated[float | None, typer.Option(help="What a word adds; by default as tuned.")] = None,
    width: Annotated[int | None, typer.Option(help="Hypotheses kept at a time; by default as tuned.")] = None,
    line_rate: Annotated[
        int | None,
        typer.Option(
            min=1_000, help="Hear the recordings through a line of this rate; 8000 is a telephone's.", metavar="HZ"
        ),
    ] = None,
) -> None:
    """Measure a model's word error rate on a manifest.

    WER and CER come with their counts; the 95% interval of the WER is a bootstrap over utterances. --compare says
    whether two models differ by more than chance. Choose models by their WER on dev, and read test once, at the end.

    Examples:

        python scripts/evaluate.py MODEL.nemo data/an4/dev_manifest.json

        python scripts/evaluate.py MODEL.nemo data/an4/test_manifest.json --output results/mine.json

        python scripts/evaluate.py BETTER.nemo data/an4/test_manifest.json --compare results/mine.json

        python scripts/evaluate.py MODEL.nemo data/an4/dev_manifest.json --lm lm.arpa --tune
    """
    from asr_with_nemo.base.files import check_output
    from asr_with_nemo.models.loading import alphabet, load_model
    from asr_with_nemo.recognition import beam, evaluation, language_model, wer

    # What can be wrong is told before the slow part.
    arpa = _check_search(model, manifest, lm, tune, {"alpha": alpha, "beta": beta, "width": width})
    others = evaluation.read_rows(compare) if compare else None
    if output:
        check_output(output)
    loaded = load_model(model)
    search = beam.load(arpa, alphabet(loaded), alpha, beta, width) if arpa else None
    if tune:
        tuning = evaluation.tune_on(loaded, manifest, search, batch_size)
        search = search.with_weights(tuning.weights)
        counts = tuning.trials[tuning.weights]
        how = {"manifest": manifest.name, "model": Path(model).name, "errors": counts.errors, "words": counts.words}
        language_model.note_weights(arpa, tuning.weights, **how)
        typer.echo(f"{tuning}, noted in {language_model.notes_path(arpa)}")
    result = evaluation.evaluate(loaded, manifest, batch_size, model_path=model, search=search, line_rate=line_rate)
    typer.echo(result)
    if result.unspellable:
        letters = " ".join(map(repr, result.unspellable))
        typer.echo(f"warning: the texts have {letters}, which this model can't spell: each is an error", err=True)
    if result.corpus == "synthetic":
        typer.echo("warning: this is the built-in synthetic corpus; its figures say nothing about AN4", err=True)
    if output:
        command = ["python", "scripts/evaluate.py", str(model), str(manifest), "--batch-size", str(batch_size)]
        if search:
            weights = search.weights
            command += [f"--lm={lm}" if lm else "--lm", f"--alpha={weights.alpha:g}", f"--beta={weights.beta:g}"]
            command += [f"--width={weights.width}"]
        command += [f"--line-rate={line_rate}"] if line_rate else []
        evaluation.save(result, output, command=shlex.join(command))
        typer.echo(f"results: {output}, utterances: {output.with_suffix('.tsv')}")
    if others:
        typer.echo(f"against {compare}: {wer.compare(result.rows, others)}")


def _check_search(model: str, manifest: Path, lm: str | None, tune: bool, weights: dict) -> Path | None:
    """The language model's file, if there shall be one, with all that can be told about it at once."""
    from asr_with_nemo.recognition import decoding, language_model

    given = [f"--{name}" for name, value in weights.items() if value is not None]
    if lm is None:
        if tune or given:
            raise InputError(f"{(given or ['--tune'])[0]} is about decoding with a language model; add --lm FILE.arpa")
        return None
    if tune and given:
        raise InputError(f"--tune finds all three weights; leave out {', '.join(given)}")
    arpa = decoding.language_model_path(model, lm)
    if tune:
        language_model.check_tuning_data(arpa, manifest)
    elif not given and not language_model.tuned_weights(arpa):
        typer.echo(f"warning: {arpa} has no tuned weights; --tune finds them on a dev manifest", err=True)
    return arpa


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
