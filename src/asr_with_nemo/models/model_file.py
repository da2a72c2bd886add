"""Load model files, `.nemo` and `.ckpt`, as untrusted data.

NeMo's `restore_from` trusts more than the weights of a file. Its contents, and how they are read here:

- A `.nemo` is a tar, which can write anywhere: `archives` unpacks it, without links and within limits.
- Weights are a pickle, which can call anything: only tensors are read, whatever the environment sets.
- The config names the model's class (`target`) and a callable for each part (`_target_`, in old files `cls`), at any
  depth. NeMo 3 has a list of allowed callables, which includes functions that write files, and imports whatever an
  adapter names before it checks; older versions called anything. Here only names in NeMo and torch are allowed, and
  each part must be a class of network modules.
- Sections about data, optimiser or profiling take effect in a later training: a data set may be a `pipe:` that runs a
  command. They are dropped.
- Tokenizers and language models are paths: only files in the archive are read.

Files of NeMo 1.x are converted to NeMo 3's format.
"""

import inspect
import pickle
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from asr_with_nemo.data.archives import unpack_tar
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.nemo_internals import restoring, yaml_loader

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import EncDecCTCModel

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
PARTS = ("preprocessor", "spec_augment", "encoder", "decoder")
"""Sections of a config that name the class that builds them."""
_KEPT = (*PARTS, "target", "tokenizer", "decoding", "interctc", "ctc_reduction", "use_cer", "log_prediction")
"""Keys of a config that are read; all others are dropped."""
_LARGEST_CONFIG = 2 * 1024**2  # bytes; that of a model with a thousand tokens has 20,000
_MOST_VALUES = 1_000_000  # of a config, once aliases and references are followed
_MOST_FILES = 1_000  # in a .nemo
_GROWTH, _SLACK = 20, 64 * 1024**2  # unpacked size: at most 20 times the file's, plus 64 MiB; weights barely compress
_NAMESPACES = re.compile(r"(nemo|torch)(\.\w+)+")
_FILE_KEYS = re.compile(r"path|file|dir|_model$")


def load(path: Path) -> "EncDecCTCModel":
    """Load the CTC model of a `.nemo` file or a Lightning checkpoint (`.ckpt`), in evaluation mode.

    The model is on the GPU if this torch can use one, else on the CPU. Nothing in the file is executed. The model's
    config is in NeMo 3's format, without sections such as data and optimiser.

    Args:
        path: the file; its content decides the format, not its name.

    Raises:
        InputError: the file is missing, damaged or not a model file, isn't of a CTC model, or its content is unsafe: it
            references code, files outside of the archive, or paths outside of its folder.
    """
    if not path.is_file():
        reason = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {reason}; expected a model (.nemo or .ckpt), as scripts/train.py makes one")
    if tarfile.is_tarfile(path):
        read = _load_nemo
    elif zipfile.is_zipfile(path):
        read = _load_checkpoint
    elif path.suffix == ".onnx":
        raise InputError(f"{path}: an ONNX export, which NeMo can't load; give the .nemo file that it comes from")
    else:
        raise InputError(
            f"{path}: not a model file, or cut short; expected a .nemo file (a tar with model_config.yaml and "
            "weights) or a Lightning .ckpt, as scripts/train.py makes them"
        )
    try:
        return read(path).eval()
    except InputError:
        raise
    except Exception as error:  # NeMo, Hydra and torch raise exceptions of many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: can't be loaded as a NeMo model: {reason}") from error


