"""Shards: what a training has to know of its utterances without reading them, and each way in which they can be bad."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest

from asr_with_nemo.data import manifest, object_storage, sizes
from asr_with_nemo.data.shards import NOTES, ROWS, Shards
from asr_with_nemo.data.training_data import ParsedManifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import sharding
from tests.storage_server import storage


@pytest.fixture(scope="module")
def made(small_corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training set of the small corpus in four shards; tests must not change them."""
    folder = tmp_path_factory.mktemp("made") / "train"
    sharding.make(small_corpus.manifest("train"), folder, 4, workers=1, progress=False)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz"]


def test_the_notes_are_what_the_manifest_says(made: Path, small_corpus):
    rows = manifest.read_manifest(small_corpus.manifest("train"))
    notes = Shards(made)
    assert notes.rows == len(rows)
    assert notes.seconds == pytest.approx(sum(row["duration"] for row in rows), abs=0.01)
    assert set(notes.letters) == set("".join(row["text"] for row in rows))
    assert notes.texts == [row["text"] for row in rows]
    assert notes.durations[[0, -1]] == pytest.approx(np.quantile([row["duration"] for row in rows], [0, 1]), abs=0.001)
    assert [shard.rows for shard in notes.shards] == [len(part) for part in np.array_split(range(len(rows)), 4)]
    notes.check(LETTERS, 16_000)


def test_letters_and_rate_that_the_model_has_not_are_named(made: Path):
    with pytest.raises(InputError, match=r"text\(s\) have 'e'.*lacks 'e'"):
        Shards(made).check([letter for letter in LETTERS if letter != "e"], 16_000)
    with pytest.raises(InputError, match="16,000 Hz, where the model expects 8,000 Hz"):
        Shards(made).check(LETTERS, 8_000)


def test_a_speaker_or_a_recording_of_the_dev_set_is_found_wherever_it_lies(made: Path, small_corpus, tmp_path: Path):
    notes = Shards(made)
    notes.check_held_out(ParsedManifest(small_corpus.manifest("dev")), "dev")
    row = manifest.read_manifest(small_corpus.manifest("train"))[0]
    shutil.copy(row["audio_filepath"], tmp_path / "renamed.wav")
    renamed = {"audio_filepath": str(tmp_path / "renamed.wav"), "duration": row["duration"], "text": "yes"}
    path = tmp_path / "dev.json"
    manifest.write_manifest(path, [renamed])
    with pytest.raises(InputError, match=r"shares 1 recording\(s\) with the dev set.*renamed.wav"):
        notes.check_held_out(ParsedManifest(path), "dev")
    other = manifest.read_manifest(small_corpus.manifest("dev"))[0] | {"speaker": row["speaker"]}
    manifest.write_manifest(path, [other])
    with pytest.raises(InputError, match=rf"shares 1 speaker\(s\) with the dev set.*{row['speaker']}"):
        notes.check_held_out(ParsedManifest(path), "dev")


def test_a_file_that_is_missing_or_cut_short_is_named(copy: Path):
    whole = Shards(copy)
    with open(copy / whole.shards[2].recording, "r+b") as file:
        file.truncate(1_000)
    with pytest.raises(InputError, match=r"recording.000002.tar: has 1,000 bytes, where shards.json says"):
        whole.check_files()
    (copy / whole.shards[0].cuts).unlink()
    with pytest.raises(InputError, match=r"cuts.000000.jsonl.gz \(and 1 more\): is missing"):
        whole.check_files()


def test_a_file_of_the_right_size_with_other_content_is_found(copy: Path):
    notes = Shards(copy)
    assert notes.damaged(notes.shards) is None
    path = copy / notes.shards[1].recording
    content = bytearray(path.read_bytes())
    content[2_000] ^= 1
    path.write_bytes(content)
    notes.check_files()
    assert notes.damaged(notes.shards) == str(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "damaged, or no notes"),
        ("[]", "damaged, or no notes"),
        ('{"format": 1}', "damaged, or no notes"),
        ("\x00", "damaged, or no notes"),
        ('{"format": 9}', "of format 9, where this version reads 1"),
    ],
)
def test_damaged_notes_are_named(copy: Path, content: str, said: str):
    (copy / NOTES).write_text(content)
    with pytest.raises(InputError, match=said):
        Shards(copy)


