"""The W&B session: online when there is a key and the server accepts it, offline otherwise, never a prompt.

Call sites do not branch on the mode: they get a logger that works, and a server that goes away later costs them
nothing. Everything that W&B writes goes into the project's `wandb` folder; `make sync` uploads what the server lacks.
"""

import configparser
import netrc
import os
import threading
from pathlib import Path
from urllib.parse import urlsplit

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking.wandb_internals import keep_artifacts

WANDB_FOLDER = "wandb"
DEFAULT_PROJECT = "ASR"
DEFAULT_SERVER = "https://api.wandb.ai"
MODES = ("online", "offline", "disabled", "shared")
ONLINE = ("online", "shared")
ANSWER_SECONDS = 5.0
"""How long the server may take to answer whether it lets the key in."""
FINISH_SECONDS = 120
"""How long a run that has ended waits for the server to take the rest; `make sync` sends what it did not."""
RETRIES = 3
QUESTION_SECONDS = 15
"""How often a question to the server is put again, and how long each waits. With W&B's own (20 times, 30 s) a dead
server holds up the end of a run for long. Metrics are offered again until the end in any case."""
_chosen: str | None = None  # by `configure_wandb`, not by the user: a key that comes later changes it
_why: str | None = None  # the reason why it is offline


def configure_wandb(folder: str | os.PathLike = ".") -> str:
    """Choose W&B's mode for this process and keep its files below `folder`/wandb.

    Online when an API key is there (`WANDB_API_KEY`, or one kept by `wandb login`) and the server (`WANDB_BASE_URL`)
    lets it in; otherwise runs are written offline, and `make sync` sends them later. What the environment says
    (`WANDB_MODE`, `WANDB_DIR`, `WANDB_DATA_DIR`...) wins, and so does `wandb offline`.

    Returns:
        the mode: one of `MODES`.

    Raises:
        InputError: `WANDB_MODE` is none of them, or online without a key, or the folder can't be written.
    """
    global _chosen, _why
    root = Path(os.environ.setdefault("WANDB_DIR", str(Path(folder).absolute())))
    if os.environ.get("WANDB_MODE") in (None, _chosen):  # not the user's, or of an earlier call here
        _why = "as `wandb offline` says" if _setting("mode") == "offline" else server_refusal()
        _chosen = "offline" if _why else "online"
        os.environ["WANDB_MODE"] = _chosen
    else:
        _why = "as WANDB_MODE says"
    mode = os.environ["WANDB_MODE"]
    if mode not in MODES:
        raise InputError(f"WANDB_MODE={mode}: expected one of {', '.join(MODES)}")
    if mode in ONLINE and not has_key():  # W&B would ask for one
        raise InputError(f"WANDB_MODE={mode}, but there is no API key: `wandb login` keeps one, or set WANDB_API_KEY")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(FINISH_SECONDS))
    os.environ.setdefault("WANDB_X_GRAPHQL_RETRY_MAX", str(RETRIES))
    os.environ.setdefault("WANDB_HTTP_TIMEOUT", str(QUESTION_SECONDS))
    for variable, place in wandb_places(root / WANDB_FOLDER).items():
        os.environ.setdefault(variable, place)
    for variable in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        try:
            Path(os.environ[variable]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            path = os.environ[variable]
            raise InputError(f"{path}: can't be written to ({error.strerror}); set {variable}") from error
    if mode == "online":
        keep_artifacts()
    return mode


def project_name(configured: str | None = None) -> str:
    """The W&B project: that of the environment (`WANDB_PROJECT`), else that of the config, else the course's."""
    return os.environ.get("WANDB_PROJECT") or configured or DEFAULT_PROJECT


def server_url() -> str:
    """The address of W&B's server: `WANDB_BASE_URL`, else that of `wandb login --host`, else W&B's own."""
    return (os.environ.get("WANDB_BASE_URL") or _setting("base_url") or DEFAULT_SERVER).rstrip("/")


def has_key() -> bool:
    """Whether an API key is configured: in the environment, or in the netrc file, where `wandb login` keeps it."""
    return _key() is not None


def server_refusal() -> str | None:
    """Why W&B's server can't be used now, in a few words that don't hold the key; None if it can.

    One short question over HTTP that takes `ANSWER_SECONDS` at most.
    """
    key = _key()
    if key is None:
        return "no API key here"
    answer: list[str | None] = []
    # In a thread, because the look-up of the server's name has no time limit of its own.
    asking = threading.Thread(target=lambda: answer.append(_ask(server_url(), key)), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answer[0] if answer else f"{server_url()} does not answer"


def describe_mode(mode: str, project: str = DEFAULT_PROJECT) -> str:
    """One line for the user about where a run's metrics go, and why there."""
    if mode == "offline":
        runs = Path(os.path.relpath(os.environ.get("WANDB_DIR", "."))) / WANDB_FOLDER
        return f"W&B: offline, {_why or 'no API key here'}; runs are kept in {runs}, `make sync` sends them later"
    return f"W&B: {mode}, project {project}"


def wandb_folder() -> Path:
    return Path(os.environ["WANDB_DIR"]) / WANDB_FOLDER


def wandb_places(wandb_folder: Path) -> dict[str, str]:
    """Where W&B keeps what lies in the home and in the working folder unless it is told."""
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
    """Asking W&B's client instead would fix its settings, the mode among them, before they are chosen."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        try:
            found = netrc.netrc(os.path.expanduser(place)).authenticators(urlsplit(server_url()).netloc)
        except (OSError, netrc.NetrcParseError):
            continue
        if found and found[2]:
            return found[2]
    return None


def _setting(name: str) -> str | None:
    """What `wandb login --host` or `wandb offline` have kept, for this project or for this user."""
    project_file = Path(os.environ.get("WANDB_DIR", ".")) / WANDB_FOLDER / "settings"
    user_file = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser() / "settings"
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read([user_file, project_file])  # the last one wins
    except (OSError, configparser.Error, UnicodeDecodeError):
        return None
    return settings.get("default", name, fallback=None)
