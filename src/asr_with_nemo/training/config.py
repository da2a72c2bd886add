"""Training configs: read them, apply overrides, fit them to this machine, and check them before any time is lost."""

import difflib
import hashlib
import inspect
import json
import os
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from asr_with_nemo.base.machine import has_working_gpu, usable_cores
from asr_with_nemo.base.values import is_number, is_whole
from asr_with_nemo.data import manifest, sizes
from asr_with_nemo.errors import InputError

DATASETS = ("train_ds", "validation_ds", "test_ds")
GIVEN = ("seed", "final", "fraction", "exp_manager.resume_from_checkpoint")
"""Keys that can be given on the command line whether the config has them or not."""


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

    sizes.register()
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
    if not is_number(fraction) or not 0 < fraction <= 1:
        raise InputError(
            f"fraction={fraction}: expected the part of the training utterances to take, above 0 and up to 1"
        )
    check_tracking(config)
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
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(file.parent), version_base=None):
        near = difflib.get_close_matches(wrong[1], all_keys(compose(file.stem)), n=3)
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


def overridden_keys(overrides: Sequence[str]) -> set[str]:
    """The dotted keys that were given on the command line, and that nothing may replace."""
    return {item.lstrip("+").split("=", 1)[0] for item in overrides if not item.startswith("~")}


def is_overridden(key: str, bound: set[str]) -> bool:
    """Whether a dotted key, or a section that it lies in, was given on the command line."""
    parts = key.split(".")
    return any(".".join(parts[:end]) in bound for end in range(1, len(parts) + 1))


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
            "num_workers": min(8, usable_cores()),
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
    on_cpu = is_overridden("trainer.accelerator", bound) and config.trainer.get("accelerator") == "cpu"
    machine = machine_settings(gpu=not on_cpu and has_working_gpu())
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    replaced = []
    with open_dict(config):
        trainer = config.trainer
        for key in list(trainer):
            if key not in known:
                if is_overridden(f"trainer.{key}", bound):
                    raise InputError(f"trainer.{key}: Lightning's Trainer has no such setting; it has {sorted(known)}")
                replaced.append(f"trainer.{key}={trainer.pop(key)}")
        if trainer.get("max_steps", -1) is None:
            trainer.max_steps = -1
        if trainer.get("max_epochs") is None and trainer.get("max_steps", -1) == -1:
            raise InputError("the config doesn't say how long to train: give trainer.max_epochs or trainer.max_steps")
        for key in ("accelerator", "devices", "num_nodes", "strategy", "precision"):
            _replace(trainer, "trainer", key, machine[key], bound, replaced)
        if trainer.devices in (1, "1") and not is_overridden("trainer.strategy", bound):
            trainer.strategy = "auto"
        for name in DATASETS:
            dataset = config.model.get(name)
            if dataset is not None:
                for key in ("num_workers", "pin_memory"):
                    _replace(dataset, f"model.{name}", key, machine[key], bound, replaced)
    line = f"machine: {trainer.accelerator}, {trainer.devices} device(s), precision {trainer.precision}"
    line += f" ({torch.cuda.get_device_name()})" if machine["accelerator"] == "gpu" else f", {usable_cores()} cores"
    return config, line + (f"; replaced {', '.join(replaced)}" if replaced else "")


def _replace(section: DictConfig, prefix: str, key: str, value: object, bound: set[str], replaced: list[str]) -> None:
    said = section.get(key)
    if said == value or (is_overridden(f"{prefix}.{key}", bound) and said is not None):
        return
    # "auto" and the values that mean the same are no news to the reader.
    if said not in (None, "auto", 32):
        replaced.append(f"{prefix}.{key}={said}")
    section[key] = value


def complete_config(config: DictConfig) -> DictConfig:
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
            utterances = read[name] = read_training_manifest(path)
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
    utterances = read_training_manifest(config.model.train_ds.manifest_filepath)
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


def read_training_manifest(path: str) -> list[manifest.Utterance]:
    folder, other = Path(path).parent, Path(path).parent.with_name("synthetic")
    if not Path(path).is_file() and folder.name == "an4" and (other / Path(path).name).is_file():
        raise InputError(
            f"{path}: no such manifest, but the built-in corpus is there: add data_dir={other}, or get AN4 with "
            "scripts/prepare_an4.py --source an4"
        )
    return manifest.read_manifest(path)


def checkpoint_settings(config: DictConfig) -> dict[str, object]:
    asked = (config.get("exp_manager") or {}).get("checkpoint_callback_params") or {}
    return {"monitor": asked.get("monitor", "val_wer"), "mode": asked.get("mode", "min")}


DEFAULTS = {"keep_checkpoints": 3, "predictions_every": 5, "prediction_rows": 8}
"""Of a config's `tracking:` section, which NeMo's own configs lack; configs/config.yaml says what they mean."""


def check_tracking(config: DictConfig) -> None:
    """Check the settings of a training config that are about W&B.

    Raises:
        InputError: there is one that is not known, or has a value that it can't have.
    """
    section = config.get("tracking") or OmegaConf.create()
    if not isinstance(section, DictConfig) or section.keys() - DEFAULTS:
        raise InputError(f"tracking={section}: expected no settings but {', '.join(DEFAULTS)}")
    for key, value in tracking_settings(config).items():
        least = 1 if key == "keep_checkpoints" else 0
        if not is_whole(value) or value < least:
            raise InputError(f"tracking.{key}={value}: expected a whole number, {least} or more")
    log_model = logger_settings(config).get("log_model")
    if log_model not in (None, True, False, "all"):
        raise InputError(f"exp_manager.wandb_logger_kwargs.log_model={log_model}: expected all, true or false")


def tracking_settings(config: DictConfig) -> dict[str, int]:
    return DEFAULTS | OmegaConf.to_container(config.get("tracking") or OmegaConf.create(), resolve=True)


def logger_settings(config: DictConfig) -> DictConfig | dict:
    """What a config says of W&B's logger where NeMo looks for it."""
    return (config.get("exp_manager") or {}).get("wandb_logger_kwargs") or {}
