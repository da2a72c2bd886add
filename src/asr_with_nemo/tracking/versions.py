"""Versions of model artifacts: log them, list them, download them, and trace what each run read and wrote."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.kept_runs import kept_files, read_records
from asr_with_nemo.tracking.session import (
    ONLINE,
    configure_wandb,
    project_name,
    server_refusal,
    server_url,
    wandb_folder,
)
from asr_with_nemo.tracking.wandb_internals import log_input, wandb_api

if TYPE_CHECKING:
    import wandb

SEND_SECONDS = 120
"""How long the file of a model waits to be sent before it makes place for others."""


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


def list_versions(name: str | None = None) -> list[artifacts.Version]:
    """The models that are logged in the project: on the server, or offline those that runs on this machine have noted.

    Args:
        name: of an artifact; by default all.

    Raises:
        InputError: the server can't be asked.
    """
    return (
        _versions_there(project_name(), name) if configure_wandb() in ONLINE else _versions_here(project_name(), name)
    )


def fetch_model(name: str) -> Path:
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
    there = path or project_name()
    try:
        return (_download if is_online else _staged)(there, collection, alias)
    except LookupError as error:
        if is_online and (why := server_refusal()):
            raise InputError(f"wandb:{name}: {why}") from error
        known = (_versions_there if is_online else _versions_here)(there)
        if any(version.name == collection and version.answers_to(alias) for version in known):
            raise InputError(f"wandb:{name}: can't be had from {server_url()} ({error})") from error
        where = server_url() if is_online else f"the runs kept in {os.path.relpath(wandb_folder())}"
        what = artifacts.listed(known) or "none yet"
        raise InputError(f"wandb:{name}: no such model in the project {there} of {where}; there are: {what}") from error


def lineage(runs: Iterable[str]) -> dict[str, tuple[list[str], list[str]]]:
    """What runs of the project took in and what they made: id → (inputs, outputs), artifacts as NAME:vN.

    What W&B's client makes by itself, such as an artifact for each table, is left out.

    Raises:
        InputError: the server can't be asked, or doesn't know a run.
    """
    is_online = configure_wandb() in ONLINE
    found = (_lineage_there if is_online else _lineage_here)(project_name(), list(runs))

    def given(names: Iterable[str], run: str) -> list[str]:
        return [name for name in names if not name.startswith(f"run-{run}-")]

    return {run: (given(inputs, run), given(outputs, run)) for run, (inputs, outputs) in found.items()}


def _lineage_here(project: str, runs: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    with ThreadPoolExecutor() as pool:
        records = list(pool.map(lambda file: read_records(file)[0], kept_files(wandb_folder())))
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

    client = wandb_api()

    def both(run: str) -> tuple[list[str], list[str]]:
        there = client.run(f"{project}/{run}")
        inputs = [artifact.name for artifact in there.used_artifacts()]
        return inputs, [artifact.name for artifact in there.logged_artifacts() if artifact.name not in inputs]

    try:
        with ThreadPoolExecutor() as pool:
            return dict(zip(runs, pool.map(both, runs), strict=True))
    except (wandb.Error, ValueError) as error:
        raise InputError(f"W&B: {server_url()} can't be asked for what runs of {project} made ({error})") from error


def _versions_here(project: str, name: str | None = None) -> list[artifacts.Version]:
    with ThreadPoolExecutor() as pool:
        runs = pool.map(lambda file: read_records(file)[0], kept_files(wandb_folder()))
        known = artifacts.versions_in(runs)
    project = project.rpartition("/")[2]
    ours = [one for one in known if one.type == artifacts.MODEL and one.project == project]
    return sorted((one for one in ours if name in (None, one.name)), key=_order)


def _order(version: artifacts.Version) -> tuple[str, int]:
    return version.name, version.number


def _versions_there(project: str, name: str | None = None) -> list[artifacts.Version]:
    import wandb

    try:
        client = wandb_api()
        names = [found.name for found in client.artifact_collections(project, artifacts.MODEL)]
        wanted = [one for one in names if name in (None, one)]
        found = [one for each in wanted for one in client.artifacts(artifacts.MODEL, f"{project}/{each}")]
    except ValueError:  # W&B's word for a project, or for a type in it, that isn't there yet
        return []
    except wandb.Error as error:
        raise InputError(f"W&B: {server_url()} can't be asked for the models of {project} ({error})") from error
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
        log_input(wandb.run, again, aliases=())
    return file


def _download(project: str, name: str, alias: str) -> Path:
    import wandb

    full_name = f"{project}/{name}:{alias}"
    is_running = wandb.run and not wandb.run.offline
    try:
        artifact = wandb.run.use_artifact(full_name) if is_running else wandb_api().artifact(full_name)
        folder = Path(artifact.download())
    except (wandb.Error, ValueError) as error:
        raise LookupError(str(error)) from error
    except OSError as error:
        raise InputError(f"{error.filename or wandb_folder()}: can't be written to ({error.strerror})") from error
    return folder / artifacts.only_model(artifact.manifest.entries, full_name)
