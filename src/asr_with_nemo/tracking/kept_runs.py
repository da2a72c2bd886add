"""Runs that W&B has written to this machine (`.wandb` files) and their records."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.wandb_internals import inspect_command

_ALIVE_SECONDS = 120
"""An unfinished run whose file hasn't grown for this long is dead: W&B writes system metrics every 15 s."""


@dataclass
class KeptRun:
    """The content of a run's `.wandb` file."""

    path: Path
    name: str = ""  # entity/project/id, those that are known
    last_step: int = -1
    artifacts: set[tuple[str, str]] = field(default_factory=set)  # (name, digest) of those whose files exist
    dropped: int = 0  # artifacts whose files were removed
    has_ended: bool = False
    is_cut: bool = False  # the file ends within a record; the records before it were sent
    problem: str | None = None  # the reason why it can't be sent

    @property
    def is_sent(self) -> bool:
        return self.path.with_name(f"{self.path.name}.synced").exists()

    @property
    def is_offline(self) -> bool:
        return self.path.parent.name.startswith("offline-")

    def mark_sent(self) -> None:
        """Mark it as sent, as `wandb sync` does."""
        self.path.with_name(f"{self.path.name}.synced").touch()

    def mark_unsent(self) -> None:
        self.path.with_name(f"{self.path.name}.synced").unlink()


def kept_files(folder: Path) -> list[Path]:
    """Return the `.wandb` files of the runs in a `wandb` folder, the oldest first."""
    files = (path for path in folder.glob("*run-*/run-*.wandb") if not path.parent.is_symlink())  # latest-run
    return sorted(files, key=lambda path: (path.parent.name.removeprefix("offline-"), path.name))


def read_records(path: Path) -> tuple[list[dict], str | None]:
    """Read all records of a run's `.wandb` file, in the form of `wandb leet inspect --json`.

    Returns:
        the records, and a description of the corruption; None for a sound file, also one that ends within a record.
    """
    done = subprocess.run(inspect_command(path), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    is_corrupt = "corrupt" in done.stderr or done.returncode
    return records, last_line(done.stderr) if is_corrupt else None


def read_run(path: Path) -> KeptRun:
    """Read a run's `.wandb` file up to its end or its first error, which goes into `problem`."""
    run = KeptRun(path, name=path.stem.removeprefix("run-"))
    records, damage = read_records(path)
    is_run = False
    for record in records:
        match record["type"]:
            case "run":
                given = record["run"]
                run.name = "/".join(filter(None, (given.get(key) for key in ("entity", "project", "run_id"))))
                is_run = True
            case "history":
                run.last_step = max(run.last_step, int(record["history"].get("step", {}).get("num", 0)))
            case "artifact":
                artifact = record["artifact"]
                if all(file.is_file() for file, _ in artifacts.staged_files(artifact).values()):
                    run.artifacts.add((artifact["name"], artifact["digest"]))
                else:
                    run.dropped += 1
            case "exit":
                run.has_ended = True
    if damage:
        run.problem = f"the file is corrupt ({damage}); to give it up, delete its folder"
    elif not is_run and not is_young(path):
        run.problem = "the file holds no run; delete its folder"
    return run


def is_young(path: Path) -> bool:
    """Return whether a run's file has grown so recently that an unfinished run is still running."""
    return time.time() - path.stat().st_mtime < _ALIVE_SECONDS


def last_line(text: str) -> str:
    """Return the last line of W&B's output without W&B's prefixes.

    Example:
        >>> last_line("wandb: Syncing\\nwandb: ERROR the disk is full\\n")
        'the disk is full'
    """
    return (text.strip().splitlines() or ["no reason given"])[-1].removeprefix("wandb: ").removeprefix("ERROR ")
