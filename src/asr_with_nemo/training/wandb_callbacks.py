"""Log a training to W&B: config, corpus, predictions, checkpoints and the final model, next to the metrics.

The corpus is an input artifact of the run. Every few epochs a table has the hypotheses for a few dev utterances. The
checkpoints are versions of an artifact. Nothing here changes the trained weights, and a full disk ends no training.
"""

import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf

from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.training_data import TrainingData
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.recognizer import greedy_texts
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.corpus_artifacts import manifests_artifact, shards_artifact
from asr_with_nemo.tracking.versions import fetch_model, list_versions, log_model
from asr_with_nemo.tracking.wandb_internals import log_input
from asr_with_nemo.training import shards
from asr_with_nemo.training.config import DATASETS, logger_settings, tracking_settings

if TYPE_CHECKING:
    import wandb

_METRICS = ("val_wer", "val_loss", "train_loss_epoch")
"""Metrics of an epoch in the metadata of its checkpoint."""


# --- During the training ----------------------------------------------------------------------------------------------


class RunLogger(WandbLogger):
    """W&B's logger for a run whose whole config `start` logs: the model's part is not logged again."""

    def log_hyperparams(self, params: object) -> None:
        """Do nothing."""


def wandb_run(trainer: pl.Trainer) -> "wandb.Run | None":
    """Return the W&B run of a training; None if there is none, and in all processes but the first."""
    loggers = _wandb_loggers(trainer)
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def _wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def start(run: "wandb.Run", config: DictConfig) -> None:
    """Log the config of a training to its run, and the model or checkpoint that it starts from as an input."""
    run.config.update(OmegaConf.to_container(config, resolve=True), allow_val_change=True)
    others = (
        (config.get("exp_manager") or {}).get("resume_from_checkpoint"),
        (config.get("finetuning") or {}).get("model"),
    )
    for name in others:
        if name and name.startswith(artifacts.PREFIX):
            fetch_model(name.removeprefix(artifacts.PREFIX))


def callbacks(
    config: DictConfig, training: str, metadata: dict[str, object], data: TrainingData
) -> dict[str, pl.Callback]:
    """Return the callbacks for the W&B settings of a config, by name.

    Args:
        config: a complete training config.
        training: the name of the training, and of the artifact with its checkpoints unless the config names another.
        metadata: of each version of that artifact.
        data: the manifests of the training.

    Raises:
        InputError: a manifest can't be used.
    """
    manifests = [config.model[name].manifest_filepath for name in DATASETS[:2]]
    make = partial(manifests_artifact, manifests, data)
    if place := shards.place_of(config):
        make = partial(shards_artifact, data.shards(place), manifests[1])
    found: dict[str, pl.Callback] = {"corpus": CorpusArtifact(make)}
    settings = tracking_settings(config)
    if settings["predictions_every"] and settings["prediction_rows"]:
        utterances = data.sample(manifests[1], settings["prediction_rows"])
        found["predictions"] = PredictionTable(settings["predictions_every"], utterances)
    asked = logger_settings(config)
    if asked.get("log_model") == "all":
        name = artifacts.valid_name(asked.get("checkpoint_name") or training)
        found["artifacts"] = CheckpointArtifacts(name, settings["keep_checkpoints"], metadata)
    return found


class CorpusArtifact(pl.Callback):
    """Log the manifests or shards of a training and the digests of their files as an input of its run.

    Training does not wait for it: a thread that starts after the first step makes the artifact. It is logged after the
    first step for which it is ready, or else by `finish`.

    Args:
        make: makes the artifact; called with a function that returns True when it is no longer needed.
    """

    def __init__(self, make: Callable[[Callable[[], bool]], "wandb.Artifact"]):
        self._make_artifact = make
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._artifact: wandb.Artifact | None = None
        self._error: Exception | None = None
        self._is_done = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        if self._is_done:
            return
        run = wandb_run(trainer)
        if run is None:
            self._is_done = True
        elif self._thread is None:
            self._start()
        elif not self._thread.is_alive():
            self._log(run)

    def finish(self, run: "wandb.Run") -> None:
        """Log the artifact if it has not been logged yet."""
        if self._is_done:
            return
        if self._thread is None:
            self._start()
        self._thread.join()
        self._log(run)

    def cancel(self) -> None:
        """End the thread, when a training ends early."""
        self._is_done = True
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._make, name="corpus artifact", daemon=True)
        self._thread.start()

    def _make(self) -> None:
        try:
            self._artifact = self._make_artifact(self._stopped.is_set)
        except Exception as error:  # of any type; `_log` reports it
            self._error = error

    def _log(self, run: "wandb.Run") -> None:
        self._is_done = True
        try:
            if self._error:
                raise self._error
            log_input(run, self._artifact)
        except Exception as error:  # no training ends for its lineage
            print(_not_kept("the corpus", error), flush=True)
        self._artifact = self._error = None  # of a large corpus, hundreds of MB


