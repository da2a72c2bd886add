"""Weights & Biases: online when there is a key, offline when there is none, and never a prompt.

Call sites don't branch on it: they get a logger that works.
"""

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

WANDB_FOLDER = "wandb"
DEFAULT_PROJECT = "ASR"


def configure_wandb(folder: str | os.PathLike = ".") -> str:
    """Choose W&B's mode for this process and keep its files below `folder`/wandb.

    What the environment says (`WANDB_MODE`, `WANDB_PROJECT`, `WANDB_DIR`, `WANDB_DATA_DIR`) wins; with no key
    (`WANDB_API_KEY`, or one kept by `wandb login`) runs are written offline, to be sent later with `wandb sync`.

    Returns:
        the mode: "online", "offline", "disabled" or "shared".
    """
    os.environ.setdefault("WANDB_PROJECT", DEFAULT_PROJECT)
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DIR", str(Path(folder).absolute()))
    # Artifacts are staged in the home folder unless this is set.
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(folder).absolute() / WANDB_FOLDER / "staging"))
    os.environ.setdefault("WANDB_CACHE_DIR", str(Path(folder).absolute() / WANDB_FOLDER / "cache"))
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        Path(os.environ[variable]).mkdir(parents=True, exist_ok=True)
    if "WANDB_MODE" not in os.environ:
        os.environ["WANDB_MODE"] = "online" if has_key() else "offline"
    return os.environ["WANDB_MODE"]


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


def describe_mode(mode: str) -> str:
    """One line for the user about where a run's metrics go."""
    project = os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT)
    if mode == "offline":
        where = os.environ.get("WANDB_DIR", ".")
        return (
            f"W&B: offline, no API key here; `wandb sync {os.path.relpath(where)}/{WANDB_FOLDER}/offline-run-*` "
            "sends the runs later"
        )
    return f"W&B: {mode}, project {project}"
