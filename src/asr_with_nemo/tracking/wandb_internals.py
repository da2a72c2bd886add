"""Every use of a private name of W&B's client and of Lightning's W&B logger, each in one function.

Read in wandb 0.31 and lightning 2.4; tests/tracking/test_wandb_internals.py checks that each name still exists.
"""

import base64
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import wandb
    from lightning.pytorch.loggers import WandbLogger


def renew_client(server: str, key: str | None) -> None:
    """Let W&B's client read its settings and the key again if they have changed since it read them.

    The client reads the environment and the files of `wandb login` once in a process, and goes by them until
    `wandb.teardown()`. While a run is active nothing is done, because a teardown would end the run.

    Args:
        server: URL of the server that is configured now.
        key: the API key that is configured now, or None.
    """
    import wandb
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    client = wandb_setup._singleton
    if client is None or client._pid != os.getpid() or client._settings is None:  # it will read them anyway
        return
    if wandb.run is not None or client.most_recent_active_run is not None:
        return
    settings = client._settings
    credentials = wbauth.session_credentials(host=settings.base_url)
    is_current = (
        _settings_in(client._settings_environ) == _settings_in(os.environ)
        and settings.mode == os.environ.get("WANDB_MODE", settings.mode)
        and settings.base_url.rstrip("/") == server
        and key == getattr(credentials, "api_key", key)
    )
    if not is_current:
        try:
            wandb.teardown()
        except (SystemExit, OSError):  # the client's service was killed; the next run starts another
            wandb.teardown()  # the rest of it: the key


def _settings_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Select W&B's settings from environment variables, without the one that the client sets to find its service."""
    return {name: value for name, value in environment.items() if name.startswith("WANDB_") and name != "WANDB_SERVICE"}


def default_server() -> str:
    """Return the URL of the server that W&B's client uses if none is configured."""
    from wandb.sdk.lib import urls

    return urls.DEFAULT_BASE_URL


def addresses(server: str) -> list[str]:
    """Return the URLs under which `wandb login` may have stored the key of a server: W&B's own has had two."""
    from wandb.sdk.lib import urls

    return list(dict.fromkeys([server, urls.forge_upstream_url(server)]))


def wandb_api() -> "wandb.Api":
    """Return W&B's public API, with its scratch folders in W&B's cache.

    For each run that it fetches, the API creates a folder ENTITY/PROJECT/ID, by default in the working folder.
    """
    import wandb
    from wandb.apis.public import runs

    runs.env = SimpleNamespace(get_dir=lambda default: os.environ.get("WANDB_CACHE_DIR", default))
    return wandb.Api()


def keep_artifacts() -> None:
    """Write the artifacts of this process's online runs to the run's file, as W&B does for offline runs.

    W&B's client sends an online run's artifacts to the server without a copy in the run's file: if the server goes
    away, the training ends with an error and a later sync misses the artifact. The offline way sends them just as
    soon. `Artifact.wait` doesn't work for them: fetch an artifact by its name instead.
    """
    import wandb

    if hasattr(wandb.Run._log_artifact, "__wrapped__"):
        return
    log_artifact = wandb.Run._log_artifact

    @functools.wraps(log_artifact)
    def log_as_offline(run, *arguments, **options):
        settings = run._settings
        mode = settings.mode
        settings.mode = "offline"
        try:
            return log_artifact(run, *arguments, **options)
        finally:
            settings.mode = mode

    wandb.Run._log_artifact = log_as_offline


def add_reference(artifact: "wandb.Artifact", name: str, uri: str, size: int, md5: bytes) -> None:
    """Add a file to an artifact by reference, as `artifact.add_reference` does, with a digest that is known already.

    Args:
        artifact: not yet logged.
        name: of the file in the artifact.
        uri: of the file.
        size: of the file, in bytes.
        md5: its digest, 16 bytes.
    """
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

    digest = base64.b64encode(md5).decode()
    artifact.manifest.add_entry(ArtifactManifestEntry(path=name, ref=uri, size=size, digest=digest))


def log_input(run: "wandb.Run", artifact: "wandb.Artifact", aliases: Sequence[str] = ("latest",)) -> None:
    """Record an artifact as an input of a run, and log it if W&B doesn't have it yet.

    `run.use_artifact` does so too, but not offline, and it waits for the server.
    """
    artifact.finalize()
    run._interface.publish_artifact(run, artifact, list(aliases), is_user_created=True, use_after_commit=True)


def drop_deprecated_settings(logger: "WandbLogger") -> "WandbLogger":
    """Remove the settings that Lightning passes to `wandb.init` and that W&B warns about; return the same logger."""
    logger._wandb_init.pop("anonymous", None)
    return logger


def data_folder() -> Path:
    """Return the folder where W&B stages files: `WANDB_DATA_DIR`, or one in the home folder."""
    from wandb import env

    return Path(env.get_data_dir())


def inspect_command(file: Path) -> list[str]:
    """Return the command that prints all records of a `.wandb` file as JSON lines.

    It is what `wandb leet inspect` starts, without the half second that importing W&B takes.
    """
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file"]
    return [*command, str(file), str(file.parent.parent)]
