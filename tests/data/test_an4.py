"""From an archive to WAVs and manifests: whole, again, interrupted, and with everything that can be wrong."""

import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.errors import InputError
from tests.conftest import ROOT, pack, run_script


@pytest.fixture
def no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place serves AN4 (a closed port of this machine), and none is named in the environment."""
    monkeypatch.setattr(an4, "PLACES", ("http://127.0.0.1:9/an4_sphere.tar.gz",))
    monkeypatch.delenv("AN4_ARCHIVE", raising=False)


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file's digest and time of change."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, str]:
    return {name: digest for name, (digest, _) in snapshot(folder).items()}


def repacked(archive: Path, target: Path, change) -> Path:
    """A copy of an archive in which `change(name, data)` gave each file's new content; None leaves the file out."""
    with tarfile.open(archive) as source, tarfile.open(target, "w:gz", compresslevel=1) as copy:
        for member in source:
            if not member.isfile():
                continue
            data = change(member.name, source.extractfile(member).read())
            if data is not None:
                member.size = len(data)
                copy.addfile(member, io.BytesIO(data))
    return target


# --- The whole corpus -------------------------------------------------------------------------------------------------


def test_the_archive_becomes_wavs_with_the_very_samples_and_manifests_of_the_right_sizes(archive: Path, tmp_path: Path):
    corpus = an4.prepare(tmp_path, archive=str(archive), progress=False)
    assert corpus.problems == []
    recordings = sorted((corpus.folder / "wav").rglob("*.sph"))
    for sphere in recordings:
        expected, _ = soundfile.read(sphere, dtype="int16")
        samples, rate = soundfile.read(sphere.with_suffix(".wav"), dtype="int16")
        assert rate == 16_000
        np.testing.assert_array_equal(samples, expected, err_msg=str(sphere))
    splits = {name: manifest.read_manifest(corpus.manifest(name)) for name in ("train", "dev", "train_all", "test")}
    assert len(splits["train"]) + len(splits["dev"]) == len(splits["train_all"])
    assert len(splits["train_all"]) + len(splits["test"]) == len(recordings)
    speakers = {name: {utterance["speaker"] for utterance in rows} for name, rows in splits.items()}
    assert not speakers["train"] & speakers["dev"]
    assert not speakers["train_all"] & speakers["test"]
    if os.environ.get("AN4_ARCHIVE"):
        assert {name: len(rows) for name, rows in splits.items()} == {
            "train": 848,
            "dev": 100,
            "train_all": 948,
            "test": 130,
        }
        assert sum(len(utterance["text"].split()) for utterance in splits["test"]) == 773
        assert next(u["text"] for u in splits["train_all"] if "cen2-mgah-b" in u["audio_filepath"]) == "g l e n n"


def test_a_second_run_changes_nothing(small_archive: Path, tmp_path: Path):
    first = an4.prepare(tmp_path, archive=str(small_archive), progress=False)
    before = snapshot(tmp_path)
    second = an4.prepare(tmp_path, archive=str(small_archive), progress=False)
    assert first.changed
    assert not second.changed
    assert second.utterances == first.utterances
    assert snapshot(tmp_path) == before


def test_the_command_says_what_it_made_and_then_that_nothing_changed(small_archive: Path, tmp_path: Path):
    made = run_script("prepare_an4.py", "--archive", small_archive, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "train_manifest.json" in made.stdout
    assert "next: python scripts/train.py" in made.stdout
    before = snapshot(tmp_path)
    again = run_script("prepare_an4.py", cwd=tmp_path, AN4_ARCHIVE=str(small_archive))
    assert "nothing changed" in again.stdout
    assert snapshot(tmp_path) == before


def test_a_deleted_wav_is_made_again_and_a_deleted_recording_is_unpacked_again(small_archive: Path, tmp_path: Path):
    corpus = an4.prepare(tmp_path, archive=str(small_archive), progress=False)
    before = contents(tmp_path)
    spheres = sorted((corpus.folder / "wav").rglob("*.sph"))
    spheres[0].with_suffix(".wav").unlink()
    spheres[1].unlink()
    spheres[1].with_suffix(".wav").unlink()
    assert an4.prepare(tmp_path, archive=str(small_archive), progress=False).changed
    assert contents(tmp_path) == before


def test_fewer_utterances_and_then_all_of_them(small_archive: Path, tmp_path: Path):
    few = an4.prepare(tmp_path, archive=str(small_archive), utterances=30, progress=False)
    assert few.utterances["train_all_manifest.json"] + few.utterances["test_manifest.json"] == 30
    assert "30 utterances of it" in few.title
    speakers = {utterance["speaker"] for utterance in manifest.read_manifest(few.manifest("train_all"))}
    assert len(speakers) >= 4, "the few come from the whole corpus, not from its first speakers"
    whole = an4.prepare(tmp_path, archive=str(small_archive), progress=False)
    assert whole.utterances["train_all_manifest.json"] + whole.utterances["test_manifest.json"] == 60


# --- Where it comes from ----------------------------------------------------------------------------------------------


def test_without_network_and_archive_the_built_in_corpus_stands_in_and_says_so(tmp_path: Path, no_places, capsys):
    corpus = an4.prepare(tmp_path, utterances=30, progress=False)
    assert corpus.name == "synthetic"
    assert "not AN4" in corpus.title
    assert "standing in for AN4" in capsys.readouterr().out
    assert an4.corpus_of(corpus.manifest("test")) == "synthetic"
    assert not an4.prepare(tmp_path, utterances=30, progress=False).changed


def test_asking_for_an4_itself_is_an_error_without_network(tmp_path: Path, no_places):
    with pytest.raises(an4.CorpusUnreachable, match="AN4_ARCHIVE"):
        an4.prepare(tmp_path, source="an4", progress=False)


def test_an_archive_in_the_data_folder_is_found(small_archive: Path, tmp_path: Path, no_places):
    shutil.copy(small_archive, tmp_path / an4.ARCHIVE_NAME)
    assert an4.prepare(tmp_path, progress=False).name == "an4"


def test_the_archive_is_fetched_from_a_url(small_archive: Path, tmp_path: Path, no_places):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(small_archive.parent))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/{small_archive.name}"
        corpus = an4.prepare(tmp_path, archive=url, progress=False)
    finally:
        server.shutdown()
        server.server_close()
    assert corpus.name == "an4"
    assert not an4.prepare(tmp_path, archive=url, progress=False).changed  # the server is gone by now


