"""Upload the runs that were kept while W&B's server could not be reached."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.kept_runs import KeptRun, is_young, kept_files, last_line, read_run
from asr_with_nemo.tracking.session import ANSWER_SECONDS, WANDB_FOLDER, server_refusal, wandb_places
from asr_with_nemo.tracking.wandb_internals import wandb_api

if TYPE_CHECKING:
    pass

PATIENCE_SECONDS = 60
"""How long sending goes on while the server doesn't answer."""


@dataclass
class Sent:
    """What came of sending the runs of a folder."""

    sent: list[KeptRun] = field(default_factory=list)
    were_there: list[KeptRun] = field(default_factory=list)
    running: list[KeptRun] = field(default_factory=list)
    failed: list[tuple[KeptRun, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"sent: {len(self.sent)}"]
        lines += [
            f"  {os.path.relpath(run.path)}: as far as it goes, it was cut short" for run in self.sent if run.is_cut
        ]
        dropped = sum(run.dropped for run in self.sent)
        lines += [f"  without {dropped} versions of artifacts whose files are no longer kept"] if dropped else []
        lines += [f"sent before: {len(self.were_there)}"]
        if self.running:
            lines += [f"still running, for the next time: {len(self.running)}"]
        if self.failed:
            lines += [f"not sent: {len(self.failed)}"]
            lines += [f"  {os.path.relpath(run.path)}: {why}" for run, why in self.failed]
        return "\n".join(lines)


def send_runs(folder: str | os.PathLike, progress: bool = True) -> Sent:
    """Send W&B's server what it has not got of the runs in a `wandb` folder, each once, by `wandb sync`.

    Those are the runs that were kept offline, and the online ones whose server went away. A run that can't be read
    or sent is told in the result and keeps no other back; one that is still running waits for the next time.

    Raises:
        InputError: there is no such folder, or the server can't be used; the runs stay as they are.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; W&B's runs are kept in the folder {WANDB_FOLDER} of a project")
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
            "`wandb login` keeps a key, WANDB_BASE_URL names the server"
        )
    for variable, place in {"WANDB_SILENT": "true", **wandb_places(folder)}.items():
        os.environ.setdefault(variable, place)
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
                if not run.is_sent:  # something among them stopped the others, or this one
                    why = _sync([run], folder, bar) or "`wandb sync` did not send it and gave no reason"
                    if "incomplete record" in why and not run.has_ended:  # of a process that was killed, or a full disk
                        run.is_cut = True
                        run.mark_sent()
                if run.is_sent and (missing := _missing(run)):  # `wandb sync` says nothing of an artifact that failed
                    run.mark_unsent()
                    why = f"the server did not take {', '.join(sorted({name for name, _ in missing}))}"
                if run.is_sent:
                    result.sent.append(run)
                else:
                    result.failed.append((run, why))
    return result


def _rounds(runs: Iterable[KeptRun]) -> list[list[KeptRun]]:
    """Runs that can be sent at once, and then the next: no two of a round log to the same artifact.

    `wandb sync` takes runs in any order, but an artifact's versions are numbered, and its aliases move, as they arrive.
    """
    rounds: list[list[KeptRun]] = []
    nth: dict[str, int] = {}  # of an artifact → the round after the last that has it
    for run in sorted(runs, key=lambda run: run.path.stat().st_mtime):
        names = {name for name, _ in run.artifacts}
        place = max((nth.get(name, 0) for name in names), default=0)
        nth |= dict.fromkeys(names, place + 1)
        rounds[place : place + 1] = [[*rounds[place], run] if place < len(rounds) else [run]]
    return rounds


def _has_arrived(run: KeptRun) -> bool:
    """Whether the server has the whole of a run that was online."""
    import wandb

    try:
        there = wandb_api().run(run.name)
        has_all = there.state in ("finished", "failed") and there.lastHistoryStep >= run.last_step
    except (wandb.Error, ValueError):  # not known there
        return False
    return has_all and not _missing(run)


def _missing(run: KeptRun) -> set[tuple[str, str]]:
    """Those of a run's artifacts whose files are here and that the server lacks."""
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
    """Let `wandb sync` send runs; it marks those that have arrived.

    Returns:
        the last error that it told of.
    """
    runs = list(runs)
    if not runs:
        return None
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", *(str(run.path) for run in runs)]
    environment = os.environ | {"WANDB_MODE": "online", "WANDB_DIR": str(folder.absolute().parent)}
    environment.pop("WANDB_SILENT", None)  # it would keep the errors back
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
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
                    raise InputError(f"W&B: {server_refusal()} any more; what was not sent waits in {folder}")
        finally:
            process.terminate()
            process.wait()
        bar.update(sum(run.is_sent for run in runs) - before)
        said.seek(0)
        errors = [line for line in said.read().splitlines() if "ERROR" in line or line.startswith("Error")]
    return last_line("\n".join(errors)) if errors else None
