"""Fine-tuning: train a model further on other recordings, with the same vocabulary or another one.

A fine-tuning is a training (`training.train`) that starts from a model's weights instead of random ones. Like any
other it has a run folder, resumes after an interruption, and logs to W&B. The `finetuning:` section of its config sets
the rest: the model, its vocabulary (`training.vocabularies`), the parts that are frozen, and the learning rates of the
others. Any recogniser can be fine-tuned: by CTC, RNN-T or TDT, or a hybrid; of letters or of pieces of words.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from asr_with_nemo.base.files import read_text
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.data.shards import is_place
from asr_with_nemo.data.training_data import TrainingData
from asr_with_nemo.errors import InputError
from asr_with_nemo.models import nemo_internals
from asr_with_nemo.models.loading import alphabet, load_model, writes_letters
from asr_with_nemo.models.names import model_path
from asr_with_nemo.models.recognizer import check_has_frames
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.training import adapters, baseline, overfit, run, shards, vocabularies
from asr_with_nemo.training import config as training_config
from asr_with_nemo.training.config import DATASETS, overridden_keys, texts_of
from asr_with_nemo.training.vocabularies import Vocabulary

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

FREEZE = ("none", "encoder", "bn")
"""Parts of a model that can be frozen: none; the whole encoder; the running statistics of batch norm."""
PARTS = ("encoder", "decoder", "joint", "ctc_decoder")
"""Parts of a model that can have learning rates of their own; a transducer's decoder is its prediction network."""
DEFAULTS = {
    "model": None,
    "freeze": "none",
    "adapter": None,
    "vocabulary": None,
    "words": None,
    "keep_letters": True,
    "learning_rates": {},
}
"""Of a config's `finetuning:` section, which configs/finetune.yaml explains. `complete_config` adds a sha256."""
_LATER = ("adapter", "words")
"""Settings that are left out where they are off: a fine-tuning from before they were there finds its folder again."""
_OF_A_FAMILY = ("tokenizer", "joint", "aux_ctc", "loss")
"""Sections of `model:` that the model which a fine-tuning starts from decides."""


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
        train_manifest, dev_manifest: paths of the manifests; of the training set, also of shards.
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
        if section := config.model.pop("adapter", None):  # of NeMo's configs for its train_asr_adapter.py
            config.finetuning.adapter = config.finetuning.get("adapter") or adapters.width_of(section)
        key = "shar_path" if is_place(str(train_manifest)) else "manifest_filepath"
        config.model.train_ds[key] = str(train_manifest)
        config.model.validation_ds.manifest_filepath = str(dev_manifest)
        if "name" not in overridden_keys(overrides):
            model = str(config.finetuning.get("model")).rpartition("/")[2]
            config.name = artifacts.valid_name(f"{re.sub(r'[.](nemo|ckpt)$', '', model)}_finetuned")
    return config


def complete_config(config: DictConfig, base: "ASRModel") -> DictConfig:
    """Complete the config of a fine-tuning with the network and the vocabulary of the model that it starts from.

    Preprocessor, encoder and decoders are the model's; data, augmentation, optimizer and all else are the config's.

    Args:
        config: with a `finetuning:` section; it is not changed.
        base: the model that it starts from.

    Returns:
        the training config.

    Raises:
        InputError: a setting of that section is unknown or invalid, or the transcripts have letters that the vocabulary
            lacks.
    """
    return _complete(config, base)[0]


def _complete(config: DictConfig, base: "ASRModel") -> tuple[DictConfig, Vocabulary]:
    config = config.copy()
    settings = _settings(config)
    given = {key: value for key, value in settings.items() if value is not None or key not in _LATER}
    with open_dict(config):
        config.finetuning = given | {"sha256": sha256_of(model_path(settings["model"]))}
    vocabulary = vocabularies.choose(settings["vocabulary"], base, config, _texts(config))
    rates = settings["learning_rates"]
    parts = [part for part in PARTS if hasattr(base, part)]
    if wrong := sorted(set(rates) - set(parts)):
        raise InputError(f"finetuning.learning_rates.{wrong[0]}: this model has {' and '.join(parts)}")
    with open_dict(config):
        model = config.model
        asked = {key: model.pop(key, None) for key in _OF_A_FAMILY}
        network = OmegaConf.to_container(base.cfg, resolve=True)
        if settings["adapter"]:
            adapters.add(network, settings["adapter"])
        model.update(_network(network, vocabulary, asked))
        if asked["joint"] and "joint" not in network:
            model.decoding = {"strategy": "greedy_batch"}  # the config's is that of a transducer
        model.labels, model.sample_rate = vocabulary.letters, network["sample_rate"]
        if vocabulary.letters is None:
            for section in (*(model[name] for name in DATASETS if model.get(name)), model):  # they refer to it
                section.pop("labels", None)
        if rates:
            model.optim_param_groups = {part: {"lr": model.optim.lr * rates.get(part, 1.0)} for part in parts}
    return config, vocabulary


