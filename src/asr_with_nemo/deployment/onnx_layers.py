"""The layers of NeMo's encoders in a form that torch.export can trace, for any batch and length, with the same outputs.

A batch's padding is hidden from them, so that a recording has the same outputs in it as alone.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from nemo.collections.asr.modules import (
    ConformerEncoder,
    ConformerEncoderAdapter,
    ConvASREncoder,
    ConvASREncoderAdapter,
    RNNEncoder,
)
from nemo.collections.asr.parts.submodules.jasper import GroupShuffle, MaskedConv1d, SqueezeExcite
from nemo.collections.asr.parts.submodules.multi_head_attention import (
    INF_VAL,
    LocalAttRelPositionalEncoding,
    RelPositionalEncoding,
    RelPositionMultiHeadAttentionLongformer,
)
from nemo.collections.asr.parts.submodules.subsampling import StackingSubsampling
from nemo.core.classes.mixins import AdapterModuleMixin
from torch import Tensor, nn

from asr_with_nemo.errors import InputError
from asr_with_nemo.models import nemo_internals

Replacement = tuple[nn.Module, str, Callable]
"""A module, the name of a method, and the function that replaces it, which gets the module first."""


def replacements(encoder: nn.Module) -> Iterator[Replacement]:
    """Yield what makes an encoder traceable.

    Raises:
        InputError: the encoder isn't supported.
    """
    if is_convolutional(encoder):
        for layer in encoder.modules():
            if type(layer) in _CONVOLUTIONAL:
                yield layer, "forward", _CONVOLUTIONAL[type(layer)]
    elif type(encoder) in _CONFORMERS and (type(encoder.pos_enc) is RelPositionalEncoding or _is_local(encoder)):
        yield encoder, "update_max_seq_length", lambda self, **lengths: None
        yield encoder.pos_enc, "forward", _relative_positions
        for layer in encoder.modules():
            if type(layer) is RelPositionMultiHeadAttentionLongformer:
                yield layer, "forward", _local_attention
    elif type(encoder) is RNNEncoder:
        yield encoder, "forward", _recurrent
    else:
        what = type(encoder).__name__
        if isinstance(encoder, ConformerEncoder):
            what += f" with {encoder.self_attention_model} attention"
        raise InputError(
            f"export doesn't support a model with a {what}; it supports those with a ConvASREncoder (Jasper, "
            "QuartzNet, Citrinet), an RNNEncoder, or a ConformerEncoder with rel_pos attention, or rel_pos_local_attn "
            "with equal contexts and one global token at most. transcribe.py, evaluate.py and serve.py take the model "
            "as it is"
        )
    for block in encoder.modules():
        if isinstance(block, AdapterModuleMixin) and hasattr(block, "adapter_layer"):
            layers = [block.adapter_layer[name] for name in block.get_enabled_adapters()]
            yield block, "get_enabled_adapters", lambda self, names=block.get_enabled_adapters(): names
            yield block, "forward_enabled_adapters", lambda self, x, layers=layers: _adapted(x, layers)


def is_convolutional(encoder: nn.Module) -> bool:
    """Return whether an encoder has convolutions alone, which compute with images of height 1 here, (B, C, 1, T)."""
    return type(encoder) in (ConvASREncoder, ConvASREncoderAdapter)


# --- Convolutions -----------------------------------------------------------------------------------------------------


def _masked(x: Tensor, lengths: Tensor) -> Tensor:
    """Set the padding of x, (B, C, 1, T), to zero."""
    inside = torch.arange(x.shape[3], device=x.device) < lengths[:, None]
    # As a convolution, the mask has x's blocks of channels, which avoids a change of layout.
    return x * F.conv2d(inside[:, None, None].to(x.dtype), x.new_ones(x.shape[1], 1, 1, 1))


def _masked_conv(self: MaskedConv1d, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    layer = self.conv
    if self.use_mask and layer.kernel_size[0] > 1:  # a kernel of 1 doesn't see its neighbours
        x = _masked(x, lens)
    if self.pad_layer is not None:
        x = F.pad(x, self.pad_layer.padding)
    weight, bias, groups = layer.weight, layer.bias, layer.groups
    if self.heads != -1:  # channels share the kernels of a head
        groups = x.shape[1]
        weight = weight.repeat(groups // self.heads, 1, 1)
        bias = None if bias is None else bias.repeat(groups // self.heads)
    stride, padding, dilation = (1, *layer.stride), (0, *layer.padding), (1, *layer.dilation)
    return F.conv2d(x, weight.unsqueeze(2), bias, stride, padding, dilation, groups), _new_lengths(self, lens)


def _new_lengths(self: MaskedConv1d, lens: Tensor) -> Tensor:
    if self.same_padding or self.same_padding_asymmetric:
        return lens
    layer = self.conv
    padding = 2 * layer.padding[0] if self.pad_layer is None else sum(self._padding)
    left = lens + padding - layer.dilation[0] * (layer.kernel_size[0] - 1) - 1
    return torch.div(left, layer.stride[0], rounding_mode="trunc") + 1


def _batch_norm(self: nn.BatchNorm1d, x: Tensor) -> Tensor:
    return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def _group_shuffle(self: GroupShuffle, x: Tensor) -> Tensor:
    return x.unflatten(1, (self.groups, self.channels_per_group)).transpose(1, 2).flatten(1, 2)


def _squeeze_excite(self: SqueezeExcite, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    if self.context_window >= 0:
        raise InputError("export doesn't support squeeze-and-excite over a part of the utterance (context_window)")
    x = _masked(x, lengths)
    mean = x.sum((2, 3)) / lengths.clamp(min=1)[:, None].to(x.dtype)  # (B, C)
    return x * torch.sigmoid(self.fc(mean))[:, :, None, None], lengths


def _activation(self: nn.ReLU, x: Tensor) -> Tensor:
    return F.relu(x)  # not in place


_CONVOLUTIONAL: dict[type[nn.Module], Callable] = {
    MaskedConv1d: _masked_conv,
    nn.BatchNorm1d: _batch_norm,
    GroupShuffle: _group_shuffle,
    SqueezeExcite: _squeeze_excite,
    nn.ReLU: _activation,
}


# --- Conformers -------------------------------------------------------------------------------------------------------

_CONFORMERS = (ConformerEncoder, ConformerEncoderAdapter)


def _relative_positions(self: RelPositionalEncoding, x: Tensor, cache_len: int = 0) -> tuple[Tensor, Tensor]:
    """As NeMo's, but computed for the actual number of frames: its table would limit the length of recordings."""
    if self.xscale:
        x = x * self.xscale
    frames = x.shape[1]
    positions = torch.arange(frames - 1, -frames, -1, device=x.device, dtype=x.dtype)[:, None]
    rates = torch.exp(torch.arange(0, self.d_model, 2, device=x.device) * -(math.log(10_000.0) / self.d_model))
    turns = positions * rates
    return x, torch.stack((turns.sin(), turns.cos()), 2).flatten(1)[None]


