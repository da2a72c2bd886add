"""Export a model as one ONNX file that needs neither NeMo nor torch: audio in, log-probabilities out.

NeMo's own `model.export` leaves out the mel features, and switches off the masks that hide a batch's padding from the
network, so that the outputs of padded batches are wrong. Here the file includes features and masks, and its outputs are
compared with NeMo's before it is written.

    input   sound (B, t), float32 at the model's rate; lengths (B,), int64, samples of each recording
    output  log_probs (B, T, V); frames (B,), the number of valid frames of each recording

The metadata describe the outputs: `labels` (a JSON list), `sample_rate`, `seconds_per_frame` and `card`.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import MethodType

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from nemo.collections.asr.models import EncDecCTCModel
from nemo.collections.asr.modules import ConformerEncoder, ConvASREncoder
from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures
from nemo.collections.asr.parts.submodules.jasper import GroupShuffle, MaskedConv1d, SqueezeExcite
from nemo.collections.asr.parts.submodules.multi_head_attention import RelPositionalEncoding
from torch import Tensor, nn

from asr_with_nemo.base.files import replacing
from asr_with_nemo.deployment import runtime
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, sample_rate, seconds_per_frame, writes_letters
from asr_with_nemo.models.names import SUMMARY, model_path
from asr_with_nemo.models.recognizer import check_ctc
from asr_with_nemo.recognition import decoding, transcripts
from asr_with_nemo.recognition.transcripts import Sound

TOLERANCE = 1e-3
"""The largest difference between NeMo's log-probabilities and the exported model's that counts as rounding."""
_PADDED_BATCH = 16
"""Recordings of different lengths per batch, to check the masks."""
_CHECK_SECONDS = (0.001, 0.02, 0.3, 0.75, 1.5, 3.0, 4.2, 7.0, 12.0)
"""Lengths of the noise that replaces recordings in the check of an export."""


# --- From audio to log-probs, traceable by torch.export ---------------------------------------------------------------


class _Features(nn.Module):
    """NeMo's log-mel features at inference, without complex numbers, which few ONNX runtimes support.

    The Fourier transform is a matrix product. Its power doesn't depend on the origin of time, which is put at the
    window's centre. The window is symmetric around it, so a frame's even part needs only cosines, its odd part only
    sines, and each product has half a window's length.
    """

    def __init__(self, featurizer: FilterbankFeatures):
        super().__init__()
        if featurizer.exact_pad or featurizer.frame_splicing > 1 or featurizer.pad_value:
            raise InputError("export doesn't support a preprocessor with exact_pad, frame_splicing or pad_value")
        if featurizer.normalize not in ("per_feature", "all_features", None, False):
            raise InputError(f"export doesn't support a preprocessor with normalize: {featurizer.normalize!r}")
        if featurizer.win_length % 2:
            raise InputError(
                f"the preprocessor's window has {featurizer.win_length} samples; export needs an even number"
            )
        self.featurizer = featurizer
        self.half = featurizer.win_length // 2
        window = featurizer.window if featurizer.window is not None else torch.ones(featurizer.win_length)
        filters = featurizer.fb[0]  # (D, F)
        bins = torch.nonzero(filters.sum(0))[:, 0]  # those in any filter
        turns = (torch.arange(self.half).double() + 0.5)[:, None] * bins.double() / featurizer.n_fft
        weights = window[self.half :].double()[:, None].to(turns)
        self.register_buffer("cosines", (weights * torch.cos(2 * math.pi * turns)).float())  # (half, F)
        self.register_buffer("sines", (weights * torch.sin(2 * math.pi * turns)).float())
        self.register_buffer("filters", filters[:, bins].T.contiguous())  # (F, D)

    def forward(self, sound: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features, (B, D, T), and their numbers of frames, (B,), from audio, (B, t), and lengths, (B,)."""
        spec = self.featurizer
        frames = lengths // spec.hop_length
        if spec.preemph is not None:
            sound = sound - spec.preemph * F.pad(sound[:, :-1], (1, 0))
        sound = torch.where(torch.arange(sound.shape[1], device=sound.device) < lengths[:, None], sound, 0.0)
        after, before = self._sides(F.pad(sound, (self.half, self.half)), sound.shape[1] // spec.hop_length + 1)
        even, odd = (after + before) @ self.cosines, (after - before) @ self.sines
        power = even * even + odd * odd  # (B, T, F); .square() would be ONNX's slower Pow
        if spec.mag_power != 2:
            power = power ** (spec.mag_power / 2)
        mel = power @ self.filters  # (B, T, D)
        if spec.log:
            guard = spec.log_zero_guard_value_fn(mel)
            mel = torch.log(mel + guard if spec.log_zero_guard_type == "add" else mel.clamp(min=guard))
        inside = (torch.arange(mel.shape[1], device=mel.device) < frames[:, None])[:, :, None].to(mel.dtype)
        if spec.normalize:
            over = (1, 2) if spec.normalize == "all_features" else (1,)
            count = frames.clamp(min=1).to(mel.dtype)[:, None, None] * (mel.shape[2] if len(over) > 1 else 1)
            mel = (mel - (mel * inside).sum(over, keepdim=True) / count) * inside
            deviation = ((mel * mel).sum(over, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
            mel = mel / (deviation + 1e-5)  # NeMo's constant
        return (mel * inside).transpose(1, 2), frames

    def _sides(self, sound: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Return the halves of each window after its centre and, reversed, before it: (B, T, half) each."""
        hop = self.featurizer.hop_length
        # Strided slices copy contiguous stretches; a gather would copy sample by sample.
        size = math.gcd(hop, self.half)
        step, parts = hop // size, self.half // size
        needed = ((frames - 1) * step + 2 * parts) * size
        stretches = F.pad(sound, (0, needed - sound.shape[1])).unflatten(1, (-1, size))
        last = (frames - 1) * step + 1
        slices = [stretches[:, place : place + last : step] for place in range(2 * parts)]
        before, after = torch.cat(slices[:parts], 2), torch.cat(slices[parts:], 2)
        return after, before.flip(2)


class _SoundToLogProbs(nn.Module):
    """A whole model, from audio (B, t) and lengths (B,) to log-probs (B, T, V) and frames (B,)."""

    def __init__(self, model: EncDecCTCModel):
        super().__init__()
        self.features = _Features(model.preprocessor.featurizer)
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, sound: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features, frames = self.features(sound, lengths)
        if type(self.encoder) is ConvASREncoder:
            # For images of height 1, (B, C, 1, T), onnxruntime computes convolutions in blocks of channels: on a CPU
            # with AVX-512, a QuartzNet took three quarters of the time.
            (*_, encoded), frames = self.encoder.encoder(([features.unsqueeze(2)], frames))
            encoded = encoded.squeeze(2)
        else:
            encoded, frames = self.encoder(audio_signal=features, length=frames)
        return self.decoder(encoder_output=encoded), frames


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


def _relative_positions(self: RelPositionalEncoding, x: Tensor, cache_len: int = 0) -> tuple[Tensor, Tensor]:
    """As NeMo's, but computed for the actual number of frames: its table would limit the length of recordings."""
    if self.xscale:
        x = x * self.xscale
    frames = x.shape[1]
    positions = torch.arange(frames - 1, -frames, -1, device=x.device, dtype=x.dtype)[:, None]
    rates = torch.exp(torch.arange(0, self.d_model, 2, device=x.device) * -(math.log(10_000.0) / self.d_model))
    turns = positions * rates
    return x, torch.stack((turns.sin(), turns.cos()), 2).flatten(1)[None]


@contextlib.contextmanager
def _exportable(model: EncDecCTCModel) -> Iterator[None]:
    """Make the layers traceable by torch.export for any batch and length while the context lasts.

    Raises:
        InputError: the encoder isn't supported.
    """
    replaced: list[tuple[nn.Module, str, object]] = []

    def replace(module: nn.Module, name: str, function: Callable) -> None:
        replaced.append((module, name, module.__dict__.get(name)))
        module.__dict__[name] = MethodType(function, module)

    encoder, was_training = model.encoder, model.training
    if type(encoder) is ConvASREncoder:
        for layer in encoder.modules():
            if type(layer) in _CONVOLUTIONAL:
                replace(layer, "forward", _CONVOLUTIONAL[type(layer)])
    elif type(encoder) is ConformerEncoder and type(encoder.pos_enc) is RelPositionalEncoding:
        replace(encoder, "update_max_seq_length", lambda self, **lengths: None)
        replace(encoder.pos_enc, "forward", _relative_positions)
    else:
        what = type(encoder).__name__
        if isinstance(encoder, ConformerEncoder):
            what += f" with {encoder.self_attention_model} attention"
        raise InputError(
            f"export doesn't support a model with a {what}; it supports those with a ConvASREncoder (Jasper, "
            "QuartzNet, Citrinet) or a ConformerEncoder with rel_pos attention"
        )
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        for module, name, kept in reversed(replaced):
            del module.__dict__[name]
            if kept is not None:
                module.__dict__[name] = kept
        model.train(was_training)


# --- The file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equality:
    """The comparison of an exported model with NeMo's over some recordings.

    Attributes:
        recordings: their number.
        seconds: of audio.
        alone: the largest difference of a log-probability, for single recordings.
        padded: the same for batches of very different lengths, which are mostly padding.
        same_texts: the number of recordings whose greedy texts, alone and padded, equal NeMo's.
    """

    recordings: int
    seconds: float
    alone: float
    padded: float
    same_texts: int

    @property
    def holds(self) -> bool:
        """Whether the two are the same except for rounding."""
        return max(self.alone, self.padded) <= TOLERANCE and self.same_texts == self.recordings

    def __str__(self) -> str:
        return (
            f"{self.recordings} recordings, {self.seconds:.0f} s: log-probabilities differ from NeMo's by "
            f"{self.alone:.1e} at most, in padded batches by {self.padded:.1e}; {self.same_texts} texts are the same"
        )


def export(
    model: EncDecCTCModel,
    path: str | os.PathLike,
    sounds: Sequence[Sound] = (),
    card: Mapping[str, object] | None = None,
) -> Equality:
    """Export a model to an ONNX file, which is written only if its outputs equal the model's.

    Args:
        model: as `loading.load_model` returns it; it isn't changed.
        path: ends in .onnx.
        sounds: recordings to compare with NeMo on; by default noise of several lengths.
        card: facts on the model that can't be read from it (`card_of`), for the file's metadata.

    Raises:
        InputError: the model isn't supported, the file can't be written, or its outputs differ from the model's.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx")
    check_ctc(model, "the export")
    if not writes_letters(model):
        raise InputError("export doesn't support models that write pieces of words; give one that writes letters")
    proto, facts = _to_onnx(model), _described(model) | dict(card or {})
    with _written(path) as partial:
        partial.write_bytes(_with_facts(proto, model, facts))
        equality = compare(model, runtime.Recognizer(partial), sounds or noises(sample_rate(model)))
        if not equality.holds:
            raise InputError(f"{path}: not written, since its outputs differ from the model's: {equality}")
        partial.write_bytes(_with_facts(proto, model, facts | {"equality": asdict(equality)}))
    return equality


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """As `replacing`, but creates the folder, and raises the file system's errors as InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            yield partial
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def compare(model: EncDecCTCModel, recognizer: runtime.Recognizer, sounds: Sequence[Sound]) -> Equality:
    """Compare an exported model with NeMo's, on single recordings and in batches of short and long ones.

    Raises:
        InputError: a recording can't be read.
    """
    samples = transcripts.read(sounds, recognizer.sample_rate)
    theirs = decoding.log_probs(model, samples, batch_size=1, progress=False)
    alone = [recognizer.run([one])[0] for one in samples]
    by_length = sorted(range(len(samples)), key=lambda index: len(samples[index]))
    mixed = [index for pair in zip(by_length, reversed(by_length), strict=True) for index in pair][: len(samples)]
    padded: dict[int, np.ndarray] = {}
    for first in range(0, len(mixed), _PADDED_BATCH):
        batch = mixed[first : first + _PADDED_BATCH]
        padded.update(zip(batch, recognizer.run([samples[index] for index in batch]), strict=True))
    outputs = list(zip(theirs, alone, (padded[index] for index in range(len(samples))), strict=True))
    return Equality(
        recordings=len(samples),
        seconds=sum(map(len, samples)) / recognizer.sample_rate,
        alone=max(_difference(ours, nemos) for nemos, ours, _ in outputs),
        padded=max(_difference(ours, nemos) for nemos, _, ours in outputs),
        same_texts=sum(len({recognizer.output(output).greedy for output in three}) == 1 for three in outputs),
    )


def _difference(ours: np.ndarray, nemos: np.ndarray) -> float:
    if ours.shape != nemos.shape:
        return math.inf
    return float(np.abs(ours - nemos).max(initial=0.0))


def noises(rate: int) -> list[np.ndarray]:
    """Return noise that swells and fades, for the check of an export without recordings; the same at each call.

    Args:
        rate: in Hz.
    """
    random = np.random.default_rng(0)
    sounds = []
    for seconds in _CHECK_SECONDS:
        samples = random.normal(0, 0.1, int(seconds * rate))
        sounds.append((samples * np.sin(np.arange(len(samples)) / rate * 7) ** 2).astype(np.float32))
    return sounds


def _described(model: EncDecCTCModel) -> dict[str, object]:
    """Return the facts that can be read from a model, for its card."""
    return {
        "network": f"{type(model.encoder).__name__} with CTC",
        "weights": sum(weights.numel() for weights in model.parameters()),
        "sound": f"mono, {sample_rate(model)} Hz",
        "letters": "".join(alphabet(model)),
        "versions": {name: metadata.version(name) for name in ("nemo_toolkit", "torch", "onnx", "onnxscript")},
    }


def card_of(path: str | os.PathLike) -> dict[str, object]:
    """Return the facts in the files next to a model's file, for its card.

    `source` has the file's name and SHA-256; `training`, the summary that scripts/train.py wrote; `about`, the text of
    README.md if it describes a model of this name.
    """
    path = model_path(path)
    card: dict[str, object] = {"source": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
    with contextlib.suppress(OSError, ValueError):
        card["training"] = json.loads(path.with_name(SUMMARY).read_text(encoding="utf-8"))
    with contextlib.suppress(OSError, ValueError):
        about = path.with_name("README.md").read_text(encoding="utf-8")
        if about.startswith(f"# {path.stem}\n"):
            card["about"] = about
    return card


def _to_onnx(model: EncDecCTCModel) -> onnx.ModelProto:
    """Convert the model to an ONNX graph, without metadata."""
    rate, device = sample_rate(model), model.device
    example = torch.zeros(2, 2 * rate, device=device), torch.tensor([2 * rate, rate], device=device)
    with _exportable(model), _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _SoundToLogProbs(model).eval(),
                example,
                dynamo=True,
                verbose=False,
                input_names=["sound", "lengths"],
                output_names=["log_probs", "frames"],
                dynamic_shapes=({0: "batch", 1: "samples"}, {0: "batch"}),
            )
        except InputError:
            raise
        except Exception as error:  # torch.export and the ONNX translation raise many types
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"export of this model failed: {reason}") from error
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # paths of this machine's Python files
    for info in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del info.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings on missing optional packages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _with_facts(proto: onnx.ModelProto, model: EncDecCTCModel, card: Mapping[str, object]) -> bytes:
    """Serialise a graph, with the metadata that `runtime` reads."""
    onnx.helper.set_model_props(
        proto,
        {
            "format": runtime.FORMAT,
            "labels": json.dumps(alphabet(model)),
            "sample_rate": str(sample_rate(model)),
            "seconds_per_frame": f"{seconds_per_frame(model):.10g}",
            "card": json.dumps(card, ensure_ascii=False),
        },
    )
    return proto.SerializeToString(deterministic=True)


# --- Quantization -----------------------------------------------------------------------------------------------------


def quantize(path: str | os.PathLike, output: str | os.PathLike, sounds: Sequence[Sound]) -> None:
    """Quantize an exported model's weights and activations to 8-bit integers: a third of the size.

    The activations' ranges are calibrated on recordings (static quantization), so that outputs don't depend on the rest
    of the batch. Features, normalisation and the last layer keep float32.

    Args:
        path: a file that `export` wrote.
        output: ends in .onnx.
        sounds: some dozens of typical recordings for the calibration, of the training set for instance.

    Raises:
        InputError: a file or a recording can't be read, or the output can't be written.
    """
    from onnxruntime import quantization
    from onnxscript import optimizer

    recognizer = runtime.Recognizer(path)
    recordings = iter(transcripts.read(sounds, recognizer.sample_rate))

    class Recordings(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            samples = next(recordings, None)
            return None if samples is None else {"sound": samples[None], "lengths": np.array([len(samples)])}

    with _written(Path(output)) as partial, _quiet(), tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"  # with batch norm folded into the weights
        every_size = {"input_size_limit": 2**31, "output_size_limit": 2**31}
        onnx.save(optimizer.optimize(onnx.load(recognizer.path), onnx_shape_inference=False, **every_size), folded)
        quantization.quantize_static(
            folded,
            partial,
            Recordings(),
            nodes_to_quantize=_inside_the_encoder(onnx.load(folded).graph),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        proto = onnx.load(partial)
        onnx.helper.set_model_props(proto, recognizer.facts | {"card": json.dumps(recognizer.card | {"bits": 8})})
        partial.write_bytes(proto.SerializeToString(deterministic=True))


def _inside_the_encoder(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes to quantize: from the first convolution up to the decoder."""
    encoders = {node.input[1] for node in graph.node if node.op_type == "Conv"}  # the features have no Conv
    decoders = {tensor.name for tensor in graph.initializer if tensor.name.startswith("decoder.")}
    names = []
    for node in graph.node:  # in order of computation
        if encoders.intersection(node.input) and not decoders.intersection(node.input):
            encoders.update(node.output)
            if node.op_type in ("Conv", "MatMul", "Gemm", "Add", "Mul", "Relu"):
                names.append(node.name)
    return names
