"""A manifest with more rows than memory is to hold: which recordings it names, and which of them are done."""

import json
import tracemalloc
from pathlib import Path

import pytest

from asr_with_nemo.base import spool
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import destinations, recordings
from asr_with_nemo.recognition.formats import FORMATS
from asr_with_nemo.recognition.text_shards import Shards
from asr_with_nemo.recognition.transcripts import Transcript
from tests.conftest import put

ROWS = 1_000


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of 1,000 parts of recordings that aren't there, of which 50 fit into memory."""
    monkeypatch.setattr(spool, "IN_MEMORY", 50)
    rows = [{"audio_filepath": f"a{row}.wav", "offset": 0.5, "duration": 1.0, "text": "go"} for row in range(ROWS)]
    return put(tmp_path / "rows.json", "".join(f"{json.dumps(row)}\n" for row in rows))


def transcribed(path: Path) -> list[str]:
    """Write a text for each recording, as the command does, and return the lines."""
    output = path.with_name("texts.jsonl")
    place = destinations.destination(FORMATS["jsonl"], recordings.find([str(path)]), output, None, {})
    for recording in place.pending:
        place.add(recording, Transcript("go", [], 1.0))
    place.finish()
    return output.read_text().splitlines()


def test_a_long_manifest_is_not_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = transcribed(path)
    assert [json.loads(line)["file"] for line in lines] == [one.name for one in recordings.find([str(path)])]
    monkeypatch.setattr(Path, "read_text", lambda _: "")
    tracemalloc.start()
    transcribed(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 300_000  # as a list, the recordings alone take 500,000


def test_of_a_long_manifest_what_is_done_is_left_out(path: Path):
    found, output = recordings.find([str(path)]), path.with_name("texts.jsonl")
    first = destinations.destination(FORMATS["jsonl"], found, output, None, {})
    for recording in found[100:]:
        first.add(recording, Transcript("go", [], 1.0))
    again = destinations.destination(FORMATS["jsonl"], found, output, None, {})
    assert list(again.pending) == found[:100]


def test_shards_of_a_long_manifest(path: Path):
    found, shards = recordings.find([str(path), str(path)]), Shards(path.parent / "shards", {})
    pending, total = shards.pending(found)
    assert pending.tolist() == list(range(ROWS)) and total == ROWS  # what is named twice is done once
    shards.write(0, [recordings.id_of(found[7])], ['{"id": "7"}'])
    again = Shards(path.parent / "shards", {})
    assert again.pending(found)[0].tolist() == [*range(7), *range(8, ROWS)]


def test_a_line_of_a_manifest_that_is_no_text_is_named(path: Path):
    path.write_bytes(path.read_bytes() + b'{"audio_filepath": "\xff.wav"}\n')
    with pytest.raises(InputError, match=f"rows.json, line {ROWS + 1}: can't be read as a manifest"):
        recordings.find([str(path)])
