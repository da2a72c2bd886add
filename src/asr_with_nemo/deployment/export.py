"""Export a recogniser as one ONNX file that needs neither NeMo nor torch, and compare it with NeMo's.

The file includes the mel features and the masks that hide a batch's padding (`onnx_network`), and its outputs are
compared with NeMo's before it is written.

    input   sound (B, t), float32 at the model's rate; lengths (B,), int64, samples of each recording
    output  log_probs (B, T, V), by CTC, or encoded (B, T, H), for a transducer's joint network;
            frames (B,), the number of valid frames of each recording

The metadata describe the outputs: `labels` (a JSON list), `sample_rate`, `seconds_per_frame` and `card`; of models that
don't write letters by CTC also `decoder` and `pieces` (`recognition.spelling`). Of a transducer, they have
`most_symbols`, `durations`, and two further graphs, in base64, whose weights are few: `prediction` and `joint`
(`deployment.transducer`). So every model is one file, whose parts can't be mixed up or get lost.
"""

import base64
import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch

from asr_with_nemo.base.files import replacing
from asr_with_nemo.deployment import onnx_network, runtime
from asr_with_nemo.deployment.transducer import MOST_SYMBOLS
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, sample_rate, seconds_per_frame, writes_letters
from asr_with_nemo.models.names import SUMMARY, model_path
from asr_with_nemo.models.recognizer import check_has_frames, durations, most_symbols
from asr_with_nemo.recognition import decoding, spelling, transcripts
from asr_with_nemo.recognition.transcripts import Sound

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

TOLERANCE = 1e-3
"""The largest difference between NeMo's log-probabilities and the exported model's that counts as rounding."""
_PADDED_BATCH = 16
"""Recordings of different lengths per batch, to check the masks."""
_CHECK_SECONDS = (0.001, 0.02, 0.3, 0.75, 1.5, 3.0, 4.2, 7.0, 12.0)
"""Lengths of the noise that replaces recordings in the check of an export."""
_CHECK_LABELS = 12
"""Random letters or pieces that a transducer's prediction network reads in the check of an export."""
_LARGEST = 2**31 - 2**20
"""Bytes that an ONNX file may have, by the format it is stored in (protobuf)."""


# --- The comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equality:
    """The comparison of an exported model with NeMo's over some recordings.

    Attributes:
        recordings: their number.
        seconds: of audio.
        alone: the largest difference of a log-probability, for single recordings; of values beyond ±100, the difference
            in hundredths of the largest one.
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


def compare(model: "ASRModel", recognizer: runtime.Recognizer, sounds: Sequence[Sound]) -> Equality:
    """Compare an exported model with NeMo's, on single recordings and in batches of short and long ones.

    The log-probabilities of a transducer are those of its joint network, at each frame before the first letter or
    piece, and after random ones.

    Raises:
        InputError: a recording can't be read.
    """
    samples = transcripts.read(sounds, recognizer.sample_rate)
    by_nemo, by_runtime = (_ctc if recognizer.decoder == "ctc" else _transducer)(model, recognizer)
    theirs = [one for sound in samples for one in by_nemo([sound])]
    alone = [one for sound in samples for one in by_runtime([sound])]
    by_length = sorted(range(len(samples)), key=lambda index: len(samples[index]))
    mixed = [index for pair in zip(by_length, reversed(by_length), strict=True) for index in pair][: len(samples)]
    padded: dict[int, _Heard] = {}
    for first in range(0, len(mixed), _PADDED_BATCH):
        batch = mixed[first : first + _PADDED_BATCH]
        padded.update(zip(batch, by_runtime([samples[index] for index in batch]), strict=True))
    outputs = list(zip(theirs, alone, (padded[index] for index in range(len(samples))), strict=True))
    of_decoder = 0.0 if recognizer.decoder == "ctc" else _difference_of_decoders(model, recognizer)
    return Equality(
        recordings=len(samples),
        seconds=sum(map(len, samples)) / recognizer.sample_rate,
        alone=max(of_decoder, *(_difference(ours.log_probs, nemos.log_probs) for nemos, ours, _ in outputs)),
        padded=max(_difference(ours.log_probs, nemos.log_probs) for nemos, _, ours in outputs),
        same_texts=sum(len({(one.text, one.times) for one in three}) == 1 for three in outputs),
    )


@dataclass(frozen=True)
class _Heard:
    """What is compared of a recording: log-probabilities (T, V), the text, and a transducer's frames and durations."""

    log_probs: np.ndarray
    text: str
    times: tuple[tuple[int, int], ...] = ()


_Way = Callable[[Sequence[np.ndarray]], list[_Heard]]
"""Hears a batch of recordings, (t,) each."""


