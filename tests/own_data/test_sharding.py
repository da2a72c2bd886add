"""A manifest becomes shards: the same utterances and texts, each once, whatever interrupts the writing."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.shards import Shards
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import sharding
from tests.conftest import run_script


def read(folder: Path) -> dict[int, tuple[str, str | None, np.ndarray]]:
    """Line of the manifest → text, speaker and samples of its utterance, as Lhotse reads the shards."""
    notes, found = Shards(folder), {}
    fields = {
        "cuts": [notes.path_of(shard.cuts) for shard in notes.shards],
        "recording": [notes.path_of(shard.recording) for shard in notes.shards],
    }
    for cut in CutSet.from_shar(fields=fields):
        (said,) = cut.supervisions
        assert int(cut.id) not in found
        found[int(cut.id)] = (said.text, said.speaker, cut.load_audio()[0])
    return found


def test_each_utterance_is_there_once_sample_by_sample(small_corpus, tmp_path: Path):
    path = small_corpus.manifest("train")
    for workers in (1, 2):
        folder = tmp_path / f"by{workers}"
        sharding.make(path, folder, 5, workers=workers, progress=False)
        found = read(folder)
        rows = manifest.read_manifest(path)
        assert sorted(found) == list(range(1, len(rows) + 1))
        for line, row in enumerate(rows, 1):
            text, speaker, samples = found[line]
            assert (text, speaker) == (row["text"], row["speaker"])
            assert np.array_equal(samples, audio.load_audio(row["audio_filepath"]))
        order = list(found)
        assert order != sorted(order)  # each shard is a sample of the corpus
    assert Shards(tmp_path / "by1").digest == Shards(tmp_path / "by2").digest


def test_parts_of_long_recordings_are_cut_out(small_corpus, tmp_path: Path):
    row = max(manifest.read_manifest(small_corpus.manifest("train")), key=lambda row: row["duration"])
    whole = audio.load_audio(row["audio_filepath"])
    parts = [row | {"offset": 0.25, "duration": 0.5}, row | {"duration": 0.3}, row]
    path = tmp_path / "train_manifest.json"
    manifest.write_manifest(path, parts)
    found = read_after_making(path, tmp_path / "shards", 2)
    assert np.array_equal(found[1][2], whole[4_000:12_000])
    assert np.array_equal(found[2][2], whole[:4_800])
    assert np.array_equal(found[3][2], whole)


def read_after_making(path: Path, folder: Path, count: int) -> dict[int, tuple[str, str | None, np.ndarray]]:
    sharding.make(path, folder, count, workers=1, progress=False)
    return read(folder)


def test_a_run_that_was_interrupted_goes_on(small_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, folder = small_corpus.manifest("train"), tmp_path / "shards"
    write = sharding._write

    def killed(path, partial, number, *more):
        if number == 2:
            raise KeyboardInterrupt
        write(path, partial, number, *more)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            sharding.make(path, folder, 4, workers=1, progress=False)
    assert not folder.exists()
    first = tmp_path / ".shards.partial/recording.000000.tar"
    written = first.stat().st_mtime_ns
    sharding.make(path, folder, 4, workers=1, progress=False)
    assert (folder / first.name).stat().st_mtime_ns == written
    assert len(read(folder)) == Shards(folder).rows
    Shards(folder).check_files()
    assert {one.name for one in tmp_path.iterdir()} == {"shards"}


def test_shards_are_made_again_when_the_manifest_has_changed(small_corpus, tmp_path: Path):
    rows = manifest.read_manifest(small_corpus.manifest("train"))[:12]
    path, folder, said = tmp_path / "train_manifest.json", tmp_path / "shards", []
    manifest.write_manifest(path, rows)
    first = sharding.make(path, folder, 3, workers=1, progress=False)
    stamp = (folder / first.shards[0].recording).stat().st_mtime_ns
    again = sharding.make(path, folder, 3, workers=1, progress=False, say=said.append)
    assert again.digest == first.digest
    assert (folder / first.shards[0].recording).stat().st_mtime_ns == stamp
    assert "has these shards already" in said[0]
    manifest.write_manifest(path, rows[:9])
    assert sharding.make(path, folder, 3, workers=1, progress=False, say=said.append).rows == 9
    assert "are made again" in said[1]
    (folder / first.shards[0].cuts).unlink()
    sharding.make(path, folder, 3, workers=1, progress=False, say=said.append).check_files()
    assert "cuts.000000.jsonl.gz" in said[2]


def test_what_cannot_be_shards_is_said(small_corpus, tmp_path: Path):
    rows = manifest.read_manifest(small_corpus.manifest("train"))[:4]
    path, folder = tmp_path / "train_manifest.json", tmp_path / "shards"
    manifest.write_manifest(path, rows)
    with pytest.raises(InputError, match="has 4 utterances, which can't be 5 shards"):
        sharding.make(path, folder, 5, progress=False)
    with pytest.raises(InputError, match="has other files than shards"):
        sharding.make(path, tmp_path, 1, progress=False)
    for url in ("s3://speech/train", Path("s3://speech/train"), "file:///shards"):
        with pytest.raises(InputError, match="is a URL, and shards are written into a folder of this machine"):
            sharding.make(path, url, 1, progress=False)
    assert not Path("s3:").exists()
    with pytest.raises(InputError, match="no such manifest"):
        sharding.make(tmp_path / "none.json", folder, 1, progress=False)
    stereo, slow = tmp_path / "stereo.wav", tmp_path / "slow.wav"
    soundfile.write(stereo, np.zeros((1_600, 2)), 16_000)
    soundfile.write(slow, np.zeros(800), 8_000)
    for bad, workers in ((stereo, 1), (slow, 2), (tmp_path / "gone.wav", 2)):
        wrong = {"audio_filepath": str(bad), "duration": 0.1, "text": "no"}
        manifest.write_manifest(path, [*rows, wrong])
        with pytest.raises(InputError, match=rf"{path}, line 5: .*{bad.name}"):
            sharding.make(path, folder, 5, workers=workers, progress=False)
    assert not folder.exists()


def test_a_letter_that_the_sample_of_texts_has_not_comes_after_it(small_corpus, tmp_path: Path, monkeypatch):
    rows = manifest.read_manifest(small_corpus.manifest("train"))[:9]
    rows[4]["text"] = "zebra ü"
    path = tmp_path / "train_manifest.json"
    manifest.write_manifest(path, rows)
    monkeypatch.setattr(sharding, "_MOST_TEXTS", 2)
    notes = sharding.make(path, tmp_path / "shards", 2, workers=1, progress=False)
    assert set("".join(notes.texts)) == set("".join(row["text"] for row in rows))
    assert notes.texts.count("zebra ü") == 1


def test_the_commands_make_shards(small_corpus, tmp_path: Path):
    path = tmp_path / "train_manifest.json"
    manifest.write_manifest(path, manifest.read_manifest(small_corpus.manifest("train"))[:6])
    done = run_script("make_shards.py", path, "--shards", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 utterances" in done.stdout
    assert "model.train_ds.shar_path=" in done.stdout
    assert json.loads((tmp_path / "shards/train/shards.json").read_text())["rows"] == 6
    done = run_script("make_shards.py", path, "--shards", "9", cwd=tmp_path)
    assert done.returncode == 1
    assert "can't be 9 shards" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_prepared_corpus_comes_with_shards(small_corpus, tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    rows = manifest.read_manifest(small_corpus.manifest("train"))[:20]
    manifest.write_manifest(source / "all.json", rows)
    done = run_script("prepare_corpus.py", source / "all.json", "--out", "mine", "--shards", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'model.train_ds.shar_path=${data_dir}/shards/train'" in done.stdout
    notes = Shards(tmp_path / "mine/shards/train")
    notes.check_files()
    assert notes.rows == len(manifest.read_manifest(tmp_path / "mine/train_manifest.json"))
    assert notes.source_folder().samefile(tmp_path / "mine")
