"""Fine-tuning: train a model further on other recordings, with the same alphabet or another one.

A fine-tuning is a training (`training.train`) that starts from a model's weights instead of random ones. Like any
other it has a run folder, resumes after an interruption, and logs to W&B. The `finetuning:` section of its config sets
the rest: the model, the parts that are frozen, and the learning rates of the others.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.data.training_data import parse_manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models import nemo_internals
from asr_with_nemo.models.loading import alphabet, load_model, writes_letters
from asr_with_nemo.models.names import model_path
from asr_with_nemo.models.recognizer import check_ctc
from asr_with_nemo.models.vocabulary import read_alphabet
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.training import config as training_config
from asr_with_nemo.training import run
from asr_with_nemo.training.config import DATASETS, overridden_keys

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecCTCModel

FREEZE = ("none", "encoder", "bn")
"""Parts of a model that can be frozen: none; the whole encoder; the running statistics of batch norm."""
PARTS = ("encoder", "decoder")
"""Parts of a model that can have learning rates of their own."""
DEFAULTS = {"model": None, "freeze": "none", "vocabulary": None, "keep_letters": True, "learning_rates": {}}
"""Of a config's `finetuning:` section, which configs/finetune.yaml explains. `complete_config` adds a sha256."""


# --- The config -------------------------------------------------------------------------------------------------------


def load_config(
    train_manifest: str | os.PathLike,
    dev_manifest: str | os.PathLike,
    settings: Mapping[str, object],
    overrides: Sequence[str] = (),
    config_path: str | os.PathLike = "configs",
    config_name: str = "finetune",
) -> DictConfig:
    """Read the config of a fine-tuning.

    Args:
        train_manifest, dev_manifest: paths of the manifests.
        settings: of the `finetuning:` section, such as {"model": "an4", "freeze": "bn"}; a value of None keeps the
            config's.
        overrides: Hydra's, as for `training.load_config`; those of `finetuning.` are accepted with any config.
        config_path, config_name: of a training config.

    Raises:
        InputError: as `training.load_config`.
    """
    given = [f"++{item}" if item.startswith("finetuning.") else item for item in overrides]
    config = training_config.load_config(config_path, config_name, given)
    with open_dict(config):
        config.finetuning = config.get("finetuning") or {}
        config.finetuning.update({key: value for key, value in settings.items() if value is not None})
        config.model.train_ds.manifest_filepath = str(train_manifest)
        config.model.validation_ds.manifest_filepath = str(dev_manifest)
        if "name" not in overridden_keys(overrides):
            model = str(config.finetuning.get("model")).rpartition("/")[2]
            config.name = artifacts.valid_name(f"{re.sub(r'[.](nemo|ckpt)$', '', model)}_finetuned")
    return config


def complete_config(config: DictConfig, base: "EncDecCTCModel") -> DictConfig:
    """Complete the config of a fine-tuning with the network and the alphabet of the model that it starts from.

    Preprocessor, encoder and decoder are the model's; data, augmentation, optimizer and all else are the config's.

    Args:
        config: with a `finetuning:` section; it is not changed.
        base: the model that it starts from.

    Returns:
        the training config.

    Raises:
        InputError: a setting of that section is unknown or invalid, or the transcripts have letters that the alphabet
            lacks.
    """
    config = config.copy()
    settings = _settings(config)
    check_ctc(base, f"{settings['model']}: fine-tuning")
    same = writes_letters(base) and settings["vocabulary"] is None
    if not same and settings["vocabulary"] is None:
        raise InputError(
            f"{settings['model']}: a subword model, and the models trained here write letters; set the alphabet: "
            "--vocabulary LETTERS, or --vocabulary MANIFEST for the letters of its transcripts"
        )
    letters = alphabet(base) if same else read_alphabet(settings["vocabulary"])
    network = OmegaConf.to_container(base.cfg, resolve=True)
    with open_dict(config):
        config.finetuning = settings | {"sha256": sha256_of(model_path(settings["model"]))}
        model = config.model
        model.preprocessor, model.encoder = network["preprocessor"], network["encoder"]
        for key in ("tokenizer", "joint", "aux_ctc", "loss"):  # of a config for another family
            model.pop(key, None)
        model.decoder = network["decoder"] | {"vocabulary": letters, "num_classes": len(letters)}
        model.labels, model.sample_rate = letters, network["sample_rate"]
        rates = settings["learning_rates"]
        if rates:
            model.optim_param_groups = {part: {"lr": model.optim.lr * rates.get(part, 1.0)} for part in PARTS}
    _check_letters(config, letters)
    return config


def _settings(config: DictConfig) -> dict[str, object]:
    """Return the `finetuning:` section of a config with all settings, checked."""
    section = OmegaConf.to_container(config.get("finetuning") or OmegaConf.create(), resolve=True)
    section.pop("sha256", None)
    unknown = sorted(section.keys() - DEFAULTS.keys())
    if unknown:
        raise InputError(f"finetuning.{unknown[0]}: no such setting; expected one of {', '.join(DEFAULTS)}")
    settings = DEFAULTS | section
    if not settings["model"]:
        raise InputError("finetuning.model: not set; name the model to start from, such as an4 or a .nemo file")
    if settings["freeze"] not in FREEZE:
        raise InputError(f"finetuning.freeze={settings['freeze']}: expected one of {', '.join(FREEZE)}")
    rates = settings["learning_rates"] or {}
    for part, factor in rates.items():
        if part not in PARTS or not isinstance(factor, int | float) or factor < 0:
            raise InputError(
                f"finetuning.learning_rates.{part}={factor}: expected a factor of model.optim.lr, 0 or more, for one "
                f"of {', '.join(PARTS)}; to train a part not at all, set finetuning.freeze"
            )
    return settings | {"learning_rates": rates}


