"""From a model and some recordings to a better model for these, with the same alphabet or another one.

A fine-tuning is a training (`training.train`) that begins with a model's weights instead of random ones. So it lives in
a folder like any other, goes on after an interruption, and logs the same. What is special stands in the `finetuning:`
section of its config: the model, what is frozen, and how fast its parts learn.
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
from asr_with_nemo.models.loading import alphabet, load_model, writes_letters
from asr_with_nemo.models.names import model_path
from asr_with_nemo.models.vocabulary import read_alphabet
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.training import config as training_config
from asr_with_nemo.training import run
from asr_with_nemo.training.config import DATASETS, overridden_keys

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecCTCModel

FREEZE = ("none", "encoder", "bn")
"""What of a model stays as it is: nothing; the encoder with all that is in it; the statistics of batch norm."""
PARTS = ("encoder", "decoder")
"""The parts of a model that can learn at rates of their own."""
DEFAULTS = {"model": None, "freeze": "none", "vocabulary": None, "keep_letters": True, "learning_rates": {}}
"""Of a config's `finetuning:` section; configs/finetune.yaml says what they mean. `complete` adds a sha256."""


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
        train_manifest, dev_manifest: the data.
        settings: of the `finetuning:` section, such as {"model": "an4", "freeze": "bn"}; None leaves the config's.
        overrides: Hydra's, as for `training.load_config`; those of `finetuning.` may be given whatever the config.
        config_path, config_name: any training config.

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
    """The training config of a fine-tuning: that of the training, with the network and the alphabet of a model.

    Preprocessor, encoder and decoder are the model's; data, augmentation, optimiser and all else are the config's.

    Args:
        config: with a `finetuning:` section; it is not changed.
        base: the model that it starts from.

    Raises:
        InputError: a setting of that section isn't known or can't be followed, or the texts have letters that the
            alphabet lacks.
    """
    config = config.copy()
    settings = _settings(config)
    same = writes_letters(base) and settings["vocabulary"] is None
    if not same and settings["vocabulary"] is None:
        raise InputError(
            f"{settings['model']}: writes pieces of words, and what is trained here writes letters; give an alphabet: "
            "--vocabulary LETTERS, or a manifest, whose texts have them"
        )
    letters = alphabet(base) if same else read_alphabet(settings["vocabulary"])
    network = OmegaConf.to_container(base.cfg, resolve=True)
    with open_dict(config):
        config.finetuning = settings | {"sha256": sha256_of(model_path(settings["model"]))}
        model = config.model
        model.preprocessor, model.encoder = network["preprocessor"], network["encoder"]
        model.decoder = network["decoder"] | {"vocabulary": letters, "num_classes": len(letters)}
        model.labels, model.sample_rate = letters, network["sample_rate"]
        rates = settings["learning_rates"]
        if rates:
            model.optim_param_groups = {part: {"lr": model.optim.lr * rates.get(part, 1.0)} for part in PARTS}
    _check_letters(config, letters)
    return config


def _settings(config: DictConfig) -> dict[str, object]:
    """The `finetuning:` section of a config, complete and checked."""
    section = OmegaConf.to_container(config.get("finetuning") or OmegaConf.create(), resolve=True)
    section.pop("sha256", None)
    unknown = sorted(section.keys() - DEFAULTS.keys())
    if unknown:
        raise InputError(f"finetuning.{unknown[0]}: no such setting; there are {', '.join(DEFAULTS)}")
    settings = DEFAULTS | section
    if not settings["model"]:
        raise InputError("finetuning.model: expected the model to start from, such as an4 or a .nemo file")
    if settings["freeze"] not in FREEZE:
        raise InputError(f"finetuning.freeze={settings['freeze']}: expected one of {', '.join(FREEZE)}")
    rates = settings["learning_rates"] or {}
    for part, factor in rates.items():
        if part not in PARTS or not isinstance(factor, int | float) or factor < 0:
            raise InputError(
                f"finetuning.learning_rates.{part}={factor}: expected a factor of model.optim.lr for one of "
                f"{', '.join(PARTS)}; what shall not learn at all is frozen (finetuning.freeze)"
            )
    return settings | {"learning_rates": rates}


def _check_letters(config: DictConfig, letters: Sequence[str]) -> None:
    for name in DATASETS[:2]:
        path = (config.model.get(name) or {}).get("manifest_filepath")
        if isinstance(path, str) and Path(path).is_file():
            strange = sorted(parse_manifest(path).letters - set(letters))
            if strange:
                raise InputError(
                    f"{path}: its texts have {' '.join(map(repr, strange))}, which the alphabet {''.join(letters)!r} "
                    "lacks; give one that has them, --vocabulary LETTERS or --vocabulary MANIFEST, or change the texts"
                )


# --- The weights ------------------------------------------------------------------------------------------------------


def adopt(model: "EncDecCTCModel", base: "EncDecCTCModel", keep_letters: bool = True) -> list[str]:
    """Give a model the weights of another one with the same encoder, and of its decoder what still fits.

    A decoder has a row of weights for each letter and one for the blank. Rows of letters that both models write are
    kept, and so is that of the blank; the others stay as they are in `model`, which is random in a new one.

    Args:
        model: is changed in place.
        base: where the weights come from.
        keep_letters: False makes the whole decoder new, as NeMo's `change_vocabulary` does.

    Returns:
        the letters whose rows were kept.

    Raises:
        InputError: the two don't have the same encoder.
    """
    weights = {name: tensor for name, tensor in base.state_dict().items() if not name.startswith("decoder.")}
    try:
        model.load_state_dict(weights | model.decoder.state_dict(prefix="decoder."))
    except RuntimeError as error:
        raise InputError(f"the two models don't have the same network: {error}") from error
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
    """Keep parts of a model as they are while all else learns.

    To ask for no gradients is not enough: batch norm renews its mean and variance whenever it is in training mode, and
    into that mode Lightning and NeMo put the whole model, at the start and after each validation. So the mode is set
    again before each step. The encoder's dropout is off then too: its weights have nothing to learn from it.

    Args:
        what: "encoder", all of it; or "bn", the statistics of batch norm, which then are the model's and not those of
            the batches; its scale and shift go on learning.
    """

    def __init__(self, what: str):
        self.what = what

    def modules(self, model: pl.LightningModule) -> list[nn.Module]:
        """The modules whose state stays."""
        if self.what == "encoder":
            return [model.encoder]
        return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

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
        InputError: the model, the data or the config can't be used, with what to change.
    """
    name = _settings(config)["model"]
    base = load_model(name).cpu()
    config = complete_config(config, base)
    settings, say = config.finetuning, rank_zero_only(print)

    def begin(model: "EncDecCTCModel") -> None:
        kept, letters = adopt(model, base, settings.keep_letters), alphabet(model)
        new = [letter for letter in letters if letter not in kept]
        say(f"starts from {name}; of {len(letters)} letters the decoder knows {len(kept)}{_listed(new)}")

    if settings.freeze != "none":
        callbacks = [Frozen(settings.freeze), *callbacks]
    return run.train(config, overridden, callbacks, begin)


def _listed(new: Sequence[str]) -> str:
    return f", new are {' '.join(map(repr, new))}" if new else ""
