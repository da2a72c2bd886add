"""Training a NeMo model from a config, on whatever machine it is.

A training lives in one folder, named for its config: the resolved config, checkpoints (the best and the last), a CSV
log, and, at the end, the `.nemo` file. The same config again finds that folder: a training that was killed goes on, one
that is finished is not done twice.

A W&B run notes of it: the config, the corpus that it is made from, metrics, a few transcripts while it learns, the
checkpoints as versions of an artifact, and the `.nemo` file.
"""

import difflib
import hashlib
import inspect
import json
import logging
import math
import os
import random
import re
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from asr_with_nemo import artifacts, manifest, monitoring, recipe, tracking
from asr_with_nemo.errors import InputError

DATASETS = ("train_ds", "validation_ds", "test_ds")
SUMMARY = "training.json"
GIVEN = ("seed", "final", "fraction", "exp_manager.resume_from_checkpoint")
"""Keys that can be given on the command line whether the config has them or not."""
QUIET = 5.0
"""Seconds for which a training need not say anything."""


# --- The config -------------------------------------------------------------------------------------------------------


def load_config(
    config_path: str | os.PathLike = "configs", config_name: str = "config", overrides: Sequence[str] = ()
) -> DictConfig:
    """Read a NeMo config and apply Hydra overrides (`model.optim.lr=0.01`, `+new.key=1`, `~key`).

    `GIVEN`, which NeMo's own configs lack, can always be given.

    Raises:
        InputError: no such config, an override that can't be read, or one of a key that doesn't exist.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    recipe.register()
    folder = Path(config_path).absolute()
    file = folder / f"{config_name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        texts = {path.name: path.read_text(encoding="utf-8", errors="ignore") for path in folder.glob("*.yaml")}
        # Others are of sweeps, studies and machines.
        there = sorted(name for name, text in texts.items() if re.search(r"^(model|defaults):", text, re.MULTILINE))
        raise InputError(f"{file}: no such config; the folder holds {', '.join(there) or 'no config at all'}")
    for item in overrides:
        try:
            OverridesParser.create().parse_override(item)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{item!r}: not an override ({reason}); expected key=value, +key=value or ~key") from error
    try:
        with initialize_config_dir(str(folder), version_base=None):
            name = config_name.removesuffix(".yaml")
            given = [f"++{item}" if item.split("=")[0] in GIVEN else item for item in overrides]
            config = compose(name, overrides=given)
        OmegaConf.to_container(config, resolve=True)  # a reference to nothing is found here
    except (HydraException, OmegaConfBaseException) as error:
        if told := _input_error(error):  # what the config asks of the corpus can't be told
            raise told from None
        raise InputError(_explain(error, file)) from error
    except Exception as error:  # of the YAML parser, which differs between versions
        raise InputError(f"{file}: can't be read as YAML: {error}") from error
    if not isinstance(config.get("model"), DictConfig):
        raise InputError(f"{file}: has no `model:` section, so it is no NeMo training config")
    if not isinstance(config.get("seed", 0), int):
        raise InputError(f"seed={config.seed}: expected a whole number")
    if not isinstance(config.get("final", False), bool):
        raise InputError(f"final={config.final}: expected true or false")
    fraction = config.get("fraction", 1)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise InputError(
            f"fraction={fraction}: expected the part of the training utterances to take, above 0 and up to 1"
        )
    monitoring.check(config)
    return config


def _input_error(error: BaseException | None) -> InputError | None:
    """The error of ours that a library has wrapped into its own, if there is one."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _explain(error: Exception, file: Path) -> str:
    """Hydra's complaint about an override, with the nearest keys that do exist."""
    message = str(error).splitlines()[0]
    wrong = re.search(r"Could not override '([^']+)'", message)
    if not wrong:
        return f"{file}: {error}"
    near = difflib.get_close_matches(wrong[1], all_keys(OmegaConf.load(file)), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{file} has no key {wrong[1]!r}{hint} (to add a new key, write +{wrong[1]}=...)"


def all_keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a config."""
    keys = []
    for key in config:
        keys.append(f"{prefix}{key}")
        value = OmegaConf.to_container(config).get(key)
        if isinstance(value, dict):
            keys += all_keys(OmegaConf.create(value), f"{prefix}{key}.")
    return keys


def bound_keys(overrides: Sequence[str]) -> set[str]:
    """The dotted keys that were given on the command line, and that nothing may replace."""
    return {item.lstrip("+").split("=", 1)[0] for item in overrides if not item.startswith("~")}


def _is_bound(key: str, bound: set[str]) -> bool:
    """Whether a dotted key, or a section that it lies in, was given on the command line."""
    parts = key.split(".")
    return any(".".join(parts[:end]) in bound for end in range(1, len(parts) + 1))


# --- The machine ------------------------------------------------------------------------------------------------------


def has_working_gpu() -> bool:
    """Whether this torch can compute on this machine's NVIDIA GPU (a K80, say, is there but no longer supported)."""
    if not torch.cuda.is_available():
        return False
    try:
        return bool((torch.ones(8, device="cuda") * 2).sum().item() == 16)
    except RuntimeError:
        return False


def machine_settings(gpu: bool) -> dict[str, object]:
    """What a Trainer and the data loaders should use here: one process on a CPU, or every GPU.

    bf16 where the hardware has it (the weights stay fp32). Apple's GPU has no CTC loss, so a Mac trains on its CPU.
    """
    if gpu:
        # In a notebook's kernel CUDA is in use already, and processes can't be started from there.
        devices = 1 if hasattr(sys, "ps1") or "ipykernel" in sys.modules else torch.cuda.device_count()
        return {
            "accelerator": "gpu",
            "devices": devices,
            "num_nodes": 1,
            "strategy": "ddp" if devices > 1 else "auto",
            "precision": "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true",
            "num_workers": min(8, os.cpu_count() or 1),
            "pin_memory": True,
        }
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch: none known, so fp32
    bf16 = capabilities.get("avx512_bf16", False)
    return {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "bf16-mixed" if bf16 else "32-true",
        # Reading AN4's WAVs takes 1% of a step, and workers would take the cores that compute.
        "num_workers": 0,
        "pin_memory": False,
    }


def fit_to_machine(config: DictConfig, bound: set[str] = frozenset()) -> tuple[DictConfig, str]:
    """Replace what a config says of GPUs, devices, strategy, precision and workers by what this machine has.

    Trainer settings that Lightning no longer knows (old configs have `gpus`, `amp_level`) are left out.

    Args:
        config: a NeMo training config; it is not changed.
        bound: dotted keys that stay as they are: those of the command line.

    Returns:
        the config for this machine, and one line that says what it uses and what was replaced.

    Raises:
        InputError: a trainer setting given on the command line is none of Lightning's.
    """
    config = config.copy()
    with open_dict(config):
        config.trainer = config.get("trainer") or {}
    on_cpu = _is_bound("trainer.accelerator", bound) and config.trainer.get("accelerator") == "cpu"
    machine = machine_settings(gpu=not on_cpu and has_working_gpu())
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    replaced = []
    with open_dict(config):
        trainer = config.trainer
        for key in list(trainer):
            if key not in known:
                if _is_bound(f"trainer.{key}", bound):
                    raise InputError(f"trainer.{key}: Lightning's Trainer has no such setting; it has {sorted(known)}")
                replaced.append(f"trainer.{key}={trainer.pop(key)}")
        if trainer.get("max_steps", -1) is None:
            trainer.max_steps = -1
        if trainer.get("max_epochs") is None and trainer.get("max_steps", -1) == -1:
            raise InputError("the config doesn't say how long to train: give trainer.max_epochs or trainer.max_steps")
        for key in ("accelerator", "devices", "num_nodes", "strategy", "precision"):
            _replace(trainer, "trainer", key, machine[key], bound, replaced)
        if trainer.devices in (1, "1") and not _is_bound("trainer.strategy", bound):
            trainer.strategy = "auto"
        for name in DATASETS:
            dataset = config.model.get(name)
            if dataset is not None:
                for key in ("num_workers", "pin_memory"):
                    _replace(dataset, f"model.{name}", key, machine[key], bound, replaced)
    line = f"machine: {trainer.accelerator}, {trainer.devices} device(s), precision {trainer.precision}"
    line += f" ({torch.cuda.get_device_name()})" if machine["accelerator"] == "gpu" else f", {os.cpu_count()} cores"
    return config, line + (f"; replaced {', '.join(replaced)}" if replaced else "")


def _replace(section: DictConfig, prefix: str, key: str, value: object, bound: set[str], replaced: list[str]) -> None:
    said = section.get(key)
    if said == value or (_is_bound(f"{prefix}.{key}", bound) and said is not None):
        return
    # "auto" and the values that mean the same are no news to the reader.
    if said not in (None, "auto", 32):
        replaced.append(f"{prefix}.{key}={said}")
    section[key] = value


# --- Checks before any time is lost -----------------------------------------------------------------------------------


def complete(config: DictConfig) -> DictConfig:
    """Check the data that a config names, and put `labels` and `sample_rate` where NeMo 3 looks for them.

    With `final: true` the training is one whose recipe has been chosen: it gets the dev set too (`train_all`), reads no
    dev set and keeps the last epoch.

    Raises:
        InputError: a manifest isn't given, isn't there, or holds letters that the model can't spell or recordings that
            it can't hear; data that has to stay held out would be trained on; the config isn't of a character CTC
            model.
    """
    config = config.copy()
    model = config.model
    with open_dict(config):
        if config.get("final"):
            _make_final(config)
        epochs, every = (config.get("trainer", {}).get(key) for key in ("max_epochs", "check_val_every_n_epoch"))
        if every and 0 < (epochs or 0) < every:
            config.trainer.check_val_every_n_epoch = epochs  # a short training looks at the dev set at its end
        decoder = model.get("decoder") or {}
        if "tokenizer" in model or "joint" in model or not decoder:
            raise InputError("the config is not of a character CTC model (model.decoder with a vocabulary of letters)")
        labels = model.get("labels") or config.get("labels") or decoder.get("vocabulary")
        if not labels or any(not isinstance(letter, str) or len(letter) != 1 for letter in labels):
            raise InputError(f"model.labels is {labels}; expected a list of letters, a character each")
        preprocessor = model.get("preprocessor") or {}
        model.labels = labels
        model.sample_rate = model.get("sample_rate") or preprocessor.get("sample_rate")
        if not preprocessor or not model.sample_rate:
            raise InputError("the config has no model.preprocessor with a sample_rate")
        read = {}
        for name in DATASETS[:2]:
            dataset = model.get(name)
            if dataset is None or OmegaConf.is_missing(dataset, "manifest_filepath") or not dataset.manifest_filepath:
                raise InputError(f"no data: give model.{name}.manifest_filepath=MANIFEST")
            dataset.labels = model.labels
            path = dataset.manifest_filepath
            if not isinstance(path, str) or dataset.get("is_tarred"):
                raise InputError(f"model.{name}: expected one manifest file in manifest_filepath, and no tarred audio")
            utterances = read[name] = _read(path)
            manifest.check_alphabet(path, utterances, model.labels)
            manifest.check_recordings(path, utterances, model.sample_rate)
        _check_held_out(config, read["train_ds"])
    return config


def _make_final(config: DictConfig) -> None:
    path = config.model.train_ds.manifest_filepath
    folder, name = os.path.split(path)
    if name not in ("train_manifest.json", "train_all_manifest.json"):
        raise InputError(f"final=true trains on train_all_manifest.json, beside train_manifest.json; {path} is neither")
    config.model.train_ds.manifest_filepath = os.path.join(folder, "train_all_manifest.json")
    config.trainer.limit_val_batches = 0


def _check_held_out(config: DictConfig, utterances: Sequence[manifest.Utterance]) -> None:
    """Make sure that no recording and no speaker of the dev and test sets is trained on.

    The test set is the one that the config names, and the one beside the training manifest.
    """
    path = Path(config.model.train_ds.manifest_filepath)
    others = {Path(config.model.validation_ds.manifest_filepath): "dev", path.with_name("test_manifest.json"): "test"}
    test = config.model.get("test_ds") or {}
    if isinstance(test.get("manifest_filepath"), str):
        others[Path(test.manifest_filepath)] = "test"
    for other, split in others.items():
        if split == "dev" and config.get("final"):
            continue
        if other.is_file():
            manifest.check_held_out(path, utterances, other, split)


def take_fraction(config: DictConfig) -> DictConfig:
    """Let a training with `fraction: 0.1` read that part of its utterances.

    The seed draws them; with the same seed, those of a smaller fraction are among those of a larger one. Their manifest
    goes below the folder of trainings.

    Args:
        config: a complete training config; it is not changed.

    Raises:
        InputError: the manifest can't be written.
    """
    if config.get("fraction", 1) == 1:
        return config
    utterances = _read(config.model.train_ds.manifest_filepath)
    order = random.Random(config.get("seed") or 0).sample(range(len(utterances)), len(utterances))
    drawn = sorted(order[: max(1, round(config.fraction * len(utterances)))])
    named = hashlib.sha256(json.dumps([utterances[place] for place in drawn]).encode()).hexdigest()[:12]
    path = Path((config.get("exp_manager") or {}).get("exp_dir") or "runs") / "parts" / f"{named}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_manifest(path, [utterances[place] for place in drawn])
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror}); set exp_manager.exp_dir") from error
    config = config.copy()
    config.model.train_ds.manifest_filepath = str(path)
    return config


