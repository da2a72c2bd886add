"""The W&B session: online when there is a key and the server accepts it, offline otherwise, never a prompt.

Call sites do not branch on the mode: they get a logger that works, and a server that goes away later costs them
nothing. Everything that W&B writes goes into the project's `wandb` folder; `make sync` uploads what the server lacks.
"""

import configparser
import contextlib
import netrc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import wandb_internals
from asr_with_nemo.tracking.wandb_internals import keep_artifacts

if TYPE_CHECKING:
    import wandb

WANDB_FOLDER = "wandb"
_DEFAULT_PROJECT = "ASR"
_MODES = ("online", "offline", "disabled", "shared")
ONLINE = ("online", "shared")
ANSWER_SECONDS = 5.0
"""Seconds that the server may take to answer whether it accepts the key."""
_FINISH_SECONDS = 120
"""Seconds that a finished run waits for the server to take the rest; `make sync` sends what is left."""
_RETRIES = 3
_QUESTION_SECONDS = 15
"""Retries of a request to the server, and its timeout in seconds. With W&B's defaults (20 retries, 30 s) a dead
server delays the end of a run for long. Metrics are retried until the end in any case."""
_chosen: str | None = None  # by `configure_wandb`, not by the user: a key that is set later changes it
_why: str | None = None  # the reason why it is offline