def test_a_page_of_a_gateway_is_not_kept_as_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in</html>")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("AN4_ARCHIVE", raising=False)
    monkeypatch.setattr(an4, "PLACES", (f"http://127.0.0.1:{server.server_port}/{an4.ARCHIVE_NAME}",))
    try:
        with pytest.raises(an4.CorpusUnreachable, match="HTML"):
            an4.prepare(tmp_path, source="an4", progress=False)
        assert list(tmp_path.iterdir()) == []
        assert an4.prepare(tmp_path, utterances=30, progress=False).name == "synthetic"
    finally:
        server.shutdown()
        server.server_close()


def test_an_an4_with_a_recording_missing_is_not_silently_replaced(small_archive: Path, tmp_path: Path, no_places):
    corpus = an4.prepare(tmp_path, archive=str(small_archive), progress=False)
    min((corpus.folder / "wav").rglob("*.sph")).unlink()
    shutil.rmtree(corpus.folder / "wav" / "an4test_clstk")
    with pytest.raises(an4.CorpusUnreachable):
        an4.prepare(tmp_path, progress=False)
    assert an4.prepare(tmp_path, archive=str(small_archive), progress=False).problems == []


def test_the_synthetic_corpus_of_another_seed_replaces_the_first(tmp_path: Path):
    first = an4.prepare(tmp_path, source="synthetic", utterances=20, seed=0, progress=False)
    words = first.manifest("train_all").read_text()
    second = an4.prepare(tmp_path, source="synthetic", utterances=20, seed=1, progress=False)
    assert second.changed
    assert second.manifest("train_all").read_text() != words


# --- Interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "whole_corpus", "shares"),
    [
        ("an4", False, (0.6, 0.8)),
        ("synthetic", False, (0.6, 0.8)),
        pytest.param("an4", True, (0.35, 0.5, 0.6, 0.7, 0.8, 0.9), marks=pytest.mark.proof),
        pytest.param("synthetic", True, (0.35, 0.5, 0.6, 0.7, 0.8, 0.9), marks=pytest.mark.proof),
    ],
)
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_files(
    archive: Path, small_archive: Path, tmp_path: Path, source: str, whole_corpus: bool, shares: tuple[float, ...]
):
    size = ["--archive", str(archive if whole_corpus else small_archive)]
    if source == "synthetic":
        size = ["--utterances", "200" if whole_corpus else "60"]
    arguments = ["--source", source, *size]
    started = time.monotonic()
    whole = run_script("prepare_an4.py", "--data-dir", tmp_path / "whole", *arguments, cwd=tmp_path)
    seconds = time.monotonic() - started
    assert whole.returncode == 0, whole.stderr

    killed = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "scripts/prepare_an4.py"), "--data-dir", str(killed), *arguments]
    kills = 0
    for share in shares:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(share * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills, "the command was done before it could be killed"
    again = run_script("prepare_an4.py", "--data-dir", killed, *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert contents(killed) == contents(tmp_path / "whole")


# --- What is wrong is named, and nothing is lost ----------------------------------------------------------------------


def test_damaged_recordings_are_named_the_rest_is_done_and_the_command_fails(small_archive: Path, tmp_path: Path):
    names = []

    def damage(name: str, data: bytes) -> bytes:
        if name.endswith(".sph"):
            names.append(name)
            if len(names) == 5:
                return data[:-500]
            if len(names) == 9:
                return data[:3000] + bytes(200) + data[3200:]
        return data

    archive = repacked(small_archive, tmp_path / "damaged.tar.gz", damage)
    done = run_script("prepare_an4.py", "--archive", archive, "--data-dir", tmp_path / "data", cwd=tmp_path)
    assert done.returncode == 1
    assert Path(names[4]).name in done.stderr
    assert Path(names[8]).name in done.stderr
    assert "sample_checksum" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "data").rglob("*.wav"))) == 58
    corpus = an4.locate(tmp_path / "data")
    assert corpus.utterances["train_all_manifest.json"] + corpus.utterances["test_manifest.json"] == 58


