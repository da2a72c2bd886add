#!/usr/bin/env python3
# ruff: noqa: SIM905 (a list of words reads better as text)
"""Measure the speed of preparing a corpus, and check that memory use doesn't grow with its size."""

import random
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import soundfile
import typer
from tqdm import tqdm

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

_SCRIPT = Path(__file__).resolve().parents[1] / "prepare_corpus.py"
_RATE = 8_000  # Hz, of the generated recordings, so that each is resampled
_SPEAKERS = 200
_WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa".split()
_EVERY = 0.05  # seconds between two samples of the memory use


def _generate(folder: Path, count: int, seconds: float) -> float:
    """Generate recordings of tones, no two of them alike, and their table. Returns the total duration in hours."""
    generator = np.random.default_rng(count)
    draw = random.Random(count)
    (folder / "clips").mkdir(parents=True)
    tones = [np.sin(np.arange(int(2 * seconds * _RATE)) * pitch / _RATE * 6.3) for pitch in range(100, 900, 50)]
    total = 0.0
    with open(folder / "table.csv", "w", encoding="utf-8") as table:
        table.write("path,text,speaker\n")
        for number in tqdm(range(count), "recordings", delay=1):
            length = int(_RATE * seconds * draw.uniform(0.7, 1.3))
            noise = generator.integers(-300, 300, length)
            samples = (8_000 * tones[number % len(tones)][:length] + noise).astype(np.int16)
            folder_of = folder / "clips" / f"{number // 1000:03}"
            if number % 1000 == 0:
                folder_of.mkdir()
            name = folder_of / f"{number}.wav"
            soundfile.write(name, samples, _RATE)
            text = " ".join(draw.choices(_WORDS, k=2))
            table.write(f"{name.relative_to(folder)},{text},speaker{number % _SPEAKERS}\n")
            total += length / _RATE
    return total / 3600


def _measure(folder: Path, out: Path, workers: int) -> dict[str, float]:
    """Prepare a corpus in a new process. Returns seconds, and peak memory in MiB with and without its workers.

    Raises:
        InputError: the command failed.
    """
    command = [sys.executable, str(_SCRIPT), str(folder), "--out", str(out), "--workers", str(workers)]
    peak = peak_main = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:  # not a pipe, which would fill up
        started = time.perf_counter()
        process = psutil.Popen(command, stdout=output, stderr=output)
        while process.poll() is None:
            used = [_memory(one) for one in [process, *_children(process)]]
            peak, peak_main = max(peak, sum(used)), max(peak_main, used[0])
            time.sleep(_EVERY)
        seconds = time.perf_counter() - started
        if process.returncode:
            output.seek(0)
            raise InputError(f"{_SCRIPT.name} failed; the end of its output: {output.read()[-2_000:]}")
    return {"seconds": seconds, "peak": peak / 2**20, "peak_main": peak_main / 2**20}


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has ended
        return 0


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def main(
    sizes: Annotated[
        list[int] | None, typer.Option(min=100, help="Number of recordings; by default 10,000 and 100,000.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.2, help="Mean duration of a recording.")] = 0.6,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = usable_cores(),
    limit: Annotated[
        float, typer.Option(help="Maximum ratio of the peak memory of the last size to that of the first.")
    ] = 1.2,
    folder: Annotated[Path | None, typer.Option(help="Parent folder of the temporary corpora.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Results file to write (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Measure the speed of preparing a corpus, and check that memory use doesn't grow with its size.

    Corpora of generated recordings (8 kHz, a table of paths) are prepared, each in a new process, and then a second
    time without changes. The peak memory of the process and its workers together is compared. Exits with status 1 if
    that of the last size exceeds --limit times that of the first.

    Examples:

        python scripts/benchmarks/corpus.py --output results/corpus.json

        python scripts/benchmarks/corpus.py --sizes 1000 --sizes 4000 --workers 2
    """
    found = []
    for size in sizes or [10_000, 100_000]:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            hours = _generate(Path(scratch) / "corpus", size, seconds)
            first = _measure(Path(scratch) / "corpus", Path(scratch) / "out", workers)
            again = _measure(Path(scratch) / "corpus", Path(scratch) / "out", workers)
        peaks = {kind: max(first[kind], again[kind]) for kind in ("peak", "peak_main")}
        rate, times = size / first["seconds"], 3600 * hours / first["seconds"]
        row = {
            "recordings": f"{size:,}",
            "hours": f"{hours:.1f}",
            "took": f"{first['seconds']:.0f} s",
            "recordings a second": f"{rate:.0f}",
            "times real time": f"{times:.0f}",
            "again, with nothing new": f"{again['seconds']:.0f} s",
            "most memory, all processes": f"{peaks['peak']:.0f} MiB",
            "the main process": f"{peaks['peak_main']:.0f} MiB",
        }
        found.append((peaks["peak"], row))
        typer.echo(", ".join(f"{name} {value}" for name, value in row.items()))
    growth = found[-1][0] / found[0][0]
    first, last = found[0][1]["recordings"], found[-1][1]["recordings"]
    typer.echo(f"memory of {last} against {first}: {growth:.2f} times (limit {limit:g})")
    if output:
        from asr_with_nemo.recognition.results import save_measurement

        about = (
            f"`scripts/prepare_corpus.py` on generated recordings of 8 kHz, {seconds:g} s on average, with {workers} "
            f"worker process{'es' if workers > 1 else ''}. Preparing {last} takes {growth:.2f} times the memory that "
            f"{first} take: rows wait in a file, not in memory."
        )
        command = ["python", "scripts/benchmarks/corpus.py", f"--workers={workers}"]
        command += [f"--sizes={size}" for size in sizes or ()]
        rows = [row for _, row in found]
        save_measurement(output, "A large corpus", about, rows, shlex.join(command))
        typer.echo(f"results: {output}")
    if growth > limit:
        raise InputError(f"memory use grows with the corpus: {growth:.2f} times (--limit {limit:g})")


if __name__ == "__main__":
    run(main)
