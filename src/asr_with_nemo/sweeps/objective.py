"""Training as a sweep's objective: a trial's values are set in a training config."""

import contextlib
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

from asr_with_nemo.base.values import is_number
from asr_with_nemo.errors import Diverged, InputError
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
"""The article's short names → keys of the config; -1 is the last block."""


class Training:
    """An objective that trains a model by a config, with a trial's values set in it.

    Any dotted key of the config can be a parameter, and so can the `ALIASES`. Each trial has its own folder, so that
    trials of equal config don't collide, and a killed trial resumes from its checkpoint. When a trial has ended, its
    checkpoints are deleted; the log and the model are kept. A trial uses one GPU: on a machine with several, run as
    many workers.
    """

    def __init__(self, sweep: Sweep, config_path: str, config_name: str, overrides: Sequence[str] = ()):
        """Read the config and check the sweep and the data against it.

        Raises:
            InputError: a parameter isn't a key of the config, or training can't start.
        """
        self._config = load_config(config_path, config_name, overrides)
        self._overridden = overridden_keys(overrides) | {"trainer.devices"}
        self._sweep = sweep
        config_file = Path(config_path) / f"{config_name.removesuffix('.yaml')}.yaml"
        self._keys = {parameter.name: self._key(parameter.name, config_file) for parameter in sweep.parameters}
        for one, other in itertools.combinations(self._keys, 2):
            if self._keys[one] == self._keys[other]:
                raise InputError(
                    f"{sweep.file}: parameters: {one} and {other} both set {self._keys[one]}; remove one of them"
                )
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
            f"{self._sweep.file}: parameters.{name}: {config_file} has no key {key!r}; {hint}expected one of its "
            f"dotted keys, or one of {', '.join(ALIASES)}"
        )

    def config(self, trial: Config, folder: Path | None = None) -> DictConfig:
        """Return the complete training config of a trial.

        Args:
            trial: its parameters.
            folder: the output folder; by default the config's `exp_manager.exp_dir`.
        """
        config = self._config.copy()
        with open_dict(config):
            for name, value in self._sweep.values(trial).items():
                key = self._keys[name]
                OmegaConf.update(config, key, self._unquoted(name, value, OmegaConf.select(config, key)))
            if folder:
                config.setdefault("exp_manager", {}).exp_dir = str(folder)
        return config

    def _unquoted(self, name: str, value: object, current: object) -> object:
        """Return a number for one in quotes where the config has a number: W&B's agent passes it without the quotes.

        Raises:
            InputError: the text is none.
        """
        if not isinstance(value, str) or not is_number(current):
            return value
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(value)
        raise InputError(f"{self._sweep.file}: parameters.{name}: {value!r} isn't a number, and {current!r} is one")

    def __call__(self, config: Config, report: ReportMetrics) -> None:
        """Train a model. One that diverges after it has reported the metric has ended: its best value so far counts.

        Raises:
            InputError: this trial's config can't be trained.
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
                ours["log_model"] = False  # checkpoints of all trials would fill the disk
            full.exp_manager.wandb_logger_kwargs = {**asked, **ours}
            full.trainer.devices = 1  # with more, Lightning would start this command again for each GPU
        overridden = self._overridden | set(self._keys.values())
        try:
            model = train(full, overridden, [_Reporter(report, self._sweep.values(config))])
        except optuna.TrialPruned:
            _drop_checkpoints(report.folder)
            raise
        except Diverged as error:
            _drop_checkpoints(report.folder)
            if report.metric not in report.last:
                raise
            return print(f"{error}\nThe trial ends here, and counts with its best {report.metric} so far")
        finally:
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish()  # if training was stopped early
        _drop_checkpoints(report.folder)
        if not report.last:  # training had ended, but the worker was killed before it reported
            for row in read_log(model.parent):
                report({key: value for key, value in row.items() if key.startswith("val_")}, int(row["epoch"]))


def _drop_checkpoints(folder: Path) -> None:
    for checkpoints in folder.glob("*/checkpoints"):
        shutil.rmtree(checkpoints)


class _Reporter(pl.Callback):
    """Report after each validation, and stop training early if the sweep decides so.

    Training stops at the next batch, so that the epoch is complete: logged, and saved as a checkpoint from which it can
    resume. Resumed after a kill, it reports the earlier epochs again: the checkpoint has this callback's state.
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
            # Metrics of the training set are those of the epoch before.
            known = numbers(trainer.callback_metrics).items()
            metrics = {name: value for name, value in known if name.startswith("val_") or name == self.report.metric}
            self.history.append((metrics, trainer.global_step))
            self._report(metrics, trainer.global_step)

    def on_train_batch_start(self, trainer: pl.Trainer, *_) -> None:
        if self.end:
            raise self.end
        if len(self.history) > 1 and self.report.metric and self.report.metric not in self.report.last:
            trainer.should_stop = True  # two validations without the metric: the sweep reports it as missing

    def _report(self, metrics: dict[str, float], step: int) -> None:
        try:
            self.report(metrics, step)
        except (optuna.TrialPruned, TakenOver) as error:
            self.end = error

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict) -> None:
        self.history = [(metrics, step) for metrics, step in state_dict["history"]]
