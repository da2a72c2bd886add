"""Preparation of your own corpus for training: WAVs, manifests, and a report of its problems.

source → entries (`formats`) → WAVs and measurements (`recordings`) → problems (`quality`) → splits → manifests, report.
Everything streams through a SQLite file (`store`), so memory use doesn't grow with the corpus.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from asr_with_nemo.base.files import alone_in, reason_of, write_if_changed
from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.object_storage import check_local
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import formats, quality, splits
from asr_with_nemo.own_data.prepared import WAVS, Prepared, Settings
from asr_with_nemo.own_data.recordings import Form, MeasureJob, Measures, Outcome, Pool, convert_all
from asr_with_nemo.own_data.report import write_page, write_rows
from asr_with_nemo.own_data.sources import Entry, Source
from asr_with_nemo.own_data.store import NAME, CorpusStore

_MADE_BY = "scripts/prepare_corpus.py"
_NOTES = 12  # with an error
_CHUNK = 32  # recordings per batch of a worker


class Aligner(Protocol):
    """Finds the texts of entries in their recordings (`recognition.alignment.Aligner`)."""

    def align(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries where their texts are spoken, with scores."""

    def check(self) -> None:
        """Raise InputError if the texts can't be aligned."""

    def notes(self) -> Iterator[str]:
        """Yield what was done, a line each."""


def prepare(
    source: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings = Settings(),
    workers: int | None = None,
    progress: bool = True,
    aligner: Aligner | None = None,
    start: Callable[[int], Pool] | None = None,
) -> Prepared:
    """Prepare a corpus for training; nothing in the source is changed.

    A second call resumes an interrupted one, reads only new recordings, and keeps every speaker (or recording) in its
    split.

    Args:
        source: a folder, a table or a data set (`formats.FORMATS`).
        out: the output folder: manifests, WAVs in `wav/`, `report.html`, `rows.tsv`.
        settings: of the preparation.
        workers: number of processes; by default, that of the CPU cores. The result doesn't depend on it.
        progress: show a progress bar.
        aligner: finds the texts in their recordings; by default, the source's own times are taken.
        start: starts the workers; by default, processes of this machine.

    Raises:
        InputError: the source can't be read as a corpus, `out` can't be used, or one of the splits would be empty.
    """
    source, out = Path(source), Path(out)
    if settings.format not in ("auto", *formats.FORMATS):
        raise InputError(f"format {settings.format!r}: expected auto, {', '.join(formats.FORMATS)}")
    check_places(source, out, settings.audio_root)
    out = Path(os.path.abspath(out))
    is_new = not out.exists()
    prepared = Prepared(out)
    try:
        with alone_in(out, "is preparing a corpus"):
            is_new = is_new and not (out / NAME).is_file()  # another process may have made it meanwhile
            with CorpusStore(out / NAME) as store:
                _prepare(store, source, prepared, settings, workers or usable_cores(), progress, aligner, start)
    except OSError as error:
        raise InputError(f"{out}: can't be written ({reason_of(error)}); or name another --out") from error
    except sqlite3.Error as error:
        raise InputError(
            f"{out / NAME}: {error}; check for a full disk or another run on this folder, then run again"
        ) from error
    except InputError:
        if is_new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    return prepared


_COPIED = (
    "recordings, texts and tables are searched in a folder of this machine (with --ray, of all machines); copy them to "
    "one first, for example by `aws s3 sync s3://BUCKET/FOLDER recordings`, and name that folder"
)


