"""Thousands of hours, in small: shards of transcripts by processes of this machine, and what may die on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.deployment import transcriber
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import model_path
from asr_with_nemo.recognition import bulk
from asr_with_nemo.recognition.recordings import find
from asr_with_nemo.recognition.text_shards import Shards, Tally
from tests.conftest import ROOT, run_script
from tests.recognition.in_process import error_of
from tests.storage_server import storage


@pytest.fixture
def recordings(small_corpus: an4.Corpus, tmp_path: Path) -> Path:
    """A folder of 24 recordings, and one that isn't sound."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, row in enumerate(manifest.read_manifest(small_corpus.manifest("train"))[:24]):
        shutil.copy(row["audio_filepath"], folder / f"{number:02}.wav")
    (folder / "bad.wav").write_text("dear friend")
    return folder


def rows_of(place: Path) -> list[dict]:
    """Return the lines of all shards."""
    return [json.loads(line) for path in sorted(place.glob("*.jsonl")) for line in path.read_text().splitlines()]


def texts_of(place: Path) -> dict[str, str]:
    """Return the texts by the recordings' names; each recording has to have one line."""
    rows = rows_of(place)
    assert not [name for name, count in Counter(row["file"] for row in rows).items() if count > 1]
    return {row["file"]: row.get("text", "error") for row in rows}


def load():
    return transcriber.load("an4")


