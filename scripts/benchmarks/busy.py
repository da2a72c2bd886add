#!/usr/bin/env python3
"""Measure how training slows down beside another busy process, by how its threads wait for each other."""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from asr_with_nemo.base.files import check_output
from asr_with_nemo.base.machine import device_name
from asr_with_nemo.cli import run
from asr_with_nemo.recognition.results import save_measurement
from asr_with_nemo.sweeps.trials import environment

sys.path.insert(0, str(Path(__file__).parent))
import training

WAYS = {
    "as libgomp waits by itself": {},
    "spins 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "spins 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "spins 100,000 times": {"GOMP_SPINCOUNT": "100000"},
    "sleeps at once": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""How the threads of a parallel region wait for the last one: environment variables of the OpenMP runtime."""


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        other.kill()
        other.wait()


def main(
    data_dir: Annotated[Path, typer.Option(help="The folder of train_manifest.json.")] = Path("data/an4"),
    config: Annotated[str, typer.Option(help="Name of the training config.")] = "config",
    rounds: Annotated[int, typer.Option(help="How often each way is run, in turn.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Training steps of a round.", min=1)] = 12,
    output: Annotated[Path | None, typer.Option(help="Write all figures to this .json file.")] = None,
) -> None:
    """Measure how training slows down beside another busy process, by how its threads wait for each other.

    Training steps of the same batches, each way in a process of its own; alone and beside a process that keeps one core
    busy, in turn. On a quiet machine only: other work counts as the busy process does.

    Example:

        python scripts/benchmarks/busy.py --output results/busy.json
    """
    if output is not None:
        check_output(output)
    found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name in WAYS}
    held = {}
    for variable in {variable for variables in WAYS.values() for variable in variables}:
        os.environ.pop(variable, None)
    for name, variables in WAYS.items():
        with environment(**variables):  # of the process that starts here
            side = training.Side()
            held[name] = side.hold(training.Way(training.load_config(config, data_dir), stock=False))
    batches = held["one thread"]("draw", 1.0, steps)
    for way in held.values():
        way("in_layers", batches[:2])
    for _ in tqdm(range(rounds), "rounds", delay=1, leave=False):
        for name, way in held.items():
            found[name]["alone"].append(way("in_layers", batches))
        with busy_process():
            for name, way in held.items():
                found[name]["beside"].append(way("in_layers", batches))
    rows = {}
    usual = statistics.median(found["as libgomp waits by itself"]["alone"])
    print(f"{config}, {steps} steps, forward and backward; {os.cpu_count()} cores of {device_name()}")
    print(f"{'':28}{'alone, s':>10}{'beside, s':>11}{'beside : alone':>16}{'alone : default':>17}")
    for name, seconds in found.items():
        alone, beside = (statistics.median(seconds[place]) for place in ("alone", "beside"))
        rows[name] = {
            "environment": WAYS[name],
            "alone": training.spread(seconds["alone"]),
            "beside": training.spread(seconds["beside"]),
            "slower_beside": round(beside / alone, 3),
            "alone_against_default": round(alone / usual, 3),
        }
        print(f"{name:28}{alone:10.2f}{beside:11.2f}{beside / alone:16.2f}{alone / usual:17.3f}")
    if output is not None:
        write(output, config, steps, rounds, rows)
        print(f"wrote {output}")


def write(output: Path, config: str, steps: int, rounds: int, ways: dict[str, dict]) -> None:
    """Write the figures of all ways, by their names, for a table of RESULTS.md."""
    about = (
        f"{steps} training steps of configs/{config}.yaml, forward and backward, on all cores; alone, and beside a "
        f"process that keeps one core busy; the median of {rounds} rounds. The threads of a step wait for the slowest: "
        "how they do it is a setting of the OpenMP runtime."
    )
    usual = ways["as libgomp waits by itself"]["alone"]["median"]
    rows = [
        {
            "threads": name,
            "environment": " ".join(f"{key}={value}" for key, value in way["environment"].items()),
            "alone": f"{way['alone']['median']:.2f} s",
            "beside a busy process": f"{way['beside']['median']:.2f} s",
            "times the usual, alone": f"{way['alone']['median'] / usual:.2f}",
            "times the usual, beside": f"{way['beside']['median'] / usual:.2f}",
        }
        for name, way in ways.items()
    ]
    command = f"python scripts/benchmarks/busy.py --config {config} --rounds {rounds} --steps {steps} --output {output}"
    save_measurement(output, "Training beside a busy process", about, rows, command, ways=ways)


if __name__ == "__main__":
    run(main)
