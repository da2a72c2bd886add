"""The runs that W&B has written to this machine (`.wandb` files), and what each holds."""

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.wandb_internals import inspect_command

ALIVE_SECONDS = 120
"""A run without an end whose file has not grown for so long is dead: W&B writes the machine's state every 15 s."""


@dataclass
class KeptRun:
    """What a run's `.wandb` file says of it."""

    path: Path
    name: str = ""  # entity/project/id, as far as they are known
    last_step: int = -1
    artifacts: set[tuple[str, str]] = field(default_factory=set)  # (name, digest) of those whose files are here
    dropped: int = 0  # artifacts whose files are no longer kept
    has_ended: bool = False
    is_cut: bool = False  # the file ends within a record: what stands before it was sent
    problem: str | None = None  # why it can't be sent

    @property
    def is_sent(self) -> bool:
        return self.path.with_name(f"{self.path.name}.synced").exists()

    @property
    def is_offline(self) -> bool:
        return self.path.parent.name.startswith("offline-")

    def mark_sent(self) -> None:
        """As `wandb sync` does."""
        self.path.with_name(f"{self.path.name}.synced").touch()

    def mark_unsent(self) -> None:
        self.path.with_name(f"{self.path.name}.synced").unlink()


def kept_files(folder: Path) -> list[Path]:
    """The `.wandb` files of the runs in a `wandb` folder, the oldest first."""
    files = (path for path in folder.glob("*run-*/run-*.wandb") if not path.parent.is_symlink())  # latest-run
    return sorted(files, key=lambda path: (path.parent.name.removeprefix("offline-"), path.name))


def read_records(path: Path) -> tuple[list[dict], str | None]:
    """All that a run's `.wandb` file holds, as far as it goes, in the records of `wandb leet inspect --json`.

    Returns:
        the records, and what is corrupt in the file; None where nothing is. A file that ends within a record is not.
    """
    done = subprocess.run(inspect_command(path), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    is_corrupt = "corrupt" in done.stderr or done.returncode
    return records, last_line(done.stderr) if is_corrupt else None


def read_run(path: Path) -> KeptRun:
    """Read a run's `.wandb` file as far as it goes; what is wrong with it is told in `problem`."""
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
        run.problem = f"the file is corrupt ({damage}); delete its folder to give it up"
    elif not is_run and not is_young(path):
        run.problem = "the file holds no run; delete its folder"
    return run


def is_young(path: Path) -> bool:
    """Whether a run's file has grown so lately that its run, if it has no end, is still going."""
    return time.time() - path.stat().st_mtime < ALIVE_SECONDS


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1].removeprefix("wandb: ").removeprefix("ERROR ")
