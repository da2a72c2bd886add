#!/usr/bin/env python3
"""Load-test the server: many clients at once, each sending its next request as soon as it has an answer."""

import csv
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def main(
    recordings: Annotated[
        Path, typer.Option("--manifest", help="Manifest of the recordings that the clients send.")
    ] = Path("data/an4/test_manifest.json"),
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 50,
    seconds: Annotated[int, typer.Option(min=5, help="Length of the test, in seconds.")] = 60,
    output: Annotated[
        Path | None, typer.Option(help="JSON file to write the figures to (results/...json), for RESULTS.md.")
    ] = None,
) -> None:
    """Load-test the server: many clients at once, each sending its next request as soon as it has an answer.

    The server and the clients (locust) share the machine's cores. The server's memory is sampled once a second;
    growth over the second half of the run shows a leak.
    """
    from asr_with_nemo.data import manifest
    from asr_with_nemo.recognition.results import save_measurement

    rows = manifest.read_manifest(recordings)
    duration = sum(row["duration"] for row in rows) / len(rows)
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "serve.py"), "an4", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        url = server.stdout.readline().split()[-1].rstrip("/")
        with tempfile.TemporaryDirectory() as scratch:
            figures, memory = load(url, server.pid, [row["audio_filepath"] for row in rows], clients, seconds, scratch)
    finally:
        server.terminate()
        server.wait()
    answered = int(figures["Request Count"]) - int(figures["Failure Count"])
    rate = float(figures["Requests/s"])
    row = {
        "clients": str(clients),
        "answers": f"{answered:,}",
        "errors": figures["Failure Count"],
        "a second": f"{rate:.0f}",
        "RTFx": f"{rate * duration:.0f}",
        "p50": f"{figures['50%']} ms",
        "p95": f"{figures['95%']} ms",
        "p99": f"{figures['99%']} ms",
        "memory at half time": f"{memory[len(memory) // 2] / 1e6:.0f} MB",
        "at the end": f"{memory[-1] / 1e6:.0f} MB",
    }
    typer.echo(", ".join(f"{name} {value}" for name, value in row.items()))
    if output:
        about = (
            f"{clients} clients for {seconds} s, each sending a recording of AN4's test set ({duration:.1f} s on "
            "average) as soon as the one before is answered. Server and clients share the cores."
        )
        command = shlex.join(["python", "scripts/benchmarks/server.py", f"--clients={clients}", f"--seconds={seconds}"])
        save_measurement(output, "The server under load", about, [row], command)
        typer.echo(f"results: {output}")
    if int(figures["Failure Count"]):
        raise InputError(f"{figures['Failure Count']} requests failed; try fewer --clients")


def load(
    url: str, server: int, recordings: list[str], clients: int, seconds: int, scratch: str
) -> tuple[dict[str, str], list[int]]:
    """Run the clients. Returns locust's aggregated row, and the server's memory in bytes, once a second."""
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "tests" / "deployment" / "locustfile.py"), "--headless"]
    command += ["--users", str(clients), "--spawn-rate", str(clients), "--run-time", f"{seconds}s"]
    command += ["--host", url, "--csv", f"{scratch}/load", "--only-summary"]
    environment = os.environ | {"RECORDINGS": os.pathsep.join(recordings)}
    with open(f"{scratch}/log", "w+", encoding="utf-8") as log:
        locust = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        memory = []
        while locust.poll() is None:
            memory.append(psutil.Process(server).memory_info().rss)
            time.sleep(1)
        log.seek(0)
        try:
            with open(f"{scratch}/load_stats.csv", encoding="utf-8", newline="") as file:
                return next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated"), memory
        except (OSError, StopIteration):
            raise InputError(f"locust failed: {log.read().strip()}") from None


if __name__ == "__main__":
    run(main)
