"""Train a NeMo model from a config.

Each training has a folder, named for its config: the resolved config, the best and the last checkpoint, a CSV log and,
at the end, the `.nemo` file. The same config leads to the same folder: a killed training is resumed, and a finished one
is not repeated.

A W&B run has the config, the corpus, metrics, a few hypotheses during the training, the checkpoints as versions of an
artifact, and the `.nemo` file.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf, open_dict

from asr_with_nemo.base.files import alone_in, reason_of, replacing, write_if_changed
from asr_with_nemo.base.machine import idle_cores, quieten, usable_cores
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.data.training_data import TrainingData
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import able_to_decode
from asr_with_nemo.models.model_config import class_of
from asr_with_nemo.models.model_file import check_nemo
from asr_with_nemo.models.names import SUMMARY
from asr_with_nemo.models.nemo_internals import rows_read_quickly
from asr_with_nemo.models.recognizer import durations
from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name
from asr_with_nemo.tracking.wandb_internals import drop_deprecated_settings
from asr_with_nemo.training import shards, tokenizers, wandb_callbacks
from asr_with_nemo.training.callbacks import (
    CrowdedCores,
    EpochLines,
    EpochSeeds,
    FusedClipping,
    ReplacedCheckpoints,
    WeightAveraging,
)
from asr_with_nemo.training.checkpoints import (
    best_checkpoint,
    check_same_model,
    epoch_after,
    latest_checkpoint,
    read_state,
    starting_point,
    writing,
)
from asr_with_nemo.training.checks import FiniteLoss, say_what_cannot_be_learned, say_what_is_silent, say_what_of_shards
from asr_with_nemo.training.config import (
    DATASETS,
    checkpoint_settings,
    complete_config,
    fit_to_machine,
    is_overridden,
    logger_settings,
    take_fraction,
)
from asr_with_nemo.training.launch import check_world, launched, plugins
from asr_with_nemo.training.processes import Joining, SharedWork, share_dev_set, together
from asr_with_nemo.training.wandb_callbacks import log_final, wandb_run

BUSY = 0.5
"""Cores that other processes take from a training, from which on it says that the machine is busy."""


def _run_folder(config: DictConfig, digest: str) -> Path:
    """Return the folder of a training, named for its config and its data so that the same training finds it again.

    Args:
        config: a complete training config.
        digest: of the training (`_digest`).
    """
    place = config.get("exp_manager") or {}
    folder = Path(place.get("exp_dir") or "runs") / f"{config.get('name') or 'model'}-{digest[:8]}"
    if place.get("resume_if_exists", True) or not folder.exists():
        return folder
    takes = [folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000)]
    new = next(number for number, take in enumerate(takes) if not take.exists())
    # The processes of the other GPUs start after the first one has made its folder.
    return takes[new] if rank_zero_only.rank == 0 else [folder, *takes][new]


def model_name(config: DictConfig) -> str:
    """Return the file name of the model that a config trains."""
    return f"{config.get('name') or 'model'}.nemo"


def _digest(config: DictConfig, start: Path | None, data: TrainingData) -> str:
    """Return the SHA-256 of all that determines the trained weights.

    Args:
        config: a complete training config.
        start: the checkpoint of another training that this one continues.
        data: has the notes on shards.
    """
    settings = OmegaConf.to_container(config, resolve=True)
    place = settings.pop("exp_manager", None) or {}
    settings.pop("tracking", None)
    # Started with another number of processes, a training goes on in the same folder.
    if of_shards := shards.place_of(config):
        settings["model"]["train_ds"] |= {"shar_path": data.shards(of_shards).digest}  # wherever they are
    settings["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    for name in DATASETS:
        if settings["model"].get(name):
            settings["model"][name] |= {"num_workers": 0, "pin_memory": False}
    digest = hashlib.sha256(json.dumps([settings, place.get("ema")], sort_keys=True).encode())
    for file in [*_files(config), *([start] if start else [])]:
        digest.update(b"\0")
        with open(file, "rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _files(config: DictConfig) -> list[Path]:
    """Return the files that a training reads: manifests, and the model of its tokenizer."""
    manifests = [config.model[name].manifest_filepath for name in DATASETS[:2]]
    tokenizer = config.model.get("tokenizer")
    return [Path(file) for file in manifests if file] + ([Path(tokenizer.dir) / tokenizers.MODEL] if tokenizer else [])


def train(
    config: DictConfig,
    overridden: set[str] = frozenset(),
    callbacks: Sequence[pl.Callback] = (),
    begin: Callable[[pl.LightningModule], None] | None = None,
) -> Path:
    """Train a model from a config and return the path of the `.nemo` file.

    Args:
        config: a complete NeMo training config, as `load_config` returns it.
        overridden: the dotted keys that the machine's settings must not replace (`overridden_keys`).
        callbacks: further callbacks for Lightning's Trainer.
        begin: called with the model before the first step, for example to set the initial weights. Its effect must
            follow from the config, since a finished training is recognised by that.

    Raises:
        InputError: the data or the config can't be used, with the next step.
    """
    quieten()
    if config.get("finetuning") and begin is None:
        raise InputError("the config is for fine-tuning, which starts from a model's weights; use scripts/finetune.py")
    data = TrainingData()
    config, machine_line = fit_to_machine(take_fraction(complete_config(config, data), data), overridden)
    if not is_overridden("exp_manager.resume_if_exists", overridden) and config.get("exp_manager"):
        with open_dict(config):
            config.exp_manager.resume_if_exists = True  # false in NeMo's configs; resuming loses nothing
    start = starting_point(config)
    digest = _digest(config, start, data)
    folder = _run_folder(config, digest)
    is_new = not (config.get("exp_manager") or {}).get("resume_if_exists", True)
    model_path = folder / model_name(config)
    log = rank_zero_only(print)
    log(machine_line)
    alone = config.trainer.accelerator == "cpu" and config.trainer.devices in (1, "1") and not launched()
    try:
        lock = alone_in(folder, "is training", log) if rank_zero_only.rank == 0 else nullcontext()
        with lock:
            if not is_new and _is_finished(model_path, log):
                log(f"{folder} has this training, finished; exp_manager.resume_if_exists=false trains it again")
                data.release()
                return model_path
            with _room_for_others(log) if alone else nullcontext():
                return _train_in(folder, config, start, digest, data, overridden, callbacks, begin, is_new)
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({reason_of(error)}), or set exp_manager.exp_dir") from error


@contextmanager
def _room_for_others(log: Callable[[str], object]) -> Iterator[None]:
    """Compute with fewer threads where other processes keep cores of this machine busy, and say so.

    The threads of a step wait for the slowest of them: beside one busy process on two cores, two took 3.9 times as long
    as alone, one took 1.7 times as long (scripts/benchmarks/busy.py).
    """
    cores, idle, before = usable_cores(), idle_cores(), torch.get_num_threads()
    if cores - idle < BUSY:
        yield
        return
    left = f"{max(0.0, idle):.1f} of {cores} core{'s' if cores > 1 else ''}"
    said = f"other processes leave {left}, so that the training takes longer"
    threads = max(1, round(idle))
    if "OMP_NUM_THREADS" not in os.environ and threads < before:
        torch.set_num_threads(threads)
        said += f"; it computes with {threads} of {before} threads (OMP_NUM_THREADS sets their number)"
    log(said)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_in(
    folder: Path,
    config: DictConfig,
    start: Path | None,
    digest: str,
    data: TrainingData,
    overridden: set[str],
    callbacks: Sequence[pl.Callback],
    begin: Callable[[pl.LightningModule], None] | None,
    is_new: bool,
) -> Path:
    """Train in a folder, from its last checkpoint if there is one and the training isn't new (`train`)."""
    log = rank_zero_only(print)
    seed = config.get("seed") or 0
    pl.seed_everything(seed, workers=True, verbose=False)
    # Of a killed training, the last checkpoint is later than the one it started from.
    own_start = (None if is_new else latest_checkpoint(folder / "checkpoints", log)) or start
    first_epoch = epoch_after(read_state(own_start)) if own_start else 0
    origin = {"training": folder.name, "config": digest, "dev": _dev_digest(config)}
    trainer, own = build_trainer(config, folder, first_epoch, overridden, callbacks, origin, data)
    data.release()  # NeMo's dataset now takes that memory
    model = build_model(config, trainer)
    check_world(trainer, model)
    if place := shards.place_of(config):
        notes = data.shards(place)
        shards.use(model, config, notes, trainer, log)
        if trainer.is_global_zero:
            say_what_of_shards(model, notes, log)
    elif trainer.is_global_zero:
        say_what_cannot_be_learned(model, data.listing(config.model.train_ds.manifest_filepath).utterances, log)
        say_what_is_silent(model, log)
    if begin:
        begin(model)
    # Lightning's fit keeps each module's mode (since 2.2), and one that comes from a loader is in evaluation mode.
    model.train()
    weights = sum(parameter.numel() for parameter in model.parameters())
    log(f"{config.get('name')}: {weights / 1e6:.1f} M weights, seed {seed}; checkpoints and logs are in {folder}")
    if start:
        check_same_model(config, start, model)
    if first_epoch:
        log(f"resuming from the end of epoch {first_epoch}")
    if trainer.is_global_zero:
        tokenizers.keep(config, folder)
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    if run := wandb_run(trainer):
        wandb_callbacks.start(run, config)
    try:
        with together(trainer.world_size, f"the same command resumes from {folder}"):
            trainer.fit(model, ckpt_path=str(own_start) if own_start else None)
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning turns the first into the second
        raise InputError(f"interrupted; the same command resumes from {folder}") from error
    finally:
        if not trainer.state.finished:
            own["corpus"].cancel()
    if "stopping" in own and own["stopping"].stopped_epoch:
        patience, monitor = own["stopping"].patience, own["stopping"].monitor
        log(f"stopped after epoch {trainer.current_epoch}: {monitor} did not improve in {patience} validations")
    return _finish(config, trainer, model, folder / model_name(config), own, origin)


