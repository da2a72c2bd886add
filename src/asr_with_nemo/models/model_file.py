"""Model files, `.nemo` and `.ckpt`, read as what they are: data from strangers.

NeMo's `restore_from` trusts a file with more than its weights. What is in one, and what becomes of it here:

- A `.nemo` is a tar, which can write anywhere: it is unpacked by `archives`, without links and within bounds.
- Weights are a pickle, which can call anything: nothing but tensors is read, whatever the environment says.
- The config names the model's class (`target`) and a callable for each part (`_target_`, in old files `cls`), wherever
  it stands. NeMo 3 has a list of what it may call, functions that write files among them, and imports whatever an
  adapter names before it looks; older ones called anything. Here nothing outside of NeMo and torch may be named, and
  what is built must be a class of network modules.
- Sections about data, optimiser or profiling wait in the config for the day when somebody trains: a data set may be
  a `pipe:` that runs a command. They are left out.
- Tokenizers and language models are paths: here only files that come in the archive are read.

Files of NeMo 1.x are brought up to date on the way.
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
"""The sections of a config that are built by the class that they name."""
KEPT = (*PARTS, "target", "tokenizer", "decoding", "interctc", "ctc_reduction", "use_cer", "log_prediction")
"""All that is read of a config."""
LARGEST_CONFIG = 2 * 1024**2  # bytes; that of a model with a thousand tokens has 20,000
MOST_VALUES = 1_000_000  # of a config, once aliases and references are followed
MOST_FILES = 1_000  # in a .nemo
GROWTH, SLACK = 20, 64 * 1024**2  # it may unpack to that many times its size, and that many bytes; weights don't shrink
_NAMESPACES = re.compile(r"(nemo|torch)(\.\w+)+")
_FILE_KEYS = re.compile(r"path|file|dir|_model$")


def load(path: Path) -> "EncDecCTCModel":
    """The CTC model in a `.nemo` file or a Lightning checkpoint (`.ckpt`), ready for inference.

    It is on the GPU if this torch can use one, else on the CPU. Nothing in the file is executed. The model's config is
    without data, optimiser and the like, and in NeMo 3's terms.

    Args:
        path: what is in the file decides, not its name.

    Raises:
        InputError: the file isn't there, isn't a model file, is damaged, isn't of a CTC model, or asks for more than to
            be a network: for code, for files that aren't in it, for a place outside of its folder.
    """
    if not path.is_file():
        reason = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {reason}; expected a model (.nemo or .ckpt), as scripts/train.py makes one")
    if tarfile.is_tarfile(path):
        read = _load_nemo
    elif zipfile.is_zipfile(path):
        read = _load_checkpoint
    elif path.suffix == ".onnx":
        raise InputError(f"{path}: an export, which has no weights for NeMo; give the .nemo file that it was made from")
    else:
        raise InputError(
            f"{path}: not a model file, or cut short; expected a .nemo file (a tar with model_config.yaml and "
            "weights) or a Lightning .ckpt, as scripts/train.py makes them"
        )
    try:
        return read(path).eval()
    except InputError:
        raise
    except Exception as error:  # NeMo, Hydra and torch raise of every kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: can't be loaded as a NeMo model: {reason}") from error


def read_alphabet(path: Path) -> list[str]:
    """The letters that the model in a `.nemo` file writes, without building it.

    Raises:
        InputError: the file isn't there, isn't a model file or is damaged, or its model doesn't write letters.
    """
    try:
        with tarfile.open(path) as archive:
            members = [one for one in archive if PurePosixPath(one.name).name == CONFIG and one.isfile()]
            if not members:
                raise InputError(f"{path}: a tar without {CONFIG}, so it is no .nemo file")
            with archive.extractfile(members[0]) as file:
                config = _read_yaml(file.read(LARGEST_CONFIG + 1), path)
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
    """Where a model goes. What this imports takes ten seconds, and a wrong file should be told before."""
    from asr_with_nemo.base.machine import has_working_gpu, quieten

    quieten()
    return "cuda" if has_working_gpu() else "cpu"


def _load_nemo(path: Path) -> "EncDecCTCModel":
    with tempfile.TemporaryDirectory(prefix="nemo-") as scratch:
        folder = Path(scratch)
        largest = GROWTH * path.stat().st_size + SLACK
        unpack_tar(path, folder, max_bytes=largest, max_files=MOST_FILES, links=False)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(f"{path}: a tar without {name}, so it is no .nemo file")
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
    """The tensors of a file that torch saved, and the settings beside them; no other kind of object.

    Raises:
        InputError: it holds another kind, which unpickling would have to call.
    """
    import typing
    from collections import defaultdict

    import torch
    from omegaconf import DictConfig, ListConfig, nodes
    from omegaconf.base import ContainerMetadata, Metadata

    # What NeMo's config is made of in a Lightning checkpoint.
    settings = [DictConfig, ListConfig, ContainerMetadata, Metadata, typing.Any, defaultdict, dict, list, int]
    settings += [nodes.AnyNode, nodes.StringNode, nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode]
    try:
        with torch.serialization.safe_globals(settings):
            weights = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)|(?:function|class|instantiate) ([\w.]+)", str(error))
        wants = f"{asked[1] or asked[2]}, which is no weight" if asked else "more than weights"
        raise InputError(
            f"{path}: can't be loaded: its weights call for {wants}; refused, because a file that is unpickled can run "
            "any code. Get the model from a place that you trust."
        ) from error
    if not isinstance(weights, dict):
        raise InputError(f"{path}: can't be loaded: it holds a {type(weights).__name__}, not the weights of a model")
    return weights


# --- The config -------------------------------------------------------------------------------------------------------


def _read_yaml(content: bytes, path: Path) -> object:
    import yaml

    if len(content) > LARGEST_CONFIG:
        raise InputError(f"{path}: its config has over {LARGEST_CONFIG:,} bytes; refused")
    try:
        return yaml.load(content.decode("utf-8"), Loader=yaml_loader())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: its config can't be read as YAML ({error})") from error


def _checked(config: object, path: Path, folder: Path | None = None) -> dict:
    """What is needed of a model's config, in NeMo 3's terms, with all that it would do made sure of.

    Args:
        config: plain, as it was read.
        path: of the model, for messages.
        folder: where the files lie that came with it; None for none.

    Raises:
        InputError: it isn't of a CTC model, or asks for more.
    """
    if isinstance(config, dict) and isinstance(config.get("model"), dict):  # a whole training config
        root, config = config, config["model"]
    else:
        root = config
    if not isinstance(config, dict):
        raise InputError(f"{path}: its config is no mapping, so it is no NeMo model")
    # All of it, also what is left out below: who hides something there is not to be trusted with the rest.
    for key, value in _values(config, path):
        if key in ("_target_", "cls", "target") and value is not None and not _NAMESPACES.fullmatch(str(value)):
            raise _refusal(path, f"{key}: {value}", "is neither NeMo's nor torch's, and would be called")
    config = {key: _modern(_resolved(config[key], root, path)) for key in KEPT if config.get(key) is not None}
    kind = _model_class(config, path)
    for part in PARTS:
        if part in config:
            config[part] = _checked_part(part, config[part], path)
        elif part != "spec_augment":
            raise InputError(f"{path}: its config has no {part}, so it is no CTC model")
    for key, value in _values(config.get("decoding"), path):
        if _FILE_KEYS.search(str(key)) and isinstance(value, str) and value:
            raise _refusal(path, f"decoding.{key}: {value}", "is a file that isn't in it")
    letters = config["decoder"].get("vocabulary")
    if "tokenizer" in config:
        config["tokenizer"] = _checked_tokenizer(config["tokenizer"], path, folder)
        config["validation_ds"] = {"use_start_end_token": False}  # NeMo's transcribe looks for it there
    elif isinstance(letters, list) and letters and all(isinstance(letter, str) for letter in letters):
        config["labels"] = letters  # without them here, NeMo 3 takes a default alphabet for data
        config["decoder"]["num_classes"] = len(letters)
    else:
        raise InputError(f"{path}: its decoder has no vocabulary; expected a CTC model of letters, or with a tokenizer")
    # NeMo's own defaults, for those who read them in the config.
    config["preprocessor"] = {"sample_rate": 16_000, "window_stride": 0.01} | config["preprocessor"]
    config["sample_rate"] = config["preprocessor"]["sample_rate"]
    config["target"] = f"{kind.__module__}.{kind.__name__}"
    return config


def _refusal(path: Path, what: str, why: str) -> InputError:
    return InputError(f"{path}: refused, because its config has {what}, which {why}; get a model that you can trust")


def _values(value: object, path: Path, key: object = None) -> Iterator[tuple[object, object]]:
    """Each value in a config with its key; what aliases share is counted each time, so that it can't grow for ever."""
    waiting, left = [(key, value)], MOST_VALUES
    while waiting:
        key, value = waiting.pop()
        left -= 1
        if left < 0:
            raise InputError(f"{path}: refused, because its config has more than {MOST_VALUES:,} values")
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif value is not None and not isinstance(value, str | int | float):
            raise InputError(f"{path}: refused, because its config has a {type(value).__name__}; expected plain values")
        yield key, value


