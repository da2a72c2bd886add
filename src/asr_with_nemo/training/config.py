"""Training configs: read, apply overrides, adapt to the machine, and check before the training starts."""

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
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from asr_with_nemo.base.machine import has_working_gpu, instruction_sets, usable_cores
from asr_with_nemo.base.values import is_number, is_whole
from asr_with_nemo.data import manifest, sizes
from asr_with_nemo.data.shards import is_place
from asr_with_nemo.data.training_data import TrainingData
from asr_with_nemo.errors import InputError
from asr_with_nemo.training import kinds, shards, tokenizers
from asr_with_nemo.training.launch import Launch, check_settings, cores_of_each, launched

_NO_MODEL = "has no `model:` section, so it isn't a NeMo training config"
DATASETS = ("train_ds", "validation_ds", "test_ds")
_OF_SHARDS = {
    "train_ds": "give model.train_ds.shar_path",
    "validation_ds": "the dev set is a manifest, read whole for each validation",
}
_ALWAYS_ALLOWED = (
    *("seed", "final", "fraction", "exp_manager.resume_from_checkpoint"),
    *(f"model.train_ds.{key}" for key in shards.OWN),
)
"""Keys that can be overridden even if the config doesn't have them, as NeMo's own configs don't."""


def load_config(
    config_path: str | os.PathLike = "configs", config_name: str = "config", overrides: Sequence[str] = ()
) -> DictConfig:
    """Read a NeMo config and apply Hydra overrides (`model.optim.lr=0.01`, `+new.key=1`, `~key`).

    `seed`, `final`, `fraction`, `exp_manager.resume_from_checkpoint` and the settings of shards (`shards.OWN`), which
    NeMo's own configs lack, can always be overridden.

    Args:
        config_path: the folder of the config.
        config_name: its name, with or without `.yaml`.
        overrides: those of the command line.

    Raises:
        InputError: the config doesn't exist or is invalid, or an override can't be parsed or has an unknown key.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    sizes.register()
    folder = Path(config_path).absolute()
    file = folder / f"{config_name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        texts = {path.name: path.read_text(encoding="utf-8", errors="ignore") for path in folder.glob("*.yaml")}
        # The other files describe sweeps, studies and machines.
        configs = sorted(name for name, text in texts.items() if re.search(r"^(model|defaults):", text, re.MULTILINE))
        raise InputError(f"{file}: no such config; the folder has {', '.join(configs) or 'none'}")
    for item in overrides:
        try:
            OverridesParser.create().parse_override(item)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{item!r}: can't be parsed as an override ({reason}); expected key=value, +key=value or ~key"
            ) from error
    try:
        with initialize_config_dir(str(folder), version_base=None):
            name = config_name.removesuffix(".yaml")
            given = [f"++{item}" if item.split("=")[0] in _ALWAYS_ALLOWED else item for item in overrides]
            config = compose(name, overrides=_references_first(name, given))
        if isinstance(config.get("model"), DictConfig):
            kinds.check(config.model, file)
        OmegaConf.to_container(config, resolve=True)  # finds references to missing keys
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        if ours := _input_error(error):  # of `${corpus:...}`
            raise ours from None
        raise InputError(_explain(error, file)) from error
    except Exception as error:  # the YAML parser's errors differ between versions
        raise InputError(f"{file}: can't be read as YAML: {error}") from error
    if not isinstance(config.get("model"), DictConfig):
        raise InputError(f"{file}: {_NO_MODEL}")
    if not isinstance(config.get("seed", 0), int):
        raise InputError(f"seed={config.seed}: expected a whole number")
    if not isinstance(config.get("final", False), bool):
        raise InputError(f"final={config.final}: expected true or false")
    fraction = config.get("fraction", 1)
    if not is_number(fraction) or not 0 < fraction <= 1:
        raise InputError(
            f"fraction={fraction}: expected the fraction of the training utterances to use, above 0 and at most 1"
        )
    check_tracking(config)
    return config


def _references_first(name: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides with the removals of references (`~key`) first: Hydra can't remove one that leads nowhere."""
    from hydra import compose

    removed = [item for item in overrides if item.startswith("~")]
    if len(removed) < 2:
        return list(overrides)
    config = compose(name)

    def refers(item: str) -> bool:
        section, _, key = item.removeprefix("~").partition("=")[0].rpartition(".")
        parent = OmegaConf.select(config, section) if section else config
        return isinstance(parent, DictConfig) and key in parent and OmegaConf.is_interpolation(parent, key)

    return sorted(overrides, key=lambda item: not (item in removed and refers(item)))