def check_places(source: Path, out: Path, audio_root: Path | None = None) -> None:
    """Make sure that a corpus can be read from a source and written to a folder.

    Args:
        source, out: as of `prepare`.
        audio_root: the folder of the recordings that a table names.

    Raises:
        InputError: it can't.
    """
    check_local(source, _COPIED)
    check_local(
        out,
        "the corpus is written into a folder of this machine; name one, and copy it then: "
        "aws s3 sync DIR s3://BUCKET/FOLDER",
    )
    if audio_root:
        check_local(audio_root, _COPIED)
    if not source.exists():
        raise InputError(f"{source}: no such folder or file; name a folder of recordings, a table or a data set")
    if not (source.is_file() or source.is_dir()):
        raise InputError(f"{source}: a pipe, socket or device; name a folder of recordings, a table or a data set")
    root, place = source.resolve(), out.resolve()
    if place == root or (root.is_dir() and place.is_relative_to(root)):
        raise InputError(f"--out {out}: lies in the source, which stays unchanged; name a folder outside it")
    if audio_root and not audio_root.is_dir():
        raise InputError(f"--audio-root {audio_root}: no such folder; name the one that holds the recordings")
    if root.is_relative_to(place / WAVS):
        raise InputError(f"{source}: lies in {out / WAVS}, which is overwritten; name another --out")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    ours = (_read_note(out) or {}).get("made_by") == _MADE_BY or (out / NAME).is_file()
    others = [path.name for pattern in ("*_manifest.json", manifest.CORPUS_NOTES) for path in out.glob(pattern)]
    if others and not ours:
        raise InputError(f"--out {out}: holds another corpus ({others[0]}); name a new folder")


