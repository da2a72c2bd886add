#!/usr/bin/env python3
"""Transcribe audio files."""

import contextlib
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.base.files import replacing
from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, Decoder, LanguageModel, Model, run
from asr_with_nemo.errors import InputError


def main(
    model: Model,
    files: Annotated[
        list[Path], typer.Argument(help="Audio files of any format, sample rate and length.", metavar="FILE...")
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON lines with file, text, duration, and words with times and confidence."),
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pieces of audio per batch; the default depends on the kind of model.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file, not to the terminal.")] = None,
    lm: LanguageModel = None,
    decoder: Decoder = "",
) -> None:
    """Transcribe audio files.

    The model an4 and .onnx files (scripts/export.py) start in a second or two: they need neither NeMo nor PyTorch.

    For one file, prints its text; for several, a line per file: its name, a tab, its text. Long files are cut at pauses
    into pieces, so memory use hardly grows with their length. If a file can't be read, an error names it, the others
    are transcribed, and the exit status is 1.

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
        if decoder not in ("", "ctc"):
            raise InputError(f"{path}: an ONNX export has only the decoder ctc; leave out --decoder {decoder}")
    else:
        loaded = load_model(path)
        labels, transcribe_each = alphabet(loaded), partial(decoding.transcribe_each, loaded, decoder=decoder)
    search = beam.load(arpa, labels) if arpa else None
    failed = 0
    # A progress bar would break up the lines in a terminal, if there are several.
    progress = output is not None or len(files) == 1 or not sys.stdout.isatty()
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
        rest = "; the others are done" if failed < len(files) else ""
        typer.echo(f"error: {failed} of {len(files)} files can't be read (see above){rest}", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def _destination(path: Path | None):
    """Open the terminal, or a file that gets its name only when it is complete."""
    if path is None:
        yield sys.stdout
        return
    try:
        with replacing(path) as partial, open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
