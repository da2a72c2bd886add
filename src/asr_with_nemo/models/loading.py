"""Load a model for inference, and read its alphabet, frame length and sample rate."""

import math
import os
import re
from types import MethodType
from typing import TYPE_CHECKING

from asr_with_nemo.models import model_file
from asr_with_nemo.models.names import model_path

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel
    from nemo.collections.asr.modules import RNNTDecoder

SPECIAL = r"<\|[^|]*\|>|<(pad|unk)>"
"""Pattern of an attention decoder's special tokens, such as <|en|>."""


def load_model(model: str | os.PathLike) -> "ASRModel":
    """Load a recogniser in evaluation mode: by CTC, RNN-T, TDT or attention, or a hybrid; of letters or of subwords.

    Nothing in its file is executed (`model_file.load`). It is on the GPU if this torch can use one, else on the CPU.

    Args:
        model: as for `names.model_path`: "an4", a `.nemo` or `.ckpt` file, "QuartzNet15x5Base-En"...

    Raises:
        InputError: unknown model, the download failed, or the file is damaged, unsafe or of another kind of model.
    """
    return able_to_decode(model_file.load(model_path(model)))


def able_to_decode(model: "ASRModel") -> "ASRModel":
    """Give a transducer's LSTM with a projection (`rnn_hidden_size`) a first state that fits, and return the model.

    NeMo's own has the projection's width in the cells too, so that it can train such a model, but not decode.
    """
    from nemo.collections.asr.modules import RNNTDecoder

    decoder = getattr(model, "decoder", None)
    lstm = getattr(decoder.prediction["dec_rnn"], "lstm", None) if type(decoder) is RNNTDecoder else None
    if getattr(lstm, "proj_size", 0):
        decoder.initialize_state = MethodType(_first_state, decoder)
    return model


def _first_state(decoder: "RNNTDecoder", y: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return the outputs (L, B, P) and cells (L, B, H) of a prediction network before the first label, for y of B."""
    lstm = decoder.prediction["dec_rnn"].lstm
    return tuple(y.new_zeros(lstm.num_layers, len(y), width) for width in (lstm.proj_size, lstm.hidden_size))


def alphabet(model: "ASRModel") -> list[str]:
    """Return a model's vocabulary in the order of its outputs; the blank is the output after the last.

    Letters, or SentencePiece subwords, in which ▁ is the space before a word. An attention decoder has no blank, and
    its special tokens, which tell it the task, are empty.
    """
    if attends(model):
        return ["" if re.fullmatch(SPECIAL, piece) else piece for piece in model.tokenizer.vocab]
    return list(model.joint.vocabulary if hasattr(model, "joint") else model.decoder.vocabulary)


def attends(model: "ASRModel") -> bool:
    """Return whether a model is an attention encoder-decoder (Canary)."""
    return hasattr(model, "transf_decoder")


def writes_letters(model: "ASRModel") -> bool:
    """Return whether a model's vocabulary is letters, not subwords."""
    return not hasattr(model, "tokenizer")


def seconds_per_frame(model: "ASRModel") -> float:
    """Return the stride of a model's outputs, in seconds per frame."""
    encoder, settings = model.encoder, model.cfg.encoder
    factor = getattr(encoder, "subsampling_factor", None)
    if factor is None and settings.get("jasper"):  # NeMo's CarneliNet doesn't say it
        strides = (block.stride for block in settings.jasper)
        factor = math.prod(stride if isinstance(stride, int) else stride[0] for stride in strides)
    elif factor is None:  # nor does its RNNEncoder, whose default is 4
        factor = settings.get("subsampling_factor", 4) if settings.get("subsampling", "striding") else 1
    if getattr(encoder, "reduction_subsampling", None) is not None:  # a second one, between a Conformer's layers
        factor *= settings.reduction_factor
    return float(model.cfg.preprocessor.get("window_stride", 0.01) * factor)


def sample_rate(model: "ASRModel") -> int:
    """Return the sample rate of a model's input, in Hz."""
    return int(model.cfg.preprocessor.sample_rate)
