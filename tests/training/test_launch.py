"""Several processes share a training, whatever has started them, and one that dies loses nothing."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.training.config import fit_to_machine, load_config
from asr_with_nemo.training.launch import Launch, Shares, check_strategy, launched
from tests.conftest import ROOT, first_rows, free_port

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (TORCHRUN, Launch("torchrun", 4, 2)),
        (SLURM | TORCHRUN, Launch("torchrun", 4, 2)),  # in Slurm's job, torchrun starts the processes
        (SLURM, Launch("srun", 4, 2)),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "one"}, None),
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, None),
        # What Lightning sets for the processes that it starts itself.
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}, None),
    ],
)
def test_what_started_the_processes_is_found(environment: dict[str, str], found: Launch | None):
    assert launched(environment) == found


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (TORCHRUN | {"WORLD_SIZE": "3"}, "3 processes on 2 machines"),
        ({key: SLURM[key] for key in ("SLURM_NTASKS", "SLURM_JOB_NAME")}, "begin the command with srun"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "start it with torchrun"),
    ],
)
def test_processes_that_would_wait_for_ever_or_work_alone_are_refused(environment: dict[str, str], said: str):
    with pytest.raises(InputError, match=said):
        launched(environment)


@pytest.mark.parametrize(
    "strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook", "ddp_notebook_find_unused_parameters_true"]
)
def test_a_strategy_that_shares_nothing_is_refused(strategy: str):
    with pytest.raises(InputError, match="trainer.strategy=ddp"):
        check_strategy(strategy)
    config = load_config(ROOT / "configs", "config", [f"trainer.strategy={strategy}"])
    with pytest.raises(InputError, match=strategy):
        fit_to_machine(config, {"trainer.strategy"})


def test_settings_follow_what_was_started(monkeypatch: pytest.MonkeyPatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    cpu = ["trainer.accelerator=cpu"]
    config, line = fit_to_machine(load_config(ROOT / "configs", "config", cpu), {"trainer.accelerator"})
    assert (config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy) == (2, 2, "ddp")
    assert "4 processes on 2 machine(s), started by torchrun" in line
    asked = load_config(ROOT / "configs", "config", [*cpu, "trainer.devices=1"])
    with pytest.raises(InputError, match=r"trainer.devices=1 trainer.num_nodes=2; leave them out"):
        fit_to_machine(asked, {"trainer.accelerator", "trainer.devices"})


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_dev_utterance_counts_once(processes: int):
    for count, batch_size in itertools.product(range(processes, 40), (1, 2, 4, 16)):
        shares = [list(Shares(count, rank, processes, batch_size)) for rank in range(processes)]
        assert sorted(place for share in shares for batch in share for place in batch) == list(range(count))
        assert len({len(share) for share in shares}) == 1  # as many batches in each process
        sizes = {len(batch) for share in shares for batch in share}
        assert 1 <= min(sizes) <= max(sizes) <= max(2, batch_size)


def test_a_dev_set_that_leaves_a_process_with_nothing_is_refused():
    with pytest.raises(InputError, match="3 utterances for 4 processes"):
        Shares(3, 0, 4, 8)


# --- Two processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(small_corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training utterances and 9 of dev: an odd number for two processes."""
    return first_rows(small_corpus, tmp_path_factory.mktemp("data"), train=24, dev=9)


def settings(data: Path, runs: Path, *more: str) -> list[str]:
    return [
        f"data_dir={data}",
        f"exp_manager.exp_dir={runs}",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=3",
        "model.train_ds.batch_size=4",
        "tracking.predictions_every=1",
        *more,
    ]


