"""Channels-last memory for NeMo's convolutional models: several times faster on a CPU, with the same results.

PyTorch's CPU kernels for convolutions over (B, C, T) are far slower than the machine allows, above all those of
depthwise convolutions. In channels-last memory, (B, T, C), they come close to its limit: a convolution computed as one
over images one pixel wide or high, a 1x1 convolution as a matrix product, batch norm over rows. Changing a single layer
gains nothing, as its neighbours then have to gather strided memory; so `speed_up` changes all layers of an encoder and
decoder at once.

Tensors keep NeMo's shape, (B, C, T); only their strides change. NeMo's blocks, residuals, adapters and captured layers
work unchanged. The layers keep their class and parameters, so that checkpoints and `.nemo` files are ordinary ones. On
a GPU, and in types of layers that aren't listed here, NeMo's own code runs.

After that, the largest cost next to the matrix products is the allocation of memory: a step's tensors have megabytes
each, and glibc returns them to the system only to request them again in the next layer. `speed_up` makes it keep them.
"""

import ctypes
import os
from collections.abc import Callable
from types import MethodType

import torch
import torch.nn.functional as F
from nemo.collections.asr.modules import ConvASRDecoder, ConvASREncoder, ConvASREncoderAdapter
from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures
from nemo.collections.asr.parts.submodules.jasper import GroupShuffle, MaskedConv1d, SqueezeExcite
from torch import Tensor, nn


def speed_up(model: nn.Module) -> int:
    """Make a model's convolutional encoder and decoder compute in channels-last memory when they run on a CPU.

    Args:
        model: a NeMo model, or its encoder; changed in place, except for its weights.

    Returns:
        the number of layers that were changed: 0 for a model that isn't convolutional.
    """
    parts = [part for part in model.modules() if type(part) in _PARTS]
    layers = [layer for part in parts for layer in part.modules() if type(layer) in _FASTER]
    for layer in layers:
        layer.forward = MethodType(_FASTER[type(layer)], layer)
    if layers:
        _keep_memory()
    return len(layers)


def _keep_memory() -> None:
    """Make this process keep freed memory, where its C library is glibc, as each new page costs a page fault."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for parameter, value in _MALLOPT:
            mallopt(parameter, value)


def slow_down(model: nn.Module) -> None:
    """Undo `speed_up`."""
    for layer in model.modules():
        if type(layer) in _FASTER:
            layer.__dict__.pop("forward", None)


def _rows(x: Tensor) -> Tensor:
    """Return (B, C, T) as contiguous (B, T, C); the output of a fast layer is not copied."""
    return x.transpose(1, 2).contiguous()


def _mask(lengths: Tensor, x: Tensor) -> Tensor | None:
    """Return 1 for frames of the recording and 0 for padding, (B, 1, T), in x's type; None without any padding."""
    key = x.shape[2], x.dtype, torch.is_inference_mode_enabled()  # training can't use tensors made in inference mode
    kept = lengths.__dict__.get("_mask")  # all layers of a block, and blocks without a stride, share their lengths
    if kept is None or kept[0] != key:
        inside = torch.arange(x.shape[2], device=x.device) < lengths[:, None]
        kept = lengths._mask = key, None if inside.all() else inside.to(x.dtype).unsqueeze(1)
    return kept[1]


def _zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x with zeros in its padding; computed once for all layers with the same input (a block, its residual)."""
    mask = _mask(lengths, x)
    if mask is None:
        return x
    kept = x.__dict__.get("_zero_padded")
    if kept is None or kept[0] is not mask:
        kept = x._zero_padded = mask, x * mask
    return kept[1]


# --- Layers -----------------------------------------------------------------------------------------------------------


def _image(rows: Tensor, wide: bool) -> Tensor:
    """Return (B, T, C) as a channels-last image that is one pixel high, (B, C, 1, T), or one wide, (B, C, T, 1)."""
    # With the new dimension elsewhere, torch could not recognize channels-last memory by the strides.
    return rows.unsqueeze(1 if wide else 2).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """A convolution over (B, T, C), with the fastest of PyTorch's kernels for the output and for each gradient.

    The same kernel can take up to eight times as long for an image one pixel wide as for one a pixel high, or the other
    way round. A depthwise convolution is fast with `wide` images (`_image`), an ordinary one with the others; for the
    gradient of the weights it is the opposite.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int):
        ctx.save_for_backward(rows, weight)
        ctx.biased, ctx.settings = bias is not None, (stride, padding, groups)
        wide = groups > 1
        out = F.conv2d(
            _image(rows, wide),
            weight.unsqueeze(2 if wide else 3),
            bias,
            (1, stride) if wide else (stride, 1),
            (0, padding) if wide else (padding, 0),
            groups=groups,
        )
        return out.permute(0, 2, 3, 1).flatten(1, 2)  # (B, T', C')

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, weight = ctx.saved_tensors
        (stride, padding, groups), size = ctx.settings, weight.shape[2]
        grad, wide = grad.contiguous(), groups > 1
        of_rows = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            if wide and stride == 1 and padding < size and weight.shape[:2] == (groups, 1):
                # Twice as fast as a convolution with reversed kernels.
                turned = weight.flip(2).unsqueeze(2)
                of_rows = F.conv2d(_image(grad, True), turned, padding=(0, size - 1 - padding), groups=groups)
                of_rows = of_rows.permute(0, 2, 3, 1).flatten(1, 2)
            else:
                of_rows = _gradients(grad, rows, weight, ctx.settings, wide, (True, False, False))[0]
                of_rows = of_rows.permute(0, 2, 3, 1).flatten(1, 2)
        if ctx.needs_input_grad[1]:
            of_weight = _gradients(grad, rows, weight, ctx.settings, not wide, (False, True, False))[1].view_as(weight)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 1))
        return of_rows, of_weight, of_bias, None, None, None