def test_shards_have_each_recording_once_with_the_texts_of_the_plain_command(recordings: Path, tmp_path: Path):
    plain = run_script("transcribe.py", "an4", "in", "--output", "plain.jsonl", cwd=tmp_path)
    expected = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    assert plain.returncode == 1
    done = run_script("transcribe.py", "an4", "in", "in/03.wav", "--shards", "out", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 1 and "error: 1 of 25 files can't be read" in done.stderr and "bad.wav: " in done.stderr
    assert len(list((tmp_path / "out").glob("*.jsonl"))) > 4
    texts = texts_of(tmp_path / "out")
    assert texts.pop("in/bad.wav") == "error"
    assert texts == {row["file"]: row["text"] for row in expected}
    again = run_script("transcribe.py", "an4", "in", "--shards", "out", cwd=tmp_path)
    assert again.returncode == 1 and "25 of 25 recordings were done before (0.0" in again.stderr
    shutil.copy(recordings / "03.wav", recordings / "new.wav")
    run_script("transcribe.py", "an4", "in", "--shards", "out", cwd=tmp_path)
    assert texts_of(tmp_path / "out")["in/new.wav"] == texts["in/03.wav"]
    other = run_script("transcribe.py", "an4", "in", "--shards", "out", "--boost", "go", cwd=tmp_path)
    assert other.returncode == 1 and "error: out: its shards were made with another model" in other.stderr


def test_a_command_that_is_killed_goes_on_and_nothing_is_done_twice(recordings: Path, tmp_path: Path):
    for number in range(20):
        for path in sorted(recordings.glob("0?.wav")):
            os.link(path, recordings / f"{path.stem}-{number}.wav")
    command = [sys.executable, str(ROOT / "scripts" / "transcribe.py"), "an4", "in", "--shards", "out"]
    out = tmp_path / "out"
    for shards in (1, 4):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        try:
            while process.poll() is None and len(list((out / ".progress" / "ids").glob("*[0-9].parquet"))) < shards:
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait(timeout=60)  # on a slow machine it may have ended before
    # As if the second had been killed between the two phases of a shard.
    whole = sorted(out.glob("*.jsonl"))[0]
    killed = "20261128T000000-abcdef-000000"
    shutil.copy(whole, out / f"{killed}.jsonl")
    shutil.copy(
        out / ".progress" / "ids" / f"{whole.stem}.parquet", out / ".progress/ids" / f"{killed}.pending.parquet"
    )
    lost = sorted(out.glob("2*.jsonl"))[1]
    lost.write_text("")  # as a machine may leave it that has lost its power
    (out / "all.jsonl").write_text("the user's own\n")
    done = run_script("transcribe.py", "an4", tmp_path / "in", "--shards", "out", cwd=tmp_path)  # by another name
    assert "of 225 recordings were done before" in done.stderr
    assert "out: 1 shards were missing or cut short" in done.stderr
    assert (out / "all.jsonl").read_text() == "the user's own\n"
    (out / "all.jsonl").unlink()
    texts = texts_of(out)
    assert len(texts) == 225 and {texts[f"in/03-{number}.wav"] for number in range(20)} == {texts["in/03.wav"]}


def test_a_command_that_another_has_replaced_writes_nothing_more(recordings: Path, tmp_path: Path):
    first = Shards(tmp_path / "out", {})
    Shards(tmp_path / "out", {})
    with pytest.raises(InputError, match="another command has begun to write here"):
        first.write(0, ["a"], ['{"id": "a"}'])
    assert not list((tmp_path / "out").glob("*.jsonl"))


def load_deadly():
    """Load a decoder that a recording kills."""
    each = load()

    def heard(sounds):
        if any("07.wav" in str(sound) for sound in sounds):
            os.kill(os.getpid(), signal.SIGKILL)
        return each(sounds)

    return heard


def test_a_recording_that_kills_its_worker_is_named_and_the_others_are_done(recordings: Path, tmp_path: Path):
    said: list[str] = []
    shards = Shards(tmp_path / "out", {})
    tally = bulk.transcribe(
        find([str(recordings)]), shards, bulk.local_engine(1), load_deadly, 1, said.append, progress=False
    )
    rows = {Path(row["file"]).name: row for row in rows_of(tmp_path / "out")}
    assert len(rows) == tally.recordings == 25 and tally.failed == 2
    assert "crashes the decoder" in rows["07.wav"]["error"]
    assert all("text" in row for name, row in rows.items() if name not in ("07.wav", "bad.wav"))


def rows_in(recordings: Path, shards: Shards) -> list[dict[str, str]]:
    """Return the rows of a list of all recordings."""
    found = find([str(recordings)])
    (path,) = shards.write_lists(found, shards.pending(found)[0], workers=1)[:1]
    return shards.read_list(path)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(28, "No space left on device", "/scratch/7"), "/scratch/7: No space left on device; free some space"),
        (MemoryError(), "the memory is full; fewer --workers need less memory"),
        (RuntimeError("CUDA out of memory"), "CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "fewer --workers"),
        (RuntimeError("std::bad_alloc"), "fewer --workers"),
    ],
)
def test_what_passes_is_no_fault_of_a_recording(recordings: Path, tmp_path: Path, failure: Exception, said: str):
    def each(_):
        raise failure

    shards = Shards(tmp_path / "out", {})
    with pytest.raises(InputError, match=said) as raised:
        bulk.Worker(lambda: each, shards).lines(rows_in(recordings, shards))
    assert "the same command goes on" in str(raised.value)


def test_what_a_decoder_fails_over_is_a_line_and_the_others_are_done(recordings: Path, tmp_path: Path):
    def each(sounds):
        if any("00.wav" in str(sound) for sound in sounds):
            raise RuntimeError("a shape that nobody expected")
        return load()(sounds)

    shards = Shards(tmp_path / "out", {})
    rows = rows_in(recordings, shards)
    rows = [json.loads(line) for line in bulk.Worker(lambda: each, shards).lines(rows)]
    failed = [row for row in rows if "error" in row]
    assert len(rows) > 1 and "00.wav: RuntimeError: a shape that nobody expected" in failed[0]["error"]
    assert all("bad.wav" in row["file"] for row in failed[1:])


