"""Model artifacts of W&B on this machine: the versions that runs have recorded, and their staged files.

W&B's client records an artifact in the run's `.wandb` file and keeps its files in a staging folder until `make sync`
sends them. With both, a version can be restored without a server.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.wandb_internals import data_folder

MODEL = "model"
"""W&B's type of the artifacts that hold models."""
SUFFIXES = (".nemo", ".ckpt")
PREFIX = "wandb:"
"""Prefix of an artifact's name in options that also take a file: `wandb:NAME:ALIAS`."""
BEST, LATEST = "best", "latest"


@dataclass
class Version:
    """One version of an artifact, offline as on W&B's server.

    Attributes:
        name: of the artifact; its versions are counted from 0.
        digest: of its whole content; W&B compares versions by it.
        aliases: each alias belongs to one version of a name at a time.
        metadata: as logged by the run.
        files: path in the artifact → the staged file and its MD5 in base 64; empty for a version on the server.
    """

    name: str
    number: int
    type: str
    project: str
    digest: str
    aliases: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    files: dict[str, tuple[Path, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}:v{self.number}"

    @property
    def is_kept(self) -> bool:
        """Whether its files are available: on the server, or all of them on this machine."""
        return all(file.is_file() for file, _ in self.files.values())

    def answers_to(self, alias: str) -> bool:
        """Return whether `alias` is its number (`v3`) or one of its aliases."""
        return alias == f"v{self.number}" or alias in self.aliases

    def model_file(self) -> Path:
        """Return the staged file of a model.

        Raises:
            InputError: it holds no model or several, or the file is missing or differs from the logged one.
        """
        file, digest = self.files[only_model(self.files, str(self))]
        if not file.is_file():
            raise InputError(
                f"{self}: its file was removed from this machine; tracking.keep_checkpoints sets how many are kept"
            )
        with file.open("rb") as content:
            found = base64.b64encode(hashlib.file_digest(content, "md5").digest()).decode()
        if found != digest:
            raise InputError(
                f"{self}: {file} has changed since it was logged (MD5 {found}, not {digest}); fetch another version"
            )
        return file


def only_model(paths: Iterable[str], artifact: str) -> str:
    """Return the path of the only model among the files of an artifact.

    Raises:
        InputError: there is none, or there are several.

    Example:
        >>> only_model(["config.yaml", "model.nemo"], "an4:v0")
        'model.nemo'
    """
    paths = list(paths)
    models = [path for path in paths if path.endswith(SUFFIXES)]
    if len(models) != 1:
        there = ", ".join(paths[:5]) or "nothing"
        raise InputError(f"{artifact}: expected one model in it ({' or '.join(SUFFIXES)}); it holds {there}")
    return models[0]


def versions_in(runs: Iterable[Sequence[dict]]) -> list[Version]:
    """Return the versions of artifacts that runs have recorded, numbered by the time of logging.

    As on W&B's server, equal content is the same version, and an alias moves to the newest version that has it.

    Args:
        runs: the records of each run, from `kept_runs.read_records`.
    """
    logged = []
    for records in runs:
        made = 0.0  # seconds since 1970; an artifact's record has no time
        for record in records:
            match record:
                case {"type": "run", "run": {"start_time": str(start)}}:
                    made = datetime.fromisoformat(start).timestamp()
                case {"type": "history", "history": {"item": {"_timestamp": int() | float() as seconds}}}:
                    made = float(seconds)
                case {"type": "artifact", "artifact": artifact}:
                    logged.append((made, artifact))
    versions: list[Version] = []
    for _, artifact in sorted(logged, key=lambda item: item[0]):
        name, project = artifact["name"], artifact.get("project", "")
        of_name = [version for version in versions if (version.name, version.project) == (name, project)]
        version = next((version for version in of_name if version.digest == artifact["digest"]), None)
        if version is None:
            metadata = json.loads(artifact.get("metadata") or "{}")
            version = Version(name, len(of_name), artifact["type"], project, artifact["digest"], metadata=metadata)
            versions.append(version)
        for path, (file, md5) in staged_files(artifact).items():
            if path not in version.files or file.is_file():  # the same content may have been staged twice
                version.files[path] = file, md5
        given = artifact.get("aliases", [])
        for other in of_name:
            other.aliases = [alias for alias in other.aliases if alias not in given]
        version.aliases = sorted({*version.aliases, *given})
    return versions


def staged_files(artifact: dict) -> dict[str, tuple[Path, str]]:
    """Return path in an artifact → the staged file and its MD5 in base 64, from the artifact's record."""
    contents = (artifact.get("manifest") or {}).get("contents", [])
    return {entry["path"]: (Path(entry["local_path"]), entry["digest"]) for entry in contents if "local_path" in entry}


def listed(versions: Iterable[Version]) -> str:
    """Return the names of available versions with their aliases and numbers.

    Example:
        >>> versions = [Version("an4", number, "model", "ASR", "") for number in (0, 1, 3)]
        >>> versions[2].aliases = ["latest"]
        >>> listed(versions)
        'an4 (latest, v0 to v1, v3)'
    """
    by_name: dict[str, list[Version]] = {}
    for version in versions:
        if version.is_kept:
            by_name.setdefault(version.name, []).append(version)
    texts = []
    for name, ones in sorted(by_name.items()):
        answers = sorted({alias for version in ones for alias in version.aliases})
        for _, run in groupby(enumerate(sorted(version.number for version in ones)), lambda item: item[1] - item[0]):
            (_, first), *_, (_, last) = [*run] * 2
            answers.append(f"v{first}" if first == last else f"v{first} to v{last}")
        texts.append(f"{name} ({', '.join(answers)})")
    return "; ".join(texts)


def valid_name(text: str) -> str:
    """Return a text with the characters and the length that W&B allows in an artifact's name.

    Example:
        >>> valid_name("my corpus/2026")
        'my-corpus-2026'
    """
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:128]


# --- Staged files -----------------------------------------------------------------------------------------------------


def stage(file: Path, name: str, is_best: bool = False) -> Path:
    """Put a model's file into the staging folder and return its path there.

    It is a hard link where the file system allows one, which takes neither time nor space, else a copy. So the file
    must be replaced, not overwritten, when it changes.

    Raises:
        OSError: it can't be written; no partial file is left.
    """
    folder = _staging(name)
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f"{time.time_ns()}{f'-{BEST}' if is_best else ''}{file.suffix}"
    try:
        os.link(file, staged)
    except OSError:
        try:
            shutil.copyfile(file, staged)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
    return staged


def drop_staged(name: str, keep: int, seconds: float = 0.0) -> None:
    """Remove the staged files of an artifact except the last `keep` and the newest that was the best.

    The records of the versions stay; `make sync` sends those that still have their files.

    Args:
        name: of the artifact.
        keep: 1 or more.
        seconds: files younger than this stay too.
    """
    files = sorted(_staging(name).glob("*"))  # their names begin with the time
    kept = {*files[-keep:], *[file for file in files if file.stem.endswith(f"-{BEST}")][-1:]}
    for file in files:
        if file not in kept and time.time() - int(file.stem.partition("-")[0]) / 1e9 >= seconds:
            file.unlink(missing_ok=True)


def _staging(name: str) -> Path:
    return data_folder() / "models" / name
