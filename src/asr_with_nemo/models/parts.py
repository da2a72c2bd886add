"""The network modules that a model file may ask for, and the values that each of their parameters may have.

NeMo builds each part of a model by calling what its config names (`_target_`), with the parameters that it gives.
Among NeMo's own classes are some that read, write or download files when they are made. So only the classes below are
built: preprocessors, augmentations, encoders, CTC decoders, the prediction and joint networks of transducers, and the
decoders of attention encoder-decoders. None of them opens a file. The limits are far above those of published models;
they keep a small file from asking for all of the memory.

Source: the signatures in `nemo.collections.asr.modules` of NeMo 3.0.0; `tests/models/test_parts.py` compares them.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0, le=65_536)]
Positive = Annotated[int, Field(ge=1, le=65_536)]
OrOff = Annotated[int, Field(ge=-1, le=65_536)]
"""A number of something, or -1 where NeMo chooses it."""
Few = Annotated[int, Field(ge=0, le=512)]
Share = Annotated[float, Field(ge=0, le=1)]
Hertz = Annotated[float, Field(ge=0, le=400_000)]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.001, le=10)]
Name = Annotated[str, Field(pattern=r"^\w{0,40}$")]
"""An option of NeMo's by its name; one that NeMo doesn't know is its own error."""
Sizes = Annotated[list[Positive], Field(max_length=64)]
Vocabulary = Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=1_000_000)]
Context = Annotated[list[OrOff], Field(max_length=8)]
_TARGET = Field(alias="_target_")
_POSITIONS = 2**26  # values of a table of positions, such as 100,000 x 512; published models have 2^20 to 2^23
_FILTERS = 2**22  # values of the filters of a spectrogram; published models have 2^15
_OVERLAP = 128  # steps in a window of a spectrogram; published models have 2 to 4


class Part(BaseModel):
    """The parameters of a module. Those that a file doesn't have keep NeMo's defaults."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


# --- Preprocessors ----------------------------------------------------------------------------------------------------


