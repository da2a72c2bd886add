"""Readers of public corpora's layouts: LibriSpeech and LibriTTS, Kaldi, Lhotse manifests, and Hugging Face data sets.

LibriSpeech and Kaldi are streamed, since they can be huge. Lhotse has recipes for a hundred more corpora, but it holds
a corpus in memory, runs the commands in a Kaldi `wav.scp`, and skips missing files silently; so it is used only for its
recipes, and the manifests that they write are streamed here.
"""

import io
import json
import math
import os
import re
import traceback
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from asr_with_nemo.base.files import open_gzip
from asr_with_nemo.base.values import is_whole
from asr_with_nemo.data import lhotse_sound
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import channels, commands, tables, text_files, time_columns
from asr_with_nemo.own_data.sources import Entry, Finder, Missing, Source, split_of
from asr_with_nemo.own_data.store import clean_text

if TYPE_CHECKING:
    from pyarrow import NativeFile, RecordBatch
    from pyarrow.ipc import RecordBatchFileReader, RecordBatchStreamReader

# --- LibriSpeech ------------------------------------------------------------------------------------------------------


def read_librispeech(source: Source) -> Iterator[Entry]:
    """Read `SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, lines of `ID TEXT`, and `ID.flac` in the same folder.

    LibriTTS has `SPEAKER_CHAPTER.trans.tsv` instead, with the text as printed and normalised; the latter is read.
    """
    finder = Finder(source)
    query = "SELECT path FROM files WHERE name LIKE '%.trans.txt' OR name LIKE '%.trans.tsv' ORDER BY path"
    for (path,) in source.store.select(query):
        whole = source.root / path
        lines = text_files.Lines(whole, source.encoding or text_files.encoding_of(whole))
        for line in lines:
            if path.lower().endswith(".tsv"):
                name, *texts = (cell.strip() for cell in clean_text(line).split("\t"))
                text = texts[-1] if texts else ""
            else:
                name, _, text = clean_text(line).strip().partition(" ")
            if not name:
                continue
            place = f"{path}, line {lines.number}"
            audio = finder.find(name, whole.parent)
            doubt = lines.doubt()
            speaker = re.split("[-_]", name)[0]
            named = {"place": place, "text": text, "speaker": speaker, "split": _part_of(path), "doubt": doubt}
            if isinstance(audio, Missing):
                yield Entry(**named, name=name, problem=audio.problem, detail=audio.detail)
            else:
                yield Entry(**named, audio=str(audio), name=source.name_of(audio))


def _part_of(path: str) -> str:
    return next((split for folder in Path(path).parts[:-1] if (split := split_of(folder))), "")


DEPTHS = ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/")
"""Patterns of the folders in which Kaldi's data may be: ESPnet has them in `dump/raw/org/train`."""


# --- Kaldi ------------------------------------------------------------------------------------------------------------


def read_kaldi(source: Source) -> Iterator[Entry]:
    """Read data folders with `wav.scp`, `text`, and optionally `segments`, `utt2spk` and `reco2file_and_channel`.

    A command in `wav.scp` is never run: the recording that it names is read, and the part or the channel that the
    command would take.

    Raises:
        InputError: no folder has both `wav.scp` and `text`.
    """
    folders = sorted({path.parent for depth in DEPTHS for path in source.path.glob(f"{depth}wav.scp")})
    with_text = [folder for folder in folders if (folder / "text").is_file()]
    source.notes += [
        f"not read: {source.name_of(folder)} has no file text" for folder in folders if folder not in with_text
    ]
    if not with_text:
        found = f"{len(folders)} with wav.scp only" if folders else "none"
        raise InputError(f"{source.path}: expected Kaldi folders with wav.scp and text; found {found}")
    for folder in with_text:
        split = split_of(folder.name) if len(with_text) > 1 else ""
        yield from _read_kaldi_folder(source, folder, split)


