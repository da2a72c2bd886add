"""Where a network starts whose features aren't normalised."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from asr_with_nemo.base.values import is_number
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel


def standardise_input(model: "ASRModel", moments: Mapping[str, object]) -> None:
    """Let an encoder's first convolution start as if its features were standardised.

    Who listens live can't normalise features over the recording (`normalize: NA`). As they come, logarithms of power
    lie around -12, far from the 0 ± 1 that random initial weights are made for, and a small corpus has too few steps to
    get there. Dividing the convolution's weights by `std`, and moving its bias accordingly, gives what it would give
    for (features - mean) / std, and leaves the network as it is.

    Args:
        model: with random weights; changed in place.
        moments: `mean` and `std` of the features, over all bands and frames of a corpus.

    Raises:
        InputError: the encoder doesn't begin with a convolution, or a moment is missing or no number.
    """
    import torch

    mean, std = moments.get("mean"), moments.get("std")
    if set(moments) != {"mean", "std"} or not is_number(mean) or not is_number(std) or std <= 0:
        raise InputError(f"model.standardise={dict(moments)}: expected mean, and std, which is above 0")

    layers = getattr(getattr(model.encoder, "pre_encode", None), "conv", None)
    first = layers[0] if layers else None
    if not isinstance(first, torch.nn.Conv2d) or first.bias is None:
        raise InputError(
            f"model.standardise: the encoder {type(model.encoder).__name__} has no first convolution with a bias: "
            "leave it out, and set model.preprocessor.normalize"
        )
    with torch.no_grad():
        first.weight /= std
        first.bias -= mean * first.weight.sum((1, 2, 3))
