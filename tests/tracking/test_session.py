"""Where W&B's records go is decided without a prompt, and a server that goes away costs nothing."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import wandb

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import session
from asr_with_nemo.tracking.kept_runs import read_records
from asr_with_nemo.tracking.session import configure_wandb, describe_mode, has_key, project_name, server_url
from tests.conftest import put
from tests.wandb_server import ENTITY, KEY, WandbServer, read_back

VARIABLES = ("MODE", "DIR", "DATA_DIR", "CACHE_DIR", "ARTIFACT_DIR", "PROJECT", "SILENT", "BASE_URL", "API_KEY")
VARIABLES += ("FINISH_TIMEOUT", "X_GRAPHQL_RETRY_MAX", "HTTP_TIMEOUT")

TRAINING = """
import sys, time, wandb
from pathlib import Path
from asr_with_nemo import tracking

print(tracking.describe_mode(tracking.configure_wandb()), flush=True)
run = wandb.init(project=tracking.project_name(), name="training", config={"lr": 5e-3})
for step in range(300):
    run.log({"loss": step})
    while step == 100 and sys.argv[1:] == ["pause"] and not Path("go").exists():
        time.sleep(0.01)
for epoch in range(2):
    artifact = wandb.Artifact("model", "model")
    with artifact.new_file("model.ckpt") as file:
        file.write(f"weights of epoch {epoch}")
    run.log_artifact(artifact, aliases=["latest"])
