"""Versions of model artifacts: log, list and download them, and trace the inputs and outputs of runs."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_with_nemo.base.files import place_of, reason_of
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

_SEND_SECONDS = 120
"""How long a model's staged file of an online run is kept at least, so that it can be sent."""


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
        run: the run that produced it.
        file: a .nemo or .ckpt file. It must not be overwritten afterwards, since it is hard-linked where possible.
        name: of the artifact, valid for W&B (`artifacts.valid_name`).
        aliases: in addition to "latest".
        metadata: JSON values.
        keep: how many versions keep their files on this machine, in addition to the last "best" one; by default all.
            Files of an online run stay for 120 s at least, to be sent.

    Raises:
        OSError: the file can't be staged, for example because the disk is full.
    """
    import wandb

    staged = artifacts.stage(Path(file), name, artifacts.BEST in aliases)
    artifact = wandb.Artifact(name, type=artifacts.MODEL, metadata=dict(metadata or {}))
    # "immutable": W&B makes no copy of its own; it needs none in its cache either.
    artifact.add_file(str(staged), name=f"model{staged.suffix}", policy="immutable", skip_cache=True)
    run.log_artifact(artifact, aliases=[*aliases, artifacts.LATEST])
    if keep is not None:
        artifacts.drop_staged(name, keep, 0 if run.offline else _SEND_SECONDS)


def list_versions(name: str | None = None) -> list[artifacts.Version]:
    """Return the model versions of the project: from the server, or offline from the runs on this machine.

    Args:
        name: of an artifact; by default all.

    Raises:
        InputError: the request to the server failed.
    """
    return (
        _versions_there(project_name(), name) if configure_wandb() in ONLINE else _versions_here(project_name(), name)
    )


def fetch_model(name: str) -> Path:
    """Return the file of a logged model: downloaded from W&B, or offline the one staged on this machine.

    The current run, if any, records the model as its input.

    Args:
        name: `NAME:ALIAS` with an alias such as best, latest or v3; `PROJECT/NAME:ALIAS` for another project.

    Raises:
        InputError: the artifact is unknown (the error lists the available ones), holds no model, or its file isn't
            available.
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
            raise InputError(f"wandb:{name}: the download from {server_url()} failed ({error}); try again") from error
        where = server_url() if is_online else f"the runs kept in {os.path.relpath(wandb_folder())}"
        what = artifacts.listed(known) or "none yet"
        raise InputError(f"wandb:{name}: no such model in the project {there} of {where}; there are: {what}") from error


def lineage(runs: Iterable[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Return the lineage of runs: run id → (inputs, outputs), artifacts as NAME:vN.

    Artifacts that W&B's client creates by itself, such as one for each table, are left out.

    Raises:
        InputError: the request to the server failed, or a run is unknown.
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
        raise InputError(
            f"W&B: the lineage of runs of {project} can't be read from {server_url()} ({error}); try again"
        ) from error


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
    except ValueError:  # the project, or a type in it, doesn't exist yet
        return []
    except wandb.Error as error:
        raise InputError(
            f"W&B: the models of {project} can't be listed from {server_url()} ({error}); try again"
        ) from error
    return sorted(map(_version, found), key=_order)


def _version(artifact: "wandb.Artifact") -> artifacts.Version:
    name, _, number = artifact.name.partition(":v")
    place = artifact.type, artifact.project, artifact.digest
    return artifacts.Version(name, int(number), *place, sorted(artifact.aliases), dict(artifact.metadata))


def _staged(project: str, name: str, alias: str) -> Path:
    """Return the staged file; raise LookupError for an unknown artifact, as `_download` does."""
    import wandb

    found = next((version for version in _versions_here(project, name) if version.answers_to(alias)), None)
    if found is None:
        raise LookupError
    file = found.model_file()
    if wandb.run and not wandb.run.disabled:
        # Equal content is the same artifact once it is sent; without aliases given, none moves to it.
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
        raise InputError(f"{place_of(error, wandb_folder())}: can't be written ({reason_of(error)})") from error
    return folder / artifacts.only_model(artifact.manifest.entries, full_name)
