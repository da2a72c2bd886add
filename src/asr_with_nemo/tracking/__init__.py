"""Weights & Biases, online and offline: runs, artifacts, tables, comparisons. These names are what a notebook needs."""

from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name
from asr_with_nemo.tracking.versions import fetch_model, list_versions

__all__ = ["configure_wandb", "describe_mode", "fetch_model", "list_versions", "project_name"]
