"""What a W&B run holds of a training, beside its metrics.

The config, once; the corpus that it is made from; every few epochs, a table of what the model makes of a few dev
utterances, so that one can watch it learn; its checkpoints as versions of an artifact; and the model that it ends with.
None of it changes what a training ends with, and a disk that is full costs no training.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf

from asr_with_nemo.data import audio, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.versions import fetch_model, list_versions, log_model
from asr_with_nemo.tracking.wandb_internals import log_input
from asr_with_nemo.training.config import logger_settings, tracking_settings

if TYPE_CHECKING:
    import wandb

METRICS = ("val_wer", "val_loss", "train_loss_epoch")
"""Of an epoch, in the metadata of its checkpoint."""


# --- While it runs ----------------------------------------------------------------------------------------------------


class RunLogger(WandbLogger):
    """W&B's logger for a run whose config `start` gives it whole: the model's part of it isn't given once more."""

    def log_hyperparams(self, params: object) -> None:
        """Do nothing."""


def wandb_run(trainer: pl.Trainer) -> "wandb.Run | None":
    """The W&B run of a training; None where there is none, and in all its processes but the first."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def start(run: "wandb.Run", config: DictConfig) -> None:
    """Note in a run what its training is made from: config, corpus, and the model or checkpoint that it goes on from.

    Raises:
        InputError: a manifest can't be used.
    """
    from asr_with_nemo.tracking.corpus_artifacts import manifests_artifact

    run.config.update(OmegaConf.to_container(config, resolve=True), allow_val_change=True)
    manifests = [config.model[name].manifest_filepath for name in ("train_ds", "validation_ds")]
    try:
        log_input(run, manifests_artifact(manifests))
    except OSError as error:
        print(_not_kept("the corpus", error), flush=True)
    others = (
        (config.get("exp_manager") or {}).get("resume_from_checkpoint"),
        (config.get("finetuning") or {}).get("model"),
    )
    for name in others:
        if name and name.startswith(artifacts.PREFIX):
            fetch_model(name.removeprefix(artifacts.PREFIX))


def callbacks(config: DictConfig, training: str, metadata: dict[str, object]) -> dict[str, pl.Callback]:
    """The callbacks that a config asks for, by name.

    Args:
        config: a complete training config.
        training: the name of the training, and of the artifact with its checkpoints unless the config names another.
        metadata: of each of their versions.
    """
    settings, found = tracking_settings(config), {}
    if settings["predictions_every"] and settings["prediction_rows"]:
        found["predictions"] = PredictionTable(settings["predictions_every"], settings["prediction_rows"])
    asked = logger_settings(config)
    if asked.get("log_model") == "all":
        name = artifacts.valid_name(asked.get("checkpoint_name") or training)
        found["artifacts"] = CheckpointArtifacts(name, settings["keep_checkpoints"], metadata)
    return found


class CheckpointArtifacts(Checkpoint):
    """Log the checkpoints as versions of a W&B artifact: the newest is `latest`, that of the best epoch `best`.

    One for each epoch that was validated, with its metrics. Lightning's own way to do this, `log_model="all"`, makes
    two of an epoch that is both the best and the last, copies each, and keeps them all. This is a `Checkpoint` because
    Lightning calls those last, and in their order: when it is called, the epoch's checkpoint has been written.

    Args:
        name: of the artifact.
        keep: of so many versions, and of the best, the files stay on this machine.
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
        metrics = {name: float(trainer.callback_metrics[name]) for name in METRICS if name in trainer.callback_metrics}
        # The best one's file is linked to as long as it is the best, so that it takes no space of its own.
        file = saved.best_model_path if is_best else saved.last_model_path
        aliases = [artifacts.BEST] if is_best else []
        try:
            log_model(run, file, self.name, aliases, self.metadata | {"epoch": epoch} | metrics, self.keep)
        except OSError as error:
            if not self._lacks_space:
                print(_not_kept(f"the checkpoint of epoch {epoch}", error), flush=True)
            self._lacks_space = True

    def close(self) -> None:
        """Once the run has ended: what it could send is sent."""
        artifacts.drop_staged(self.name, self.keep)