def _read_kaldi_folder(source: Source, folder: Path, split: str) -> Iterator[Entry]:
    """Join the folder's files by their ids in the database, since they may differ in order and exceed the memory."""
    database = source.store.db
    for name in ("wav.scp", "segments", "utt2spk", "reco2file_and_channel"):
        table = name.replace(".", "_")
        database.execute(f"DROP TABLE IF EXISTS temp.{table}")
        database.execute(f"CREATE TEMP TABLE {table} (id TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        if (folder / name).is_file():
            pairs = ((name, value) for _, name, value, _ in _pairs(source, folder / name))
            database.executemany(f"INSERT OR IGNORE INTO temp.{table} VALUES (?, ?)", pairs)
    finder = Finder(source)
    has_segments = (folder / "segments").is_file()
    for line, name, text, doubt in _pairs(source, folder / "text"):
        place = f"{source.name_of(folder / 'text')}, line {line}"

        def value(table: str, of: str) -> str:
            return source.store.value(f"SELECT value FROM temp.{table} WHERE id = ?", (of,)) or ""

        speaker = value("utt2spk", name)
        named = {"place": place, "text": text, "speaker": speaker, "split": split, "doubt": doubt}
        recording, start, seconds, channel = name, 0.0, None, None
        if has_segments:
            try:
                recording, start, end, *of_line = value("segments", name).split()
                start, seconds = float(start), (float(end) - float(start) if float(end) >= 0 else None)
                if not math.isfinite(start + (seconds or 0.0)):
                    raise ValueError("a time is no number")
                # In segments, Kaldi counts channels from 0.
                is_number = bool(of_line) and of_line[0].isdecimal()
                channel = int(of_line[0]) if is_number else _channel(value("reco2file_and_channel", recording))
            except ValueError:
                yield Entry(**named, name=name, problem="broken row", detail=f"segments has no valid line for {name}")
                continue
        written = value("wav_scp", recording)
        audio = _of_scp(written, finder, folder) if written else Missing(f"wav.scp has no entry {recording}")
        if isinstance(audio, Missing):
            yield Entry(**named, name=name, problem=audio.problem, detail=audio.detail)
            continue
        path, effect = audio
        channel = effect.channel if channel is None else channel
        if effect.seconds is not None and seconds is not None:
            seconds = min(seconds, max(0.0, effect.seconds - start))
        elif effect.seconds is not None:
            seconds = max(0.0, effect.seconds - start)
        where = {"start": effect.start + start, "seconds": seconds, "channel": channel}
        yield Entry(**named, audio=str(path), name=source.name_of(path), **where)


def _pairs(source: Source, path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield line number, first word, rest, and doubt (`text_files.Lines.doubt`) of each line of a Kaldi file."""
    lines = text_files.Lines(path, source.encoding or text_files.encoding_of(path))
    for line in lines:
        name, _, value = clean_text(line).strip().replace("\t", " ").partition(" ")
        if name:
            yield lines.number, name, value.strip(), lines.doubt()


def _channel(line: str) -> int | None:
    return channels.number_of(line.split()[-1]) if line.strip() else None


def _of_scp(written: str, finder: Finder, folder: Path) -> tuple[Path, commands.Effect] | Missing:
    """Return the recording that an entry of `wav.scp` names, and which part of it."""
    if not written.endswith("|"):
        if re.search(r"\.ark:\d+$", written):
            return Missing(f"{written} is a Kaldi archive; write its recordings as files (wav-copy)")
        return _found(written, finder, folder, commands.Effect())
    try:
        effect = commands.understand(written)
    except commands.NotUnderstood as error:
        return Missing(f"a command, which isn't run ({error}): {written}; name the sound file instead")
    return _found(effect.file, finder, folder, effect)


def _found(name: str, finder: Finder, folder: Path, effect: commands.Effect) -> tuple[Path, commands.Effect] | Missing:
    found = finder.find(name, folder)
    if isinstance(found, Missing) and os.path.isfile(name):  # Kaldi's paths are relative to where it runs
        found = Path(name).absolute()
    return found if isinstance(found, Missing) else (found, effect)


# --- Lhotse -----------------------------------------------------------------------------------------------------------


def are_cuts(path: Path) -> bool:
    """Return whether a file holds Lhotse's cuts, by its first line."""
    try:
        _, first = next(_json_lines(path), (0, None))
    except InputError:
        return False
    return isinstance(first, dict) and str(first.get("type", "")).endswith("Cut")


def cuts_of(folder: Path) -> list[Path]:
    """Return the files of a folder with Lhotse's cuts."""
    return [path for path in sorted(folder.glob("*cuts*.jsonl*")) if are_cuts(path)]


def read_lhotse(source: Source) -> Iterator[Entry]:
    """Read Lhotse's manifests: recordings and supervisions, or else cuts; with a recipe, those that it writes.

    Raises:
        InputError: there are no such manifests, they can't be read, or the recipe fails.
    """
    folder = _run_recipe(source) if source.recipe else source.root
    recordings = sorted([*folder.glob("*recordings*.jsonl*"), *folder.glob("*recordings*.json")])
    supervisions = sorted([*folder.glob("*supervisions*.jsonl*"), *folder.glob("*supervisions*.json")])
    is_named = source.path.is_file() and not source.recipe
    if is_named and not are_cuts(source.path):
        next(_json_lines(source.path), None)  # a file that can't be read is named so
        raise InputError(
            f"{source.path}: expected Lhotse's cuts; name the folder to read recordings and supervisions, or the table "
            "itself with --format csv"
        )
    cuts = [source.path] if is_named else cuts_of(folder)
    if not is_named and recordings and supervisions:
        source.notes += [f"not read: {path.name}, cuts beside supervisions" for path in cuts]
        yield from _of_supervisions(source, folder, recordings, supervisions)
    elif cuts:
        finder = Finder(source)
        source.store.db.execute("CREATE TEMP TABLE IF NOT EXISTS said (key TEXT PRIMARY KEY) WITHOUT ROWID")
        for path in cuts:
            source.notes.append(f"read {path.name}, cuts of Lhotse")
            for line, one in _json_lines(path):
                yield from _of_cut(source, finder, path, line, one)
    else:
        raise InputError(
            f"{folder}: expected Lhotse's manifests, *recordings*.jsonl.gz and *supervisions*.jsonl.gz, or cuts"
        )


def _of_supervisions(source: Source, folder: Path, recordings: list[Path], supervisions: list[Path]) -> Iterator[Entry]:
    database = source.store.db
    database.execute("DROP TABLE IF EXISTS temp.sounds")
    database.execute("CREATE TEMP TABLE sounds (id TEXT PRIMARY KEY, path TEXT) WITHOUT ROWID")
    for path in recordings:
        sounds = ((str(one.get("id", "")), _sound_of(one)) for _, one in _json_lines(path))
        database.executemany("INSERT OR IGNORE INTO temp.sounds VALUES (?, ?)", sounds)
    finder = Finder(source)
    for path in supervisions:
        for line, one in _json_lines(path):
            name = str(one.get("recording_id", ""))
            written = source.store.value("SELECT path FROM temp.sounds WHERE id = ?", (name,))
            yield _of_supervision(source, finder, path, f"{path.name}, line {line}", one, name, written or "")


def _of_cut(source: Source, finder: Finder, path: Path, line: int, cut: dict) -> Iterator[Entry]:
    """Yield the entries of a cut, whose supervisions have times from its start; one in several cuts is read once."""
    place = f"{path.name}, line {line}"
    recording, said = cut.get("recording"), cut.get("supervisions")
    if not isinstance(recording, dict) or not isinstance(said, list):
        kind = f"a {cut['type']}, not read" if cut.get("type") else "not a cut"
        yield Entry(place, name=str(cut.get("id", "")), problem="broken row", detail=kind)
        return
    for one in said:
        try:
            start = max(0.0, round(float(cut.get("start") or 0) + float(one.get("start") or 0), 6))
            one = {"channel": cut.get("channel"), **one, "start": start}
        except (TypeError, ValueError, AttributeError, OverflowError):
            yield Entry(place, name=str(cut.get("id", "")), problem="broken row", detail=f"not read: {str(one)[:80]}")
            continue
        if one.get("id") is not None:
            key = json.dumps([path.name, recording.get("id"), one["id"], round(start, 2), one["channel"]])
            if not source.store.db.execute("INSERT OR IGNORE INTO temp.said VALUES (?)", (key,)).rowcount:
                continue
        yield _of_supervision(source, finder, path, place, one, str(recording.get("id")), _sound_of(recording))


def _sound_of(recording: dict) -> str:
    """Return the path of a recording of Lhotse's; "" for one in memory or in an archive."""
    sources = recording.get("sources")
    first = sources[0] if isinstance(sources, list) and sources and isinstance(sources[0], dict) else {}
    return str(first.get("source") or "") if first.get("type") == "file" else ""


def _of_supervision(
    source: Source, finder: Finder, path: Path, place: str, one: dict, recording: str, written: str
) -> Entry:
    custom = one.get("custom")
    text = one.get("text") or (custom.get("normalized_text") if isinstance(custom, dict) else "") or ""
    named = {
        "place": place,
        "text": clean_text(str(text)),
        "speaker": clean_text(str(one.get("speaker") or "")),
        "split": split_of(re.sub("supervisions|cuts", "", path.name)),
    }
    audio = finder.find(written, path.parent)
    if isinstance(audio, Missing):
        return Entry(**named, name=recording, problem=audio.problem, detail=audio.detail)
    try:
        start, seconds = float(one.get("start") or 0), float(one["duration"]) if one.get("duration") else None
    except (TypeError, ValueError, OverflowError):
        return Entry(**named, name=recording, problem="bad times", detail="its start or duration is no number")
    channel = one.get("channel")
    channel = channel[0] if isinstance(channel, list) and len(channel) == 1 else channel
    return Entry(
        **named,
        audio=str(audio),
        name=source.name_of(audio),
        start=start,
        seconds=seconds,
        channel=channel if is_whole(channel) and channel >= 0 else None,
    )


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        with (
            open_gzip(path) if path.suffix == ".gz" else open(path, "rb") as opened,
            io.TextIOWrapper(opened, encoding="utf-8") as file,
        ):
            if path.suffix == ".json":
                found = enumerate(json.load(file), 1)
            else:
                found = ((number, json.loads(line)) for number, line in enumerate(file, 1) if line.strip())
            for number, one in found:
                if not isinstance(one, dict):
                    raise ValueError(f"line {number} is no object")
                yield number, one
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError, zlib.error) as error:
        raise InputError(f"{path}: can't be read as a Lhotse manifest ({error})") from error


_ARROW_FILE = b"ARROW1"  # how Arrow's file format begins
_OF_A_SHELL = ("broadcast_news",)
"""Recipes of Lhotse 1.33 that put names of files into a command line."""


def _run_recipe(source: Source) -> Path:
    from lhotse import recipes

    known = sorted(name.removeprefix("prepare_") for name in vars(recipes) if name.startswith("prepare_"))
    if source.recipe not in known:
        raise InputError(f"--recipe {source.recipe}: unknown to Lhotse; expected one of {', '.join(known)}")
    if source.recipe in _OF_A_SHELL:
        raise InputError(
            f"--recipe {source.recipe}: Lhotse's recipe hands names of the corpus's files to a shell, so it isn't run "
            "here; run it yourself where no harm can come of it, and give the folder of its manifests with "
            "--format lhotse"
        )
    folder = source.scratch / "lhotse"
    lhotse_sound.decode_here()
    try:
        getattr(recipes, f"prepare_{source.recipe}")(source.path, output_dir=folder)
    except Exception as error:  # recipes raise exceptions of any type
        where = traceback.extract_tb(error.__traceback__)[-1].line or ""
        raise InputError(
            f"{source.path}: Lhotse's recipe {source.recipe} fails: {str(error) or where} ({type(error).__name__}); "
            "check that the folder is as the corpus was published"
        ) from error
    source.notes.append(f"read by Lhotse's recipe {source.recipe}")
    return folder


def not_read(folder: Path) -> Iterator[str]:
    """Yield what a folder of translated speech is, whose layout isn't read here, and what to do."""
    shallow = ("", "*/", "*/*/", "*/*/*/")
    for depth in shallow:
        if path := next(folder.glob(f"{depth}txt/*.yaml"), None):
            yield (
                f"{path.relative_to(folder)}: MuST-C's times, beside texts a line each, which Lhotse reads: --recipe "
                "must_c, or write a table of file, start, duration, text"
            )
            return
        if path := next(folder.glob(f"{depth}segments.lst"), None):
            yield (
                f"{path.relative_to(folder)}: Europarl-ST's times, beside texts a line each (segments.en), not read; "
                "join them to a table of file, start, end, text"
            )
            return


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def read_hugging_face(source: Source) -> Iterator[Entry]:
    """Read a data set saved with `save_to_disk`, or downloaded Parquet files.

    Raises:
        InputError: there is no data set, it can't be read, or lacks a column of recordings or transcripts.
    """
    finder = Finder(source)
    parts = _parts(source.path)
    if not parts:
        raise InputError(
            f"{source.path}: expected a data set saved with save_to_disk (dataset_info.json), or .parquet files"
        )
    for name, files, features in parts:
        split = split_of(name) if len(parts) > 1 else ""
        number, said = 0, ""
        of_columns: dict[tuple[str, ...], tables.Table] = {}
        for file in files:
            for batch, schema_features in _batches(file):
                known, columns = features or schema_features, tuple(batch.schema.names)
                if columns not in of_columns:
                    of_columns[columns] = _table(source, file, list(columns), known)
                    _check(of_columns[columns], batch)
                table = replace(of_columns[columns], path=file)
                if table.what_is_read() != said:
                    said = table.what_is_read()
                    source.notes += [f"read {name} ({said})", *table.notes]
                for cells in batch.select(list(table.roles.values())).to_pylist():
                    yield _of_cells(f"{name}, row {number}", cells, table, known, finder, split)
                    number += 1
        if len(folders := sorted({source.name_of(file.parent) for file in files})) > 1:
            source.notes.append(f"the part {name} is of several folders, read as one: {', '.join(folders[:8])}")


def _parts(path: Path) -> list[tuple[str, list[Path], dict]]:
    """Return name, files and features of each part of a data set."""
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        return [(path.stem, [path], {})]
    infos = sorted([*folder.glob("dataset_info.json"), *folder.glob("*/dataset_info.json")])
    parts = []
    for info in infos:
        try:
            state = json.loads(info.with_name("state.json").read_text(encoding="utf-8"))
            files = [info.parent / Path(one["filename"]).name for one in state["_data_files"]]
            features = json.loads(info.read_text(encoding="utf-8")).get("features") or {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{info.parent}: can't be read as a data set saved with save_to_disk ({error!r})"
            ) from error
        parts.append((info.parent.name, files, features))
    if parts:
        return parts
    by_name: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")) or _arrow_files(folder):
        by_name.setdefault(re.sub(r"[-_]\d+[-_]of[-_]\d+.*", "", file.stem), []).append(file)
    return [(name, files, {}) for name, files in by_name.items()]


def there_are_data_sets(folder: Path) -> bool:
    """Return whether a folder has files of Parquet or Arrow."""
    parquet = (folder.glob(f"{depth}*.parquet") for depth in ("", "*/", "*/*/"))
    return any(next(found, None) for found in parquet) or bool(_arrow_files(folder))


def _arrow_files(folder: Path) -> list[Path]:
    """Return a folder's files of Arrow, but for the data sets library's lists of chosen rows."""
    found = (path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}*.arrow"))
    return sorted(path for path in found if not path.name.startswith(("cache-", "indices")))


def _batches(file: Path) -> Iterator[tuple]:
    """Yield the record batches of an Arrow or Parquet file, each with the features that its schema names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def features(schema: pa.Schema) -> dict:
        try:
            found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    try:
        if file.suffix == ".parquet":
            parquet = pq.ParquetFile(file)
            batches: Iterable = parquet.iter_batches(batch_size=64)
            noted = features(parquet.schema_arrow)
            yield from ((batch, noted) for batch in batches)
            return
        # Not memory-mapped: mapped pages count as used memory, which would grow with the data set.
        with pa.OSFile(str(file)) as stream, _reader(stream) as reader:
            count = getattr(reader, "num_record_batches", None)  # of a file, whose batches are read by number
            for batch in reader if count is None else map(reader.get_batch, range(count)):
                batch.validate(full=True)  # one that is damaged could end this process
                yield from ((batch.slice(start, 64), features(reader.schema)) for start in range(0, batch.num_rows, 64))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: can't be read as a data set ({error})") from error


def _reader(stream: "NativeFile") -> "RecordBatchStreamReader | RecordBatchFileReader":
    """Open Arrow's stream, as the data sets library saves it, or its file format, as Arrow's and pandas' Feather do."""
    import pyarrow as pa

    is_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
    stream.seek(0)
    return pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)


