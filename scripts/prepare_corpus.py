#!/usr/bin/env python3
"""Prepare your own recordings and transcripts for training: WAVs, manifests, and a report of the problems found."""

import os
import shlex
import shutil
import sys
import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_with_nemo.base.values import hydra_value
from asr_with_nemo.cli import Channels, run

if TYPE_CHECKING:
    from asr_with_nemo.own_data.preparation import Aligner
    from asr_with_nemo.own_data.prepared import Prepared


class Format(StrEnum):
    """The layout of a source."""

    auto = "auto"
    csv = "csv"
    txt = "txt"
    aligned = "aligned"
    lists = "lists"
    librispeech = "librispeech"
    kaldi = "kaldi"
    nemo = "nemo"
    labelstudio = "labelstudio"
    filename = "filename"
    hf = "hf"
    lhotse = "lhotse"


class Split(StrEnum):
    """How train, dev and test are split."""

    auto = "auto"
    source = "source"
    speaker = "speaker"
    utterance = "utterance"


class Case(StrEnum):
    """The case of the transcripts."""

    lower = "lower"
    upper = "upper"
    keep = "keep"


class Punctuation(StrEnum):
    """The treatment of punctuation."""

    remove = "remove"
    keep = "keep"


class Digits(StrEnum):
    """The treatment of numbers."""

    keep = "keep"
    spell = "spell"


class _Panel(StrEnum):
    """The groups of options in --help."""

    reading = "Reading the source"
    checks = "Doubtful rows"
    alignment = "Long recordings"
    transcripts = "Transcripts"
    splits = "Splits"
    recordings = "Recordings"


def _option(help: str, panel: _Panel, *names: str, **settings: object) -> object:
    return typer.Option(*names, help=help, rich_help_panel=panel.value, **settings)


