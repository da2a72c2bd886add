"""Lightning callbacks of a training: weight averaging, gradient clipping, seeds, progress; and checkpoint I/O."""

import math
import os
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from asr_with_nemo.base.files import replacing
from asr_with_nemo.base.machine import time_on_cores
from asr_with_nemo.models import nemo_internals
from asr_with_nemo.models.saved import read_saved
from asr_with_nemo.training import baseline
from asr_with_nemo.training.checkpoints import is_own, with_own_paths, writing

QUIET = 5.0
"""Seconds between two progress lines, at the least, where epochs are shorter."""

CROWDED = 0.2
"""The share of its time for which a training waits for a core, from which on it says so."""


class WeightAveraging(pl.Callback):
    """Keep an exponential moving average (EMA) of the weights, validate with it, and save it in checkpoints.

    After each step: average ← d · average + (1 - d) · weights, with d = min(decay, (1 + step) / (10 + step)), so that
    the random initial weights soon lose their influence. Batch norm's running statistics are averaged too, as they
    depend on the weights. A checkpoint also holds the plain weights, from which an interrupted training continues.

    NeMo's own EMA callback averages only the parameters and needs its own checkpoint class.

    Args:
        decay: of the average, between 0 and 1; the closer to 1, the more steps it spans.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.steps = 0
        self._average: dict[str, torch.Tensor] = {}
        self._restored: dict | None = None
        self._swapped = False

    @staticmethod
    def _tensors(module: pl.LightningModule) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tensors = self._tensors(pl_module)
        if self._restored:
            self._average = {name: tensors[name].clone() for name in tensors}  # the model's weights in a checkpoint
            with torch.no_grad():
                for name, tensor in self._restored.items():
                    tensors[name].copy_(tensor)
            self._restored = None
        else:
            self._average = {name: tensor.clone() for name, tensor in tensors.items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_) -> None:
        if trainer.global_step == self.steps:  # gradients are being accumulated
            return
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            now = self._tensors(pl_module)
            nemo_internals.interpolate(list(self._average.values()), [now[name] for name in self._average], 1 - decay)

    def _swap(self, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors(pl_module).items():
                held = tensor.clone()
                tensor.copy_(self._average[name])
                self._average[name].copy_(held)
        self._swapped = not self._swapped

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._average and not trainer.sanity_checking:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the model that the caller holds."""
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if self._average and not self._swapped:
            # `state_dict`, which is loaded as the model, holds the weights that were validated.
            weights = checkpoint["state_dict"]
            checkpoint["plain_weights"] = {name: weights[name] for name in self._average}
            checkpoint["state_dict"] = {**weights, **{name: t.clone() for name, t in self._average.items()}}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self._restored = checkpoint.get("plain_weights")

    def state_dict(self) -> dict:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict) -> None:
        self.steps = state_dict["steps"]


