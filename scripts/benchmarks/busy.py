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

from tqdm import tqdm

from asr_with_nemo.base.files import check_output
from asr_with_nemo.base.machine import device_name
from asr_with_nemo.cli import run
from asr_with_nemo.recognition.results import save_measurement

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
    data_dir: training.DataDir = Path("data/an4"),
    config: training.Config = "config",
    rounds: training.Rounds = 5,
    steps: training.Steps = 12,
    output: training.Output = None,
) -> None:
    """Measure how training slows down beside another busy process, by how its threads wait for each other.

    Training steps of the same batches, each way in a process of its own; alone and beside a process that keeps one core
    busy, in turn. On a quiet machine only: other work counts as the busy process does.

    Example:

        python scripts/benchmarks/busy.py --output results/busy.json
    """
    if output is not None:
        check_output(output)
    found: dict[str, dict[str, list[float]]] = {place: {name: [] for name in WAYS} for place in ("alone", "beside")}
    wanted = training.load_config(config, data_dir)
    held = training.hold_each({name: (wanted, variables) for name, variables in WAYS.items()})
    batches = training.warmed_up(held, held["one thread"], steps)
    for _ in tqdm(range(rounds), "rounds", delay=1, leave=False):
        training.time_layers(held, batches, found["alone"])
        with busy_process():
            training.time_layers(held, batches, found["beside"])
    rows = {}
    usual = statistics.median(found["alone"]["as libgomp waits by itself"])
    print(f"{config}, {steps} steps, forward and backward; {os.cpu_count()} cores of {device_name()}")
    print(f"{'':28}{'alone, s':>10}{'beside, s':>11}{'beside : alone':>16}{'alone : default':>17}")
    for name in WAYS:
        alone, beside = (statistics.median(found[place][name]) for place in ("alone", "beside"))
        rows[name] = {
            "environment": WAYS[name],
            "alone": training.spread(found["alone"][name]),
            "beside": training.spread(found["beside"][name]),
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
    command = f"python scripts/benchmarks/busy.py --config {config} --rounds {rounds} --steps {steps}"
    command += f" --output results/{output.name}"
    save_measurement(output, "Training beside a busy process", about, rows, command, ways=ways)


if __name__ == "__main__":
    run(main)
