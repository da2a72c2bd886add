"""What started the processes of a training, on one machine or more, and which settings fit them.

Lightning trains with as many processes as `trainer.devices` and `trainer.num_nodes` say. On one machine it starts the
others itself, unless torchrun, Slurm's srun or another launcher has started all of them: then those two settings have
to be what was started, or each process trains everything by itself. A batch size is that of each process.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment
from omegaconf import DictConfig

from asr_with_nemo.base.machine import own_cores
from asr_with_nemo.errors import InputError

_CANT_SHARE = ("spawn", "fork", "notebook")
"""Parts of the names of Lightning's strategies whose processes NeMo doesn't share the training set among."""
_MPI = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE", "PMI_SIZE")
"""What Open MPI, MVAPICH, LSF's jsrun, and MPICH and Intel's MPI set to the number of processes."""
_LOOPBACK = ("localhost", "::1", "127.")
_USE_TORCHRUN = "start it with torchrun: python -m torch.distributed.run --nproc-per-node=GPUS scripts/train.py ..."


class Launch(NamedTuple):
    """The processes that something other than Lightning has started for a training."""

    by: str
    """torchrun, srun, or another launcher."""
    processes: int
    machines: int

    @property
    def each(self) -> int:
        """Processes on each machine."""
        return self.processes // self.machines


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return what started the processes of this training; None if this process is the only one so far.

    The processes that Lightning starts itself have WORLD_SIZE and LOCAL_RANK, and no RANK: of them it is None too.

    Args:
        environment: the variables that launchers set; by default, those of this process.

    Raises:
        InputError: the machines have different numbers of processes, or only one of those that Slurm's job has been
            given was started, or the variables are those of a launcher that isn't taken, or incomplete.
    """
    given = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in given:
        processes, each = _number(given, "WORLD_SIZE"), _number(given, "LOCAL_WORLD_SIZE")
        machines = _number(given, "GROUP_WORLD_SIZE", -(-processes // each))
        return _even("torchrun", processes, machines, each * machines == processes)
    if given.get("RANK"):
        # A script that sets them under srun, RANK=$SLURM_PROCID, tells less than srun.
        slurm = _by_slurm(given) if given["RANK"] == given.get("SLURM_PROCID") else None
        return slurm if slurm and str(slurm.processes) == given.get("WORLD_SIZE") else _by_another(given)
    mpi = {name: _number(given, name) for name in _MPI if _number(given, name, 1) > 1}
    slurm = None if mpi.keys() - {"PMI_SIZE"} else _by_slurm(given)  # an srun with --mpi=pmi2 sets PMI_SIZE too
    if mpi and (slurm is None or slurm.processes not in mpi.values()):
        name, processes = next(iter(mpi.items()))
        raise InputError(
            f"{name}={processes} says that MPI (mpirun, mpiexec, jsrun) has started this process and others, which "
            f"isn't taken; {_USE_TORCHRUN}, once on each machine, or with Slurm's srun"
        )
    if slurm is None and _number(given, "WORLD_SIZE", 1) > 1 and "LOCAL_RANK" not in given:
        raise InputError(
            f"WORLD_SIZE={given['WORLD_SIZE']} says that this is one of several processes, but neither torchrun nor "
            f"srun has started it; {_USE_TORCHRUN}"
        )
    return slurm


def _number(given: Mapping[str, str], name: str, otherwise: int | None = None, least: int = 1) -> int:
    """Return the number that a launcher's variable has; `otherwise` if it isn't set, or is empty."""
    value = given.get(name) or otherwise
    if value is None or not str(value).isdecimal() or int(value) < least:
        wrong = f"{name} isn't set" if value is None else f"{name}={value}"
        raise InputError(f"{wrong}: expected a whole number of {least} or more from what started this process")
    return int(value)


def _even(by: str, processes: int, machines: int, is_even: bool) -> Launch:
    if not is_even or processes % machines:
        raise InputError(
            f"{by} has started {processes} processes on {machines} machines; expected the same number on each machine"
        )
    return Launch(by, processes, machines)


def _by_another(given: Mapping[str, str]) -> Launch:
    """Return the launch by something that sets what torchrun does, but for its own: DeepSpeed, Azure ML, a script."""
    rank, processes = given["RANK"], _number(given, "WORLD_SIZE")
    if processes == 1:
        return Launch("another launcher", 1, 1)
    lacking = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not given.get(name)]
    each = given.get("LOCAL_WORLD_SIZE") or given.get("LOCAL_SIZE")  # the second is DeepSpeed's
    if not each and not lacking:
        each = f"{processes}" if given["MASTER_ADDR"].startswith(_LOOPBACK) else None
        lacking = [] if each else ["LOCAL_WORLD_SIZE (the number of processes on each machine)"]
    if lacking:
        raise InputError(
            f"RANK={rank} and WORLD_SIZE={processes} say that this is one of {processes} processes, but "
            f"{', '.join(lacking)} is missing; set it, or {_USE_TORCHRUN}"
        )
    each = _number({"LOCAL_WORLD_SIZE": each}, "LOCAL_WORLD_SIZE")
    return _even("another launcher", processes, max(1, processes // each), processes % each == 0)


def _by_slurm(given: Mapping[str, str]) -> Launch | None:
    """Return the launch by Slurm's srun; None of a single task, and in a shell that has been asked of Slurm."""
    tasks = _number(given, "SLURM_STEP_NUM_TASKS", _number(given, "SLURM_NTASKS", 1))
    # An srun within a shell of srun --pty inherits the shell's port; what it starts knows its own number of tasks.
    if tasks == 1 or ("SLURM_PTY_PORT" in given and "SLURM_STEP_NUM_TASKS" not in given):
        return None
    if "SLURM_STEP_ID" not in given:
        if given.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # of salloc
            return None
        raise InputError(
            f"Slurm's job has {tasks} tasks, and this process is none of them, so it would wait for the others; begin "
            "the command with srun: srun python scripts/train.py ..."
        )
    machines = _number(given, "SLURM_STEP_NUM_NODES", _number(given, "SLURM_NNODES", 1))
    return _even("srun", tasks, machines, "," not in given.get("SLURM_STEP_TASKS_PER_NODE", ""))  # "3,1", "2(x4)"


class Environment(ClusterEnvironment):
    """Tells Lightning which of the launched processes this one is; its own classes know only some launchers.

    Under Slurm, a training that is queued again goes on from its own folder. With Lightning's class, it would write a
    checkpoint into the working folder, from which any new training there would begin.

    Args:
        launch: as `launched` found it.
        environment: the variables that the launcher set; by default, those of this process.

    Raises:
        InputError: the variables contradict each other.
    """

    def __init__(self, launch: Launch, environment: Mapping[str, str] | None = None):
        super().__init__()
        given = os.environ if environment is None else environment
        names = ("SLURM_PROCID", "SLURM_LOCALID") if launch.by == "srun" else ("RANK", "LOCAL_RANK")
        self._launch = launch
        self._rank, self._local_rank = (_number(given, name, None if launch.processes > 1 else 0, 0) for name in names)
        if self._rank >= launch.processes or self._local_rank >= launch.each:
            raise InputError(
                f"{names[0]}={self._rank} {names[1]}={self._local_rank} can't be one of {launch.processes} processes, "
                f"{launch.each} on each of {launch.machines} machine(s), by the variables that {launch.by} has set"
            )
        self._node = _number(given, "SLURM_NODEID", self._rank // launch.each, 0) if launch.by == "srun" else None
        nodes = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_NODELIST") or "127.0.0.1"
        self._address = given.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
        # Of each job of Slurm, and of each step of it, another port; all of its processes know it.
        digits = re.sub(r"\D", "", given.get("SLURM_JOB_ID", "") + given.get("SLURM_STEP_ID", "")) or "0"
        self._port = _number(given, "MASTER_PORT", 15_000 + int(digits) % 10_000)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._address

    @property
    def main_port(self) -> int:
        return self._port

    @staticmethod
    def detect() -> bool:
        return launched() is not None

    def world_size(self) -> int:
        return self._launch.processes

    def set_world_size(self, size: int) -> None:
        """Do nothing: it is what was started."""

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: it is what the launcher says."""

    def local_rank(self) -> int:
        return self._local_rank

    def node_rank(self) -> int:
        return self._rank // self._launch.each if self._node is None else self._node


def plugins() -> list[object]:
    """Return plugins for the Trainer, by which Lightning has the processes that `launched` has found, and no others."""
    started = launched()
    return [Environment(started) if started else LightningEnvironment()]


def cores_of_each(devices: int, started: Launch | None) -> int:
    """Return the number of cores for each process of this machine; where srun has bound a task to some, those.

    Not OMP_NUM_THREADS, which torchrun sets to 1: what loads the data are processes.
    """
    cores = own_cores()
    of_all = _number(os.environ, "SLURM_CPUS_ON_NODE", os.cpu_count() or 1)
    bound = started is not None and started.by == "srun" and cores * devices <= of_all
    return max(1, cores if bound else cores // devices)


# --- Checks -----------------------------------------------------------------------------------------------------------


def check_settings(trainer: DictConfig, started: Launch | None, gpus: int | None) -> None:
    """Make sure that the config's trainer settings are those of the processes that were started.

    Args:
        trainer: the config's section.
        started: what started the processes.
        gpus: that this process sees; None for a training on a CPU.

    Raises:
        InputError: some processes would be alone with all of the work, or wait for ever.
    """
    check_strategy(trainer.strategy)
    settings = f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}"
    node = os.environ.get("NODE_RANK", "")
    if started and (trainer.devices, trainer.num_nodes) != (started.each, started.machines):
        raise InputError(
            f"{started.by} has started {started.processes} processes on {started.machines} machine(s), but the "
            f"settings are {settings}; leave them out"
        )
    if started and gpus is not None and gpus < started.each:
        raise InputError(
            f"{started.by} has started {started.each} processes on this machine, and each sees {gpus} GPU(s); let each "
            "see all of them, a GPU for each process: without srun's --gpus-per-task and --gpu-bind, without "
            "CUDA_VISIBLE_DEVICES"
        )
    if not started and (trainer.num_nodes != 1 or (node not in ("", "0") and trainer.devices != 1)):
        raise InputError(
            f"{settings}{f' NODE_RANK={node}' if node else ''}: for several machines, start the command on each "
            "of them with torchrun, without these settings: python -m torch.distributed.run --nnodes=MACHINES "
            "--node-rank=0 (1, ...) --nproc-per-node=GPUS --master-addr=FIRST_MACHINE scripts/train.py ..."
        )


def check_strategy(strategy: object) -> None:
    """Make sure that a strategy's processes share the training set.

    Raises:
        InputError: each of them would train all of it.
    """
    if any(part in str(strategy) for part in _CANT_SHARE):
        raise InputError(
            f"trainer.strategy={strategy}: its processes would each train all utterances, since NeMo divides them "
            "before these processes start; use trainer.strategy=ddp"
        )
    if torch.distributed.is_available() and torch.distributed.is_initialized() and launched() is None:
        raise InputError(
            f"something (Ray Train?) has joined this process with {torch.distributed.get_world_size() - 1} others, "
            "which NeMo would not share the work with; start the command with torchrun"
        )


def check_world(trainer: pl.Trainer, model: pl.LightningModule) -> None:
    """Make sure that NeMo divides the utterances among as many processes as Lightning trains with.

    Raises:
        InputError: some utterances would be left out, or be trained by several processes.
    """
    if trainer.world_size != model.world_size:
        raise InputError(
            f"Lightning would train with {trainer.world_size} process(es), and NeMo divide the utterances among "
            f"{model.world_size}; leave trainer.devices, num_nodes and strategy out, and {_USE_TORCHRUN}"
        )
