"""Several processes share a training, whatever has started them, and one that dies loses nothing."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from asr_with_nemo.base.machine import time_on_cores
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.errors import InputError
from asr_with_nemo.training import processes as shared_work
from asr_with_nemo.training.callbacks import CrowdedCores
from asr_with_nemo.training.launch import Environment, Launch
from asr_with_nemo.training.processes import Joining, SharedWork, Shares, share_dev_set
from tests.conftest import ROOT, first_rows, free_port, put, run_script
from tests.wandb_server import WandbServer


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


def test_a_dev_set_that_lhotse_reads_is_refused_for_several_processes():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    model = SimpleNamespace(world_size=2, global_rank=0, _validation_dl=DataLoader(Endless()))
    with pytest.raises(InputError, match="validation_ds.use_lhotse"):
        share_dev_set(model, 4)
    model.world_size = 1
    share_dev_set(model, 4)


# --- What the processes have to have alike ----------------------------------------------------------------------------


def joined(own: SharedWork, others: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a callback up as process 0, beside others that answer what is given."""
    answers = iter(others)
    monkeypatch.setattr(shared_work, "_from_all", lambda mine: [mine, next(answers)])
    own.setup(SimpleNamespace(world_size=2, default_root_dir="runs/x"), None, "fit")


def test_machines_with_different_data_settings_or_checkpoints_dont_train_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train, dev = (put(tmp_path / f"{name}_manifest.json", name) for name in ("train", "dev"))
    own = SharedWork(4, "utterances", 1, "d1", [train, dev], print)
    joined(own, [("node2", 1, "d1")], monkeypatch)
    there = {str(train): "other", str(dev): sha256_of(dev)}
    with pytest.raises(InputError, match="process 1 .on node2.*train_manifest.json differs") as caught:
        joined(own, [("node2", 1, "d2"), there], monkeypatch)
    assert "dev_manifest" not in str(caught.value)
    alike = there | {str(train): sha256_of(train)}
    with pytest.raises(InputError, match="the settings differ.*trainer.precision"):
        joined(own, [("node2", 1, "d2"), alike], monkeypatch)
    with pytest.raises(InputError, match=r"begin at epoch 1 and process 0 .* at epoch 2.*exp_manager.exp_dir"):
        joined(own, [("node2", 0, "d1")], monkeypatch)