def _read(path: str) -> list[manifest.Utterance]:
    folder, other = Path(path).parent, Path(path).parent.with_name("synthetic")
    if not Path(path).is_file() and folder.name == "an4" and (other / Path(path).name).is_file():
        raise InputError(
            f"{path}: no such manifest, but the built-in corpus is there: add data_dir={other}, or get AN4 with "
            "scripts/prepare_an4.py --source an4"
        )
    return manifest.read_manifest(path)


# --- Callbacks --------------------------------------------------------------------------------------------------------


class WeightAveraging(pl.Callback):
    """Keep an exponential moving average of the weights; validate with it, and let checkpoints carry it.

    average ← d · average + (1 - d) · weights after each step, with d = min(decay, (1 + step) / (10 + step)), so that
    the first, random weights are soon forgotten. Batch norm's running statistics are averaged along: they belong to the
    weights. The plain weights are kept in the callback's own state, from which a training goes on.

    NeMo's own EMA callback averages the parameters alone and needs its own checkpoint class.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.steps = 0
        self._average: dict[str, torch.Tensor] = {}
        self._restored: dict | None = None
        self._swapped = False

    @staticmethod
    def _tensors(module: pl.LightningModule) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tensors = self._tensors(pl_module)
        if self._restored:
            self._average = {name: tensors[name].clone() for name in tensors}  # a checkpoint holds the average
            with torch.no_grad():
                for name, tensor in self._restored.items():
                    tensors[name].copy_(tensor)
            self._restored = None
        else:
            self._average = {name: tensor.clone() for name, tensor in tensors.items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_) -> None:
        if trainer.global_step == self.steps:  # gradients are being accumulated
            return
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            now = self._tensors(pl_module)
            torch._foreach_lerp_(list(self._average.values()), [now[name] for name in self._average], 1 - decay)

    def _swap(self, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors(pl_module).items():
                held = tensor.clone()
                tensor.copy_(self._average[name])
                self._average[name].copy_(held)
        self._swapped = not self._swapped

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._average and not trainer.sanity_checking:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The model that the caller holds ends as the average."""
        self._swap(pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        if self._average and not self._swapped:
            # What is restored as "the model" from a checkpoint is what was validated.
            weights = checkpoint["state_dict"]
            checkpoint["plain_weights"] = {name: weights[name] for name in self._average}
            checkpoint["state_dict"] = {**weights, **{name: t.clone() for name, t in self._average.items()}}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self._restored = checkpoint.get("plain_weights")

    def state_dict(self) -> dict:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict) -> None:
        self.steps = state_dict["steps"]