def _is_finished(model: Path, log: Callable[[str], object]) -> bool:
    """Return whether a training has ended and its `.nemo` file is as it was written; a damaged one is made again."""
    summary = model.with_name(SUMMARY)
    if not (summary.is_file() and model.is_file()):
        return False
    try:
        expected = json.loads(summary.read_text(encoding="utf-8")).get("sha256")
        if expected is None:  # of a training before the digest was recorded
            check_nemo(model)
        elif sha256_of(model) != expected:
            raise InputError(f"{model}: cut short or changed since the training wrote it")
    except (InputError, ValueError, AttributeError) as error:
        broken = error if isinstance(error, InputError) else f"{summary}: damaged ({error})"
        log(f"warning: {broken}; the model is made again from the training's checkpoint")
        return False
    return True


def check_alias(path: Path) -> None:
    """Make sure, before a training, that `make_alias` can give its model a second name.

    Raises:
        InputError: the name doesn't end in .nemo, is that of a file, or its folder can't be written to.
    """
    if path.suffix != ".nemo":
        raise InputError(f"--output {path}: expected a name that ends in .nemo")
    if path.exists() and not path.is_symlink():
        raise InputError(f"--output {path}: the file already exists; give another name, or move it away")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror})") from error


@rank_zero_only
def make_alias(model: Path, path: Path) -> None:
    """Give a model a second name: a symbolic link, which the next training may point at its own model.

    Raises:
        InputError: the link can't be written.
    """
    try:
        with replacing(path) as partial:
            partial.symlink_to(os.path.relpath(model, path.parent.resolve()))
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror}); the model is {model}") from error


