"""Choose the checkpoint that a training resumes from, and check that it is of the same model."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from asr_with_nemo.base.files import reason_of
from asr_with_nemo.data.archives import is_tar
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.model_file import TOKENIZER
from asr_with_nemo.models.saved import read_saved
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.versions import fetch_model
from asr_with_nemo.training import tokenizers


def starting_point(config: DictConfig) -> Path | None:
    """Return the checkpoint of another training that the config says to resume from: a file, or wandb:NAME:ALIAS.

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
    if is_tar(path):
        raise InputError(f"{where}: a .nemo file has weights but no state of a training; give a .ckpt")
    try:
        state = read_state(path)
    except (InputError, OSError) as error:
        raise InputError(f"{where}: can't be read as a checkpoint of a training ({error})") from error
    theirs, done = state["hyper_parameters"]["cfg"], epoch_after(state)
    # NeMo writes the pieces of a tokenizer into the labels of some models.
    for key in ("optim.name", *([] if config.model.get("tokenizer") else ["labels"])):
        there, here = setting(theirs, key), OmegaConf.select(config.model, key)
        if there != here:
            raise InputError(f"{where}: does not fit; model.{key} is {there} in it and {here} in the config")
    if config.model.get("tokenizer"):
        _check_same_pieces(where, path, theirs, Path(config.model.tokenizer.dir))
    epochs = config.trainer.get("max_epochs") or -1
    if 0 <= epochs <= done:
        raise InputError(f"{where}: ends at epoch {done}; give trainer.max_epochs above {done}")
    return path


def _check_same_pieces(where: str, checkpoint: Path, theirs: DictConfig | dict, folder: Path) -> None:
    """Make sure that the model of a checkpoint writes the pieces of a tokenizer: each output stands for one of them.

    Args:
        where: begins the message.
        checkpoint: its file; the tokenizer of its training may be in a folder near it.
        theirs: the config of its model.
        folder: of the tokenizer.

    Raises:
        InputError: they are other pieces; the message names both tokenizers.
    """
    near = next((near for near in checkpoint.parents[:2] if (near / TOKENIZER / tokenizers.MODEL).is_file()), None)
    known = [setting(theirs, key) for key in ("joint.vocabulary", "decoder.vocabulary")]
    there = next(filter(None, known), None)
    if near is not None:
        there = tokenizers.pieces_of(tokenizers.load(near / TOKENIZER))
    pieces = tokenizers.pieces_of(tokenizers.load(folder))
    if there is None or list(there) == pieces:
        return
    place = next((place for place, pair in enumerate(zip(there, pieces, strict=False)) if pair[0] != pair[1]), None)
    what = f"{len(there)} pieces and {len(pieces)}" if place is None else f"{there[place]!r} and {pieces[place]!r}"
    tokenizer = near / TOKENIZER if near else setting(theirs, "tokenizer.dir")
    raise InputError(
        f"{where}: does not fit; it writes the pieces of the tokenizer {tokenizer}, and the config has "
        f"model.tokenizer.dir={folder} (the first difference: {what}); give model.tokenizer.dir={tokenizer}"
    )


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


def latest_checkpoint(folder: Path, log: Callable[[str], object] = print) -> Path | None:
    """Return the checkpoint from which a training that was killed goes on: the last one, or an earlier one.

    A file that can't be read, because a disk was full or a copy was cut short, is named and passed over.

    Args:
        folder: of the training's checkpoints.
        log: called with a line about each file that can't be read, and what is used instead.

    Returns:
        `last.ckpt`, else that of the best epoch; None if there is none that can be read.
    """
    best = sorted(folder.glob("best-*.ckpt"), key=os.path.getmtime, reverse=True)
    broken = []
    for path in [path for path in (folder / "last.ckpt", *best) if path.is_file()]:
        try:
            done = epoch_after(read_state(path))
        except (InputError, OSError) as error:
            broken.append(path)
            log(f"warning: {error}")
        else:
            if broken:
                log(f"warning: {path.name}, of the end of epoch {done}, is used instead; later epochs are repeated")
            return path
    if broken:
        log("warning: no other checkpoint is there; the training starts again")
    return None


# In the messages of PyTorch's writer of archives: which one depends on how much still fitted on the disk.
_WRITER = ("PytorchStreamWriter", "inline_container", "iostream error")


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Raise an InputError that names the file and the next step, in place of the errors of a full or lost disk.

    PyTorch's writer raises a RuntimeError of its own for those.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _WRITER):
            raise
        reason = reason_of(error) if isinstance(error, OSError) else "the disk is full, or can't be written to"
        raise InputError(
            f"{path}: {what} can't be written ({reason}); what was saved before is whole: the same command resumes"
        ) from error


def read_state(checkpoint: Path) -> dict:
    """Return the content of a training's checkpoint, its tensors memory-mapped.

    Raises:
        InputError: it is damaged, has objects of types that a checkpoint of this package doesn't have, or is none of a
            NeMo model's training.
        OSError: it can't be opened.
    """
    state = read_saved(checkpoint, mmap=True)
    try:
        setting(state["hyper_parameters"]["cfg"], "optim")
        dict(state["state_dict"]), epoch_after(state)
    except Exception as error:  # what is missing, or has another type
        raise InputError(f"{checkpoint}: not a checkpoint of a NeMo model's training (it lacks {error})") from error
    return state


def setting(config: DictConfig | dict, key: str) -> object:
    """Return a setting of a checkpoint's model as it is written there, None if there is none.

    References aren't followed: a training writes none, and what they call (`${multiply:...}`) could take all memory.

    Example:
        >>> setting(OmegaConf.create({"optim": {"name": "${oc.env:HOME}"}}), "optim.name")
        '${oc.env:HOME}'
    """
    found = OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def is_own(path: str | os.PathLike, folder: Path) -> bool:
    """Return whether a path is that of a checkpoint which a training writes into its folder, and no folder itself."""
    path = Path(path)
    return (
        os.path.realpath(path.parent) == os.path.realpath(folder)
        and bool(re.fullmatch(r"(best-.*|last)\.ckpt", path.name, re.DOTALL))
        and not path.is_dir()
    )


def with_own_paths(state: dict, folder: Path) -> dict:
    """Return the state of a training, in which the callback that writes to its folder names no path outside of it.

    Lightning removes those paths when there are better ones, and takes any that a checkpoint names for its own. Of a
    callback that writes to another folder, it takes the paths only for one of the user's that still writes there.

    Args:
        state: the content of a checkpoint.
        folder: of the training's checkpoints.
    """
    callbacks = state.get("callbacks")
    for name, kept in callbacks.items() if isinstance(callbacks, dict) else ():
        if not (str(name).startswith("ModelCheckpoint") and isinstance(kept, dict)):
            continue
        kept["dirpath"] = str(kept.get("dirpath") or "")  # without one, Lightning takes all of it for its own
        kept.setdefault("best_model_score", None)
        if kept["dirpath"] and os.path.realpath(kept["dirpath"]) != os.path.realpath(folder):
            kept.setdefault("best_model_path", "")
            continue
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            if not (isinstance(kept.get(key), str) and is_own(kept[key], folder)):
                kept[key] = ""
        best = kept.get("best_k_models")
        best = best.items() if isinstance(best, dict) else ()
        kept["best_k_models"] = {path: one for path, one in best if isinstance(path, str) and is_own(path, folder)}
    return state


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