class FusedClipping(pl.Callback):
    """Let Lightning clip the gradients of a fused optimizer, except in fp16, where loss scaling rules it out.

    A fused optimizer updates the weights in one pass over them instead of ten.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.precision != "16-mixed":
            for optimizer in trainer.optimizers:
                nemo_internals.let_clip(optimizer)


class EpochSeeds(pl.Callback):
    """Seed each epoch's random numbers (order, dropout, augmentation) with the seed and the epoch's number alone.

    A training that was killed and resumed then ends with the same weights as one that was not. Random numbers are drawn
    when the loader's iterator is created (all at once, with worker processes) and in the steps. Lightning creates the
    iterator after `on_train_epoch_start`, but that of a process's first epoch after `on_fit_start`. So both set a seed.

    Args:
        seed: of the training.
        first_epoch: the epoch with which this process starts, from 0.
    """

    def __init__(self, seed: int, first_epoch: int):
        self.seed = seed
        self.first_epoch = first_epoch

    def _seed(self, epoch: int, phase: int, rank: int = 0) -> None:
        seed = (self.seed * 1_000_003 + epoch * 2 + phase + rank * 7_919) % 2**32
        pl.seed_everything(seed, workers=True, verbose=False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sampler = getattr(pl_module.train_dataloader(), "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.first_epoch)
        self._seed(self.first_epoch, 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch != self.first_epoch:
            self._seed(trainer.current_epoch, 0)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self._seed(trainer.current_epoch, 1, trainer.global_rank)  # other dropout and masks in each process


class EpochLines(pl.Callback):
    """Print a progress line for each epoch, and log the epoch's training loss, learning rate and throughput.

    The line has the losses, the dev WER, the seconds of the epoch and an estimate of the time left. Where epochs take
    less than `QUIET` seconds, those without validation are printed no more often than that.
    """

    def __init__(self):
        self.seconds = 0.0
        self._said = -math.inf
        self._started = 0.0
        self._validated = 0.0  # seconds of this epoch
        self._here: list[float] = []
        self._losses: list[torch.Tensor] = []
        self._utterances = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._validated = 0.0
        self._losses = []
        self._utterances = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict, batch, *_) -> None:
        self._losses.append(outputs["loss"].detach())
        self._utterances += len(batch[1])  # the lengths of the signals, (B,)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated -= time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated += time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        self._here.append(seconds)
        # NeMo logs the loss of single steps (`log_every_n_steps`); the mean of an epoch compares with the dev loss.
        train_loss = torch.stack(self._losses).mean()
        pl_module.log("train_loss_epoch", train_loss, sync_dist=True)
        pl_module.log("learning_rate", trainer.optimizers[0].param_groups[0]["lr"])
        throughput = self._utterances / (seconds - self._validated)
        pl_module.log("utterances_per_second", throughput, sync_dist=True, reduce_fx="sum")
        train_loss = trainer.strategy.reduce(train_loss, reduce_op="mean")
        if not trainer.is_global_zero:
            return
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if not (self._validated or is_last) and time.perf_counter() - self._said < QUIET:
            return
        self._said = time.perf_counter()
        metrics = trainer.callback_metrics if self._validated else {}  # else an earlier epoch's
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  train loss {train_loss:.2f}"
        if "val_loss" in metrics:
            line += f"  dev loss {metrics['val_loss']:.2f}"
        if "val_wer" in metrics:
            before = baseline.of(trainer)
            line += f"  dev WER {metrics['val_wer']:.1%}" + (before.beside() if before else "")
        left = (trainer.max_epochs - trainer.current_epoch - 1) * sum(self._here) / len(self._here)
        if trainer.max_steps != -1:  # the training ends by its steps, not by its epochs
            left = 0
        print(f"{line}  {seconds:.0f} s" + (f", about {left / 60:.1f} min left" if left > 0 else ""), flush=True)

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict) -> None:
        self.seconds = state_dict["seconds"]


class CrowdedCores(pl.Callback):
    """Say after an epoch that other work keeps the cores of this machine, when it begins to and when it has ended.

    At the start of a training, `run.train` looks by itself; this is for what comes later, and for several processes,
    of which the first of each machine says it.
    """

    def __init__(self):
        self._before: tuple[float, float] | None = None
        self._is_crowded = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before = time_on_cores()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = time_on_cores()
        if self._before is None or now is None or trainer.local_rank != 0:
            return
        computed, waited = (max(0.0, end - start) for start, end in zip(self._before, now, strict=True))
        share = waited / max(computed + waited, 1e-9)
        if (share > CROWDED) != self._is_crowded:
            self._is_crowded = share > CROWDED
            said = (
                "more wants to compute here than there are cores"
                if self._is_crowded
                else "other work has left the cores"
            )
            print(f"{said} (epoch {trainer.current_epoch + 1}: threads waited {share:.0%} of the time)", flush=True)


class ReplacedCheckpoints(TorchCheckpointIO):
    """Write a checkpoint to a temporary file next to its path, then rename it.

    A hard link to the previous checkpoint keeps its content. Lightning's own writing moves a file from the system's
    temporary folder: where that is on another disk, the previous file is overwritten in place.

    Args:
        folder: of the training's checkpoints. A checkpoint that was given to resume from names others, to be removed
            once there is a better one: removed are only those in this folder, and what this process has written to
            others, for callbacks of the user's.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._written: set[str] = set()

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options: object = None) -> None:
        path = Path(path)
        with writing("a checkpoint", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, open(partial, "wb") as file:
                torch.save(checkpoint, file)
        self._written.add(os.path.realpath(path))

    def load_checkpoint(self, path: str | os.PathLike, map_location: object = None, *_: object, **__: object) -> dict:
        """Read a checkpoint as data, where Lightning unpickles it.

        Raises:
            InputError: as for `read_saved`.
        """
        return with_own_paths(read_saved(Path(path)), self.folder)

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        """Remove a checkpoint that this training wrote; Lightning's own removes any folder, with all that is in it."""
        written = os.path.realpath(path)
        if is_own(path, self.folder) or (written in self._written and os.path.isfile(written)):
            self._written.discard(written)
            Path(path).unlink(missing_ok=True)