def _ctc(model: "ASRModel", recognizer: runtime.Recognizer) -> tuple[_Way, _Way]:
    """Return NeMo's way of decoding by CTC, and the runtime's."""
    # Of letters, the runtime keeps the space before a mark ("rock 'n"), which NeMo's own texts leave out.
    spell = recognizer.spelled
    if not writes_letters(model):
        spell = decoding.ctc_decoding(model).decode_tokens_to_str_with_strip_punctuation

    def by_nemo(batch: Sequence[np.ndarray]) -> list[_Heard]:
        return [
            _Heard(log_probs, spell(recognizer.output(log_probs).columns).strip())
            for log_probs in decoding.log_probs(model, batch, len(batch), progress=False)
        ]

    def by_runtime(batch: Sequence[np.ndarray]) -> list[_Heard]:
        return [_Heard(log_probs, recognizer.greedy(log_probs).strip()) for log_probs in recognizer.run(batch)]

    return by_nemo, by_runtime


def _transducer(model: "ASRModel", recognizer: runtime.Recognizer) -> tuple[_Way, _Way]:
    """Return NeMo's way of decoding by a transducer, and the runtime's."""
    search, first = decoding.greedy_search(model), recognizer.transducer.start(1).predicted

    def by_nemo(batch: Sequence[np.ndarray]) -> list[_Heard]:
        with decoding.inference(model):
            encoded, frames = decoding.encode(model, batch)
            found = decoding.transduced(model, encoded, frames, search)
            projected = model.joint.project_encoder(encoded.transpose(1, 2)).cpu().numpy()
        return [
            _Heard(_joined(model, row[:count], first), text.strip(), tuple((step.frame, step.frames) for step in steps))
            for row, count, (text, steps) in zip(projected, frames.tolist(), found, strict=True)
        ]

    def by_runtime(batch: Sequence[np.ndarray]) -> list[_Heard]:
        encoded, frames = recognizer.encode(batch)
        found = recognizer.transducer.search(encoded, frames)
        return [
            _Heard(
                _joined(model, row[:count], first),
                recognizer.spelled([choice.column for choice in choices]),
                tuple((choice.frame, choice.frames) for choice in choices),
            )
            for row, count, choices in zip(encoded, frames, found, strict=True)
        ]

    return by_nemo, by_runtime