def rates(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", ["NoamAnnealing", "CosineAnnealing", "NoamHoldAnnealing"])
def test_a_schedule_keeps_its_rates_with_half_the_steps(name: str):
    from nemo.core.optim import lr_scheduler

    settings = {"NoamAnnealing": {"d_model": 64}, "NoamHoldAnnealing": {"hold_steps": 40}}.get(name, {})

    def scheduler() -> torch.optim.lr_scheduler.LRScheduler:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
        return getattr(lr_scheduler, name)(optimizer, warmup_steps=40, max_steps=400, **settings)

    whole, halved = rates(scheduler(), 400), scheduler()
    rates(halved, 200)
    shared_work._stretch(halved, 100)  # of twice as many processes, half the steps are behind
    assert rates(halved, 100)[5:95:10] == pytest.approx(whole[210:390:20], rel=0.05)


# --- Joining ----------------------------------------------------------------------------------------------------------


def second_of_two(port: int, seconds: float) -> Joining:
    environment = {"RANK": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    strategy = Joining(timedelta(seconds=seconds))
    strategy.cluster_environment = Environment(Launch("another launcher", 2, 2), environment)
    strategy.parallel_devices = [torch.device("cpu")]
    strategy.num_nodes = 2
    return strategy


def test_a_process_that_nobody_joins_ends_and_says_where_it_waited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    rank, port = pl.utilities.rank_zero_only.rank, free_port()
    monkeypatch.setattr(shared_work, "_SAID_EVERY", 0.5)
    monkeypatch.setattr(shared_work.socket, "gethostbyname", lambda name: "127.0.1.1")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # restored afterwards
    try:
        with pytest.raises(InputError, match=f"process 1 of 2 could not join the others at 127.0.0.1:{port}"):
            second_of_two(port, 2).setup_distributed()
    finally:
        pl.utilities.rank_zero_only.rank = rank
    said = capsys.readouterr().out
    assert "process 1 of 2 waits for the others to join" in said
    assert "127.0.1.1 in its /etc/hosts, which the other machines can't reach" in said


@pytest.mark.slow
def test_ctrl_c_ends_a_process_that_waits_for_the_others():
    program = "from tests.training.test_processes import second_of_two, shared_work\n"
    program += f"shared_work._SAID_EVERY = 0.5\nsecond_of_two({free_port()}, 300).setup_distributed()"
    process = start([sys.executable, "-c", program], ROOT, variables(ROOT, {"PYTHONPATH": python_path()}))
    try:
        while "waits for the others" not in (line := process.stdout.readline()):
            assert line, process.wait()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    finally:
        process.kill()


# --- Busy cores -------------------------------------------------------------------------------------------------------


def test_a_machine_that_becomes_busy_is_said_once_and_when_it_is_free_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    times = iter([(0, 0), (10, 1), (10, 1), (15, 6), (15, 6), (20, 12), (20, 12), (30, 12)])
    monkeypatch.setattr("asr_with_nemo.training.callbacks.time_on_cores", lambda: next(times))
    callback = CrowdedCores()
    for epoch in range(4):
        trainer = SimpleNamespace(local_rank=0, current_epoch=epoch)
        callback.on_train_epoch_start(trainer, None)
        callback.on_train_epoch_end(trainer, None)
    first, last = capsys.readouterr().out.splitlines()
    assert "epoch 2" in first and "50%" in first
    assert "epoch 4" in last and "has left the cores" in last


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems don't tell")
def test_the_time_of_threads_on_cores_is_known():
    before, end = time_on_cores(), time.thread_time() + 0.2
    while time.thread_time() < end:
        pass
    after = time_on_cores()
    assert after[0] - before[0] > 0.1
    assert after[1] >= before[1] >= 0


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


def python_path() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


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


def slurms_processes(folder: Path, overrides: list[str], **environment: str) -> list[subprocess.Popen[str]]:
    """Train with two processes that have Slurm's variables, as if on two machines."""
    port = free_port()
    shared = {
        "SLURM_NTASKS": "2",
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
    own = [{"SLURM_PROCID": f"{rank}", "SLURM_NODEID": f"{rank}"} for rank in (0, 1)]
    return [start(command, folder, variables(folder, shared | environment | one)) for one in own]


def by_slurm(folder: Path, overrides: list[str], **environment: str) -> list[tuple[int, str]]:
    """Train with two processes of Slurm; return the exit status of each and what it printed."""
    processes = slurms_processes(folder, overrides, **environment)
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def lightnings_own(folder: Path, data: Path, **environment: str) -> subprocess.Popen[str]:
    """Train for two epochs with a process that starts another one."""
    command = [sys.executable, str(ROOT / "tests/training/heard.py"), str(folder / "heard")]
    command += settings(data, folder / "runs", "trainer.devices=2", "trainer.max_epochs=2")
    return start(command, folder, variables(folder, environment))


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


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A training by torchrun that nothing interrupts, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = by_torchrun(folder, settings(data, folder / "runs"))
    assert code == 0, said
    return folder, said


def check_goes_on(data: Path, folder: Path, whole: Path, finished: int) -> None:
    """The same command goes on after the finished epochs, and ends as a training that nothing interrupts."""
    code, said = by_torchrun(folder, settings(data, folder / "runs"))
    assert code == 0, said
    assert f"resuming from the end of epoch {finished}" in said
    check_shared(folder, 3)
    assert notes(folder, 3)[0]["weights"] == notes(whole, 3)[0]["weights"]


def check_arrives_once(folder: Path) -> None:
    """The one run that the processes kept is taken by W&B's server, whole and without repetition."""
    assert len(list(folder.rglob("wandb/offline-run-*"))) == 1
    with WandbServer() as server:
        done = run_script("sync.py", cwd=folder, **server.environment(folder))
        assert done.stdout == "sent: 1\nsent before: 0\n", done.stderr
        (run,) = server.runs.values()
        assert (run.state, run.exit_code, run.resent) == ("finished", 0, 0)
        for name in ("val_wer", "val_loss", "train_loss_epoch", "utterances_per_second"):
            assert [row["epoch"] for row in run.history if name in row] == [0, 1, 2], name
        (model,) = (folder / "runs").rglob("*.nemo")
        logged = Counter(one.collection for one in run.logged)
        assert logged.pop(f"run-{run.id}-predictions")
        assert logged == {model.parent.name: 3, model.stem: 1}  # a checkpoint an epoch, and the model
        assert {one.state for one in run.logged} == {"COMMITTED"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_of_torchrun_share_the_work_and_one_that_is_killed_loses_nothing(
    data: Path, whole: tuple[Path, str], tmp_path: Path
):
    folder, said = whole
    assert "2 processes on 1 machine(s), started by torchrun" in said
    assert "2 processes x 4 = 8 utterances; the learning rate stays" in said
    assert said.count("epoch 3/3") == 1
    for epoch in (1, 2, 3):
        check_shared(folder, epoch)
    check_arrives_once(folder)
    assert len(list((folder / "runs").rglob("*.nemo"))) == 1
    (summary,) = folder.rglob("training.json")
    assert json.loads(summary.read_text())["processes"] == 2

    code, said = by_torchrun(tmp_path, settings(data, tmp_path / "runs"), HEARD_KILL="1:2")
    assert code != 0
    assert "SIGKILL" in said or f"exitcode: -{int(signal.SIGKILL)}" in said
    assert not list((tmp_path / "runs").rglob("*.nemo"))
    check_goes_on(data, tmp_path, folder, finished=1)


@pytest.mark.proof
def test_the_first_process_is_killed_while_the_dev_set_is_looked_at_and_the_same_command_goes_on(
    data: Path, whole: tuple[Path, str], tmp_path: Path
):
    code, said = by_torchrun(tmp_path, settings(data, tmp_path / "runs"), HEARD_KILL="0:2:dev")
    assert code != 0, said
    check_goes_on(data, tmp_path, whole[0], finished=1)


@pytest.mark.proof
@pytest.mark.parametrize("kill", ["0:2:dev", "1:2:dev", "0:0", "1:0"])
def test_without_torchrun_too_the_other_process_ends_within_a_minute_with_a_message(
    kill: str, data: Path, tmp_path: Path
):
    processes = slurms_processes(tmp_path, settings(data, tmp_path / "runs"), HEARD_KILL=kill, HEARD_JOIN="20")
    killed = processes.pop(int(kill[0]))
    (other,) = processes
    try:
        assert killed.wait(400) == -signal.SIGKILL
        # One that is killed at its very start is gone before the other has begun to wait.
        said, _ = other.communicate(timeout=60 if kill[2] != "0" else 300)
    finally:
        other.kill()
    assert other.returncode == 1
    assert ("another process of this training has ended" if kill[2] != "0" else "could not join the others") in said
    assert "Traceback" not in said


@pytest.mark.proof
@pytest.mark.parametrize("kill", ["0:2:dev", "1:2"])
def test_lightnings_own_processes_end_with_a_message_too(kill: str, data: Path, tmp_path: Path):
    process = lightnings_own(tmp_path, data, HEARD_KILL=kill)
    said, _ = process.communicate(timeout=400)  # until all that write to it have ended
    # The first finds that the second is gone, or Lightning, which looks every 5 seconds, ends it with SIGKILL.
    assert process.returncode in (1, -signal.SIGKILL)
    messages = ["another process of this training has ended"] + ["Child process with PID"] * (kill[0] == "1")
    assert any(message in said for message in messages)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_lightnings_own_processes_share_the_work_too_in_a_slurm_job_with_one_task(data: Path, tmp_path: Path):
    process = lightnings_own(tmp_path, data, SLURM_NTASKS="1", SLURM_JOB_NAME="one", SLURM_PROCID="0")
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
