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

from asr_with_nemo.cli import run

if TYPE_CHECKING:
    from asr_with_nemo.own_data.prepared import Prepared


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


SOURCE, TEXTS, DOUBT, SPLITS, SOUND = "How the source is read", "Texts", "Doubtful rows", "Splits", "Recordings"
"""The options by what they are about."""


def _option(help: str, about: str, *names: str, **settings: object) -> object:
    return typer.Option(*names, help=help, rich_help_panel=about, **settings)


def main(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of recordings, with their texts in one of the layouts above; or a table, or a data set "
            "saved to disk.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to make.", metavar="DIR")],
    format: Annotated[
        Format, _option("The layout. auto finds out; name it where it errs. csv stands for any table.", SOURCE)
    ] = Format.auto,
    pattern: Annotated[
        str,
        _option(
            "How the recordings' names say what they are: `{label}_{speaker}_{take}.wav`, `{label}/{speaker}_*.wav` "
            "for folders too, `{speaker}/*` for the speakers alone. Fields: {label}, what is said; {speaker}; {split}; "
            "any other name stands for what is of no matter, and so does *.",
            SOURCE,
            metavar="PATTERN",
        ),
    ] = "",
    label_map: Annotated[
        Path | None,
        _option('What labels stand for, as JSON: `{"0": "zero", "1": "one"}`.', SOURCE, metavar="FILE.json"),
    ] = None,
    audio_column: Annotated[
        str,
        _option("Of a table: the column of paths, by its name, or by its number from 1.", SOURCE, metavar="COLUMN"),
    ] = "",
    text_column: Annotated[str, _option("The column of texts.", SOURCE, metavar="COLUMN")] = "",
    speaker_column: Annotated[str, _option("The column of speakers.", SOURCE, metavar="COLUMN")] = "",
    split_column: Annotated[str, _option("The column that says train, dev or test.", SOURCE, metavar="COLUMN")] = "",
    delimiter: Annotated[str, _option("What stands between columns; `tab` for a tab.", SOURCE, metavar="SIGN")] = "",
    encoding: Annotated[
        str, _option("Of tables and texts that aren't in UTF-8: cp1251, gb18030 ...", SOURCE, metavar="NAME")
    ] = "",
    recipe: Annotated[
        str, _option("Read SOURCE with one of Lhotse's recipes: timit, aishell ...", SOURCE, metavar="NAME")
    ] = "",
    drop: Annotated[
        bool,
        _option("Leave them out: silence, clipping, texts that can't be this recording's, copies.", DOUBT, "--drop"),
    ] = False,
    fix: Annotated[
        bool,
        _option(
            "Repair what can be: cut long pauses off, take remarks in brackets out, put wrongly read letters right.",
            DOUBT,
            "--fix",
        ),
    ] = False,
    vocabulary: Annotated[
        str,
        _option(
            "Which letters texts may have: those of a model (an4, FILE.nemo), of a file, or these. Others are "
            "doubtful, and --fix writes é as e where that helps.",
            DOUBT,
            metavar="MODEL|FILE|ABC",
        ),
    ] = "",
    case: Annotated[Case, _option("What becomes of capitals.", TEXTS)] = Case.lower,
    punctuation: Annotated[
        Punctuation, _option("What becomes of punctuation; apostrophes inside words stay.", TEXTS)
    ] = Punctuation.remove,
    digits: Annotated[
        Digits, _option("spell: 7 becomes seven; needs --language. keep: the model learns to write 7.", TEXTS)
    ] = Digits.keep,
    language: Annotated[str, _option("Of the texts: en, de, ru ...", TEXTS, metavar="CODE")] = "",
    split: Annotated[
        Split,
        _option(
            "What is held out for dev and test: what the source says, whole speakers, or utterances. auto takes the "
            "first of these that there is.",
            SPLITS,
        ),
    ] = Split.auto,
    dev_share: Annotated[
        float, _option("Of the utterances, for the dev set.", SPLITS, min=0.001, max=0.45, metavar="SHARE")
    ] = 0.1,
    test_share: Annotated[
        float, _option("Of the utterances, for the test set.", SPLITS, min=0.001, max=0.45, metavar="SHARE")
    ] = 0.1,
    rate: Annotated[
        int,
        _option(
            "Hz, of the WAVs that are made. Leave telephone speech at 16000 too: models expect it.",
            SOUND,
            min=8_000,
            max=48_000,
            metavar="HZ",
        ),
    ] = 16_000,
    longest: Annotated[float, _option("A longer recording is left out.", SOUND, min=1, metavar="SECONDS")] = 60.0,
    workers: Annotated[
        int | None, _option("Processes; by default as many as there are cores.", SOUND, min=1, metavar="N")
    ] = None,
) -> None:
    """Make a corpus of your own ready to train with: WAVs, manifests, and a report of what is wrong with it.

    What people have is read as it is, at any rate and in any format, and nothing in SOURCE is changed:

    - a table of paths and texts: CSV, TSV, JSON lines, with a header or without; LJSpeech, Common Voice, NeMo manifests

    - talk.wav beside talk.txt, also in a tree of their own, as in VCTK

    - texts in the names of files or folders, with --pattern, and --label-map where they are labels

    - LibriSpeech's folders, Kaldi's data folders, Hugging Face's data sets (saved to disk, or Parquet)

    - what one of Lhotse's recipes can read, with --recipe

    DIR gets 16-bit mono WAVs, the manifests train, dev, train_all and test as for AN4, report.html to look at before
    anything is trained, and rows.tsv with the fate of each row. Whole speakers are held out where they are known. Run
    it again when recordings were added: only they are read, and all others stay in their split. The last lines are the
    commands that train and evaluate.

    Examples:

        python scripts/prepare_corpus.py ~/recordings --out data/mine

        python scripts/prepare_corpus.py ~/digits --out data/digits \\
            --pattern '{label}_{speaker}_{take}.wav' \\
            --label-map labels.json

        python scripts/prepare_corpus.py ~/cv-corpus/el --out data/greek --fix --drop

        python scripts/prepare_corpus.py ~/LibriSpeech --out data/librispeech

        python scripts/prepare_corpus.py ~/letters.csv --out data/letters \\
            --vocabulary an4 --digits spell --language en
    """
    from asr_with_nemo.own_data import formats, preparation
    from asr_with_nemo.own_data.prepared import Settings
    from asr_with_nemo.own_data.text import Rule

    started = time.perf_counter()
    columns = {"audio": audio_column, "text": text_column, "speaker": speaker_column, "split": split_column}
    settings = Settings(
        format=format.value,
        columns={role: column for role, column in columns.items() if column},
        encoding=encoding,
        delimiter=delimiter,
        pattern=pattern,
        labels=formats.read_labels(label_map) if label_map else None,
        recipe=recipe,
        rule=Rule(case.value, punctuation.value, digits.value, language),
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
    from asr_with_nemo.models.vocabulary import read_alphabet

    return frozenset(read_alphabet(given)) | {" "}


def _say(prepared: "Prepared", seconds: float) -> None:
    from asr_with_nemo.own_data import quality

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
    run(main)
