"""Bulk work on a real Ray: clusters of this machine, whose nodes and driver are killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import preparation
from asr_with_nemo.own_data.recordings import Form, MeasureJob, convert_all
from asr_with_nemo.places import ray_cluster
from asr_with_nemo.recognition import bulk
from asr_with_nemo.recognition.recordings import find
from asr_with_nemo.recognition.text_shards import Shards, Tally
from tests.conftest import ROOT, free_port, run_script
from tests.own_data.test_preparation import Deadly
from tests.recognition.in_process import error_of
from tests.recognition.test_bulk import load_deadly, texts_of

pytest.importorskip("ray", reason="pip install -e '.[ray]'")
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Ray's folder, with a path that is short enough for its sockets."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default 15: beside other work, tests would take many minutes
        patch.setenv("COURSE_PRELOADED", "")  # the commands are killed
        patch.delenv("RAY_ADDRESS", raising=False)
        yield Path(folder)


@pytest.fixture(scope="module")
def recordings(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with 40 recordings under 400 names and a file that isn't sound, and their texts without Ray."""
    folder = tmp_path_factory.mktemp("bulk")
    (folder / "in").mkdir()
    for number, row in enumerate(manifest.read_manifest(small_corpus.manifest("train"))[:40]):
        for copy in range(10):
            os.symlink(row["audio_filepath"], folder / "in" / f"{copy}-{number:02}.wav")
    (folder / "in" / "bad.wav").write_text("dear friend")
    run_script("transcribe.py", "an4", "in", "--output", "plain.jsonl", cwd=folder, COURSE_PRELOADED="")
    rows = [json.loads(line) for line in (folder / "plain.jsonl").read_text().splitlines()]
    return folder, {row["file"]: row["text"] for row in rows} | {"in/bad.wav": "error"}


@contextlib.contextmanager
def cluster_of_two() -> Iterator[tuple[str, Callable[[], None]]]:
    """Start two nodes of one core each; yield their address and what kills the second. A busy machine needs tries."""
    from ray.cluster_utils import Cluster

    for attempt in range(3):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False)
            second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
            cluster.wait_for_nodes()
            break
        except Exception:  # Ray raises what comes
            cluster.shutdown()
            if attempt == 2:
                pytest.skip("the machine is too busy for Ray, which didn't start in 3 tries")
    try:
        yield cluster.address, lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


def committed(place: Path) -> int:
    """Return the number of shards that are written."""
    return len(list((place / ".progress" / "ids").glob("*[0-9].parquet")))


