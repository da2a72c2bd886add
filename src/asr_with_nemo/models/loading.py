"""Loading a model for inference, and the properties that every caller asks of it."""

import os
from typing import TYPE_CHECKING

from asr_with_nemo.models import model_file
from asr_with_nemo.models.names import model_path

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecCTCModel


def load_model(model: str | os.PathLike) -> "EncDecCTCModel":
    """Load a CTC model, ready for inference: of letters (AN4's, QuartzNet) or of pieces of words (FastConformer).

    Nothing in its file is executed (`model_file.load`). It is on the GPU if this torch can use one, else on the CPU.

    Args:
        model: all that `pretrained.model_path` takes: "an4", a `.nemo` or `.ckpt` file, "QuartzNet15x5Base-En"...

    Raises:
        InputError: there is no such model, it can't be had, its file is damaged or isn't of a CTC model, or it asks for
            more than to be a network.
    """
    return model_file.load(model_path(model))


def alphabet(model: "EncDecCTCModel") -> list[str]:
    """What a model writes with, in the order of its outputs; CTC's blank is the output after the last.

    Letters, or pieces of words as SentencePiece writes them, in which ▁ is the space before a word.
    """
    return list(model.decoder.vocabulary)


def writes_letters(model: "EncDecCTCModel") -> bool:
    """Whether a model writes letters, and not pieces of words."""
    return not hasattr(model, "tokenizer")


def seconds_per_frame(model: "EncDecCTCModel") -> float:
    """Seconds between two outputs of a model."""
    return float(model.cfg.preprocessor.window_stride * model.encoder.subsampling_factor)


def sample_rate(model: "EncDecCTCModel") -> int:
    """Samples per second of the sound that a model takes."""
    return int(model.cfg.preprocessor.sample_rate)