def main(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder in one of the layouts above, a table, a file of texts with times, or a data set file "
            "(.parquet, .arrow). First unpack archives.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The output folder, outside SOURCE; created if needed.", metavar="DIR")],
    format: Annotated[
        Format,
        _option(
            "The layout of SOURCE, as named above. auto detects it; name it if the detection is wrong.", _Panel.reading
        ),
    ] = Format.auto,
    pattern: Annotated[
        str,
        _option(
            "The form of the recordings' names: `{label}_{speaker}_{take}.wav`; with folders, "
            "`{label}/{speaker}_*.wav`; for the speakers alone, `{speaker}/*`. {label} is the transcript or a label of "
            "--label-map; {speaker} and {split} are used too. Fields of any other name and * are ignored.",
            _Panel.reading,
            metavar="PATTERN",
        ),
    ] = "",
    label_map: Annotated[
        Path | None,
        _option(
            'A JSON file with the transcript of each label: `{"0": "zero", "1": "one"}`.',
            _Panel.reading,
            metavar="FILE.json",
        ),
    ] = None,
    audio_column: Annotated[
        str,
        _option(
            "The table's column of paths to recordings, by its name or its number from 1. By default, the columns are "
            "detected.",
            _Panel.reading,
            metavar="COLUMN",
        ),
    ] = "",
    audio_root: Annotated[
        Path | None,
        _option(
            "Where the recordings are that a table names, if not below SOURCE or its folder.",
            _Panel.reading,
            metavar="DIR",
        ),
    ] = None,
    text_column: Annotated[str, _option("The column of transcripts.", _Panel.reading, metavar="COLUMN")] = "",
    speaker_column: Annotated[str, _option("The column of speakers.", _Panel.reading, metavar="COLUMN")] = "",
    split_column: Annotated[
        str, _option("The column of splits: train, dev or test.", _Panel.reading, metavar="COLUMN")
    ] = "",
    delimiter: Annotated[
        str,
        _option("The character between columns, or `tab`; detected by default.", _Panel.reading, metavar="CHARACTER"),
    ] = "",
    encoding: Annotated[
        str,
        _option(
            "The encoding of tables and text files, if it isn't UTF-8: cp1251, gb18030 ...",
            _Panel.reading,
            metavar="NAME",
        ),
    ] = "",
    recipe: Annotated[
        str,
        _option(
            "Read SOURCE with a recipe of Lhotse: timit, aishell ... An unknown NAME lists all of them.",
            _Panel.reading,
            metavar="NAME",
        ),
    ] = "",
    tier: Annotated[
        list[str] | None,
        _option(
            "The tier of a TextGrid or an ELAN file with the transcripts; repeat it for several tiers. By default, "
            "it is found by its name, and the output says which it is.",
            _Panel.reading,
            metavar="NAME",
        ),
    ] = None,
    drop: Annotated[
        bool,
        _option(
            "Leave doubtful rows out: silent or clipped recordings, transcripts that can't belong to the recording, "
            "copies.",
            _Panel.checks,
            "--drop",
        ),
    ] = False,
    fix: Annotated[
        bool,
        _option(
            "Repair doubtful rows if possible: cut off long pauses, remove remarks in brackets, decode wrongly decoded "
            "characters again. With --drop, the other doubtful rows are left out.",
            _Panel.checks,
            "--fix",
        ),
    ] = False,
    vocabulary: Annotated[
        str,
        _option(
            "The characters allowed in transcripts: those of a model (an4, FILE.nemo), of a file, or a list such as "
            "abc. Rows with others are doubtful; --fix replaces é by e, ß by ss and the like.",
            _Panel.checks,
            metavar="MODEL|FILE|ABC",
        ),
    ] = "",
    align: Annotated[
        str,
        _option(
            "Find the texts in their recordings with a CTC model: an4, FILE.nemo, a hybrid ... Wrong times of captions "
            "are corrected, a long text without times is divided at the pauses, and each utterance gets a score.",
            _Panel.alignment,
            metavar="MODEL",
        ),
    ] = "",
    align_drop: Annotated[
        float,
        _option(
            "Leave texts with a lower score out: their letters' mean probability by that of what the model hears, from "
            "0 to 1. 0 keeps all that is in the sound.",
            _Panel.alignment,
            min=0,
            max=1,
            metavar="SCORE",
        ),
    ] = 0.1,
    align_reach: Annotated[
        float,
        _option("How far from its time a text is searched.", _Panel.alignment, min=0.5, max=36_000, metavar="SECONDS"),
    ] = 10.0,
    case: Annotated[Case, _option("Convert transcripts to this case.", _Panel.transcripts)] = Case.lower,
    punctuation: Annotated[
        Punctuation,
        _option("Remove or keep punctuation; apostrophes inside words always stay.", _Panel.transcripts),
    ] = Punctuation.remove,
    digits: Annotated[
        Digits,
        _option(
            "spell: write 7 as seven; needs --language. keep: the model learns to write digits.", _Panel.transcripts
        ),
    ] = Digits.keep,
    language: Annotated[
        str,
        _option(
            "The language of the transcripts (ISO 639-1): en, de, ru ... Chooses between talk.en.srt and talk.de.srt.",
            _Panel.transcripts,
            metavar="CODE",
        ),
    ] = "",
    split: Annotated[
        Split,
        _option(
            "source: keep the splits of SOURCE. speaker: hold out whole speakers. utterance: hold out recordings. "
            "auto: the first of these that is possible, and source only if its splits share no speaker.",
            _Panel.splits,
        ),
    ] = Split.auto,
    dev_share: Annotated[
        float,
        _option(
            "The share of utterances in dev; not used for a dev set that SOURCE has.",
            _Panel.splits,
            min=0.001,
            max=0.45,
            metavar="SHARE",
        ),
    ] = 0.1,
    test_share: Annotated[
        float, _option("The same for test.", _Panel.splits, min=0.001, max=0.45, metavar="SHARE")
    ] = 0.1,
    rate: Annotated[
        int,
        _option(
            "The sampling rate of the WAVs. Keep 16000 for telephone speech too: models expect it.",
            _Panel.recordings,
            min=8_000,
            max=48_000,
            metavar="HZ",
        ),
    ] = 16_000,
    channels: Annotated[
        Channels,
        _option(
            "Of recordings with several channels: mix them, or split them, each channel a speaker with texts of its "
            "own: in call_channel1.srt and call_channel2.srt (or .txt, .TextGrid ...; left, right) beside call.wav, by "
            "a table's column `channel`, or else the channel that speaks while the text is spoken.",
            _Panel.recordings,
        ),
    ] = Channels.mix,
    longest: Annotated[
        float, _option("Leave longer recordings out.", _Panel.recordings, min=1, metavar="SECONDS")
    ] = 60.0,
    workers: Annotated[
        int | None,
        _option("The number of worker processes; by default, one per CPU core.", _Panel.recordings, min=1, metavar="N"),
    ] = None,
    ray: Annotated[
        str | None,
        _option(
            "Convert and measure the recordings on a Ray cluster (pip install -e '.[ray]'): local, auto or HOST:PORT, "
            "as of transcribe.py. All its machines see SOURCE and DIR at the same paths; both are folders: copy "
            "what is in an object storage first.",
            _Panel.recordings,
            metavar="ADDRESS",
        ),
    ] = None,
    shards: Annotated[
        int | None,
        _option(
            "Also write the training set as this many shards, into DIR/shards/train: for more than some 100,000 "
            "recordings. scripts/make_shards.py --help says more.",
            _Panel.recordings,
            min=1,
            metavar="N",
        ),
    ] = None,
) -> None:
    """Prepare your own recordings and transcripts for training: WAVs, manifests, and a report of the problems found.

    SOURCE may have any of these layouts; --format names one if the detection is wrong. The recordings may be WAV, FLAC,
    MP3, Ogg, Opus, SPHERE or any other format that libsndfile or SoX reads, at any sampling rate. Nothing in SOURCE is
    changed.

    - csv: a table with the path and the transcript of each recording: CSV, TSV, JSON or
    Excel's .xlsx, as in LJSpeech and Common Voice

    - nemo: a NeMo manifest

    - labelstudio: what Label Studio exports: JSON, JSON-MIN, CSV or TSV, of whole recordings or of regions; of several
    annotations, the ground truth or the last

    - txt: talk.wav with its transcript in talk.txt, in the same folder or in a parallel tree, as in VCTK

    - aligned: texts with their times beside long recordings: talk.srt, .vtt (YouTube's too), .TextGrid, .eaf, .stm,
    .ctm, the .json of Whisper or of a speech service, a .csv or .tsv with start and end, lines that begin with times in
    talk.txt (Audacity's labels too); each text becomes an utterance

    - txt beside a long recording, with --align: its whole text without times

    - filename: transcripts or labels in the names of files or folders; needs --pattern

    - lists: CMU Sphinx (.fileids, .transcription), CMU Arctic (txt.done.data), VoxForge (PROMPTS), fairseq (train.tsv
    with train.wrd or train.ltr), Switchboard (sw2001A-ms98-a-trans.text), CHiME-5 and 6 (S03.json)

    - librispeech, kaldi: the folders of LibriSpeech and LibriTTS, and Kaldi's data folders (wav.scp, text)

    - hf: a Hugging Face data set, saved with save_to_disk or as Parquet files

    - lhotse: Lhotse's manifests or cuts, or any corpus that Lhotse has a recipe for, with --recipe

    Unusable rows are always left out: a missing or unreadable recording, an empty transcript. Doubtful rows are kept,
    unless you give --drop or --fix.

    Read DIR/report.html before you train: it shows the problems, with examples to listen to. DIR/rows.tsv has the
    fate of each row. The WAVs are 16-bit mono; the manifests are train, dev, test, and train_all (train and dev). The
    splits of SOURCE are kept if it has any; otherwise whole speakers are held out for dev and test if they are known.

    Run the same command again after you have added recordings: only these are read, and the others keep their split.
    The last lines of the output are the commands that train and evaluate a model on the corpus; above them is the one
    that estimates what more data would bring.

    Examples:

        # a folder with a table, or with a text file for each recording

        python scripts/prepare_corpus.py ~/recordings --out data/mine

        # 3_kostas_2.wav says the word that labels.json has for 3

        python scripts/prepare_corpus.py ~/digits --out data/digits \\
            --pattern '{label}_{speaker}_{take}.wav' \\
            --label-map labels.json

        # interviews with captions: interview1.m4a and interview1.vtt

        python scripts/prepare_corpus.py ~/interviews --out data/interviews --fix

        # captions with wrong times, or a whole text beside a long recording

        python scripts/prepare_corpus.py ~/interviews --out data/interviews \\
            --align models/mine.nemo

        # calls with a speaker on each channel: call.wav, call_left.srt, call_right.srt

        python scripts/prepare_corpus.py ~/calls --out data/calls --channels split

        # texts corrected in Label Studio (transcribe.py --format label-studio writes its tasks)

        python scripts/prepare_corpus.py project-1.json --audio-root ~/recordings --out data/mine

        # Common Voice: repair doubtful rows, and drop the others

        python scripts/prepare_corpus.py ~/cv-corpus/el --out data/greek --fix --drop

        # for the letters of the course's AN4 model, with numbers as words

        python scripts/prepare_corpus.py ~/table.csv --out data/table \\
            --vocabulary an4 --digits spell --language en
    """
    from asr_with_nemo.own_data import formats, preparation, sharding
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
        tiers=tuple(tier or ()),
        rule=Rule(case.value, punctuation.value, digits.value, language),
        alphabet=_alphabet(vocabulary),
        rate=rate,
        longest=longest,
        split=split.value,
        shares={"dev": dev_share, "test": test_share},
        drop=drop,
        fix=fix,
        channels=channels.value,
        audio_root=audio_root,
    )
    preparation.check_places(source, out, audio_root)
    aligner = _aligner(align, language, align_reach, align_drop) if align else None
    if ray:
        from asr_with_nemo.places import ray_cluster

        with ray_cluster.connected(ray, workers, say=partial(typer.echo, err=True)) as cluster:
            where = source.absolute(), out, settings, cluster.workers
            prepared = preparation.prepare(*where, aligner=aligner, start=ray_cluster.Pool)
    else:
        prepared = preparation.prepare(source, out, settings, workers, aligner=aligner)
    if shards:
        train = prepared.manifest("train")
        sharding.make(train, sharding.default_place(train), shards, workers=workers, say=typer.echo)
    _print_summary(prepared, time.perf_counter() - started, bool(shards))


