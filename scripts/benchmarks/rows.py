#!/usr/bin/env python3
"""Measure the start of a training and its memory by the number of rows: from a manifest, and from shards."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer

from asr_with_nemo.base.files import check_output
from asr_with_nemo.cli import run

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("yes", "no", "stop", "go on", "one two")
FILES = 200
"""Recordings, that all rows point to."""
ROWS_IN_A_SHARD = 2_000


class Way(StrEnum):
    """What a training reads."""

    shards = "shards"
    manifest = "manifest"


def make_rows(folder: Path, rows: int) -> Path:
    """Write a manifest of many rows that point to a few tiny recordings, and a dev set; return the manifest."""
    noise = np.random.default_rng(0)
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        path = folder / f"wav/{number}.wav"
        if not path.is_file():
            soundfile.write(path, 0.1 * noise.standard_normal(1_600 + 8 * number), 16_000, subtype="PCM_16")
    soundfile.write(folder / "wav/dev.wav", 0.1 * noise.standard_normal(3_200), 16_000, subtype="PCM_16")
    dev = {"audio_filepath": "wav/dev.wav", "duration": 0.2, "text": "yes", "speaker": "dev"}
    (folder / "dev_manifest.json").write_text(json.dumps(dev) + "\n", encoding="utf-8")
    path = folder / f"train{rows}_manifest.json"
    with open(path, "w", encoding="utf-8") as file:
        for row in range(rows):
            number = row % FILES
            text, seconds = TEXTS[row % len(TEXTS)], (1_600 + 8 * number) / 16_000
            line = {
                "audio_filepath": f"wav/{number}.wav",
                "duration": seconds,
                "text": text,
                "speaker": f"s{row % 2000}",
            }
            file.write(json.dumps(line) + "\n")
    return path


def make_shards(folder: Path, rows: int) -> None:
    """Write shards of so many rows: one in full, which the others repeat under other names, and notes on all of them.

    So a million rows take as long to write as 2,000.
    """
    from asr_with_nemo.data import shards
    from asr_with_nemo.own_data import sharding

    each = min(ROWS_IN_A_SHARD, rows // 10)
    place, count = folder / "shards" / f"train{rows}", rows // each
    shutil.rmtree(place, ignore_errors=True)
    made = sharding.make(make_rows(folder, each), place, 1, workers=1, progress=False)
    notes, (first,) = made.notes, made.shards
    notes["shards"] = []
    for number in range(count):
        name = f"{number:06d}"
        shard = shards.Shard(name, first.rows, first.seconds, {})
        for old, new in ((first.cuts, shard.cuts), (first.recording, shard.recording)):
            shard.files[new] = first.files[old]
            if number:
                os.link(place / old, place / new)
        notes["shards"].append(asdict(shard))
    np.save(place / shards.ROWS, np.tile(np.load(place / shards.ROWS), count))
    digests = np.random.default_rng(0).integers(0, 2**64, rows, dtype=np.uint64)  # as of so many recordings
    np.save(place / shards.RECORDINGS, np.unique(digests))
    notes |= {key: notes[key] * count for key in ("rows", "seconds", "words", "characters")}
    notes["tables"] = {name: {"size": (place / name).stat().st_size} for name in notes["tables"]}
    (place / shards.NOTES).write_text(json.dumps(notes), encoding="utf-8")


def first_step(way: Way, folder: Path, rows: int, runs: Path) -> dict[str, float]:
    """Start a training in a process of its own until its first steps are done; return seconds and memory.

    Python's bytecode is kept beside the runs, even where the environment is made without: only a first start compiles.
    """
    command = [sys.executable, __file__, "--child", way.value, "--data", str(folder), "--rows", str(rows)]
    started = time.time()
    done = subprocess.run(
        [*command, "--runs", str(runs)],
        env=os.environ
        | {"ROWS_STARTED": str(started), "WANDB_MODE": "disabled"}
        | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(runs.parent / "bytecode")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def train_a_little(way: Way, folder: Path, rows: int, runs: Path) -> None:
    """Train three steps and print seconds from the start to the end of the first one, and memory in MiB."""
    import lightning.pytorch as pl

    from asr_with_nemo.training.config import load_config, overridden_keys
    from asr_with_nemo.training.run import train

    imported = time.process_time()

    class Clock(pl.Callback):
        """Note when the first step is done, and end the process after the third."""

        def __init__(self):
            self.found: dict[str, float] = {}

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_) -> None:
            if trainer.global_step == 1:
                self.found["seconds"] = round(time.time() - float(os.environ["ROWS_STARTED"]), 2)
                self.found["cpu_seconds"] = round(time.process_time(), 2)
                self.found["cpu_seconds_of_imports"] = round(imported, 2)
            if trainer.global_step == 3:
                self.found["peak_MiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
                print(json.dumps(self.found), flush=True)
                os._exit(0)  # nothing of it is to be kept

    path = folder / f"train{rows}_manifest.json"
    source = f"model.train_ds.manifest_filepath={path}"
    if way is Way.shards:
        source = f"model.train_ds.shar_path={path.parent / 'shards' / path.stem.removesuffix('_manifest')}"
    overrides = [source, f"data_dir={folder}", f"exp_manager.exp_dir={runs}", "model.train_ds.batch_size=8"]
    overrides += ["trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.precision=32"]
    train(load_config(ROOT / "configs", "config", overrides), overridden_keys(overrides), [Clock()])


def main(
    output: Annotated[Path | None, typer.Option(help="Write the results to this .json file.")] = None,
    rows: Annotated[list[int] | None, typer.Option(help="Numbers of rows; may be repeated.")] = None,
    data: Annotated[Path | None, typer.Option(help="Keep the made-up corpora in this folder.")] = None,
    way: Annotated[list[Way] | None, typer.Option(help="Only this way; may be repeated. By default, both.")] = None,
    child: Annotated[Way | None, typer.Option(hidden=True)] = None,
    runs: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the start of a training and its memory by the number of rows: from a manifest, and from shards.

    All rows point to 200 tiny recordings, so that a million fit on any disk; what is measured is what grows with the
    rows. Each training is a process of its own, from its start to the end of its first step. By default 10,000, 100,000
    and 1,000,000 rows; the manifest of the last takes some minutes and GiB.

    Examples:

        python scripts/benchmarks/rows.py --output results/rows.json

        python scripts/benchmarks/rows.py --rows 10000 --rows 100000 --way shards
    """
    if child:
        train_a_little(child, data, rows[0], runs)
    if output:
        check_output(output)
    counts = rows or [10_000, 100_000, 1_000_000]
    with tempfile.TemporaryDirectory() as scratch:
        folder = data or Path(scratch) / "data"
        found = []
        make_rows(folder, FILES)
        first_step(Way.manifest, folder, FILES, Path(scratch) / "runs")  # compiles
        for count in counts:
            make_rows(folder, count)
            if Way.shards in (way or list(Way)):
                make_shards(folder, count)
            for one in way or list(Way):
                measured = first_step(one, folder, count, Path(scratch) / "runs")
                found.append({"way": one.value, "rows": count} | measured)
                typer.echo(f"{one.value}, {count:,} rows: {measured}")
                _write(output, found)


def _write(output: Path | None, found: list[dict[str, object]]) -> None:
    from asr_with_nemo.recognition.results import save_measurement

    if output is None:
        return
    rows = [
        {
            "training from": str(one["way"]),
            "rows": f"{one['rows']:,}",
            "start to first step": f"{one['seconds']:.0f} s",
            "CPU time": f"{one['cpu_seconds']:.0f} s",
            "of that, imports": f"{one['cpu_seconds_of_imports']:.0f} s",
            "most memory": f"{one['peak_MiB']:,.0f} MiB",
        }
        for one in found
    ]
    load = os.getloadavg()[1]
    about = (
        "`scripts/train.py` with configs/config.yaml, by a manifest and by shards: from the start of the process to "
        f"the end of its first step. All rows point to {FILES} tiny recordings. Other work ran on the cores (load "
        f"{load:.1f}): CPU time is what to compare."
    )
    save_measurement(output, "Rows", about, rows, "python scripts/benchmarks/rows.py --output results/rows.json")


if __name__ == "__main__":
    run(main)
