#!/usr/bin/env python3
"""Measure a model's word error rate on a manifest."""

import operator
import shlex
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, Boost, Decoder, LanguageModel, Model, Prompt, run
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from asr_with_nemo.recognition.decoding import Search
    from asr_with_nemo.recognition.evaluation import Result
    from asr_with_nemo.recognition.wer import ScoredUtterance


def main(
    model: Model,
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest with reference transcripts.")],
    output: Annotated[
        Path | None, typer.Option(help="Write the results to this .json file, and the utterances to a .tsv next to it.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write an error browser, one web page: each utterance with player, errors and confidence, to sort and "
            "filter; confusions; WER by speaker and length.",
            metavar="FILE.html",
        ),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            help="With --report: show another model side by side, word by word. Its results file on the same manifest "
            "(--output wrote it), or a model, which is then evaluated too, without a language model.",
            metavar="OTHER",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Utterances per batch; doesn't change the results.")] = 16,
    compare: Annotated[
        Path | None,
        typer.Option(help="Results file of another model on the same manifest, to compare with.", metavar="OTHER.json"),
    ] = None,
    lm: LanguageModel = None,
    boost: Boost = (),
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Tune alpha, beta and width on this (dev) manifest, and save them with the language model.",
        ),
    ] = False,
    alpha: Annotated[float | None, typer.Option(help="Weight of the language model; by default as tuned.")] = None,
    beta: Annotated[float | None, typer.Option(help="Bonus per word; by default as tuned.")] = None,
    width: Annotated[int | None, typer.Option(help="Beam width, in hypotheses; by default as tuned.")] = None,
    line_rate: Annotated[
        int | None,
        typer.Option(min=1_000, help="Simulate a line of this sample rate; 8000 for a telephone.", metavar="HZ"),
    ] = None,
    decoder: Decoder = "",
    prompt: Prompt = "",
) -> None:
    """Measure a model's word error rate on a manifest.

    Prints WER and CER with their counts, and a 95% confidence interval of the WER, from a bootstrap over utterances.
    Texts are compared as they are written: capitals, punctuation and figures that only one side has are errors, and a
    line says how many, if they are a fifth of all or more. --compare tests whether the difference of two models is
    statistically significant. Select models by their WER on dev, and evaluate on test once, at the end.

    Examples:

        python scripts/evaluate.py MODEL.nemo data/an4/dev_manifest.json

        python scripts/evaluate.py MODEL.nemo data/an4/test_manifest.json --output results/mine.json

        python scripts/evaluate.py MODEL.nemo data/mine/dev_manifest.json --report errors.html

        python scripts/evaluate.py MODEL.nemo data/mine/dev_manifest.json --report errors.html --beside OTHER.nemo

        python scripts/evaluate.py BETTER.nemo data/an4/test_manifest.json --compare results/mine.json

        python scripts/evaluate.py MODEL.nemo data/an4/dev_manifest.json --lm lm.arpa --tune

        python scripts/evaluate.py MODEL.nemo data/mine/dev_manifest.json --boost names.txt

        python scripts/evaluate.py HYBRID.nemo data/an4/dev_manifest.json --decoder ctc

        python scripts/evaluate.py CANARY.nemo dev_manifest.json --prompt "source_lang=de target_lang=de pnc=no"

        python scripts/evaluate.py model-int8.onnx data/an4/test_manifest.json
    """
    from asr_with_nemo.base.files import check_no_input, check_output
    from asr_with_nemo.base.spool import mapped
    from asr_with_nemo.own_data.differences import spelling_notes
    from asr_with_nemo.recognition import attention, boosting, error_report, evaluation, side_by_side, wer

    # Report errors before the slow part.
    boosts, told = boosting.read_boosts(boost), attention.parse_prompt(prompt)
    arpa = _check_search(model, manifest, lm, tune, {"alpha": alpha, "beta": beta, "width": width}, bool(boosts))
    others = evaluation.read_rows(compare) if compare else None
    if output:
        check_output(output)
    if report:
        error_report.check_place(report)
    for path in (one for one in (output, output and output.with_suffix(".tsv"), report) if one):
        check_no_input(path, [manifest, model, *boost, *(str(one) for one in (arpa, compare, beside) if one)])
    if beside and not report:
        raise InputError("--beside is shown in the error browser; give --report FILE.html, or --compare OTHER.json")
    asked = _Asked(model, manifest, arpa, boosts, tune, (alpha, beta, width), batch_size, line_rate, decoder, told)
    second = _Other(beside, asked) if beside else None
    result, search, more = _measure(asked)
    typer.echo(result)
    if result.unspellable:
        letters = " ".join(map(repr, result.unspellable))
        typer.echo(f"warning: the texts have {letters}, not in the model's alphabet: each counts as an error", err=True)
    for note in spelling_notes(mapped(result.rows, operator.attrgetter("reference", "hypothesis"))):
        typer.echo(f"warning: {note}", err=True)
    if result.corpus == "synthetic":
        typer.echo("warning: this is the built-in synthetic corpus; its figures say nothing about AN4", err=True)
    if output:
        command = ["python", "scripts/evaluate.py", str(model), str(manifest), "--batch-size", str(batch_size)]
        if search:
            weights = search.weights
            if arpa:
                command += [f"--lm={lm}" if lm else "--lm", f"--alpha={weights.alpha:g}", f"--beta={weights.beta:g}"]
            command += [f"--width={weights.width}", *(f"--boost={value}" for value in boost)]
        command += [f"--line-rate={line_rate}"] if line_rate else []
        command += [f"--decoder={decoder}"] if decoder else []
        command += [f"--prompt={prompt}"] if prompt else []
        evaluation.save(result, output, command=shlex.join(command), **more)
        typer.echo(f"results: {output}, utterances: {output.with_suffix('.tsv')}")
    if result.unread:
        for error in [*result.unread.values()][:5]:
            typer.echo(f"error: {error}", err=True)
        whole = len(result.rows) + len(result.unread)
        typer.echo(
            f"error: {len(result.unread)} of {whole} utterances can't be read; the figures are of the others", err=True
        )
    if report:
        pair = side_by_side.pair(result.rows, second.rows(), second.name) if second else None
        error_report.write_page(result, report, beside=pair)
        if pair:
            typer.echo(f"beside {pair.name}: {pair.comparison}")
        typer.echo(f"report: {report}")
    if others:
        typer.echo(f"against {compare}: {wer.compare(result.rows, others)}")
    if result.unread:
        raise typer.Exit(1)