def read_alphabet(path: Path) -> list[str]:
    """Return the alphabet of the model in a `.nemo` file, without building the model.

    Raises:
        InputError: the file is missing, damaged or not a model file, or its model has no alphabet of letters.
    """
    try:
        with tarfile.open(path) as archive:
            members = [one for one in archive if PurePosixPath(one.name).name == CONFIG and one.isfile()]
            if not members:
                raise InputError(f"{path}: a tar without {CONFIG}, so not a .nemo file")
            with archive.extractfile(members[0]) as file:
                config = _read_yaml(file.read(_LARGEST_CONFIG + 1), path)
    except (OSError, tarfile.TarError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"not a model file ({error})"
        raise InputError(f"{path}: {reason}; expected a .nemo file, as scripts/train.py makes one") from error
    root = config if isinstance(config, dict) else {}
    decoder = (root.get("model") or root).get("decoder")
    letters = _modern(_resolved(decoder, root, path)).get("vocabulary") if isinstance(decoder, dict) else None
    if not isinstance(letters, list) or not letters or any(len(str(letter)) != 1 for letter in letters):
        raise InputError(f"{path}: its decoder has no alphabet; expected a CTC model of letters")
    return [str(letter) for letter in letters]


def _device() -> str:
    """Return the device of a model. The imports take ten seconds, so this runs after the file was checked."""
    from asr_with_nemo.base.machine import has_working_gpu, quieten

    quieten()
    return "cuda" if has_working_gpu() else "cpu"


def _load_nemo(path: Path) -> "EncDecCTCModel":
    with tempfile.TemporaryDirectory(prefix="nemo-") as scratch:
        folder = Path(scratch)
        largest = _GROWTH * path.stat().st_size + _SLACK
        unpack_tar(path, folder, max_bytes=largest, max_files=_MOST_FILES, links=False)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(f"{path}: a tar without {name}, so not a .nemo file")
        device = _device()
        config = _checked(_read_yaml((folder / CONFIG).read_bytes(), path), path, folder)
        return _build(config, _read_weights(folder / WEIGHTS, path, device), path, folder).to(device)


def _load_checkpoint(path: Path) -> "EncDecCTCModel":
    from omegaconf import DictConfig, OmegaConf

    device = _device()
    checkpoint = _read_weights(path, path, device)
    config = (checkpoint.get("hyper_parameters") or {}).get("cfg")
    if not isinstance(config, DictConfig | dict) or "state_dict" not in checkpoint:
        raise InputError(f"{path}: not a Lightning checkpoint of a NeMo model (it lacks state_dict or the model's cfg)")
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False)
    return _build(_checked(config, path), checkpoint["state_dict"], path).to(device)


# --- Weights ----------------------------------------------------------------------------------------------------------


def _read_weights(file: Path, path: Path, device: str) -> dict:
    """Read the tensors and settings of a file that torch saved, and no other types of objects.

    Raises:
        InputError: the file has objects of another type, whose unpickling would call code.
    """
    import typing
    from collections import defaultdict

    import torch
    from omegaconf import DictConfig, ListConfig, nodes
    from omegaconf.base import ContainerMetadata, Metadata

    # The types of NeMo's config in a Lightning checkpoint.
    settings = [DictConfig, ListConfig, ContainerMetadata, Metadata, typing.Any, defaultdict, dict, list, int]
    settings += [nodes.AnyNode, nodes.StringNode, nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode]
    try:
        with torch.serialization.safe_globals(settings):
            weights = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)|(?:function|class|instantiate) ([\w.]+)", str(error))
        wants = f"{asked[1] or asked[2]}, which isn't a tensor" if asked else "more than tensors"
        raise InputError(
            f"{path}: can't be loaded: the checkpoint references {wants}; refused, because unpickling can run "
            "arbitrary code. Get the model from a source that you trust."
        ) from error
    if not isinstance(weights, dict):
        raise InputError(f"{path}: can't be loaded: it contains a {type(weights).__name__}, not the weights of a model")
    return weights


# --- The config -------------------------------------------------------------------------------------------------------


def _read_yaml(content: bytes, path: Path) -> object:
    import yaml

    if len(content) > _LARGEST_CONFIG:
        raise InputError(f"{path}: its config has over {_LARGEST_CONFIG:,} bytes; refused")
    try:
        return yaml.load(content.decode("utf-8"), Loader=yaml_loader())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: its config can't be read as YAML ({error})") from error