def configure_wandb(folder: str | os.PathLike = ".") -> str:
    """Choose W&B's mode for this process and keep its files below `folder`/wandb.

    The mode is online if there is an API key (`WANDB_API_KEY`, or one stored by `wandb login`) that the server
    (`WANDB_BASE_URL`) accepts; otherwise runs are written offline, and `make sync` sends them later. Environment
    variables (`WANDB_MODE`, `WANDB_DIR`, `WANDB_DATA_DIR`...) and `wandb offline` take precedence. W&B's client uses
    what is configured now for the next run, also where it was used in this process before: `renew_client`.

    Returns:
        the mode: online, offline, disabled or shared.

    Raises:
        InputError: `WANDB_MODE` is unknown, or online without a key, or the folder can't be written.
    """
    global _chosen, _why
    root = Path(os.environ.setdefault("WANDB_DIR", str(Path(folder).absolute())))
    if os.environ.get("WANDB_MODE") in (None, _chosen):  # not set by the user, or set by an earlier call here
        _why = "set by `wandb offline`" if _setting("mode") == "offline" else server_refusal()
        _chosen = "offline" if _why else "online"
        os.environ["WANDB_MODE"] = _chosen
    else:
        _why = "set by WANDB_MODE"
    mode = os.environ["WANDB_MODE"]
    if mode not in _MODES:
        raise InputError(f"WANDB_MODE={mode}: expected one of {', '.join(_MODES)}")
    if mode in ONLINE and not has_key():  # W&B would ask for one
        raise InputError(f"WANDB_MODE={mode}, but there is no API key; run `wandb login`, or set WANDB_API_KEY")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(_FINISH_SECONDS))
    os.environ.setdefault("WANDB_X_GRAPHQL_RETRY_MAX", str(_RETRIES))
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(_QUESTION_SECONDS))
    for variable, place in wandb_places(root / WANDB_FOLDER).items():
        os.environ.setdefault(variable, place)
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        try:
            Path(os.environ[variable]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            path = os.environ[variable]
            raise InputError(
                f"{path}: can't be written ({error.strerror}); set {variable} to another folder"
            ) from error
    renew_client()
    if mode == "online":
        keep_artifacts()
    return mode


@contextlib.contextmanager
def ending(run: "wandb.Run") -> Iterator["wandb.Run"]:
    """Finish a run with the block, as failed after an error. As a context by itself, a run prints a traceback then."""
    try:
        yield run
    except BaseException:
        with contextlib.suppress(OSError):  # the disk is full, which may be why we are here
            run.finish(exit_code=1)
        raise
    run.finish()


def renew_client() -> None:
    """Let W&B's client use the settings, server and API key that are configured now; an active run keeps its own."""
    if "wandb" in sys.modules:  # importing it takes seconds, and a client that isn't there yet reads all of it anyway
        wandb_internals.renew_client(server_url(), _key())


def project_name(configured: str | None = None) -> str:
    """Return the W&B project: `WANDB_PROJECT`, else the config's, else the course's, ASR."""
    return os.environ.get("WANDB_PROJECT") or configured or _DEFAULT_PROJECT


def server_url() -> str:
    """Return the URL of W&B's server: `WANDB_BASE_URL`, else the one of `wandb login --host`, else W&B's own."""
    return (os.environ.get("WANDB_BASE_URL") or _setting("base_url") or wandb_internals.default_server()).rstrip("/")


def has_key() -> bool:
    """Return whether an API key is configured: in the environment, or in the netrc file (`wandb login`)."""
    return _key() is not None


def server_refusal() -> str | None:
    """Return the reason why W&B's server can't be used, without the key; None if it can be used.

    Sends one HTTP request, which takes `ANSWER_SECONDS` at most.
    """
    key = _key()
    if key is None:
        return "no API key here"
    answer: list[str | None] = []
    # In a thread, because the DNS lookup has no timeout.
    asking = threading.Thread(target=lambda: answer.append(_ask(server_url(), key)), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answer[0] if answer else f"{server_url()} does not answer"


def describe_mode(mode: str, project: str = _DEFAULT_PROJECT) -> str:
    """Return one line for the user that names W&B's mode, the reason, and where runs are written.

    Example:
        >>> describe_mode("online", "ASR")
        'W&B: online, project ASR'
    """
    if mode == "offline":
        runs = Path(os.path.relpath(os.environ.get("WANDB_DIR", "."))) / WANDB_FOLDER
        return f"W&B: offline, {_why or 'no API key here'}; runs are kept in {runs}, `make sync` sends them later"
    return f"W&B: {mode}, project {project}"


def wandb_folder() -> Path:
    """Return the `wandb` folder of the project, after `configure_wandb`."""
    return Path(os.environ["WANDB_DIR"]) / WANDB_FOLDER


def wandb_places(wandb_folder: Path) -> dict[str, str]:
    """Return variable → folder for files that W&B would else write into the home and the working folder."""
    names = {"WANDB_DATA_DIR": "staging", "WANDB_CACHE_DIR": "cache", "WANDB_ARTIFACT_DIR": "artifacts"}
    return {variable: str(wandb_folder.absolute() / name) for variable, name in names.items()}


def _ask(url: str, key: str) -> str | None:
    import httpx

    question = {"query": "query Viewer { viewer { id } }"}
    try:
        answer = httpx.post(f"{url}/graphql", json=question, auth=("api", key), timeout=ANSWER_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
        return f"{url} does not answer"
    if answer.status_code not in (200, 401, 403):
        return f"{url} answers with HTTP status {answer.status_code}"
    try:
        is_let_in = answer.status_code == 200 and (answer.json().get("data") or {}).get("viewer")
    except (ValueError, AttributeError):
        return f"{url} does not answer as W&B's server does"
    return None if is_let_in else f"{url} refuses the API key"


def _key() -> str | None:
    """Return the API key, read without W&B's client, which would fix its settings, the mode among them."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        try:
            kept = netrc.netrc(os.path.expanduser(place))
        except (OSError, netrc.NetrcParseError):
            continue
        for url in wandb_internals.addresses(server_url()):
            if (found := kept.authenticators(urlsplit(url).netloc)) and found[2]:
                return found[2]
    return None


def _setting(name: str) -> str | None:
    """Return a setting stored by `wandb login --host` or `wandb offline`, for this project or this user."""
    project_file = Path(os.environ.get("WANDB_DIR", ".")) / WANDB_FOLDER / "settings"
    user_file = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings"
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read([user_file, project_file])  # the later file takes precedence
    except (OSError, configparser.Error, UnicodeDecodeError):
        return None
    return settings.get("default", name, fallback=None)
