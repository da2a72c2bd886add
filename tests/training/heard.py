"""scripts/train.py with a note of what each process heard: `python heard.py FOLDER OVERRIDE...`; see test_processes.py.

With HEARD_KILL=RANK:EPOCH, that process kills itself at the beginning of that epoch, counted from 1; with
RANK:EPOCH:dev while the dev set is looked at, and with RANK:0 before it joins the others, which wait for it for as many
seconds as HEARD_JOIN says.
"""

import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import lightning.pytorch as pl

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


def main(folder: Path, overrides: list[str]) -> None:
    die_at(int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0), 0)
    if "HEARD_JOIN" in os.environ:
        run.Joining = partial(Joining, timedelta(seconds=int(os.environ["HEARD_JOIN"])))
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(ROOT / "configs", "config", overrides)
    run.train(config, overridden_keys(overrides), [HeardUntilKilled(folder)])


if __name__ == "__main__":
    cli.run(main)
