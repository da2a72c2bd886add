"""Weights & Biases: online when there is a key and the server lets it in, offline otherwise, and never a prompt.

Call sites don't branch on it: they get a logger that works, and a server that dies later costs them nothing. All that
W&B writes lies in the project's `wandb` folder; `make sync` sends what its server has not got.
"""

import configparser
import functools
import json
import netrc
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from asr_with_nemo import artifacts
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    import wandb

WANDB_FOLDER = "wandb"
DEFAULT_PROJECT = "ASR"
DEFAULT_SERVER = "https://api.wandb.ai"
MODES = ("online", "offline", "disabled", "shared")
ONLINE = ("online", "shared")
ANSWER_SECONDS = 5.0
"""How long the server may take to answer whether it lets the key in."""
FINISH_SECONDS = 120
"""How long a run that has ended waits for the server to take the rest; `make sync` sends what it did not."""

SEND_SECONDS = 120
"""How long the file of a model waits to be sent before it makes place for others."""

RETRIES = 3
QUESTION_SECONDS = 15
"""How often a question to the server is put again, and how long each waits. With W&B's own (20 times, 30 s) a dead
server holds up the end of a run for long. Metrics are offered again until the end in any case."""
PATIENCE_SECONDS = 60
"""How long sending goes on while the server doesn't answer."""
ALIVE_SECONDS = 120
"""A run without an end whose file has not grown for so long is dead: W&B writes the machine's state every 15 s."""

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
        _why = "as `wandb offline` says" if _setting("mode") == "offline" else refusal()
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
    for variable, place in _places(root / WANDB_FOLDER).items():
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


def project(configured: str | None = None) -> str:
    """The W&B project: that of the environment (`WANDB_PROJECT`), else that of the config, else the course's."""
    return os.environ.get("WANDB_PROJECT") or configured or DEFAULT_PROJECT


def server() -> str:
    """The address of W&B's server: `WANDB_BASE_URL`, else that of `wandb login --host`, else W&B's own."""
    return (os.environ.get("WANDB_BASE_URL") or _setting("base_url") or DEFAULT_SERVER).rstrip("/")


def has_key() -> bool:
    """Whether an API key is configured: in the environment, or in the netrc file, where `wandb login` keeps it."""
    return _key() is not None


