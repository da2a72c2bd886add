#!/usr/bin/env python3
"""Compare a training by one process with the same one by two, with the same utterances in a step."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import lightning.pytorch as pl
import typer

from asr_with_nemo.base.files import check_output
from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ("torchrun", "srun", "Lightning")


class Heard(pl.Callback):
    """Write, for each epoch and process, digests of the recordings in its batches and of the weights; dev WER.

    Args:
        folder: for the notes, `epoch1-rank0.json` and so on.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.heard: dict[str, list[str]] = {"train": [], "dev": []}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        own = getattr(trainer.train_dataloader, "own", None)  # of shards: further batches have no weight
        if own is None or batch_idx < own:
            self.heard["train"] += self._digests(batch)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not trainer.sanity_checking:
            self.heard["dev"] += self._digests(batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in pl_module.parameters())).hexdigest()
        measured = {name: float(trainer.callback_metrics[f"val_{name}"]) for name in ("wer", "loss")}
        note = self.heard | {"weights": weights} | measured
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


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


def commands(launcher: str | None, own: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    """Return what starts a training, and with which variables, by a launcher; None: with one process.

    Slurm's two tasks are started here, with the variables of two machines.
    """
    alone = [sys.executable, __file__, *own]
    if launcher == "torchrun":
        return [([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *alone[1:]], {})]
    if launcher == "srun":
        shared = {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0"}
        shared |= {"SLURM_JOB_NAME": "train", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        return [(alone, shared | {"SLURM_PROCID": rank, "SLURM_NODEID": rank}) for rank in ("0", "1")]
    return [([*alone, "trainer.devices=2"] if launcher else alone, {})]


def train(launcher: str | None, folder: Path, overrides: list[str]) -> float:
    """Train in a folder, W&B and its tables included, and return the seconds that it took.

    Raises:
        InputError: the training failed, with what it printed.
    """
    folder.mkdir(parents=True)
    variables = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    given = ["--child", str(folder), *overrides, f"exp_manager.exp_dir={folder / 'runs'}", "trainer.accelerator=cpu"]
    began, log = time.perf_counter(), folder / "log"
    with open(log, "w", encoding="utf-8") as file:
        processes = [
            subprocess.Popen(command, env=variables | own, stdout=file, stderr=subprocess.STDOUT)
            for command, own in commands(launcher, given)
        ]
        codes = [process.wait() for process in processes]
    if any(codes):
        raise InputError(f"the training by {launcher or 'one process'} failed:\n{log.read_text(encoding='utf-8')}")
    return time.perf_counter() - began


def row(launcher: str | None, folder: Path, epochs: int, seconds: float) -> dict[str, str]:
    """Return a training's row of the table, from the notes of its processes."""
    ranks = range(2 if launcher else 1)
    notes = [
        [json.loads((folder / f"epoch{epoch}-rank{rank}.json").read_text()) for rank in ranks]
        for epoch in range(1, epochs + 1)
    ]
    cells = {"processes": f"2, by {launcher}" if launcher else "1"}
    for split, column in (("train", "utterances trained in an epoch"), ("dev", "dev utterances counted")):
        shares = [[len(note[split]) for note in epoch] for epoch in notes]
        counts = [Counter(one for note in epoch for one in note[split]) for epoch in notes]
        distinct = sorted({len(epoch) for epoch in counts})
        twice = max(epoch.total() - len(epoch) for epoch in counts)
        cells[column] = f"{' + '.join(map(str, shares[-1]))}: {', '.join(map(str, distinct))} different ones, " + (
            f"{twice} of them twice" if twice else "each once"
        )
    same = sum(len({note["weights"] for note in epoch}) == 1 for epoch in notes)
    cells["weights of both equal"] = f"after {same} of {epochs} epochs" if launcher else ""
    cells["dev loss after each epoch"] = ", ".join(f"{epoch[0]['loss']:.2f}" for epoch in notes)
    cells["dev WER at the end"] = f"{notes[-1][0]['wer']:.1%}"
    cells["seconds, start included"] = f"{seconds:.0f}"
    return cells


def main(
    overrides: Annotated[list[str] | None, typer.Argument(help="Further settings of all trainings.")] = None,
    data: Annotated[Path, typer.Option(help="A folder with train and dev manifests.")] = Path("data/an4"),
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 8,
    fraction: Annotated[float, typer.Option(help="Of the training utterances.")] = 0.5,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings by each way.")] = 1,
    launcher: Annotated[list[str], typer.Option(help=f"Of two processes: {', '.join(LAUNCHERS)}.")] = ["torchrun"],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="Write the results to this .json file.")] = None,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Compare a training by one process with the same one by two, with the same utterances in a step.

    One process takes 8 utterances in a step, each of two takes 4. Counted are the utterances that each process heard
    in training and on the dev set, and compared the weights of both, the dev loss and WER. Batches are other ones, so
    these differ as those of two seeds do: --seeds 3 shows by how much.

    Example:

        python scripts/benchmarks/launch.py --launcher torchrun --launcher srun --output results/launch.json
    """
    from asr_with_nemo.recognition.results import save_measurement

    overrides = overrides or []
    if child:
        from asr_with_nemo.training import run as training
        from asr_with_nemo.training.config import load_config, overridden_keys

        config = load_config(ROOT / "configs", "config", overrides)
        training.train(config, overridden_keys(overrides), [Heard(child)])
        return
    if output:
        check_output(output)
    if unknown := set(launcher) - set(LAUNCHERS):
        raise InputError(f"--launcher {sorted(unknown)[0]}: expected one of {', '.join(LAUNCHERS)}")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(seeds):
            for way in (None, *launcher):
                own = [f"data_dir={data}", f"trainer.max_epochs={epochs}", f"fraction={fraction}", f"seed={seed}"]
                folder = Path(scratch, f"{way or 'one'}-{seed}")
                own.append(f"model.train_ds.batch_size={4 if way else 8}")
                seconds = train(way, folder, [*own, *overrides])
                rows.append({"seed": f"{seed}"} | row(way, folder, epochs, seconds))
                typer.echo(json.dumps(rows[-1]))
    if output:
        about = (
            f"configs/config.yaml on {fraction:.0%} of AN4's training utterances for {epochs} epochs, on CPUs, with 8 "
            "utterances in a step: by one process, and by two with 4 each (gloo), W&B offline with its tables. Digests "
            "of the samples tell which process heard which utterance, in all epochs. Where the training utterances "
            "don't fill the last step of both, NeMo's sampler repeats some. The seconds are those of a busy machine "
            "whose cores all processes share; they say nothing about speed."
        )
        given = [
            f"--epochs {epochs} --fraction {fraction:g} --seeds {seeds}",
            *(f"--launcher {way}" for way in launcher),
        ]
        command = f"python scripts/benchmarks/launch.py {' '.join([*given, *overrides])} --output results/{output.name}"
        save_measurement(output, "One process and two", about, rows, command)


if __name__ == "__main__":
    run(main)
