"""Weights & Biases: online when there is a key, offline when there is none, and never a prompt.

Call sites don't branch on it: they get a logger that works.
"""

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

from asr_with_nemo.errors import InputError

WANDB_FOLDER = "wandb"
DEFAULT_PROJECT = "ASR"
MODES = ("online", "offline", "disabled", "shared")

_chosen: str | None = None  # by `configure_wandb`, not by the user: a key that comes later changes it


def configure_wandb(folder: str | os.PathLike = ".") -> str:
    """Choose W&B's mode for this process and keep its files below `folder`/wandb.

    What the environment says (`WANDB_MODE`, `WANDB_DIR`, `WANDB_DATA_DIR`) wins; with no key (`WANDB_API_KEY`, or one
    kept by `wandb login`) runs are written offline, to be sent later with `wandb sync`.

    Returns:
        the mode: one of `MODES`.

    Raises:
        InputError: `WANDB_MODE` is none of them, or the folder can't be written.
    """
    global _chosen
    if os.environ.get("WANDB_MODE") in (None, _chosen):  # not the user's, or of an earlier call here
        _chosen = "online" if has_key() else "offline"
        os.environ["WANDB_MODE"] = _chosen
    mode = os.environ["WANDB_MODE"]
    if mode not in MODES:
        raise InputError(f"WANDB_MODE={mode}: expected one of {', '.join(MODES)}")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DIR", str(Path(folder).absolute()))
    # Artifacts are staged in the home folder unless this is set.
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(folder).absolute() / WANDB_FOLDER / "staging"))
    os.environ.setdefault("WANDB_CACHE_DIR", str(Path(folder).absolute() / WANDB_FOLDER / "cache"))
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        try:
            Path(os.environ[variable]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            path = os.environ[variable]
            raise InputError(f"{path}: can't be written to ({error.strerror}); set {variable}") from error
    return mode


def project(configured: str | None = None) -> str:
    """The W&B project: that of the environment (`WANDB_PROJECT`), else that of the config, else the course's."""
    return os.environ.get("WANDB_PROJECT") or configured or DEFAULT_PROJECT


def has_key() -> bool:
    """Whether an API key is configured: in the environment, or in the netrc file, where `wandb login` keeps it.

    Asking W&B's client instead would fix its settings, the mode among them, before they are chosen.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    places = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for place in places:
        try:
            if netrc.netrc(os.path.expanduser(place)).authenticators(host or ""):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def describe_mode(mode: str, project: str = DEFAULT_PROJECT) -> str:
    """One line for the user about where a run's metrics go."""
    if mode == "offline":
        runs = Path(os.path.relpath(os.environ.get("WANDB_DIR", "."))) / WANDB_FOLDER / "offline-run-*"
        why = "as WANDB_MODE says" if has_key() else "no API key here"
        return f"W&B: offline, {why}; `wandb sync {runs}` sends the runs later"
    return f"W&B: {mode}, project {project}"
