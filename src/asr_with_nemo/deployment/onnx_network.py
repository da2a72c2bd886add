"""The networks of a recogniser as ONNX graphs: from audio to the encoder's output, and the decoder of a transducer.

NeMo's own `model.export` leaves out the mel features, and switches off the masks that hide a batch's padding from the
network. Here, the layers are made traceable by torch.export with both.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from types import MethodType
from typing import TYPE_CHECKING

import onnx
import torch
import torch.nn.functional as F
from nemo.collections.asr.modules import RNNTDecoder, RNNTJoint, StatelessTransducerDecoder
from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures
from nemo.collections.common.parts.rnn import LSTMDropout
from nemo.core.classes.mixins import AdapterModuleMixin
from torch import Tensor, nn

from asr_with_nemo.deployment import onnx_layers
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import sample_rate
from asr_with_nemo.models.recognizer import ctc_decoder, durations

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

# --- From audio to the output, traceable by torch.export --------------------------------------------------------------


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
        self.normalize = None if featurizer.normalize == "NA" else featurizer.normalize  # as streaming models say it
        if self.normalize not in ("per_feature", "all_features", None, False):
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
        if self.normalize:
            over = (1, 2) if self.normalize == "all_features" else (1,)
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


class _SoundToOutput(nn.Module):
    """From audio (B, t) and lengths (B,) to the output of each frame, (B, T, V) or (B, T, H), and frames (B,).

    By CTC, the output is log-probabilities; of a transducer, what its joint network takes from the encoder.
    """

    def __init__(self, model: "ASRModel", decoder: str):
        super().__init__()
        self.features = _Features(model.preprocessor.featurizer)
        self.encoder = model.encoder
        self.decoder = ctc_decoder(model) if decoder == "ctc" else None
        self.projection = None if decoder == "ctc" else model.joint.enc

    def forward(self, sound: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        features, frames = self.features(sound, lengths)
        if onnx_layers.is_convolutional(self.encoder):
            # For images of height 1, (B, C, 1, T), onnxruntime computes convolutions in blocks of channels: on a CPU
            # with AVX-512, a QuartzNet took three quarters of the time.
            (*_, encoded), frames = self.encoder.encoder(([features.unsqueeze(2)], frames))
            encoded = encoded.squeeze(2)
        else:
            encoded, frames = self.encoder(audio_signal=features, length=frames)
        if self.projection is not None:
            return self.projection(encoded.transpose(1, 2)), frames
        return self.decoder(encoder_output=encoded), frames


@contextlib.contextmanager
def _exportable(model: "ASRModel") -> Iterator[None]:
    """Make the layers traceable by torch.export for any batch and length while the context lasts.

    Raises:
        InputError: the encoder isn't supported.
    """
    replaced: list[tuple[nn.Module, str, object]] = []

    def replace(module: nn.Module, name: str, function: Callable) -> None:
        replaced.append((module, name, module.__dict__.get(name)))
        module.__dict__[name] = MethodType(function, module)

    for layer in onnx_layers.replacements(model.encoder):
        replace(*layer)
    was_training = model.training
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        for module, name, kept in reversed(replaced):
            del module.__dict__[name]
            if kept is not None:
                module.__dict__[name] = kept
        model.train(was_training)


# --- The decoder of a transducer --------------------------------------------------------------------------------------


class _LSTMPrediction(nn.Module):
    """An LSTM that reads a label a step: from labels (N,) and states (N, S) to the joint's input (N, H) and states.

    A state is the outputs and cells of all layers in a row; zeros before the first label, which is the blank.
    """

    def __init__(self, model: "ASRModel"):
        super().__init__()
        lstm = model.decoder.prediction["dec_rnn"].lstm
        embedding = model.decoder.prediction["embed"].weight
        if not model.decoder.blank_as_pad:
            embedding = torch.cat([embedding, torch.zeros_like(embedding[:1])])
        self.register_buffer("embedding", embedding.detach().clone())
        self.layers = nn.ModuleList()
        for layer in range(lstm.num_layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            of_input, of_state, one, other = (getattr(lstm, f"{name}_l{layer}").detach() for name in names)
            gates = nn.Linear(of_input.shape[1] + of_state.shape[1], len(one))
            gates.weight, gates.bias = (
                nn.Parameter(value) for value in (torch.cat([of_input, of_state], 1), one + other)
            )
            self.layers.append(gates)
        self.smaller = [getattr(lstm, f"weight_hr_l{layer}", None) for layer in range(lstm.num_layers)]
        self.output, self.cell = lstm.proj_size or lstm.hidden_size, lstm.hidden_size
        self.projection = model.joint.pred

    @property
    def size(self) -> int:
        """The numbers in a state."""
        return len(self.layers) * (self.output + self.cell)

    def forward(self, labels: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        x, after = self.embedding[labels], []
        for place, (gates, smaller) in enumerate(zip(self.layers, self.smaller, strict=True)):
            first = place * (self.output + self.cell)
            before, cell = states[:, first : first + self.output], states[:, first + self.output :][:, : self.cell]
            enter, forget, new, leave = gates(torch.cat([x, before], 1)).split(self.cell, 1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            x = torch.sigmoid(leave) * torch.tanh(cell)
            if smaller is not None:
                x = x @ smaller.T
            after += [x, cell]
        return self.projection(x), torch.cat(after, 1)


class _StatelessPrediction(nn.Module):
    """A table for each of the last labels: from labels (N,) and states (N, S) to the joint's input (N, H) and states.

    A state is the labels before, each as its distance from the blank.
    """

    def __init__(self, model: "ASRModel"):
        super().__init__()
        self.net = model.decoder.prediction
        self.blank, self.size = self.net.blank_idx, self.net.context_size - 1
        self.projection = model.joint.pred

    def forward(self, labels: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.cat([states.long() + self.blank, labels[:, None]], 1)  # the last comes last
        read = [table(labels[:, self.size - place]) for place, table in enumerate(self.net.embeds)]
        return self.projection(self.net.norm(torch.cat(read, 1))), (labels[:, 1:] - self.blank).to(states.dtype)


class _Joint(nn.Module):
    """From K frames each (N, K, H), and what was written before them (N, H), to the best choice at each frame (N, K).

    The choice is a label, or the blank, with its probability; by TDT also the index of a duration. The last output is
    the scores of all labels and the blank, (N, K, V + 1), to which boosts are added.
    """

    def __init__(self, model: "ASRModel", durations: int):
        super().__init__()
        self.joint, self.durations = model.joint, durations

    def forward(self, encoded: Tensor, predicted: Tensor) -> tuple[Tensor, ...]:
        if type(self.joint) is RNNTJoint:
            scores = self.joint.joint_net(encoded + predicted[:, None])  # (N, K, V)
        else:
            scores = self.joint.joint_after_projection(encoded, predicted[:, None]).squeeze(2)
        choices = scores.shape[2] - self.durations
        labels = scores[:, :, :choices]
        highest = labels.amax(2, keepdim=True)
        found = labels.argmax(2), 1 / torch.exp(labels - highest).sum(2)
        return (*found, scores[:, :, choices:].argmax(2), labels) if self.durations else (*found, labels)


def _prediction(model: "ASRModel") -> nn.Module:
    """Return the prediction network of a transducer, in a form that can be exported.

    Raises:
        InputError: it isn't supported.
    """
    decoder, rnn = model.decoder, getattr(model.decoder, "prediction", {})
    parts = (decoder, model.joint)
    if any(isinstance(part, AdapterModuleMixin) and part.is_adapter_available() for part in parts):
        raise InputError("export doesn't support a transducer with adapters in its decoder")
    if type(decoder) is StatelessTransducerDecoder:
        return _StatelessPrediction(model)
    if type(decoder) is not RNNTDecoder or not isinstance(rnn["dec_rnn"], LSTMDropout):
        raise InputError(
            "export supports the prediction networks RNNTDecoder, without normalization_mode, and "
            "StatelessTransducerDecoder"
        )
    return _LSTMPrediction(model)


# --- To ONNX ----------------------------------------------------------------------------------------------------------


def network(model: "ASRModel", decoder: str) -> onnx.ModelProto:
    """Convert a model to an ONNX graph, without metadata: audio to log-probabilities, or to a transducer's encoding.

    Args:
        model: as `loading.load_model` returns it; it isn't changed.
        decoder: the name of one of its decoders.

    Raises:
        InputError: the model isn't supported.
    """
    rate, device = sample_rate(model), model.device
    example = torch.zeros(2, 2 * rate, device=device), torch.tensor([2 * rate, rate], device=device)
    with _exportable(model):
        return _converted(
            _SoundToOutput(model, decoder),
            example,
            ["sound", "lengths"],
            ["log_probs" if decoder == "ctc" else "encoded", "frames"],
            ({0: "batch", 1: "samples"}, {0: "batch"}),
        )


def transducer_networks(model: "ASRModel") -> tuple[nn.Module, nn.Module]:
    """Return a transducer's prediction and joint networks as modules, in the form that `deployment.transducer` takes.

    The prediction network's attribute `size` is the numbers in a state.

    Raises:
        InputError: the model isn't supported.
    """
    return _prediction(model).to(model.device).eval(), _Joint(model, len(durations(model)))


def transducer(model: "ASRModel") -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Convert a transducer's prediction and joint networks to ONNX graphs.

    Args:
        model: as for `network`.

    Raises:
        InputError: the model isn't supported.
    """
    device, was_training = model.device, model.training
    model.eval()
    try:
        prediction, joint = transducer_networks(model)
        labels = torch.zeros(2, dtype=torch.long, device=device)
        state = torch.zeros(2, prediction.size, device=device)
        width = model.joint.enc.out_features
        outputs = ["labels", "probabilities", *(["durations"] if durations(model) else []), "scores"]
        with torch.no_grad():
            first = _converted(
                prediction, (labels, state), ["labels", "states"], ["predicted", "next"], ({0: "rows"}, {0: "rows"})
            )
            second = _converted(
                joint,
                (torch.zeros(2, 3, width, device=device), torch.zeros(2, width, device=device)),
                ["encoded", "predicted"],
                outputs,
                ({0: "rows", 1: "frames"}, {0: "rows"}),
            )
    finally:
        model.train(was_training)
    return first, second


def _converted(
    module: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str], sizes: tuple[dict, ...]
) -> onnx.ModelProto:
    """Convert a module to an ONNX graph in which nothing of this machine is left."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                verbose=False,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=sizes,
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
def quiet() -> Iterator[None]:
    """Silence the exporter's warnings on missing packages, and the quantizer's, which go to the root logger."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