def _network(network: dict, vocabulary: Vocabulary, asked: Mapping[str, object]) -> dict[str, object]:
    """Return the sections of a training config that describe the network of a model, with a vocabulary.

    Args:
        network: the config of the model.
        vocabulary: the new one.
        asked: what the training config has in place of them; a hybrid's CTC weight and the kind of an RNN-T's loss are
            its.
    """
    letters = vocabulary.letters
    ctc = {"num_classes": len(letters or ()) or -1, "vocabulary": letters or []}
    found = {key: network[key] for key in ("preprocessor", "encoder", "decoder", "adapters") if key in network}
    if vocabulary.tokenizer is not None:
        found["tokenizer"] = vocabulary.tokenizer
    if "joint" not in network:
        return found | {"decoder": network["decoder"] | ctc}
    # NeMo sets the number of symbols of a transducer's networks itself.
    found["decoder"] = {key: value for key, value in network["decoder"].items() if key != "vocab_size"}
    found["joint"] = {k: value for k, value in network["joint"].items() if k not in ("num_classes", "vocabulary")}
    found |= {key: network[key] for key in ("model_defaults", "decoding", "loss") if key in network}
    kind = (asked["loss"] or {}).get("loss_name")
    if "loss" not in network and kind and not str(kind).startswith("tdt"):
        found["loss"] = asked["loss"]
    if "aux_ctc" in network:
        section = network["aux_ctc"]
        weight = (asked["aux_ctc"] or {}).get("ctc_loss_weight", section.get("ctc_loss_weight", 0.5))
        found["aux_ctc"] = {"ctc_loss_weight": weight, "decoder": section["decoder"] | ctc}
    return found


def _texts(config: DictConfig) -> dict[str, list[str]]:
    """Return the texts of a config's manifests, as `texts_of`; of a manifest that is missing, the training says so."""
    for name in DATASETS[1:2] if shards.place_of(config) else DATASETS[:2]:
        path = (config.model.get(name) or {}).get("manifest_filepath")
        if not isinstance(path, str) or not Path(path).is_file():
            return {}
    return texts_of(config, TrainingData())


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
    settings["adapter"] = adapters.dim_of(settings["adapter"])
    if settings["adapter"] and settings["freeze"] != "none":
        raise InputError(
            f"--adapter with --freeze {settings['freeze']}: adapters freeze the rest anyway; leave one out"
        )
    settings["words"] = _words(settings["words"])
    if settings["words"] and settings["vocabulary"] != vocabularies.EXTEND:
        raise InputError("--words: only with --vocabulary extend, whose pieces they are added to")
    rates = settings["learning_rates"] or {}
    for part, factor in rates.items():
        if part not in PARTS or not isinstance(factor, int | float) or factor < 0:
            raise InputError(
                f"finetuning.learning_rates.{part}={factor}: expected a factor of model.optim.lr, 0 or more, for one "
                f"of {', '.join(PARTS)}; to train a part not at all, set finetuning.freeze"
            )
    return settings | {"learning_rates": rates}


def _words(given: object) -> list[str] | None:
    """Return the words of a setting: a list, a text with spaces or lines between them, or a file with such a text.

    Raises:
        InputError: it is none of these.
    """
    if given is None or given == []:
        return None
    if isinstance(given, str):
        given = (read_text(given, "a list of words", "no such file") if Path(given).is_file() else given).split()
    if (
        not isinstance(given, list)
        or not given
        or any(not isinstance(one, str) or len(one.split()) != 1 for one in given)
    ):
        raise InputError(f"finetuning.words={given}: expected words, or a file with them")
    return list(dict.fromkeys(given))


# --- The weights ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adopted:
    """What a model has taken over from another one.

    Attributes:
        symbols: the letters or pieces whose rows of weights were copied.
        new: the parts or layers of which nothing was copied.
    """

    symbols: list[str]
    new: list[str]


