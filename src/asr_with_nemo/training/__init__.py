"""Training, fine-tuning and augmentation. The names below are those that the notebooks use."""

from asr_with_nemo.training.config import complete_config, fit_to_machine, load_config
from asr_with_nemo.training.run import build_model, read_log, train

__all__ = ["build_model", "complete_config", "fit_to_machine", "load_config", "read_log", "train"]