def wait_for(shards: int, place: Path, process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and committed(place) < shards and time.monotonic() < end:
        time.sleep(0.05)
    assert committed(place) >= shards, process.poll()


@pytest.mark.proof
def test_a_cluster_of_this_machine_writes_the_texts_of_the_plain_command(
    ray_folder: Path, recordings: tuple[Path, dict[str, str]], tmp_path: Path
):
    folder, texts = recordings
    few = [name for name in sorted(texts) if name.startswith("in/0-0")]
    done = run_script(
        "transcribe.py", "an4", *few, "in/bad.wav", "--shards", tmp_path / "out", "--ray", "local", cwd=folder
    )
    if "Ray didn't start in 3 tries" in done.stderr:
        pytest.skip("the machine is too busy for Ray")
    assert done.returncode == 1, done.stderr
    lines = done.stderr.replace("\r", "\n").splitlines()
    said = [line for line in lines if line.strip() and "h of sound in" not in line]  # without the progress
    assert len(said) == 4 and "1 worker (ready in" in said[0] and "recordings, 0.01 hours" in said[1], done.stderr
    assert "bad.wav: " in said[2] and "error: 1 of 11 files" in said[3] and not done.stdout
    assert texts_of(tmp_path / "out") == {name: texts[name] for name in [*few, "in/bad.wav"]}


@pytest.mark.proof
def test_each_recording_is_written_once_though_a_node_and_the_driver_are_killed(
    ray_folder: Path, recordings: tuple[Path, dict[str, str]], tmp_path: Path
):
    folder, texts = recordings
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts" / "transcribe.py"), "an4", "in", "--shards", str(out)]
    with cluster_of_two() as (address, kill_a_node):
        first = subprocess.Popen([*command, "--ray", address], cwd=folder, stderr=subprocess.PIPE, text=True)
        wait_for(1, out, first)
        kill_a_node()
        wait_for(committed(out) + 2, out, first)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        before = committed(out)
        # At once, while workers of the first may still be writing.
        done = run_script("transcribe.py", "an4", "in", "--shards", out, "--ray", address, cwd=folder)
    assert done.returncode == 1 and "of 401 recordings were done before" in done.stderr, done.stderr
    assert "Ray 2" in first.stderr.read() and committed(out) > before
    assert texts_of(out) == texts


def test_without_ray_the_command_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: an4.Corpus
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    sound = manifest.read_manifest(small_corpus.manifest("test"))[0]["audio_filepath"]
    said = error_of("transcribe.py", "an4", sound, "--shards", "out", "--ray", "local")
    assert "Ray isn't installed" in said and "pip install -e '.[ray]'" in said


def test_an_address_where_no_ray_answers_is_named_in_time(monkeypatch: pytest.MonkeyPatch, ray_folder: Path):
    monkeypatch.setattr(ray_cluster, "_ANSWERS_WITHIN", 8)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for address, said in (
            ("cluster", "expected local, auto or HOST:PORT"),
            ("ray://10.0.0.1:10001", "has to run on a machine of the cluster"),
            (f"[::1]:{free_port()}", "can't be reached .*(refused|assign|Address family)"),
            (f"127.0.0.1:{free_port()}", "can't be reached"),
            ("no.such.host.invalid:6379", "can't be reached"),
            (f"127.0.0.1:{silent.getsockname()[1]}", "doesn't answer as Ray does|isn't a Ray cluster"),
        ):
            with (
                pytest.raises(InputError, match=f"--ray {re.escape(address)}: .*({said})"),
                ray_cluster.connected(address),
            ):
                pass
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    said = f"{os.environ['RAY_ADDRESS']}: can't be reached"
    with pytest.raises(InputError, match=said), ray_cluster.connected("auto"):
        pass


def test_a_ray_that_does_not_start_is_tried_again_and_then_explained(monkeypatch: pytest.MonkeyPatch, ray_folder: Path):
    import ray

    tries = []

    def start(address: str, **_: object) -> None:
        tries.append(address)
        raise RuntimeError("Failed to start the raylet\nand more")

    monkeypatch.setattr(ray, "init", start)
    said = r"didn't start in 3 tries \(Failed to start the raylet\).*logs"
    with pytest.raises(InputError, match=said), ray_cluster.connected("local"):
        pass
    with (
        pytest.raises(InputError, match="--ray auto: no cluster is known here.*ray start"),
        ray_cluster.connected("auto"),
    ):
        pass
    assert tries == ["local", "local", "local", "auto"]


def bulk_of(recordings: Path, place: Path, cluster: ray_cluster.Cluster) -> Tally:
    """Transcribe with a decoder that one recording kills."""
    found = find([str(path) for path in sorted(recordings.glob("0-0*.wav"))])
    arguments = (Shards(place, {}), cluster.run, load_deadly, 1, str)
    return bulk.transcribe(found, *arguments, progress=False)


@pytest.mark.proof
def test_recordings_that_kill_their_workers_are_named_and_a_corpus_is_the_same_as_without_ray(
    ray_folder: Path, recordings: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, texts = recordings
    monkeypatch.setenv("MAIN_PROCESS", str(os.getpid()))
    source = tmp_path / "mine"
    (source / "wav").mkdir(parents=True)
    for path in sorted((folder / "in").glob("0-*.wav")):
        shutil.copy(path, source / "wav" / path.name)
        (source / "wav" / path.name).with_suffix(".txt").write_text(texts[f"in/{path.name}"] or "nothing")
    jobs = [
        MeasureJob(n, str(source / "wav" / f"0-0{n}.wav"), f"{n}.wav", "die" if n == 3 else "live") for n in range(6)
    ]
    whole = preparation.prepare(source, tmp_path / "whole", workers=1, progress=False)
    with ray_cluster.connected("local", 1, say=str) as cluster:
        by_ray = preparation.prepare(source, tmp_path / "ray", workers=1, progress=False, start=ray_cluster.Pool)
        (tmp_path / "converted").mkdir()
        form = Form(tmp_path / "converted", rule=Deadly())
        outcomes = [one for some in convert_all([jobs[:3], jobs[3:]], form, 1, ray_cluster.Pool) for one in some]
        tally = bulk_of(folder / "in", tmp_path / "out", cluster)
    for split in ("train", "dev", "test"):
        assert by_ray.manifest(split).read_bytes() == whole.manifest(split).read_bytes()
    assert {one.number: one.problem for one in outcomes if one.problem} == {3: "unreadable"}
    assert [one.number for one in outcomes] == list(range(6))
    assert tally.recordings == 10 and tally.failed == 1 and "0-07.wav: crashes the decoder" in tally.first[0]
