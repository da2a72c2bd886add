"""scripts/train.py with a note of what each process heard: `python heard.py FOLDER OVERRIDE...`; see test_launch.py.

With HEARD_KILL=RANK:EPOCH, that process kills itself at the beginning of that epoch, counted from 1.
"""

import hashlib
import json
import os
import signal
from pathlib import Path

import lightning.pytorch as pl

from asr_with_nemo import cli
from asr_with_nemo.training.config import load_config, overridden_keys
from asr_with_nemo.training.run import train

ROOT = Path(__file__).resolve().parents[2]


class Heard(pl.Callback):
    """Write, for each epoch and process, digests of the recordings in its batches, and of the weights."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.heard: dict[str, list[str]] = {"train": [], "dev": []}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rank, _, epoch = os.environ.get("HEARD_KILL", "").partition(":")
        if rank and (trainer.global_rank, trainer.current_epoch + 1) == (int(rank), int(epoch)):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        own = getattr(trainer.train_dataloader, "own", None)  # of shards: further batches have no weight
        if own is None or batch_idx < own:
            self.heard["train"] += self._digests(batch)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not trainer.sanity_checking:
            self.heard["dev"] += self._digests(batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in pl_module.parameters())).hexdigest()
        note = self.heard | {"weights": weights, "wer": float(trainer.callback_metrics["val_wer"])}
        note["rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        path = self.folder / f"epoch{trainer.current_epoch + 1}-rank{trainer.global_rank}.json"
        path.write_text(json.dumps(note))
        self.heard = {"train": [], "dev": []}

    @staticmethod
    def _digests(batch: tuple) -> list[str]:
        signals, lengths = batch[0], batch[1]
        return [
            hashlib.md5(row[:length].numpy().tobytes()).hexdigest()
            for row, length in zip(signals, lengths, strict=True)
        ]


def main(folder: Path, overrides: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(ROOT / "configs", "config", overrides)
    train(config, overridden_keys(overrides), [Heard(folder)])


if __name__ == "__main__":
    cli.run(main)