print("trained", flush=True)
run.finish()
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no mode, and W&B's folders below `tmp_path`; all set back afterwards."""
    monkeypatch.setattr(session, "_chosen", None)
    monkeypatch.setattr(session, "keep_artifacts", lambda: None)  # it would stay for the other tests of this process
    for name in VARIABLES:
        monkeypatch.setenv(f"WANDB_{name}", "")  # so that monkeypatch knows to set it back
        monkeypatch.delenv(f"WANDB_{name}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


@pytest.fixture
def with_key(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", server.key)
    return server


def test_without_a_key_offline_and_with_one_online(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert configure_wandb(tmp_path) == "offline"
    assert describe_mode("offline").startswith("W&B: offline, no API key")
    # A key that comes later, in the same kernel, counts.
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", server.key)
    assert configure_wandb(tmp_path) == "online"
    assert describe_mode("online", "mine") == "W&B: online, project mine"


def test_a_key_and_a_server_kept_by_wandb_login_are_found(server: WandbServer, tmp_path: Path):
    host = server.url.removeprefix("http://")
    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {server.key}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert not has_key()  # not of W&B's own server
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text(f"[default]\nbase_url = {server.url}\n")
    assert has_key()
    assert configure_wandb(tmp_path) == "online"


@pytest.mark.parametrize("machine", ["api.wandb.ai", urlsplit(wandb.Settings().base_url).netloc])
def test_a_key_of_wandb_login_for_its_own_server_is_found(machine: str, tmp_path: Path):
    put(tmp_path / "netrc", f"machine {machine} login user password {KEY}").chmod(0o600)
    assert server_url() == wandb.Settings().base_url
    assert has_key()


def test_what_the_environment_says_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert configure_wandb(tmp_path) == "offline"
    assert "set by WANDB_MODE" in describe_mode("offline")
    assert project_name("configured") == "mine"


def test_wandb_offline_is_obeyed(with_key: WandbServer, tmp_path: Path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nmode = offline\n")
    assert configure_wandb(tmp_path) == "offline"
    assert "set by `wandb offline`" in describe_mode("offline")
    assert with_key.requests == []


def test_the_project_of_the_config_and_the_courses_own():
    assert project_name("configured") == "configured"
    assert project_name() == "ASR"


def test_a_mode_that_does_not_exist_and_one_that_would_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match="WANDB_MODE=onlin: .*online, offline"):
        configure_wandb(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match="WANDB_MODE=online.*WANDB_API_KEY"):
        configure_wandb(tmp_path)


def test_a_server_that_refuses_or_does_not_answer(
    with_key: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def why() -> str:
        assert configure_wandb(tmp_path) == "offline"
        return describe_mode("offline").removeprefix("W&B: offline, ").split(";")[0]

    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    assert why() == f"{with_key.url} refuses the API key"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with_key.fail(502)
    assert why() == f"{with_key.url} answers with HTTP status 502"
    with_key.recover()
    monkeypatch.setattr(session, "ANSWER_SECONDS", 0.5)
    with_key.hang()
    assert why() == f"{with_key.url} does not answer"  # and doesn't wait for `recover`
    with_key.recover()
    with_key.die()
    assert why() == f"{with_key.url} does not answer"
    for address in ("http://no such host", "not an address", "http://w.invalid"):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert why() == f"{address} does not answer"
    monkeypatch.setenv("WANDB_BASE_URL", with_key.url)
    with_key.revive()
    assert configure_wandb(tmp_path) == "online"


# The real client, in this process, as in a notebook's kernel.


@pytest.fixture
def client() -> Iterator[None]:
    """W&B's client as it is after a start of the kernel, and gone afterwards."""
    wandb.teardown()
    yield
    wandb.teardown()


def log_a_run(name: str) -> None:
    """What a cell of a notebook does."""
    configure_wandb()
    with wandb.init(project="ASR", name=name) as run:
        run.log({"loss": 1.0})


def kept_offline(folder: Path) -> list[str]:
    """The names of the runs that are kept in a folder, in the order of their making.

    W&B's service may still be writing the end of a file when `run.finish` has returned.
    """
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    records = [record for file in files for record in read_records(file)[0]]
    return [record["run"]["display_name"] for record in records if record["type"] == "run"]


@pytest.fixture
def kernel(server: WandbServer, client: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    """A server, and this process in a project of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_ENTITY", ENTITY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    return server


def test_when_the_key_and_the_server_go_the_next_run_is_offline(
    kernel: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_API_KEY", kernel.key)
    log_a_run("first")
    assert kernel.run("first").state == "finished"
    kernel.die()
    monkeypatch.delenv("WANDB_API_KEY")
    log_a_run("second")
    kernel.wait_until(lambda: kept_offline(tmp_path) == ["second"])
    kernel.revive()
    monkeypatch.setenv("WANDB_API_KEY", kernel.key)
    log_a_run("third")
    assert kernel.run("third").state == "finished"
    kernel.wait_until(lambda: kept_offline(tmp_path) == ["second"])
    assert {run.display_name for run in kernel.runs.values()} == {"first", "third"}


def test_a_key_that_comes_after_an_offline_run_counts_and_so_does_another_server(
    kernel: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log_a_run("first")
    kernel.wait_until(lambda: kept_offline(tmp_path) == ["first"])
    monkeypatch.delenv("WANDB_BASE_URL")
    # What `wandb login --host` writes, in a terminal beside the notebook.
    host, settings = kernel.url.removeprefix("http://"), tmp_path / "config" / "settings"
    put(tmp_path / "netrc", f"machine {host} login user password {kernel.key}").chmod(0o600)
    settings.parent.mkdir(exist_ok=True)
    put(settings, f"[default]\nbase_url = {kernel.url}\n")
    log_a_run("second")
    assert kernel.run("second").state == "finished"
    with WandbServer("f" * 40) as other:
        host = other.url.removeprefix("http://")
        put(tmp_path / "netrc", f"machine {host} login user password {other.key}")
        put(settings, f"[default]\nbase_url = {other.url}\n")
        log_a_run("third")
        assert other.run("third").state == "finished"
        put(tmp_path / "netrc", f"machine {host} login user password {'0' * 40}")
        other.key = "0" * 40
        log_a_run("fourth")
        assert other.run("fourth").state == "finished"
    log_a_run("fifth")
    kernel.wait_until(lambda: kept_offline(tmp_path) == ["first", "fifth"])
    assert [run.display_name for run in kernel.runs.values()] == ["second"]


def test_a_run_that_is_active_goes_on_whatever_comes(
    kernel: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    configure_wandb()
    with wandb.init(project="ASR", name="active") as run:
        run.log({"loss": 2.0})
        monkeypatch.setenv("WANDB_API_KEY", kernel.key)
        assert configure_wandb() == "online"
        assert wandb.run is run
        run.log({"loss": 1.0})
    log_a_run("next")
    assert kernel.run("next").state == "finished"
    kernel.wait_until(lambda: kept_offline(tmp_path) == ["active"])
    (kept,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    kernel.wait_until(lambda: [record["type"] for record in read_records(kept)[0]].count("history") == 2)


def test_the_client_starts_again_after_its_service_was_killed(kernel: WandbServer, tmp_path: Path, monkeypatch):
    log_a_run("first")
    service = wandb.setup().ensure_service()._proc._process
    service.kill()
    service.wait()
    monkeypatch.setenv("WANDB_API_KEY", kernel.key)
    log_a_run("second")
    assert kernel.run("second").state == "finished"


# The real client, in a process of its own.


def start_training(
    folder: Path, program: str = TRAINING, argument: str = "", **environment: str
) -> subprocess.Popen[str]:
    """Start a training whose home is empty; its output goes to the file `printed`.

    With the argument "pause" it waits after a third of its steps until `go_on`.
    """
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    known |= {"HOME": str(folder / "home"), "NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder / "config")}
    quick = {
        "WANDB_FINISH_TIMEOUT": "4",
        "WANDB_X_GRAPHQL_RETRY_MAX": "1",
        "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    }
    with (folder / "printed").open("w") as printed:
        return subprocess.Popen(
            [sys.executable, "-c", program, argument],
            cwd=folder,
            env=known | quick | environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            text=True,
        )


def go_on(folder: Path) -> None:
    (folder / "go").touch()


def test_an_online_run_arrives_whole_and_the_key_stays_where_it_was(server: WandbServer, tmp_path: Path):
    training = start_training(tmp_path, **server.environment(tmp_path))
    assert training.wait(60) == 0
    printed = (tmp_path / "printed").read_text()
    assert printed == "W&B: online, project ASR\ntrained\n"

    run = server.run("training")
    assert (run.project, run.state, run.config) == ("ASR", "finished", {"lr": 5e-3})
    assert [row["loss"] for row in run.history] == list(range(300))
    assert server.content(server.artifact("model:v0")) == {"model.ckpt": b"weights of epoch 0"}
    assert server.content(server.artifact("model:latest")) == {"model.ckpt": b"weights of epoch 1"}

    assert {path.name for path in tmp_path.iterdir()} == {"printed", "wandb"}  # and no home
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if server.key.encode() in path.read_bytes()]
    sent = [str(vars(run)), *(content.decode(errors="replace") for content in run.files.values())]
    assert not [text for text in sent if server.key in text]


@pytest.mark.parametrize("fault", ["dies", pytest.param("hangs", marks=pytest.mark.slow)])
def test_a_server_that_goes_away_costs_no_training_and_no_data(fault: str, server: WandbServer, tmp_path: Path):
    environment = server.environment(tmp_path) | {"WANDB_HTTP_TIMEOUT": "2"}
    training = start_training(tmp_path, argument="pause", **environment)
    server.wait_until(lambda: server.runs and server.run("training").history)
    server.die() if fault == "dies" else server.hang()
    go_on(tmp_path)
    server.wait_until(lambda: "trained" in (tmp_path / "printed").read_text())
    assert training.wait(30) == 0

    kept = read_back(tmp_path)
    history = [record["history"]["item"] for record in kept if record["type"] == "history"]
    assert [row["loss"] for row in history] == list(range(300))
    artifacts = [record["artifact"] for record in kept if record["type"] == "artifact"]
    staged = [Path(entry["local_path"]) for artifact in artifacts for entry in artifact["manifest"]["contents"]]
    assert [path.read_text() for path in staged] == ["weights of epoch 0", "weights of epoch 1"]
    assert all((tmp_path / "wandb") in path.parents for path in staged)
    assert kept[-1]["type"] == "exit"
    assert server.run("training").state == "running"

    # All of it goes there later; the run is the same one.
    server.recover()
    if fault == "dies":
        server.revive()
    command = "from asr_with_nemo.tracking.sync import send_runs; print(send_runs('wandb', progress=False))"
    sending = start_training(tmp_path, command, **server.environment(tmp_path))
    assert sending.wait(60) == 0
    assert (tmp_path / "printed").read_text() == "sent: 1\nsent before: 0\n"
    run = server.run("training")
    assert [row["loss"] for row in run.history] == list(range(300))
    assert run.state == "finished"
    assert server.content(server.artifact("model:latest")) == {"model.ckpt": b"weights of epoch 1"}


def test_a_server_that_comes_back_gets_all(server: WandbServer, tmp_path: Path):
    environment = server.environment(tmp_path) | {"WANDB_FINISH_TIMEOUT": "60"}
    training = start_training(tmp_path, argument="pause", **environment)
    server.wait_until(lambda: server.runs and server.run("training").history)
    server.die()
    go_on(tmp_path)
    server.wait_until(lambda: "trained" in (tmp_path / "printed").read_text())
    server.revive()
    assert training.wait(60) == 0
    run = server.run("training")
    assert [row["loss"] for row in run.history] == list(range(300))
    assert run.state == "finished"
    assert [artifact.version for artifact in run.logged if artifact.state == "COMMITTED"] == [0, 1]


def test_nothing_is_asked_at_a_terminal(tmp_path: Path):
    ours, theirs = pty.openpty()
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    program = TRAINING.replace("range(300)", "range(3)")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=known | {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "netrc")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        timeout=60,
    )
    os.close(theirs)
    printed = os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
    os.close(ours)
    assert done.returncode == 0
    assert printed == "W&B: offline, no API key here; runs are kept in wandb, `make sync` sends them later\ntrained\n"
    assert {path.name for path in tmp_path.iterdir()} == {"wandb"}


READING_BACK = """
import wandb
from wandb.agents.pyagent import Agent
from asr_with_nemo import tracking

tracking.configure_wandb()
Agent.HEARTBEAT_SLEEP_SECONDS = 0.1
search = {
    "method": "random",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "parameters": {"lr": {"distribution": "log_uniform", "min": -9.21, "max": -4.61}, "epoch": {"min": 3, "max": 10}},
}


def train():
    with wandb.init() as run:
        run.log({"val_loss": run.config["lr"]})
        artifact = wandb.Artifact("model", "model")
        with artifact.new_file("model.nemo") as file:
            file.write(f"{run.config['lr']}")
        run.log_artifact(artifact)


sweep = wandb.sweep(search, project="ASR")
wandb.agent(sweep, train, count=3)
api = wandb.Api()
found = api.sweep(f"ASR/{sweep}")
best = min(found.runs, key=lambda run: run.summary["val_loss"])
assert found.best_run().id == best.id
assert [run.id for run in api.runs("ASR", order="+summary_metrics.val_loss")][0] == best.id
with wandb.init(project="ASR", name="reader") as run:
    (artifact,) = best.logged_artifacts()
    folder = run.use_artifact(f"model:{artifact.version}").download()
print(open(f"{folder}/model.nemo").read() == str(best.config["lr"]), 3 <= best.config["epoch"] <= 10)
try:
    api.artifact("ASR/model:nowhere")
except wandb.Error as error:
    print(error)
"""


@pytest.mark.slow
def test_a_sweep_an_artifact_and_the_public_api(server: WandbServer, tmp_path: Path):
    reading = start_training(tmp_path, READING_BACK, **(server.environment(tmp_path) | {"WANDB_CACHE_DIR": "cache"}))
    assert reading.wait(90) == 0, (tmp_path / "printed").read_text()
    lines = (tmp_path / "printed").read_text().splitlines()
    assert lines[-2:] == ["True True", "artifact membership 'model:nowhere' not found in 'course/ASR'"]
    (sweep,) = server.sweeps.values()
    assert [run_id for run_id, _ in sweep.trials] == [run.id for run in server.runs.values() if run.sweep == sweep.id]
    assert all(server.run(run_id).config == parameters for run_id, parameters in sweep.trials)
    assert len(sweep.trials) == 3
    (used,) = server.run("reader").used
    assert used.collection == "model"
    assert not (tmp_path / "artifacts").exists()  # what is downloaded lies in the folder wandb
