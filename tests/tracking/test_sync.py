"""What was kept offline is whole on the other side after `make sync`: W&B's own client, a server on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import session
from asr_with_nemo.tracking import sync as tracking_sync
from asr_with_nemo.tracking.sync import send_runs
from tests.conftest import ROOT, run_script
from tests.tracking.conftest import Script
from tests.wandb_server import WandbServer, read_back

TRAINING = """
import json, sys
import numpy as np, wandb
from asr_with_nemo import tracking

print(tracking.describe_mode(tracking.configure_wandb()))
run = wandb.init(project=tracking.project_name(), name=sys.argv[1], config={"lr": 5e-3, "model": {"dropout": 0.1}})
for epoch in range(30):
    run.log({"val_wer": 1 / (epoch + 1), "lr": 5e-3})
sound = np.sin(np.arange(1600) / 5).astype(np.float32)
picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
row = ["an4/wav/1.wav", wandb.Audio(sound, sample_rate=16000), wandb.Image(picture), 0.25]
run.log({"predictions": wandb.Table(["file", "audio", "mel", "wer"], [row])})
with open("model.nemo", "wb") as file:
    file.write(b"weights" * 1000)
model = wandb.Artifact("model", "model", metadata={"val_wer": 0.25})
model.add_file("model.nemo")
run.log_artifact(model, aliases=["best", "latest"])
run.finish()
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one run that was made without a key; tests copy it."""
    folder = tmp_path_factory.mktemp("offline")
    done = run_training(folder, "offline")
    assert done.returncode == 0, done.stderr
    assert "W&B: offline, no API key here; runs are kept in wandb, `make sync` sends them later" in done.stdout
    return folder


@pytest.fixture
def project(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


def run_training(folder: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The training above in a process of its own, with neither a key nor a mode but what is given."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    known |= {"NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder / "config")}
    return subprocess.run(
        [sys.executable, "-c", TRAINING, name],
        cwd=folder,
        env=known | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def sync(script: Script, server: WandbServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return script("sync.py", cwd=folder, **(server.environment(folder) | environment))

    return call


def flat(row: dict) -> dict:
    """A row of the history with the keys of the `.wandb` file: `table.nrows` for what lies within `table`."""
    found = {}
    for key, value in row.items():
        inner = value if isinstance(value, dict) else None
        found |= {key: value} if inner is None else {f"{key}.{name}": item for name, item in inner.items()}
    return found


def test_an_offline_run_is_whole_on_the_other_side(project: Path, server: WandbServer, sync):
    done = sync(project)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sent: 1\nsent before: 0\n"

    run = server.run("offline")
    assert (run.project, run.state, run.exit_code) == ("ASR", "finished", 0)
    assert run.config == {"lr": 5e-3, "model": {"dropout": 0.1}}
    kept = read_back(project)
    written = [record["history"]["item"] for record in kept if record["type"] == "history"]
    assert [flat(row) for row in run.history] == written
    assert len(run.history) == 31
    assert run.summary["val_wer"] == 1 / 30
    assert run.files["media/table/" + Path(run.summary["predictions"]["path"]).name]

    # Every artifact of the file arrived: the same digest and files, byte for byte.
    written = {record["artifact"]["name"]: record["artifact"] for record in kept if record["type"] == "artifact"}
    assert {artifact.collection for artifact in run.logged} == set(written) == {"model", f"run-{run.id}-predictions"}
    for artifact in run.logged:
        assert artifact.state == "COMMITTED"
        assert artifact.digest == written[artifact.collection]["digest"]
        staged = {
            entry["path"]: Path(entry["local_path"]).read_bytes()
            for entry in written[artifact.collection]["manifest"]["contents"]
        }
        assert server.content(artifact) == staged
    model = server.artifact("model:best")
    assert model is server.artifact("model:latest")
    assert model.metadata == {"val_wer": 0.25}
    assert server.content(model) == {"model.nemo": (project / "model.nemo").read_bytes()}
    table = server.content(server.artifact(f"run-{run.id}-predictions:latest"))
    (row,) = json.loads(table["predictions.table.json"])["data"]
    assert row[0] == "an4/wav/1.wav"
    assert table[row[1]["path"]].startswith(b"RIFF")
    assert table[row[2]["path"]].startswith(b"\x89PNG")

    # Once, and not again.
    asked = len(server.requests)
    done = sync(project)
    assert done.stdout == "sent: 0\nsent before: 1\n"
    assert server.requests[asked:] == []


def test_nothing_of_it_lies_elsewhere(project: Path, server: WandbServer, tmp_path: Path):
    # In a process of its own, as a user runs it; empty, since it needs no NeMo.
    environment = server.environment(project) | {"HOME": str(tmp_path / "home"), "COURSE_PRELOADED": ""}
    done = run_script("sync.py", cwd=project, **environment)
    assert done.stdout == "sent: 1\nsent before: 0\n"
    assert not (tmp_path / "home").exists()
    assert {path.name for path in project.iterdir()} == {"model.nemo", "wandb"}
    assert not [path for path in project.rglob("*") if path.is_file() and server.key.encode() in path.read_bytes()]


def test_a_corrupt_file_among_good_ones(project: Path, server: WandbServer, sync):
    (good,) = project.glob("wandb/offline-run-*/run-*.wandb")
    content = good.read_bytes()
    bad = {
        "garbage": b"no run at all " * 100,
        "middle": content[:3000] + b"\xff" * 200 + content[3200:],
        "empty": b"",
    }
    for name, data in bad.items():
        folder = project / "wandb" / f"offline-run-20260101_000000-{name}"
        folder.mkdir()
        (folder / f"run-{name}.wandb").write_bytes(data)
        os.utime(folder / f"run-{name}.wandb", (0, 0))
    done = sync(project)
    assert done.returncode == 1
    assert done.stdout.startswith("sent: 1\nsent before: 0\nnot sent: 3\n")
    assert re.search(r"run-garbage.wandb: .*corrupt", done.stdout)
    assert re.search(r"run-middle.wandb: .*corrupt", done.stdout)
    assert re.search(r"run-empty.wandb: .*no run", done.stdout)
    assert "error: 3 runs" in done.stderr
    assert len(server.run("offline").history) == 31


def test_a_run_that_was_cut_short_is_sent_as_far_as_it_goes(project: Path, server: WandbServer, sync):
    (file,) = project.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])  # a full disk, or kill -9
    done = sync(project)
    assert re.fullmatch(r"sent: 0\nsent before: 0\nstill running.*: 1\n", done.stdout)  # it has just been written
    os.utime(file, (0, 0))
    done = sync(project)
    assert done.returncode == 0
    path = file.relative_to(project)
    assert re.fullmatch(rf"sent: 1\n  {path}: .*\nsent before: 0\n", done.stdout)
    losses = [row["val_wer"] for row in server.run("offline").history]
    assert 5 < len(losses) < 31
    assert losses == [1 / (epoch + 1) for epoch in range(len(losses))]
    assert sync(project).stdout == "sent: 0\nsent before: 1\n"


def test_a_wrong_key_no_key_and_no_server(project: Path, server: WandbServer, sync, script: Script):
    done = sync(project, WANDB_API_KEY="f" * 40)
    assert done.returncode == 1
    assert re.match(rf"error: W&B: {server.url} .*API key; 1 run.* wandb", done.stderr)
    assert "f" * 40 not in done.stderr + done.stdout
    assert "no API key here" in sync(project, WANDB_API_KEY="").stderr
    server.die()
    assert f"{server.url} does not answer; 1 run" in sync(project).stderr
    assert "error: nowhere: " in script("sync.py", "nowhere", cwd=project).stderr
    server.revive()
    assert sync(project).stdout == "sent: 1\nsent before: 0\n"


def test_a_server_that_goes_away_while_runs_are_sent(
    project: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
):
    for name, value in server.environment(project).items():
        monkeypatch.setenv(name, value)
    assert session.server_refusal() is None  # httpx is imported now, which takes longer than the time below
    monkeypatch.setattr(tracking_sync, "PATIENCE_SECONDS", 2)
    monkeypatch.setattr(tracking_sync, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(session, "ANSWER_SECONDS", 0.5)
    server.fail(500, on="/storage/artifact")  # it answers, but for this
    threading.Thread(target=die_when_files_are_asked_for, args=(server,), daemon=True).start()
    with pytest.raises(InputError, match=str(project / "wandb")):
        send_runs(project / "wandb", progress=False)
    server.revive()
    server.recover()
    result = send_runs(project / "wandb", progress=False)
    assert [run.name for run in result.sent] == [f"ASR/{server.run('offline').id}"]
    assert len(server.run("offline").history) == 31
    assert {artifact.state for artifact in server.run("offline").logged} >= {"COMMITTED"}


def die_when_files_are_asked_for(server: WandbServer) -> None:
    server.wait_until(lambda: "createArtifactFiles" in server.requests)
    server.die()


def start_sync(project: Path, server: WandbServer) -> subprocess.Popen[str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    command = [sys.executable, ROOT / "scripts" / "sync.py"]
    return subprocess.Popen(
        command,
        cwd=project,
        env=known | server.environment(project) | {"COURSE_PRELOADED": ""},  # a process of its own, to be killed
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_sync_that_is_killed_leaves_no_process_and_is_done_again(project: Path, server: WandbServer):
    server.hang(on="/storage/artifact")
    killed = start_sync(project, server)
    server.wait_until(lambda: "createArtifactFiles" in server.requests, 120)
    started = psutil.Process(killed.pid).children(recursive=True)
    assert started
    killed.kill()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    server.recover()

    two_at_once = [start_sync(project, server) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in two_at_once]
    assert sum(text.endswith("sent: 1\nsent before: 0\n") for text in said) == 1, said
    assert sum(text.endswith("sent: 0\nsent before: 1\n") for text in said) == 1, said


@pytest.mark.slow
def test_an_online_run_whose_server_went_away_is_completed(server: WandbServer, sync, tmp_path: Path):
    quick = {"WANDB_FINISH_TIMEOUT": "4", "WANDB_X_GRAPHQL_RETRY_MAX": "1"}
    environment = server.environment(tmp_path) | quick
    whole = run_training(tmp_path, "whole", **environment)
    assert whole.returncode == 0, whole.stderr
    assert server.run("whole").state == "finished"

    server.fail(500, on="/files")  # metrics don't arrive
    server.fail(500, on="/storage")  # nor do files
    part = run_training(tmp_path, "part", **environment)
    assert part.returncode == 0, part.stderr
    assert server.run("part").history == []
    assert all(artifact.state == "PENDING" for artifact in server.run("part").logged[:1])

    server.recover()
    done = sync(tmp_path)
    assert done.stdout == "sent: 1\nsent before: 1\n", done.stderr
    run = server.run("part")
    assert [row["val_wer"] for row in run.history[:30]] == [1 / (epoch + 1) for epoch in range(30)]
    assert run.state == "finished"
    for name in ("model:latest", f"run-{run.id}-predictions:latest"):
        assert server.content(server.artifact(name))
    assert server.run("whole").resent == 0
