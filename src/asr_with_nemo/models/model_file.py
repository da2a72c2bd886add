"""Load model files, `.nemo` and `.ckpt`, as untrusted data.

NeMo's `restore_from` trusts more than the weights of a file. Its contents, and how they are read here:

- A `.nemo` is a tar, which can write anywhere: `archives` unpacks it, without links and within limits.
- Weights are a pickle, which can call anything: `saved` reads only tensors.
- The config names what builds the model, with its parameters: `model_config` has a list of what is allowed.
- Sizes in the config make memory: the model may not have many more parameters than the file has weights, and tables
  that follow from the config alone (positions, mel filters) have a limit of their own.
"""

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asr_with_nemo.data.archives import check_whole, is_tar, read_member, unpack_tar
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.model_config import LARGEST_CONFIG, SALM, checked, modern, read_yaml, resolved
from asr_with_nemo.models.nemo_internals import restoring
from asr_with_nemo.models.saved import largest_content, read_saved

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
TOKENIZER = "tokenizer"
"""The folder of a training that keeps its tokenizer."""
_TOKENIZER_FILES = {
    "model_path": "tokenizer.model",
    "vocab_path": "vocab.txt",
    "spe_tokenizer_vocab": "tokenizer.vocab",
}
_MOST_FILES = 1_000  # in a .nemo
_PARAMETERS, _FEW = 4, 1_000_000  # a model may have 4 times the file's weights, and a million more
_BUFFERS = 2**27  # values of tables that follow from the config alone; published models have 2^24


def load(path: Path) -> "ASRModel":
    """Load the recogniser of a `.nemo` file or a Lightning checkpoint (`.ckpt`), in evaluation mode.

    The model is on the GPU if this torch can use one, else on the CPU. Nothing in the file is executed. The model's
    config is in NeMo 3's format, without sections such as data and optimiser. A checkpoint of a model of pieces lacks
    their tokenizer: it is read from the folder `tokenizer` of the training.

    Args:
        path: the file; its content decides the format, not its name.

    Raises:
        InputError: the file is missing, damaged or not a model file, isn't of one of the `MODEL_CLASSES`, or its
            content is unsafe: it references code, files outside of the archive, or paths outside of its folder.
    """
    if not path.is_file():
        reason = "a folder" if path.is_dir() else "no such file"
        if (path / "config.json").is_file():
            reason += (
                " of Hugging Face's format, as language models that listen (SALM) have. NeMo itself runs these: "
                f"nemo.collections.speechlm2.models.SALM.{SALM}"
            )
        raise InputError(f"{path}: {reason}; expected a model (.nemo or .ckpt), as scripts/train.py makes one")
    if is_tar(path):
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
        cause: BaseException | None = error
        while cause and not isinstance(cause, InputError):  # Hydra wraps ours too
            cause = cause.__cause__ or cause.__context__
        if cause:
            raise cause from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: can't be loaded as a NeMo model: {reason}") from error


def check_nemo(path: Path) -> None:
    """Read a `.nemo` file to its end, without building the model.

    Raises:
        InputError: it is cut short or damaged.
    """
    check_whole(path, max_bytes=largest_content(path), max_files=_MOST_FILES)


def read_alphabet(path: Path) -> list[str]:
    """Return the alphabet of the model in a `.nemo` file, without building the model.

    Raises:
        InputError: the file is missing, damaged or not a model file, or its model has no alphabet of letters.
    """
    if not path.is_file() or not is_tar(path):
        reason = "not a model file, or cut short" if path.exists() else "no such file"
        raise InputError(f"{path}: {reason}; expected a .nemo file, as scripts/train.py makes one")
    content = read_member(path, CONFIG, largest=LARGEST_CONFIG, max_bytes=largest_content(path), max_files=_MOST_FILES)
    if content is None:
        raise InputError(f"{path}: a tar without {CONFIG}, so not a .nemo file")
    config = read_yaml(content, path)
    root = config if isinstance(config, dict) else {}
    model = root["model"] if isinstance(root.get("model"), dict) else root
    sections = [model.get(name) for name in ("decoder", "joint")]
    found = [modern(resolved(one, root, path)).get("vocabulary") for one in sections if isinstance(one, dict)]
    letters = next(filter(None, found), None)
    if not isinstance(letters, list) or any(len(str(letter)) != 1 for letter in letters):
        raise InputError(f"{path}: its decoder has no alphabet; expected a model of letters")
    return [str(letter) for letter in letters]


def _device() -> str:
    """Return the device of a model. The imports take ten seconds, so this runs after the file was checked."""
    from asr_with_nemo.base.machine import has_working_gpu, quieten

    quieten()
    return "cuda" if has_working_gpu() else "cpu"


