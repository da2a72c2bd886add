#!/usr/bin/env python3
"""Export a recogniser as one ONNX file that needs neither NeMo nor torch."""

import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import Decoder, run
from asr_with_nemo.errors import InputError

_TURNS = 3
"""Timed runs of each model, alternating; the best time of each counts."""


class Quantization(StrEnum):
    """The types of quantized weights."""

    int8 = "int8"


def main(
    model: Annotated[
        Path, typer.Argument(help="A .nemo or .ckpt file, wandb:NAME:ALIAS, or an4, the model that ships.")
    ],
    output: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT.onnx")],
    manifest: Annotated[
        Path | None, typer.Option(help="Recordings to compare with NeMo on; by default AN4's test set, if prepared.")
    ] = None,
    quantize: Annotated[
        Quantization | None,
        typer.Option(help="Make the model smaller and faster; prints the change in WER (needs --manifest)."),
    ] = None,
    calibration: Annotated[Path, typer.Option(help="Manifest of recordings that calibrate --quantize.")] = Path(
        "data/an4/train_manifest.json"
    ),
    calibrate_on: Annotated[int, typer.Option(min=1, help="Number of recordings for calibration.")] = 64,
    decoder: Decoder = "",
) -> None:
    """Export a recogniser as one ONNX file that needs neither NeMo nor torch.

    It takes CTC models, transducers (RNN-T and TDT) and hybrids, of letters or of pieces of words. The file holds the
    mel features, the network, a transducer's prediction and joint networks, the letters or pieces, and a card. It is
    written only if its outputs and texts equal NeMo's, for single recordings and for padded batches. Without
    recordings, noise is used for the comparison. Of a hybrid, the file gets one decoder: the transducer, or --decoder
    ctc, which is faster.

    Examples:

        python scripts/export.py an4 an4.onnx

        python scripts/export.py MODEL.nemo model.onnx --manifest data/an4/test_manifest.json

        python scripts/export.py an4 an4-int8.onnx --quantize int8

        python scripts/export.py HYBRID.nemo model.onnx --decoder ctc

        python scripts/transcribe.py model.onnx recording.wav
    """
    from asr_with_nemo.data.manifest import read_manifest
    from asr_with_nemo.deployment import export
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition import evaluation

    default = Path("data/an4/test_manifest.json")
    manifest = manifest or (default if default.is_file() else None)
    if quantize and not manifest:
        raise InputError("--quantize measures the change in WER: give a manifest with --manifest")
    files = [row["audio_filepath"] for row in read_manifest(manifest)] if manifest else []
    if quantize:
        texts = [row["text"] for row in evaluation.read_references(manifest)]
        learn_from = [row["audio_filepath"] for row in read_manifest(calibration)]
    loaded = load_model(model)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.onnx" if quantize else output
        equality = export.export(loaded, whole, files, export.card_of(model), decoder)
        typer.echo(f"{manifest or 'noise'}: {equality}")
        if quantize:
            export.quantize(whole, output, learn_from[:: max(1, len(learn_from) // calibrate_on)])
            compare({"fp32": whole, quantize.value: output}, files, texts)
    typer.echo(f"model: {output}")


def compare(models: dict[str, Path], files: list[str], texts: list[str]) -> None:
    """Print size, speed and word error rate of several models."""
    from asr_with_nemo.deployment import runtime
    from asr_with_nemo.recognition import transcripts, wer

    recognizers = {name: runtime.Recognizer(path) for name, path in models.items()}
    samples = transcripts.read(files, next(iter(recognizers.values())).sample_rate)
    heard, seconds = {}, {name: [] for name in models}
    for _ in range(_TURNS):
        for name, recognizer in recognizers.items():
            started = time.perf_counter()
            heard[name] = recognizer.transcribe(samples)
            seconds[name].append(time.perf_counter() - started)
    duration = sum(transcript.duration for transcript in next(iter(heard.values())))
    for name, transcripts_ in heard.items():
        errors = sum(
            (wer.count_errors(text, one.text) for text, one in zip(texts, transcripts_, strict=True)),
            wer.Counts(),
        )
        size = models[name].stat().st_size / 1e6
        typer.echo(
            f"{name}  {size:5.1f} MB  RTFx {duration / min(seconds[name]):6.0f}  WER {errors.rate:6.1%}, "
            f"{errors.errors:,} errors in {errors.words:,} words"
        )


if __name__ == "__main__":
    run(main)