def adopt(model: "ASRModel", base: "ASRModel", keep_letters: bool = True) -> Adopted:
    """Copy the weights of another model with the same network, and of the layers with symbols those in common.

    The last layers of a CTC decoder and of a joint network have a row of weights for each symbol (a letter or piece),
    then one for the blank, then a TDT's for its durations; the embedding of a prediction network has a row for each
    symbol that was written before. The rows of the symbols in both vocabularies, of the blank and of the durations are
    copied; the other rows of `model` keep their values, which are random in a new model.

    Args:
        model: the model to change, in place.
        base: the model to copy from.
        keep_letters: False leaves the CTC decoder, the joint network and the embedding as they are, for new ones, as
            NeMo's `change_vocabulary` makes them; of the prediction network, the rest is copied.

    Raises:
        InputError: the two encoders differ.
    """
    mine, theirs = model.state_dict(), base.state_dict()
    for name in sorted(mine.keys() | theirs.keys()):
        shapes = [tuple(state[name].shape) if name in state else "missing" for state in (mine, theirs)]
        is_added = adapters.LAYER in name and shapes[1] == "missing"
        if name.startswith("encoder.") and shapes[0] != shapes[1] and not is_added:
            raise InputError(
                f"the two models have different encoders: {name} is {shapes[0]} in one and {shapes[1]} in the other"
            )
    new, old = alphabet(model), alphabet(base)
    places = (
        {symbol: place for place, symbol in enumerate(old)} if writes_letters(model) == writes_letters(base) else {}
    )
    kept = [symbol for symbol in new if symbol in places] if keep_letters else []
    rows = [(place, places[symbol]) for place, symbol in enumerate(new) if symbol in places]
    layers, heads, left, by_rows = _vocabulary_layers(model), _heads(model), [], False
    with torch.no_grad():
        for name, tensor in mine.items():
            other = theirs.get(name)
            if not keep_letters and name.startswith((*layers, *heads)):
                left.append(name)
            elif name.startswith(layers):
                done = other is not None and _copy_rows(tensor, other, rows, len(new), len(old))
                by_rows |= done
                left += [] if done else [name]
            elif other is not None and other.shape == tensor.shape:
                tensor.copy_(other)
            elif adapters.LAYER not in name:
                left.append(name)
    return Adopted(kept if by_rows else [], _parts(left, mine))


def _vocabulary_layers(model: "ASRModel") -> tuple[str, ...]:
    """Return the prefixes of the names of the weights that have a row for each symbol."""
    ctc = "ctc_decoder" if hasattr(model, "ctc_decoder") else "decoder"
    names = [] if ctc == "decoder" and hasattr(model, "joint") else [f"{ctc}.decoder_layers.", f"{ctc}.linear_layer."]
    if hasattr(model, "joint"):
        names += [f"joint.joint_net.{len(model.joint.joint_net) - 1}.", "decoder.prediction.embed"]
    return tuple(names)


def _heads(model: "ASRModel") -> tuple[str, ...]:
    """Return the prefixes of the names of the parts that choose the next symbol."""
    if not hasattr(model, "joint"):
        return ("decoder.",)
    return ("joint.", "ctc_decoder.")


def _copy_rows(mine: torch.Tensor, other: torch.Tensor, rows: Sequence[tuple[int, int]], new: int, old: int) -> bool:
    """Copy rows of a layer with a row for each symbol, and then for the blank and the like; False if they don't fit.

    Args:
        mine, other: the weights, changed in place, and copied from; (V + n, ...) with n rows that are no symbols'.
        rows: those of the symbols in common, in each of the two.
        new, old: the numbers of symbols, V, in each.
    """
    more = len(mine) - new
    if more != len(other) - old or mine.shape[1:] != other.shape[1:]:
        return False
    for to, origin in [*rows, *((new + place, old + place) for place in range(more))]:
        mine[to] = other[origin]  # (C, 1) of a CTC decoder's weights, (C,) of a joint network's, () of a bias
    return True


