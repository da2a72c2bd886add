#!/usr/bin/env python3
"""Measure training with fewer of this processor's instruction sets, as on one that lacks them."""

import shlex
import statistics
import sys
from pathlib import Path

from tqdm import tqdm

from asr_with_nemo.base.files import check_output
from asr_with_nemo.base.machine import instruction_sets, usable_cores
from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.results import save_measurement

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
    data_dir: training.DataDir = Path("data/an4"),
    config: training.Config = "quartznet_an4",
    rounds: training.Rounds = 5,
    steps: training.Steps = 12,
    output: training.Output = None,
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
    wanted = {
        precision: training.load_config(config, data_dir, [f"trainer.precision={precision}"])
        for _, _, precision in ways.values()
    }
    held = training.hold_each(
        {name: (wanted[precision], variables) for name, (_, variables, precision) in ways.items()}
    )
    first, *_ = held.values()
    batches, seconds = training.warmed_up(held, first, steps), {name: [] for name in ways}
    steps = len(batches)
    for _ in tqdm(range(rounds), "rounds", delay=1, leave=False):
        training.time_layers(held, batches, seconds)
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
