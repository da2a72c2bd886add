# ruff: noqa: SIM905 (a list of words reads better as text)
"""Small synthetic corpora: recordings of noise with the loudness of words, no two of them alike."""

import csv
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from asr_with_nemo.own_data import formats, preparation
from asr_with_nemo.own_data.prepared import Prepared, Settings
from asr_with_nemo.own_data.sources import Entry, Source
from asr_with_nemo.own_data.store import CorpusStore

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards quietly judge my vow box".split(" ")


def sentence(number: int, words: int = 4) -> str:
    return " ".join(random.Random(number).choices(WORDS, k=words))


def samples(seed: object, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    generator = np.random.default_rng(random.Random(str(seed)).getrandbits(32))
    count = int(seconds * rate)
    loudness = np.abs(np.sin(np.linspace(0, 9, count))) + 0.1
    return (0.1 * generator.normal(size=count) * loudness).astype(np.float32)


def record(path: Path, seconds: float = 1.0, rate: int = 16_000, **settings: object) -> Path:
    """Write a recording whose samples depend on its name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples(path.name, seconds, rate), rate, **settings)
    return path


def with_table(folder: Path, rows: Sequence[Sequence[str]], name: str = "table.csv", **settings: object) -> Path:
    """Write a folder with a table, in UTF-8."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, **settings).writerows(rows)
    return folder


def good_rows(folder: Path, count: int = 30, speakers: int = 6) -> list[tuple[str, str, str]]:
    """Write recordings, and return their rows: path, text and speaker."""
    for number in range(count):
        record(folder / "audio" / f"r{number}.wav", 1.2)
    return [(f"audio/r{number}.wav", sentence(number), f"speaker{number % speakers}") for number in range(count)]


HEADER = ("path", "text", "speaker")


def prepare(source: Path, out: Path, workers: int = 1, **settings: object) -> Prepared:
    return preparation.prepare(source, out, Settings(**settings), workers, progress=False)


def fates(prepared: Prepared) -> dict[str, dict[str, str]]:
    """Return the rows of rows.tsv by their recording."""
    with open(prepared.rows_file, encoding="utf-8", newline="") as file:
        return {row["recording"]: row for row in csv.DictReader(file, delimiter="\t")}


def utterances(prepared: Prepared, split: str = "train") -> list[dict]:
    lines = prepared.manifest(split).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def everything(prepared: Prepared) -> list[dict]:
    return [utterance for split in ("train", "dev", "test") for utterance in utterances(prepared, split)]


def texts(prepared: Prepared) -> set[str]:
    return {utterance["text"] for utterance in everything(prepared)}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the modification time and size of each file of a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def read(path: Path, **settings: object) -> tuple[list[Entry], str]:
    """Return the entries of a source and what was said about it, without converting a recording."""
    with tempfile.TemporaryDirectory() as scratch, CorpusStore(Path(scratch) / "corpus.sqlite") as store:
        source = Source(path, store, scratch=Path(scratch), **settings)
        store.list_files(source.root, Path(scratch).resolve())
        return list(formats.read(source, formats.detect(source))), "\n".join(source.notes)


def times(entry: Entry) -> tuple[float, float | None]:
    """Return the start of an entry and its length, in seconds."""
    return round(entry.start, 4), None if entry.seconds is None else round(entry.seconds, 4)
