"""Checkpoints of a training: which one to continue from, and whether it belongs to this model."""

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
    """The checkpoint of another training that the config says to go on from: a file, or wandb:NAME:ALIAS.

    Go on only from one that you trust: reading the state of a training can run what is in it.

    Raises:
        InputError: it isn't there or holds no training that this one can go on from.
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
        raise InputError(f"{where}: a .nemo file holds weights, but not the state of their training; give a .ckpt")
    try:
        state = read_state(path)
        theirs = state["hyper_parameters"]["cfg"]
        done = epoch_after(state)
    except Exception as error:  # of the unpickler, of every kind
        raise InputError(f"{where}: can't be read as a checkpoint of a training ({error})") from error
    for key in ("optim.name", "labels"):
        there, here = OmegaConf.select(theirs, key), OmegaConf.select(config.model, key)
        if there != here:
            raise InputError(f"{where}: is of another training; model.{key} is {there} there, {here} by this config")
    epochs = config.trainer.get("max_epochs") or -1
    if 0 <= epochs <= done:
        raise InputError(f"{where}: is of the end of epoch {done}; give trainer.max_epochs above {done}")
    return path


def check_same_model(config: DictConfig, path: Path, model: pl.LightningModule) -> None:
    """Make sure that a checkpoint's weights are those of a model.

    Raises:
        InputError: one of them is missing, is one too many, or has another shape.
    """
    there = {name: tuple(tensor.shape) for name, tensor in read_state(path)["state_dict"].items()}
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise InputError(
                f"exp_manager.resume_from_checkpoint={config.exp_manager.resume_from_checkpoint}: is of another model; "
                f"{name} is {there.get(name, 'not')} there, {here.get(name, 'not')} by this config"
            )


def read_state(checkpoint: Path) -> dict:
    return torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)


def epoch_after(state: dict) -> int:
    """The epoch that a training goes on with from a checkpoint's state, which may be of the middle of one."""
    whole = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    return state["epoch"] + (1 if whole else 0)


def best_checkpoint(callback: ModelCheckpoint) -> Path | None:
    """The checkpoint of the best epoch, also where a kill between two writes, or a moved folder, made it forgotten.

    Never that of another training, which this one went on from.
    """
    known, folder = Path(callback.best_model_path), Path(callback.dirpath)
    if known.is_file() and known.parent == folder:
        return known
    return max(folder.glob("best-*.ckpt"), key=os.path.getmtime, default=None)