class FusedClipping(pl.Callback):
    """Let Lightning clip the gradients of a fused optimiser where no loss scaling (fp16) forbids it.

    A fused step is one pass over the weights instead of ten.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.precision != "16-mixed":
            for optimizer in trainer.optimizers:
                optimizer._step_supports_amp_scaling = False


class EpochSeeds(pl.Callback):
    """Draw each epoch's randomness (order, dropout, augmentation) from the seed and the epoch's number alone.

    So a training that was killed and goes on ends as one that was not. Random numbers are drawn when the loader's
    iterator is made (at once, with worker processes) and in the steps. Lightning makes the iterator after
    `on_train_epoch_start`, but that of a process's first epoch already after `on_fit_start`. Hence a seed before each.
    """

    def __init__(self, seed: int, first_epoch: int):
        self.seed = seed
        self.first_epoch = first_epoch

    def _seed(self, epoch: int, phase: int, rank: int = 0) -> None:
        seed = (self.seed * 1_000_003 + epoch * 2 + phase + rank * 7_919) % 2**32
        pl.seed_everything(seed, workers=True, verbose=False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sampler = getattr(pl_module._train_dl, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.first_epoch)
        self._seed(self.first_epoch, 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch != self.first_epoch:
            self._seed(trainer.current_epoch, 0)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self._seed(trainer.current_epoch, 1, trainer.global_rank)  # each process drops and masks something else


class EpochLines(pl.Callback):
    """Print a line an epoch: losses, dev WER, seconds, and how much longer it will take; log what is of an epoch.

    Where epochs take less than `QUIET` seconds, those without a look at the dev set are not told one by one.
    """

    def __init__(self):
        self.seconds = 0.0
        self._said = -math.inf
        self._started = 0.0
        self._validated = 0.0  # seconds of this epoch
        self._here: list[float] = []
        self._losses: list[torch.Tensor] = []
        self._utterances = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._validated = 0.0
        self._losses = []
        self._utterances = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict, batch, *_) -> None:
        self._losses.append(outputs["loss"].detach())
        self._utterances += len(batch[1])  # the lengths of the signals, (B,)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated -= time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated += time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._started
        self.seconds += seconds
        self._here.append(seconds)
        # NeMo logs the loss and the rate of every so many steps; over an epoch they stand beside the dev set's.
        train_loss = torch.stack(self._losses).mean()
        pl_module.log("train_loss_epoch", train_loss, sync_dist=True)
        pl_module.log("learning_rate", trainer.optimizers[0].param_groups[0]["lr"])
        throughput = self._utterances / (seconds - self._validated)
        pl_module.log("utterances_per_second", throughput, sync_dist=True, reduce_fx="sum")
        if not trainer.is_global_zero:
            return
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        if not (self._validated or is_last) and time.perf_counter() - self._said < QUIET:
            return
        self._said = time.perf_counter()
        metrics = trainer.callback_metrics if self._validated else {}  # else they are of an earlier epoch
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  train loss {train_loss:.2f}"
        if "val_loss" in metrics:
            line += f"  dev loss {metrics['val_loss']:.2f}"
        if "val_wer" in metrics:
            line += f"  dev WER {metrics['val_wer']:.1%}"
        left = (trainer.max_epochs - trainer.current_epoch - 1) * sum(self._here) / len(self._here)
        if trainer.max_steps != -1:  # the epochs are not what ends it
            left = 0
        print(f"{line}  {seconds:.0f} s" + (f", about {left / 60:.1f} min left" if left > 0 else ""), flush=True)

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict) -> None:
        self.seconds = state_dict["seconds"]


class ReplacedCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place, then rename it, so that a hard link to the one before stays what it was.

    Lightning moves it there from the folder for temporary files: where that is on another disk, into the old file.
    """

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options: object = None) -> None:
        path = Path(path)
        partial = path.with_name(f"partial-{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


# --- One training -----------------------------------------------------------------------------------------------------


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
    config, machine_line = fit_to_machine(take_fraction(complete(config)), bound)
    if not _is_bound("exp_manager.resume_if_exists", bound) and config.get("exp_manager"):
        with open_dict(config):
            config.exp_manager.resume_if_exists = True  # NeMo's configs say false; to go on loses nothing
    start = _starting_point(config)
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
    first_epoch = _epoch_after(_read_state(own_start)) if own_start else 0
    origin = _origin(config, folder, start)
    trainer, own = build_trainer(config, folder, first_epoch, bound, callbacks, origin)
    model = build_model(config, trainer)
    if begin:
        begin(model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    say(f"{config.get('name')}: {weights / 1e6:.1f} M weights, seed {seed}; all about this training is in {folder}")
    if start:
        _check_same_model(config, start, model)
    if first_epoch:
        say(f"going on from the end of epoch {first_epoch}")
    if trainer.is_global_zero:
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    if run := monitoring.wandb_run(trainer):
        monitoring.start(run, config)
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
    partial = path.with_name(f"partial-{path.name}")
    try:
        partial.unlink(missing_ok=True)
        partial.symlink_to(os.path.relpath(model, path.parent.resolve()))
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"--output {path}: can't be written ({error.strerror}); the model is {model}") from error


def _starting_point(config: DictConfig) -> Path | None:
    """The checkpoint of another training that the config says to go on from: a file, or wandb:NAME:ALIAS.

    Go on only from one that you trust: reading the state of a training can run what is in it.

    Raises:
        InputError: it isn't there or holds no training that this one can go on from.
    """
    name = (config.get("exp_manager") or {}).get("resume_from_checkpoint")
    if not name:
        return None
    logged = str(name).removeprefix(artifacts.PREFIX)
    path = Path(name) if logged == name else tracking.fetch(logged)
    where = f"exp_manager.resume_from_checkpoint={name}"
    if not path.is_file():
        raise InputError(f"{where}: no such file; expected a checkpoint (.ckpt), or wandb:NAME:ALIAS")
    if tarfile.is_tarfile(path):
        raise InputError(f"{where}: a .nemo file holds weights, but not the state of their training; give a .ckpt")
    try:
        state = _read_state(path)
        theirs = state["hyper_parameters"]["cfg"]
        done = _epoch_after(state)
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


def _check_same_model(config: DictConfig, path: Path, model: pl.LightningModule) -> None:
    """Make sure that a checkpoint's weights are those of a model.

    Raises:
        InputError: one of them is missing, is one too many, or has another shape.
    """
    there = {name: tuple(tensor.shape) for name, tensor in _read_state(path)["state_dict"].items()}
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise InputError(
                f"exp_manager.resume_from_checkpoint={config.exp_manager.resume_from_checkpoint}: is of another model; "
                f"{name} is {there.get(name, 'not')} there, {here.get(name, 'not')} by this config"
            )


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

    from asr_with_nemo import channels_last, features

    quieten()
    _check_names(config)
    features.register()
    try:
        model = EncDecCTCModel(cfg=config.model, trainer=trainer)
    except Exception as error:  # NeMo, Hydra and torch raise of every kind for a wrong setting
        reason = str(error.__cause__ or error).strip()
        raise InputError(f"NeMo can't build this model: {reason}\nLook at the model: section of the config.") from error
    features.seed_cutout(model)
    features.keep_in_memory(model)
    if config.model.train_ds.get("vocal_tract"):
        features.vary_vocal_tract(model, *config.model.train_ds.vocal_tract)
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
    asked = _checkpoint_settings(config)
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
    callbacks |= monitoring.callbacks(config, folder.name, origin or {})
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


def _checkpoint_settings(config: DictConfig) -> dict[str, object]:
    asked = (config.get("exp_manager") or {}).get("checkpoint_callback_params") or {}
    return {"monitor": asked.get("monitor", "val_wer"), "mode": asked.get("mode", "min")}


def make_loggers(config: DictConfig, folder: Path, bound: set[str] = frozenset()) -> list[Logger]:
    """The CSV log that always lies beside a training, and W&B's, offline where there is no key."""
    loggers: list[Logger] = [CSVLogger(folder, name="csv", flush_logs_every_n_steps=1)]
    manager = config.get("exp_manager") or {}
    if _is_bound("exp_manager.create_wandb_logger", bound) and not manager.get("create_wandb_logger"):
        return loggers
    mode = tracking.configure_wandb()
    if mode == "disabled":
        return loggers
    kept = folder / "wandb_id"
    asked = monitoring.logger_settings(config)
    project = tracking.project(asked.get("project"))
    rank_zero_only(print)(tracking.describe_mode(mode, project))
    logger = monitoring.RunLogger(
        project=project,
        name=asked.get("name") or folder.name,
        group=asked.get("group") or folder.name,  # the parts of an interrupted training belong together
        # Offline, W&B can't go on with a run; and one that was just killed may still be held by its service.
        id=kept.read_text() if mode == "online" and kept.is_file() else None,
        resume="allow" if mode == "online" else None,
        save_dir=os.environ["WANDB_DIR"],
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes on a setting that W&B warns of
    if rank_zero_only.rank == 0:
        try:
            manifest.write_if_changed(kept, logger.experiment.id)
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


def _read_state(checkpoint: Path) -> dict:
    return torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)


def _epoch_after(state: dict) -> int:
    """The epoch that a training goes on with from a checkpoint's state, which may be of the middle of one."""
    whole = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    return state["epoch"] + (1 if whole else 0)


def _finish(
    config: DictConfig,
    trainer: pl.Trainer,
    model: pl.LightningModule,
    path: Path,
    callbacks: dict[str, pl.Callback],
    origin: dict[str, object],
) -> Path:
    """Write the `.nemo` file of the best epoch; the summary that marks the training as finished comes last."""
    from asr_with_nemo import features

    best = _best_checkpoint(callbacks["checkpoint"])
    score = callbacks["checkpoint"].best_model_score
    if best:
        checkpoint = torch.load(best, map_location="cpu", weights_only=False)
        model.load_state_dict(checkpoint["state_dict"])
    features.forget(model.cfg.train_ds)  # what is saved is for anybody's NeMo
    if trainer.is_global_zero:
        partial = path.with_name(f"partial-{path.name}")
        model.save_to(str(partial))
        os.replace(partial, path)
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
        manifest.write_if_changed(path.parent / SUMMARY, json.dumps(summary, indent=1) + "\n")
    run = monitoring.wandb_run(trainer)
    if run and monitoring.logger_settings(config).get("log_model", True):
        monitoring.log_final(run, path, summary, origin, _checkpoint_settings(config)["mode"])
    for logger in trainer.loggers:
        logger.finalize("success")
    if run:
        run.finish()
        if "artifacts" in callbacks:
            callbacks["artifacts"].close()
    return path


def _best_checkpoint(callback: ModelCheckpoint) -> Path | None:
    """The checkpoint of the best epoch, also where a kill between two writes, or a moved folder, made it forgotten.

    Never that of another training, which this one went on from.
    """
    known, folder = Path(callback.best_model_path), Path(callback.dirpath)
    if known.is_file() and known.parent == folder:
        return known
    return max(folder.glob("best-*.ckpt"), key=os.path.getmtime, default=None)


def quieten() -> None:
    """Keep NeMo's, Lightning's and their helpers' logs to errors: what matters is said in a line of our own."""
    warnings.filterwarnings("ignore")
    for name in ("nv_one_logger", "lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(nemo_logging.ERROR)
