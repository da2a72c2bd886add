"""A model as one ONNX file that needs neither NeMo nor torch: sound in, log-probabilities out.

NeMo's own `model.export` leaves out the mel features, and switches off the masks by which a network doesn't hear the
padding of a batch, so that padded batches come out wrong. Here features, masks and all go into the file, and what comes
out is checked against NeMo before the file appears.

    input   sound (B, t), float32 at the model's rate; lengths (B,), int64, samples of each recording
    output  log_probs (B, T, V); frames (B,), how many of the T each recording has

The metadata say what the numbers mean: `labels` (a JSON list), `sample_rate`, `seconds_per_frame` and `card`.
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
from asr_with_nemo.recognition import decoding, transcripts
from asr_with_nemo.recognition.transcripts import Sound

TOLERANCE = 1e-3
"""The largest difference of a log-probability that NeMo's rounding and ours may make."""
PADDED_BATCH = 16
"""Recordings of all lengths that are put together to check how padding is treated."""
CHECK_SECONDS = (0.001, 0.02, 0.3, 0.75, 1.5, 3.0, 4.2, 7.0, 12.0)
"""Lengths of the noises that an export is checked with where there are no recordings."""


# --- From sound to log-probs, as torch.export can follow it -----------------------------------------------------------


class _Features(nn.Module):
    """NeMo's log-mel features at inference, without complex numbers, which few ONNX runtimes know.

    The Fourier transform is a matrix product. Its power doesn't depend on where the window stands, so it is taken
    around the window's middle, to both sides of which the window is the same: a product with cosines of what both sides
    have in common and one with sines of the rest do, each of half a window.
    """

    def __init__(self, featurizer: FilterbankFeatures):
        super().__init__()
        if featurizer.exact_pad or featurizer.frame_splicing > 1 or featurizer.pad_value:
            raise InputError("this preprocessor has exact_pad, frame_splicing or pad_value, which export can't do")
        if featurizer.normalize not in ("per_feature", "all_features", None, False):
            raise InputError(f"this preprocessor normalises by {featurizer.normalize!r}, which export can't do")
        if featurizer.win_length % 2:
            raise InputError(
                f"this preprocessor has a window of {featurizer.win_length} samples; export wants them even"
            )
        self.featurizer = featurizer
        self.half = featurizer.win_length // 2
        window = featurizer.window if featurizer.window is not None else torch.ones(featurizer.win_length)
        filters = featurizer.fb[0]  # (D, F)
        bins = torch.nonzero(filters.sum(0))[:, 0]  # those that any filter hears
        turns = (torch.arange(self.half).double() + 0.5)[:, None] * bins.double() / featurizer.n_fft
        weights = window[self.half :].double()[:, None].to(turns)
        self.register_buffer("cosines", (weights * torch.cos(2 * math.pi * turns)).float())  # (half, F)
        self.register_buffer("sines", (weights * torch.sin(2 * math.pi * turns)).float())
        self.register_buffer("filters", filters[:, bins].T.contiguous())  # (F, D)

    def forward(self, sound: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, t) and (B,) to (B, D, T) and (B,)."""
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
        """What lies after the middle of each window and, read backwards, before it: (B, T, half) each."""
        hop = self.featurizer.hop_length
        # Strided slices copy whole stretches at a time, where a gather would copy sample by sample.
        size = math.gcd(hop, self.half)
        step, parts = hop // size, self.half // size
        needed = ((frames - 1) * step + 2 * parts) * size
        stretches = F.pad(sound, (0, needed - sound.shape[1])).unflatten(1, (-1, size))
        last = (frames - 1) * step + 1
        slices = [stretches[:, place : place + last : step] for place in range(2 * parts)]
        before, after = torch.cat(slices[:parts], 2), torch.cat(slices[parts:], 2)
        return after, before.flip(2)


class _SoundToLogProbs(nn.Module):
    """The whole of a model, from (B, t) and (B,) to (B, T, V) and (B,)."""

    def __init__(self, model: EncDecCTCModel):
        super().__init__()
        self.features = _Features(model.preprocessor.featurizer)
        self.encoder, self.decoder = model.encoder, model.decoder

    def forward(self, sound: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features, frames = self.features(sound, lengths)
        if type(self.encoder) is ConvASREncoder:
            # As images a pixel high, (B, C, 1, T), onnxruntime computes convolutions in blocks of channels: on a CPU
            # with AVX-512 a QuartzNet took three quarters of the time.
            (*_, encoded), frames = self.encoder.encoder(([features.unsqueeze(2)], frames))
            encoded = encoded.squeeze(2)
        else:
            encoded, frames = self.encoder(audio_signal=features, length=frames)
        return self.decoder(encoder_output=encoded), frames


def _masked(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, C, 1, T) with zeros where it is padding."""
    inside = torch.arange(x.shape[3], device=x.device) < lengths[:, None]
    # As a convolution the mask comes in the same blocks of channels as x, which is spared a change of layout.
    return x * F.conv2d(inside[:, None, None].to(x.dtype), x.new_ones(x.shape[1], 1, 1, 1))


