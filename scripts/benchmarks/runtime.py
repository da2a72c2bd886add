#!/usr/bin/env python3
"""Compare the speed of the ONNX runtime and of NeMo, in one run."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.cli import Decoder, run
from asr_with_nemo.data import manifest

ROOT = Path(__file__).resolve().parents[2]

_NEMO_PROGRAM = """
import sys
from nemo.collections.asr.models import ASRModel
model = ASRModel.restore_from(sys.argv[1], map_location="cpu")
print(model.transcribe([sys.argv[2]], verbose=False)[0].text)
"""
"""The shortest NeMo program that transcribes a file."""


_RUNTIME, _NEMO, _OURS = "runtime", "NeMo, transcribe(batch_size={})", "NeMo, decoding.transcribe"
"""The ways that are compared; the second takes a batch size."""


def main(
    model_name: Annotated[
        str, typer.Argument(help="A .nemo file of any recogniser, which is exported first; or an4.", metavar="MODEL")
    ] = "an4",
    recordings: Annotated[Path, typer.Option("--manifest", help="Manifest of the recordings to transcribe.")] = Path(
        "data/an4/test_manifest.json"
    ),
    turns: Annotated[int, typer.Option(min=1, help="Timed runs of each way, alternating.")] = 3,
    batch_sizes: Annotated[
        str, typer.Option(help="Batch sizes for NeMo, separated by commas; 4 is NeMo's default.")
    ] = ("4,16,32"),
    output: Annotated[
        Path | None, typer.Option(help="JSON file to write the figures to (results/...json), for RESULTS.md.")
    ] = None,
    decoder: Decoder = "",
) -> None:
    """Compare the speed of the ONNX runtime and of NeMo, in one run.

    Measures the time from process start to the first transcript, and the time for all recordings of a manifest with
    loaded, warm models. The ways alternate on the same files. Compare the ratio of their best times, since absolute
    times vary on a busy machine. For NeMo, the batch size with the best time counts.
    """
    from asr_with_nemo.base.machine import quieten
    from asr_with_nemo.deployment import export, runtime
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.models.names import BUILT_IN, model_path
    from asr_with_nemo.models.recognizer import describe
    from asr_with_nemo.recognition import decoding
    from asr_with_nemo.recognition.results import save_measurement

    files = [row["audio_filepath"] for row in manifest.read_manifest(recordings)]
    nemo_file, model = model_path(model_name), load_model(model_name)
    decoder = decoding.check_decoder(model, decoder)
    with tempfile.TemporaryDirectory() as scratch:
        onnx_file, equality, kind = model_path(model_name, suffix=".onnx"), "", ""
        if model_name not in BUILT_IN:
            onnx_file, kind = Path(scratch) / "model.onnx", f": {decoder.upper()} of {describe(model).writes}"
            equality = f" The export: {export.export(model, onnx_file, files, decoder=decoder)}."
            print(equality.strip(), flush=True)
        starts = compare_starts(
            {
                _RUNTIME: [str(ROOT / "scripts" / "transcribe.py"), str(onnx_file), files[0]],
                _NEMO.format(4): ["-c", _NEMO_PROGRAM, str(nemo_file), files[0]],
            },
            turns,
        )
        recognizer = runtime.Recognizer(onnx_file)
    if hasattr(model, "joint") and decoder == "ctc":
        model.change_decoding_strategy(None, decoder_type="ctc", verbose=False)
    quieten()
    ways = {_RUNTIME: lambda: [heard.text for heard in recognizer.transcribe(files)]}
    for size in map(int, batch_sizes.split(",")):
        ways[_NEMO.format(size)] = lambda size=size: [
            heard.text for heard in model.transcribe(files, batch_size=size, verbose=False)
        ]
    ways[_OURS] = lambda: [heard.text for heard in decoding.transcribe(model, files, progress=False, decoder=decoder)]
    duration = sum(row["duration"] for row in manifest.read_manifest(recordings))
    best = compare_transcriptions(ways, duration, turns)
    if output:
        about = (
            f"The first transcript from process start, and {len(files)} recordings ({duration:.0f} s) with the models "
            f"loaded and warm, best of {turns} turns. All ways have the same cores; the texts are the same.{equality}"
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
        command = f"python scripts/benchmarks/runtime.py {model_name} --turns={turns} --batch-sizes={batch_sizes}"
        command += f" --decoder={decoder}" if hasattr(model, "joint") else ""
        save_measurement(output, f"Recognition without NeMo, and with it{kind}", about, rows, command)
        typer.echo(f"results: {output}")


def compare_starts(commands: dict[str, list[str]], turns: int) -> dict[str, float]:
    """Print and return the median seconds of each program from its start to its end: the first transcript."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(turns):
        for name, arguments in commands.items():
            started = time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
            seconds[name].append(time.perf_counter() - started)
            text = (done.stdout.strip().splitlines() or [""])[-1]
            print(f"from process start to {text!r}, {name}: {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"start, {name}: {median:.2f} s (median of {turns})")
    return medians


def compare_transcriptions(ways: dict[str, Callable[[], list[str]]], duration: float, turns: int) -> dict[str, float]:
    """Print and return the best seconds of each way for all recordings; print how many texts are the same."""
    texts = {name: way() for name, way in ways.items()}  # warm-up, not timed
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    print(f"{duration:.0f} s of audio, {usable_cores()} cores, best of {turns}")
    best = {name: min(times) for name, times in seconds.items()}
    for name, least in best.items():
        same = sum(one == other for one, other in zip(texts[name], texts[_RUNTIME], strict=True))
        print(
            f"{name}: {least:.2f} s, RTFx {duration / least:.0f}; {same} of {len(texts[name])} texts as the runtime's"
        )
    nemos = min(least for name, least in best.items() if name not in (_RUNTIME, _OURS))
    print(f"the runtime is {nemos / best[_RUNTIME]:.1f} times as fast as NeMo's transcribe() at its best")
    return best


if __name__ == "__main__":
    run(main)
