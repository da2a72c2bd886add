#!/usr/bin/env python3
"""Measure recognition without NeMo against NeMo's own, in one run."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import run
from asr_with_nemo.data import manifest

ROOT = Path(__file__).resolve().parents[2]

NEMO = """
import sys
from nemo.collections.asr.models import EncDecCTCModel
model = EncDecCTCModel.restore_from(sys.argv[1], map_location="cpu")
print(model.transcribe([sys.argv[2]], verbose=False)[0].text)
"""
"""The shortest program with NeMo that turns a file into text."""


RUNTIME, NEMOS, OURS = "runtime", "NeMo, transcribe(batch_size={})", "NeMo, decoding.transcribe"
"""The ways that are compared."""


def main(
    recordings: Annotated[Path, typer.Option("--manifest", help="What is transcribed.")] = Path(
        "data/an4/test_manifest.json"
    ),
    turns: Annotated[int, typer.Option(min=1, help="How often each way is run, one after the other.")] = 3,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes that NeMo is run with; 4 is its own default.")] = (
        "4,16,32"
    ),
    output: Annotated[
        Path | None, typer.Option(help="Write the figures there (results/...json), for RESULTS.md.")
    ] = None,
) -> None:
    """Measure recognition without NeMo against NeMo's own, in one run.

    From process start to the first transcript; and all recordings of a manifest, with the models loaded and warm. The
    ways take turns on the same files; the ratio of their best times is what to look at, since times on a busy machine
    vary. NeMo's time counts with the batch size that suits it best.
    """
    from asr_with_nemo.base.machine import quieten
    from asr_with_nemo.deployment import runtime
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.models.names import model_path
    from asr_with_nemo.recognition import decoding
    from asr_with_nemo.recognition.results import save_measurement

    files = [row["audio_filepath"] for row in manifest.read_manifest(recordings)]
    nemo_file = str(model_path("an4"))
    starts = compare_starts(
        {
            RUNTIME: [str(ROOT / "scripts" / "transcribe.py"), "an4", files[0]],
            NEMOS.format(4): ["-c", NEMO, nemo_file, files[0]],
        },
        turns,
    )
    recognizer, model = runtime.Recognizer("an4"), load_model("an4")
    quieten()
    ways = {RUNTIME: lambda: [heard.text for heard in recognizer.transcribe(files)]}
    for size in map(int, batch_sizes.split(",")):
        ways[NEMOS.format(size)] = lambda size=size: [
            heard.text for heard in model.transcribe(files, batch_size=size, verbose=False)
        ]
    ways[OURS] = lambda: [heard.text for heard in decoding.transcribe(model, files, progress=False)]
    duration = sum(row["duration"] for row in manifest.read_manifest(recordings))
    best = compare_transcriptions(ways, duration, turns)
    if output:
        about = (
            f"The first transcript from process start, and {len(files)} recordings ({duration:.0f} s) with the models "
            f"loaded and warm, best of {turns} turns. All ways have the same cores; the texts are the same."
        )
        rows = [
            {
                "way": name,
                "start": f"{starts[name]:.1f} s" if name in starts else "",
                "all recordings": f"{least:.2f} s",
            }
            | {"RTFx": f"{duration / least:.0f}"}
            for name, least in best.items()
        ]
        command = f"python scripts/benchmarks/runtime.py --turns={turns} --batch-sizes={batch_sizes}"
        save_measurement(output, "Recognition without NeMo, and with it", about, rows, command)
        typer.echo(f"results: {output}")


def compare_starts(commands: dict[str, list[str]], turns: int) -> dict[str, float]:
    """Print and return how long programs take from their start to their end, which is the first transcript."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(turns):
        for name, arguments in commands.items():
            started = time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
            seconds[name].append(time.perf_counter() - started)
            text = done.stdout.strip().splitlines()[-1]
            print(f"from process start to {text!r}, {name}: {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"start, {name}: {median:.2f} s (median of {turns})")
    return medians


def compare_transcriptions(ways: dict[str, Callable[[], list[str]]], duration: float, turns: int) -> dict[str, float]:
    """Print and return how long each way takes for all recordings, and whether the texts are the same."""
    texts = {name: way() for name, way in ways.items()}  # a first time, which isn't counted
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    print(f"{duration:.0f} s of sound, {os.cpu_count()} cores, best of {turns}")
    best = {name: min(times) for name, times in seconds.items()}
    for name, least in best.items():
        same = sum(one == other for one, other in zip(texts[name], texts[RUNTIME], strict=True))
        print(
            f"{name}: {least:.2f} s, RTFx {duration / least:.0f}; {same} of {len(texts[name])} texts as the runtime's"
        )
    nemos = min(least for name, least in best.items() if "batch_size" in name)
    print(f"the runtime is {nemos / best[RUNTIME]:.1f} times as fast as NeMo's transcribe() at its best")
    return best


if __name__ == "__main__":
    run(main)