def _local_attention(
    self: RelPositionMultiHeadAttentionLongformer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pad_mask: Tensor,
    pos_emb: Tensor,
    cache: None = None,
) -> Tensor:
    """As NeMo's, for the frames within a distance and a first one that all see, but by a mask and not in chunks.

    So its memory grows with the square of the frames, as that of attention to all of them does.
    """
    q, k, v = self.forward_qkv(query, key, value)  # (B, H, T, D)
    frames = torch.arange(query.shape[1], device=query.device)
    outside = (frames[:, None] - frames).abs() > self.att_context_size[0]
    places = self.linear_pos(pos_emb).unflatten(2, (self.h, self.d_k)).transpose(1, 2)  # (1, H, 2T - 1, D)
    shifts = self.rel_shift((q + self.pos_bias_v[:, None]) @ places.mT)[:, :, :, : k.shape[2]]
    scores = ((q + self.pos_bias_u[:, None]) @ k.mT + shifts) / self.s_d_k
    scores = scores.masked_fill(outside | pad_mask[:, None, None], -INF_VAL)
    if self.global_tokens:
        ours, theirs, given = q, k, v
        if self.global_attn_separate:
            ours, theirs, given = (
                layer(x).unflatten(2, (self.h, self.d_k)).transpose(1, 2)
                for layer, x in ((self.global_q, query), (self.global_k, key), (self.global_v, value))
            )
        scores = torch.cat([ours @ theirs[:, :, :1].mT / self.s_d_k, scores], 3)
        of_first = (ours[:, :, :1] @ theirs.mT / self.s_d_k).masked_fill(pad_mask[:, None, None], -INF_VAL)
        first = of_first.softmax(3) @ given
        v = torch.cat([v[:, :, :1], v], 2)
    heard = scores.softmax(3).masked_fill(pad_mask[:, None, :, None], 0.0) @ v
    if self.global_tokens:
        heard = torch.cat([first, heard[:, :, 1:]], 2)
    return self.linear_out(heard.transpose(1, 2).flatten(2))