class _Asked(NamedTuple):
    """What to measure, and how: the options of the command, the file of the language model, and what is boosted."""

    model: str
    manifest: Path
    arpa: Path | None
    boosts: dict[str, float | None]
    tune: bool
    weights: tuple[float | None, float | None, int | None]
    batch_size: int
    line_rate: int | None
    decoder: str
    prompt: dict[str, str]


class _Other:
    """The other model of a report: its results file, or the model itself, which is measured when its rows are needed.

    Attributes:
        name: for the report.
    """

    def __init__(self, given: str, asked: _Asked):
        from asr_with_nemo.models.names import model_path
        from asr_with_nemo.recognition import evaluation, wer

        self.name = Path(given).name
        self._rows, self._asked = None, None
        if Path(given).suffix.lower() in (".json", ".tsv"):
            self._rows, self.name = evaluation.read_rows(given), Path(given).stem
            references = evaluation.read_references(asked.manifest)
            wer.paired(evaluation.make_rows(asked.manifest, references, [""] * len(references)), self._rows)
        else:
            model_path(given, suffix=".onnx")  # it is there
            plain = {
                "arpa": None,
                "boosts": {},
                "tune": False,
                "weights": (None, None, None),
                "decoder": "",
                "prompt": {},
            }
            self._asked = asked._replace(model=given, **plain)

    def rows(self) -> "Sequence[ScoredUtterance]":
        if self._rows is None:
            result = _measure(self._asked)[0]
            typer.echo(f"beside it, {self.name}:\n{result}")
            self._rows = result.rows
        return self._rows


def _measure(asked: _Asked) -> tuple["Result", "Search | None", dict]:
    """Measure a model; return the result, the search, and what tuning it found, for the results file."""
    return (_exported if Path(asked.model).suffix == ".onnx" else _with_nemo)(asked)


