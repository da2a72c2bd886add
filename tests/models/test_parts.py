"""The list of what a model file may ask for: NeMo's recognisers fit, and it follows NeMo's own signatures."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml

from asr_with_nemo.models import model_file
from asr_with_nemo.models.loading import seconds_per_frame
from asr_with_nemo.models.parts import ALLOWED, ATTENTION, DecoderSizes
from tests.conftest import pack_nemo

LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
MODULES = "nemo.collections.asr.modules"
CLASSES = [(part, name) for part, classes in ALLOWED.items() for name in classes]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "name"), CLASSES, ids=[name for _, name in CLASSES])
def test_the_list_has_every_parameter_of_nemos_class_and_no_other(part: str, name: str):
    from nemo.collections.asr import modules

    takes = inspect.signature(getattr(modules, name)).parameters
    named = {key for key, value in takes.items() if value.kind is value.POSITIONAL_OR_KEYWORD} - {"self"}
    fields = ALLOWED[part][name].model_fields
    assert named == set(fields), "NeMo's signature has changed: see which parameters are new, and what they do"
    needed = {key for key in named if takes[key].default is inspect.Parameter.empty}
    by_nemo = {"feat_in", "num_classes", "vocab_size"}  # which the model fills in, except for an encoder's
    by_nemo -= {"feat_in"} if part == "encoder" else set()
    assert needed - by_nemo == {key for key, field in fields.items() if field.is_required()}


@pytest.mark.slow
@pytest.mark.parametrize("part", ATTENTION)
def test_the_list_for_attention_decoders_has_every_parameter_of_nemos(part: str):
    from hydra.utils import get_object

    name, schema = ATTENTION[part]
    takes = set(inspect.signature(get_object(name)).parameters)
    assert takes == set(schema.model_fields), "NeMo's signature has changed: see which parameters are new"


@pytest.mark.slow
def test_the_sizes_of_an_attention_decoder_are_those_that_nemo_reads():
    from nemo.collections.asr.modules.transformer.transformer import TransformerDecoderNM

    takes = set(inspect.signature(TransformerDecoderNM).parameters)
    assert takes - {"vocab_size", "pre_ln_final_layer_norm"} == set(DecoderSizes.model_fields)


def block(**more: object) -> dict:
    return {
        "filters": 16,
        "repeat": 1,
        "kernel": [11],
        "stride": [1],
        "dilation": [1],
        "dropout": 0.0,
        "residual": True,
    } | more


def convolutional(*blocks: dict, **more: object) -> dict:
    return {"_target_": f"{MODULES}.ConvASREncoder", "feat_in": 64, "activation": "relu", "jasper": list(blocks)} | more


def conformer(**more: object) -> dict:
    small = {
        "feat_in": 80,
        "n_layers": 2,
        "d_model": 16,
        "n_heads": 2,
        "conv_kernel_size": 9,
        "subsampling_conv_channels": 16,
    }
    return {"_target_": f"{MODULES}.ConformerEncoder"} | small | more


# The encoders of the configs that NeMo publishes for CTC, each with the options that set it apart, built small.
ENCODERS = {
    "Jasper": convolutional(
        block(stride=[2], residual=False),
        block(repeat=3, residual_dense=True),
        block(kernel=[29], dilation=[2], residual=False),
    ),
    "QuartzNet": convolutional(
        block(kernel=[33], stride=[2], residual=False, separable=True), block(repeat=5, separable=True), block(heads=-1)
    ),
    "Citrinet": convolutional(
        block(separable=True, se=True, se_context_size=-1, residual=False),
        block(
            separable=True,
            se=True,
            stride=[2],
            stride_last=True,
            residual_mode="stride_add",
            kernel_size_factor=1.0,
            repeat=2,
        ),
        conv_mask=True,
        init_mode="tds_uniform",
        activation="relu",
    ),
    "CarneliNet": convolutional(
        block(separable=True, se=True, se_context_size=-1, se_repeat=False, residual=False),
        block(kernel=[5] * 5, separable=True),
        _target_=f"{MODULES}.ParallelConvASREncoder",
        activation="swish",
    ),
    "Conformer": conformer(subsampling="striding", subsampling_factor=4, feat_out=-1, xscaling=True, untie_biases=True),
    "Conformer, large kernel": conformer(
        self_attention_model="abs_pos", conv_norm_type="layer_norm", att_context_size=[-1, -1]
    ),
    "FastConformer": conformer(
        subsampling="dw_striding", subsampling_factor=8, causal_downsampling=False, reduction=None
    ),
    "FastConformer for long audio": conformer(
        subsampling="dw_striding",
        subsampling_factor=8,
        self_attention_model="rel_pos_local_attn",
        global_tokens=1,
        att_context_size=[128, 128],
        global_tokens_spacing=1,
        global_attn_separate=False,
    ),
    "FastConformer, streaming": conformer(
        subsampling="dw_striding",
        subsampling_factor=8,
        causal_downsampling=True,
        att_context_style="chunked_limited",
        att_context_size=[[70, 13], [70, 6], [70, 0]],
        att_context_probs=[0.4, 0.3, 0.3],
        conv_context_size="causal",
        conv_norm_type="layer_norm",
        stochastic_depth_drop_prob=0.1,
        stochastic_depth_mode="linear",
    ),
    "LSTM": {
        "_target_": f"{MODULES}.RNNEncoder",
        "feat_in": 80,
        "n_layers": 2,
        "d_model": 16,
        "proj_size": 8,
        "rnn_type": "lstm",
        "bidirectional": True,
        "subsampling": "striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": 8,
        "dropout": 0.2,
    },
    "Transformer": {
        "_target_": f"{MODULES}.TransformerEncoder",
        "feat_in": 80,
        "d_model": 32,
        "n_heads": 2,
        "n_layers": 2,
    },
}
AUGMENTATIONS = {
    "Jasper": {"_target_": f"{MODULES}.SpectrogramAugmentation", "rect_masks": 5, "rect_time": 120, "rect_freq": 50},
    "Conformer": {
        "_target_": f"{MODULES}.SpectrogramAugmentation",
        "freq_masks": 2,
        "time_masks": 10,
        "time_width": 0.1,
    },
    "LSTM": {"_target_": f"{MODULES}.MaskedPatchAugmentation", "patch_size": 48, "mask_patches": 10.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODERS)
def test_the_encoders_of_nemos_published_configs_load(kind: str, tmp_path: Path):
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    encoder = ENCODERS[kind]
    config = {
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        "sample_rate": 16_000,
        "labels": LETTERS,
        "preprocessor": {
            "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": encoder["feat_in"],
            "n_fft": 512,
            "stft_conv": False,
        },
        "spec_augment": AUGMENTATIONS.get(kind, AUGMENTATIONS["Conformer"]),
        "encoder": encoder,
        "decoder": {"_target_": f"{MODULES}.ConvASRDecoder", "feat_in": None, "num_classes": 28, "vocabulary": LETTERS},
        "interctc": {"loss_weights": [0.3], "apply_at_layers": [1]} if kind == "Conformer" else None,
        "optim": {"name": "adamw", "lr": 2.0},
        "train_ds": {"manifest_filepath": "???"},
    }
    built = EncDecCTCModel(OmegaConf.create({key: value for key, value in config.items() if key != "train_ds"})).eval()
    weights = tmp_path / "weights"
    torch.save(built.state_dict(), weights)
    contents = {"./model_config.yaml": yaml.safe_dump(config).encode(), "./model_weights.ckpt": weights.read_bytes()}
    model = model_file.load(pack_nemo(tmp_path / "model.nemo", contents))
    sound = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    for one in (built, model):
        one.preprocessor.featurizer.dither, one.preprocessor.featurizer.pad_to = 0.0, 0
    with torch.inference_mode():
        here, there = (one(input_signal=sound, input_signal_length=torch.tensor([16_000]))[0] for one in (built, model))
    assert torch.equal(here, there)
    assert seconds_per_frame(model) * here.shape[1] == pytest.approx(1, abs=0.13)