def _aligner(model: str, language: str, reach: float, least: float) -> "Aligner":
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition.alignment import Aligner

    return Aligner(load_model(model), Path(model).name, language, reach, least)


def _alphabet(given: str) -> frozenset[str] | None:
    if not given:
        return None
    from asr_with_nemo.models.vocabulary import read_alphabet

    return frozenset(read_alphabet(given)) | {" "}


def _print_summary(prepared: "Prepared", seconds: float, sharded: bool) -> None:
    from asr_with_nemo.own_data import quality

    folder = _relative(prepared.folder)
    kept = prepared.fates.get("kept", 0)
    others = ", ".join(f"{count:,} {fate}" for fate, count in prepared.fates.items() if fate != "kept")
    typer.echo(
        f"{folder}: {prepared.rows:,} rows ({prepared.format}) in {seconds:.0f} s, {kept:,} kept"
        + (f", {others}" if others else "")
    )
    for name, part in prepared.splits.items():
        speakers = f", {_counted(part['speakers'], 'speaker')}" if part["speakers"] else ""
        typer.echo(f"  {name:5} {part['utterances']:7,} utterances, {part['seconds'] / 60:7.1f} minutes{speakers}")
    typer.echo(f"  characters: {''.join(prepared.labels).strip()[:200]}")
    for note in prepared.notes:
        typer.echo(f"  {note}")
    if prepared.problems:
        typer.echo("problems:")
    for kind, count in prepared.problems.items():
        known = quality.KINDS[kind]
        fixed = f", {prepared.fixed[kind]:,} fixed" if kind in prepared.fixed else ""
        typer.echo(f"  {count:5,} {kind}: {known.title}{fixed}. {known.advice[0].upper()}{known.advice[1:]}.")
    typer.echo(f"report: {_relative(prepared.report)}; the fate of each row: {_relative(prepared.rows_file)}")
    scripts = _relative(Path(__file__).parent)
    model = f"runs/{prepared.folder.name}.nemo"
    curve = [_python(), f"{scripts}/learning_curve.py", folder]
    typer.echo(f"whether more data would help, short trainings on parts of it tell:\n  {shlex.join(curve)}")
    typer.echo("next:")
    place = hydra_value(folder)
    train = [_python(), f"{scripts}/train.py", "--config-name", "small_corpus", f"data_dir={place}", "--output", model]
    if sharded:
        train.append("model.train_ds.shar_path=${data_dir}/shards/train")
    evaluate = [_python(), f"{scripts}/evaluate.py", model, _relative(prepared.manifest("test"))]
    typer.echo(f"  {shlex.join(train)}\n  {shlex.join(evaluate)}")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _relative(path: Path) -> str:
    """Return a path as one would type it in the current folder."""
    short = os.path.relpath(path)
    return short if not short.startswith(os.path.join("..", "..")) else str(path)


def _python() -> str:
    """Return the command that starts this Python."""
    found = shutil.which("python")
    return "python" if found and os.path.realpath(found) == os.path.realpath(sys.executable) else sys.executable


if __name__ == "__main__":
    run(main)