def _input_error(error: BaseException | None) -> InputError | None:
    """Return the InputError that a library has wrapped into an error of its own, if there is one."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _explain(error: Exception, file: Path) -> str:
    """Return Hydra's message about an override, with its cause, or with the most similar keys of the config."""
    message = str(error).splitlines()[0]
    if message.startswith("Error merging override") and isinstance(error.__cause__, OmegaConfBaseException):
        return f"{file}: {message} ({str(error.__cause__).splitlines()[0]})"
    if isinstance(error, InterpolationKeyError):
        key = re.sub(r"\[(\d+)\]", r".\1", error.full_key)  # as an override names an item of a list
        return f"{file}: {key} refers to a missing key ({message}); give {key} a value, or remove it with ~{key}"
    wrong = re.search(r"Could not override '([^']+)'", message)
    if not wrong:
        return f"{file}: {error}"
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(file.parent), version_base=None):
        config = compose(file.stem)
    if "model" not in config:
        return f"{file}: {_NO_MODEL}"
    near = difflib.get_close_matches(wrong[1], all_keys(config), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{file} has no key {wrong[1]!r}{hint} (to add a new key, write +{wrong[1]}=...)"


def all_keys(config: DictConfig, prefix: str = "") -> list[str]:
    """Return all dotted keys of a config.

    Example:
        >>> all_keys(OmegaConf.create({"model": {"optim": {"lr": 0.01}}, "seed": 0}))
        ['model', 'model.optim', 'model.optim.lr', 'seed']
    """
    keys = []
    for key in config:
        keys.append(f"{prefix}{key}")
        value = OmegaConf.to_container(config).get(key)
        if isinstance(value, dict):
            keys += all_keys(OmegaConf.create(value), f"{prefix}{key}.")
    return keys


def overridden_keys(overrides: Sequence[str]) -> set[str]:
    """Return the dotted keys that were given on the command line, which nothing may replace.

    Example:
        >>> sorted(overridden_keys(["model.optim.lr=0.01", "+model.new=1", "~seed"]))
        ['model.new', 'model.optim.lr']
    """
    return {item.lstrip("+").split("=", 1)[0] for item in overrides if not item.startswith("~")}


def is_overridden(key: str, overridden: set[str]) -> bool:
    """Return whether a dotted key, or a section that contains it, was given on the command line.

    Example:
        >>> is_overridden("trainer.precision", {"trainer"}), is_overridden("trainer.precision", {"trainer.devices"})
        (True, False)
    """
    parts = key.split(".")
    return any(".".join(parts[:end]) in overridden for end in range(1, len(parts) + 1))


def machine_settings(gpu: bool, started: Launch | None = None) -> dict[str, object]:
    """Return the settings of the Trainer and the data loaders for this machine: one process on a CPU, or all GPUs.

    Where torchrun or srun has started processes (`started`), those are the devices. The precision is bf16-mixed where
    the hardware has bf16 (the weights stay fp32). Apple's GPU has no CTC loss, so a Mac trains on its CPU.
    """
    if gpu:
        # A notebook's kernel has initialised CUDA already, so it can't start further processes.
        devices = 1 if hasattr(sys, "ps1") or "ipykernel" in sys.modules else torch.cuda.device_count()
        if started:
            devices = started.each
        return {
            "accelerator": "gpu",
            "devices": devices,
            "num_nodes": started.machines if started else 1,
            "strategy": "ddp" if devices > 1 or started else "auto",
            "precision": "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true",
            "num_workers": min(8, cores_of_each(devices, started)),  # of each process
            "pin_memory": True,
        }
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older torch: fp32
    bf16 = capabilities.get("avx512_bf16", False)
    return {
        "accelerator": "cpu",
        "devices": started.each if started else 1,
        "num_nodes": started.machines if started else 1,
        "strategy": "ddp" if started else "auto",
        "precision": "bf16-mixed" if bf16 else "32-true",
        # Reading AN4's WAVs takes 1% of a step, and worker processes would compete for the cores.
        "num_workers": 0,
        "pin_memory": False,
    }


def fit_to_machine(config: DictConfig, overridden: set[str] = frozenset()) -> tuple[DictConfig, str]:
    """Replace a config's settings of GPUs, devices, strategy, precision and workers by those for this machine.

    Trainer settings that Lightning no longer has (`gpus` and `amp_level` of old configs) are removed.

    Args:
        config: a NeMo training config; it is not changed.
        overridden: dotted keys given on the command line, which are not replaced.

    Returns:
        the config for this machine, and one line that lists the settings used and those replaced.

    Raises:
        InputError: a trainer setting given on the command line is unknown to Lightning or contradicts the processes
            that torchrun or srun has started, or the config gives neither epochs nor steps.
    """
    config = config.copy()
    with open_dict(config):
        config.trainer = config.get("trainer") or {}
    on_cpu = is_overridden("trainer.accelerator", overridden) and config.trainer.get("accelerator") == "cpu"
    started = launched()
    machine = machine_settings(not on_cpu and has_working_gpu(), started)
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    replaced = []
    with open_dict(config):
        trainer = config.trainer
        for key in list(trainer):
            if key not in known:
                if is_overridden(f"trainer.{key}", overridden):
                    raise InputError(
                        f"trainer.{key}: Lightning's Trainer has no such setting; expected one of {sorted(known)}"
                    )
                replaced.append(f"trainer.{key}={trainer.pop(key)}")
        if trainer.get("max_steps", -1) is None:
            trainer.max_steps = -1
        if trainer.get("max_epochs") is None and trainer.get("max_steps", -1) == -1:
            raise InputError("the length of the training is missing: give trainer.max_epochs or trainer.max_steps")
        for key in ("accelerator", "devices", "num_nodes", "strategy", "precision"):
            _replace(trainer, "trainer", key, machine[key], overridden, replaced)
        on_gpu = trainer.accelerator in ("gpu", "cuda")
        check_settings(trainer, started, torch.cuda.device_count() if on_gpu else None)
        if not is_overridden("trainer.strategy", overridden):
            trainer.strategy = "auto" if trainer.devices in (1, "1") and trainer.num_nodes == 1 else "ddp"
        for name in DATASETS:
            dataset = config.model.get(name)
            if dataset is not None:
                for key in ("num_workers", "pin_memory"):
                    _replace(dataset, f"model.{name}", key, machine[key], overridden, replaced)
    line = f"machine: {trainer.accelerator}, {trainer.devices} device(s), precision {trainer.precision}"
    if started:
        count = f"{started.processes} processes on {started.machines} machine(s), started by {started.by}"
        line = f"machine: {count}; {trainer.accelerator}, precision {trainer.precision}"
    if machine["accelerator"] == "gpu":
        line += f" ({torch.cuda.get_device_name()})"
        if started and torch.cuda.device_count() > started.each:
            line += f", {started.each} of {torch.cuda.device_count()} GPUs used"
    else:
        cores, sets = usable_cores(), instruction_sets()
        line += f", {cores} core{'s' if cores > 1 else ''}" + (f" with {sets[-1]}" if sets else "")
    return config, line + (f"; replaced {', '.join(replaced)}" if replaced else "")


def _replace(
    section: DictConfig, prefix: str, key: str, value: object, overridden: set[str], replaced: list[str]
) -> None:
    old = section.get(key)
    if old == value or (is_overridden(f"{prefix}.{key}", overridden) and old is not None):
        return
    if old not in (None, "auto", 32):  # to report the replacement of a default would only be noise
        replaced.append(f"{prefix}.{key}={old}")
    section[key] = value


def complete_config(config: DictConfig, data: TrainingData | None = None) -> DictConfig:
    """Check a config and the data that it names, and put `labels` and `sample_rate` where NeMo 3 expects them.

    The config is of any of NeMo's recognisers: by CTC, RNN-T or TDT, or of a hybrid. With `model.tokenizer.dir: auto`,
    the tokenizer of a model of pieces is made here.

    With `model.train_ds.shar_path`, the training set is shards (`data.shards`), and the dev set a manifest.

    With `final: true`, for a training whose settings have been chosen, the dev set is part of the training set
    (`train_all`), nothing is validated, and the last epoch is kept.

    Args:
        config: a NeMo training config; it is not changed.
        data: keeps the parsed manifests.

    Raises:
        InputError: a manifest is not given or missing, or has letters that the model can't spell or recordings that it
            can't be trained on; held-out data is in the training set; the config is not of a recogniser, or its
            tokenizer can't be used.
    """
    data = data or TrainingData()
    config = config.copy()
    model = config.model
    with open_dict(config):
        if config.get("final"):
            _make_final(config)
        epochs, every = (config.get("trainer", {}).get(key) for key in ("max_epochs", "check_val_every_n_epoch"))
        if every and 0 < (epochs or 0) < every:
            config.trainer.check_val_every_n_epoch = epochs  # a short training is validated at its end
        kinds.check_is_whole(model)
        preprocessor = model.get("preprocessor") or {}
        model.sample_rate = model.get("sample_rate") or preprocessor.get("sample_rate")
        if not preprocessor or not model.sample_rate:
            raise InputError("the config has no model.preprocessor with a sample_rate")
        labels = None if model.get("tokenizer") else _set_letters(config)
        kinds.check_loss(model)
        place = shards.place_of(config)
        for name in DATASETS[:2]:
            dataset = model.get(name)
            if labels is not None and dataset is not None:
                dataset.labels = labels
            if place and name == DATASETS[0]:
                data.shards(place).check(labels, model.sample_rate)
                continue
            if dataset is None or OmegaConf.is_missing(dataset, "manifest_filepath") or not dataset.manifest_filepath:
                raise InputError(f"no data: give model.{name}.manifest_filepath=MANIFEST")
            path = dataset.manifest_filepath
            if isinstance(path, str) and is_place(path):
                raise InputError(f"model.{name}.manifest_filepath={path}: these are shards; {_OF_SHARDS[name]}")
            if not isinstance(path, str) or dataset.get("is_tarred"):
                raise InputError(f"model.{name}: expected one manifest file in manifest_filepath, and no tarred audio")
            _check_manifest(path)
            data.check_recordings(path, labels, model.sample_rate)
        if place:
            _check_held_out(config, data)
            shards.complete(config)
        else:
            shards.check_without(config)
        if labels is None:
            tokenizers.prepare(config, texts_of(config, data))
        if not place:
            _check_held_out(config, data)
    return config


def _set_letters(config: DictConfig) -> ListConfig:
    """Put the alphabet of a config where NeMo 3 expects it, and return it.

    Raises:
        InputError: there is none, or the CTC decoder has another.
    """
    model = config.model
    labels = model.get("labels") or config.get("labels") or model.decoder.get("vocabulary")
    if not labels or any(not isinstance(letter, str) or len(letter) != 1 for letter in labels):
        raise InputError(
            f"model.labels is {labels}; expected a list of letters, one character each, or a tokenizer in "
            "model.tokenizer"
        )
    model.labels = labels
    # A transducer's networks take the letters from model.labels; a CTC decoder has its own list of them.
    name = "model.aux_ctc.decoder" if model.get("joint") else "model.decoder"
    decoder = OmegaConf.select(config, name)
    if decoder is not None and not decoder.get("vocabulary"):
        decoder.vocabulary, decoder.num_classes = labels, len(labels)
    elif decoder is not None and list(decoder.vocabulary) != list(labels):
        raise InputError(
            f"{name}.vocabulary={decoder.vocabulary} differs from model.labels={list(labels)}; give both the same "
            f"letters, or {name}.vocabulary=[] for those of model.labels"
        )
    return model.labels


def _make_final(config: DictConfig) -> None:
    if shards.place_of(config):
        raise InputError(
            "final=true trains on train_all_manifest.json; with shards, make them of that manifest, and give "
            "model.train_ds.shar_path=THEM trainer.limit_val_batches=0 without final=true"
        )
    path = config.model.train_ds.manifest_filepath
    folder, name = os.path.split(path)
    if name not in ("train_manifest.json", "train_all_manifest.json"):
        raise InputError(
            f"final=true trains on the train_all_manifest.json in the folder of train_manifest.json; {path} is neither"
        )
    config.model.train_ds.manifest_filepath = os.path.join(folder, "train_all_manifest.json")
    config.trainer.limit_val_batches = 0


def _check_manifest(path: str) -> None:
    """Point a user without AN4 to the built-in corpus, if that is there."""
    folder = Path(path).parent
    other = folder.parent / "synthetic"
    if not Path(path).is_file() and folder.name == "an4" and (other / Path(path).name).is_file():
        raise InputError(
            f"{path}: no such manifest, but the built-in corpus exists: add data_dir={other}, or get AN4 with "
            "scripts/prepare_an4.py --source an4"
        )


def _check_held_out(config: DictConfig, data: TrainingData) -> None:
    """Make sure that no recording and no speaker of the dev and test sets is in the training set.

    The test set is the one that the config names, and the one in the folder of the training manifest.
    """
    place, path = shards.place_of(config), config.model.train_ds.get("manifest_filepath")
    others = {Path(config.model.validation_ds.manifest_filepath): "dev"}
    folders = [Path(path).parent] if path else []
    if place and (source := data.shards(place).source_folder()):
        folders.append(source)
    others |= {folder / "test_manifest.json": "test" for folder in folders}
    test = config.model.get("test_ds") or {}
    if isinstance(test.get("manifest_filepath"), str):
        others[Path(test.manifest_filepath)] = "test"
    for other, split in others.items():
        if split == "dev" and config.get("final"):
            continue
        if not other.is_file():
            continue
        if not place:
            data.check_held_out(path, other, split)
        elif split != "dev" or config.trainer.get("limit_val_batches", 1.0) != 0:
            data.shards(place).check_held_out(data.parsed(other), split)


def drawn(config: DictConfig, data: TrainingData) -> list[manifest.Utterance]:
    """Return the training utterances of a config that its `fraction` leaves, in the order of the manifest."""
    utterances = data.parsed(config.model.train_ds.manifest_filepath).utterances
    if config.get("fraction", 1) == 1:
        return utterances
    order = random.Random(config.get("seed") or 0).sample(range(len(utterances)), len(utterances))
    return [utterances[place] for place in sorted(order[: max(1, round(config.fraction * len(utterances)))])]


def texts_of(config: DictConfig, data: TrainingData) -> dict[str, list[str]]:
    """Return the texts that a training reads, by their manifest: those of the training (`drawn`), then the dev set's.

    Of many shards, they are a sample that has each letter.

    Raises:
        InputError: a manifest can't be used.
    """
    place, dev = shards.place_of(config), config.model.validation_ds.manifest_filepath
    train = place or config.model.train_ds.manifest_filepath
    texts = data.shards(place).texts if place else [row["text"] for row in drawn(config, data)]
    return {train: texts, dev: [row["text"] for row in data.parsed(dev).utterances]}


def take_fraction(config: DictConfig, data: TrainingData | None = None) -> DictConfig:
    """Replace the training manifest of a config with `fraction: 0.1` by that fraction of its utterances.

    They are drawn by the seed; for the same seed, a smaller fraction is a subset of a larger one. The new manifest is
    written below the folder of trainings. Of shards, `shards.plan` takes that fraction.

    Args:
        config: a complete training config; it is not changed.
        data: keeps the parsed manifests.

    Raises:
        InputError: the manifest can't be written.
    """
    if config.get("fraction", 1) == 1 or shards.place_of(config):
        return config
    data = data or TrainingData()
    part = drawn(config, data)
    digest = hashlib.sha256(json.dumps(part).encode()).hexdigest()[:12]
    path = Path((config.get("exp_manager") or {}).get("exp_dir") or "runs") / "parts" / f"{digest}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data.write(path, part)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror}); set exp_manager.exp_dir") from error
    config = config.copy()
    config.model.train_ds.manifest_filepath = str(path)
    return config


