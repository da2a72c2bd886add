"""Choose the checkpoint that a training resumes from, and check that it is of the same model."""

import os
import tarfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.versions import fetch_model


def starting_point(config: DictConfig) -> Path | None:
    """Return the checkpoint of another training that the config says to resume from: a file, or wandb:NAME:ALIAS.

    Use only checkpoints that you trust: unpickling the state of a training can run arbitrary code.

    Returns:
        the file; None if the config names none.

    Raises:
        InputError: it doesn't exist, or is not a checkpoint that this training can resume from.
    """
    name = (config.get("exp_manager") or {}).get("resume_from_checkpoint")
    if not name:
        return None
    logged = str(name).removeprefix(artifacts.PREFIX)
    path = Path(name) if logged == name else fetch_model(logged)
    where = f"exp_manager.resume_from_checkpoint={name}"
    if not path.is_file():
        raise InputError(f"{where}: no such file; expected a checkpoint (.ckpt), or wandb:NAME:ALIAS")
    if tarfile.is_tarfile(path):
        raise InputError(f"{where}: a .nemo file has weights but no state of a training; give a .ckpt")
    try:
        state = read_state(path)
        theirs = state["hyper_parameters"]["cfg"]
        done = epoch_after(state)
    except Exception as error:  # unpickling raises errors of any type
        raise InputError(f"{where}: can't be read as a checkpoint of a training ({error}); give a .ckpt") from error
    for key in ("optim.name", "labels"):
        there, here = OmegaConf.select(theirs, key), OmegaConf.select(config.model, key)
        if there != here:
            raise InputError(f"{where}: does not fit; model.{key} is {there} in it and {here} in the config")
    epochs = config.trainer.get("max_epochs") or -1
    if 0 <= epochs <= done:
        raise InputError(f"{where}: ends at epoch {done}; give trainer.max_epochs above {done}")
    return path


def check_same_model(config: DictConfig, path: Path, model: pl.LightningModule) -> None:
    """Make sure that a checkpoint has the weights of a model.

    Raises:
        InputError: a weight is missing, superfluous, or of another shape.
    """
    there = {name: tuple(tensor.shape) for name, tensor in read_state(path)["state_dict"].items()}
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise InputError(
                f"exp_manager.resume_from_checkpoint={config.exp_manager.resume_from_checkpoint}: is of another model; "
                f"{name} is {there.get(name, 'missing')} in it and {here.get(name, 'missing')} in the config"
            )


def read_state(checkpoint: Path) -> dict:
    """Return the content of a checkpoint, its tensors memory-mapped. It is unpickled: see `starting_point`."""
    return torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)


def epoch_after(state: dict) -> int:
    """Return the number of finished epochs of a checkpoint's state, which may be from within an epoch."""
    is_whole = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    return state["epoch"] + (1 if is_whole else 0)


def best_checkpoint(callback: ModelCheckpoint) -> Path | None:
    """Return the checkpoint of the best epoch, also if a kill between two writes or a moved folder lost its path.

    It is never that of another training which this one was resumed from.
    """
    known, folder = Path(callback.best_model_path), Path(callback.dirpath)
    if known.is_file() and known.parent == folder:
        return known
    return max(folder.glob("best-*.ckpt"), key=os.path.getmtime, default=None)
