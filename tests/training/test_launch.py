"""What started the processes of a training is found, and where it can't be right, refused."""

import os
from types import SimpleNamespace

import pytest
import torch

from asr_with_nemo.base import machine
from asr_with_nemo.errors import InputError
from asr_with_nemo.training import config as training_config
from asr_with_nemo.training import launch
from asr_with_nemo.training.config import fit_to_machine, load_config, machine_settings
from asr_with_nemo.training.launch import Environment, Launch, check_strategy, launched, plugins
from tests.conftest import ROOT

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
}
SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_NAME": "train"}
BY_HAND = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "first", "MASTER_PORT": "29500"}
DEEPSPEED = BY_HAND | {"LOCAL_SIZE": "2", "CROSS_SIZE": "2", "CROSS_RANK": "0"}
LIGHTNINGS_OWN = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}
VARIABLES = ("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_", "JSM_", "MASTER_", "GROUP_", "LOCAL_")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch):
    """Nothing has started the tests' process."""
    for name in list(os.environ):
        if name in ("RANK", "WORLD_SIZE", "NODE_RANK") or name.startswith(VARIABLES):
            monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (TORCHRUN, Launch("torchrun", 4, 2)),
        (SLURM | TORCHRUN, Launch("torchrun", 4, 2)),  # in Slurm's job, torchrun starts the processes
        (SLURM, Launch("srun", 4, 2)),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, Launch("srun", 4, 2)),
        (SLURM | {"PMI_SIZE": "4", "PMI_RANK": "1"}, Launch("srun", 4, 2)),  # srun --mpi=pmi2
        # A step that is smaller than its job.
        (SLURM | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NNODES": "2"}, Launch("srun", 2, 1)),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "one", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "", "WORLD_SIZE": ""}, None),
        # salloc gives a shell; an srun in it starts all, whatever the job is called.
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}, None),
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, Launch("srun", 4, 2)),
        (SLURM | {"SLURM_JOB_NAME": "bash", "SLURM_PTY_PORT": "1"}, None),
        (SLURM | {"SLURM_PTY_PORT": "1", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (SLURM | {"SLURM_PTY_PORT": "1", "SLURM_STEP_NUM_TASKS": "4"}, Launch("srun", 4, 2)),
        (
            SLURM | {"SLURM_PROCID": "3", "RANK": "3", "WORLD_SIZE": "4"},
            Launch("srun", 4, 2),
        ),  # set by a script of srun
        (DEEPSPEED, Launch("another launcher", 4, 2)),
        (BY_HAND | {"LOCAL_WORLD_SIZE": "4"}, Launch("another launcher", 4, 1)),
        (BY_HAND | {"MASTER_ADDR": "127.0.0.1"}, Launch("another launcher", 4, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launch("another launcher", 1, 1)),
        (LIGHTNINGS_OWN, None),
    ],
)
def test_what_started_the_processes_is_found(environment: dict[str, str], found: Launch | None):
    assert launched(environment) == found


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (TORCHRUN | {"WORLD_SIZE": "3"}, "3 processes on 2 machines"),
        # 2 and 4 processes, and 1 and 3: both machines refuse.
        (TORCHRUN | {"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}, "6 processes on 2 machines"),
        (TORCHRUN | {"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "4"}, "6 processes on 2 machines"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "1"}, "4 processes on 2 machines"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "4 processes on 2 machines"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, "the same number on each machine"),
        ({key: SLURM[key] for key in ("SLURM_NTASKS", "SLURM_JOB_NAME")}, "begin the command with srun"),
        (SLURM | {"SLURM_STEP_NUM_NODES": "0x2"}, "SLURM_STEP_NUM_NODES=0x2: expected a whole number"),
        (SLURM | {"SLURM_STEP_NUM_NODES": "0"}, "SLURM_STEP_NUM_NODES=0: expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "start it with torchrun"),
        ({"WORLD_SIZE": "2"}, "start it with torchrun"),
        ({"WORLD_SIZE": "auto"}, "WORLD_SIZE=auto: expected a whole number"),
        ({"RANK": "3"}, "WORLD_SIZE isn't set"),
        (BY_HAND, "LOCAL_WORLD_SIZE .* is missing"),
        (BY_HAND | {"LOCAL_WORLD_SIZE": "3"}, "the same number on each machine"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "MPI .* isn't taken; start it with torchrun"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "MPI .* isn't taken"),
        ({"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "1"}, "MPI .* isn't taken"),
        # mpirun starts its own processes by srun, one on each machine.
        (SLURM | {"SLURM_NTASKS": "2", "OMPI_COMM_WORLD_SIZE": "8"}, "MPI .* isn't taken"),
        (SLURM | {"SLURM_NTASKS": "2", "PMI_SIZE": "8"}, "MPI .* isn't taken"),
    ],
)
def test_processes_that_would_wait_for_ever_or_work_alone_are_refused(environment: dict[str, str], said: str):
    with pytest.raises(InputError, match=said):
        launched(environment)


def test_each_process_is_told_which_one_it_is():
    own = Environment(launched(DEEPSPEED), DEEPSPEED)
    assert (own.world_size(), own.global_rank(), own.local_rank(), own.node_rank()) == (4, 1, 1, 0)
    assert (own.main_address, own.main_port, own.creates_processes_externally) == ("first", 29500, True)
    # srun without --ntasks-per-node, and a step on fewer machines than its job has: Lightning's class refuses both.
    third = SLURM | {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_JOB_ID": "123456"}
    third |= {"SLURM_NODELIST": "node[3-9]", "SLURM_STEP_NODELIST": "node[7,9]", "SLURM_NTASKS_PER_NODE": "8"}
    own = Environment(launched(third), third)
    assert (own.world_size(), own.global_rank(), own.local_rank(), own.node_rank()) == (4, 1, 0, 1)
    assert own.main_address == "node7"
    later = third | {"SLURM_STEP_ID": "1"}
    assert own.main_port != Environment(launched(later), later).main_port  # two steps of a job don't meet
    for wrong in ({"LOCAL_RANK": "2"}, {"RANK": "4"}):
        with pytest.raises(InputError, match="can't be one of 4 processes"):
            Environment(launched(DEEPSPEED), DEEPSPEED | wrong)
    with pytest.raises(InputError, match="SLURM_PROCID isn't set"):
        Environment(launched(SLURM), SLURM)


def test_lightning_starts_the_processes_of_a_slurm_job_with_one_task(monkeypatch: pytest.MonkeyPatch):
    import lightning.pytorch as pl

    one = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "one", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    set_all(monkeypatch, one)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(devices=2, accelerator="cpu", strategy="ddp", plugins=plugins(), **quiet)
    assert trainer.world_size == 2
    assert not trainer.strategy.cluster_environment.creates_processes_externally
    launch.check_world(trainer, SimpleNamespace(world_size=2))
    lightnings = pl.Trainer(devices=2, accelerator="cpu", strategy="ddp", **quiet)
    with pytest.raises(InputError, match="train with 1 process"):  # 12 of 24 utterances were heard
        launch.check_world(lightnings, SimpleNamespace(world_size=2))


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
    set_all(monkeypatch, TORCHRUN)
    cpu = ["trainer.accelerator=cpu"]
    config, line = fit_to_machine(load_config(ROOT / "configs", "config", cpu), {"trainer.accelerator"})
    assert (config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy) == (2, 2, "ddp")
    assert "4 processes on 2 machine(s), started by torchrun" in line
    asked = load_config(ROOT / "configs", "config", [*cpu, "trainer.devices=1"])
    with pytest.raises(InputError, match=r"trainer.devices=1 trainer.num_nodes=2; leave them out"):
        fit_to_machine(asked, {"trainer.accelerator", "trainer.devices"})


@pytest.mark.parametrize(
    ("overrides", "node"),
    [(["trainer.num_nodes=2"], "0"), (["trainer.num_nodes=2"], "1"), (["trainer.devices=2"], "1")],
)
def test_lightnings_own_start_on_several_machines_is_refused(
    overrides: list[str], node: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NODE_RANK", node)
    given = ["trainer.accelerator=cpu", *overrides]
    with pytest.raises(InputError, match="with torchrun.*--nnodes"):
        fit_to_machine(load_config(ROOT / "configs", "config", given), {one.split("=")[0] for one in given})


# --- GPUs that this machine hasn't ------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(machine, "_quota", lambda: None)
    monkeypatch.setattr(training_config, "has_working_gpu", lambda: True)


@pytest.mark.parametrize(
    ("started", "cores", "of_all", "workers"),
    [
        (None, 96, None, 8),  # 12 cores for each; 8 workers at most
        (None, 32, None, 4),
        (Launch("torchrun", 8, 1), 32, None, 4),  # torchrun sets OMP_NUM_THREADS=1
        (Launch("srun", 16, 2), 32, "32", 4),  # not bound: each task sees the cores of all
        (Launch("srun", 16, 2), 6, "48", 6),  # each task is bound to its own cores
        (Launch("srun", 16, 2), 1, "8", 1),
        (Launch("torchrun", 8, 1), 4, None, 1),
    ],
)
def test_each_gpu_has_the_workers_for_which_it_has_cores(
    started: Launch | None, cores: int, of_all: str | None, workers: int, gpus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    if of_all:
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", of_all)
    assert machine_settings(True, started)["num_workers"] == workers


def test_processes_that_see_too_few_gpus_are_refused(gpus, monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, TORCHRUN)
    config = load_config(ROOT / "configs", "config", [])
    assert fit_to_machine(config)[0].trainer.devices == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="each sees 1 GPU"):
        fit_to_machine(config)


def test_gpus_that_a_launcher_leaves_unused_are_said(gpus, monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1"})  # as they are left in the environment of some containers
    assert ", 1 of 8 GPUs used" in fit_to_machine(load_config(ROOT / "configs", "config", []))[1]


@pytest.mark.parametrize(
    ("environment", "tried"),
    [
        ({}, "cuda:0"),
        ({"LOCAL_RANK": "3"}, "cuda:3"),
        ({"SLURM_LOCALID": "2"}, "cuda:2"),
        ({"LOCAL_RANK": "9"}, "cuda:0"),  # each process sees its own GPU alone
    ],
)
def test_each_process_tries_its_own_gpu(environment: dict[str, str], tried: str, gpus, monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, environment)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = []
    monkeypatch.setattr(torch, "ones", lambda size, device: asked.append(device) or torch.full((size,), 1.0))
    assert machine.has_working_gpu()
    assert asked == [tried]
