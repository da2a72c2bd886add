"""The private names of NeMo, PyTorch and OmegaConf that this package relies on, each in one small function.

Read in NeMo 3.0.0, Lightning 2.4.0, PyTorch 2.13 and OmegaConf 2.3. `tests/models/test_nemo_internals.py` checks that
each name still exists and has the same effect, so that an upgrade which changes one fails there.
"""

import gc
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    import yaml
    from nemo.collections.asr.losses.rnnt import RNNTLoss
    from nemo.collections.asr.parts.preprocessing.perturb import AudioAugmentor, Perturbation
    from nemo.collections.asr.parts.preprocessing.segment import AudioSegment
    from nemo.collections.asr.parts.submodules.spectr_augment import SpecCutout
    from nemo.core.classes import ModelPT


def _set(owner: object, name: str, value: object) -> None:
    """Replace an attribute that exists: setting one that a new version has renamed would have no effect."""
    if not hasattr(owner, name):
        raise AttributeError(f"{type(owner).__name__} has no {name}; {__name__} was written for another version")
    setattr(owner, name, value)


_NEMOS_OWN = frozenset(
    [f"{kind}_{end}" for kind in ("rttm", "feature", "video") for end in ("file", "filename", "filepath")]
    + ["audio_filename"]
)
"""Keys of a manifest whose files NeMo looks for."""


# --- NeMo 3.0.0 -------------------------------------------------------------------------------------------------------


def set_samples(segment: "AudioSegment", samples: "np.ndarray") -> None:
    """Replace the samples of a segment, (t,), in place; the public `samples` is a copy that can't be set."""
    _set(segment, "_samples", samples)


def perturbations(augmentor: "AudioAugmentor") -> "list[Perturbation]":
    """Return the perturbations of an augmentor in the order in which it applies them."""
    return [perturbation for _, perturbation in augmentor._pipeline]


def set_random(cutout: "SpecCutout", generator: random.Random) -> None:
    """Let Cutout draw from a generator: a `random.Random`, or the module `random`, which the training's seed sets."""
    _set(cutout, "_rng", generator)


def set_training_loader(model: "ModelPT", loader: object) -> None:
    """Let a model train from a loader that NeMo hasn't made of the config's `train_ds`."""
    _set(model, "_train_dl", loader)


@contextmanager
def restoring(model_class: "type[ModelPT]", folder: Path | None = None) -> Iterator[None]:
    """Build models without their data, as NeMo's `restore_from` does; the state is reset after an error too.

    Args:
        model_class: any of NeMo's model classes.
        folder: of the unpacked `.nemo` file, in which a model finds its other files.
    """
    model_class._set_model_restore_state(is_being_restored=True, folder=None if folder is None else str(folder))
    try:
        yield
    finally:
        model_class._set_model_restore_state(is_being_restored=False)


@contextmanager
def rows_read_quickly() -> Iterator[None]:
    """Let NeMo read manifests in less than half of the time, without asking the disk for each recording.

    NeMo looks for a recording in the manifest's folder and then in the current one; here it is in the first, as
    `data.manifest` has it. Rows of videos, of speakers' times and the like are left to NeMo.
    """
    from nemo.collections.common.parts.preprocessing import manifest

    name = "__parse_item"
    nemos = getattr(manifest, name)
    empty = dict.fromkeys(nemos('{"audio_filepath": "/", "duration": 0}', ""))  # with the keys of a parsed row

    def parse(line: str, path: str) -> dict[str, object]:
        row = json.loads(line)
        file = row.get("audio_filepath") if isinstance(row, dict) else None
        plain = isinstance(file, str) and "duration" in row and "text" in row and _NEMOS_OWN.isdisjoint(row)
        if not plain or "://" in file or ("/" not in file and manifest.is_tarred_dataset(file, path)):
            return nemos(line, path)
        audio = file if os.path.isabs(file) else os.path.abspath(os.path.join(os.path.dirname(path), file))
        known = {key: value for key, value in row.items() if key in empty}
        return {**empty, **known, "audio_file": audio, "orig_sr": row.get("orig_sample_rate")}

    collects = gc.isenabled()
    _set(manifest, name, parse)
    gc.disable()  # it would look at all rows again and again, and find nothing
    try:
        yield
    finally:
        _set(manifest, name, nemos)
        if collects:
            gc.enable()


def transducer_loss(loss: "RNNTLoss") -> "torch.nn.Module":
    """Return what a transducer's loss calls: the loss of each utterance of a batch."""
    return loss._loss


def set_transducer_loss(loss: "RNNTLoss", inner: "torch.nn.Module") -> None:
    """Replace what a transducer's loss calls."""
    _set(loss, "_loss", inner)


# --- PyTorch 2.13, and Lightning 2.4.0, which reads these names -------------------------------------------------------


def let_clip(optimizer: "torch.optim.Optimizer") -> None:
    """Let Lightning clip the gradients of a fused optimizer, which it refuses where the optimizer unscales them itself.

    Only for trainings without loss scaling (fp16).
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False


def let_wait(limit: timedelta) -> None:
    """Set how long the processes of a training, once they have joined, wait for each other in a step."""
    from torch.distributed.distributed_c10d import _set_pg_timeout

    _set_pg_timeout(limit)


def interpolate(tensors: "Sequence[torch.Tensor]", ends: "Sequence[torch.Tensor]", weight: float) -> None:
    """Move tensors towards others in place, tensor + weight · (end - tensor), all of them in one call."""
    import torch

    torch._foreach_lerp_(list(tensors), list(ends), weight)


def scan(
    step: "Callable[[list[torch.Tensor], torch.Tensor], tuple[list[torch.Tensor], torch.Tensor]]",
    first: "list[torch.Tensor]",
    rows: "torch.Tensor",
) -> "torch.Tensor":
    """Return the outputs of `step`, a loop over the rows (T, ...) that torch.export and ONNX keep as one.

    Args:
        step: from the state and a row to the next state and an output.
        first: the first state.
        rows: one or more.
    """
    from torch._higher_order_ops.scan import scan as torchs

    return torchs(step, first, rows)[1]


def is_batch_norm(module: "torch.nn.Module") -> bool:
    """Return whether a module is a batch norm of any dimension."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm)


# --- OmegaConf 2.3 ----------------------------------------------------------------------------------------------------


def yaml_loader() -> "type[yaml.SafeLoader]":
    """Return OmegaConf's loader of YAML: a safe one, which reads 1e-5 as a number and not as a string."""
    from omegaconf._utils import get_yaml_loader

    return get_yaml_loader()