def _is_local(encoder: ConformerEncoder) -> bool:
    """Return whether `_local_attention` computes what an encoder's attention does.

    With other contexts on both sides, or several frames that all see, NeMo's mixes up positions, or recordings.
    """
    left, right = encoder.att_context_size
    return type(encoder.pos_enc) is LocalAttRelPositionalEncoding and left == right and encoder.global_tokens <= 1


# --- LSTMs ------------------------------------------------------------------------------------------------------------


def _recurrent(self: RNNEncoder, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """As NeMo's RNNEncoder computes a recording alone, (B, D, T), where it has a frame more than its length says."""
    x, subsampling = audio_signal.transpose(1, 2), self.pre_encode
    if isinstance(subsampling, StackingSubsampling):
        x, _ = subsampling(x, length)
        length = length // subsampling.subsampling_factor
        frames = length + 1
    elif isinstance(subsampling, nn.Linear):
        x, frames = subsampling(x), length + 1
    else:
        _, frames = subsampling(x, length + 1)
        x, length = subsampling(x, length)
    for layer in self.layers:
        x = _lstm(layer, x, frames) if isinstance(layer, nn.LSTM) else layer(x)
    return x.transpose(1, 2), length


def _lstm(layer: nn.LSTM, x: Tensor, frames: Tensor) -> Tensor:
    """Compute an LSTM of one layer with a projection, which ONNX's doesn't have, step by step.

    Backwards it begins at the end of each recording.

    Args:
        layer: the LSTM.
        x: its input, (B, T, C).
        frames: the number of frames of each recording, (B,).
    """
    places = torch.arange(x.shape[1], device=x.device)
    last = frames[:, None] - 1
    backwards = torch.where(places <= last, last - places, places)[:, :, None]  # (B, T, 1)
    outputs = []
    for suffix in ("", "_reverse") if layer.bidirectional else ("",):
        of_input, of_state, smaller = (
            getattr(layer, f"weight_{name}_l0{suffix}").T.contiguous() for name in ("ih", "hh", "hr")
        )
        biases = getattr(layer, f"bias_ih_l0{suffix}") + getattr(layer, f"bias_hh_l0{suffix}")

        def step(
            state: list[Tensor], gates: Tensor, of_state: Tensor = of_state, smaller: Tensor = smaller
        ) -> tuple[list[Tensor], Tensor]:
            before, cell = state
            enter, forget, new, leave = (gates + before @ of_state).chunk(4, 1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            output = (torch.sigmoid(leave) * torch.tanh(cell)) @ smaller
            return [output, cell], output.clone()

        gates = x @ of_input + biases  # (B, T, 4H)
        if suffix:
            gates = gates.gather(1, backwards.expand(-1, -1, gates.shape[2]))
        first = [x.new_zeros(len(x), width) for width in (layer.proj_size, layer.hidden_size)]
        output = nemo_internals.scan(step, first, gates.transpose(0, 1)).transpose(0, 1)
        outputs.append(output.gather(1, backwards.expand(-1, -1, output.shape[2])) if suffix else output)
    return torch.cat(outputs, 2)


# --- Adapters ---------------------------------------------------------------------------------------------------------


def _adapted(given: Tensor | dict, layers: list[nn.Module]) -> Tensor | dict:
    """Apply the linear adapters of a block to (B, T, C); or to (B, 1, C, T), as a convolutional block has it here.

    A Conformer's block gives a dictionary, once where adapters of its attention would be (`mha`), and once behind it.
    """
    if isinstance(given, dict):
        return given if given["loc"] == "mha" else given | {"x": _adapted(given["x"], layers)}
    x = given.transpose(2, 3) if given.dim() == 4 else given
    for layer in layers:
        x = x + layer(x)
    return x.transpose(2, 3) if given.dim() == 4 else x
