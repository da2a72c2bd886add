"""scripts/train.py with a note of what each process heard: `python heard.py FOLDER OVERRIDE...`; see test_processes.py.

With HEARD_KILL=RANK:EPOCH, that process kills itself at the beginning of that epoch, counted from 1; with
RANK:EPOCH:dev while the dev set is looked at, with 0:EPOCH:best or 0:EPOCH:last when half of that checkpoint is
written, and with RANK:0 before it joins the others, which wait for it for as many seconds as HEARD_JOIN says.
"""

import io
import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch

from asr_with_nemo import cli
from asr_with_nemo.training import run
from asr_with_nemo.training.config import load_config, overridden_keys
from asr_with_nemo.training.processes import Joining

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts/benchmarks"))
from launch import Heard  # noqa: E402


def die_at(rank: int, epoch: int, moment: str = "") -> None:
    if os.environ.get("HEARD_KILL") == f"{rank}:{epoch}" + (f":{moment}" if moment else ""):
        os.kill(os.getpid(), signal.SIGKILL)


class HeardUntilKilled(Heard):
    """Writes the notes, and kills the process at the moment that it was asked to."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        die_at(trainer.global_rank, trainer.current_epoch + 1)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not trainer.sanity_checking:
            die_at(trainer.global_rank, trainer.current_epoch + 1, "dev")
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)


def save_until_killed(checkpoint: dict, file: io.BufferedWriter | str, save=torch.save) -> None:
    """Write a checkpoint, or half of the one at which the process was asked to kill itself."""
    content = io.BytesIO()
    save(checkpoint, content if "epoch" in checkpoint else file)
    if "epoch" not in checkpoint:  # the model
        return
    middle = len(content.getvalue()) // 2
    file.write(content.getvalue()[:middle])
    file.flush()
    die_at(0, checkpoint["epoch"] + 1, "best" if "best-" in file.name else "last")
    file.write(content.getvalue()[middle:])


def main(folder: Path, overrides: list[str]) -> None:
    die_at(int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0), 0)
    if "HEARD_JOIN" in os.environ:
        run.Joining = partial(Joining, timedelta(seconds=int(os.environ["HEARD_JOIN"])))
    if os.environ.get("HEARD_KILL", "").endswith((":best", ":last")):
        torch.save = save_until_killed
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(ROOT / "configs", "config", overrides)
    run.train(config, overridden_keys(overrides), [HeardUntilKilled(folder)])


if __name__ == "__main__":
    cli.run(main)
