"""Weights & Biases, online and offline: runs, artifacts, tables, comparisons. Notebooks use the names below."""

from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name
from asr_with_nemo.tracking.versions import fetch_model, list_versions
from asr_with_nemo.tracking.wandb_internals import drop_deprecated_settings

__all__ = [
    "configure_wandb",
    "describe_mode",
    "drop_deprecated_settings",
    "fetch_model",
    "list_versions",
    "project_name",
]
