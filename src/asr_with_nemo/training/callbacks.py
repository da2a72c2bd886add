"""Lightning callbacks of a training: weight averaging, seeds, progress lines, and checkpoint writing."""

import math
import os
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from asr_with_nemo.base.files import replacing

QUIET = 5.0
"""Seconds for which a training need not say anything."""


class WeightAveraging(pl.Callback):
    """Keep an exponential moving average of the weights; validate with it, and let checkpoints carry it.

    average ← d · average + (1 - d) · weights after each step, with d = min(decay, (1 + step) / (10 + step)), so that
    the first, random weights are soon forgotten. Batch norm's running statistics are averaged along: they belong to the
    weights. The plain weights are kept in the callback's own state, from which a training goes on.

    NeMo's own EMA callback averages the parameters alone and needs its own checkpoint class.
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
            self._average = {name: tensors[name].clone() for name in tensors}  # a checkpoint holds the average
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
            torch._foreach_lerp_(list(self._average.values()), [now[name] for name in self._average], 1 - decay)

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
        """The model that the caller holds ends as the average."""
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if self._average and not self._swapped:
            # What is restored as "the model" from a checkpoint is what was validated.
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
    """Let Lightning clip the gradients of a fused optimiser where no loss scaling (fp16) forbids it.

    A fused step is one pass over the weights instead of ten.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.precision != "16-mixed":
            for optimizer in trainer.optimizers:
                optimizer._step_supports_amp_scaling = False


class EpochSeeds(pl.Callback):
    """Draw each epoch's randomness (order, dropout, augmentation) from the seed and the epoch's number alone.

    So a training that was killed and goes on ends as one that was not. Random numbers are drawn when the loader's
    iterator is made (at once, with worker processes) and in the steps. Lightning makes the iterator after
    `on_train_epoch_start`, but that of a process's first epoch already after `on_fit_start`. Hence a seed before each.
    """

    def __init__(self, seed: int, first_epoch: int):
        self.seed = seed
        self.first_epoch = first_epoch

    def _seed(self, epoch: int, phase: int, rank: int = 0) -> None:
        seed = (self.seed * 1_000_003 + epoch * 2 + phase + rank * 7_919) % 2**32
        pl.seed_everything(seed, workers=True, verbose=False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sampler = getattr(pl_module._train_dl, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.first_epoch)
        self._seed(self.first_epoch, 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch != self.first_epoch:
            self._seed(trainer.current_epoch, 0)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self._seed(trainer.current_epoch, 1, trainer.global_rank)  # each process drops and masks something else


class EpochLines(pl.Callback):
    """Print a line an epoch: losses, dev WER, seconds, and how much longer it will take; log what is of an epoch.

    Where epochs take less than `QUIET` seconds, those without a look at the dev set are not told one by one.
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
        # NeMo logs the loss and the rate of every so many steps; over an epoch they stand beside the dev set's.
        train_loss = torch.stack(self._losses).mean()
        pl_module.log("train_loss_epoch", train_loss, sync_dist=True)
        pl_module.log("learning_rate", trainer.optimizers[0].param_groups[0]["lr"])
        throughput = self._utterances / (seconds - self._validated)
        pl_module.log("utterances_per_second", throughput, sync_dist=True, reduce_fx="sum")
        if not trainer.is_global_zero:
            return
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if not (self._validated or is_last) and time.perf_counter() - self._said < QUIET:
            return
        self._said = time.perf_counter()
        metrics = trainer.callback_metrics if self._validated else {}  # else they are of an earlier epoch
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  train loss {train_loss:.2f}"
        if "val_loss" in metrics:
            line += f"  dev loss {metrics['val_loss']:.2f}"
        if "val_wer" in metrics:
            line += f"  dev WER {metrics['val_wer']:.1%}"
        left = (trainer.max_epochs - trainer.current_epoch - 1) * sum(self._here) / len(self._here)
        if trainer.max_steps != -1:  # the epochs are not what ends it
            left = 0
        print(f"{line}  {seconds:.0f} s" + (f", about {left / 60:.1f} min left" if left > 0 else ""), flush=True)

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict) -> None:
        self.seconds = state_dict["seconds"]


class ReplacedCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place, then rename it, so that a hard link to the one before stays what it was.

    Lightning moves it there from the folder for temporary files: where that is on another disk, into the old file.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options: object = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, open(partial, "wb") as file:
            torch.save(checkpoint, file)
