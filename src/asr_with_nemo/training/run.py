"""Training a NeMo model from a config, on whatever machine it is.

A training lives in one folder, named for its config: the resolved config, checkpoints (the best and the last), a CSV
log, and, at the end, the `.nemo` file. The same config again finds that folder: a training that was killed goes on, one
that is finished is not done twice.

A W&B run notes of it: the config, the corpus that it is made from, metrics, a few transcripts while it learns, the
checkpoints as versions of an artifact, and the `.nemo` file.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict

from asr_with_nemo.base.files import replacing, write_if_changed
from asr_with_nemo.base.machine import quieten
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import SUMMARY
from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name
from asr_with_nemo.tracking.wandb_internals import drop_deprecated_settings
from asr_with_nemo.training import wandb_callbacks
from asr_with_nemo.training.callbacks import EpochLines, EpochSeeds, FusedClipping, ReplacedCheckpoints, WeightAveraging
from asr_with_nemo.training.checkpoints import (
    best_checkpoint,
    check_same_model,
    epoch_after,
    read_state,
    starting_point,
)
from asr_with_nemo.training.config import (
    DATASETS,
    checkpoint_settings,
    complete_config,
    fit_to_machine,
    is_overridden,
    logger_settings,
    take_fraction,
)
from asr_with_nemo.training.wandb_callbacks import log_final, wandb_run


def run_folder(config: DictConfig, start: Path | None = None) -> Path:
    """The folder of a training: named for its config and its data, so that the same training finds it again.

    Args:
        config: a complete training config.
        start: the checkpoint of another training that this one goes on from.
    """
    place = config.get("exp_manager") or {}
    folder = Path(place.get("exp_dir") or "runs") / f"{config.get('name') or 'model'}-{_digest(config, start)[:8]}"
    if place.get("resume_if_exists", True) or not folder.exists():
        return folder
    takes = [folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000)]
    new = next(number for number, take in enumerate(takes) if not take.exists())
    # The processes of the other GPUs start when the first has made its folder.
    return takes[new] if rank_zero_only.rank == 0 else [folder, *takes][new]


def _digest(config: DictConfig, start: Path | None) -> str:
    """SHA-256 of all that decides what a training ends with."""
    settings = OmegaConf.to_container(config, resolve=True)
    place = settings.pop("exp_manager", None) or {}
    settings.pop("tracking", None)
    parts = [json.dumps([settings, place.get("ema")], sort_keys=True).encode()]
    parts += [Path(config.model[name].manifest_filepath).read_bytes() for name in DATASETS[:2]]
    parts += [start.read_bytes()] if start else []
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def train(
    config: DictConfig,
    bound: set[str] = frozenset(),
    callbacks: Sequence[pl.Callback] = (),
    begin: Callable[[pl.LightningModule], None] | None = None,
) -> Path:
    """Train as a config says and return the path of the `.nemo` file.

    Args:
        config: a complete NeMo training config, as `load_config` gives it.
        bound: the dotted keys that the machine's settings must not replace (`bound_keys`).
        callbacks: further ones for Lightning's Trainer.
        begin: called with the model before its first step, to set the weights that it starts from, say. What it does
            has to follow from the config, by which a finished training is known again.

    Raises:
        InputError: the data or the config can't be used, with what to change.
    """
    quieten()
    if config.get("finetuning") and begin is None:
        raise InputError("the config is of a fine-tuning, which begins with a model's weights; use scripts/finetune.py")
    config, machine_line = fit_to_machine(take_fraction(complete_config(config)), bound)
    if not is_overridden("exp_manager.resume_if_exists", bound) and config.get("exp_manager"):
        with open_dict(config):
            config.exp_manager.resume_if_exists = True  # NeMo's configs say false; to go on loses nothing
    start = starting_point(config)
    folder = run_folder(config, start)
    model_path = folder / f"{config.get('name') or 'model'}.nemo"
    say = rank_zero_only(print)
    say(machine_line)
    if (folder / SUMMARY).is_file() and model_path.is_file():
        say(f"{folder} holds this very training, finished; exp_manager.resume_if_exists=false would do it again")
        return model_path

    seed = config.get("seed") or 0
    pl.seed_everything(seed, workers=True, verbose=False)
    last = folder / "checkpoints" / "last.ckpt"
    own_start = last if last.is_file() else start  # killed and begun again, it is further than where it started from
    first_epoch = epoch_after(read_state(own_start)) if own_start else 0
    origin = _origin(config, folder, start)
    trainer, own = build_trainer(config, folder, first_epoch, bound, callbacks, origin)
    model = build_model(config, trainer)
    if begin:
        begin(model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    say(f"{config.get('name')}: {weights / 1e6:.1f} M weights, seed {seed}; all about this training is in {folder}")
    if start:
        check_same_model(config, start, model)
    if first_epoch:
        say(f"going on from the end of epoch {first_epoch}")
    if trainer.is_global_zero:
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    if run := wandb_run(trainer):
        wandb_callbacks.start(run, config)
    try:
        trainer.fit(model, ckpt_path=str(own_start) if own_start else None)
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the one into the other
        raise InputError(f"interrupted; the same command goes on from {folder}") from error
    if "stopping" in own and own["stopping"].stopped_epoch:
        patience, monitor = own["stopping"].patience, own["stopping"].monitor
        say(f"stopped after epoch {trainer.current_epoch}: {monitor} was not better {patience} times in a row")
    return _finish(config, trainer, model, model_path, own, origin)


def check_alias(path: Path) -> None:
    """Make sure, before a training, that its model can be given a name (`make_alias`).

    Raises:
        InputError: it can't.
    """
    if path.suffix != ".nemo":
        raise InputError(f"--output {path}: expected a name that ends with .nemo")
    if path.exists() and not path.is_symlink():
        raise InputError(f"--output {path}: a file is there already; name another, or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror})") from error


@rank_zero_only
def make_alias(model: Path, path: Path) -> None:
    """Let a model be found under another name too: a link, which the next training may turn to its own model.

    Raises:
        InputError: the link can't be written.
    """
    try:
        with replacing(path) as partial:
            partial.symlink_to(os.path.relpath(model, path.parent.resolve()))
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror}); the model is {model}") from error


def _origin(config: DictConfig, folder: Path, start: Path | None) -> dict[str, object]:
    """Which training a model is of, and which dev set has measured it, for the metadata of an artifact."""
    dev = hashlib.sha256(Path(config.model.validation_ds.manifest_filepath).read_bytes()).hexdigest()
    return {"training": folder.name, "config": _digest(config, start), "dev": dev}


def build_model(config: DictConfig, trainer: pl.Trainer | None = None):
    """Build the NeMo model that a config describes (an `EncDecCTCModel`).

    Raises:
        InputError: NeMo can't, with its reason.
    """
    from nemo.collections.asr.models import EncDecCTCModel

    from asr_with_nemo.training import augmentation, channels_last

    quieten()
    _check_names(config)
    augmentation.register()
    try:
        model = EncDecCTCModel(cfg=config.model, trainer=trainer)
    except Exception as error:  # NeMo, Hydra and torch raise of every kind for a wrong setting
        reason = str(error.__cause__ or error).strip()
        raise InputError(f"NeMo can't build this model: {reason}\nLook at the model: section of the config.") from error
    augmentation.seed_cutout(model)
    augmentation.keep_in_memory(model)
    if config.model.train_ds.get("vocal_tract"):
        augmentation.vary_vocal_tract(model, *config.model.train_ds.vocal_tract)
    channels_last.speed_up(model)
    return model


def _check_names(config: DictConfig) -> None:
    """Make sure that NeMo knows the optimiser and the schedule, which it looks up only when training starts."""
    from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS
    from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS

    optim = config.model.get("optim") or {}
    for key, section, known in (
        ("model.optim.name", optim, AVAILABLE_OPTIMIZERS),
        ("model.optim.sched.name", optim.get("sched") or {}, AVAILABLE_SCHEDULERS),
    ):
        name = section.get("name")
        if name is not None and str(name).lower() not in {str(one).lower() for one in known}:
            raise InputError(f"{key}={name}: NeMo knows {', '.join(sorted(map(str, known)))}")


def build_trainer(
    config: DictConfig,
    folder: Path,
    first_epoch: int = 0,
    bound: set[str] = frozenset(),
    more: Sequence[pl.Callback] = (),
    origin: dict[str, object] | None = None,
) -> tuple[pl.Trainer, dict[str, pl.Callback]]:
    """A Lightning Trainer with the callbacks and loggers of the config's `exp_manager`, writing into `folder`.

    Args:
        config: a complete training config.
        folder: of the training.
        first_epoch: from which it goes on.
        bound: as for `train`.
        more: further callbacks.
        origin: metadata of the models that the training logs.

    Returns:
        the trainer, and its callbacks by name ("checkpoint", "lines" and others).
    """
    manager = config.get("exp_manager") or {}
    asked = checkpoint_settings(config)
    validates = config.trainer.get("limit_val_batches", 1.0) != 0
    callbacks: dict[str, pl.Callback] = {
        "seeds": EpochSeeds(config.get("seed") or 0, first_epoch),
        "lines": EpochLines(),
        "clipping": FusedClipping(),
        "checkpoint": ModelCheckpoint(
            folder / "checkpoints",
            filename="best-{epoch}",
            monitor=asked["monitor"] if validates else None,
            mode=asked["mode"],
            save_top_k=1,
            save_last=True,
            save_on_train_epoch_end=True,  # where a training can go on; also in epochs without validation
            enable_version_counter=False,
        ),
    }
    if manager.get("create_early_stopping_callback") and validates:
        params = OmegaConf.to_container(manager.get("early_stopping_callback_params") or OmegaConf.create())
        try:
            callbacks["stopping"] = EarlyStopping(**asked | params)
        except (TypeError, MisconfigurationException) as error:
            raise InputError(f"exp_manager.early_stopping_callback_params: {error}") from error
    average = manager.get("ema") or {}
    if average.get("enable"):
        callbacks["average"] = WeightAveraging(average.get("decay", 0.999))
    if os.isatty(2):
        callbacks["bar"] = TQDMProgressBar(leave=False)
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    settings.pop("logger", None)  # NeMo's configs say false and leave it to exp_manager
    callbacks |= wandb_callbacks.callbacks(config, folder.name, origin or {})
    settings.update(
        callbacks=[*callbacks.values(), *more],
        enable_checkpointing=True,
        enable_progress_bar="bar" in callbacks,
        enable_model_summary=False,
        plugins=[*(settings.get("plugins") or []), ReplacedCheckpoints()],
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return pl.Trainer(**settings, logger=make_loggers(config, folder, bound)), callbacks
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror}); set exp_manager.exp_dir") from error
    except InputError:
        raise
    except Exception as error:  # Lightning raises its own, ValueError and TypeError for a wrong setting
        raise InputError(f"the trainer: section of the config: {error}") from error


def make_loggers(config: DictConfig, folder: Path, bound: set[str] = frozenset()) -> list[Logger]:
    """The CSV log that always lies beside a training, and W&B's, offline where there is no key."""
    loggers: list[Logger] = [CSVLogger(folder, name="csv", flush_logs_every_n_steps=1)]
    manager = config.get("exp_manager") or {}
    if is_overridden("exp_manager.create_wandb_logger", bound) and not manager.get("create_wandb_logger"):
        return loggers
    mode = configure_wandb()
    if mode == "disabled":
        return loggers
    kept = folder / "wandb_id"
    asked = logger_settings(config)
    project = project_name(asked.get("project"))
    rank_zero_only(print)(describe_mode(mode, project))
    logger = wandb_callbacks.RunLogger(
        project=project,
        name=asked.get("name") or folder.name,
        group=asked.get("group") or folder.name,  # the parts of an interrupted training belong together
        # Offline, W&B can't go on with a run; and one that was just killed may still be held by its service.
        id=kept.read_text() if mode == "online" and kept.is_file() else None,
        resume="allow" if mode == "online" else None,
        save_dir=os.environ["WANDB_DIR"],
    )
    drop_deprecated_settings(logger)
    if rank_zero_only.rank == 0:
        try:
            write_if_changed(kept, logger.experiment.id)
        except OSError:
            raise
        except Exception as error:  # W&B raises of every kind when its server can't be reached or refuses
            raise InputError(f"W&B can't start a run ({error}); WANDB_MODE=offline keeps it here instead") from error
    return [*loggers, logger]


