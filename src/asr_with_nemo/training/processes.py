"""How the processes of a training join, share the work, and end."""

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler

from asr_with_nemo.base.threads import every
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.errors import InputError
from asr_with_nemo.models import nemo_internals

JOIN = timedelta(minutes=10)
"""How long a process waits for the others to join the training."""
_ANSWER = timedelta(minutes=30)
"""How long it then waits for their part of a step; PyTorch's default, as the first process may have files to write."""
_SAID_EVERY = 60.0  # seconds, while a process waits
_LOST = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "socket", "timed out")
"""In the messages of collective operations, if another process has ended."""


# --- Joining and ending -----------------------------------------------------------------------------------------------


class Joining(DDPStrategy):
    """Lightning's data-parallel processes, which wait for each other at their start, but not for long.

    Args:
        limit: how long they wait.
    """

    def __init__(self, limit: timedelta = JOIN):
        super().__init__(timeout=limit)
        self._limit = limit

    def setup_distributed(self) -> None:
        environment = self.cluster_environment
        self.set_world_ranks()
        place = f"{environment.main_address}:{environment.main_port}"
        if self.num_nodes > 1 and self.local_rank == 0 and (name := _name_of_loopback()):
            print(
                f"warning: {name}, which the other machines can't reach; if the processes don't join, set "
                "GLOO_SOCKET_IFNAME (and on GPUs NCCL_SOCKET_IFNAME) to the network's interface, such as eth0",
                flush=True,
            )
        own = f"process {self.global_rank} of {self.world_size}"
        try:
            with _ends_at_once(), _saying(f"{own} waits for the others to join at {place}"):
                super().setup_distributed()
        except RuntimeError as error:  # torch's DistStoreError and DistNetworkError are
            minutes, reason = self._limit.total_seconds() / 60, str(error).strip().splitlines()[0][:200]
            raise InputError(
                f"{own} could not join the others at {place}, for which it has {minutes:g} minutes ({reason}); their "
                "messages say whether one has ended, waits for another training in its folder, or reaches another "
                "address; end those that are left, and start all again"
            ) from error
        nemo_internals.let_wait(_ANSWER)


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end this process even while PyTorch waits, in which no handler of Python's runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that wasn't set in Python, which can't set it again
                signal.signal(number, handler)


@contextmanager
def _saying(line: str) -> Iterator[None]:
    """Say a line every minute until the block ends."""
    began = time.monotonic()
    with every(_SAID_EVERY, lambda: print(f"{line}, since {round(time.monotonic() - began)} s", flush=True)):
        yield


def _name_of_loopback() -> str | None:
    """Return a sentence if this machine's name leads to itself alone (Debian's 127.0.1.1), where gloo listens."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
    if os.environ.get("GLOO_SOCKET_IFNAME") or not address.startswith("127."):
        return None
    return f"the name of this machine, {socket.gethostname()}, is {address} in its /etc/hosts"


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
    """Divide the dev set of a NeMo model among the processes of its training, each utterance once.

    Raises:
        InputError: Lhotse reads the dev set, which can't tell how many utterances it has.
    """
    if model.world_size == 1:
        return
    loaders = model._validation_dl if isinstance(model._validation_dl, list) else [model._validation_dl]
    if any(isinstance(loader, DataLoader) and not hasattr(loader.dataset, "__len__") for loader in loaders):
        raise InputError(
            "model.validation_ds.use_lhotse=true: several processes can't share a dev set that Lhotse reads; leave it "
            "out (the training set may be shards, model.train_ds.shar_path)"
        )
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
        digest: of all that determines the weights.
        files: that the digest depends on.
        say: called with a line, in the first process.
    """

    def __init__(
        self,
        batch_size: float,
        unit: str,
        first_epoch: int = 0,
        digest: str | None = None,
        files: Sequence[Path] = (),
        say: Callable[[str], object] = print,
    ):
        self.batch_size = batch_size
        self.unit = unit
        self.first_epoch = first_epoch
        self.digest = digest
        self.files = files
        self.say = say
        self._before: int | None = None  # processes, of the training that this one continues

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        everyone = _from_all((socket.gethostname(), self.first_epoch, self.digest))
        host, first, digest = everyone[0]
        for rank, (other, epoch, found) in enumerate(everyone):
            if found != digest:
                raise InputError(
                    f"process {rank} (on {other}) and process 0 (on {host}) would train different things: "
                    f"{self._differing()}; on all machines, the data, the settings and the hardware's precision have "
                    "to be the same: put the data on a disk that all share, or set trainer.precision"
                )
            if epoch != first:
                raise InputError(
                    f"process {rank} (on {other}) would begin at epoch {epoch + 1} and process 0 (on {host}) at epoch "
                    f"{first + 1}: the machines have different files in {trainer.default_root_dir}; set "
                    "exp_manager.exp_dir to a folder on a disk that all of them share"
                )

    def _differing(self) -> str:
        """Return the names of the files that the processes have differently; all of them have to call it."""
        everyone = _from_all({str(file): sha256_of(file) for file in self.files})
        names = sorted(
            {name for own in everyone for name in own if any(one.get(name) != own[name] for one in everyone)}
        )
        return f"{', '.join(names)} {'differs' if len(names) == 1 else 'differ'}" if names else "the settings differ"

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
            self._go_on(trainer, whole, self._before * self.batch_size * accumulated)
        self._before = processes

    def _go_on(self, trainer: pl.Trainer, whole: float, before: float) -> None:
        """Say what the other number of processes changes, and fit the learning rate's schedule to it."""
        in_epochs = trainer.max_steps == -1
        schedule = "at the same share of its schedule" if in_epochs else "with its schedule of trainer.max_steps"
        # Of shards, only an estimate of the batches is known.
        of_shards = getattr(trainer.train_dataloader, "planned", None)
        self.say(
            f"resuming with {trainer.world_size} process(es) what {self._before} began: a step takes {whole:g} "
            f"{self.unit} instead of {before:g}, and the learning rate goes on {schedule}"
            + ("; an epoch may have other shards, some of them heard in this pass before" if of_shards else "")
        )
        batches = of_shards or trainer.num_training_batches
        done = math.ceil(batches / trainer.accumulate_grad_batches) * self.first_epoch
        for planned in trainer.lr_scheduler_configs if in_epochs else ():
            _stretch(planned.scheduler, done)

    def state_dict(self) -> dict[str, int | None]:
        return {"processes": self._before}

    def load_state_dict(self, state_dict: dict) -> None:
        self._before = state_dict["processes"]


def _from_all(own: object) -> list:
    """Return an object of each process, in the order of their ranks."""
    everyone: list[object] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return everyone


def _stretch(scheduler: torch.optim.lr_scheduler.LRScheduler, done: int) -> None:
    """Let a learning rate schedule, restored from a training with another number of steps per epoch, fit this one's.

    Args:
        scheduler: one of NeMo's.
        done: the number of steps that the finished epochs have in this training.
    """
    from nemo.core.optim.lr_scheduler import NoamAnnealing

    ratio = done / max(1, scheduler.last_epoch)
    for name in ("max_steps", "warmup_steps", "constant_steps", "hold_steps", "decay_steps"):
        if isinstance(steps := getattr(scheduler, name, None), int):
            setattr(scheduler, name, round(steps * ratio))
    if isinstance(scheduler, NoamAnnealing):  # its rate falls with the square root of the number of steps itself
        scheduler.base_lrs = [rate * math.sqrt(ratio) for rate in scheduler.base_lrs]
    scheduler.last_epoch = done
