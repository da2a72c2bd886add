"""Models as W&B artifacts: logged, found by name and alias, and sent, with a server and with none."""

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts, session
from asr_with_nemo.tracking.versions import fetch_model, list_versions
from tests.tracking.conftest import Script
from tests.wandb_server import WandbServer

TRAININGS = """
import os, wandb
from pathlib import Path
from asr_with_nemo import tracking
from asr_with_nemo.tracking.versions import log_model
from asr_with_nemo.tracking.wandb_internals import log_input

def checkpoint(text):
    Path("partial").write_text(text)
    os.replace("partial", "last.ckpt")

tracking.configure_wandb()
for number, errors in enumerate([(3, 1, 2, 4, 5), (6,)]):
    with wandb.init(project=tracking.project_name(), name=f"training-{number}") as run:
        corpus = wandb.Artifact("corpus", "dataset")
        with corpus.new_file("manifest.json") as file:
            file.write("the same each time")
        log_input(run, corpus)
        for epoch, wer in enumerate(errors, 1):
            run.log({"val_wer": wer})
            checkpoint(f"training {number}, epoch {epoch}")
            aliases = ["best"] if wer == min(errors[:epoch]) else []
            log_model(run, "last.ckpt", f"checkpoints-{number}", aliases, {"val_wer": wer}, keep=2)
        log_model(run, "last.ckpt", "net", ["final"], {"val_wer": min(errors)})
"""

FETCHING = """
import wandb
from asr_with_nemo import tracking
from asr_with_nemo.errors import InputError

tracking.configure_wandb()
for name in ("checkpoints-0:best", "checkpoints-0:latest", "checkpoints-0:v3", "net", "net:final", "net:v0"):
    print(name, "->", tracking.fetch_model(name).read_text())
with wandb.init(project=tracking.project_name(), name="reader"):
    tracking.fetch_model("checkpoints-0:v3")
for name in ("nte:best", "net:best", "net:a:b"):
    try:
        tracking.fetch_model(name)
    except InputError as error:
        print(error)
"""

FETCHED = """\
checkpoints-0:best -> training 0, epoch 2
checkpoints-0:latest -> training 0, epoch 5
checkpoints-0:v3 -> training 0, epoch 4
net -> training 1, epoch 1
net:final -> training 1, epoch 1
net:v0 -> training 0, epoch 5
"""


def run_program(folder: Path, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, with neither a key nor a mode but what is given."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    known |= {"NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder / "config")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=known | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def sync(script: Script, server: WandbServer) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    return lambda folder: script("sync.py", cwd=folder, **server.environment(folder))


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which two models were trained without a key; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("offline")
    run_program(folder, TRAININGS)
    return folder