def read_log(folder: str | os.PathLike) -> list[dict[str, float]]:
    """The CSV log of a training, one row an epoch, over all its restarts: `epoch`, `val_wer`, `train_loss_epoch`..."""
    import pandas

    files = sorted(Path(folder).glob("csv/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    if not files:
        raise InputError(f"{folder}: holds no log of a training (csv/version_*/metrics.csv)")
    log = pandas.concat([pandas.read_csv(file) for file in files])
    # What an interrupted epoch had logged is replaced by what its second run logged.
    by_epoch = log.groupby("epoch").last().reset_index()
    return by_epoch.to_dict("records")


def _finish(
    config: DictConfig,
    trainer: pl.Trainer,
    model: pl.LightningModule,
    path: Path,
    callbacks: dict[str, pl.Callback],
    origin: dict[str, object],
) -> Path:
    """Write the `.nemo` file of the best epoch; the summary that marks the training as finished comes last."""
    from asr_with_nemo.training import augmentation

    best = best_checkpoint(callbacks["checkpoint"])
    score = callbacks["checkpoint"].best_model_score
    if best:
        checkpoint = torch.load(best, map_location="cpu", weights_only=False)
        model.load_state_dict(checkpoint["state_dict"])
    augmentation.forget(model.cfg.train_ds)  # what is saved is for anybody's NeMo
    if trainer.is_global_zero:
        with replacing(path, keep_suffix=True) as partial:
            model.save_to(str(partial))
        summary = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "best_epoch": checkpoint["epoch"] + 1 if best else trainer.current_epoch,
            "monitor": callbacks["checkpoint"].monitor,
            "best": None if score is None else round(float(score), 6),
            "seconds": round(callbacks["lines"].seconds, 1),
            "precision": str(config.trainer.precision),
            "weights": sum(parameter.numel() for parameter in model.parameters()),
            "seed": config.get("seed") or 0,
            "final": bool(config.get("final")),
            "fraction": config.get("fraction", 1),
            "start": (config.get("finetuning") or {}).get("model"),
        }
        write_if_changed(path.parent / SUMMARY, json.dumps(summary, indent=1) + "\n")
    run = wandb_run(trainer)
    if run and logger_settings(config).get("log_model", True):
        log_final(run, path, summary, origin, checkpoint_settings(config)["mode"])
    for logger in trainer.loggers:
        logger.finalize("success")
    if run:
        run.finish()
        if "artifacts" in callbacks:
            callbacks["artifacts"].close()
    return path
