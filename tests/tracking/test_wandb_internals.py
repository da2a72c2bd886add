"""The private names of W&B's client and of Lightning that the package uses still exist in the installed versions."""

import hashlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from asr_with_nemo.tracking.wandb_internals import add_reference, drop_deprecated_settings, inspect_command


def test_the_public_api_asks_its_env_module_for_a_folder():
    from wandb.apis.public import runs

    assert hasattr(runs, "env"), "wandb.apis.public.runs.env"
    assert "env.get_dir(" in inspect.getsource(runs), "wandb.apis.public.runs: env.get_dir"


def test_a_run_decides_by_its_settings_how_an_artifact_is_logged():
    assert callable(getattr(wandb.Run, "_log_artifact", None)), "wandb.Run._log_artifact"
    assert "_settings" in wandb.Run.__annotations__, "wandb.Run._settings"
    assert "mode" in wandb.Settings.model_fields, "wandb.Settings.mode"


def test_the_client_remembers_its_settings_and_its_key():
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    wandb.setup(wandb.Settings(mode="offline"))
    try:
        client = wandb_setup._singleton
        assert client._pid == os.getpid(), "_WandbSetup._pid"
        assert client._settings.mode == "offline" and client._settings.base_url, "_WandbSetup._settings"
        assert client._settings_environ["PATH"] == os.environ["PATH"], "_WandbSetup._settings_environ"
        assert client.most_recent_active_run is None, "_WandbSetup.most_recent_active_run"
        assert wbauth.session_credentials(host=client._settings.base_url) is None, "wbauth.session_credentials"
        assert "api_key" in dir(wbauth.AuthApiKey), "wbauth.AuthApiKey.api_key"
    finally:
        wandb.teardown()
    assert wandb_setup._singleton is None, "wandb_setup._singleton"


def test_a_run_hands_artifacts_to_its_interface():
    from wandb.sdk.interface.interface import InterfaceBase

    assert "_interface" in wandb.Run.__annotations__, "wandb.Run._interface"
    parameters = inspect.signature(InterfaceBase.publish_artifact).parameters
    for name in ("run", "artifact", "aliases", "is_user_created", "use_after_commit"):
        assert name in parameters, f"InterfaceBase.publish_artifact({name})"


def test_a_reference_with_a_known_digest_is_the_one_that_wandb_makes(tmp_path: Path):
    file = tmp_path / "sound.wav"
    file.write_bytes(b"any sound")
    theirs, ours = (wandb.Artifact("corpus", type="dataset") for _ in range(2))
    theirs.add_reference(file.as_uri(), name="sound.wav")
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()
    add_reference(ours, "sound.wav", file.as_uri(), file.stat().st_size, md5)
    assert ours.digest == theirs.digest
    assert ours.manifest.to_manifest_json() == theirs.manifest.to_manifest_json()


def test_the_folder_of_staged_files_and_the_core_program():
    from wandb import env, util

    assert callable(getattr(env, "get_data_dir", None)), "wandb.env.get_data_dir"
    assert callable(getattr(util, "get_core_path", None)), "wandb.util.get_core_path"


def test_the_core_program_reads_run_files(tmp_path: Path):
    file = tmp_path / "wandb" / "offline-run-1" / "run-1.wandb"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    done = subprocess.run(inspect_command(file), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "")


def test_lightning_passes_a_deprecated_setting_to_wandb():
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(project="any", save_dir=".")
    assert "anonymous" in getattr(logger, "_wandb_init", ()), "WandbLogger._wandb_init"
    assert drop_deprecated_settings(logger) is logger
    assert "anonymous" not in logger._wandb_init


@pytest.mark.parametrize("heavy", ["torch", "lightning", "wandb", "matplotlib", "pandas"])
def test_the_package_is_light_to_import(heavy: str, loaded: set[str]):
    assert heavy not in loaded


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that `import asr_with_nemo.tracking` loads."""
    program = "import sys, asr_with_nemo.tracking; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