def _resolved(section: object, root: dict, path: Path) -> object:
    """A section with OmegaConf's references (`${model.dropout}`) followed; what would be computed is refused."""
    left = MOST_VALUES

    def follow(value: object, within: tuple[str, ...] = ()) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError(f"{path}: refused, because its config has more than {MOST_VALUES:,} values")
        if isinstance(value, dict):
            return {key: follow(item, within) for key, item in value.items()}
        if isinstance(value, list):
            return [follow(item, within) for item in value]
        if not (isinstance(value, str) and "${" in value):
            return value
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value)
        if not reference or value in within:
            raise _refusal(path, value, "is no plain reference to another value")
        found = root
        for name in reference[1].split("."):
            if not isinstance(found, dict) or name not in found:
                raise InputError(f"{path}: its config refers to {value}, which isn't there")
            found = found[name]
        return follow(found, (*within, value))

    return follow(section)


def _modern(section: object) -> object:
    """NeMo 1.0's `cls: ..., params: {...}` as `_target_: ...` with the parameters beside it."""
    if not isinstance(section, dict):
        return section
    section = dict(section)
    if isinstance(section.get("params"), dict):
        section |= section.pop("params")
    if "cls" in section:
        section.setdefault("_target_", section.pop("cls"))
    return {key: _modern(value) for key, value in section.items()}


