#!/usr/bin/env python3
"""Measure bulk transcription on Ray: two nodes of which one is killed, then the command; and what Ray costs."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import typer

from asr_with_nemo.base.files import check_output
from asr_with_nemo.cli import run
from asr_with_nemo.data import audio, manifest
from asr_with_nemo.errors import InputError

SCRIPT = Path(__file__).resolve().parents[1] / "transcribe.py"
_TRIES = 5
_PLAIN, _SHARDS, _RAY = "transcribe.py --output", "--shards, one process", "--shards --ray, two nodes"
_KILLED = "--shards --ray, a node and then the command killed"


class Clock:
    """Wall-clock and CPU seconds of processes and all that they start, sampled while they run."""

    def __init__(self, *processes: psutil.Process):
        self._roots, self._cpu, self._started = processes, {}, time.monotonic()

    def sample(self) -> None:
        """Look at all processes; of those that have ended, the last look counts."""
        for root in self._roots:
            try:
                family = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for one in family:
                try:
                    used = one.cpu_times()
                    self._cpu[one.pid] = used.user + used.system
                except psutil.Error:
                    continue

    @property
    def seconds(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._started

    @property
    def cpu(self) -> float:
        """CPU seconds of all."""
        return sum(self._cpu.values())


def make_recordings(corpus: Path, folder: Path, count: int) -> tuple[Path, float]:
    """Link a corpus's test recordings many times into a folder; return it, and the hours of sound."""
    rows, hours = manifest.read_manifest(corpus), 0.0
    for number in range(count):
        row = rows[number % len(rows)]
        place = folder / f"{number // 1000:03}"
        place.mkdir(parents=True, exist_ok=True)
        os.symlink(row["audio_filepath"], place / f"{number:06}.wav")
        hours += (audio.minutes_of(row["audio_filepath"]) or 0) / 60
    return folder, hours


def command(folder: Path, *options: str | Path) -> subprocess.Popen:
    """Start the command in a process of its own."""
    arguments = [sys.executable, str(SCRIPT), "an4", str(folder), *map(str, options)]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until_it_ends(process: subprocess.Popen, clock: Clock) -> str:
    """Wait for a command and return what it said."""
    while process.poll() is None:
        clock.sample()
        time.sleep(0.2)
    said = process.stderr.read()
    if process.returncode:
        raise InputError(f"the command failed: {said}")
    return said


@contextmanager
def two_nodes() -> Iterator[tuple[str, object, object, int]]:
    """Start a cluster of two nodes of a core each; yield its address, itself, the second node, and failed starts."""
    from ray.cluster_utils import Cluster

    failed = 0
    while True:
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=1, object_store_memory=128 << 20, include_dashboard=False)
            second = cluster.add_node(num_cpus=1, object_store_memory=128 << 20)
            cluster.wait_for_nodes()
            break
        except Exception as error:  # Ray raises what comes
            typer.echo(f"Ray didn't start ({error})", err=True)
            cluster.shutdown()
            failed += 1
            if failed == _TRIES:
                raise InputError(f"Ray didn't start in {_TRIES} tries; try on a quieter machine") from error
    try:
        yield cluster.address, cluster, second, failed
    finally:
        cluster.shutdown()


def committed(place: Path) -> int:
    """Return how many shards are written."""
    return len(list((place / ".progress" / "ids").glob("*[0-9].parquet")))


def wait_for(shards: int, place: Path, process: subprocess.Popen, clock: Clock) -> None:
    """Wait until so many shards are written."""
    while committed(place) < shards:
        clock.sample()
        if process.poll() is not None:
            raise InputError(f"the command has ended early: {process.stderr.read()}")
        time.sleep(0.2)


def texts_of(place: Path) -> list[tuple[str, str]]:
    """Return the names and texts of all shards."""
    lines = (line for path in place.glob("*.jsonl") for line in path.read_text(encoding="utf-8").splitlines())
    return [(row["file"], row["text"]) for row in map(json.loads, lines)]


def row_of(
    way: str, found: Iterable[tuple[str, str]], plain: dict[str, str], clock: Clock, note: str
) -> dict[str, str]:
    """Return a row of the table, and print it."""
    found = list(found)
    times = Counter(name for name, _ in found)
    row = {
        "way": way,
        "files": f"{len(plain):,}",
        "missing": f"{len(set(plain) - set(times)):,}",
        "twice": f"{sum(count > 1 for count in times.values()):,}",
        "other texts": f"{sum(text != plain.get(name) for name, text in found):,}",
        "seconds": f"{clock.seconds:.0f}",
        "CPU seconds": f"{clock.cpu:.0f}",
        "note": note,
    }
    typer.echo(json.dumps(row))
    return row