class _Spectrogram(Part):
    sample_rate: Annotated[int, Field(ge=1_000, le=200_000)] = 16_000
    window_size: Seconds | None = None
    window_stride: Seconds | None = None
    n_window_size: Positive | None = None
    n_window_stride: Positive | None = None
    window: Name | None = None
    n_fft: Positive | None = None
    lowfreq: Hertz | None = None
    highfreq: Hertz | None = None

    @model_validator(mode="after")
    def _has_filters_that_fit(self) -> "_Spectrogram":
        window = self.n_window_size or int((self.window_size or 0.02) * self.sample_rate)
        step = self.n_window_stride or int((self.window_stride or 0.01) * self.sample_rate)
        size = self.n_fft or 2 ** math.ceil(math.log2(max(1, window)))
        filters = max(getattr(self, name, 0) for name in ("features", "n_mels", "n_mfcc"))
        if filters * (size // 2 + 1) > _FILTERS or max(window, size) > _OVERLAP * max(1, step):
            raise ValueError("its filters, or the spectrogram of a minute, would fill the memory")
        return self


class _Positions(Part):
    """An encoder with a table of positions, whose size no weight of the file bounds."""

    d_model: Positive = 512
    pos_emb_max_len: Annotated[int, Field(ge=1, le=100_000)] = 5000

    @model_validator(mode="after")
    def _has_a_table_of_positions_that_fits(self) -> "_Positions":
        if self.pos_emb_max_len * self.d_model > _POSITIONS:
            raise ValueError("its table of positions would fill the memory")
        return self


class Moments(Part):
    """Mean and standard deviation of each mel feature, in place of those of the recording."""

    fixed_mean: Annotated[list[Number], Field(max_length=1024)]
    fixed_std: Annotated[list[Number], Field(max_length=1024)]


class AudioToMelSpectrogramPreprocessor(_Spectrogram):
    normalize: Name | Moments | None = None
    preemph: Number | None = None
    features: Annotated[int, Field(ge=1, le=1024)] = 64
    log: bool = True
    log_zero_guard_type: Name = "add"
    log_zero_guard_value: Number | Literal["tiny", "eps"] = 2**-24
    dither: Number = 0
    pad_to: Annotated[int, Field(ge=0, le=1024)] = 16
    frame_splicing: Annotated[int, Field(ge=1, le=64)] = 1
    exact_pad: bool = False
    pad_value: Number = 0
    mag_power: Number = 2
    rng: None = None
    nb_augmentation_prob: Share = 0
    nb_max_freq: Hertz = 4000
    mel_norm: Name | Number | None = None
    use_torchaudio: bool = False
    stft_exact_pad: bool = False
    stft_conv: bool = False


class AudioToMFCCPreprocessor(_Spectrogram):
    n_mels: Annotated[int, Field(ge=1, le=1024)] = 64
    n_mfcc: Annotated[int, Field(ge=1, le=1024)] = 64
    dct_type: Annotated[int, Field(ge=1, le=4)] = 2
    norm: Name | None = None
    log: bool = True


# --- Augmentations ----------------------------------------------------------------------------------------------------


class SpectrogramAugmentation(Part):
    freq_masks: Count = 0
    time_masks: Count = 0
    freq_width: Count = 10
    time_width: Count | Share = 10
    rect_masks: Count = 0
    rect_time: Count = 5
    rect_freq: Count = 20
    rng: None = None
    mask_value: Number = 0
    use_vectorized_spec_augment: bool = True
    use_numba_spec_augment: bool = False


class MaskedPatchAugmentation(Part):
    patch_size: Positive = 48
    mask_patches: Annotated[float, Field(ge=0, le=65_536)] = 10
    freq_masks: Count = 0
    freq_width: Count = 0


class CropOrPadSpectrogramAugmentation(Part):
    audio_length: Positive


# --- Encoders ---------------------------------------------------------------------------------------------------------


class Block(BaseModel):
    """A block of a Jasper, QuartzNet or Citrinet encoder; NeMo ignores other keys, so they are left out."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    filters: Positive
    repeat: Annotated[int, Field(ge=1, le=64)]
    kernel: Sizes | Positive
    stride: Sizes | Positive
    dilation: Sizes | Positive
    dropout: Share = 0
    residual: bool
    groups: Positive = 1
    separable: bool = False
    heads: OrOff = -1
    residual_mode: Name = "add"
    residual_dense: bool = False
    se: bool = False
    se_reduction_ratio: Positive = 8
    se_context_size: OrOff = -1
    se_interpolation_mode: Name = "nearest"
    kernel_size_factor: Annotated[float, Field(gt=0, le=64)] = 1
    stride_last: bool = False
    future_context: OrOff = -1


class ConvASREncoder(Part):
    jasper: Annotated[list[Block], Field(min_length=1, max_length=256)]
    activation: Name
    feat_in: Positive
    normalization_mode: Name = "batch"
    residual_mode: Name = "add"
    norm_groups: OrOff = -1
    conv_mask: bool = True
    frame_splicing: Annotated[int, Field(ge=1, le=64)] = 1
    init_mode: Name | None = None
    quantize: bool = False


class ParallelConvASREncoder(ConvASREncoder):
    aggregation_mode: Name | None = None


class ConformerEncoder(_Positions):
    feat_in: Positive
    n_layers: Few
    d_model: Positive
    feat_out: OrOff = -1
    causal_downsampling: bool = False
    subsampling: Name | None = None
    subsampling_factor: Annotated[int, Field(ge=1, le=256)] = 4
    subsampling_conv_chunking_factor: OrOff = 1
    subsampling_conv_channels: OrOff = -1
    reduction: Name | None = None
    reduction_position: Annotated[int, Field(ge=-1, le=512)] | None = None
    reduction_factor: Annotated[int, Field(ge=1, le=256)] = 1
    ff_expansion_factor: Annotated[int, Field(ge=1, le=64)] = 4
    self_attention_model: Name | None = None
    n_heads: Annotated[int, Field(ge=1, le=1024)] = 4
    att_context_size: Context | Annotated[list[Context], Field(max_length=64)] | None = None
    att_context_probs: Annotated[list[Share], Field(max_length=64)] | None = None
    att_chunk_context_size: Annotated[list[OrOff | Context], Field(max_length=8)] | None = None
    att_context_style: Name = "regular"
    xscaling: bool = True
    untie_biases: bool = True
    conv_kernel_size: Annotated[int, Field(ge=1, le=4096)] = 31
    conv_norm_type: Name = "batch_norm"
    conv_context_size: Name | Context | None = None
    conv_context_style: Name = "regular"
    use_bias: bool = True
    dropout: Share = 0
    dropout_pre_encoder: Share = 0
    dropout_emb: Share = 0
    dropout_att: Share = 0
    stochastic_depth_drop_prob: Share = 0
    stochastic_depth_mode: Name = "linear"
    stochastic_depth_start_layer: Few = 1
    global_tokens: Few = 0
    global_tokens_spacing: Positive = 1
    global_attn_separate: bool = False
    use_pytorch_sdpa: bool = False
    use_pytorch_sdpa_backends: Annotated[list[Name], Field(max_length=8)] | None = None
    sync_max_audio_length: bool = True


class TransformerEncoder(_Positions):
    feat_in: Positive = 128
    n_heads: Annotated[int, Field(ge=1, le=1024)] = 8
    n_layers: Few = 17
    feat_out: OrOff = -1
    subsampling: Name = "feature_stacking"
    subsampling_factor: Annotated[int, Field(ge=1, le=256)] = 4
    drop_rate: Share = 0
    dropout_pre_encoder: Share | None = None
    dropout_emb: Share = 0
    qkv_bias: bool = False
    qk_norm: bool = False
    ff_expansion: Annotated[float, Field(gt=0, le=64)] = 4
    pre_block_norm: bool = True
    self_attention_model: Name | None = None
    xscaling: bool = False
    attn_mode: Name = "full"
    sync_max_audio_length: bool = True


class RNNEncoder(Part):
    feat_in: Positive
    n_layers: Few
    d_model: Positive
    proj_size: OrOff = -1
    rnn_type: Name = "lstm"
    bidirectional: bool = True
    subsampling: Name | None = None
    subsampling_factor: Annotated[int, Field(ge=1, le=256)] = 4
    subsampling_conv_channels: OrOff = -1
    dropout: Share = 0


# --- Decoders ---------------------------------------------------------------------------------------------------------


class ConvASRDecoder(Part):
    feat_in: Positive | None = None
    num_classes: Annotated[int, Field(ge=-1, le=1_000_000)] = -1
    init_mode: Name | None = None
    vocabulary: Vocabulary | None = None
    add_blank: bool = True


class LSTMDecoder(Part):
    feat_in: Positive | None = None
    num_classes: Annotated[int, Field(ge=-1, le=1_000_000)] = -1
    lstm_hidden_size: Positive
    vocabulary: Vocabulary | None = None
    bidirectional: bool = False
    num_layers: Few = 1
    add_blank: bool = True


# --- Transducers ------------------------------------------------------------------------------------------------------


class Prednet(BaseModel):
    """The sizes of a transducer's prediction network; NeMo ignores other keys, so they are left out."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    pred_hidden: Positive
    pred_rnn_layers: Annotated[int, Field(ge=1, le=64)] = 1
    rnn_hidden_size: OrOff = -1
    t_max: Positive | None = None
    forget_gate_bias: Number | None = 1.0
    weights_init_scale: Number = 1.0
    hidden_hidden_bias_scale: Number = 0.0
    dropout: Share | None = 0.0


class Jointnet(BaseModel):
    """The sizes of a transducer's joint network; NeMo ignores other keys, so they are left out."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    joint_hidden: Positive
    activation: Name
    encoder_hidden: Positive | None = None
    pred_hidden: Positive | None = None
    dropout: Share | None = 0.0


class _Prediction(Part):
    prednet: Prednet
    vocab_size: Annotated[int, Field(ge=-1, le=1_000_000)] = -1
    normalization_mode: Name | None = None


class RNNTDecoder(_Prediction):
    random_state_sampling: bool = False
    blank_as_pad: bool = True


class StatelessTransducerDecoder(_Prediction):
    context_size: Annotated[int, Field(ge=1, le=64)] = 1


class HATJoint(Part):
    jointnet: Jointnet
    num_classes: Annotated[int, Field(ge=-1, le=1_000_000)] = -1
    num_extra_outputs: Annotated[int, Field(ge=0, le=64)] = 0
    vocabulary: Vocabulary | None = None
    log_softmax: bool | None = None
    preserve_memory: bool = False
    fuse_loss_wer: bool = False
    fused_batch_size: OrOff | None = None
    experimental_fuse_loss_wer: bool | None = None


class RNNTJoint(HATJoint):
    masking_prob: Annotated[float, Field(ge=-1, lt=1)] = -1


# --- Attention encoder-decoders ---------------------------------------------------------------------------------------


class _Transformer(BaseModel):
    num_layers: Annotated[int, Field(ge=0, le=128)]
    hidden_size: Positive
    inner_size: Positive
    num_attention_heads: Annotated[int, Field(ge=1, le=1024)] = 1
    attn_score_dropout: Share = 0
    attn_layer_dropout: Share = 0
    ffn_dropout: Share = 0
    hidden_act: Name = "relu"
    pre_ln: bool = False


class TransformerBlocks(_Transformer):
    """The blocks that some models have between their encoder and their decoder."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mask_future: bool = False
    pre_ln_final_layer_norm: bool = True


class DecoderSizes(_Transformer):
    """The sizes of an attention decoder; NeMo ignores other keys, so they are left out, and counts the tokens."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    max_sequence_length: Positive = 512
    num_token_types: Few = 2
    embedding_dropout: Share = 0
    learn_positional_encodings: bool = False

    @model_validator(mode="after")
    def _has_a_table_of_positions_that_fits(self) -> "DecoderSizes":
        if self.max_sequence_length * self.hidden_size > _POSITIONS:
            raise ValueError("its table of positions would fill the memory")
        return self


class AttentionDecoder(Part):
    model_name: None = None
    pretrained: Literal[False] = False
    encoder: Literal[False] | None = None
    pre_ln_final_layer_norm: bool = True
    config_dict: DecoderSizes


class TokenClassifier(Part):
    hidden_size: Positive
    num_classes: object = None
    """Set by NeMo."""
    num_layers: Annotated[int, Field(ge=1, le=8)] = 1
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"  # NeMo calls what torch has by that name
    log_softmax: bool = True
    dropout: Share = 0
    use_transformer_init: bool = True


ALLOWED: dict[str, dict[str, type[Part]]] = {
    "preprocessor": {
        "AudioToMelSpectrogramPreprocessor": AudioToMelSpectrogramPreprocessor,
        "AudioToMFCCPreprocessor": AudioToMFCCPreprocessor,
    },
    "spec_augment": {
        "SpectrogramAugmentation": SpectrogramAugmentation,
        "MaskedPatchAugmentation": MaskedPatchAugmentation,
        "CropOrPadSpectrogramAugmentation": CropOrPadSpectrogramAugmentation,
    },
    "encoder": {
        "ConvASREncoder": ConvASREncoder,
        "ConvASREncoderAdapter": ConvASREncoder,
        "ParallelConvASREncoder": ParallelConvASREncoder,
        "ConformerEncoder": ConformerEncoder,
        "ConformerEncoderAdapter": ConformerEncoder,
        "TransformerEncoder": TransformerEncoder,
        "RNNEncoder": RNNEncoder,
    },
    "decoder": {"ConvASRDecoder": ConvASRDecoder, "LSTMDecoder": LSTMDecoder},
    "prediction": {"RNNTDecoder": RNNTDecoder, "StatelessTransducerDecoder": StatelessTransducerDecoder},
    "joint": {"RNNTJoint": RNNTJoint, "HATJoint": HATJoint},
}
"""The classes of each part of a model, by their names in `nemo.collections.asr.modules`.

Each part is a section of the config, except that a transducer's prediction network is its section `decoder`, where a
CTC model has its CTC decoder.
"""

ATTENTION: dict[str, tuple[str, type[BaseModel]]] = {
    "transf_encoder": (
        "nemo.collections.asr.modules.transformer.transformer_encoders.TransformerEncoder",
        TransformerBlocks,
    ),
    "transf_decoder": ("nemo.collections.asr.modules.transformer.get_nemo_transformer", AttentionDecoder),
    "head": ("nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier", TokenClassifier),
}
"""What makes each further part of an attention encoder-decoder, the only one for this part."""


# --- Adapters ---------------------------------------------------------------------------------------------------------

ADAPTER = "nemo.collections.common.parts.adapter_modules.LinearAdapter"
RESIDUAL = "nemo.core.classes.mixins.adapter_mixin_strategies.ResidualAddAdapterStrategy"


class ResidualStrategy(Part):
    target: Annotated[Literal[RESIDUAL], _TARGET]
    stochastic_depth: Share = 0
    l2_lambda: Number = 0


class Adapter(Part):
    """A layer of two small matrices behind each block of an encoder; NeMo sets `in_features` for each block."""

    target: Annotated[Literal[ADAPTER], _TARGET]
    in_features: Positive | None = None
    dim: Positive
    activation: Name = "swish"
    norm_position: Literal["pre", "post"] = "pre"
    dropout: Share = 0
    adapter_strategy: ResidualStrategy | None = None
    enabled: bool = True


# --- Settings of a model that are no modules --------------------------------------------------------------------------


class InterCTC(Part):
    """The further losses of a CTC model, on the output of layers within the encoder."""

    loss_weights: Annotated[list[Number], Field(max_length=512)] | None = None
    apply_at_layers: Annotated[list[Few], Field(max_length=512)] | None = None


class Widths(BaseModel):
    """A transducer's `model_defaults`, as far as NeMo reads them: the inputs of the joint network."""

    model_config = ConfigDict(extra="ignore")

    enc_hidden: Positive
    pred_hidden: Positive


class AttentionWidths(BaseModel):
    """An attention encoder-decoder's `model_defaults`, as far as NeMo reads them: the widths of its parts."""

    model_config = ConfigDict(extra="ignore")

    asr_enc_hidden: Positive
    lm_enc_hidden: Positive
    lm_dec_hidden: Positive


class Prompt(BaseModel):
    """The settings of a prompt, which tells an attention encoder-decoder what to do, and their default values."""

    model_config = ConfigDict(extra="forbid")

    prompt_format: Literal["canary", "canary2"]
    prompt_defaults: Annotated[list["Turn"], Field(max_length=8)] | None = None


class Turn(BaseModel):
    """The default values of a prompt's slots, for one role."""

    model_config = ConfigDict(extra="forbid")

    role: Name
    slots: Annotated[dict[Name, Annotated[str, Field(max_length=256)] | bool | None], Field(max_length=32)]


class DurationLoss(BaseModel):
    """The loss of a token-and-duration transducer: the durations in frames that it can predict, and its weights."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    durations: Annotated[list[Annotated[int, Field(ge=0, le=256)]], Field(min_length=1, max_length=64)]
    sigma: Number = 0.0
    omega: Share = 0.0
    fastemit_lambda: Number = 0.0
    clamp: Number = -1.0
