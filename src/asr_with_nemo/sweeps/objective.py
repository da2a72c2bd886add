"""Training as what a sweep optimises: a trial's values are put into a training config."""

import difflib
import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf, open_dict

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.space import Config, Sweep
from asr_with_nemo.sweeps.store import TakenOver
from asr_with_nemo.sweeps.trials import ReportMetrics, numbers, run_name
from asr_with_nemo.training.config import all_keys, complete_config, load_config, overridden_keys
from asr_with_nemo.training.run import read_log, train

ALIASES = {
    "lr": "model.optim.lr",
    "epoch": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "dropout": "model.encoder.jasper.-1.dropout",
}
"""The article's short names, and the keys of the config that they stand for; -1 is the last block."""


class Training:
    """An objective: train as a config says, with a trial's values in it.

    Any dotted key of the config can be a parameter, and so can the `ALIASES`. A trial has a folder of its own, so that
    two of the same config don't meet, and one that was killed goes on from its checkpoint; once it has ended, the log
    and the model are kept, the checkpoints not. It takes one GPU: where there are several, as many workers use them
    better.
    """

    def __init__(self, sweep: Sweep, config_path: str, config_name: str, overrides: Sequence[str] = ()):
        """Read the config and check the sweep and the data against it.

        Raises:
            InputError: a parameter is no key of the config, or training couldn't start.
        """
        self._config = load_config(config_path, config_name, overrides)
        self._overridden = overridden_keys(overrides) | {"trainer.devices"}
        self._sweep = sweep
        config_file = Path(config_path) / f"{config_name.removesuffix('.yaml')}.yaml"
        self._keys = {parameter.name: self._key(parameter.name, config_file) for parameter in sweep.parameters}
        for one, other in itertools.combinations(self._keys, 2):
            if self._keys[one] == self._keys[other]:
                raise InputError(f"{sweep.file}: parameters: {one} and {other} are both {self._keys[one]}")
        complete_config(self._config)

    def _key(self, name: str, config_file: Path) -> str:
        absent = object()
        key = name
        if name in ALIASES and name not in self._config:
            key = ALIASES[name]
            blocks = OmegaConf.select(self._config, "model.encoder.jasper", default=())
            key = key.replace(".-1.", f".{len(blocks) - 1}.")
        if key in ("seed", "final") or OmegaConf.select(self._config, key, default=absent) is not absent:
            return key
        near = difflib.get_close_matches(name, [*all_keys(self._config), *ALIASES], n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(
            f"{self._sweep.file}: parameters.{name}: {config_file} has no key {key!r}; {hint}expected a dotted key of "
            f"it, or one of {', '.join(ALIASES)}"
        )

    def config(self, trial: Config, folder: Path | None = None) -> DictConfig:
        """The whole training config of a trial.

        Args:
            trial: its parameters.
            folder: where it is trained; by default, where the config says.
        """
        config = self._config.copy()
        with open_dict(config):
            for name, value in self._sweep.values(trial).items():
                OmegaConf.update(config, self._keys[name], value)
            if folder:
                config.setdefault("exp_manager", {}).exp_dir = str(folder)
        return config

    def __call__(self, config: Config, report: ReportMetrics) -> None:
        """Train once.

        Raises:
            InputError: the config of this trial can't be trained.
        """
        full = self.config(config, report.folder)
        with open_dict(full):
            asked = full.exp_manager.get("wandb_logger_kwargs") or {}
            ours = {
                "project": self._sweep.config.get("project") or asked.get("project"),
                "group": report.group,
                "name": run_name(self._sweep, report),
            }
            if "exp_manager.wandb_logger_kwargs.log_model" not in self._overridden:
                ours["log_model"] = False  # the checkpoints of each trial would soon fill a disk
            full.exp_manager.wandb_logger_kwargs = {**asked, **ours}
            full.trainer.devices = 1  # Lightning would start this very command once more for each further GPU
        overridden = self._overridden | set(self._keys.values())
        try:
            model = train(full, overridden, [_Reporter(report, self._sweep.values(config))])
        except optuna.TrialPruned:
            _drop_checkpoints(report.folder)
            raise
        finally:
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish()  # of a training that was stopped
        _drop_checkpoints(report.folder)
        if not report.last:  # it had ended, but its worker was killed before it could say so
            for row in read_log(model.parent):
                report({key: value for key, value in row.items() if key.startswith("val_")}, int(row["epoch"]))


def _drop_checkpoints(folder: Path) -> None:
    for checkpoints in folder.glob("*/checkpoints"):
        shutil.rmtree(checkpoints)


class _Reporter(pl.Callback):
    """Reports after each validation, and ends a training that is to stop early.

    It ends at the next batch, so that the epoch is whole: logged, and kept as a checkpoint from which the same training
    can go on. A training that goes on after a kill reports the epochs before it once more: the state of a callback is
    part of a checkpoint.
    """

    def __init__(self, report: ReportMetrics, values: dict[str, Any]):
        self.report = report
        self.values = values
        self.history: list[tuple[dict[str, float], int]] = []
        self.end: Exception | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.config.update(self.values, allow_val_change=True)
        for metrics, step in self.history:
            self._report(metrics, step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            # Those of the training set are an epoch old here.
            known = numbers(trainer.callback_metrics).items()
            metrics = {name: value for name, value in known if name.startswith("val_") or name == self.report.metric}
            self.history.append((metrics, trainer.global_step))
            self._report(metrics, trainer.global_step)

    def on_train_batch_start(self, trainer: pl.Trainer, *_) -> None:
        if self.end:
            raise self.end
        if len(self.history) > 1 and self.report.metric and self.report.metric not in self.report.last:
            trainer.should_stop = True  # what it logs is known by now; the sweep says what it lacks

    def _report(self, metrics: dict[str, float], step: int) -> None:
        try:
            self.report(metrics, step)
        except (optuna.TrialPruned, TakenOver) as error:
            self.end = error

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict) -> None:
        self.history = [(metrics, step) for metrics, step in state_dict["history"]]