def checkpoint_settings(config: DictConfig) -> dict[str, object]:
    """Return the metric by which the best checkpoint is chosen (`monitor`), and `mode`, "min" or "max"."""
    asked = (config.get("exp_manager") or {}).get("checkpoint_callback_params") or {}
    return {"monitor": asked.get("monitor", "val_wer"), "mode": asked.get("mode", "min")}


_TRACKING = {"keep_checkpoints": 3, "predictions_every": 5, "prediction_rows": 8}
"""Defaults of a config's `tracking:` section, which NeMo's own configs lack; configs/config.yaml explains them."""


def check_tracking(config: DictConfig) -> None:
    """Check the W&B settings of a training config.

    Raises:
        InputError: a setting is unknown, or its value is invalid.
    """
    section = config.get("tracking") or OmegaConf.create()
    if not isinstance(section, DictConfig) or section.keys() - _TRACKING:
        raise InputError(f"tracking={section}: expected no settings other than {', '.join(_TRACKING)}")
    for key, value in tracking_settings(config).items():
        least = 1 if key == "keep_checkpoints" else 0
        if not is_whole(value) or value < least:
            raise InputError(f"tracking.{key}={value}: expected a whole number, {least} or more")
    log_model = logger_settings(config).get("log_model")
    if log_model not in (None, True, False, "all"):
        raise InputError(f"exp_manager.wandb_logger_kwargs.log_model={log_model}: expected all, true or false")


def tracking_settings(config: DictConfig) -> dict[str, int]:
    """Return the `tracking:` section of a config, with the defaults of what is missing."""
    return _TRACKING | OmegaConf.to_container(config.get("tracking") or OmegaConf.create(), resolve=True)


def logger_settings(config: DictConfig) -> DictConfig | dict:
    """Return the config's settings of W&B's logger, from where NeMo has them."""
    return (config.get("exp_manager") or {}).get("wandb_logger_kwargs") or {}
