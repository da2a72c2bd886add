#!/usr/bin/env python3
"""Measure how recognition and the server slow down beside another busy process."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from asr_with_nemo.base.files import check_output
from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.cli import run

sys.path.insert(0, str(Path(__file__).parent))
from busy import busy_process

SERVE = Path(__file__).resolve().parents[1] / "serve.py"


def main(
    recordings: Annotated[Path, typer.Option("--manifest", help="Manifest of the recordings.")] = Path(
        "data/an4/test_manifest.json"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="How often each way is run, in turn.")] = 7,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Measure how recognition and the server slow down beside another busy process.

    All recordings of a manifest are transcribed by the model an4 in this process, and by a server to which as many
    clients as there are cores send them; alone and beside a process that keeps one core busy, in turn. On a quiet
    machine only: other work counts as the busy process does.

    Example:

        python scripts/benchmarks/busy_runtime.py --output results/busy_runtime.json
    """
    if output:
        check_output(output)
    import httpx

    from asr_with_nemo.data import manifest
    from asr_with_nemo.deployment.runtime import Recognizer
    from asr_with_nemo.recognition.results import save_measurement

    files = [row["audio_filepath"] for row in manifest.read_manifest(recordings)]
    recognizer, cores = Recognizer(), usable_cores()
    command = [sys.executable, str(SERVE), "an4", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[-1].rstrip("/") + "/v1/audio/transcriptions"

        def send(file: str) -> None:
            with open(file, "rb") as sound:
                httpx.post(url, files={"file": sound}, timeout=60).raise_for_status()

        def serve() -> None:
            with ThreadPoolExecutor(cores) as clients:
                list(clients.map(send, files))

        found = compare({"the runtime": lambda: recognizer.transcribe(files), "the server": serve}, rounds)
    finally:
        server.terminate()
        server.wait()
    rows = [
        {
            "": name,
            "alone": f"{alone:.2f} s",
            "beside a busy process": f"{beside:.2f} s",
            "times as long": f"{beside / alone:.2f}",
        }
        for name, (alone, beside) in found.items()
    ]
    for row in rows:
        typer.echo("  ".join(row.values()))
    if output:
        about = (
            f"{len(files)} recordings, transcribed by the model an4 on {cores} cores: in one process, and by a server "
            f"with {cores} clients; alone, and beside a process that keeps one core busy; median of {rounds} rounds."
        )
        again = f"python scripts/benchmarks/busy_runtime.py --rounds {rounds} --output results/{output.name}"
        save_measurement(output, "Recognition beside a busy process", about, rows, again)
        typer.echo(f"results: {output}")


def compare(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each way, alone and beside a busy process."""
    found = {name: ([], []) for name in ways}
    for way in ways.values():
        way()  # the first one also loads
    for _ in tqdm(range(rounds), "rounds", delay=1, leave=False):
        for name, way in ways.items():
            found[name][0].append(seconds_of(way))
            with busy_process():
                found[name][1].append(seconds_of(way))
    return {name: (statistics.median(alone), statistics.median(beside)) for name, (alone, beside) in found.items()}


def seconds_of(way: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


if __name__ == "__main__":
    run(main)
