"""Load a model for inference, and read its alphabet, frame length and sample rate."""

import os
from typing import TYPE_CHECKING

from asr_with_nemo.models import model_file
from asr_with_nemo.models.names import model_path

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecCTCModel


def load_model(model: str | os.PathLike) -> "EncDecCTCModel":
    """Load a CTC model in evaluation mode: of letters (AN4's, QuartzNet) or of subwords (FastConformer).

    Nothing in its file is executed (`model_file.load`). It is on the GPU if this torch can use one, else on the CPU.

    Args:
        model: as for `names.model_path`: "an4", a `.nemo` or `.ckpt` file, "QuartzNet15x5Base-En"...

    Raises:
        InputError: unknown model, the download failed, or the file is damaged, unsafe or not of a CTC model.
    """
    return model_file.load(model_path(model))


def alphabet(model: "EncDecCTCModel") -> list[str]:
    """Return a model's vocabulary in the order of its outputs; CTC's blank is the output after the last.

    Letters, or SentencePiece subwords, in which ▁ is the space before a word.
    """
    return list(model.decoder.vocabulary)


def writes_letters(model: "EncDecCTCModel") -> bool:
    """Return whether a model's vocabulary is letters, not subwords."""
    return not hasattr(model, "tokenizer")


def seconds_per_frame(model: "EncDecCTCModel") -> float:
    """Return the stride of a model's outputs, in seconds per frame."""
    return float(model.cfg.preprocessor.window_stride * model.encoder.subsampling_factor)


def sample_rate(model: "EncDecCTCModel") -> int:
    """Return the sample rate of a model's input, in Hz."""
    return int(model.cfg.preprocessor.sample_rate)
