"""All that relies on private names of the W&B client. Read in wandb 0.31; a test checks that each still exists."""

import base64
import functools
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from asr_with_nemo.tracking import artifacts

if TYPE_CHECKING:
    import wandb


def wandb_api() -> "wandb.Api":
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


def log_input(run: "wandb.Run", artifact: "wandb.Artifact", aliases: Sequence[str] = (artifacts.LATEST,)) -> None:
    """Note an artifact as an input of a run, and log it where W&B does not have it yet.

    `run.use_artifact` does so with a new artifact too, but neither offline nor without waiting for the server.
    """
    artifact.finalize()
    run._interface.publish_artifact(run, artifact, list(aliases), is_user_created=True, use_after_commit=True)