def _joined(model: "ASRModel", encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return NeMo's log-probabilities, (T, V), for frames (T, H) and what was written before, (1, H) or (T, H)."""
    with decoding.inference(model):
        one, other = (torch.from_numpy(value).to(model.device)[:, None] for value in (encoded, predicted))
        scores = model.joint.joint_after_projection(one, other.expand(len(one), -1, -1))[:, 0, 0]
        choices = scores.shape[1] - len(durations(model))
        parts = [part.log_softmax(1) for part in scores.split([choices, scores.shape[1] - choices], 1)]
        return torch.cat(parts, 1).cpu().numpy()


def _difference_of_decoders(model: "ASRModel", recognizer: runtime.Recognizer) -> float:
    """Return the largest difference of log-probabilities between the decoders, after random letters or pieces."""
    ours, random, most = recognizer.transducer, np.random.default_rng(0), 0.0
    memory = ours.start(2)
    predicted, states = memory.predicted, memory.states
    with decoding.inference(model):
        state = model.decoder.initialize_state(torch.zeros(2, 1, device=model.device))
        labels = torch.full((2, 1), ours.blank, device=model.device)
        for _ in range(_CHECK_LABELS):
            output, state = model.decoder.predict(labels, state, add_sos=False, batch_size=2)
            theirs = model.joint.project_prednet(output)[:, 0].cpu().numpy()  # (2, H)
            encoded = random.normal(size=theirs.shape).astype(np.float32)
            nemos = _joined(model, encoded, theirs)
            best = nemos[:, : ours.blank + 1].max(axis=1)
            _, chance, *_, scores = (output[:, 0] for output in ours.score(encoded[:, None], predicted))
            scores -= np.logaddexp.reduce(scores, 1, keepdims=True)  # (2, V + 1)
            most = max(
                most,
                _difference(_joined(model, encoded, predicted), nemos),
                _difference(np.log(chance), best),
                _difference(scores, nemos[:, : ours.blank + 1]),
            )
            chosen = random.integers(0, ours.blank, 2)
            labels = torch.from_numpy(chosen)[:, None].to(model.device)
            predicted, states = ours.predict(chosen, states)
    return most


def _difference(ours: np.ndarray, nemos: np.ndarray) -> float:
    """Return the largest difference; where values are beyond ±100, in hundredths of the largest value.

    A network that has hardly been trained may compute millions, whose rounding alone is larger than the tolerance.
    """
    if ours.shape != nemos.shape:
        return math.inf
    return float(np.abs(ours - nemos).max(initial=0.0) / max(1.0, np.abs(nemos).max(initial=0.0) / 100))


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


# --- The file ---------------------------------------------------------------------------------------------------------


def export(
    model: "ASRModel",
    path: str | os.PathLike,
    sounds: Sequence[Sound] = (),
    card: Mapping[str, object] | None = None,
    decoder: str = "",
) -> Equality:
    """Export a model to an ONNX file, which is written only if its outputs equal the model's.

    Args:
        model: as `loading.load_model` returns it; it isn't changed.
        path: ends in .onnx.
        sounds: recordings to compare with NeMo on; by default noise of several lengths.
        card: facts on the model that can't be read from it (`card_of`), for the file's metadata.
        decoder: "ctc", "rnnt" or "tdt", of a model that has several; by default a hybrid's transducer.

    Raises:
        InputError: the model isn't supported or lacks the decoder, the file can't be written, or its outputs differ
            from the model's.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx")
    check_has_frames(
        model, "export.py", "NeMo runs it as it is: its transcribe(), or examples/asr/transcribe_speech.py"
    )
    decoder = decoding.check_decoder(model, decoder)
    facts = _facts(model, decoder)
    proto, described = onnx_network.network(model, decoder), _described(model, decoder) | dict(card or {})
    if decoder != "ctc":
        networks = onnx_network.transducer(model)
        for name, network in zip(("prediction", "joint"), networks, strict=True):
            facts[name] = base64.b64encode(network.SerializeToString(deterministic=True)).decode()
    with _written(path) as partial:
        partial.write_bytes(_with_facts(proto, facts, described))
        equality = compare(model, runtime.Recognizer(partial), sounds or noises(sample_rate(model)))
        if not equality.holds:
            raise InputError(f"{path}: not written, since its outputs differ from the model's: {equality}")
        partial.write_bytes(_with_facts(proto, facts, described | {"equality": asdict(equality)}))
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


def _described(model: "ASRModel", decoder: str) -> dict[str, object]:
    """Return the facts that can be read from a model, for its card."""
    return {
        "network": f"{type(model.encoder).__name__} with {decoder.upper() if decoder != 'rnnt' else 'RNN-T'}",
        "weights": sum(weights.numel() for weights in model.parameters()),
        "sound": f"mono, {sample_rate(model)} Hz",
        **({"letters": "".join(alphabet(model))} if writes_letters(model) else {"pieces": len(alphabet(model))}),
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


def _facts(model: "ASRModel", decoder: str) -> dict[str, str]:
    """Return the metadata that describe the outputs of a model's network."""
    facts = {
        "format": runtime.LETTERS,
        "labels": json.dumps(alphabet(model)),
        "sample_rate": str(sample_rate(model)),
        "seconds_per_frame": f"{seconds_per_frame(model):.10g}",
    }
    pieces = spelling.of(model)
    if pieces or decoder != "ctc":
        facts |= {"format": runtime.FORMAT, "decoder": decoder}
    if pieces:
        facts["pieces"] = pieces.as_json()
    if decoder != "ctc":
        facts["most_symbols"] = str(min(most_symbols(model) or MOST_SYMBOLS, MOST_SYMBOLS))
    if decoder == "tdt":
        facts["durations"] = json.dumps(durations(model))
    return facts


def _with_facts(proto: onnx.ModelProto, facts: Mapping[str, str], card: Mapping[str, object]) -> bytes:
    """Serialise a graph, with the metadata that `runtime` reads.

    Raises:
        InputError: it is too large for one file.
    """
    onnx.helper.set_model_props(proto, {**facts, "card": json.dumps(card, ensure_ascii=False)})
    if (size := proto.ByteSize()) > _LARGEST:
        raise InputError(
            f"the model would have {size / 1e9:.1f} GB, and an ONNX file may have 2; it runs with NeMo "
            "(scripts/transcribe.py MODEL.nemo)"
        )
    return proto.SerializeToString(deterministic=True)


# --- Quantization -----------------------------------------------------------------------------------------------------


def quantize(path: str | os.PathLike, output: str | os.PathLike, sounds: Sequence[Sound]) -> None:
    """Quantize an exported model's weights and activations to 8-bit integers: a third of the size.

    The activations' ranges are calibrated on recordings (static quantization), so that outputs don't depend on the rest
    of the batch. Features, normalisation, the last layer and a transducer's two further graphs keep float32.

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

    with _written(Path(output)) as partial, onnx_network.quiet(), tempfile.TemporaryDirectory() as scratch:
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
    last = ("decoder.", "projection.")
    decoders = {tensor.name for tensor in graph.initializer if tensor.name.startswith(last)}
    names = []
    for node in graph.node:  # in order of computation
        if encoders.intersection(node.input) and not decoders.intersection(node.input):
            encoders.update(node.output)
            if node.op_type in ("Conv", "MatMul", "Gemm", "Add", "Mul", "Relu"):
                names.append(node.name)
    return names
