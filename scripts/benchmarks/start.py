#!/usr/bin/env python3
"""Measure the time and the memory from the start of a training to its first step, for a corpus of many recordings."""

import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import psutil
import typer
from tqdm import tqdm

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
UTTERANCES = 60  # synthetic recordings, of which all rows are hard links
PHASES = (
    "imports",
    "config, checks of the data",
    "trainer, W&B run",
    "model, NeMo's dataset",
    "to the first batch",
    "the first step",
    "to the end of the training",
)
FIRST_STEP = PHASES.index("the first step")
OVERRIDES = ("trainer.max_steps=1", "+trainer.limit_val_batches=1", "model.train_ds.num_workers=0")


def generate(folder: Path, rows: int) -> None:
    """Make a corpus with a training set of so many recordings: hard links to those of a small synthetic corpus."""
    from asr_with_nemo.data import an4, manifest

    small = an4.prepare(folder / "small", source="synthetic", utterances=UTTERANCES, progress=False)
    read = {split: manifest.read_manifest(small.manifest(split)) for split in ("train", "dev", "test")}
    corpus = folder / "corpus"
    train = []
    for number in tqdm(range(rows), "recordings", delay=1):
        row = read["train"][number % len(read["train"])]
        path = corpus / "wav" / f"{number // 1000:04}" / f"{number:07}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(row["audio_filepath"], path)
        except OSError:  # a file system without them, or too many of one file
            shutil.copyfile(row["audio_filepath"], path)
        train.append(row | {"audio_filepath": str(path)})
    splits = {"train": train, "dev": read["dev"], "test": read["test"], "train_all": [*train, *read["dev"]]}
    for split, utterances in splits.items():
        manifest.write_manifest(corpus / f"{split}_manifest.json", utterances)


def measure(source: Path, corpus: Path, folder: Path) -> dict[str, tuple[float, float, float]]:
    """Train for one step in a process of its own, with the package of `source`.

    Returns:
        for the end of each phase the seconds since the start of the process, the CPU seconds of the process, and the
        peak memory (RSS) until then in MiB.

    Raises:
        InputError: the training failed.
    """
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(source), "WANDB_MODE": "offline"}
    environment.pop("WANDB_DIR", None)
    with open(folder / "log", "w+", encoding="utf-8") as log:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(corpus)]
        if subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log).returncode:
            log.seek(0)
            raise InputError(f"the training with {source} failed: {log.read()[-2_000:]}")
    return json.loads((folder / "phases.json").read_text())


def train(corpus: Path) -> None:
    """Train for one step and write the phases to `phases.json` in the working directory."""
    started = psutil.Process().create_time()
    phases = {}

    def mark(phase: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on a Mac
        peak /= 2**20 if sys.platform == "darwin" else 2**10
        phases[phase] = (time.time() - started, time.process_time(), peak)

    import lightning.pytorch as pl
    import nemo.collections.asr.models  # noqa: F401 (its time is that of the imports)

    from asr_with_nemo.training import run as training
    from asr_with_nemo.training.config import load_config, overridden_keys

    class Marks(pl.Callback):
        def on_train_batch_start(self, *_) -> None:
            mark(PHASES[4])

        def on_train_batch_end(self, *_) -> None:
            mark(PHASES[5])

    build_trainer, build_model = training.build_trainer, training.build_model

    def timed_trainer(*arguments, **options):
        mark(PHASES[1])
        found = build_trainer(*arguments, **options)
        mark(PHASES[2])
        return found

    def timed_model(*arguments, **options):
        model = build_model(*arguments, **options)
        mark(PHASES[3])
        return model

    training.build_trainer, training.build_model = timed_trainer, timed_model
    mark(PHASES[0])
    config = load_config(ROOT / "configs", "small_corpus", [f"data_dir={corpus}", *OVERRIDES])
    training.train(config, overridden_keys(OVERRIDES), [Marks()])
    mark(PHASES[6])
    Path("phases.json").write_text(json.dumps(phases), encoding="utf-8")


def table(measured: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> list[dict[str, str]]:
    """Return the rows of a table of the phases, with the seconds of each and the peak memory at its end."""
    columns = ("{}", "{}: CPU", "{}: peak memory")
    rows = []
    for place, phase in enumerate(PHASES):
        row = {"phase": phase}
        for name, phases in measured.items():
            before = phases[PHASES[place - 1]] if place else (0, 0, 0)
            (seconds, cpu, peak), titles = phases[phase], [column.format(name) for column in columns]
            values = (f"{seconds - before[0]:.1f} s", f"{cpu - before[1]:.1f} s", f"{peak:,.0f} MiB")
            row |= dict(zip(titles, values, strict=True))
        rows.append(row)
    total = {"phase": "**start to first step**"}
    for name, phases in measured.items():
        seconds, cpu, peak = phases[PHASES[FIRST_STEP]]
        values = (f"**{seconds:.0f} s**", f"**{cpu:.0f} s**", f"**{peak:,.0f} MiB**")
        total |= dict(zip([column.format(name) for column in columns], values, strict=True))
    return [*rows, total]


def main(
    rows: Annotated[int, typer.Option(min=100, help="Recordings of the training set.")] = 300_000,
    source: Annotated[
        Path | None, typer.Option(help="The src folder of another checkout, to time the same training with.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the corpus is made, and removed again.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures there (results/...json), for RESULTS.md.")
    ] = None,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the time and the memory from the start of a training to its first step.

    The corpus has many recordings, hard links to a few synthetic ones. A training of one step (small_corpus.yaml, W&B
    offline) runs in a process of its own: with the package of `--source` if given, with this one, and with this one
    again, when the digests of the recordings are cached.

    Examples:

        git worktree add ../before COMMIT

        python scripts/benchmarks/start.py --source ../before/src --output results/start.json

        python scripts/benchmarks/start.py --rows 1000
    """
    if child:
        train(child)
        return
    measured = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        corpus = Path(scratch) / "corpus"
        generate(Path(scratch), rows)
        if source:
            measured["before"] = measure(source.resolve(), corpus, Path(scratch) / "before")
        for name in ("now", "now, digests cached"):
            measured[name] = measure(ROOT / "src", corpus, Path(scratch) / name.replace(", ", "_").replace(" ", "_"))
    found = table(measured)
    for row in found:
        typer.echo(", ".join(f"{name}: {value}" for name, value in row.items()))
    if output:
        from asr_with_nemo.recognition.results import save_measurement

        last, place = measured["now"], PHASES.index("model, NeMo's dataset")
        nemo, grown = (last[PHASES[place]][part] - last[PHASES[place - 1]][part] for part in (1, 2))
        about = (
            f"A training of one step on a manifest of {rows:,} recordings, configs/small_corpus.yaml, W&B offline. "
            "Peak memory is the RSS of the process up to the end of the phase. On a busy machine, compare the CPU "
            "seconds. To build the model and NeMo's own dataset takes "
            f"{nemo:.0f} of the {last[PHASES[FIRST_STEP]][1]:.0f} CPU seconds to the first step and raises "
            f"the peak memory by {grown:,.0f} MiB. The digests of the recordings, for the W&B artifact, are computed "
            "after the first step."
        )
        command = ["python", "scripts/benchmarks/start.py", f"--rows={rows}"]
        command += ["--source=../before/src"] if source else []
        save_measurement(output, "The start of a training", about, found, shlex.join(command))
        typer.echo(f"results: {output}")


if __name__ == "__main__":
    run(main)