def variables(folder: Path, more: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    return {key: value for key, value in os.environ.items() if key != "COURSE_PRELOADED"} | own | dict(more)


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def by_torchrun(folder: Path, overrides: list[str], **environment: str) -> tuple[int, str]:
    """Train with two processes of torchrun; return the exit status and what was printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(ROOT / "tests/training/heard.py"), str(folder / "heard"), *overrides]
    process = start(command, folder, variables(folder, environment))
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def by_slurm(folder: Path, overrides: list[str], **environment: str) -> list[tuple[int, str]]:
    """Train with two processes that have Slurm's variables, as if on two machines."""
    port = free_port()
    shared = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train",
        "SLURM_LOCALID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(ROOT / "tests/training/heard.py"), str(folder / "heard"), *overrides]
    processes = [
        start(
            command,
            folder,
            variables(folder, shared | environment | {"SLURM_PROCID": f"{rank}", "SLURM_NODEID": f"{rank}"}),
        )
        for rank in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def notes(folder: Path, epoch: int, processes: int = 2) -> list[dict]:
    return [json.loads((folder / f"heard/epoch{epoch}-rank{rank}.json").read_text()) for rank in range(processes)]


def check_shared(folder: Path, epoch: int) -> None:
    """Each utterance was heard by one process, once, and the processes have the same weights."""
    both = notes(folder, epoch)
    for split, count in (("train", 24), ("dev", 9)):
        heard = Counter(digest for note in both for digest in note[split])
        assert len(heard) == count
        assert set(heard.values()) == {1}
    assert both[0]["weights"] == both[1]["weights"]
    assert both[0]["wer"] == both[1]["wer"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_of_torchrun_share_the_work_and_one_that_is_killed_loses_nothing(data: Path, tmp_path: Path):
    whole = tmp_path / "whole"
    whole.mkdir()
    code, said = by_torchrun(whole, settings(data, whole / "runs"))
    assert code == 0, said
    assert "2 processes on 1 machine(s), started by torchrun" in said
    assert "2 processes x 4 = 8 utterances; the learning rate stays" in said
    assert said.count("epoch 3/3") == 1
    for epoch in (1, 2, 3):
        check_shared(whole, epoch)
    assert len(list(whole.rglob("wandb/offline-run-*"))) == 1
    assert len(list((whole / "runs").rglob("*.nemo"))) == 1
    (summary,) = whole.rglob("training.json")
    assert json.loads(summary.read_text())["processes"] == 2

    killed = tmp_path / "killed"
    killed.mkdir()
    code, said = by_torchrun(killed, settings(data, killed / "runs"), HEARD_KILL="1:2")
    assert code != 0
    assert "SIGKILL" in said or f"exitcode: -{int(signal.SIGKILL)}" in said
    assert not list((killed / "runs").rglob("*.nemo"))
    code, said = by_torchrun(killed, settings(data, killed / "runs"))
    assert code == 0, said
    assert "resuming from the end of epoch 1" in said
    assert notes(killed, 3)[0]["weights"] == notes(whole, 3)[0]["weights"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_lightnings_own_processes_share_the_work_too(data: Path, tmp_path: Path):
    command = [sys.executable, str(ROOT / "tests/training/heard.py"), str(tmp_path / "heard")]
    command += settings(data, tmp_path / "runs", "trainer.devices=2", "trainer.max_epochs=2")
    process = start(command, tmp_path, variables(tmp_path))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    check_shared(tmp_path, 1)
    check_shared(tmp_path, 2)
    assert said.count("epoch 2/2") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_slurms_processes_share_the_work_and_one_machine_goes_on_with_it(data: Path, tmp_path: Path):
    overrides = settings(data, tmp_path / "runs", "fraction=0.99")  # each process draws the fraction
    first, second = by_slurm(tmp_path, overrides, HEARD_KILL="1:3")
    assert "2 processes on 2 machine(s), started by srun" in first[1]
    assert second[0] == -signal.SIGKILL
    assert first[0] == 1
    assert "another process of this training has ended" in first[1]
    assert "Traceback" not in first[1]
    check_shared(tmp_path, 2)
    rate = notes(tmp_path, 2)[0]["rate"]

    alone = [sys.executable, str(ROOT / "tests/training/heard.py"), str(tmp_path / "heard"), *overrides]
    process = start(alone, tmp_path, variables(tmp_path))
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "resuming from the end of epoch 2" in said
    assert "resuming with 1 process(es) what 2 began: a step takes 4 utterances instead of 8" in said
    (last,) = notes(tmp_path, 3, processes=1)
    assert len(set(last["train"])) == len(last["train"]) == 24
    assert last["rate"] < rate  # the schedule ends where it should
    assert last["rate"] == pytest.approx(0, abs=rate / 20)
