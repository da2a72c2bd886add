#!/usr/bin/env python3
"""Turn sound files into text."""

import contextlib
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.base.files import replacing
from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, LanguageModel, Model, run
from asr_with_nemo.errors import InputError


def main(
    model: Model,
    files: Annotated[
        list[Path], typer.Argument(help="Sound files of any rate, channels and length.", metavar="FILE...")
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A JSON object a line: file, text, duration, and words with times and confidence."),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pieces of sound at a time; by default what suits the model's kind.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write there, not to the terminal.")] = None,
    lm: LanguageModel = None,
) -> None:
    """Turn sound files into text.

    An .onnx file (scripts/export.py), and an4, answer in a second or two: they need neither NeMo nor torch.

    One file gives its text; several give lines of file, tab, text. Long files are read in pieces cut at pauses, so
    memory hardly grows with them. A file that can't be read is named, the others are done, and the exit status is 1.

    Examples:

        python scripts/transcribe.py MODEL.nemo recording.wav

        python scripts/transcribe.py an4 --lm recording.wav

        python scripts/transcribe.py MODEL.nemo data/an4/wav/an4test_clstk/*/*.wav --output texts.tsv

        python scripts/transcribe.py MODEL.nemo lecture.flac --json | jq .words
    """
    from asr_with_nemo.deployment import runtime
    from asr_with_nemo.models.loading import alphabet, load_model
    from asr_with_nemo.models.names import model_path
    from asr_with_nemo.recognition import beam, decoding

    arpa = None if lm is None else decoding.language_model_path(model, lm)
    path = model_path(model, suffix=".onnx")
    if path.suffix == ".onnx":
        recognizer = runtime.Recognizer(path)
        labels, transcribe_each = recognizer.labels, recognizer.transcribe_each
    else:
        loaded = load_model(path)
        labels, transcribe_each = alphabet(loaded), partial(decoding.transcribe_each, loaded)
    search = beam.load(arpa, labels) if arpa else None
    failed = 0
    # A bar between the lines of a terminal would only be in the way.
    progress = output is not None or not sys.stdout.isatty()
    with _destination(output) as out:
        size = {} if batch_size is None else {"batch_size": batch_size}
        results = transcribe_each(files, progress=progress, search=search, **size)
        for file, result in zip(files, results, strict=True):
            if isinstance(result, InputError):
                typer.echo(f"error: {result}", err=True)
                failed += 1
            elif as_json:
                print(json.dumps({"file": str(file)} | asdict(result), ensure_ascii=False), file=out, flush=True)
            else:
                print(result.text if len(files) == 1 else f"{file}\t{result.text}", file=out, flush=True)
    if failed:
        rest = "; all else is done" if failed < len(files) else ""
        typer.echo(f"error: {failed} of {len(files)} files can't be read, named above{rest}", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def _destination(path: Path | None):
    """The terminal, or a file that appears under its name only when it is complete."""
    if path is None:
        yield sys.stdout
        return
    try:
        with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
