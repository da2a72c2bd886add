#!/usr/bin/env python3
"""Train config.yaml, and keep what the network makes of two recordings during the training."""

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run

ROOT = Path(__file__).resolve().parents[2]
STEPS = (5, 10, 20, 40, 70)
"""Steps of the first epoch at which to look, besides the end of each epoch."""


def main(
    epochs: Annotated[int, typer.Option(help="Length of the training.")] = 20,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    data_dir: Annotated[Path, typer.Option(help="Folder with the prepared AN4.")] = Path("data"),
    output: Annotated[Path, typer.Option(help="The results file.")] = ROOT / "results" / "learning.json",
) -> None:
    """Train configs/config.yaml, and keep the network's probabilities for "G L E N N" and for a recording of dev.

    The interactive piece of 06_training shows them. Takes some ten minutes on two cores.

    Example:

        python scripts/tools/watch_learning.py
    """
    from asr_with_nemo.data import an4
    from asr_with_nemo.recognition.results import save_measurement
    from asr_with_nemo.teaching import learning
    from asr_with_nemo.training import load_config, train

    corpus = an4.locate(data_dir)
    watched = learning.recordings(corpus)
    with tempfile.TemporaryDirectory() as scratch:
        off = "exp_manager.create_wandb_logger=false"
        overrides = [f"data_dir={corpus.folder}", f"trainer.max_epochs={epochs}", f"seed={seed}"]
        config = load_config(ROOT / "configs", "config", [*overrides, f"exp_manager.exp_dir={scratch}", off])
        train(config, {"exp_manager.create_wandb_logger"}, [learning.Watch(watched, STEPS, say=True)])
    rows = [row for row in learning.table(watched[0]) if row["dev WER"] or row["step"] == "0"]
    about = (
        f"What configs/config.yaml writes for “{watched[0].text}”, a recording of its training set, after each of "
        f"{epochs} epochs, greedily decoded. The notebook 06_training draws the probabilities behind it."
    )
    command = shlex.join(["python", "scripts/tools/watch_learning.py", *sys.argv[1:]])
    save_measurement(output, "A recogniser learns one recording", about, rows, command)
    content = json.loads(output.read_text(encoding="utf-8"))
    content["recordings"] = [learning.packed(one) for one in watched]
    output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    typer.echo(f"{output}: {output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    run(main)