class CheckpointArtifacts(Checkpoint):
    """Log the checkpoints as versions of a W&B artifact: the newest is `latest`, that of the best epoch `best`.

    Each validated epoch is one version, with its metrics. Lightning's own `log_model="all"` logs an epoch that is both
    the best and the last one twice, copies each checkpoint, and keeps all copies. This class is a `Checkpoint` because
    Lightning calls those last, in their order: so the epoch's checkpoint has been written when it is called.

    Args:
        name: of the artifact.
        keep: the number of versions whose files stay on this machine, in addition to the best.
        metadata: of every version.
    """

    def __init__(self, name: str, keep: int, metadata: dict[str, object]):
        self.name = name
        self.keep = keep
        self.metadata = metadata
        self._best = ""
        self._lacks_space = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._best = trainer.checkpoint_callback.best_model_path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        run = wandb_run(trainer)
        saved, epoch = trainer.checkpoint_callback, trainer.current_epoch + 1
        is_best = bool(saved.monitor) and saved.best_model_path != self._best
        is_validated = epoch % (trainer.check_val_every_n_epoch or 1) == 0
        if run is None or not (is_best or is_validated or epoch == trainer.max_epochs):
            return
        self._best = saved.best_model_path
        metrics = {name: float(trainer.callback_metrics[name]) for name in _METRICS if name in trainer.callback_metrics}
        # The best checkpoint is a hard link while it is the best, so that it takes no extra space.
        file = saved.best_model_path if is_best else saved.last_model_path
        aliases = [artifacts.BEST] if is_best else []
        try:
            log_model(run, file, self.name, aliases, self.metadata | {"epoch": epoch} | metrics, self.keep)
        except OSError as error:
            if not self._lacks_space:
                print(_not_kept(f"the checkpoint of epoch {epoch}", error), flush=True)
            self._lacks_space = True

    def close(self) -> None:
        """Remove staged files after the run has ended and sent what it could."""
        artifacts.drop_staged(self.name, self.keep)


class PredictionTable(pl.Callback):
    """Log a W&B table with the hypotheses for a few dev utterances, and audio players, every few epochs.

    Args:
        every: epochs from one table to the next, from the first validated epoch on; the last epoch has one too.
        utterances: of the dev set.
    """

    def __init__(self, every: int, utterances: list[manifest.Utterance]):
        self.every = every
        self.utterances = utterances
        self._next = 1  # epoch
        self._lacks_space = False

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        is_due = epoch >= self._next or epoch == trainer.max_epochs
        loggers = _wandb_loggers(trainer)
        if trainer.sanity_checking or not is_due or not self.utterances or not loggers:
            return
        self._next = epoch + self.every
        from asr_with_nemo.tracking import explore

        # All processes transcribe, though one logs: NeMo's encoder waits for the other processes in each batch.
        with isolate_rng():  # keeps the training's random numbers as they would be without the table
            rows = self._transcribe(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        try:
            table = explore.wandb_table(rows, progress=False)
            for logger in loggers:
                logger.log_metrics({"predictions": table}, trainer.global_step)
        except OSError as error:
            if not self._lacks_space:
                print(_not_kept(f"the table of epoch {epoch}", error), flush=True)
            self._lacks_space = True

    def _transcribe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[dict[str, object]]:
        """Return rows for `wandb_table` with the hypotheses of the model as it is validated."""
        from nemo.collections.asr.metrics.wer import word_error_rate

        rate = pl_module.cfg.sample_rate
        signals = [
            torch.from_numpy(audio.load_audio(utterance["audio_filepath"], rate)) for utterance in self.utterances
        ]
        batch = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True).to(pl_module.device)  # (B, t)
        lengths = torch.tensor([len(signal) for signal in signals], device=pl_module.device)
        with trainer.precision_plugin.val_step_context():
            texts = greedy_texts(pl_module, batch, lengths)
        rows = []
        for utterance, text in zip(self.utterances, texts, strict=True):
            reference, path = utterance["text"], Path(utterance["audio_filepath"])
            wer = round(word_error_rate([text], [reference]), 4) if reference.split() else None
            rows.append({"File": path.name, "Audio": path, "Reference": reference, "Hypothesis": text, "WER": wer})
        return rows


def log_final(run: "wandb.Run", path: Path, summary: dict[str, object], metadata: dict[str, object], mode: str) -> None:
    """Log the model of a finished training as an artifact with the config's name.

    It gets the alias `best` if no other version of that artifact is better on the same dev set.

    Args:
        run: of the training.
        path: the .nemo file.
        summary: of the training, as in its folder.
        metadata: of the training's models.
        mode: whether lower ("min") or higher ("max") values of the monitored metric are better.
    """
    name, monitor, score = artifacts.valid_name(path.stem), summary["monitor"], summary["best"]
    metadata = metadata | {"epoch": summary["best_epoch"]} | ({} if score is None else {monitor: score})
    aliases = ["final"]
    try:
        rivals = [one.metadata for one in list_versions(name) if one.metadata.get("dev") == metadata["dev"]]
        sign = -1 if mode == "max" else 1
        if score is not None and all(sign * score <= sign * other.get(monitor, sign * math.inf) for other in rivals):
            aliases.append(artifacts.BEST)
    except InputError:  # the server can't be reached, so it is unknown which version is best
        pass
    try:
        log_model(run, path, name, aliases, metadata)
        print(f"W&B: the model is {artifacts.PREFIX}{name}:{artifacts.LATEST}", flush=True)
    except OSError as error:
        print(_not_kept(f"the model {path.name}", error), flush=True)


def _not_kept(kind: str, error: Exception) -> str:
    file = getattr(error, "filename2", None) or getattr(error, "filename", None)
    reason = getattr(error, "strerror", None) or error
    return f"W&B: {kind} is not kept ({f'{file}: ' if file else ''}{reason}); the training goes on"