def _masked_conv(self: MaskedConv1d, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
    layer = self.conv
    if self.use_mask and layer.kernel_size[0] > 1:  # a kernel of 1 doesn't look at its neighbours
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
        raise InputError("this model has squeeze-and-excite over a part of the utterance, which export can't do")
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
    """NeMo's own, computed for as many frames as there are: its table would make long recordings impossible."""
    if self.xscale:
        x = x * self.xscale
    frames = x.shape[1]
    positions = torch.arange(frames - 1, -frames, -1, device=x.device, dtype=x.dtype)[:, None]
    rates = torch.exp(torch.arange(0, self.d_model, 2, device=x.device) * -(math.log(10_000.0) / self.d_model))
    turns = positions * rates
    return x, torch.stack((turns.sin(), turns.cos()), 2).flatten(1)[None]


@contextlib.contextmanager
def _exportable(model: EncDecCTCModel) -> Iterator[None]:
    """Let layers compute in a way that torch.export can follow for any batch and length; afterwards all is as before.

    Raises:
        InputError: the encoder is of a kind that this can't do.
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
            f"a model with a {what} can't be exported; those with a ConvASREncoder (Jasper, QuartzNet, Citrinet) or a "
            "ConformerEncoder with rel_pos attention can"
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
    """How far an exported model is from NeMo's, over some recordings.

    Attributes:
        recordings: how many there were.
        seconds: of sound.
        alone: the largest difference of a log-probability, each recording alone.
        padded: the same with recordings of all lengths in a batch, most of which is padding.
        same_texts: how many recordings have the same greedy text both ways as with NeMo.
    """

    recordings: int
    seconds: float
    alone: float
    padded: float
    same_texts: int

    @property
    def holds(self) -> bool:
        """Whether the two are the same but for rounding."""
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
    """Write a model as an ONNX file, after it was found to give what the model gives.

    Args:
        model: as `decoding.load_model` gives it; it is left as it is.
        path: ends in .onnx.
        sounds: recordings to compare with NeMo on; by default noises of several lengths.
        card: what the file shall say of the model, beside what can be read off it (`card_of`).

    Raises:
        InputError: the model is of a kind that can't be exported, the file can't be written, or gives something else.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx")
    if not writes_letters(model):
        raise InputError("a model that writes pieces of words can't be exported; those that write letters can")
    proto, facts = _to_onnx(model), _described(model) | dict(card or {})
    with _written(path) as partial:
        partial.write_bytes(_with_facts(proto, model, facts))
        equality = compare(model, runtime.Recognizer(partial), sounds or noises(sample_rate(model)))
        if not equality.holds:
            raise InputError(f"{path}: not written, since it would not be the model that was given: {equality}")
        partial.write_bytes(_with_facts(proto, model, facts | {"equality": asdict(equality)}))
    return equality


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """As `replacing`, with the errors of the file system as InputError; makes the folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            yield partial
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def compare(model: EncDecCTCModel, recognizer: runtime.Recognizer, sounds: Sequence[Sound]) -> Equality:
    """Compare an exported model with NeMo's, each recording alone and in batches of the shortest with the longest.

    Raises:
        InputError: a recording can't be read.
    """
    samples = transcripts.read(sounds, recognizer.sample_rate)
    theirs = decoding.log_probs(model, samples, batch_size=1, progress=False)
    alone = [recognizer.run([one])[0] for one in samples]
    by_length = sorted(range(len(samples)), key=lambda index: len(samples[index]))
    mixed = [index for pair in zip(by_length, reversed(by_length), strict=True) for index in pair][: len(samples)]
    padded: dict[int, np.ndarray] = {}
    for first in range(0, len(mixed), PADDED_BATCH):
        batch = mixed[first : first + PADDED_BATCH]
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
    """Sound to check an export with where there are no recordings: noises that swell and fade, the same each time."""
    random = np.random.default_rng(0)
    sounds = []
    for seconds in CHECK_SECONDS:
        samples = random.normal(0, 0.1, int(seconds * rate))
        sounds.append((samples * np.sin(np.arange(len(samples)) / rate * 7) ** 2).astype(np.float32))
    return sounds


def _described(model: EncDecCTCModel) -> dict[str, object]:
    """What can be read off a model, for its card."""
    return {
        "network": f"{type(model.encoder).__name__} with CTC",
        "weights": sum(weights.numel() for weights in model.parameters()),
        "sound": f"mono, {sample_rate(model)} Hz",
        "letters": "".join(alphabet(model)),
        "versions": {name: metadata.version(name) for name in ("nemo_toolkit", "torch", "onnx", "onnxscript")},
    }


def card_of(path: str | os.PathLike) -> dict[str, object]:
    """What the files beside a model's file say of it, for its card.

    `source`, its name and SHA-256; `training`, what scripts/train.py noted; and `about`, the text of the README.md
    beside it if that is about a model of this name.
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
    """The model as an ONNX graph, without the metadata."""
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
        except Exception as error:  # torch.export and the translation to ONNX raise of every kind
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"this model can't be exported: {reason}") from error
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # lines of this machine's Python files
    for info in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del info.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words about packages that aren't there and that nobody needs."""
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
    """The bytes of a file, with the metadata by which `runtime` knows what the numbers mean."""
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


