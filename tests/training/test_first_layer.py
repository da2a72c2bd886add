"""A network whose features aren't normalised starts as if they were."""

from pathlib import Path

import pytest
import torch

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.training.first_layer import standardise_input


def test_the_first_convolution_gives_what_it_would_give_for_standardised_features(recognizers: dict[str, Path]):
    model = load_model(recognizers["ctc of pieces"])
    first = model.encoder.pre_encode.conv[0]
    features = torch.randn(2, 1, 40, 80) * 3.5 - 12
    with torch.no_grad():
        expected = first((features + 12) / 3.5)
        standardise_input(model, {"mean": -12.0, "std": 3.5})
        found = first(features)
    # At the edges the padding is 0, which isn't the mean any more.
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("moments", [{"mean": 0.0, "std": 0.0}, {"mean": -12.0}, {"mean": "a", "std": 1.0}])
def test_moments_that_are_none_are_an_error(moments: dict[str, object]):
    with pytest.raises(InputError, match=r"model\.standardise=.*expected mean"):
        standardise_input(load_model("an4"), moments)


def test_an_encoder_of_another_kind_is_named():
    with pytest.raises(InputError, match=r"ConvASREncoder.*normalize"):
        standardise_input(load_model("an4"), {"mean": -12.0, "std": 3.5})
