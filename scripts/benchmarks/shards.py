#!/usr/bin/env python3
"""Compare trainings from shards and from the manifest that they were made of: utterances, loss, speed, and a kill."""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.base.files import check_output
from asr_with_nemo.cli import run

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
LAST = 50
"""Steps at the end whose mean loss is compared."""
SHARDS = 8


def same_utterances(path: Path, place: Path) -> tuple[int, int]:
    """Count the utterances of a manifest, and those that shards have with the same samples and text, each once."""
    from lhotse import CutSet

    from asr_with_nemo.data import audio, manifest
    from asr_with_nemo.data.shards import Shards

    rows = manifest.each_utterance(path)
    expected = Counter((audio.load_audio(audio.clip_of(row)).tobytes(), row["text"]) for row in rows)
    notes = Shards(place)
    fields = {name: [notes.path_of(getattr(one, name)) for one in notes.shards] for name in ("cuts", "recording")}
    cuts = CutSet.from_shar(fields=fields)
    found = Counter((cut.load_audio()[0].tobytes(), cut.supervisions[0].text) for cut in cuts)
    return sum(expected.values()), sum((expected & found).values())


def train(data: Path, place: Path | None, runs: Path, *overrides: str, kill_at: int = 0) -> dict[str, object]:
    """Train a small model and return its losses, utterances and CPU seconds of steps, and the model's path."""
    import lightning.pytorch as pl

    from asr_with_nemo.training import run as training
    from asr_with_nemo.training.config import load_config, overridden_keys

    class Watch(pl.Callback):
        """Note losses and times; with `kill_at`, kill the process at the start of that epoch, counted from 1."""

        def __init__(self):
            self.losses: list[float] = []
            self.utterances, self.seconds, self._at = 0, 0.0, 0.0

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if kill_at and trainer.current_epoch + 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self._at = time.process_time()

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module, outputs: dict, batch: tuple, *_) -> None:
            self.losses.append(float(outputs["loss"]))
            self.utterances += len(batch[1])

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.seconds += time.process_time() - self._at

    source = [f"model.train_ds.shar_path={place}"] if place else []
    given = [f"data_dir={data}", f"exp_manager.exp_dir={runs}", "model.width=64", "trainer.accelerator=cpu", *overrides]
    given += ["exp_manager.create_wandb_logger=false", "+trainer.limit_val_batches=0", "trainer.precision=32", *source]
    watch = Watch()
    config = load_config(ROOT / "configs", "quartznet_an4", given)
    model = training.train(config, overridden_keys(given), [watch])
    return {"losses": watch.losses, "utterances": watch.utterances, "seconds": watch.seconds, "model": str(model)}


def after_a_kill(data: Path, place: Path, scratch: Path) -> float:
    """Train whole, and again with a kill at the third pseudo-epoch; return the largest difference of any weight."""
    from asr_with_nemo.training.checkpoints import read_state

    found = []
    for name, kills in (("whole", (0,)), ("killed", (3, 0))):
        for kill_at in kills:
            command = [sys.executable, __file__, "--data", str(data), "--child", str(place)]
            command += ["--runs", str(scratch / name), "--kill-at", str(kill_at)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != (-signal.SIGKILL if kill_at else 0):
                raise SystemExit(done.stdout + done.stderr)
        (checkpoint,) = (scratch / name).rglob("last.ckpt")
        found.append(read_state(checkpoint)["state_dict"])
    return max(float((found[0][name].double() - found[1][name].double()).abs().max()) for name in found[0])


def main(
    data: Annotated[Path, typer.Option(help="A folder with train and dev manifests.")] = Path("data/an4"),
    output: Annotated[Path | None, typer.Option(help="Write the results to this .json file.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = 200,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
    runs: Annotated[Path | None, typer.Option(hidden=True)] = None,
    kill_at: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Compare trainings from shards and from the manifest that they were made of: utterances, loss, speed, and a kill.

    A QuartzNet of 64 channels with the recipe's augmentation is trained with three seeds each way; then a training is
    killed at its third pseudo-epoch and resumed, and compared with one that was not.

    Example:

        python scripts/benchmarks/shards.py --output results/shards.json
    """
    if child:
        train(data, child, runs, "trainer.max_epochs=4", "model.train_ds.epoch_hours=0.08", kill_at=kill_at)
        return
    if output:
        check_output(output)
    from asr_with_nemo.own_data import sharding
    from asr_with_nemo.recognition.results import save_measurement

    with tempfile.TemporaryDirectory() as scratch:
        place, path = Path(scratch, "shards"), data / "train_manifest.json"
        sharding.make(path, place, SHARDS, workers=1)
        expected, same = same_utterances(path, place)
        typer.echo(f"{same} of {expected} utterances are the same, sample by sample, with the same text")
        rows = []
        length = [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", f"+model.optim.sched.max_steps={steps}"]
        for name, shards in (("manifest", None), ("shards", place)):
            made = [train(data, shards, Path(scratch, name), f"seed={seed}", *length) for seed in SEEDS]
            ends = [statistics.mean(one["losses"][-LAST:]) for one in made]
            speed = sum(one["utterances"] for one in made) / sum(one["seconds"] for one in made)
            rows.append(
                {
                    "training from": name,
                    "utterances, texts": f"{expected:,}" if shards is None else f"{same:,} the same",
                    f"loss of the last {LAST} of {steps} steps, by seed": ", ".join(f"{end:.1f}" for end in ends),
                    "mean": f"{statistics.mean(ends):.1f}",
                    "utterances a CPU second": f"{speed:.1f}",
                }
            )
            typer.echo(json.dumps(rows[-1]))
        difference = after_a_kill(data, place, Path(scratch))
        rows[0]["largest difference of a weight after kill -9 and resuming"] = ""
        rows[1]["largest difference of a weight after kill -9 and resuming"] = f"{difference:g}"
        typer.echo(f"largest difference of a weight after a kill: {difference:g}")
    if output:
        about = (
            f"A QuartzNet of 64 channels trained on AN4 by its manifest and by {SHARDS} shards of it, in batches of 8, "
            "three seeds each; and one by shards, killed at its third pseudo-epoch and resumed. Other work ran on the "
            "cores, so that speed is by CPU time."
        )
        command = "python scripts/benchmarks/shards.py --output results/shards.json"
        save_measurement(output, "Shards", about, rows, command)


if __name__ == "__main__":
    run(main)