def _checked(config: object, path: Path, folder: Path | None = None) -> dict:
    """Return the needed keys of a model's config, in NeMo 3's format, checked to be safe.

    Args:
        config: as read from the file.
        path: of the model, for messages.
        folder: folder of the archive's other files; None without any.

    Raises:
        InputError: the config isn't of a CTC model, or is unsafe.
    """
    if isinstance(config, dict) and isinstance(config.get("model"), dict):  # a whole training config
        root, config = config, config["model"]
    else:
        root = config
    if not isinstance(config, dict):
        raise InputError(f"{path}: its config is not a mapping, so not a NeMo model")
    # All keys, also those that are dropped below: a file with something unsafe there can't be trusted.
    for key, value in _values(config, path):
        if key in ("_target_", "cls", "target") and value is not None and not _NAMESPACES.fullmatch(str(value)):
            raise _refusal(path, f"{key}: {value}", "is neither NeMo's nor torch's, and would be called")
    config = {key: _modern(_resolved(config[key], root, path)) for key in _KEPT if config.get(key) is not None}
    kind = _model_class(config, path)
    for part in PARTS:
        if part in config:
            config[part] = _checked_part(part, config[part], path)
        elif part != "spec_augment":
            raise InputError(f"{path}: its config has no {part}, so not a CTC model")
    for key, value in _values(config.get("decoding"), path):
        if _FILE_KEYS.search(str(key)) and isinstance(value, str) and value:
            raise _refusal(path, f"decoding.{key}: {value}", "is a file outside of the archive")
    letters = config["decoder"].get("vocabulary")
    if "tokenizer" in config:
        config["tokenizer"] = _checked_tokenizer(config["tokenizer"], path, folder)
        config["validation_ds"] = {"use_start_end_token": False}  # NeMo's transcribe looks for it there
    elif isinstance(letters, list) and letters and all(isinstance(letter, str) for letter in letters):
        config["labels"] = letters  # without this key, NeMo 3 uses a default alphabet for data
        config["decoder"]["num_classes"] = len(letters)
    else:
        raise InputError(f"{path}: its decoder has no vocabulary; expected a CTC model of letters, or with a tokenizer")
    # NeMo's own defaults, for code that reads them from the config.
    config["preprocessor"] = {"sample_rate": 16_000, "window_stride": 0.01} | config["preprocessor"]
    config["sample_rate"] = config["preprocessor"]["sample_rate"]
    config["target"] = f"{kind.__module__}.{kind.__name__}"
    return config


def _refusal(path: Path, what: str, why: str) -> InputError:
    return InputError(
        f"{path}: refused, because its config has {what}, which {why}; get the model from a source you trust"
    )


def _values(value: object, path: Path, key: object = None) -> Iterator[tuple[object, object]]:
    """Yield each value of a config with its key; aliased values count each time, so that their number is limited."""
    waiting, left = [(key, value)], _MOST_VALUES
    while waiting:
        key, value = waiting.pop()
        left -= 1
        if left < 0:
            raise InputError(f"{path}: refused, because its config has more than {_MOST_VALUES:,} values")
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif value is not None and not isinstance(value, str | int | float):
            raise InputError(f"{path}: refused, because its config has a {type(value).__name__}; expected plain values")
        yield key, value


def _resolved(section: object, root: dict, path: Path) -> object:
    """Return a section with OmegaConf's references (`${model.dropout}`) resolved; resolvers are refused."""
    left = _MOST_VALUES

    def follow(value: object, within: tuple[str, ...] = ()) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError(f"{path}: refused, because its config has more than {_MOST_VALUES:,} values")
        if isinstance(value, dict):
            return {key: follow(item, within) for key, item in value.items()}
        if isinstance(value, list):
            return [follow(item, within) for item in value]
        if not (isinstance(value, str) and "${" in value):
            return value
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value)
        if not reference or value in within:
            raise _refusal(path, value, "is not a plain reference to another value")
        found = root
        for name in reference[1].split("."):
            if not isinstance(found, dict) or name not in found:
                raise InputError(f"{path}: its config refers to {value}, which is missing")
            found = found[name]
        return follow(found, (*within, value))

    return follow(section)


def _modern(section: object) -> object:
    """Convert NeMo 1.0's `cls: ..., params: {...}` to `_target_: ...` with the parameters as keys next to it.

    Example:
        >>> _modern({"cls": "nemo.Encoder", "params": {"feat_in": 64}})
        {'feat_in': 64, '_target_': 'nemo.Encoder'}
    """
    if not isinstance(section, dict):
        return section
    section = dict(section)
    if isinstance(section.get("params"), dict):
        section |= section.pop("params")
    if "cls" in section:
        section.setdefault("_target_", section.pop("cls"))
    return {key: _modern(value) for key, value in section.items()}