def refusal() -> str | None:
    """Why W&B's server can't be used now, in a few words that don't hold the key; None if it can.

    One short question over HTTP that takes `ANSWER_SECONDS` at most.
    """
    key = _key()
    if key is None:
        return "no API key here"
    answer: list[str | None] = []
    # In a thread, because the look-up of the server's name has no time limit of its own.
    asking = threading.Thread(target=lambda: answer.append(_ask(server(), key)), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return answer[0] if answer else f"{server()} does not answer"


def describe_mode(mode: str, project: str = DEFAULT_PROJECT) -> str:
    """One line for the user about where a run's metrics go, and why there."""
    if mode == "offline":
        runs = Path(os.path.relpath(os.environ.get("WANDB_DIR", "."))) / WANDB_FOLDER
        return f"W&B: offline, {_why or 'no API key here'}; runs are kept in {runs}, `make sync` sends them later"
    return f"W&B: {mode}, project {project}"


def api() -> "wandb.Api":
    """W&B's public API, which keeps what it makes with the rest.

    For each run that it is asked for it makes a folder ENTITY/PROJECT/ID; without this, in the folder of the project.
    """
    import wandb
    from wandb.apis.public import runs

    runs.env = SimpleNamespace(get_dir=lambda default: os.environ.get("WANDB_CACHE_DIR", default))
    return wandb.Api()


def keep_artifacts() -> None:
    """Let online runs of this process write their artifacts down as offline ones do.

    W&B's client puts an offline run's artifacts into the run's file and sends them from there. An online run's it only
    hands to the server: one that is gone ends the training with an error, and no later sync knows of the artifact. So
    an online run's go by the offline way here; they are sent just as soon. `Artifact.wait` is not for these: fetch an
    artifact by its name instead.
    """
    from wandb.sdk.wandb_run import Run

    if hasattr(Run._log_artifact, "__wrapped__"):
        return
    log_artifact = Run._log_artifact

    @functools.wraps(log_artifact)
    def log_as_offline(run, *arguments, **options):
        settings = run._settings
        mode = settings.mode
        settings.mode = "offline"
        try:
            return log_artifact(run, *arguments, **options)
        finally:
            settings.mode = mode

    Run._log_artifact = log_as_offline


def use(run: "wandb.Run", artifact: "wandb.Artifact", aliases: Sequence[str] = (artifacts.LATEST,)) -> None:
    """Note an artifact as an input of a run, and log it where W&B does not have it yet.

    `run.use_artifact` does so with a new artifact too, but neither offline nor without waiting for the server.
    """
    artifact.finalize()
    run._interface.publish_artifact(run, artifact, list(aliases), is_user_created=True, use_after_commit=True)


def log_model(
    run: "wandb.Run",
    file: str | os.PathLike,
    name: str,
    aliases: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    keep: int | None = None,
) -> None:
    """Log a model's file as the newest version of an artifact.

    Args:
        run: whose output it is.
        file: a .nemo or .ckpt file, which nothing may write into afterwards: it is linked to, where that is possible.
        name: of the artifact; it must be a valid one (`artifacts.valid_name`).
        aliases: besides "latest".
        metadata: anything that is JSON.
        keep: of so many versions the files stay here, and that of the last "best" one; by default of all. Those of
            an online run have `SEND_SECONDS` to be sent.

    Raises:
        OSError: the file can't be staged: a full disk, say.
    """
    import wandb

    staged = artifacts.stage(Path(file), name, artifacts.BEST in aliases)
    artifact = wandb.Artifact(name, type=artifacts.MODEL, metadata=dict(metadata or {}))
    # "immutable": W&B makes no copy of its own; it needs none in its cache either.
    artifact.add_file(str(staged), name=f"model{staged.suffix}", policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=[*aliases, artifacts.LATEST])
    if keep is not None:
        artifacts.drop_staged(name, keep, 0 if run.offline else SEND_SECONDS)


def versions(name: str | None = None) -> list[artifacts.Version]:
    """The models that are logged in the project: on the server, or offline those that runs on this machine have noted.

    Args:
        name: of an artifact; by default all.

    Raises:
        InputError: the server can't be asked.
    """
    return _versions_there(project(), name) if configure_wandb() in ONLINE else _versions_here(project(), name)


def fetch(name: str) -> Path:
    """The file of a model that a run has logged: downloaded from W&B, or offline what was staged on this machine.

    A run that is under way notes the model as its input.

    Args:
        name: `NAME:ALIAS` with an alias such as best, latest or v3; `PROJECT/NAME:ALIAS` for one of another project.

    Raises:
        InputError: there is no such artifact (the error lists those that are), it holds no model, or its file can't be
            had.
    """
    path, _, rest = name.rpartition("/")
    collection, _, alias = rest.partition(":")
    alias = alias or artifacts.LATEST
    if not collection or ":" in alias:
        raise InputError(f"wandb:{name}: expected wandb:NAME:ALIAS, such as wandb:jasper_4x1:best")
    is_online = configure_wandb() in ONLINE
    there = path or project()
    try:
        return (_download if is_online else _staged)(there, collection, alias)
    except LookupError as error:
        if is_online and (why := refusal()):
            raise InputError(f"wandb:{name}: {why}") from error
        known = (_versions_there if is_online else _versions_here)(there)
        if any(version.name == collection and version.answers_to(alias) for version in known):
            raise InputError(f"wandb:{name}: can't be had from {server()} ({error})") from error
        where = server() if is_online else f"the runs kept in {os.path.relpath(_folder())}"
        what = artifacts.listed(known) or "none yet"
        raise InputError(f"wandb:{name}: no such model in the project {there} of {where}; there are: {what}") from error


def lineage(runs: Iterable[str]) -> dict[str, tuple[list[str], list[str]]]:
    """What runs of the project took in and what they made: id → (inputs, outputs), artifacts as NAME:vN.

    What W&B's client makes by itself, such as an artifact for each table, is left out.

    Raises:
        InputError: the server can't be asked, or doesn't know a run.
    """
    is_online = configure_wandb() in ONLINE
    found = (_lineage_there if is_online else _lineage_here)(project(), list(runs))

    def given(names: Iterable[str], run: str) -> list[str]:
        return [name for name in names if not name.startswith(f"run-{run}-")]

    return {run: (given(inputs, run), given(outputs, run)) for run, (inputs, outputs) in found.items()}


def _lineage_here(project: str, runs: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    with ThreadPoolExecutor() as pool:
        records = list(pool.map(lambda file: read_records(file)[0], kept_files(_folder())))
    known = artifacts.versions_in(records)
    names = {(one.name, one.digest): str(one) for one in known if one.project == project}
    found: dict[str, tuple[list[str], list[str]]] = {run: ([], []) for run in runs}
    for artifact in (record["artifact"] for of_run in records for record in of_run if record["type"] == "artifact"):
        name = names.get((artifact["name"], artifact["digest"]))
        if name and artifact["run_id"] in found:
            inputs, outputs = found[artifact["run_id"]]
            side = inputs if artifact.get("use_after_commit") else outputs
            side += [name] if name not in side else []
    return found


def _lineage_there(project: str, runs: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    import wandb

    client = api()

    def both(run: str) -> tuple[list[str], list[str]]:
        there = client.run(f"{project}/{run}")
        inputs = [artifact.name for artifact in there.used_artifacts()]
        return inputs, [artifact.name for artifact in there.logged_artifacts() if artifact.name not in inputs]

    try:
        with ThreadPoolExecutor() as pool:
            return dict(zip(runs, pool.map(both, runs), strict=True))
    except (wandb.Error, ValueError) as error:
        raise InputError(f"W&B: {server()} can't be asked for what runs of {project} made ({error})") from error


def _folder() -> Path:
    return Path(os.environ["WANDB_DIR"]) / WANDB_FOLDER


def _versions_here(project: str, name: str | None = None) -> list[artifacts.Version]:
    with ThreadPoolExecutor() as pool:
        runs = pool.map(lambda file: read_records(file)[0], kept_files(_folder()))
        known = artifacts.versions_in(runs)
    project = project.rpartition("/")[2]
    ours = [one for one in known if one.type == artifacts.MODEL and one.project == project]
    return sorted((one for one in ours if name in (None, one.name)), key=_order)


def _order(version: artifacts.Version) -> tuple[str, int]:
    return version.name, version.number


def _versions_there(project: str, name: str | None = None) -> list[artifacts.Version]:
    import wandb

    try:
        client = api()
        names = [found.name for found in client.artifact_collections(project, artifacts.MODEL)]
        wanted = [one for one in names if name in (None, one)]
        found = [one for each in wanted for one in client.artifacts(artifacts.MODEL, f"{project}/{each}")]
    except ValueError:  # W&B's word for a project, or for a type in it, that isn't there yet
        return []
    except wandb.Error as error:
        raise InputError(f"W&B: {server()} can't be asked for the models of {project} ({error})") from error
    return sorted(map(_version, found), key=_order)


def _version(artifact: "wandb.Artifact") -> artifacts.Version:
    name, _, number = artifact.name.partition(":v")
    place = artifact.type, artifact.project, artifact.digest
    return artifacts.Version(name, int(number), *place, sorted(artifact.aliases), dict(artifact.metadata))


def _staged(project: str, name: str, alias: str) -> Path:
    """Raises LookupError where there is no such artifact, as `_download` does."""
    import wandb

    found = next((version for version in _versions_here(project, name) if version.answers_to(alias)), None)
    if found is None:
        raise LookupError
    file = found.model_file()
    if wandb.run and not wandb.run.disabled:
        # What holds the same is the same artifact, once it is sent; without aliases, none of them moves to it.
        again = wandb.Artifact(name, type=artifacts.MODEL)
        for path, (staged, _) in found.files.items():
            again.add_file(str(staged), name=path, policy="immutable", skip_cache=True)
        use(wandb.run, again, aliases=())
    return file


def _download(project: str, name: str, alias: str) -> Path:
    import wandb

    full_name = f"{project}/{name}:{alias}"
    is_running = wandb.run and not wandb.run.offline
    try:
        artifact = wandb.run.use_artifact(full_name) if is_running else api().artifact(full_name)
        folder = Path(artifact.download())
    except (wandb.Error, ValueError) as error:
        raise LookupError(str(error)) from error
    except OSError as error:
        raise InputError(f"{error.filename or _folder()}: can't be written to ({error.strerror})") from error
    return folder / artifacts.only_model(artifact.manifest.entries, full_name)


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
    if why := refusal():
        raise InputError(
            f"W&B: {why}; {len(waiting)} runs wait in {folder}. "
            "`wandb login` keeps a key, WANDB_BASE_URL names the server"
        )
    for variable, place in {"WANDB_SILENT": "true", **_places(folder)}.items():
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


def kept_files(folder: Path) -> list[Path]:
    """The `.wandb` files of the runs in a `wandb` folder, the oldest first."""
    files = (path for path in folder.glob("*run-*/run-*.wandb") if not path.parent.is_symlink())  # latest-run
    return sorted(files, key=lambda path: (path.parent.name.removeprefix("offline-"), path.name))


def read_records(path: Path) -> tuple[list[dict], str | None]:
    """All that a run's `.wandb` file holds, as far as it goes, in the records of `wandb leet inspect --json`.

    Returns:
        the records, and what is corrupt in the file; None where nothing is. A file that ends within a record is not.
    """
    from wandb.util import get_core_path

    # What `wandb leet inspect` starts too, after half a second in which Python imports W&B.
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file"]
    done = subprocess.run(
        [*command, str(path), str(path.parent.parent)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    is_corrupt = "corrupt" in done.stderr or done.returncode
    return records, _last_line(done.stderr) if is_corrupt else None


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


def _has_arrived(run: KeptRun) -> bool:
    """Whether the server has the whole of a run that was online."""
    import wandb

    try:
        there = api().run(run.name)
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
        there = api().run(run.name)
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
                    answered = asked if refusal() is None else answered
                if time.monotonic() - answered > PATIENCE_SECONDS:
                    raise InputError(f"W&B: {refusal()} any more; what was not sent waits in {folder}")
        finally:
            process.terminate()
            process.wait()
        bar.update(sum(run.is_sent for run in runs) - before)
        said.seek(0)
        errors = [line for line in said.read().splitlines() if "ERROR" in line or line.startswith("Error")]
    return _last_line("\n".join(errors)) if errors else None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1].removeprefix("wandb: ").removeprefix("ERROR ")


def _places(wandb_folder: Path) -> dict[str, str]:
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
            found = netrc.netrc(os.path.expanduser(place)).authenticators(urlsplit(server()).netloc)
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