def _table(source: Source, file: Path, columns: list[str], features: dict) -> tables.Table:
    """Return the columns of a data set with their roles."""
    sounds = [column for column in columns if _kind(features, column) == "Audio"]
    table = tables.Table(file, columns=[column for column in columns if column not in sounds[1:]])
    roles = tables.named_roles(table, source.columns)
    if sounds and "audio" not in roles:
        roles["audio"] = sounds[0]
    table.roles = roles
    for role in ("audio", "text", "speaker", "split", "channel"):
        named = [column for name in tables.ROLES[role] for column in table.columns if tables.plain(column) == name]
        named = [column for column in named if column not in roles.values()]
        if role not in roles and named:
            roles[role] = named[0]
    for role in ("audio", "text"):
        if role not in roles:
            raise InputError(f"{file}: no column of {role} found among {', '.join(columns)}; give --{role}-column")
    tables.find_times(table)
    return table


def _check(table: tables.Table, batch: "RecordBatch") -> None:
    """Check the columns of times and channels by the first rows, as those of other tables."""
    roles = [column for role, column in table.roles.items() if role in ("start", "end", "seconds", "channel")]
    rows = batch.select(roles).to_pylist()
    texts = [{column: tables.as_text(value) for column, value in row.items()} for row in rows]
    time_columns.check(table, texts)
    tables.check_channels(table, rows)
    table.notes += [f"not understood: column {column!r}, a time?" for column in table.unread]