@pytest.fixture
def here(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process works offline in that project."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(kept))
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(variable, str(kept / "wandb" / "other"))
    monkeypatch.setattr(session, "_chosen", None)


def copied(project: Path, to: Path) -> Path:
    """A copy of the runs kept in a project; W&B notes staged files by their whole paths, so those stay there."""
    shutil.copytree(project / "wandb", to / "wandb", symlinks=True, ignore=shutil.ignore_patterns("staging"))
    return to


# --- Names and aliases ------------------------------------------------------------------------------------------------


def test_the_same_calls_find_the_same_models_offline_and_online(kept: Path, server: WandbServer, tmp_path: Path):
    offline = run_program(copied(kept, tmp_path / "offline"), FETCHING).stdout
    folder, online = tmp_path / "online", server.environment(tmp_path)
    folder.mkdir()
    run_program(folder, TRAININGS, **online)
    there = run_program(folder, FETCHING, **online).stdout
    assert offline.startswith(FETCHED)
    assert there.startswith(FETCHED)

    said = offline.removeprefix(FETCHED).splitlines()
    models = "checkpoints-0 (best, latest, v1, v3 to v4); checkpoints-1 (best, latest, v0); "
    models += "net (final, latest, v0 to v1)"
    for line, name in zip(said[:2], ("nte:best", "net:best"), strict=True):
        assert line.startswith(f"wandb:{name}: ")
        assert line.endswith(models)
    assert said[2].startswith("wandb:net:a:b: expected wandb:NAME:ALIAS")
    # With a server all checkpoints are sent.
    models = models.replace("v1, v3 to v4", "v0 to v4")
    (line,) = [line for line in there.splitlines() if line.startswith("wandb:nte:best: ")]
    assert server.url in line
    assert line.endswith(models)
    (used,) = server.run("reader").used
    assert (used.collection, used.version) == ("checkpoints-0", 3)


def test_versions_say_what_they_are(here: None):
    found = {str(version): version for version in list_versions()}
    assert list(found) == [*(f"checkpoints-0:v{number}" for number in range(5)), "checkpoints-1:v0", "net:v0", "net:v1"]
    assert found["checkpoints-0:v1"].aliases == ["best"]
    assert found["checkpoints-0:v1"].metadata == {"val_wer": 1}
    assert [version.metadata["val_wer"] for version in list_versions("net")] == [1, 6]
    assert list_versions("nte") == []


def test_a_version_whose_file_is_gone_or_changed_is_named(kept: Path, here: None, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="checkpoints-0:v0: .*tracking.keep_checkpoints"):
        fetch_model("checkpoints-0:v0")
    file = fetch_model("checkpoints-1:best")
    content = file.read_text()
    file.write_text("another")
    try:
        with pytest.raises(InputError, match="checkpoints-1:v0: .*ckpt.*MD5"):
            fetch_model("checkpoints-1:best")
    finally:
        file.write_text(content)
    monkeypatch.setenv("WANDB_PROJECT", "other")
    with pytest.raises(InputError, match="net: .*project other"):
        fetch_model("net")
    assert fetch_model("ASR/net:latest").read_text() == "training 1, epoch 1"


def test_the_newest_of_two_runs_at_once_is_the_one_that_logged_last():
    def run(start: str, *logged: tuple[float, str]) -> list[dict]:
        records = [{"type": "run", "run": {"start_time": start}}]
        for seconds, digest in logged:
            artifact = {"name": "net", "type": "model", "project": "ASR", "digest": digest, "aliases": ["latest"]}
            records += [{"type": "history", "history": {"item": {"_timestamp": seconds}}}]
            records += [{"type": "artifact", "artifact": artifact}]
        return records

    long = run("2026-01-01T00:00:00Z", (1.8e9, "first"), (1.8e9 + 300, "last"))
    short = run("2026-01-01T00:01:00Z", (1.8e9 + 60, "middle"), (1.8e9 + 90, "first"))
    versions = artifacts.versions_in([long, short])
    assert [(version.number, version.digest) for version in versions] == [(0, "first"), (1, "middle"), (2, "last")]
    assert [version.aliases for version in versions] == [[], [], ["latest"]]


# --- What is staged ---------------------------------------------------------------------------------------------------


def test_the_last_and_the_best_are_staged_by_links_and_no_more(kept: Path):
    staged = {folder.name: sorted(folder.iterdir()) for folder in (kept / "wandb/staging/models").iterdir()}
    texts = [file.read_text() for file in staged["checkpoints-0"]]
    assert texts == [f"training 0, epoch {epoch}" for epoch in (2, 4, 5)]  # the best, and the last two
    assert len(staged["net"]) == 2
    newest = staged["net"][-1].stat()
    assert newest.st_ino == (kept / "last.ckpt").stat().st_ino, "a link costs no space"


def test_on_another_disk_it_is_a_copy_and_on_a_full_one_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    (tmp_path / "last.ckpt").write_text("weights")

    def other_disk(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    staged = artifacts.stage(tmp_path / "last.ckpt", "net")
    assert staged.read_text() == "weights"
    staged.unlink()

    def full_disk(_: Path, to: Path) -> None:
        to.write_text("weig", encoding="utf-8")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full_disk)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        artifacts.stage(tmp_path / "last.ckpt", "net")
    assert not [path for path in (tmp_path / "staging").rglob("*") if path.is_file()]


def test_what_is_not_staged_any_more_keeps_nothing_else_back(kept: Path, server: WandbServer, sync, tmp_path: Path):
    project = copied(kept, tmp_path / "project")
    done = sync(project)
    assert done.returncode == 0, done.stderr
    assert re.match(r"sent: 2\n.* 2 versions .*\n", done.stdout)
    committed = [one for one in server.artifacts if one.state == "COMMITTED" and one.type == "model"]
    arrived = {f"{one.collection}:{one.metadata['val_wer']}" for one in committed}
    assert arrived == {"checkpoints-0:1", "checkpoints-0:4", "checkpoints-0:5", "checkpoints-1:6", "net:1", "net:6"}
    for name, text in (("checkpoints-0:best", "training 0, epoch 2"), ("net:latest", "training 1, epoch 1")):
        assert server.content(server.artifact(name)) == {"model.ckpt": text.encode()}
    assert {run.display_name: [one.collection for one in run.used] for run in server.runs.values()} == {
        "training-0": ["corpus"],
        "training-1": ["corpus"],
    }


def test_an_artifact_that_the_server_does_not_take_is_told_and_sent_the_next_time(
    kept: Path, server: WandbServer, sync, tmp_path: Path
):
    project = copied(kept, tmp_path / "project")
    server.fail(403, on="/storage/artifact")
    done = sync(project)
    assert done.returncode == 1
    assert "not sent: 2\n" in done.stdout
    assert "checkpoints-0, corpus, net" in done.stdout
    server.recover()
    assert sync(project).stdout.startswith("sent: 2\n")
    assert server.content(server.artifact("net:latest")) == {"model.ckpt": b"training 1, epoch 1"}


def test_versions_arrive_in_the_order_of_their_making(server: WandbServer, sync, tmp_path: Path):
    program = """
import wandb
from pathlib import Path
from asr_with_nemo import tracking
from asr_with_nemo.tracking.versions import log_model
tracking.configure_wandb()
for number in range(3):
    with wandb.init(project="ASR") as run:
        Path(f"{number}.nemo").write_text(str(number) * (1_000_000 if number == 0 else 1))
        log_model(run, f"{number}.nemo", "net", metadata={"number": number})
"""
    run_program(tmp_path, program)
    assert sync(tmp_path).stdout == "sent: 3\nsent before: 0\n"
    assert [artifact.metadata["number"] for artifact in server.artifacts] == [0, 1, 2]
    assert server.artifact("net:latest").metadata == {"number": 2}


# --- Without a server that answers ------------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_any_more_is_named(server: WandbServer, tmp_path: Path):
    program = """
import sys, time
from asr_with_nemo import tracking
from asr_with_nemo.errors import InputError
tracking.configure_wandb()
print("ready", flush=True)
sys.stdin.readline()
try:
    tracking.fetch_model("net:best")
except InputError as error:
    print(error)
"""
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = known | server.environment(tmp_path) | {"WANDB_MODE": "online", "WANDB_X_GRAPHQL_RETRY_MAX": "1"}
    asking = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout.readline() == "ready\n"
    server.die()
    said, _ = asking.communicate("\n", timeout=60)
    assert said == f"wandb:net:best: {server.url} does not answer\n"