def _class(name: str, path: Path) -> type:
    """A class of NeMo's or torch's, by its name. Imports nothing else.

    Raises:
        InputError: there is none of that name.
    """
    from hydra.utils import get_class

    if not _NAMESPACES.fullmatch(name):
        raise _refusal(path, name, "is neither NeMo's nor torch's, and would be called")
    try:
        found = inspect.unwrap(get_class(name))
    except Exception as error:  # Hydra's, and those of what it imports
        raise _refusal(path, name, "is no class of this NeMo's or torch's") from error
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
            f"{path}: holds a {name.rpartition('.')[2]}; expected a CTC model, an EncDecCTCModel (letters) or "
            "EncDecCTCModelBPE (pieces of words)"
        )
    return found


def _checked_part(part: str, section: object, path: Path) -> dict:
    """A section that is built, without what its class no longer takes and that was switched off anyway.

    Raises:
        InputError: it, or something in it, isn't a network module of NeMo or torch.
    """
    from nemo.core import ModelPT
    from torch import nn

    if not isinstance(section, dict) or "_target_" not in section:
        raise InputError(f"{path}: its config doesn't say what its {part} is (_target_), so it is no NeMo model")
    for key, value in _values(section, path):
        if key in ("_target_", "cls", "target"):
            found = _class(str(value), path)
            if not issubclass(found, nn.Module) or issubclass(found, ModelPT):
                raise _refusal(path, f"{part}: {value}", "is no part of a network")
    takes = inspect.signature(_class(section["_target_"], path).__init__).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return section
    unknown = {key: value for key, value in section.items() if key not in takes and key != "_target_"}
    for key, value in unknown.items():
        if value not in (None, False):
            raise InputError(f"{path}: its {part} asks for {key}={value}, which this NeMo no longer knows")
    return {key: value for key, value in section.items() if key not in unknown}


def _checked_tokenizer(section: object, path: Path, folder: Path | None) -> dict:
    """The settings of a SentencePiece tokenizer whose files came in the archive.

    Raises:
        InputError: it is of another kind, or its files are elsewhere.
    """
    kind = section.get("type") if isinstance(section, dict) else section
    if kind != "bpe" or "custom_tokenizer" in section or not section.get("model_path"):
        raise InputError(f"{path}: its tokenizer is of the kind {kind}; expected one of SentencePiece (bpe)")
    # A key without a file has to be there too: NeMo looks for a default one instead.
    checked = {"type": kind, "dir": "", "model_path": None, "vocab_path": None, "spe_tokenizer_vocab": None}
    for key in ("model_path", "vocab_path", "spe_tokenizer_vocab"):
        name = PurePosixPath(str(section.get(key) or "").removeprefix("nemo:")).name  # early files have the whole path
        if name and (folder is None or not (folder / name).is_file()):
            raise _refusal(path, f"tokenizer.{key}: {section[key]}", "is a file that isn't in it")
        checked[key] = f"nemo:{name}" if name else None
    return checked


# --- The model --------------------------------------------------------------------------------------------------------


def _build(
    config: dict, weights: "dict[str, torch.Tensor]", path: Path, folder: Path | None = None
) -> "EncDecCTCModel":
    """The model of a checked config with the weights of its file.

    Raises:
        InputError: the weights aren't those of this model.
    """
    from nemo.utils.app_state import AppState
    from omegaconf import OmegaConf

    kind = _class(config["target"], path)
    # As NeMo's restore_from does, but undone after an error too: until then no model in this process gets its data.
    AppState().model_restore_path = str(path.absolute())
    with restoring(kind, folder):
        model = kind(cfg=OmegaConf.create(config))
    found = model.load_state_dict(weights, strict=False)
    # The window and the mel filters follow from the config; which of them are saved differs between versions.
    wrong = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.startswith("preprocessor.")]
    if wrong:
        raise InputError(f"{path}: its weights aren't those of its config; {wrong[0]} is in one of them only")
    return model