class PredictionTable(pl.Callback):
    """Log every few epochs what the model makes of a few dev utterances, as a W&B table with players.

    Args:
        every: epochs, from the first that is validated on; the last one has its table too.
        rows: utterances, spread over the manifest, so that they are of several speakers.
    """

    def __init__(self, every: int, rows: int):
        self.every = every
        self.rows = rows
        self._next = 1  # epoch
        self._lacks_space = False

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        is_due = epoch >= self._next or epoch == trainer.max_epochs
        if trainer.sanity_checking or not is_due or wandb_run(trainer) is None:
            return
        self._next = epoch + self.every
        chosen = self._choose(pl_module)
        if not chosen:
            return
        from asr_with_nemo.tracking import explore

        try:
            with isolate_rng():  # the training's random numbers go on as if nothing had been
                table = explore.wandb_table(self._read(trainer, pl_module, chosen), progress=False)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_metrics({"predictions": table}, trainer.global_step)
        except OSError as error:
            if not self._lacks_space:
                print(_not_kept(f"the table of epoch {epoch}", error), flush=True)
            self._lacks_space = True

    def _choose(self, pl_module: pl.LightningModule) -> list[manifest.Utterance]:
        utterances = manifest.read_manifest(pl_module.cfg.validation_ds.manifest_filepath)
        whole = [utterance for utterance in utterances if not utterance.get("offset")]
        return whole[:: max(1, len(whole) // self.rows)][: self.rows]

    def _read(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, chosen: list[manifest.Utterance]
    ) -> list[dict[str, object]]:
        """What the model, in the state in which it is validated, makes of the utterances: rows for `wandb_table`."""
        from nemo.collections.asr.metrics.wer import word_error_rate

        rate = pl_module.cfg.sample_rate
        signals = [torch.from_numpy(audio.load_audio(utterance["audio_filepath"], rate)) for utterance in chosen]
        batch = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True).to(pl_module.device)  # (B, t)
        lengths = torch.tensor([len(signal) for signal in signals], device=pl_module.device)
        with trainer.precision_plugin.val_step_context():
            log_probs, frames, _ = pl_module(input_signal=batch, input_signal_length=lengths)
            found = pl_module.decoding.ctc_decoder_predictions_tensor(log_probs, decoder_lengths=frames)
        rows = []
        for utterance, hypothesis in zip(chosen, found, strict=True):
            reference, path = utterance["text"], Path(utterance["audio_filepath"])
            # A beam search gives one list of hypotheses an utterance, the best first.
            text = (hypothesis[0] if isinstance(hypothesis, list) else hypothesis).text
            wer = round(word_error_rate([text], [reference]), 4) if reference.split() else None
            rows.append({"File": path.name, "Audio": path, "Reference": reference, "Hypothesis": text, "WER": wer})
        return rows


def log_final(run: "wandb.Run", path: Path, summary: dict[str, object], metadata: dict[str, object], mode: str) -> None:
    """Log a finished training's model under its config's name.

    `best` goes to it if no other of that name did better on the same dev set.

    Args:
        run: the training's.
        path: the .nemo file.
        summary: of the training, as it lies in its folder.
        metadata: of the training's models.
        mode: "min" or "max": which is better, less or more of what was monitored.
    """
    name, monitor, score = artifacts.valid_name(path.stem), summary["monitor"], summary["best"]
    metadata = metadata | {"epoch": summary["best_epoch"]} | ({} if score is None else {monitor: score})
    aliases = ["final"]
    try:
        rivals = [one.metadata for one in list_versions(name) if one.metadata.get("dev") == metadata["dev"]]
        sign = -1 if mode == "max" else 1
        if score is not None and all(sign * score <= sign * other.get(monitor, sign * math.inf) for other in rivals):
            aliases.append(artifacts.BEST)
    except InputError:  # the server can't be asked: then nobody knows
        pass
    try:
        log_model(run, path, name, aliases, metadata)
        print(f"W&B: the model is {artifacts.PREFIX}{name}:{artifacts.LATEST}", flush=True)
    except OSError as error:
        print(_not_kept(f"the model {path.name}", error), flush=True)


def _not_kept(what: str, error: OSError) -> str:
    where = f"{error.filename2 or error.filename}: " if error.filename else ""
    return f"W&B: {what} is not kept ({where}{error.strerror or error}); the training goes on"