def _dev_digest(config: DictConfig) -> str:
    return sha256_of(Path(config.model.validation_ds.manifest_filepath))


def build_model(config: DictConfig, trainer: pl.Trainer | None = None):
    """Build the NeMo model that a config describes, of one of `model_config.MODEL_CLASSES`.

    On a CPU, for which NeMo has no loss of TDT models and a slow one of RNN-T, theirs is `training.tdt_loss`.

    Raises:
        InputError: NeMo can't build it, with NeMo's reason.
    """
    from nemo.collections.asr import models

    from asr_with_nemo.training import augmentation, channels_last, first_layer, tdt_loss

    quieten()
    _check_names(config)
    augmentation.register()
    # Resolved, so that a checkpoint's config has no references to sections outside of `model`.
    section = OmegaConf.create(OmegaConf.to_container(config.model, resolve=True))
    for ctc in (section.get("aux_ctc"), None if section.get("joint") else section):
        if ctc is not None and not ctc.get("decoding"):
            ctc.decoding = {"strategy": "greedy_batch"}  # NeMo's default, whose class a checkpoint would have to name
    try:
        with rows_read_quickly():
            model = able_to_decode(getattr(models, class_of(section))(cfg=section, trainer=trainer))
    except Exception as error:  # NeMo, Hydra and torch raise errors of any type for an invalid setting
        cause = error.__cause__ or error
        if isinstance(cause, MissingMandatoryValue):
            key = f"model.{cause.full_key}"
            raise InputError(
                f"{key}: has no value (???); give one, or remove its section: ~{key.rpartition('.')[0]}"
            ) from error
        reason = str(cause).strip()
        raise InputError(f"NeMo can't build this model: {reason}\nLook at the model: section of the config.") from error
    if hasattr(model, "joint"):
        frames = durations(model)
        settings = (model.cfg.get("loss") or {}).get("tdt_kwargs" if frames else "warprnnt_numba_kwargs")
        tdt_loss.use(model.loss, frames or None, settings or {})
    if moments := section.get("standardise"):
        first_layer.standardise_input(model, moments)
    augmentation.seed_cutout(model)
    augmentation.keep_in_memory(model)
    if config.model.train_ds.get("vocal_tract"):
        augmentation.vary_vocal_tract(model, *config.model.train_ds.vocal_tract)
    channels_last.speed_up(model)
    share_dev_set(model, config.model.validation_ds.get("batch_size") or 1)
    return model