def test_notes_that_disagree_with_themselves_are_refused(copy: Path):
    notes = json.loads((copy / NOTES).read_text())
    notes["shards"].pop()
    (copy / NOTES).write_text(json.dumps(notes))
    with pytest.raises(InputError, match="doesn't agree with itself"):
        Shards(copy)


def test_a_damaged_table_is_named(copy: Path):
    (copy / ROWS).write_bytes(b"no table")
    with pytest.raises(InputError, match=ROWS):
        Shards(copy).table(ROWS)
    np.save(copy / ROWS, np.zeros(5))
    with pytest.raises(InputError, match=f"{ROWS}: damaged .expected a table"):
        Shards(copy).table(ROWS)


def test_what_is_no_shards_is_said(small_corpus, tmp_path: Path):
    with pytest.raises(InputError, match=r"it is a file; give a manifest as model.train_ds.manifest_filepath"):
        Shards(small_corpus.manifest("train"))
    with pytest.raises(InputError, match="no such folder"):
        Shards(tmp_path / "nowhere")
    for url, said in (("file:///shards", "without file://"), ("S3://speech/train", "s3://BUCKET/FOLDER")):
        with pytest.raises(InputError, match=f"{url}: is a URL of .*{said}"):
            Shards(url)
    with pytest.raises(InputError, match="no notes of shards"):
        Shards(tmp_path)


def test_sizes_of_a_model_come_from_the_notes_as_from_the_manifest(small_corpus, tmp_path: Path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split in ("train", "dev"):
        manifest.write_manifest(folder / f"{split}_manifest.json", manifest.read_manifest(small_corpus.manifest(split)))
    by_manifest = sizes.sizes(folder)
    train = folder / "train_manifest.json"
    sharding.make(train, sharding.default_place(train), 2, workers=1, progress=False)
    train.unlink()
    assert sizes.sizes(folder) == by_manifest


# --- Object storage: moto's server on loopback ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket(made: Path) -> Iterator[str]:
    with storage("eu-central-1") as client:
        client.create_bucket(Bucket="speech", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        for file in made.iterdir():
            client.upload_file(str(file), "speech", f"mine/train/{file.name}")
        yield "s3://speech/mine/train"


def test_shards_of_a_bucket_are_checked_as_those_of_a_folder(bucket: str, made: Path, small_corpus):
    notes = Shards(f"{bucket}/")
    assert notes.digest == Shards(made).digest
    notes.check(LETTERS, 16_000)
    notes.check_held_out(ParsedManifest(small_corpus.manifest("dev")), "dev")
    boto3.client("s3").delete_object(Bucket="speech", Key=f"mine/train/{notes.shards[3].recording}")
    try:
        with pytest.raises(InputError, match=r"s3://speech/mine/train/recording.000003.tar: is missing"):
            notes.check_files()
    finally:
        boto3.client("s3").upload_file(
            str(made / notes.shards[3].recording), "speech", f"mine/train/{notes.shards[3].recording}"
        )


@pytest.mark.parametrize("place", ["s3://nowhere/train", "s3://speech/other"])
def test_a_bucket_or_folder_that_is_not_there_is_named(bucket: str, place: str):
    with pytest.raises(InputError, match=f"{place}.*AWS_ENDPOINT_URL="):
        Shards(place)


def test_a_bucket_that_cannot_be_reached_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(InputError, match="s3://speech/mine/train.*look at the bucket's name"):
            object_storage.files_in(bucket)
    with pytest.raises(InputError, match="expected s3://BUCKET"):
        Shards("s3://")
