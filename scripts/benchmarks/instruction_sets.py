#!/usr/bin/env python3
"""Measure training with fewer of this processor's instruction sets, as on one that lacks them."""

import os
import shlex
import statistics
import sys
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from asr_with_nemo.base.files import check_output
from asr_with_nemo.base.machine import instruction_sets, usable_cores
from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.results import save_measurement
from asr_with_nemo.sweeps.trials import environment

sys.path.insert(0, str(Path(__file__).parent))
import training

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
WAYS = {
    "AVX-512 bf16, in bf16": ("AVX-512 bf16", {}, "bf16-mixed"),
    "AVX-512 bf16, in fp32": ("AVX-512 bf16", {}, "32-true"),
    "AVX-512, in fp32": ("AVX-512", AVX512, "32-true"),
    "AVX2, in fp32": ("AVX2", AVX2, "32-true"),
    "AVX2, in bf16": ("AVX2", AVX2, "bf16-mixed"),
}
"""The newest set that is used, the variables that hold PyTorch's libraries to it, and the precision."""


def main(
    data_dir: Annotated[Path, typer.Option(help="The folder of train_manifest.json.")] = Path("data/an4"),
    config: Annotated[str, typer.Option(help="Name of the training config.")] = "quartznet_an4",
    rounds: Annotated[int, typer.Option(help="How often each way is run, in turn.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Training steps of a round.", min=1)] = 12,
    output: Annotated[Path | None, typer.Option(help="Write all figures to this .json file.")] = None,
) -> None:
    """Measure training with fewer of this processor's instruction sets, as on one that lacks them.

    Training steps of the same batches, each way in a process of its own, in turn. On a quiet machine only.

    Example:

        python scripts/benchmarks/instruction_sets.py --output results/instruction_sets.json
    """
    if output is not None:
        check_output(output)
    ways = {name: way for name, way in WAYS.items() if way[0] in instruction_sets()}
    if not ways:
        raise InputError(
            "this processor has none of AVX2, AVX-512 and AVX-512 bf16, or its /proc/cpuinfo can't be read"
        )
    held, seconds = {}, {name: [] for name in ways}
    for variable in AVX2 | AVX512:
        os.environ.pop(variable, None)
    for name, (_, variables, precision) in ways.items():
        with environment(**variables):  # of the process that starts here
            wanted = training.load_config(config, data_dir, [f"trainer.precision={precision}"])
            held[name] = training.Side().hold(training.Way(wanted, stock=False))
    first, *_ = held.values()
    batches = first("draw", 1.0, steps)
    steps = len(batches)  # of an epoch, at most
    for way in held.values():
        way("in_layers", batches[:2])
    for _ in tqdm(range(rounds), "rounds", delay=1, leave=False):
        for name, way in held.items():
            seconds[name].append(way("in_layers", batches))
    least = min(statistics.median(found) for found in seconds.values())
    rows = [
        {
            "instructions and precision": name,
            "steps a second": f"{steps / statistics.median(found):.1f}",
            "times the fastest": f"{statistics.median(found) / least:.2f}",
        }
        for name, found in seconds.items()
    ]
    for row in rows:
        print("  ".join(f"{text:>26}" for text in row.values()))
    if output is not None:
        about = (
            f"{steps} training steps of configs/{config}.yaml, forward and backward, on {usable_cores()} cores; the "
            f"median of {rounds} rounds. The libraries that compute are held to fewer of the processor's instruction "
            "sets; a processor that lacks them may also have another clock and memory. train.py trains in bf16 where "
            "the processor computes in it, else in fp32."
        )
        command = shlex.join(["python", f"scripts/benchmarks/{Path(__file__).name}", *sys.argv[1:]])
        figures = {name: training.spread(found) for name, found in seconds.items()}
        save_measurement(output, "Training with other instruction sets", about, rows, command, seconds=figures)
        print(f"wrote {output}")


if __name__ == "__main__":
    run(main)