def _check_names(config: DictConfig) -> None:
    """Make sure that NeMo knows the optimizer and the schedule, which it looks up only when training starts."""
    from nemo.core.optim.lr_scheduler import AVAILABLE_SCHEDULERS
    from nemo.core.optim.optimizers import AVAILABLE_OPTIMIZERS

    optim = config.model.get("optim") or {}
    for key, section, known in (
        ("model.optim.name", optim, AVAILABLE_OPTIMIZERS),
        ("model.optim.sched.name", optim.get("sched") or {}, AVAILABLE_SCHEDULERS),
    ):
        name = section.get("name")
        if name is not None and str(name).lower() not in {str(one).lower() for one in known}:
            raise InputError(f"{key}={name}: unknown to NeMo; expected one of {', '.join(sorted(map(str, known)))}")


def build_trainer(
    config: DictConfig,
    folder: Path,
    first_epoch: int = 0,
    overridden: set[str] = frozenset(),
    more: Sequence[pl.Callback] = (),
    origin: dict[str, object] | None = None,
    data: TrainingData | None = None,
) -> tuple[pl.Trainer, dict[str, pl.Callback]]:
    """Build a Lightning Trainer with the callbacks and loggers of the config's `exp_manager`.

    Args:
        config: a complete training config.
        folder: of the training, for checkpoints and logs.
        first_epoch: the number of epochs that are finished already.
        overridden: as for `train`.
        more: further callbacks.
        origin: metadata of the models that the training logs.
        data: the manifests of the training.

    Returns:
        the trainer, and its callbacks by name ("checkpoint", "lines" and others).

    Raises:
        InputError: a setting is invalid, or the folder can't be written to.
    """
    manager = config.get("exp_manager") or {}
    asked = checkpoint_settings(config)
    validates = config.trainer.get("limit_val_batches", 1.0) != 0
    callbacks: dict[str, pl.Callback] = {
        "seeds": EpochSeeds(config.get("seed") or 0, first_epoch),
        "shared": SharedWork(
            *shards.batch_of(config), first_epoch, (origin or {}).get("config"), _files(config), rank_zero_only(print)
        ),
        "finite": FiniteLoss(),
        "lines": EpochLines(),
        "cores": CrowdedCores(),
        "clipping": FusedClipping(),
        "checkpoint": ModelCheckpoint(
            folder / "checkpoints",
            filename="best-{epoch}",
            monitor=asked["monitor"] if validates else None,
            mode=asked["mode"],
            save_top_k=1,
            save_last=True,
            save_on_train_epoch_end=True,  # to resume from; also in epochs without validation
            enable_version_counter=False,
        ),
    }
    if manager.get("create_early_stopping_callback") and validates:
        callbacks["stopping"] = _early_stopping(manager, asked)
    average = manager.get("ema") or {}
    if average.get("enable"):
        callbacks["average"] = WeightAveraging(average.get("decay", 0.999))
    if os.isatty(2):
        callbacks["bar"] = TQDMProgressBar(leave=False)
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    if settings.get("strategy") == "ddp":
        settings["strategy"] = Joining()
    settings.pop("logger", None)  # false in NeMo's configs, which leave it to exp_manager
    callbacks |= wandb_callbacks.callbacks(config, folder.name, origin or {}, data or TrainingData())
    settings.update(
        callbacks=[*callbacks.values(), *more],
        enable_checkpointing=True,
        enable_progress_bar="bar" in callbacks,
        enable_model_summary=False,
        plugins=[*(settings.get("plugins") or []), ReplacedCheckpoints(folder / "checkpoints"), *plugins()],
        default_root_dir=folder,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return pl.Trainer(**settings, logger=_make_loggers(config, folder, overridden)), callbacks
    except OSError as error:
        raise InputError(f"{folder}: can't be written to ({error.strerror}); set exp_manager.exp_dir") from error
    except InputError:
        raise
    except Exception as error:  # MisconfigurationException, ValueError or TypeError for an invalid setting
        raise InputError(f"the trainer: section of the config: {error}") from error


def _early_stopping(manager: DictConfig, asked: dict[str, object]) -> EarlyStopping:
    """Return the callback that ends a training, from its section of the config and what the checkpoints monitor."""
    params = OmegaConf.to_container(manager.get("early_stopping_callback_params") or OmegaConf.create())
    try:
        # By default it also looks at the end of an epoch that trainer.max_steps cuts short, which isn't validated.
        return EarlyStopping(**asked | {"check_on_train_epoch_end": False} | params)
    except (TypeError, MisconfigurationException) as error:
        raise InputError(f"exp_manager.early_stopping_callback_params: {error}") from error


def _make_loggers(config: DictConfig, folder: Path, overridden: set[str]) -> list[Logger]:
    """Return the CSV logger, and W&B's unless it is disabled; W&B's is offline without an API key."""
    loggers: list[Logger] = [CSVLogger(folder, name="csv", flush_logs_every_n_steps=1)]
    manager = config.get("exp_manager") or {}
    if is_overridden("exp_manager.create_wandb_logger", overridden) and not manager.get("create_wandb_logger"):
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
        group=asked.get("group") or folder.name,  # groups the runs of an interrupted training
        # Offline, W&B can't resume a run, and its service may still hold one that was just killed.
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
        except Exception as error:  # W&B raises errors of any type if its server can't be reached or refuses
            raise InputError(f"W&B can't start a run ({error}); WANDB_MODE=offline stores it locally") from error
    return [*loggers, logger]


def read_log(folder: str | os.PathLike) -> list[dict[str, float]]:
    """Return the CSV log of a training over all its restarts, one row per epoch: `epoch`, `val_wer`, and so on.

    Raises:
        InputError: the folder has no such log.
    """
    import pandas

    files = sorted(Path(folder).glob("csv/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    if not files:
        raise InputError(f"{folder}: has no log of a training (csv/version_*/metrics.csv)")
    log = pandas.concat([pandas.read_csv(file) for file in files])
    # The rows of an interrupted epoch are replaced by those of its repetition.
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
    """Write the `.nemo` file of the best epoch, then the summary that marks the training as finished."""
    from asr_with_nemo.training import augmentation

    best = best_checkpoint(callbacks["checkpoint"])
    score = callbacks["checkpoint"].best_model_score
    if best:
        checkpoint = read_state(best)
        model.load_state_dict(checkpoint["state_dict"])
    augmentation.forget(model.cfg.train_ds)  # so that NeMo without this package can load the file
    if trainer.is_global_zero:
        with writing("the model", path), replacing(path, keep_suffix=True) as partial:
            model.save_to(str(partial))
        summary = {
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "best_epoch": checkpoint["epoch"] + 1 if best else trainer.current_epoch,
            "monitor": callbacks["checkpoint"].monitor,
            "best": None if score is None else round(float(score), 6),
            "seconds": round(callbacks["lines"].seconds, 1),
            "precision": str(config.trainer.precision),
            "processes": trainer.world_size,
            "weights": sum(parameter.numel() for parameter in model.parameters()),
            "seed": config.get("seed") or 0,
            "final": bool(config.get("final")),
            "fraction": config.get("fraction", 1),
            "start": (config.get("finetuning") or {}).get("model"),
            "sha256": sha256_of(path),
        }
        write_if_changed(path.parent / SUMMARY, json.dumps(summary, indent=1) + "\n")
    run = wandb_run(trainer)
    if run:
        callbacks["corpus"].finish(run)
    if run and logger_settings(config).get("log_model", True):
        log_final(run, path, summary, origin, checkpoint_settings(config)["mode"])
    for logger in trainer.loggers:
        logger.finalize("success")
    if run:
        run.finish()
        if "artifacts" in callbacks:
            callbacks["artifacts"].close()
    return path