def _class(name: str, path: Path) -> type:
    """Import a class of NeMo or torch by its name, and nothing else.

    Raises:
        InputError: there is no such class.
    """
    from hydra.utils import get_class

    if not _NAMESPACES.fullmatch(name):
        raise _refusal(path, name, "is neither NeMo's nor torch's, and would be called")
    try:
        found = inspect.unwrap(get_class(name))
    except Exception as error:  # Hydra's, and those of what it imports
        raise _refusal(path, name, "is not a class of this NeMo or torch") from error
    if not _NAMESPACES.fullmatch(f"{found.__module__}.{found.__name__}"):  # os.system by way of a module that uses os
        raise _refusal(path, name, f"is {found.__module__}.{found.__name__}, neither NeMo's nor torch's")
    return found


def _model_class(config: dict, path: Path) -> "type[EncDecCTCModel]":
    from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE

    if "target" not in config:
        return EncDecCTCModelBPE if "tokenizer" in config else EncDecCTCModel
    name = str(config["target"])
    found = _class(name, path)
    if not issubclass(found, EncDecCTCModel):
        raise InputError(
            f"{path}: contains a {name.rpartition('.')[2]}; expected a CTC model, an EncDecCTCModel (letters) or "
            "EncDecCTCModelBPE (pieces of words)"
        )
    return found


def _checked_part(part: str, section: object, path: Path) -> dict:
    """Return a section of `PARTS`, without parameters that its class no longer takes if they were off.

    Raises:
        InputError: the section, or something in it, isn't a network module of NeMo or torch.
    """
    from nemo.core import ModelPT
    from torch import nn

    if not isinstance(section, dict) or "_target_" not in section:
        raise InputError(f"{path}: its config doesn't name the class of its {part} (_target_), so not a NeMo model")
    for key, value in _values(section, path):
        if key in ("_target_", "cls", "target"):
            found = _class(str(value), path)
            if not issubclass(found, nn.Module) or issubclass(found, ModelPT):
                raise _refusal(path, f"{part}: {value}", "is not a network module")
    takes = inspect.signature(_class(section["_target_"], path).__init__).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return section
    unknown = {key: value for key, value in section.items() if key not in takes and key != "_target_"}
    for key, value in unknown.items():
        if value not in (None, False):
            raise InputError(f"{path}: its {part} has {key}={value}, which this NeMo no longer supports")
    return {key: value for key, value in section.items() if key not in unknown}


def _checked_tokenizer(section: object, path: Path, folder: Path | None) -> dict:
    """Return the settings of a SentencePiece tokenizer whose files are in the archive.

    Raises:
        InputError: the tokenizer is of another type, or its files are elsewhere.
    """
    kind = section.get("type") if isinstance(section, dict) else section
    if kind != "bpe" or "custom_tokenizer" in section or not section.get("model_path"):
        raise InputError(f"{path}: its tokenizer is of type {kind}; expected SentencePiece (bpe)")
    # Keys without a file are needed too: NeMo uses a default otherwise.
    checked = {"type": kind, "dir": "", "model_path": None, "vocab_path": None, "spe_tokenizer_vocab": None}
    for key in ("model_path", "vocab_path", "spe_tokenizer_vocab"):
        name = PurePosixPath(str(section.get(key) or "").removeprefix("nemo:")).name  # early files have the whole path
        if name and (folder is None or not (folder / name).is_file()):
            raise _refusal(path, f"tokenizer.{key}: {section[key]}", "is a file outside of the archive")
        checked[key] = f"nemo:{name}" if name else None
    return checked


# --- The model --------------------------------------------------------------------------------------------------------


def _build(
    config: dict, weights: "dict[str, torch.Tensor]", path: Path, folder: Path | None = None
) -> "EncDecCTCModel":
    """Build the model of a checked config, with the weights of its file.

    Raises:
        InputError: the weights don't fit this model.
    """
    from nemo.utils.app_state import AppState
    from omegaconf import OmegaConf

    kind = _class(config["target"], path)
    # As NeMo's restore_from does, but also undone after an error: until then no model in this process gets its data.
    AppState().model_restore_path = str(path.absolute())
    with restoring(kind, folder):
        model = kind(cfg=OmegaConf.create(config))
    found = model.load_state_dict(weights, strict=False)
    # The window and the mel filters follow from the config; which of them are saved differs between versions.
    wrong = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.startswith("preprocessor.")]
    if wrong:
        raise InputError(f"{path}: its weights don't fit its config; only one of them has {wrong[0]}")
    return model
