"""Write a manifest as shards: the files and notes that `data.shards` reads.

The utterances are shuffled over the shards, so that each is a sample of the corpus, and a training that reads one from
front to back hears all speakers. Of the manifest, only the places of its lines are in memory.
"""

import hashlib
import io
import json
import os
import random
import re
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from joblib.externals.loky import as_completed
from tqdm import tqdm

from asr_with_nemo.base.files import alone_in, reason_of, replacing
from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.base.processes import Workers
from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.data.digests import file_digests, new_md5
from asr_with_nemo.data.object_storage import check_local
from asr_with_nemo.data.shards import (
    FORMAT,
    NOTES,
    QUANTILES,
    RECORDINGS,
    ROW,
    ROWS,
    SPEAKERS,
    TEXTS,
    Shard,
    Shards,
    hashed,
    speaker_hash,
)
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.quality import frames_needed

DEFAULT_SECONDS = 3_600.0
"""Of speech in a shard, about, if their number isn't given: 56 MB."""
_MOST_TEXTS = 50_000
_OURS = re.compile(
    "|".join([r"cuts\.\d+\.jsonl\.gz", r"recording\.\d+\.tar", NOTES, ROWS, RECORDINGS, SPEAKERS, TEXTS])
)
"""The files of a folder of shards."""
_LETTER_TEXT = 200
"""Characters of the text that the notes have for each letter."""


@dataclass
class _Survey:
    """What a first pass over a manifest finds.

    Attributes:
        places: of the lines, in bytes.
        lines: their numbers.
        durations: in seconds.
        symbols: the least number of frames of each.
        letters: letter → how many texts have it, and the first of them.
        speakers: their hashes.
        words, characters: of all texts.
    """

    places: array = field(default_factory=lambda: array("q"))
    lines: array = field(default_factory=lambda: array("q"))
    durations: array = field(default_factory=lambda: array("f"))
    symbols: array = field(default_factory=lambda: array("L"))
    letters: dict[str, list] = field(default_factory=dict)
    speakers: set[int] = field(default_factory=set)
    words: int = 0
    characters: int = 0


