"""Upload offline runs, and online runs that W&B's server didn't receive whole."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from asr_with_nemo.base.files import alone_in
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.kept_runs import KeptRun, is_young, kept_files, last_line, read_run
from asr_with_nemo.tracking.session import ANSWER_SECONDS, WANDB_FOLDER, renew_client, server_refusal, wandb_places
from asr_with_nemo.tracking.wandb_internals import wandb_api

PATIENCE_SECONDS = 60
"""Seconds without an answer of the server after which sending ends."""
_CLIENT = """
import os, runpy, sys, threading

def end_with_the_caller():
    sys.stdin.read()  # the pipe's other end closes when the calling process ends, even by kill -9
    os._exit(1)

threading.Thread(target=end_with_the_caller, daemon=True).start()
runpy.run_module("wandb", run_name="__main__")
"""
"""W&B's command line, as a process that doesn't outlive the one that started it."""


@dataclass
class Sent:
    """The result of sending the runs of a folder."""

    sent: list[KeptRun] = field(default_factory=list)
    were_there: list[KeptRun] = field(default_factory=list)
    running: list[KeptRun] = field(default_factory=list)
    failed: list[tuple[KeptRun, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"sent: {len(self.sent)}"]
        lines += [
            f"  {os.path.relpath(run.path)}: incomplete, sent up to the point where it was cut off"
            for run in self.sent
            if run.is_cut
        ]
        dropped = sum(run.dropped for run in self.sent)
        lines += [f"  without {dropped} versions of artifacts whose files were removed"] if dropped else []
        lines += [f"sent before: {len(self.were_there)}"]
        if self.running:
            lines += [f"still running, to be sent next time: {len(self.running)}"]
        if self.failed:
            lines += [f"not sent: {len(self.failed)}"]
            lines += [f"  {os.path.relpath(run.path)}: {why}" for run, why in self.failed]
        return "\n".join(lines)


def send_runs(folder: str | os.PathLike, progress: bool = True) -> Sent:
    """Send the runs in a `wandb` folder that W&B's server lacks, each once, by `wandb sync`.

    These are offline runs, and online runs that lost their server. A run that can't be read or sent is reported in the
    result, and the others are sent; a run that is still running is left for the next call. While another process sends
    runs of this folder, this one waits.

    Raises:
        InputError: the folder doesn't exist, or the server can't be used; the runs stay unchanged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder {WANDB_FOLDER} of a project, which holds its runs")
    with alone_in(folder, "is sending runs", name="sync"):
        return _send(folder, progress)


def _send(folder: Path, progress: bool) -> Sent:
    result = Sent()
    waiting = []
    for path in kept_files(folder):
        run = KeptRun(path)
        (result.were_there if run.is_sent else waiting).append(run)
    if not waiting:
        return result
    if why := server_refusal():
        raise InputError(
            f"W&B: {why}; {len(waiting)} runs wait in {folder}. "
            "`wandb login` stores a key, WANDB_BASE_URL sets the server"
        )
    for variable, place in {"WANDB_SILENT": "true", **wandb_places(folder)}.items():
        os.environ.setdefault(variable, place)
    renew_client()
    ready = []
    with ThreadPoolExecutor() as pool:
        for run in tqdm(
            pool.map(read_run, [run.path for run in waiting]),
            desc="reading",
            total=len(waiting),
            unit="run",
            delay=1,
            leave=False,
            disable=not progress,
        ):
            if run.problem:
                result.failed.append((run, run.problem))
            elif not run.has_ended and is_young(run.path):
                result.running.append(run)
            elif not run.is_offline and _has_arrived(run):
                run.mark_sent()
                result.were_there.append(run)
            else:
                ready.append(run)
    with tqdm(desc="sending", total=len(ready), unit="run", delay=1, leave=False, disable=not progress) as bar:
        for together in _rounds(ready):
            _sync(together, folder, bar)
            for run in together:
                why = None
                if not run.is_sent:  # a run of this round stopped the others, or it failed itself
                    why = _sync([run], folder, bar) or "`wandb sync` didn't send it and gave no reason"
                    if "incomplete record" in why and not run.has_ended:  # of a process that was killed, or a full disk
                        run.is_cut = True
                        run.mark_sent()
                if run.is_sent and (missing := _missing(run)):  # `wandb sync` doesn't report an artifact that failed
                    run.mark_unsent()
                    why = f"the server didn't accept {', '.join(sorted({name for name, _ in missing}))}"
                if run.is_sent:
                    result.sent.append(run)
                else:
                    result.failed.append((run, why))
    return result


def _rounds(runs: Iterable[KeptRun]) -> list[list[KeptRun]]:
    """Split runs into rounds that are sent one after another; no two runs of a round log to the same artifact.

    `wandb sync` sends runs in any order, but the server numbers versions and moves aliases in order of arrival.
    """
    rounds: list[list[KeptRun]] = []
    nth: dict[str, int] = {}  # artifact → the number of the first round after its last one
    for run in sorted(runs, key=lambda run: run.path.stat().st_mtime):
        names = {name for name, _ in run.artifacts}
        place = max((nth.get(name, 0) for name in names), default=0)
        nth |= dict.fromkeys(names, place + 1)
        rounds[place : place + 1] = [[*rounds[place], run] if place < len(rounds) else [run]]
    return rounds


def _has_arrived(run: KeptRun) -> bool:
    """Return whether the server has all of an online run."""
    import wandb

    try:
        there = wandb_api().run(run.name)
        has_all = there.state in ("finished", "failed") and there.lastHistoryStep >= run.last_step
    except (wandb.Error, ValueError):  # unknown to the server
        return False
    return has_all and not _missing(run)


def _missing(run: KeptRun) -> set[tuple[str, str]]:
    """Return a run's artifacts, as (name, digest), that have files here and that the server lacks."""
    import wandb

    if not run.artifacts:
        return set()
    try:
        there = wandb_api().run(run.name)
        known = [*there.logged_artifacts(), *there.used_artifacts()]
    except (wandb.Error, ValueError):
        return run.artifacts
    return run.artifacts - {(artifact.name.partition(":")[0], artifact.digest) for artifact in known}


def _sync(runs: Iterable[KeptRun], folder: Path, bar: tqdm) -> str | None:
    """Send runs by `wandb sync`, which marks those that have arrived.

    Returns:
        its last error message, or None.
    """
    runs = list(runs)
    if not runs:
        return None
    command = [sys.executable, "-c", _CLIENT, "sync", "--yes", "--include-online", *(str(run.path) for run in runs)]
    environment = os.environ | {"WANDB_MODE": "online", "WANDB_DIR": str(folder.absolute().parent)}
    environment.pop("WANDB_SILENT", None)  # it would suppress the errors
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=said, stderr=said)
        before, answered = 0, time.monotonic()
        asked = answered
        try:
            while process.poll() is None:
                time.sleep(0.2)
                arrived = sum(run.is_sent for run in runs)
                bar.update(arrived - before)
                before = arrived
                if time.monotonic() - asked > ANSWER_SECONDS:
                    asked = time.monotonic()
                    answered = asked if server_refusal() is None else answered
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise InputError(
                        f"W&B: {server_refusal()} any more; unsent runs wait in {folder}, send them again later"
                    )
        finally:
            process.terminate()
            process.wait()
            process.stdin.close()
        bar.update(sum(run.is_sent for run in runs) - before)
        said.seek(0)
        errors = [line for line in said.read().splitlines() if "ERROR" in line or line.startswith("Error")]
    return last_line("\n".join(errors)) if errors else None