def _read_note(folder: Path) -> dict | None:
    try:
        note = json.loads((folder / manifest.CORPUS_NOTES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _prepare(
    store: CorpusStore,
    path: Path,
    prepared: Prepared,
    settings: Settings,
    workers: int,
    progress: bool,
    aligner: Aligner | None,
    start: Callable[[int], Pool] | None,
) -> None:
    out = prepared.folder
    source = Source(
        path,
        store,
        settings.columns,
        settings.encoding,
        settings.delimiter,
        settings.pattern,
        settings.labels,
        settings.recipe,
        settings.tiers,
        settings.rule.language,
        scratch=out,
        split_channels=settings.channels == "split",
        audio_root=settings.audio_root,
        notes=prepared.notes,
    )
    store.list_files(source.root, out.resolve())
    prepared.format = formats.detect(source) if settings.format == "auto" else settings.format
    earlier = _read_note(out) or {}
    same = earlier.get("split") == _split_settings(settings)
    if same:
        splits.remember(store, out)

    _convert(source, prepared, settings, workers, progress, aligner, start)
    if aligner:
        aligner.check()
        prepared.notes += aligner.notes()
    if not store.value("SELECT count(*) FROM rows"):
        advice = "expected recordings with transcripts; see --help"
        if settings.format != "auto":
            advice = f"expected the layout of --format {prepared.format}; without --format, it is detected"
        raise InputError(_with_notes(f"{path}: no rows found (read as {prepared.format}); {advice}", prepared))
    quality.find_in_corpus(store)
    quality.find_unnamed(store, only_beside=path.is_file())
    quality.decide(store, settings.drop)
    prepared.rows = store.value("SELECT count(*) FROM rows WHERE number > 0")
    if not store.value("SELECT count(*) FROM rows WHERE fate = 'kept'"):
        reason = f"{path}: none of its {prepared.rows} rows can be used; fix these first:\n{_reasons(store)}"
        raise InputError(_with_notes(reason, prepared))
    before = earlier.get("split_by", "") if same else ""
    try:
        prepared.split_by = splits.assign(store, settings.split, settings.shares, prepared.notes, before)
    except InputError as error:
        raise InputError(_with_notes(f"{path}: {error}\n{_reasons(store)}".strip(), prepared)) from error

    prepared.notes += _said_of_channels(store, source.split_channels)
    prepared.notes += _write_manifests(store, prepared)
    _count(store, prepared)
    write_rows(store, prepared.rows_file)
    write_page(store, prepared, settings.rule)
    _remove_unused(store, out)
    _write_note(store, prepared, settings)


def _with_notes(error: str, prepared: Prepared) -> str:
    """Return the text of an error with what was noted while the source was read, which may be the cause."""
    more = [f"... and {len(prepared.notes) - _NOTES:,} more notes"] if prepared.notes[_NOTES:] else []
    return "\n".join([error, *(f"  {note}" for note in [*prepared.notes[:_NOTES], *more])])


def _said_of_channels(store: CorpusStore, split: bool) -> Iterator[str]:
    """Yield what was done with the channels of recordings that have several."""
    several = "FROM rows JOIN recordings ON recordings.id = recording WHERE fate = 'kept' AND channels > 1"
    mixed = store.value(f"SELECT count(*) {several} AND taken IS NULL")
    if split and (taken := store.value(f"SELECT count(*) {several} AND taken IS NOT NULL")):
        yield f"{taken:,} rows have one channel of several: the one that they name, or that speaks in their part"
    if mixed:
        first = store.value(f"SELECT audio {several} AND taken IS NULL ORDER BY number")
        why = "since none speaks alone" if split else "--channels split takes each by itself"
        yield f"{mixed:,} rows have a mix of several channels ({first}); {why}"


def _split_settings(settings: Settings) -> dict[str, object]:
    return {"by": settings.split, "shares": dict(settings.shares)}


def _reasons(store: CorpusStore) -> str:
    """Return the five most frequent problems for which rows were left out or dropped, one per line."""
    reasons = store.select(
        "SELECT kind, count(*), min(place), min(detail) FROM problems JOIN rows USING (number) WHERE number > 0 "
        "AND done <> '' GROUP BY kind ORDER BY count(*) DESC LIMIT 5"
    )
    return "\n".join(
        f"  {count} rows: {quality.KINDS[kind].title} ({place}{': ' + detail if detail else ''})"
        for kind, count, place, detail in reasons
    )


# --- Entries to rows --------------------------------------------------------------------------------------------------


@dataclass
class _Waiting:
    """An entry in conversion: its recording's id, its WAV, and a stamp that changes with the recording."""

    entry: Entry
    recording: str
    wav: str
    stamp: str


def _convert(
    source: Source,
    prepared: Prepared,
    settings: Settings,
    workers: int,
    progress: bool,
    aligner: Aligner | None,
    start: Callable[[int], Pool] | None,
) -> None:
    """Convert the recordings whose WAV doesn't exist yet; fill the tables `rows` and `problems`."""
    out, store = prepared.folder, source.store
    form = Form(out, settings.rate, settings.longest, settings.rule, settings.alphabet, settings.fix)
    form = replace(form, split_channels=source.split_channels)
    facts = (form.rate, form.longest, form.fix, *(["split"] if form.split_channels else []))
    settled = hashlib.sha256(repr(facts).encode()).hexdigest()[:8]
    for number in range(256):
        (out / WAVS / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    waiting: dict[int, _Waiting] = {}
    at_work: Counter[str] = Counter()

    def jobs() -> Iterator[list[MeasureJob]]:
        some: list[MeasureJob] = []
        entries = formats.read(source, prepared.format)
        for number, entry in enumerate(aligner.align(entries) if aligner else entries, 1):
            one = _identified(entry, settled)
            # Two rows may name one recording, which is converted once.
            known = bool(entry.problem) or at_work[one.recording] or _is_known(store, form, one)
            sound = "" if known else entry.audio
            some.append(MeasureJob(number, sound, one.wav, entry.text, entry.start, entry.seconds, entry.channel))
            at_work[one.recording] += 1
            waiting[number] = replace(one, entry=replace(entry, audio=""))  # releases the bytes
            if len(some) == _CHUNK:
                yield some
                some = []
        yield some

    total = store.value("SELECT count(*) FROM files WHERE kind = 'audio'") or None
    unsaved = 0
    with (
        _without_leftovers(form.folder),
        tqdm(desc="recordings", total=total, unit="file", delay=1, disable=not progress) as bar,
        contextlib.closing(convert_all(jobs(), form, workers, start)) as converted,
    ):
        for outcomes in converted:
            for outcome in outcomes:
                one = waiting.pop(outcome.number)
                at_work[one.recording] -= 1
                if not at_work[one.recording]:
                    del at_work[one.recording]
                _keep(store, outcome, one, form.split_channels)
            bar.update(len(outcomes))
            unsaved += len(outcomes)
            if unsaved >= 2_000:  # so many are lost by an interruption at most
                store.db.commit()
                unsaved = 0
        bar.total = bar.n  # some recordings may have no row
    store.db.commit()


@contextlib.contextmanager
def _without_leftovers(folder: Path) -> Iterator[None]:
    """Delete at the end the half-written WAVs of processes that were killed, by this run or before it."""
    try:
        yield
    finally:
        for partial in (folder / WAVS).rglob(".*.partial"):
            partial.unlink(missing_ok=True)


def _identified(entry: Entry, settled: str) -> _Waiting:
    part = f"{entry.name}\0{entry.start}\0{entry.seconds}\0{entry.channel}"
    recording = hashlib.sha256(part.encode()).hexdigest()[:12]
    stem = os.path.splitext(os.path.basename(entry.name))[0]
    readable = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", stem))[-40:].strip("_.") or "recording"
    stamp = ""
    if isinstance(entry.audio, bytes):
        stamp = hashlib.blake2b(entry.audio, digest_size=16).hexdigest()
    elif entry.audio:
        try:
            status = os.stat(entry.audio)
            stamp = f"{status.st_size}-{status.st_mtime_ns}"
        except OSError:  # reading it reports the reason
            stamp = "gone"
    return _Waiting(entry, recording, f"{WAVS}/{recording[:2]}/{readable}-{recording}.wav", f"{stamp}-{settled}")


def _is_known(store: CorpusStore, form: Form, one: _Waiting) -> bool:
    """Return whether a recording is converted already, by this run (for another row) or an earlier one."""
    query = "SELECT wav, seconds FROM recordings WHERE id = ? AND stamp = ?"
    row = store.db.execute(query, (one.recording, one.stamp)).fetchone()
    return bool(row) and audio.wav_samples(form.folder / row[0]) == round(row[1] * form.rate)


def _keep(store: CorpusStore, outcome: Outcome, one: _Waiting, split_channels: bool) -> None:
    """Store a row, its recording and its problems; of split channels, each is a speaker if the row names none."""
    entry, measures = one.entry, outcome.measures
    problem, detail = (entry.problem, entry.detail) if entry.problem else (outcome.problem, outcome.detail)
    if not problem and measures:
        store.insert("recordings", [(one.recording, one.stamp, one.wav, *measures.values())], replace=True)
    elif not problem:
        made = store.db.execute("SELECT * FROM recordings WHERE id = ?", (one.recording,)).fetchone()
        measures = Measures(*made[3:]) if made else None
        if not made:  # it failed for an earlier row
            query = "SELECT kind, detail FROM problems JOIN rows USING (number) WHERE recording = ? LIMIT 1"
            problem, detail = store.db.execute(query, (one.recording,)).fetchone()
    problems = [(kind, found, done) for kind, (found, done) in outcome.doubts.items()]
    problems += [(entry.doubt, "", "")] if entry.doubt else []
    problems += [(kind, found, "") for kind, found in entry.doubts]
    seconds = pace = digest = None
    if problem:
        problems.append((problem, detail, ""))
    elif measures:
        problems += quality.problems_of(outcome.text, measures)
        seconds, pace, digest = measures.seconds, quality.pace(outcome.text, measures), measures.digest
    speaker = entry.speaker
    if split_channels and not speaker and measures and measures.channels > 1 and measures.taken is not None:
        speaker = f"{os.path.splitext(os.path.basename(entry.name))[0]} channel {measures.taken + 1}"
    row = (entry.place, entry.name, entry.text, outcome.text, speaker, entry.split, one.recording)
    alignment = (entry.start, entry.score, entry.moved)
    store.insert("rows", [(outcome.number, *row, seconds, pace, digest, None, None, *alignment)])
    store.insert("problems", [(outcome.number, *found) for found in problems])


# --- Output -----------------------------------------------------------------------------------------------------------


def _write_manifests(store: CorpusStore, prepared: Prepared) -> list[str]:
    """Write the four manifests, with speakers if no two splits share one: train.py refuses shared speakers.

    Returns:
        a note, if they are written without the speakers that are known.
    """
    shared = (
        "SELECT count(*), min(speaker) FROM (SELECT speaker FROM rows WHERE fate = 'kept' AND speaker <> '' "
        "GROUP BY speaker HAVING count(DISTINCT split) > 1)"
    )
    count, first = store.db.execute(shared).fetchone()
    named = not count
    folder = prepared.folder
    query = (
        "SELECT wav, rows.seconds, text, speaker FROM rows JOIN recordings ON recordings.id = recording "
        "WHERE fate = 'kept' AND split IN ({}) ORDER BY number"
    )
    for name, parts in {"train": "'train'", "dev": "'dev'", "train_all": "'train', 'dev'", "test": "'test'"}.items():
        utterances = (
            {"audio_filepath": str(folder / wav), "duration": seconds, "text": text}
            | ({"speaker": speaker} if named and speaker else {})
            for wav, seconds, text, speaker in store.select(query.format(parts))
        )
        manifest.write_manifest(prepared.manifest(name), utterances)
    if named:
        return []
    return [
        f"no speakers in the manifests, since {count:,} are in more than one set ({first}), and training refuses that; "
        "--split speaker keeps each in one set"
    ]


def _count(store: CorpusStore, prepared: Prepared) -> None:
    """Fill the counts, characters and notes of the result."""
    prepared.fates = dict(store.select("SELECT fate, count(*) FROM rows WHERE number > 0 GROUP BY fate"))
    for split in splits.SPLIT_NAMES:
        utterances, seconds, speakers = store.db.execute(
            "SELECT count(*), sum(seconds), count(DISTINCT nullif(speaker, '')) FROM rows "
            "WHERE fate = 'kept' AND split = ?",
            (split,),
        ).fetchone()
        prepared.splits[split] = {"utterances": utterances, "seconds": round(seconds, 2), "speakers": speakers}
    by_kind = dict(store.select("SELECT kind, count(*) FROM problems GROUP BY kind"))
    prepared.problems = {kind: by_kind[kind] for kind in quality.KINDS if kind in by_kind}
    prepared.fixed = dict(store.select("SELECT kind, count(*) FROM problems WHERE done LIKE 'fixed%' GROUP BY kind"))
    in_train = quality.count_letters(store, "fate = 'kept' AND split = 'train'")[1]
    in_all: Counter[str] = in_train + quality.count_letters(store, "fate = 'kept' AND split <> 'train'")[1]
    prepared.labels = sorted({*in_all, " "})
    if unseen := sorted(set(in_all) - set(in_train)):
        prepared.notes.append(f"characters only in dev or test, which can't be learned: {' '.join(unseen)}")
    few = prepared.splits["train"]["speakers"]
    if prepared.split_by == "speaker" and few < 5:
        prepared.notes.append(
            f"{few} speaker{'s' * (few > 1)} to train on: expect a high WER on the others; --split utterance tests on "
            "known speakers"
        )


def _remove_unused(store: CorpusStore, out: Path) -> None:
    """Delete the WAVs that no manifest names."""
    used = "SELECT recording FROM rows WHERE fate = 'kept'"
    for (wav,) in store.select(f"SELECT wav FROM recordings WHERE id NOT IN ({used})"):
        (out / wav).unlink(missing_ok=True)


def _write_note(store: CorpusStore, prepared: Prepared, settings: Settings) -> None:
    """Write `corpus.json`, with the settings that the next preparation and training read."""
    rates = dict(
        store.select(
            "SELECT rate, sum(rows.seconds) FROM rows JOIN recordings ON recordings.id = recording "
            "WHERE fate = 'kept' GROUP BY rate ORDER BY rate"
        )
    )
    note = {
        "name": prepared.folder.name,
        "made_by": _MADE_BY,
        "utterances": {f"{split}_manifest.json": int(part["utterances"]) for split, part in prepared.splits.items()},
        "recordings": prepared.fates["kept"],
        "problems": prepared.problems,
        "format": prepared.format,
        "rule": str(settings.rule),
        "sample_rate": settings.rate,
        "source_rates": {str(rate): round(seconds, 1) for rate, seconds in rates.items()},
        "labels": prepared.labels,
        "split": _split_settings(settings),
        "split_by": prepared.split_by,
    }
    write_if_changed(prepared.folder / manifest.CORPUS_NOTES, json.dumps(note, indent=1, ensure_ascii=False) + "\n")