def make(
    path: str | os.PathLike,
    out: str | os.PathLike,
    count: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> Shards:
    """Write the utterances of a manifest as shards, and return their notes.

    The folder appears when all of it is written. A run that was interrupted goes on with the shard it was at. Shards
    that were made of an older version of the manifest are replaced.

    Args:
        path: the manifest.
        out: the folder; one that has other files is left alone.
        count: number of shards; by default, an hour of speech each.
        seed: of the order of the utterances.
        workers: number of processes; by default, that of the CPU cores.
        progress: whether to show a bar.
        say: called with a line about what was there already.

    Raises:
        InputError: the manifest or a recording can't be used, or the folder can't be written.
    """
    check_local(
        out,
        "shards are written into a folder of this machine; name one, and copy it then: "
        "aws s3 sync DIR s3://BUCKET/FOLDER",
    )
    path, out = Path(path), Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder")
    if out.exists() and (others := sorted(one.name for one in out.iterdir() if not _OURS.fullmatch(one.name))):
        raise InputError(f"{out}: has other files than shards ({', '.join(others[:3])}); name an empty or a new folder")
    survey = _survey(path)
    rows, seconds = len(survey.places), float(np.sum(survey.durations, dtype=float))
    if count is None:
        count = max(1, min(rows, round(seconds / DEFAULT_SECONDS)))
    if not 1 <= count <= rows:
        raise InputError(f"{path}: has {rows:,} utterances, which can't be {count:,} shards; give a smaller number")
    rate = _rate(path, survey)
    made_of = {"manifest": sha256_of(path), "count": count, "seed": seed, "sample_rate": rate, "format": FORMAT}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    partial = out.with_name(f".{out.name}.partial")
    try:
        with alone_in(out.parent, "is writing shards", say, out.name):
            if there := _there(out, digest, say):
                return there
            _begin(partial, digest)
            shards = _write_all(path, partial, survey, made_of, workers or usable_cores(), progress, say)
            _write_notes(path, out, partial, survey, shards, made_of | {"digest": digest})
            shutil.rmtree(partial / "parts")
            if out.exists():
                shutil.rmtree(out)
            os.replace(partial, out)
    except OSError as error:
        raise InputError(f"{error.filename or out}: can't be written ({reason_of(error)})") from error
    return Shards(out)


def _there(out: Path, digest: str, say: Callable[[str], object]) -> Shards | None:
    """Return the shards of a folder if they are those of a digest and whole; say why they are made again otherwise."""
    if not (out / NOTES).is_file():
        return None
    try:
        there = Shards(out)
        there.check_files()
    except InputError as error:
        say(f"{error}; they are made again")
        return None
    if there.digest == digest:
        say(f"{out}: has these shards already")
        return there
    say(f"{out}: its shards are of another manifest or number; they are made again")
    return None


def default_place(path: str | os.PathLike) -> Path:
    """Return the folder for the shards of a manifest: `shards/train` beside `train_manifest.json`."""
    path = Path(path)
    return path.parent / "shards" / path.stem.removesuffix("_manifest")


def _survey(path: Path) -> _Survey:
    found = _Survey()
    for number, line in manifest.each_line(path):
        row = manifest.parse_line(path, number, line.data)
        text = row["text"]
        found.places.append(line.place)
        found.lines.append(number)
        found.durations.append(row["duration"])
        found.symbols.append(frames_needed(text))
        found.words += len(text.split())
        found.characters += len(text)
        for letter in set(text):
            if letter in found.letters:
                found.letters[letter][0] += 1
            else:
                found.letters[letter] = [1, text]
        if row.get("speaker"):
            found.speakers.add(speaker_hash(row["speaker"]))
    return found


def _rate(path: Path, survey: _Survey) -> int:
    """Return the sample rate of the first recording, which has to be that of all."""
    number, row = next(_rows(path, survey, [0]))
    return manifest.header_of(f"{path}, line {number}: {row['audio_filepath']}", row["audio_filepath"])[1]


def _rows(path: Path, survey: _Survey, places: Sequence[int]) -> Iterator[tuple[int, manifest.Utterance]]:
    """Yield some utterances of a manifest with the numbers of their lines; their paths are absolute."""
    folder = path.parent.absolute()
    with open(path, "rb") as file:
        for place in places:
            file.seek(survey.places[place])
            number = survey.lines[place]
            row = manifest.parse_line(path, number, file.readline())
            yield number, row | {"audio_filepath": str(folder / row["audio_filepath"])}


def _begin(partial: Path, digest: str) -> None:
    """Empty the folder of an interrupted run, unless that wrote the same shards."""
    parts, note = partial / "parts", partial / "digest"
    if not note.is_file() or note.read_text(encoding="ascii") != digest:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        note.write_text(digest, encoding="ascii")
    parts.mkdir(exist_ok=True)


def _write_all(
    path: Path,
    partial: Path,
    survey: _Survey,
    made_of: dict,
    workers: int,
    progress: bool,
    say: Callable[[str], object],
) -> list[dict[str, object]]:
    """Write the shards that aren't written yet, and return the notes on all of them, in their order."""
    order = np.random.default_rng(made_of["seed"]).permutation(len(survey.places))
    parts = [part.tolist() for part in np.array_split(order, made_of["count"])]
    todo = [number for number in range(len(parts)) if not _note_of(partial, number).is_file()]
    if len(todo) < len(parts):
        say(f"{len(parts) - len(todo)} of {len(parts)} shards were written before an interruption")
    jobs = (
        (path, partial, number, list(_rows(path, survey, parts[number])), made_of["sample_rate"]) for number in todo
    )
    with tqdm(desc="shards", total=len(todo), unit="shard", delay=1, disable=not progress) as bar:
        if workers == 1 or len(todo) < 2:
            for job in jobs:
                _write(*job)
                bar.update()
        else:
            _in_processes(jobs, min(workers, len(todo)), bar)
    return [json.loads(_note_of(partial, number).read_text(encoding="utf-8")) for number in range(len(parts))]


def _in_processes(jobs: Iterable[tuple], workers: int, bar: tqdm) -> None:
    """Write shards in worker processes, whose jobs are made as they are needed."""
    pool = Workers(workers)
    pending = set()
    try:
        for job in jobs:
            pending.add(pool.submit(_write, *job))
            while len(pending) > 2 * workers:
                done = next(as_completed(pending))
                done.result()
                pending.remove(done)
                bar.update()
        for done in as_completed(pending):
            done.result()
            bar.update()
    except BrokenProcessPool as error:
        raise InputError(f"a worker process has ended ({error}); try --workers 1") from error
    finally:
        pool.shutdown(kill_workers=True)


def _note_of(partial: Path, number: int) -> Path:
    return partial / "parts" / f"{number:06d}.json"


def _write(path: Path, partial: Path, number: int, rows: list[tuple[int, manifest.Utterance]], rate: int) -> None:
    """Write one shard, and a note when it is complete.

    Raises:
        InputError: a recording can't be used.
        OSError: the shard can't be written.
    """
    from lhotse import Recording, SupervisionSegment
    from lhotse.audio import AudioSource
    from lhotse.shar import SharWriter

    seconds, contents, name = 0.0, set(), f"{number:06d}"
    with SharWriter(partial, fields={"recording": "flac"}, shard_size=None, shard_suffix=f".{name}") as writer:
        for line, row in rows:
            file = row["audio_filepath"]
            where = f"{path}, line {line}: {file}"
            whole = manifest.checked_length(where, file, rate)
            manifest.check_part(where, row, whole)
            samples, sound = audio.load_audio(audio.clip_of(row), rate), io.BytesIO()
            soundfile.write(sound, samples, rate, format="WAV", subtype="FLOAT")
            source = AudioSource("memory", [0], sound.getvalue())  # a file's name might come to a shell
            recording = Recording(str(line), [source], rate, len(samples), len(samples) / rate)
            cut = recording.to_cut()
            cut.id = str(line)
            text = SupervisionSegment(cut.id, recording.id, 0.0, cut.duration, text=row["text"])
            text.speaker, text.language = row.get("speaker"), row.get("lang")
            cut.supervisions = [text]
            writer.write(cut)
            seconds += cut.duration
    files = sorted({Path(row["audio_filepath"]) for _, row in rows})
    contents.update(hashed(one.md5) for one in file_digests(files, path.absolute().parent))
    shard = Shard(name, len(rows), round(seconds, 3), {})
    for written in (shard.cuts, shard.recording):
        with open(partial / written, "rb") as content:
            digest = hashlib.file_digest(content, new_md5).hexdigest()
        shard.files[written] = {"size": (partial / written).stat().st_size, "md5": digest}
    np.save(partial / "parts" / f"{name}.npy", np.array(sorted(contents), dtype=np.uint64))
    with replacing(_note_of(partial, number)) as note:
        note.write_text(json.dumps(asdict(shard)), encoding="utf-8")


def _write_notes(
    path: Path,
    out: Path,
    partial: Path,
    survey: _Survey,
    shards: list[dict[str, object]],
    made_of: dict[str, object],
) -> None:
    """Write the tables, and then the notes that make the folder one of shards."""
    rows = np.empty(len(survey.places), dtype=ROW)
    rows["duration"], rows["symbols"] = survey.durations, survey.symbols
    parts = [np.load(partial / "parts" / f"{one['name']}.npy") for one in shards]
    np.save(partial / ROWS, rows)
    np.save(partial / RECORDINGS, np.unique(np.concatenate(parts)))
    np.save(partial / SPEAKERS, np.array(sorted(survey.speakers), dtype=np.uint64))
    (partial / TEXTS).write_text(
        "".join(f"{text}\n" for text in _sample(path, survey, made_of["seed"])), encoding="utf-8"
    )
    tables = {name: {"size": (partial / name).stat().st_size} for name in (ROWS, RECORDINGS, SPEAKERS, TEXTS)}
    letters = {
        letter: {"count": count, "text": manifest.shortened(text, _LETTER_TEXT)}
        for letter, (count, text) in sorted(survey.letters.items())
    }
    notes = {
        "format": FORMAT,
        "digest": made_of["digest"],
        "manifest": made_of["manifest"],
        "source": os.path.relpath(path.absolute(), out.absolute()),
        "sample_rate": made_of["sample_rate"],
        "rows": len(rows),
        "seconds": round(sum(one["seconds"] for one in shards), 3),
        "words": survey.words,
        "characters": survey.characters,
        "speakers": len(survey.speakers),
        "durations": np.quantile(rows["duration"], np.linspace(0, 1, QUANTILES)).round(3).tolist(),
        "letters": letters,
        "tables": tables,
        "shards": shards,
    }
    (partial / "digest").unlink()
    (partial / NOTES).write_text(json.dumps(notes, ensure_ascii=False, indent=1), encoding="utf-8")


def _sample(path: Path, survey: _Survey, seed: int) -> Iterator[str]:
    """Yield texts in the order of the manifest, at most `_MOST_TEXTS`; then for each letter without one, one."""
    rows, lacking = len(survey.places), set(survey.letters)
    places = range(rows)
    if rows > _MOST_TEXTS:
        places = sorted(random.Random(seed).sample(places, _MOST_TEXTS))
    for _, row in _rows(path, survey, places):
        lacking.difference_update(row["text"])
        yield " ".join(row["text"].splitlines())
    for letter in sorted(lacking):
        if letter in lacking:  # no text since has it
            text = survey.letters[letter][1]
            lacking.difference_update(text)
            yield " ".join(text.splitlines())