def load_nothing():
    """Die while the model is loaded, as where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_that_die_while_they_load_end_the_command(recordings: Path, tmp_path: Path):
    shards = Shards(tmp_path / "out", {})
    with pytest.raises(
        InputError, match=r"a worker died while it loaded the model|workers have died \d+ times"
    ) as said:
        bulk.transcribe(find([str(recordings)]), shards, bulk.local_engine(1), load_nothing, 1, print, progress=False)
    assert "memory" in str(said.value)
    assert not rows_of(tmp_path / "out")


def test_a_damaged_note_is_named_and_without_it_its_recordings_are_done_again(recordings: Path, tmp_path: Path):
    def done() -> Tally:
        shards = Shards(tmp_path / "out", {})
        found = find([str(recordings)])
        return bulk.transcribe(found, shards, bulk.local_engine(1), load, 1, print, progress=False)

    done()
    texts = texts_of(tmp_path / "out")
    note = min((tmp_path / "out/.progress/ids").glob("*.parquet"))
    whole = note.read_bytes()
    for damaged in (whole[:50], whole[:40] + b"\xff" * 16 + whole[56:]):
        note.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"(?s)ids/{note.name}: is damaged .*delete it"):
            done()
    note.unlink()
    assert done().recordings == 25
    assert texts_of(tmp_path / "out") == texts
    min((tmp_path / "out").glob("*.jsonl")).unlink()  # to try its recordings again
    assert done().recordings == 25
    assert texts_of(tmp_path / "out") == texts


def test_a_storage_that_is_busy_damages_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written(tmp_path)
    read = Shards._read

    def busy(self: Shards, path: str) -> bytes:
        if path.endswith(".parquet"):
            raise OSError("AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate")
        return read(self, path)

    monkeypatch.setattr(Shards, "_read", busy)
    with pytest.raises(InputError, match="SLOW_DOWN") as said:
        Shards(tmp_path, {})
    assert "damaged" not in str(said.value) and "delete" not in str(said.value)


def written(place: Path) -> Shards:
    """Write two shards of two recordings each, one of which failed."""
    shards = Shards(place, {})
    for number in range(2):
        ids = [f"{number}{letter}" for letter in "ab"]
        lines = [json.dumps({"id": ids[0], "duration": 1.5}), json.dumps({"id": ids[1], "error": f"{ids[1]}: bad"})]
        shards.write(number, ids, lines)
    return shards


def test_a_shard_that_was_cut_short_later_is_done_again(tmp_path: Path):
    written(tmp_path)
    shard = min(tmp_path.glob("*.jsonl"))
    os.truncate(shard, 30)
    again = Shards(tmp_path, {})
    assert again.lost == 1 and again.done.tolist() == [b"1a", b"1b"]
    assert again.tally.recordings == 2 and not shard.exists()


def test_without_the_facts_the_shards_are_counted_again(tmp_path: Path):
    written(tmp_path)
    for facts in (tmp_path / ".progress" / "facts").iterdir():
        facts.unlink()
    shutil.copy(max(tmp_path.glob("*.jsonl")), tmp_path / "kept")
    os.truncate(max(tmp_path.glob("*.jsonl")), 60)  # in its second line
    again = Shards(tmp_path, {})
    assert again.tally == Tally(2, 1.5, 1, ["0b: bad"], (tmp_path / "kept").stat().st_size) and again.lost == 1
    assert Shards(tmp_path, {}).tally == again.tally
    assert len(list((tmp_path / ".progress" / "facts").iterdir())) == 1


def test_the_settings_of_a_folder_that_a_crash_emptied(tmp_path: Path):
    note = tmp_path / ".progress" / "settings.json"
    Shards(tmp_path, {"model": "a"})
    note.write_text("")  # before anything was written
    Shards(tmp_path, {"model": "b"}).write(0, ["a"], ['{"id": "a"}'])
    note.write_text("")
    with pytest.raises(InputError, match=r"settings.json: is damaged; delete this file if"):
        Shards(tmp_path, {"model": "b"})
    note.unlink()
    assert Shards(tmp_path, {"model": "b"}).done.tolist() == [b"a"]
    with pytest.raises(InputError, match="made with another model"):
        Shards(tmp_path, {"model": "a"})


def test_what_was_done_before_is_counted_among_the_recordings_that_are_named(recordings: Path, tmp_path: Path):
    said: list[str] = []
    for names in ("0?.wav", "00.wav"):
        found = find([str(path) for path in sorted(recordings.glob(names))])
        shards = Shards(tmp_path / "out", {})
        bulk.transcribe([*found, *found], shards, bulk.local_engine(1), load, 1, said.append, progress=False)
    assert len(said) == 1 and said[0].startswith("1 of 1 recordings were done before, and 9 others (")


@pytest.fixture
def bucket(recordings: Path) -> Iterator[str]:
    with storage("us-east-1") as client:
        client.create_bucket(Bucket="speech")
        for path in recordings.iterdir():
            client.upload_file(str(path), "speech", f"calls/{'sub/' if path.stem > '10' else ''}{path.name}")
        yield "s3://speech"


def test_recordings_and_shards_may_be_in_an_object_storage(bucket: str, recordings: Path, tmp_path: Path):
    plain = run_script("transcribe.py", "an4", "in", "--shards", "out", cwd=tmp_path)
    expected = {Path(name).name: text for name, text in texts_of(tmp_path / "out").items()}
    options = ("--shards", f"{bucket}/texts", "--workers", "1")
    done = run_script("transcribe.py", "an4", f"{bucket}/calls", *options, cwd=tmp_path)
    assert done.returncode == plain.returncode == 1, done.stderr
    assert f"error: {bucket}/calls/sub/bad.wav: " in done.stderr and "24 recordings" in done.stderr
    client = boto3.client("s3")

    def texts() -> dict[str, str]:
        found = tmp_path / "found"
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir()
        for one in client.list_objects_v2(Bucket="speech", Prefix="texts/", Delimiter="/")["Contents"]:
            if one["Key"].endswith(".jsonl"):
                client.download_file("speech", one["Key"], str(found / Path(one["Key"]).name))
        return {Path(name).name: text for name, text in texts_of(found).items()}

    assert texts() == expected
    client.upload_file(str(recordings / "03.wav"), "speech", "calls/new.wav")
    (tmp_path / "list.txt").write_text(f"{bucket}/calls/new.wav\n{bucket}/calls/gone.wav\n")
    done = run_script("transcribe.py", "an4", f"{bucket}/calls", "list.txt", *options, cwd=tmp_path)
    assert "25 of 27 recordings were done before" in done.stderr and f"{bucket}/calls/gone.wav: can't be" in done.stderr
    assert texts()["new.wav"] == expected["03.wav"]
    for place, said in ((f"{bucket}/none", "has no recordings"), ("s3://nowhere/calls", "NoSuchBucket")):
        done = run_script("transcribe.py", "an4", place, *options, cwd=tmp_path)
        assert done.returncode == 1 and f"error: {place}: " in done.stderr and said in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ray", "local"), "--shards DIR"),
        (("--workers", "2"), "--shards DIR"),
        (("--shards", "out", "--output", "out.txt"), "leave out --output"),
        (("--shards", "in"), "has other files than shards"),
        (("--shards", "in/list.txt"), "in/list.txt"),
    ],
)
def test_what_shards_can_not_be_is_said(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
):
    monkeypatch.chdir(tmp_path)
    (recordings / "list.txt").write_text("00.wav\n")
    (recordings / "rows.jsonl").write_text("{}\n")
    assert said in error_of("transcribe.py", "an4", "in/00.wav", *options)


def test_the_same_model_at_another_place_goes_on(recordings: Path, tmp_path: Path):
    first = transcribe_shards(tmp_path, "one.onnx")
    assert first.returncode == 1, first.stderr
    again = transcribe_shards(tmp_path, "sub/two.onnx")
    assert "25 of 25 recordings were done before" in again.stderr


def transcribe_shards(folder: Path, model: str):
    """Transcribe with a copy of the shipped model."""
    (folder / model).parent.mkdir(exist_ok=True)
    shutil.copyfile(model_path("an4", suffix=".onnx"), folder / model)
    return run_script("transcribe.py", model, "in", "--shards", "out", cwd=folder)


def test_what_lies_in_an_object_storage_needs_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "read with --shards DIR" in error_of("transcribe.py", "an4", "s3://speech/a.wav")


def test_channels_of_what_lies_in_an_object_storage(bucket: str, tmp_path: Path):
    options = ("--shards", "out", "--channels", "split")
    done = run_script("transcribe.py", "an4", f"{bucket}/calls", *options, cwd=tmp_path)
    assert done.returncode == 1 and "--channels split: is for files of this machine" in done.stderr


def refuse(*keys: str) -> None:
    """Let no one read objects of the bucket."""
    whose = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject"}
    rules = [whose | {"Resource": f"arn:aws:s3:::speech/{key}"} for key in keys]
    boto3.client("s3").put_bucket_policy(Bucket="speech", Policy=json.dumps({"Statement": rules}))


def test_one_object_that_may_not_be_read_costs_no_other(bucket: str, tmp_path: Path):
    refuse("calls/03.wav")
    found, shards = find([f"{bucket}/calls"]), Shards(tmp_path / "out", {})
    five = [row for path in shards.write_lists(found, range(5), 1) for row in shards.read_list(path)]
    alone, worker = [five[3]], bulk.Worker(load, shards)
    (failed,) = [line for line in map(json.loads, worker.lines(five)) if "error" in line]
    assert failed["file"] == f"{bucket}/calls/03.wav" and "may also be missing" in failed["error"]
    assert "error" in worker.lines(alone)[0]
    refuse("calls/*")  # as when credentials have ended
    for other in (worker, bulk.Worker(load, shards)):
        with pytest.raises(InputError, match="credentials"):
            other.lines(alone)


def test_an_object_that_may_not_be_read_costs_no_other_even_if_it_is_the_first(bucket: str, tmp_path: Path):
    refuse("calls/00.wav")
    found, shards = find([f"{bucket}/calls"])[:3], Shards(tmp_path / "out", {})
    bulk.transcribe(found, shards, bulk.local_engine(1), load, 1, print, progress=False)
    errors = {row["file"]: row.get("error") for row in rows_of(tmp_path / "out")}
    assert len(errors) == 3 and "may also be missing" in errors.pop(f"{bucket}/calls/00.wav")
    assert not any(errors.values())


def test_a_worker_alone_with_a_refused_object_asks_for_others_first(bucket: str, tmp_path: Path):
    refuse("calls/00.wav", "calls/sub/*")
    found, shards = find([f"{bucket}/calls"]), Shards(tmp_path / "out", {})
    refused, *_ = [shards.read_list(path) for path in shards.write_lists(found, [0, 1], 1)]
    assert "403" in json.loads(bulk.Worker(load, shards).lines(refused)[0])["error"]
    for _ in range(2):  # then each recording gets a process of its own
        shards.died(refused[0]["id"])
    assert "403" in json.loads(bulk.Worker(load, shards).lines(refused)[0])["error"]
    shards.finish()
    (refused,) = [shards.read_list(path) for path in shards.write_lists(found, [0], 1)]  # there are no others
    assert "403" in json.loads(bulk.Worker(load, shards).lines(refused)[0])["error"]
    shards.finish()
    inside = [place for place, one in enumerate(found) if "/sub/" in one.name]
    refused, *_ = [shards.read_list(path) for path in shards.write_lists(found, inside, 1)]
    with pytest.raises(InputError, match=r"credentials.*None of 10 other recording.*goes on"):
        bulk.Worker(load, shards).lines(refused)
