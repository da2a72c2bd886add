#!/usr/bin/env python3
"""Transcribe recordings."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, Boost, Channels, Decoder, LanguageModel, Model, Prompt, run
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from asr_with_nemo.recognition.destinations import Terminal
    from asr_with_nemo.recognition.recordings import Recording

_FORMATS = ("text", "jsonl", "srt", "vtt", "ctm", "textgrid", "tsv", "label-studio")
FormatName = StrEnum("FormatName", {name: name for name in _FORMATS})
_BY_SUFFIX = {".jsonl": "jsonl", ".srt": "srt", ".vtt": "vtt", ".ctm": "ctm", ".textgrid": "textgrid"}


def main(
    model: Model,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Recordings of any format, sample rate and length; folders of them; lists (.txt, a path a line); "
            "manifests (.json, .jsonl); - for a list on standard input.",
            metavar="INPUT...",
        ),
    ],
    form: Annotated[
        FormatName | None,
        typer.Option("--format", help="Format; by default that of the output's name (.srt, .vtt, ...), else text."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file.", metavar="FILE")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Write a file a recording into this folder.", metavar="DIR")
    ] = None,
    lm: LanguageModel = None,
    boost: Boost = (),
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pieces of audio per batch; the default depends on the kind of model.")
    ] = None,
    channels: Annotated[
        Channels,
        typer.Option(help="Of a recording with several channels: mix them, or split it into a recording a channel."),
    ] = Channels.mix,
    uncertain: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write only this many recordings to --output, as a manifest or as tasks of Label Studio: those with "
            "the lowest confidence, which are the most worth a person's time.",
            metavar="N",
        ),
    ] = None,
    audio_root: Annotated[
        Path | None,
        typer.Option(
            help="Of label-studio: the folder that it serves; by default the one above that of the recordings.",
            metavar="DIR",
        ),
    ] = None,
    audio_url: Annotated[
        str | None,
        typer.Option(
            help="Of label-studio: what comes before a recording's path within --audio-root, where another server "
            "has them: https://HOST/recordings/",
            metavar="URL",
        ),
    ] = None,
    decoder: Decoder = "",
    shards: Annotated[
        str | None,
        typer.Option(
            help="Of very many recordings: write shards of JSON lines into this folder, of a disk or s3://BUCKET/FOLDER.",
            metavar="DIR",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Write the shards on a Ray cluster: local (one started for this command), auto (RAY_ADDRESS, or the "
            "one that this machine belongs to), or HOST:PORT.",
            metavar="ADDRESS",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that write shards; by default one per core, or per GPU of the cluster; without a cluster, "
            "a NeMo model has one.",
            metavar="N",
        ),
    ] = None,
    prompt: Prompt = "",
) -> None:
    """Transcribe recordings: to the terminal, into a file, or a file each into a folder.

    **Begin here.** The model an4 ships with the course, knows letters, numbers and a few commands, and starts in a
    second. So do .onnx files (scripts/export.py); other models need NeMo.

        python scripts/transcribe.py an4 recording.wav

    **Many recordings.** Name files, a folder (searched with its folders), a list, a manifest (offset and duration are
    honoured), or pipe paths in. For several, a line has the name, a tab, and the text.

        python scripts/transcribe.py an4 recordings/ --output texts.tsv

        python scripts/transcribe.py an4 list.txt data/an4/test_manifest.json --output texts.tsv

        find . -name '*.mp3' | python scripts/transcribe.py an4 -

    **Subtitles and tables of words.** Subtitles have up to 2 lines of 42 characters and 7 seconds.

        python scripts/transcribe.py MODEL.nemo lecture.m4a --output lecture.srt

        python scripts/transcribe.py MODEL.nemo recordings/ --format vtt --output-dir subtitles

        python scripts/transcribe.py MODEL.nemo lecture.m4a --json | jq .words

    text: the text. jsonl: a JSON object a recording with file, text, duration, and words with times and confidence.
    srt, vtt: subtitles. textgrid: Praat's, with a tier of words. ctm: NIST's, a line a word (sclite). tsv: a table of
    words with their times in seconds and confidence.

    **Calls, with a speaker on each channel.** By default the channels are mixed, and a warning says so.

        python scripts/transcribe.py an4 call.wav --channels split --format srt --output-dir texts

    **What to label next.** A manifest of the 50 recordings that the model is least sure of, with its texts to correct.

        python scripts/transcribe.py MODEL.nemo recordings/ --uncertain 50 --output next.json

    **Correct texts in Label Studio.** Its tasks with the model's texts and confidence, and beside them the labeling
    config (tasks.xml). Recordings of more than 20 s have regions with times. prepare_corpus.py reads what it exports.

        python scripts/transcribe.py MODEL.nemo recordings/ --format label-studio --output tasks.json

        python scripts/transcribe.py MODEL.nemo recordings/ --uncertain 50 --format label-studio --output tasks.json

    **With a language model**, which knows what is likely to be said. A name that ends in .arpa, .arpa.gz, .lm, .bin or
    .binary after --lm is the language model; without one, it is the model's own. --lm=FILE takes any name.

        python scripts/transcribe.py an4 --lm recording.wav

        python scripts/transcribe.py MODEL.nemo --lm lm.arpa recording.wav

    **Words that you expect**, such as names: --boost makes texts with them likelier. The weight is a natural logarithm:
    with 3, a text with the word counts 20 times as much. A larger one finds more of the words, and hears some that
    weren't said; without one, it is 5 by CTC, and 1 for a transducer. All models take it, .nemo and exported ones, but
    Canary; with --lm, also for words that the language model doesn't know. A phrase is boosted as a whole.

        python scripts/transcribe.py an4 --boost rubout:3 --boost "new york" recording.wav

        python scripts/transcribe.py MODEL.nemo --boost names.txt recordings/

    **Models with a prompt** (NVIDIA's Canary) are told the language, and whether to write punctuation and capitals.
    They give no times of words, unless a model of the format canary2 is asked for them, with timestamp=yes.

        python scripts/transcribe.py CANARY.nemo recordings/ --prompt "source_lang=de target_lang=de pnc=no"

    **Interrupted?** The same command goes on, with --output and --output-dir: what is done isn't done again. A folder
    is brought up to date: only new and changed recordings are transcribed. With another model all is done anew.

    **Thousands of hours**, from a disk or an object storage (s3://BUCKET/FOLDER; AWS_ENDPOINT_URL names another one
    than AWS's), on all cores of this machine or of many: --shards writes files of about an hour of sound each, with the
    lines of --format jsonl and an id. A recording that can't be read has a line with "error" instead of "text"; delete
    its shard, and all of its recordings are done again. Whatever dies (a worker, a machine, this command), the same
    command goes on, here or on a cluster, and each recording is in one line. Without DIR/.progress, nothing is known to
    be done: delete it last.

        python scripts/transcribe.py an4 recordings/ --shards texts

        python scripts/transcribe.py MODEL.nemo s3://BUCKET/calls --shards s3://BUCKET/texts --workers 8

        python scripts/transcribe.py MODEL.nemo manifest.json --shards /shared/texts --ray auto

    Ray is an extra: pip install -e '.[ray]'. All machines of a cluster need it, the course and the same Python, and see
    the recordings, DIR and the model's file at the same paths; start this command on one of them. On one machine it
    only costs time: its worth are many machines, of which some may die.

    **What happens inside.** Long recordings are cut at pauses into pieces of a few seconds, so memory use hardly grows
    with their length; quiet ones are raised; silence has no text. If a file can't be read, an error names it, the
    others are transcribed, and the exit status is 1.
    """
    from asr_with_nemo.base.files import check_no_input
    from asr_with_nemo.base.spool import Spool, mapped
    from asr_with_nemo.data.object_storage import is_remote
    from asr_with_nemo.deployment import transcriber
    from asr_with_nemo.models.names import model_path
    from asr_with_nemo.recognition import attention, boosting, decoding, destinations, formats, label_studio
    from asr_with_nemo.recognition.recordings import find, split_channels

    if shards and (output or output_dir or form or as_json or uncertain):
        raise InputError(
            "--shards writes JSON lines into its folder; leave out --output, --output-dir, --format, --json"
        )
    if (ray or workers) and not shards:
        raise InputError("--ray and --workers write shards: name a folder for them with --shards DIR")
    if output and output_dir:
        raise InputError("--output writes one file, --output-dir a file a recording; choose one of them")
    if as_json and form not in (None, FormatName.jsonl):
        raise InputError(f"--json is --format jsonl; leave out it or --format {form}")
    for_label_studio = form == "label-studio"
    other = form and not for_label_studio
    if uncertain and (not output or output_dir or other or as_json or output.suffix.lower() not in (".json", ".jsonl")):
        raise InputError(
            "--uncertain writes a manifest: give it --output FILE.json, and no --output-dir, and no --format but "
            "label-studio"
        )
    if (audio_root or audio_url) and not for_label_studio:
        raise InputError("--audio-root and --audio-url belong to --format label-studio")
    named = _BY_SUFFIX.get(output.suffix.lower(), "text") if output else "text"
    form = FormatName.jsonl if as_json else form or FormatName(named)
    arpa = None if lm is None else decoding.language_model_path(model, lm)
    boosts, told = boosting.read_boosts(boost), attention.parse_prompt(prompt)
    path = model_path(model, suffix=".onnx")
    recordings = find(inputs, log=partial(typer.echo, err=True))
    if output:
        paths = mapped(recordings, lambda one: getattr(one.sound, "path", one.sound))
        check_no_input(output, itertools.chain(inputs, boost, [path], [arpa] if arpa else [], paths))
    if channels == Channels.split:
        if any(is_remote(getattr(one.sound, "path", one.sound)) for one in recordings):
            raise InputError("--channels split: is for files of this machine; copy those of the storage here first")
        recordings = Spool(split_channels(recordings))
    known = _by_content if shards else _by_date
    settings = {"format": str(form), "model": known(path), "lm": known(arpa) if arpa else None}
    settings |= {"decoder": decoder} if decoder else {}
    settings |= {"boost": boosts} if boosts else {}
    settings |= {"prompt": told} if told else {}
    size = {} if batch_size is None else {"batch_size": batch_size}
    if shards:
        name = Path(model).absolute() if Path(model).exists() else model  # on other machines it may be elsewhere
        load = partial(transcriber.load, name, arpa and arpa.absolute(), boosts, decoder, told, progress=False, **size)
        _write_shards(recordings, shards, settings | {"format": "jsonl"}, load, path.suffix != ".onnx", ray, workers)
        return
    if remote := next((one.name for one in recordings if is_remote(getattr(one.sound, "path", one.sound))), None):
        raise InputError(f"{remote}: of an object storage, which is read with --shards DIR; or copy it to this machine")
    with destinations.alone(output, output_dir, log=partial(typer.echo, err=True)):
        log = partial(typer.echo, err=True)
        if for_label_studio:
            name = " ".join([path.name, *([decoder] if decoder else []), *([f"with {arpa.name}"] if arpa else [])])
            address = audio_root, audio_url or label_studio.LOCAL_FILES
            place = label_studio.destination(recordings, output, settings, name, *address, uncertain, log)
        elif uncertain:
            write = partial(destinations.write_manifest_to_correct, recordings=recordings, log=log)
            place = destinations.ForAPerson(recordings, output, settings, write, uncertain)
        else:
            place = destinations.destination(formats.FORMATS[form], recordings, output, output_dir, settings)
        destinations.say_what_is_done(recordings, place.pending)
        # A progress bar would break up the lines in a terminal, if there are several.
        progress = bool(output or output_dir) or len(recordings) == 1 or not sys.stdout.isatty()
        failed = 0
        if place.pending:
            note = None if form == FormatName.text or uncertain else log
            each = transcriber.load(path, arpa, boosts, decoder, told, note, progress=progress, **size)
            failed = _transcribe(each, place)
        place.finish()
    if failed:
        rest = "; the others are done" if failed < len(recordings) else ""
        typer.echo(f"error: {failed} of {len(recordings)} files can't be read (see above){rest}", err=True)
        raise typer.Exit(1)


def _by_date(path: Path) -> list:
    from asr_with_nemo.recognition.destinations import stamp

    return [str(path), *stamp(path)]


def _by_content(path: Path) -> str:
    """Return what a file is known by on several machines, wherever it lies there."""
    from asr_with_nemo.data.archives import sha256_of

    return f"sha256:{sha256_of(path)}"


def _transcribe(each: Callable, place: "Terminal") -> int:
    """Transcribe what is pending; return how many recordings couldn't be read."""
    from asr_with_nemo.base.spool import mapped
    from asr_with_nemo.recognition.recordings import Survey

    failed, survey = 0, Survey()
    sounds = mapped(place.pending, lambda one: survey.watched(one.sound))
    for recording, result in zip(place.pending, each(sounds), strict=True):
        if isinstance(result, InputError):
            typer.echo(f"error: {result}", err=True)
            failed += 1
        else:
            place.add(recording, result)
    for line in survey.lines():
        typer.echo(line, err=True)
    return failed


def _write_shards(
    recordings: "Sequence[Recording]",
    place: str,
    settings: dict,
    load: Callable,
    needs_nemo: bool,
    address: str | None,
    workers: int | None,
) -> None:
    """Transcribe into shards, by processes of this machine or by a cluster, and say what came of it."""
    from asr_with_nemo.base.machine import usable_cores
    from asr_with_nemo.data.object_storage import is_remote
    from asr_with_nemo.recognition import bulk, destinations
    from asr_with_nemo.recognition.text_shards import Shards

    log = partial(typer.echo, err=True)
    with contextlib.ExitStack() as stack:
        if address:
            from asr_with_nemo.places import ray_cluster

            cluster = stack.enter_context(ray_cluster.connected(address, workers, needs_nemo, log))
            engine, workers = cluster.run, cluster.workers
        else:
            workers = workers or (1 if needs_nemo else usable_cores())
            engine = bulk.local_engine(workers)
        stack.enter_context(destinations.alone(None, None if is_remote(place) else Path(place), log))
        tally = bulk.transcribe(recordings, Shards(place, settings), engine, load, workers, log)
    hours, done = tally.seconds / 3600, tally.recordings - tally.failed
    typer.echo(f"{place}: {done:,} recordings, {hours:,.2f} hours of sound", err=True)
    if tally.failed:
        for error in tally.first:
            typer.echo(f"error: {error}", err=True)
        more = f", {tally.failed - len(tally.first):,} more" if tally.failed > len(tally.first) else ""
        said = f"error: {tally.failed:,} of {tally.recordings:,} files can't be read (see above{more})"
        typer.echo(f'{said}; in the shards, their lines have "error"; the others are done', err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
