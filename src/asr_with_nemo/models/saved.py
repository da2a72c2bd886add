"""Read what PyTorch saved, weights and checkpoints of trainings, as untrusted data.

Such a file is a pickle, which can call anything when it is read. Here only tensors, plain values and the types of
NeMo's config are read, whatever the environment sets. Every file is read by this module, those of trainings too.
"""

import pickle
import re
import zipfile
from pathlib import Path

from asr_with_nemo.base.files import unpacked_limit
from asr_with_nemo.errors import InputError


def largest_content(path: Path) -> int:
    """Return the most bytes that a model file may unpack to: 20 times its own, and 64 MiB. Weights barely compress."""
    return unpacked_limit(path, growth=20)


def read_saved(file: Path, path: Path | None = None, device: str = "cpu", mmap: bool = False) -> dict:
    """Read the tensors and settings of a file that torch saved, and no other types of objects.

    Args:
        file: the file.
        path: what messages name, if `file` was unpacked from it.
        device: of the tensors.
        mmap: map the tensors into memory instead of reading them at once.

    Raises:
        InputError: the file has objects of another type, whose unpickling would call code; or it is empty, cut short or
            damaged.
        OSError: it can't be opened.
    """
    import typing
    from collections import defaultdict

    import torch
    from omegaconf import DictConfig, ListConfig, nodes
    from omegaconf.base import ContainerMetadata, Metadata

    path = path or file
    # The types of NeMo's config in a Lightning checkpoint.
    settings = [DictConfig, ListConfig, ContainerMetadata, Metadata, typing.Any, defaultdict, dict, list, int]
    settings += [nodes.AnyNode, nodes.StringNode, nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode]
    try:
        _check_size(file, path)
        with torch.serialization.safe_globals(settings):
            saved = torch.load(file, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)|(?:function|class|instantiate) ([\w.]+)", str(error))
        if not asked:
            reason = str(error).strip().split("WeightsUnpickler error:")[-1].strip().splitlines()
            raise InputError(
                f"{path}: can't be loaded: damaged, or more than tensors are in it ({reason[0] if reason else 'empty'})"
            ) from error
        raise InputError(
            f"{path}: can't be loaded: the checkpoint references {asked[1] or asked[2]}, which isn't a tensor; "
            "refused, because unpickling can run arbitrary code. Get the model from a source that you trust."
        ) from error
    except InputError:
        raise
    except Exception as error:  # torch's for a damaged file: RuntimeError, EOFError, ValueError, KeyError and others
        if isinstance(error, OSError) and error.filename:  # it can't be opened; one without a name is torch's own
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: can't be loaded: empty, cut short or damaged ({reason})") from error
    if not isinstance(saved, dict):
        raise InputError(f"{path}: can't be loaded: it contains a {type(saved).__name__}, not the weights of a model")
    return saved


def _check_size(file: Path, path: Path) -> None:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > largest_content(file):
            raise InputError(f"{path}: refused, because it unpacks to {size:,} bytes")