def _check_letters(config: DictConfig, letters: Sequence[str]) -> None:
    for name in DATASETS[:2]:
        path = (config.model.get(name) or {}).get("manifest_filepath")
        if isinstance(path, str) and Path(path).is_file():
            strange = sorted(parse_manifest(path).letters - set(letters))
            if strange:
                raise InputError(
                    f"{path}: its transcripts have {' '.join(map(repr, strange))}, which the alphabet "
                    f"{''.join(letters)!r} lacks; set one that has them with --vocabulary LETTERS or --vocabulary "
                    "MANIFEST, or change the transcripts"
                )


# --- The weights ------------------------------------------------------------------------------------------------------


def adopt(model: "EncDecCTCModel", base: "EncDecCTCModel", keep_letters: bool = True) -> list[str]:
    """Copy the weights of another model with the same encoder, and those of its decoder for the letters in common.

    A decoder has a row of weights for each letter and one for the blank. The rows of the letters in both alphabets and
    of the blank are copied; the other rows of `model` keep their values, which are random in a new model.

    Args:
        model: the model to change, in place.
        base: the model to copy from.
        keep_letters: False leaves the whole decoder as it is, for a new one, as NeMo's `change_vocabulary` makes it.

    Returns:
        the letters whose rows were copied.

    Raises:
        InputError: the two encoders differ.
    """
    weights = {name: tensor for name, tensor in base.state_dict().items() if not name.startswith("decoder.")}
    try:
        model.load_state_dict(weights | model.decoder.state_dict(prefix="decoder."))
    except RuntimeError as error:
        raise InputError(f"the two models have different encoders: {error}") from error
    new, old = alphabet(model), alphabet(base) if writes_letters(base) else []
    same_shape = [tensor.shape[1:] for tensor in model.decoder.parameters()]
    if not keep_letters or same_shape != [tensor.shape[1:] for tensor in base.decoder.parameters()]:
        return []
    kept = [letter for letter in new if letter in old]
    rows = [(new.index(letter), old.index(letter)) for letter in kept] + [(len(new), len(alphabet(base)))]
    with torch.no_grad():
        for mine, other in zip(model.decoder.parameters(), base.decoder.parameters(), strict=True):
            for to, origin in rows:
                mine[to] = other[origin]  # (C, 1) of a convolution's weights, () of its bias
    return kept


class Frozen(pl.Callback):
    """Freeze parts of a model while the rest is trained.

    Switching gradients off is not enough: batch norm updates its running mean and variance whenever it is in training
    mode, so the frozen parts have to be in evaluation mode. NeMo's `encoder.freeze()` calls `eval()`, and Lightning's
    `fit` keeps the mode of each module (since 2.2). But code that runs between two steps can set it back: NeMo's
    `transcribe()` ends with `encoder.unfreeze()`, which calls `train()`, and a helper that ends with
    `model.train(was_training)` sets the mode of all modules. So the mode is set before each step. It also switches off
    the dropout of a frozen encoder.

    Args:
        what: "encoder" for all of it; or "bn" for the running statistics of batch norm, which then normalizes with
            those of the pretrained model instead of those of each batch; its scale and shift are still trained.
    """

    def __init__(self, what: str):
        self.what = what

    def modules(self, model: pl.LightningModule) -> list[nn.Module]:
        """Return the modules to keep in evaluation mode."""
        if self.what == "encoder":
            return [model.encoder]
        return [module for module in model.modules() if nemo_internals.is_batch_norm(module)]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.what == "encoder":
            pl_module.encoder.requires_grad_(False)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        for module in self.modules(pl_module):
            module.eval()


# --- One fine-tuning --------------------------------------------------------------------------------------------------


def train(config: DictConfig, overridden: set[str] = frozenset(), callbacks: Sequence[pl.Callback] = ()) -> Path:
    """Fine-tune as a config says and return the path of the `.nemo` file.

    Args:
        config: as `load_config` gives it.
        overridden: the dotted keys that the machine's settings must not replace (`training.overridden_keys`).
        callbacks: further ones for Lightning's Trainer.

    Raises:
        InputError: the model, the data or the config can't be used; the message names what to change.
    """
    name = _settings(config)["model"]
    base = load_model(name).cpu()
    config = complete_config(config, base)
    settings, say = config.finetuning, rank_zero_only(print)

    def begin(model: "EncDecCTCModel") -> None:
        kept, letters = adopt(model, base, settings.keep_letters), alphabet(model)
        new = [letter for letter in letters if letter not in kept]
        say(f"starts from {name}; of {len(letters)} letters the decoder has {len(kept)}{_listed(new)}")

    if settings.freeze != "none":
        callbacks = [Frozen(settings.freeze), *callbacks]
    return run.train(config, overridden, callbacks, begin)


def _listed(new: Sequence[str]) -> str:
    return f", new: {' '.join(map(repr, new))}" if new else ""