def _kind(features: dict, column: str) -> str:
    feature = features.get(column)
    return feature.get("_type", "") if isinstance(feature, dict) else ""


def _of_cells(place: str, cells: dict, table: tables.Table, features: dict, finder: Finder, split: str) -> Entry:
    def text(role: str) -> str:
        column = table.roles.get(role, "")
        value = cells.get(column)
        if _kind(features, column) == "ClassLabel" and is_whole(value) and value >= 0:
            value = features[column]["names"][value]
        return clean_text(tables.as_text(value))

    named = {
        "place": place,
        "text": text("text"),
        "speaker": text("speaker"),
        "split": split_of(text("split")) or split,
    }
    sound = cells.get(table.roles["audio"])
    name = clean_text(str(sound.get("path") or place)) if isinstance(sound, dict) else place
    inside = sound if isinstance(sound, bytes) else sound.get("bytes") if isinstance(sound, dict) else None
    if inside:  # it is the utterance itself, cut from a recording whose times may be there
        return Entry(**named, audio=inside, name=f"{place}: {Path(name).name}" if name != place else place)
    if isinstance(sound, dict) and sound.get("array") is not None:
        try:
            return Entry(**named, audio=_wav_of(sound["array"], sound.get("sampling_rate")), name=place)
        except ValueError as error:
            return Entry(**named, name=place, problem="unreadable", detail=str(error))
    if isinstance(sound, list):
        return Entry(**named, name=place, problem="unreadable", detail="samples without a sampling rate")
    if isinstance(sound, dict) and "path" not in sound:
        detail = f"expected path, bytes, or array and sampling_rate; there are {', '.join(sound)}"
        return Entry(**named, name=place, problem="unreadable", detail=detail)
    audio = finder.find(tables.as_text(sound), table.path.parent)
    if isinstance(audio, Missing):
        return Entry(**named, name=name, problem=audio.problem, detail=audio.detail)
    try:
        start, seconds = table.part_of({role: text(role) for role in table.roles})
    except ValueError as error:
        return Entry(**named, name=name, problem="broken row", detail=f"{error}, in a time's column")
    channel = channels.number_of(text("channel"), table.first_channel)
    where = {"start": start, "seconds": seconds, "channel": channel}
    return Entry(**named, audio=str(audio), name=finder.source.name_of(audio), **where)


def _wav_of(array: object, given: object) -> bytes:
    """Return decoded samples, (T,), (T, channels) or (channels, T), floats or whole numbers, as a WAV.

    Raises:
        ValueError: they are no samples, or have no rate.
    """
    try:
        rate = int(float(given)) if float(given).is_integer() else 0
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if not 1_000 <= rate <= 384_000:
        raise ValueError(f"samples without a valid sampling rate ({str(given)[:20]})")
    samples = np.asarray(array)
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf" or not samples.size:
        raise ValueError(f"samples of the shape {samples.shape} and the kind {samples.dtype}")
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.dtype.kind in "iu" and samples.min() >= 0 and samples.max() <= 255 and 64 < samples.mean() < 192:
        samples = (samples - 128.0) / 128  # unsigned bytes
    if samples.dtype.kind in "iu":
        largest = int(np.abs(samples.astype(np.int64)).max())
        samples = samples / (1 << 15 if largest < 1 << 15 else 1 << 31)
    wav = io.BytesIO()
    soundfile.write(wav, samples.astype(np.float32), rate, format="WAV", subtype="FLOAT")
    return wav.getvalue()
