#!/usr/bin/env python3
"""Make a corpus of your own ready to train with: WAVs, manifests, and a report of what is wrong with it."""

import os
import shlex
import shutil
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_with_nemo import cli

if TYPE_CHECKING:
    from asr_with_nemo.preparation import Prepared


class Format(StrEnum):
    """How a source is laid out."""

    auto = "auto"
    csv = "csv"
    txt = "txt"
    librispeech = "librispeech"
    kaldi = "kaldi"
    nemo = "nemo"
    filename = "filename"
    hf = "hf"
    lhotse = "lhotse"


class Split(StrEnum):
    """How the three sets are made."""

    auto = "auto"
    source = "source"
    speaker = "speaker"
    utterance = "utterance"


class Case(StrEnum):
    """What becomes of capitals."""

    lower = "lower"
    upper = "upper"
    keep = "keep"


class Punctuation(StrEnum):
    """What becomes of punctuation."""

    remove = "remove"
    keep = "keep"


class Digits(StrEnum):
    """What becomes of numbers."""

    keep = "keep"
    spell = "spell"


def main(
    source: Annotated[Path, typer.Argument(help="A folder, a table, or a data set saved to disk.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option(help="The folder to make.", metavar="DIR")],
    format: Annotated[Format, typer.Option(help="How the source is laid out; auto finds out.")] = Format.auto,
    pattern: Annotated[
        str, typer.Option(help="Of the recordings' names: '{label}_{speaker}_{take}.wav'.", metavar="PATTERN")
    ] = "",
    label_map: Annotated[Path | None, typer.Option(help="JSON, label → transcript.", metavar="FILE.json")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Leave out the rows that are doubtful.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired.")] = False,
    split: Annotated[Split, typer.Option(help="By what the dev and test sets are held out.")] = Split.auto,
    dev_share: Annotated[float, typer.Option(min=0.001, max=0.45, help="Of the utterances, for the dev set.")] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.001, max=0.45, help="Of the utterances, for the test set.")] = 0.1,
    case: Annotated[Case, typer.Option(help="What becomes of capitals.")] = Case.lower,
    punctuation: Annotated[Punctuation, typer.Option(help="What becomes of punctuation.")] = Punctuation.remove,
    digits: Annotated[Digits, typer.Option(help="spell: numbers become words; needs --language.")] = Digits.keep,
    language: Annotated[str, typer.Option(help="Of the texts: en, de, ru, ...", metavar="CODE")] = "",
    vocabulary: Annotated[
        str,
        typer.Option(
            help="Check the texts against an alphabet: of a model, of a file, or these letters.",
            metavar="MODEL|FILE|ABC",
        ),
    ] = "",
    audio_column: Annotated[str, typer.Option(help="Of a table: name, or number from 1.", metavar="COLUMN")] = "",
    text_column: Annotated[str, typer.Option(help="Of a table.", metavar="COLUMN")] = "",
    speaker_column: Annotated[str, typer.Option(help="Of a table.", metavar="COLUMN")] = "",
    split_column: Annotated[str, typer.Option(help="Of a table.", metavar="COLUMN")] = "",
    delimiter: Annotated[str, typer.Option(help="Between the columns of a table; tab for a tab.")] = "",
    encoding: Annotated[str, typer.Option(help="Of tables and texts, where it isn't UTF-8: cp1251, ...")] = "",
    recipe: Annotated[str, typer.Option(help="Read the source with a recipe of Lhotse's: vctk, yesno, ...")] = "",
    rate: Annotated[int, typer.Option(min=8_000, max=48_000, help="Samples per second that the model takes.")] = 16_000,
    longest: Annotated[float, typer.Option(min=1, help="Seconds; a longer recording is left out.")] = 60.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default all cores.")] = None,
) -> None:
    """Make a corpus of your own ready to train with: WAVs, manifests, and a report of what is wrong with it.

    What people have is read as it is: a folder with a table of paths and texts (CSV, TSV, JSONL; Common Voice and
    LJSpeech too), recordings beside .txt files of the same name, LibriSpeech's and Kaldi's layouts, a NeMo manifest,
    texts in the names of files or folders, a data set of Hugging Face saved to disk; and what a recipe of Lhotse's can
    read. Nothing in SOURCE is changed.

    DIR gets 16-bit mono WAVs, the manifests train, dev, train_all and test as for AN4, report.html, and rows.tsv with
    the fate of each row. Speakers are held out whole where they are known. Run it again when recordings were added:
    only they are read, and all others stay in their split. The last lines are the commands that train and evaluate.

    Examples:

        python scripts/prepare_corpus.py ~/recordings --out data/mine

        python scripts/prepare_corpus.py ~/digits --out data/digits --pattern '{label}_{speaker}_{take}.wav'
        --label-map labels.json

        python scripts/prepare_corpus.py ~/cv-corpus/el/validated.tsv --out data/greek --fix --drop

        python scripts/prepare_corpus.py ~/meetings --out data/meetings --vocabulary an4 --digits spell --language en
    """
    from asr_with_nemo import corpora, preparation, text

    started = time.perf_counter()
    columns = {"audio": audio_column, "text": text_column, "speaker": speaker_column, "split": split_column}
    settings = preparation.Settings(
        format=format.value,
        columns={role: column for role, column in columns.items() if column},
        encoding=encoding,
        delimiter=delimiter,
        pattern=pattern,
        labels=corpora.read_labels(label_map) if label_map else None,
        recipe=recipe,
        rule=text.Rule(case.value, punctuation.value, digits.value, language),
        alphabet=_alphabet(vocabulary),
        rate=rate,
        longest=longest,
        split=split.value,
        shares={"dev": dev_share, "test": test_share},
        drop=drop,
        fix=fix,
    )
    prepared = preparation.prepare(source, out, settings, workers)
    _say(prepared, time.perf_counter() - started)


def _alphabet(given: str) -> frozenset[str] | None:
    if not given:
        return None
    from asr_with_nemo import text

    return frozenset(text.read_alphabet(given)) | {" "}


def _say(prepared: "Prepared", seconds: float) -> None:
    from asr_with_nemo import quality

    folder = _relative(prepared.folder)
    kept = prepared.fates.get("kept", 0)
    others = ", ".join(f"{count:,} {fate}" for fate, count in prepared.fates.items() if fate != "kept")
    typer.echo(
        f"{folder}, made in {seconds:.0f} s from {prepared.rows:,} rows ({prepared.format}): {kept:,} kept"
        + (f", {others}" if others else "")
    )
    for name, part in prepared.splits.items():
        speakers = f", {_counted(part['speakers'], 'speaker')}" if part["speakers"] else ""
        typer.echo(f"  {name:5} {part['utterances']:7,} utterances, {part['seconds'] / 60:7.1f} minutes{speakers}")
    typer.echo(f"  letters: {''.join(prepared.labels).strip()[:200]}")
    for note in prepared.notes:
        typer.echo(f"  {note}")
    if prepared.problems:
        typer.echo("problems:")
    for kind, count in prepared.problems.items():
        known = quality.KINDS[kind]
        fixed = f", {prepared.fixed[kind]:,} fixed" if kind in prepared.fixed else ""
        typer.echo(f"  {count:5,} {kind}: {known.title}{fixed}. {known.advice[0].upper()}{known.advice[1:]}.")
    typer.echo(f"report: {_relative(prepared.report)}, the fate of each row: {_relative(prepared.rows_file)}")
    scripts = _relative(Path(__file__).parent)
    model = f"runs/{prepared.folder.name}.nemo"
    typer.echo("next:")
    # Hydra reads letters, digits and a few signs without quotes.
    place = folder if folder.isascii() and not set(folder) & set(" ,={}[]()'\"\\:&$") else f"'{_escaped(folder)}'"
    train = [_python(), f"{scripts}/train.py", "--config-name", "small_corpus", f"data_dir={place}", "--output", model]
    evaluate = [_python(), f"{scripts}/evaluate.py", model, _relative(prepared.manifest("test"))]
    typer.echo(f"  {shlex.join(train)}\n  {shlex.join(evaluate)}")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _relative(path: Path) -> str:
    """A path as one would type it here."""
    short = os.path.relpath(path)
    return short if not short.startswith(os.path.join("..", "..")) else str(path)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _python() -> str:
    """How this Python is called from here."""
    found = shutil.which("python")
    return "python" if found and os.path.realpath(found) == os.path.realpath(sys.executable) else sys.executable


if __name__ == "__main__":
    cli.run(main)