def _load_nemo(path: Path) -> "ASRModel":
    with tempfile.TemporaryDirectory(prefix="nemo-") as scratch:
        folder = Path(scratch)
        unpack_tar(path, folder, max_bytes=largest_content(path), max_files=_MOST_FILES)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(f"{path}: a tar without {name}, so not a .nemo file")
        device = _device()
        config = checked(read_yaml((folder / CONFIG).read_bytes(), path), path, folder)
        return _build(config, read_saved(folder / WEIGHTS, path, device), path, folder).to(device)


def _load_checkpoint(path: Path) -> "ASRModel":
    from omegaconf import DictConfig, OmegaConf

    device = _device()
    checkpoint = read_saved(path, device=device)
    config = (checkpoint.get("hyper_parameters") or {}).get("cfg")
    if not isinstance(config, DictConfig | dict) or "state_dict" not in checkpoint:
        raise InputError(f"{path}: not a Lightning checkpoint of a NeMo model (it lacks state_dict or the model's cfg)")
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False)
    folder = next((place for place in (path.parent, path.parent.parent) if (place / TOKENIZER).is_dir()), None)
    tokenizer = None if folder is None else folder / TOKENIZER
    section = config.get("tokenizer")
    if tokenizer is not None and isinstance(section, dict):
        for key, name in _TOKENIZER_FILES.items():
            section[key] = f"nemo:{name}" if (tokenizer / name).is_file() else None
    return _build(checked(config, path, tokenizer), checkpoint["state_dict"], path, tokenizer).to(device)


# --- The model --------------------------------------------------------------------------------------------------------


def _build(config: dict, weights: "dict[str, torch.Tensor]", path: Path, folder: Path | None = None) -> "ASRModel":
    """Build the model of a checked config, with the weights of its file.

    Raises:
        InputError: the weights don't fit this model.
    """
    from hydra.utils import get_class
    from nemo.utils.app_state import AppState
    from omegaconf import OmegaConf

    kind = get_class(config["target"])
    # As NeMo's restore_from does, but also undone after an error: until then no model in this process gets its data.
    AppState().model_restore_path = str(path.absolute())
    with restoring(kind, folder), _limited(weights, path, _copied(config)):
        model = kind(cfg=OmegaConf.create(config))
    found = model.load_state_dict(weights, strict=False)
    # The window and the mel filters follow from the config; which of them are saved differs between versions.
    wrong = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.startswith("preprocessor.")]
    if wrong:
        raise InputError(f"{path}: its weights don't fit its config; only one of them has {wrong[0]}")
    lost = next((name for name, value in model.named_parameters() if not value.isfinite().all()), None)
    if lost:
        raise InputError(
            f"{path}: its weights aren't numbers ({lost} has NaN or infinity), so it writes nothing; its training has "
            "diverged: use an earlier checkpoint, or train again with a lower learning rate"
        )
    return model


def _copied(config: dict) -> int:
    """Return the number of parameters in the layers that NeMo copies, instead of making each."""
    count = 0
    for part, matrices in (("transf_encoder", 4), ("transf_decoder", 8)):
        sizes = config.get(part) or {}
        sizes = sizes.get("config_dict", sizes)
        if sizes:
            width = sizes["hidden_size"]
            count += max(0, sizes["num_layers"] - 1) * width * (matrices * width + 2 * sizes["inner_size"])
    return count


@contextmanager
def _limited(weights: "dict[str, torch.Tensor]", path: Path, copied: int = 0) -> Iterator[None]:
    """Build modules whose parameters may together be not much larger than the weights of the file.

    Args:
        weights: of the file.
        path: of the model, for messages.
        copied: parameters that aren't registered one by one.

    Raises:
        InputError: they are larger. It is raised before the memory of the parameter is written to.
    """
    from torch.nn.modules import module

    # By storage, because a tensor of a few bytes can claim any shape.
    sizes = {}
    for value in weights.values():
        if hasattr(value, "untyped_storage"):
            storage = value.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes() // value.element_size()
    left = {"parameters": _FEW + _PARAMETERS * sum(sizes.values()), "buffers": _BUFFERS}

    def take(kind: str, values: int) -> None:
        left[kind] -= values
        if left[kind] < 0:
            raise InputError(
                f"{path}: refused, because its config asks for a much larger model than it has weights for"
            )

    def counts(kind: str) -> "Callable[[torch.nn.Module, str, torch.Tensor | None], None]":
        return lambda module, name, tensor: take(kind, 0 if tensor is None else tensor.numel())

    take("parameters", copied)
    hooks = [
        module.register_module_parameter_registration_hook(counts("parameters")),
        module.register_module_buffer_registration_hook(counts("buffers")),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
