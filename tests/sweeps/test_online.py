"""A sweep with an account: W&B's own client over HTTP, on a stand-in for its server."""

import csv
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import session
from tests.conftest import ROOT
from tests.sweeps import invoke
from tests.wandb_server import ENTITY, WandbServer

CONFIGS = ROOT / "configs"

OBJECTIVE = """
def bowl(config, report):
    print("looking at", config)
    for epoch in range(1, 4):
        report({"val_loss": (config["lr"] - 0.001) ** 2 + config["net"]["dropout"] / epoch, "epoch": epoch})
    return {"done": 1}

def other(config, report):
    report({"loss": 1.0})

def broken(config, report):
    raise RuntimeError("out of luck")
"""

SWEEP = """
program: train.py
method: random
name: tuned
metric: {name: val_loss, goal: minimize}
parameters:
  lr: {distribution: log_uniform, min: -9.21, max: -4.61}
  net: {parameters: {dropout: {min: 0, max: 0.25}, layers: {min: 2, max: 5}}}
"""

# W&B's agent asks for work every five seconds; a test has no such patience.
HURRIED = """
import runpy, sys
from wandb.agents.pyagent import Agent
Agent.HEARTBEAT_SLEEP_SECONDS = 0.05
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


@pytest.fixture
def machine(server: WandbServer, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs scripts/sweep.py with an account, on a machine of its own: a folder with the sweep and the function."""

    def run(name: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "functions.py").write_text(OBJECTIVE)
        if not (folder / "tuned.yaml").exists():
            (folder / "tuned.yaml").write_text(SWEEP)
        known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        return subprocess.run(
            [sys.executable, "-c", HURRIED, str(ROOT / "scripts" / "sweep.py"), *map(str, arguments)],
            cwd=folder,
            env=known | server.environment(folder) | {"HOME": str(folder)} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )

    return run


def test_three_trials_here_and_two_on_another_machine(server: WandbServer, machine, tmp_path: Path):
    done = machine("here", "tuned.yaml", "--count", "3", "--objective", "functions:bowl")
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = server.sweeps.values()
    assert "tuned.yaml: has no effect here: program" in done.stdout
    assert f"sweep {sweep.id}; other machines join with --join {sweep.id}" in done.stdout
    assert sweep.config == yaml.safe_load(SWEEP) | {"parameters": sweep.config["parameters"]}
    net = sweep.config["parameters"]["net"]["parameters"]
    assert {name: spec["distribution"] for name, spec in net.items()} == {"dropout": "uniform", "layers": "int_uniform"}
    assert len(sweep.trials) == 3
    for run_id, parameters in sweep.trials:
        run = server.run(run_id)
        assert (run.sweep, run.state, run.config, run.project) == (sweep.id, "finished", parameters, "ASR")
        assert [row["epoch"] for row in run.history] == [1, 2, 3]
        assert run.summary["done"] == 1

    path = f"{ENTITY}/ASR/{sweep.id}"
    joined = machine("there", "tuned.yaml", "--count", "2", "--objective", "functions:bowl", "--join", path)
    assert joined.returncode == 0, joined.stdout + joined.stderr
    assert len(sweep.trials) == 5 and len(server.sweeps) == 1
    best = min((run for run in server.runs.values()), key=lambda run: min(row["val_loss"] for row in run.history))
    folder = tmp_path / "there" / "runs" / "sweeps" / sweep.id
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["finished"] * 5
    assert OmegaConf.load(folder / "best.yaml") == best.config
    assert (folder / "slices.png").stat().st_size > 5_000


def test_a_sweep_that_is_not_there_or_is_another(server: WandbServer, machine, tmp_path: Path):
    done = machine("here", "tuned.yaml", "--count", "1", "--objective", "functions:bowl", "--join", "course/ASR/nope")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "course/ASR/nope" in done.stderr.splitlines()[-1]
    made = machine("here", "tuned.yaml", "--count", "1", "--objective", "functions:bowl")
    assert made.returncode == 0, made.stderr
    (sweep,) = server.sweeps.values()
    other = tmp_path / "here" / "other.yaml"
    other.write_text(SWEEP.replace("max: 5", "max: 6"))
    done = machine("here", "other.yaml", "--count", "1", "--objective", "functions:bowl", "--join", sweep.id)
    assert done.returncode == 1
    assert re.match(rf"error: other.yaml: parameters .*{sweep.id}", done.stderr.splitlines()[-1])
    assert len(sweep.trials) == 1


def test_what_goes_wrong_is_said_and_ends_the_sweep(server: WandbServer, machine):
    done = machine("here", "tuned.yaml", "--count", "5", "--objective", "functions:other")
    assert done.returncode == 1
    (only,) = server.runs.values()  # nothing was started after it
    assert done.stderr.splitlines()[-1] == (
        f"error: tuned.yaml: metric.name: run {only.id} never logged 'val_loss'; it logged loss"
    )
    done = machine("here", "tuned.yaml", "--count", "9", "--objective", "functions:broken")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("RuntimeError: out of luck")
    assert [run.state for run in server.runs.values()][1:] == ["failed"] * 3


@pytest.mark.parametrize("option", [["--workers", "2"], ["--resume"], ["--seed", "1"]])
def test_what_the_server_rules_is_not_an_option(option: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "configure_wandb", lambda: "online")
    (tmp_path / "tuned.yaml").write_text(SWEEP)
    done = invoke("tuned.yaml", "--count", "1", "--objective", "functions:bowl", *option)
    assert isinstance(done.exception, InputError)
    assert re.match(rf"{option[0]}: .*--join.*WANDB_MODE=offline", str(done.exception))


NOTEBOOK = """
import sys, wandb
from wandb.agents.pyagent import Agent
from asr_with_nemo import sweeps

Agent.HEARTBEAT_SLEEP_SECONDS = 0.05
search = {
    "method": "random",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "parameters": {"lr": {"distribution": "log_uniform", "min": -9.21, "max": -4.61}, "epoch": {"min": 3, "max": 10}},
}


def train():
    with wandb.init() as run:
        for epoch in range(run.config.epoch):
            run.log({"val_loss": run.config.lr / (epoch + 1)})


sweep_id = sweeps.sweep(search, project="ASR")
sweeps.agent(sweep_id, train, project="ASR", count=3)
results = sweeps.load_results(sweep_id, project="ASR")
print("best", results.best.config, results.best.value)
print("states", {row.state for row in results.rows}, [len(row.history) for row in results.rows])
"""


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_notebooks_calls_are_wandbs_own_with_an_account_and_do_the_same_with_none(
    mode: str, server: WandbServer, tmp_path: Path
):
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    if mode == "online":
        known |= server.environment(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=tmp_path,
        env=known | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    best = json.loads(lines[-2].split("}")[0].removeprefix("best ").replace("'", '"') + "}")
    assert lines[-1].startswith("states {'finished'} ")
    epochs = json.loads(lines[-1].rpartition("} ")[2])
    assert len(epochs) == 3 and all(3 <= number <= 10 for number in epochs)
    assert best["epoch"] in epochs
    if mode == "online":
        (sweep,) = server.sweeps.values()
        assert [len(run.history) for run in server.runs.values()] == epochs
        assert best in [parameters for _, parameters in sweep.trials]
    else:
        assert not server.requests
        names = [textwrap.shorten(line, 40) for line in lines if line.startswith("trial")]
        assert sum("finished" in name for name in names) == 3
        files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        assert len(files) == 3
        text = b"".join(file.read_bytes() for file in files)
        assert all(f"sweep-{number}".encode() in text for number in range(3))