def _gradients(grad: Tensor, rows: Tensor, weight: Tensor, settings: tuple, wide: bool, which: tuple) -> tuple:
    """Return PyTorch's gradients of a convolution with respect to its image, weights and bias; None if not wanted."""
    stride, padding, groups = settings
    return torch.ops.aten.convolution_backward(
        _image(grad, wide),
        _image(rows, wide),
        weight.unsqueeze(2 if wide else 3),
        None,
        [1, stride] if wide else [stride, 1],
        [0, padding] if wide else [padding, 0],
        [1, 1],
        False,
        [0, 0],
        groups,
        which,
    )


def _convolve(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """Return a convolution over (B, C, T), computed in channels-last memory."""
    rows, weight, bias = _rows(x), layer.weight, layer.bias
    size, stride, dilation, groups = layer.kernel_size[0], layer.stride[0], layer.dilation[0], layer.groups
    padding = layer.padding[0]
    if size == stride == groups == 1 and padding == 0:
        return F.linear(rows, weight.squeeze(2), bias).transpose(1, 2)
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        rows, weight, bias = rows.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    # A depthwise convolution with a stride has only a slow kernel: compute all frames and take each stride-th. So has a
    # dilation d: as it reads each d-th frame, it equals d convolutions without dilation, stacked in the batch.
    taken = stride if groups > 1 or dilation > 1 else 1
    if dilation > 1:
        out_frames = rows.shape[1] + 2 * padding - dilation * (size - 1)
        whole = -(-(rows.shape[1] + 2 * padding) // dilation)
        rows = F.pad(rows, (0, 0, padding, whole * dilation - rows.shape[1] - padding))
        parts = rows.unflatten(1, (whole, dilation)).transpose(1, 2).flatten(0, 1)  # (B d, T / d, C)
        out = _Convolution.apply(parts, weight, bias, 1, 0, groups)
        out = out.unflatten(0, (-1, dilation)).transpose(1, 2).flatten(1, 2)[:, :out_frames]
    else:
        out = _Convolution.apply(rows, weight, bias, stride // taken, padding, groups)
    return out.transpose(1, 2)[:, :, ::taken]


def _conv(self: nn.Conv1d, x: Tensor) -> Tensor:
    if x.device.type != "cpu" or self.padding_mode != "zeros" or isinstance(self.padding, str):
        return type(self).forward(self, x)
    return _convolve(self, x)


def _masked_conv(self: MaskedConv1d, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    if x.device.type != "cpu":
        return type(self).forward(self, x, lens)
    if self.use_mask:
        x = _zero_padding(x, lens)
    if self.pad_layer is not None:
        x = self.pad_layer(x)
    if self.heads == -1:
        return _convolve(self.conv, x), self.get_seq_len(lens)
    out = _convolve(self.conv, x.reshape(-1, self.heads, x.shape[2]))  # the channels of a head share kernels
    return out.reshape(x.shape[0], self.real_out_channels, -1), self.get_seq_len(lens)


def _batch_norm(self: nn.BatchNorm1d, x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.dim() != 3 or self.momentum is None or not self.track_running_stats:
        return type(self).forward(self, x)
    if self.training:
        self.num_batches_tracked.add_(1)
    rows = _rows(x)
    statistics = self.running_mean, self.running_var
    out = F.batch_norm(rows.flatten(0, 1), *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)
    return out.view(rows.shape).transpose(1, 2)


def _group_shuffle(self: GroupShuffle, x: Tensor) -> Tensor:
    return type(self).forward(self, x.contiguous())  # NeMo's own code needs contiguous memory


def _squeeze_excite(self: SqueezeExcite, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    if x.device.type != "cpu" or self.context_window >= 0:
        return type(self).forward(self, x, lengths)
    x = _zero_padding(x, lengths)
    with torch.autocast("cpu", enabled=False):
        mean = x.sum(2, dtype=torch.float32) / lengths.clamp(max=x.shape[2])[:, None]  # (B, C)
        scale = torch.sigmoid(self.fc(mean))
    return x * scale.to(x.dtype).unsqueeze(2), lengths


def _dropout(self: nn.Dropout, x: Tensor) -> Tensor:
    if not self.training or not self.p:
        return x
    # Drawing a float for each element would take most of the layer's time. A random byte is enough, and a draw gives
    # eight of them; p is then rounded to a multiple of 1/256, which is too coarse close to 0 and 1.
    dropped = round(self.p * 256)
    if x.device.type != "cpu" or not 4 <= dropped <= 252:
        return type(self).forward(self, x)
    drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)
    kept = torch.ge(drawn[: x.numel()], dropped, out=torch.empty(x.numel(), dtype=x.dtype))
    kept *= 256 / (256 - dropped)
    if x.dim() == 3 and x.transpose(1, 2).is_contiguous():
        return x * kept.view(x.transpose(1, 2).shape).transpose(1, 2)
    return x * kept.view(x.shape)


def _relu(self: nn.ReLU, x: Tensor) -> Tensor:
    # The outputs of fast layers are views: in place on a view, autograd would copy more than it saves.
    return F.relu(x, inplace=self.inplace and x.device.type != "cpu")


def _mel_spectrogram(self: FilterbankFeatures, x: Tensor, seq_len: Tensor, linear_spec: bool = False):
    """Compute NeMo's log-mel spectrogram in fewer passes over memory: (B, t) and (B,) to (B, D, T) and (B,)."""
    usual = self.normalize == "per_feature" and self.log and self.log_zero_guard_type == "add"
    unusual = self.exact_pad or self.frame_splicing > 1 or self.mag_power != 2 or self.use_grads or linear_spec
    if x.device.type != "cpu" or not usual or unusual or self.pad_to == "max" or self.nb_augmentation_prob:
        return type(self).forward(self, x, seq_len, linear_spec)
    samples = torch.arange(x.shape[1])
    frames = torch.where(seq_len == 0, 0, self.get_seq_len(seq_len)).long()  # (B,)
    if self.training and self.dither > 0:
        x = x + self.dither * torch.randn_like(x)
    if self.preemph is not None:
        x = torch.cat((x[:, :1], x[:, 1:] - self.preemph * x[:, :-1]), 1)
        x = x * (samples < seq_len[:, None])
    margin = self.n_fft // 2
    # A window shorter than the transform is centered in it. Its position changes only phases, so that the samples for
    # which the window is zero can be skipped.
    skipped = (self.n_fft - self.win_length) // 2
    windows = F.pad(x, (margin, margin))[:, skipped:].unfold(1, self.win_length, self.hop_length)
    windows = windows[:, : x.shape[1] // self.hop_length + 1]
    spectrum = torch.fft.rfft(windows * self.window, self.n_fft)  # (B, T, n_fft / 2 + 1)
    power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
    with torch.autocast("cpu", enabled=False):  # a bf16 product would lose small differences between frames
        mel = power @ self.fb.transpose(1, 2)  # (B, T, D)
    mel = torch.log(mel + self.log_zero_guard_value_fn(mel))
    inside = torch.arange(mel.shape[1]) < frames[:, None]  # (B, T)
    inside = inside.to(mel.dtype).unsqueeze(2)
    count = frames.clamp(min=1).view(-1, 1, 1)
    mel = (mel - (mel * inside).sum(1, keepdim=True) / count) * inside
    deviation = (mel.square().sum(1, keepdim=True) / (count - 1)).sqrt().nan_to_num(0.0)  # NaN for one frame
    mel = mel / (deviation + 1e-5)
    if self.pad_value:
        mel = mel + self.pad_value * (1 - inside)
    padding = -mel.shape[1] % self.pad_to if self.pad_to else 0
    return F.pad(mel, (0, 0, 0, padding), value=self.pad_value).transpose(1, 2), frames


# Parameters of mallopt(3), and bytes.
_MALLOPT = (
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: free memory at the heap's end above which it is returned
    (-2, 2**26),  # M_TOP_PAD: the step by which the heap grows
    (-3, 2**30),  # M_MMAP_THRESHOLD: size from which a block is mapped on its own, and unmapped when freed
)
_PARTS = (ConvASREncoder, ConvASREncoderAdapter, ConvASRDecoder, FilterbankFeatures)
_FASTER: dict[type[nn.Module], Callable] = {
    nn.Conv1d: _conv,
    MaskedConv1d: _masked_conv,
    nn.BatchNorm1d: _batch_norm,
    GroupShuffle: _group_shuffle,
    SqueezeExcite: _squeeze_excite,
    nn.ReLU: _relu,
    nn.Dropout: _dropout,
    FilterbankFeatures: _mel_spectrogram,
}