# --- Smaller ----------------------------------------------------------------------------------------------------------


def quantize(path: str | os.PathLike, output: str | os.PathLike, sounds: Sequence[Sound]) -> None:
    """Turn the weights and what flows through the network into whole numbers of 8 bits: a third of the size.

    How large the numbers become at each place is learned from recordings (static quantisation), so that what comes out
    doesn't depend on what shares a batch. Features, normalisation and the last layer stay as they are.

    Args:
        path: a file that `export` wrote.
        output: ends in .onnx.
        sounds: some dozens of recordings such as the model will hear, of the training set for instance.

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
        folded = Path(scratch) / "folded.onnx"  # batch norm in the weights before it, and weights as they are used
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
    """The nodes that can be computed in 8 bits: all from the first convolution on, up to the decoder's weights."""
    encoders = {node.input[1] for node in graph.node if node.op_type == "Conv"}  # the features have none
    decoders = {tensor.name for tensor in graph.initializer if tensor.name.startswith("decoder.")}
    names = []
    for node in graph.node:  # in the order in which they are computed
        if encoders.intersection(node.input) and not decoders.intersection(node.input):
            encoders.update(node.output)
            if node.op_type in ("Conv", "MatMul", "Gemm", "Add", "Mul", "Relu"):
                names.append(node.name)
    return names