def test_transcript_lines_that_cannot_be_used_are_all_named(small_archive: Path, tmp_path: Path):
    def change(name: str, data: bytes) -> bytes | None:
        if name.endswith("an4_test.transcription"):
            lines = data.decode().splitlines()
            return "\n".join(["NO ID HERE", lines[0].replace("(", "( "), *lines[1:], "GO (an999-nobody-b)"]).encode()
        return data

    corpus = an4.prepare(tmp_path, archive=str(repacked(small_archive, tmp_path / "a.tgz", change)), progress=False)
    text = "\n".join(corpus.problems)
    assert "line 1: " in text
    assert "an999-nobody-b" in text
    assert "has no transcript" in text  # the recording whose line lost its id
    assert corpus.utterances["test_manifest.json"] == 6


def test_transcripts_are_read_with_and_without_sentence_marks(tmp_path: Path):
    path = tmp_path / "an4.transcription"
    path.write_text("<s> ENTER SIX </s> (a-1)\nRUBOUT G M (a-2)\n\nYES   (a-3)  \n (a-4)\nGO (a-1)\n")
    transcripts, problems = an4.read_transcripts(path)
    assert transcripts == {"a-1": "enter six", "a-2": "rubout g m", "a-3": "yes", "a-4": ""}
    assert len(problems) == 1
    assert "line 6: " in problems[0] and "a-1" in problems[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path, good: path.write_bytes(good.read_bytes()[:200_000]), "cut short"),
        (lambda path, good: path.write_bytes(b"nothing of the kind" * 100), "tar"),
        (lambda path, good: path.write_bytes(b""), "0 bytes"),
        (
            lambda path, good: repacked(good, path, lambda name, data: data if "etc" not in name else None),
            r"etc/an4_train\.transcription",
        ),
        (lambda path, good: None, an4.ARCHIVE_NAME),
    ],
)
def test_an_archive_that_is_none_leaves_what_was_there(small_archive: Path, tmp_path: Path, make, words: str):
    data = tmp_path / "data"
    an4.prepare(data, archive=str(small_archive), progress=False)
    before = snapshot(data)
    bad = tmp_path / "bad.tar.gz"
    make(bad, small_archive)
    with pytest.raises(InputError, match=words) as error:
        an4.prepare(data, archive=str(bad), progress=False)
    assert str(bad) in str(error.value)
    assert snapshot(data) == before


def test_an_archive_that_would_write_elsewhere_is_refused(small_archive: Path, tmp_path: Path):
    bad = tmp_path / "bad.tar"
    with tarfile.open(bad, "w") as tar:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"boo"))
    with pytest.raises(InputError, match=r"\.\./escaped\.txt"):
        an4.prepare(tmp_path / "data", archive=str(bad), progress=False)
    assert not (tmp_path / "escaped.txt").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, small_archive: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"file/data.*--data-dir"):
        an4.prepare(tmp_path / "file" / "data", archive=str(small_archive), progress=False)


def test_an_unknown_source_and_a_corpus_too_small(tmp_path: Path):
    with pytest.raises(InputError, match="librispeech"):
        an4.prepare(tmp_path, source="librispeech")
    for count in (3, 5000):
        with pytest.raises(InputError, match=f"{count} .*20 .*1078"):
            an4.prepare(tmp_path, source="synthetic", utterances=count)


def test_a_recording_of_another_rate_in_the_archive_is_named(small_corpus: an4.Corpus, tmp_path: Path):
    from asr_with_nemo.data import synthetic

    tree = tmp_path / "tree"
    shutil.copytree(small_corpus.folder, tree)
    odd = min((tree / "wav").rglob("*.sph"))
    synthetic.write_sphere(odd, audio.read_sphere(odd)[0], 8_000)
    corpus = an4.prepare(tmp_path / "data", archive=str(pack(tree, tmp_path / "odd.tgz")), progress=False)
    assert len(corpus.problems) == 1
    assert odd.name in corpus.problems[0]
    assert "8,000 Hz" in corpus.problems[0]


def test_the_note_of_what_was_made_comes_with_the_manifest(small_corpus: an4.Corpus):
    note = json.loads((small_corpus.folder / manifest.CORPUS_NOTES).read_text())
    assert note["name"] == "synthetic"
    assert note["utterances"] == small_corpus.utterances