def _with_nemo(asked: _Asked) -> tuple["Result", "Search | None", dict]:
    """Measure a NeMo model, as `_measure` does."""
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition import decoding, evaluation, language_model

    loaded, more = load_model(asked.model), {}
    search = decoding.load_search(loaded, asked.decoder, asked.arpa, asked.boosts, *asked.weights)
    decoder = decoding.check_decoder(loaded, asked.decoder, search)
    if decoder == "ctc":
        _warn_of_untuned(asked)
    if asked.tune:
        if decoder != "ctc":
            raise InputError(
                f"{asked.model}: --tune is for CTC; with the decoder {decoder}, try a few --alpha on the dev manifest"
            )
        tuning = evaluation.tune_on(loaded, asked.manifest, search, asked.batch_size)
        search = search.with_weights(tuning.weights)
        counts = tuning.trials[tuning.weights]
        where = {"manifest": asked.manifest.name, "model": Path(asked.model).name}
        language_model.note_weights(asked.arpa, tuning.weights, **where, errors=counts.errors, words=counts.words)
        more["tuning"] = [[*astuple(weights), made.errors] for weights, made in tuning.trials.items()]
        typer.echo(f"{tuning}, saved in {language_model.notes_path(asked.arpa)}")
    result = evaluation.evaluate(
        loaded,
        asked.manifest,
        asked.batch_size,
        model_path=asked.model,
        search=search,
        line_rate=asked.line_rate,
        decoder=asked.decoder,
        prompt=asked.prompt,
    )
    return result, search, more


def _exported(asked: _Asked) -> tuple["Result", "Search | None", dict]:
    """Measure an exported model, as `_measure` does."""
    from asr_with_nemo.base.machine import device_name
    from asr_with_nemo.deployment import runtime
    from asr_with_nemo.recognition import evaluation

    if asked.tune:
        raise InputError(
            f"{asked.model}: --tune takes the .nemo file; the weights that it finds hold for the export too"
        )
    if asked.prompt:
        raise InputError(f"{asked.model}: --prompt is for attention decoders (Canary), which aren't exported")
    recognizer = runtime.Recognizer(asked.model)
    recognizer.check_decoder(asked.decoder)
    search = recognizer.load_search(asked.arpa, asked.boosts, *asked.weights)
    _warn_of_untuned(asked)
    way = evaluation.Way(
        lambda files, progress: recognizer.transcribe_each(files, asked.batch_size, progress, search),
        labels=recognizer.labels,
        sample_rate=recognizer.sample_rate,
        decoder=recognizer.decoder_of(search),
        device=device_name("cpu"),
    )
    result = evaluation.measure(way, asked.manifest, asked.batch_size, asked.model, line_rate=asked.line_rate)
    return result, search, {}


def _check_search(
    model: str, manifest: Path, lm: str | None, tune: bool, weights: dict, has_boosts: bool
) -> Path | None:
    """Check the options of the beam search; return the language model's file, or None for greedy decoding."""
    from asr_with_nemo.recognition import decoding, language_model

    given = [f"--{name}" for name, value in weights.items() if value is not None]
    if lm is None:
        if tune or [one for one in given if not (has_boosts and one == "--width")]:
            raise InputError(f"{(given or ['--tune'])[0]} needs decoding with a language model; add --lm FILE.arpa")
        return None
    if tune and given:
        raise InputError(f"--tune sets all three weights; leave out {', '.join(given)}")
    if tune and has_boosts:
        raise InputError("--tune is for the language model alone; leave out --boost, and try its weights afterwards")
    arpa = decoding.language_model_path(model, lm)
    if tune:
        language_model.check_tuning_data(arpa, manifest)
    return arpa


def _warn_of_untuned(asked: _Asked) -> None:
    """Say if a language model for CTC has no weights of its own, and none are given."""
    from asr_with_nemo.recognition import language_model

    given = asked.tune or any(value is not None for value in asked.weights)
    if asked.arpa and not given and not language_model.tuned_weights(asked.arpa):
        typer.echo(f"warning: {asked.arpa} has no tuned weights; tune them with --tune on a dev manifest", err=True)


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