def _parts(left: Sequence[str], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the parts (encoder, joint) all of whose weights are listed, and of other parts the layers."""
    found = []
    for name in left:
        part = name.partition(".")[0]
        whole = all(other in left for other in state if other.startswith(f"{part}."))
        found.append(part if whole else name.rpartition(".")[0])
    return list(dict.fromkeys(found))


class Frozen(pl.Callback):
    """Freeze parts of a model while the rest is trained.

    Switching gradients off is not enough: batch norm updates its running mean and variance whenever it is in training
    mode, so the frozen parts have to be in evaluation mode. NeMo's `encoder.freeze()` calls `eval()`, and Lightning's
    `fit` keeps the mode of each module (since 2.2). But code that runs between two steps can set it back: NeMo's
    `transcribe()` ends with `encoder.unfreeze()`, which calls `train()`, and a helper that ends with
    `model.train(was_training)` sets the mode of all modules. So the mode is set before each step. It also switches off
    the dropout of a frozen encoder.

    Args:
        what: "encoder" for all of it; "adapter" for all but the newest adapters; or "bn" for the running statistics of
            batch norm, which then normalizes with those of the pretrained model instead of those of each batch; its
            scale and shift are still trained.
        decoders: of a model with new adapters, whether the decoders are trained too.
    """

    def __init__(self, what: str, decoders: bool = False):
        self.what = what
        self.decoders = decoders

    def modules(self, model: pl.LightningModule) -> list[nn.Module]:
        """Return the modules to keep in evaluation mode."""
        if self.what == "encoder" or (self.what == "adapter" and self.decoders):
            return [model.encoder]
        if self.what == "adapter":
            return [getattr(model, part) for part in PARTS if hasattr(model, part)]
        return [module for module in model.modules() if nemo_internals.is_batch_norm(module)]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.what == "encoder":
            pl_module.encoder.requires_grad_(False)
        elif self.what == "adapter":
            adapters.freeze_all_but(pl_module, list(pl_module.cfg.adapters)[-1], self.decoders)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        for module in self.modules(pl_module):
            module.eval()


# --- One fine-tuning --------------------------------------------------------------------------------------------------


class _Start(NamedTuple):
    """How a fine-tuning begins: its config, the callbacks of its settings, and what sets the weights of its model."""

    config: DictConfig
    callbacks: list[pl.Callback]
    begin: Callable[["ASRModel"], None]


def train(config: DictConfig, overridden: set[str] = frozenset(), callbacks: Sequence[pl.Callback] = ()) -> Path:
    """Fine-tune as a config says and return the path of the `.nemo` file.

    Args:
        config: as `load_config` gives it.
        overridden: the dotted keys that the machine's settings must not replace (`training.overridden_keys`).
        callbacks: further ones for Lightning's Trainer.

    Raises:
        InputError: the model, the data or the config can't be used; the message names what to change.
    """
    start = _start(config)
    path = run.train(start.config, overridden, [*start.callbacks, *callbacks], start.begin)
    if rank_zero_only.rank == 0:
        for line in baseline.verdict(path.parent, run.read_log(path.parent), config.finetuning.model):
            print(line)
    return path


def overfit_batch(config: DictConfig, overridden: set[str] = frozenset(), seconds: float = overfit.SECONDS) -> bool:
    """Check that a fine-tuning can learn one batch by heart, as `overfit.overfit`; nothing is kept."""
    with overfit.apart(config) as own:
        start = _start(own)
        frozen = [one for one in start.callbacks if isinstance(one, Frozen)]
        return overfit.overfit(start.config, overridden, seconds, start.begin, frozen)


def _start(config: DictConfig) -> _Start:
    name = _settings(config)["model"]
    base = load_model(name).cpu()
    check_has_frames(
        base, f"finetune.py, {name}", "NeMo's examples/asr/speech_multitask/speech_to_text_aed.py trains it"
    )
    config, vocabulary = _complete(config, base)
    settings, say = config.finetuning, rank_zero_only(print)
    say(f"vocabulary: {vocabulary.said}")
    causes = {"freeze": settings.freeze, "utterances": _utterances(config), "adapter": "adapter" in settings}
    before = baseline.Baseline(causes, say)
    keep = settings.keep_letters and settings.vocabulary != vocabularies.NEW

    def begin(model: "ASRModel") -> None:
        adopted, symbols = adopt(model, base, keep), alphabet(model)
        kind = "letters" if writes_letters(model) else "pieces"
        new = [symbol for symbol in symbols if symbol not in set(adopted.symbols)]
        line = f"starts from {name}; of {len(symbols)} {kind} the decoder has {len(adopted.symbols)}"
        line += f", new: {vocabularies.listed(new)}" if new else ""
        say(line + (f"; random are the weights of {', '.join(sorted(adopted.new))}" if adopted.new else ""))
        if not adopted.symbols:
            before.missing = "no figure, since the outputs for all symbols start at random"
        if "adapter" in settings:
            frozen[0].decoders = bool(new)
            say(adapters.said(model, list(config.model.adapters)[-1], bool(new)))

    kind = "adapter" if "adapter" in settings else settings.freeze
    frozen = [] if kind == "none" else [Frozen(kind)]
    return _Start(config, [before, *frozen], begin)


def _utterances(config: DictConfig) -> int | None:
    """Return the number of utterances that a fine-tuning trains on, unless they are shards."""
    if shards.place_of(config):
        return None
    path = config.model.train_ds.manifest_filepath
    return round(TrainingData().listing(path).utterances * config.get("fraction", 1)) if Path(path).is_file() else None
