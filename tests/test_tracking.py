"""Where W&B's records go is decided without a prompt."""

from pathlib import Path

import pytest

from asr_with_nemo import tracking
from asr_with_nemo.errors import InputError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no mode, and W&B's folders below `tmp_path`; all set back afterwards."""
    monkeypatch.setattr(tracking, "_chosen", None)
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_PROJECT", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")  # so that monkeypatch knows to set it back
        monkeypatch.delenv(name)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_without_a_key_offline_and_with_one_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert tracking.configure_wandb(tmp_path) == "offline"
    assert "no API key" in tracking.describe_mode("offline")
    # A key that comes later, in the same kernel, counts.
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert tracking.configure_wandb(tmp_path) == "online"


def test_a_key_kept_by_wandb_login_is_found(tmp_path: Path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password " + "0" * 40 + "\n")
    (tmp_path / "netrc").chmod(0o600)
    assert tracking.has_key()


def test_what_the_environment_says_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert tracking.configure_wandb(tmp_path) == "offline"
    assert "as WANDB_MODE says" in tracking.describe_mode("offline")
    assert tracking.project("configured") == "mine"


def test_the_project_of_the_config_and_the_courses_own():
    assert tracking.project("configured") == "configured"
    assert tracking.project() == "ASR"


def test_a_mode_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match="WANDB_MODE=onlin: expected one of online, offline"):
        tracking.configure_wandb(tmp_path)
