"""A training of several processes, on one machine or more: what started them, and how they share the work.

Lightning trains with as many processes as `trainer.devices` and `trainer.num_nodes` say. It starts the others itself,
unless torchrun or Slurm's srun has started all of them: then those two settings have to be what was started, or each
process trains everything by itself. A batch size is that of each process.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader, DistributedSampler

from asr_with_nemo.errors import InputError

_CANT_SHARE = ("spawn", "fork", "notebook")
"""Parts of the names of Lightning's strategies whose processes NeMo doesn't share the training set among."""
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket", "timed out")
"""In the messages of collective operations, if another process has ended."""


class Launch(NamedTuple):
    """The processes that something other than Lightning has started for a training."""

    by: str
    """torchrun or Slurm's srun."""
    processes: int
    machines: int

    @property
    def each(self) -> int:
        """Processes on each machine."""
        return self.processes // self.machines


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Return what started the processes of this training; None if this process is the only one so far.

    Args:
        environment: the variables that torchrun and srun set; by default, those of this process.

    Raises:
        InputError: the machines have different numbers of processes, or only one of those that Slurm's job has been
            given was started, or something unknown has set variables of a training with several processes.
    """
    given = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in given:
        by, processes = "torchrun", int(given["WORLD_SIZE"])
        each = int(given["LOCAL_WORLD_SIZE"])
        machines = -(-processes // each)
    elif int(given.get("SLURM_NTASKS", 1)) > 1 and given.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        by, processes = "srun", int(given["SLURM_NTASKS"])
        if "SLURM_STEP_ID" not in given:
            raise InputError(
                f"Slurm's job has {processes} tasks, and this process is none of them, so it would wait for the "
                "others; begin the command with srun: srun python scripts/train.py ..."
            )
        machines = int(given.get("SLURM_STEP_NUM_NODES") or given.get("SLURM_NNODES") or 1)
        each = processes // machines
    elif int(given.get("WORLD_SIZE", 1)) > 1 and "LOCAL_RANK" not in given:
        raise InputError(
            f"WORLD_SIZE={given['WORLD_SIZE']} says that this is one of several processes, but neither torchrun nor "
            "srun has started it; start it with torchrun: torchrun --nproc-per-node=GPUS scripts/train.py ..."
        )
    else:
        return None
    if each * machines != processes:
        raise InputError(f"{by} has started {processes} processes on {machines} machines; expected as many on each")
    return Launch(by, processes, machines)


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


def plugins() -> list[object]:
    """Return plugins for the Trainer: under Slurm, a training that is started again goes on from its own folder.

    Lightning's own way writes a checkpoint into the working folder, from which any new training there would begin.
    """
    started = launched()
    return [SLURMEnvironment(auto_requeue=False)] if started and started.by == "srun" else []


@contextmanager
def together(processes: int, resume: str) -> Iterator[None]:
    """Explain the errors of a training of several processes when another one of them has ended.

    Args:
        processes: their number.
        resume: how to go on.

    Raises:
        InputError: instead of an error of their communication.
    """
    try:
        yield
    except RuntimeError as error:  # torch's DistBackendError is one
        if processes == 1 or not any(part in str(error).lower() for part in _LOST):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(
            f"another process of this training has ended; its message says why ({reason}); {resume}"
        ) from error


# --- Shares of the work -----------------------------------------------------------------------------------------------


class Shares(DistributedSampler):
    """Divide a dev set among processes: each utterance in one batch of one of them, and as many batches in each.

    PyTorch's own sampler gives some utterances to two processes, which then count twice; and NeMo's encoder talks to
    the other processes in each batch, so that all of them need the same number. It is given to a loader as its sampler,
    with `batch_size=None`: Lightning leaves a `DistributedSampler` as it is.

    Args:
        count: utterances of the dev set.
        rank: of this process.
        processes: their number.
        batch_size: at most.

    Raises:
        InputError: there are too few utterances for a batch in each process.

    Example:
        >>> [list(Shares(9, rank, 2, 4)) for rank in (0, 1)]
        [[[0, 2, 4], [6, 8]], [[1, 3], [5, 7]]]
    """

    def __init__(self, count: int, rank: int, processes: int, batch_size: int):
        super().__init__(range(count), num_replicas=processes, rank=rank, shuffle=False)
        batches = math.ceil(math.ceil(count / processes) / batch_size)
        if count // processes < batches:  # one utterance a batch, or fewer utterances than processes
            batches = count // processes
        if batches == 0:
            raise InputError(f"the dev set has {count} utterances for {processes} processes; use {count} or fewer")
        self.own = [
            [int(place) for place in batch] for batch in torch.arange(rank, count, processes).tensor_split(batches)
        ]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


def share_dev_set(model: pl.LightningModule, batch_size: int) -> None:
    """Divide the dev set of a NeMo model among the processes of its training, each utterance once."""
    if model.world_size == 1:
        return
    loaders = model._validation_dl if isinstance(model._validation_dl, list) else [model._validation_dl]
    shared = [
        DataLoader(
            loader.dataset,
            batch_size=None,
            sampler=Shares(len(loader.dataset), model.global_rank, model.world_size, batch_size),
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
        )
        if isinstance(loader, DataLoader)
        else loader
        for loader in loaders
    ]
    model._validation_dl = shared if isinstance(model._validation_dl, list) else shared[0]


class SharedWork(pl.Callback):
    """Say how the processes share a training, and let one go on that began with another number of them.

    Args:
        batch_size: of each process.
        unit: of the batch size: utterances, or seconds of speech.
        first_epoch: with which this process begins, from 0.
        say: called with a line, in the first process.
    """

    def __init__(self, batch_size: float, unit: str, first_epoch: int, say=print):
        self.batch_size = batch_size
        self.unit = unit
        self.first_epoch = first_epoch
        self.say = say
        self._before: int | None = None  # processes, of the training that this one continues

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        first = trainer.strategy.broadcast(self.first_epoch)
        if first != self.first_epoch:
            raise InputError(
                f"process {trainer.global_rank} would begin at epoch {self.first_epoch + 1} and process 0 at epoch "
                f"{first + 1}: the machines have different files in {trainer.default_root_dir}; set "
                "exp_manager.exp_dir to a folder on a disk that all of them share"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        processes, accumulated = trainer.world_size, trainer.accumulate_grad_batches
        whole = processes * self.batch_size * accumulated
        if processes > 1:
            rate = pl_module.cfg.optim.get("lr")
            factors = f"{processes} processes x {self.batch_size:g}" + (f" x {accumulated}" if accumulated > 1 else "")
            self.say(
                f"a step takes {factors} = {whole:g} {self.unit}; the learning rate stays model.optim.lr={rate}, "
                f"which is not scaled (for {processes} times the batch, sqrt({processes}) = {math.sqrt(processes):.2f} "
                "times the rate is usual with Adam and its kin)"
            )
        if self._before not in (None, processes) and self.first_epoch:
            in_epochs = trainer.max_steps == -1
            schedule = "at the same share of its schedule" if in_epochs else "with its schedule of trainer.max_steps"
            self.say(
                f"resuming with {processes} process(es) what {self._before} began: a step takes {whole:g} {self.unit} "
                f"instead of {self._before * self.batch_size * accumulated:g}, and the learning rate goes on {schedule}"
            )
            # Of shards, only an estimate is known.
            batches = getattr(trainer.train_dataloader, "planned", trainer.num_training_batches)
            done = math.ceil(batches / accumulated) * self.first_epoch
            for planned in trainer.lr_scheduler_configs if in_epochs else ():
                _stretch(planned.scheduler, done)
        self._before = processes

    def state_dict(self) -> dict[str, int | None]:
        return {"processes": self._before}

    def load_state_dict(self, state_dict: dict) -> None:
        self._before = state_dict["processes"]


def _stretch(scheduler: torch.optim.lr_scheduler.LRScheduler, done: int) -> None:
    """Let a learning rate schedule, restored from a training with another number of steps per epoch, fit this one's.

    Args:
        scheduler: one of NeMo's.
        done: the number of steps that the finished epochs have in this training.
    """
    ratio = done / max(1, scheduler.last_epoch)
    for name in ("max_steps", "warmup_steps", "constant_steps", "hold_steps", "decay_steps"):
        if isinstance(steps := getattr(scheduler, name, None), int):
            setattr(scheduler, name, round(steps * ratio))
    scheduler.last_epoch = done