def without_kills(folder: Path, place: Path, plain: dict[str, str]) -> Iterator[dict[str, str]]:
    """Transcribe into shards by one process, then on two nodes."""
    process = command(folder, "--shards", place / "local", "--workers", "1")
    clock = Clock(psutil.Process(process.pid))
    until_it_ends(process, clock)
    yield row_of(_SHARDS, texts_of(place / "local"), plain, clock, "")
    clock = Clock(psutil.Process())
    with two_nodes() as (address, _, _, failed):
        ready = clock.seconds
        said = until_it_ends(command(folder, "--shards", place / "ray", "--ray", address), clock)
    note = f"the cluster started in {ready:.0f} s ({failed} starts failed); {said.split('(')[1].split(')')[0]}"
    yield row_of(_RAY, texts_of(place / "ray"), plain, clock, note)


def with_kills(folder: Path, place: Path, plain: dict[str, str]) -> dict[str, str]:
    """Transcribe on two nodes; kill one, then the command, and start that again."""
    with two_nodes() as (address, cluster, second, _):
        clock = Clock(psutil.Process())
        options = ("--shards", place, "--ray", address)
        process = command(folder, *options)
        wait_for(2, place, process, clock)
        cluster.remove_node(second, allow_graceful=False)
        wait_for(committed(place) + 3, place, process, clock)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = committed(place)
        until_it_ends(command(folder, *options), clock)
    note = f"{before} shards were kept, {committed(place) - before} written after the second start"
    return row_of(_KILLED, texts_of(place), plain, clock, note)


def main(
    corpus: Annotated[Path, typer.Option("--manifest", help="Manifest of the recordings that are linked.")] = Path(
        "data/an4/test_manifest.json"
    ),
    files: Annotated[int, typer.Option(min=100, help="How many files.", metavar="N")] = 3_000,
    kills_only: Annotated[
        bool, typer.Option("--kills-only", help="Leave out the runs without kills, for many files.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the results to this .json file.")] = None,
) -> None:
    """Measure bulk transcription on Ray: two nodes of which one is killed, then the command; and what Ray costs.

    The files are links to the recordings of a manifest. They are transcribed by the plain command, by one process into
    shards, by a Ray cluster of two nodes of this machine, and by another one, whose second node is killed when two
    shards are written, and the command three shards later; then the same command is started again. Counts and texts of
    all are compared with those of the plain command. Beside other work, CPU seconds count rather than the clock.

    Example:

        python scripts/benchmarks/ray_bulk.py --files 3000 --output results/ray.json
    """
    if output:
        check_output(output)
    from asr_with_nemo.recognition.results import save_measurement

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # as nice as the plain command
    with (
        tempfile.TemporaryDirectory() as scratch,
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as sockets,
    ):
        os.environ["RAY_TMPDIR"] = sockets
        place = Path(scratch)
        folder, hours = make_recordings(corpus, place / "in", files)
        process = command(folder, "--output", place / "plain.tsv")
        clock = Clock(psutil.Process(process.pid))
        until_it_ends(process, clock)
        lines = (place / "plain.tsv").read_text(encoding="utf-8").splitlines()
        plain = dict(line.split("\t") for line in lines)
        rows = [row_of(_PLAIN, plain.items(), plain, clock, "")]
        if not kills_only:
            rows += without_kills(folder, place, plain)
        rows.append(with_kills(folder, place / "killed", plain))
    if output:
        ways = "by the plain command, " + ("" if kills_only else "into shards by one process, ")
        about = (
            f"{files:,} links to {corpus.parent.name}'s test recordings, {hours:.1f} hours of sound, transcribed by "
            f"the model an4: {ways}and on Ray clusters of two nodes of one core, both on this machine; in the last "
            "row, one node is killed, then the command, and that is started again. CPU seconds are those of all "
            "processes, Ray's own included; other work ran on the cores."
        )
        run_again = f"python scripts/benchmarks/ray_bulk.py --files {files}{' --kills-only' if kills_only else ''}"
        title = f"Bulk work on Ray, {files:,} files" if kills_only else "Bulk work on Ray"
        save_measurement(
            output, title, about, rows, f"{run_again} --output results/{output.name}", hours=round(hours, 3)
        )
        typer.echo(f"results: {output}")


if __name__ == "__main__":
    run(main)
