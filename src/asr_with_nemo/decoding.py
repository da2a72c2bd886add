"""Sound to text: loading a model, its output over time, transcripts with word times, and forced alignment.

Every function takes sound as files (anything that soundfile reads, at any rate) or as arrays of mono samples at the
model's rate. What comes out doesn't depend on the order or the batching, but for the last digits of floating point.
"""

import contextlib
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from asr_with_nemo import artifacts, audio, tracking
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import DictConfig

    from asr_with_nemo.beam import Search

Sound = str | os.PathLike | np.ndarray
"""A sound file, or mono samples (T,) in [-1, 1] at the model's rate."""

ASSETS = Path(__file__).parent / "assets"
MODELS = ("an4",)
"""The models that ship with the course, by name."""

# Seconds. A recording of up to WHOLE is heard at once; a longer one is cut at a pause between the other two. Short
# pieces suit models that were trained on a few seconds and look at all of a piece at once (squeeze-and-excite,
# normalisation): on AN4's dev set, joined to one file, they made fewer errors than pieces of 10 to 20 s.
WHOLE, LONGEST_PIECE, SHORTEST_PIECE = 20.0, 8.0, 2.0
# How much is read ahead, so that pieces of about one length share a batch: whichever comes first.
WINDOW_SECONDS, WINDOW_BATCHES = 300.0, 8


@dataclass(frozen=True)
class Word:
    """A word and where it was heard, in seconds from the start of the recording."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Transcript:
    """What was heard in one recording.

    Attributes:
        text: as the model's decoding gives it.
        words: the words of `text` with their times.
        duration: seconds of sound.
    """

    text: str
    words: list[Word]
    duration: float


class Letter(NamedTuple):
    """A letter of an alignment, in seconds from the start of the recording."""

    letter: str
    start: float
    end: float


# --- Models -----------------------------------------------------------------------------------------------------------


def model_path(model: str | os.PathLike) -> Path:
    """The file of a model: a path stays as it is, and a name such as "an4", which has no suffix, is a model that ships.

    "wandb:NAME:ALIAS" is one that a run has logged (`tracking.fetch`). A name never means a file or folder that happens
    to lie where the program runs.

    Raises:
        InputError: there is no model of that name.
    """
    if os.fspath(model).startswith(artifacts.PREFIX):
        return tracking.fetch(os.fspath(model).removeprefix(artifacts.PREFIX))
    path = Path(model)
    if path.suffix or os.path.basename(os.fspath(model)) != os.fspath(model) or path.name in ("", ".."):
        return path
    file = ASSETS / f"{path}.nemo"
    if path.name not in MODELS:
        raise InputError(
            f"{path}: no such model; the models that ship are named {', '.join(MODELS)}, and a model of yours is a "
            ".nemo or .ckpt file, as scripts/train.py makes one, or wandb:NAME:ALIAS"
        )
    if not file.is_file():
        raise InputError(
            f"{path}: this copy of the course lacks the model, assets/{file.name} in the package; get the repository "
            "whole, or train a model with scripts/train.py"
        )
    return file


def language_model_path(model: str | os.PathLike, lm: str | os.PathLike = "") -> Path:
    """The file of the language model that goes with a model: the one named, else the .arpa beside it of the same name.

    Raises:
        InputError: the file isn't there.
    """
    path = Path(lm) if os.fspath(lm) else model_path(model).with_suffix(".arpa")
    if not path.is_file():
        where = "" if os.fspath(lm) else f" beside the model {model}"
        raise InputError(
            f"{path}: no such language model{where}; make one with scripts/build_lm.py, or name another: --lm FILE.arpa"
        )
    return path


def load_model(path: str | os.PathLike) -> "EncDecCTCModel":
    """Load a character CTC model from a `.nemo` file or a Lightning checkpoint (`.ckpt`), ready for inference.

    "an4" is the model that ships with the course, "wandb:NAME:ALIAS" one that a W&B run has logged. What is loaded is
    on the GPU if this torch can use one, else on the CPU. Load only files that you trust: the config inside a model
    file names the classes that are built from it.

    Raises:
        InputError: the file isn't there, isn't a model file, is damaged, or isn't of a character CTC model.
    """
    path = model_path(path)
    if not path.is_file():
        reason = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {reason}; expected a model (.nemo or .ckpt), as scripts/train.py makes one")
    # What is in the file decides, not its name.
    if tarfile.is_tarfile(path):
        load = _load_nemo
    elif zipfile.is_zipfile(path):
        load = _load_checkpoint
    else:
        raise InputError(
            f"{path}: not a model file, or cut short; expected a .nemo file (a tar with model_config.yaml and "
            "weights) or a Lightning .ckpt, as scripts/train.py makes them"
        )
    # Late, because these take ten seconds and more to import, and a wrong path should be told at once.
    from asr_with_nemo import training

    training.quieten()
    device = "cuda" if training.has_working_gpu() else "cpu"
    try:
        model = load(path, device)
    except InputError:
        raise
    except Exception as error:  # NeMo, Hydra, torch, tarfile and pickle raise of every kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: can't be loaded as a NeMo model: {reason}") from error
    return model.to(device).eval()


def _load_nemo(path: Path, device: str) -> "EncDecCTCModel":
    import torch
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    with tarfile.open(path) as archive:
        configs = [member for member in archive if Path(member.name).name == "model_config.yaml" and member.isfile()]
        if not configs:
            raise InputError(f"{path}: a tar without model_config.yaml, so it is no .nemo file")
        config = OmegaConf.create(archive.extractfile(configs[0]).read().decode("utf-8"))
    _check_is_character_ctc(config, path)
    model = EncDecCTCModel.restore_from(str(path), map_location=torch.device(device))
    if not isinstance(model, EncDecCTCModel):
        raise InputError(f"{path}: holds a {type(model).__name__}; expected a character CTC model (EncDecCTCModel)")
    return model


def _load_checkpoint(path: Path, device: str) -> "EncDecCTCModel":
    """As `EncDecCTCModel.load_from_checkpoint` does, which would unpickle anything; this reads weights and settings."""
    import typing
    from collections import defaultdict

    import torch
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import DictConfig, ListConfig, nodes, open_dict
    from omegaconf.base import ContainerMetadata, Metadata

    settings = [DictConfig, ListConfig, ContainerMetadata, Metadata, typing.Any, defaultdict, dict, list, int]
    settings += [nodes.AnyNode, nodes.StringNode, nodes.IntegerNode, nodes.FloatNode, nodes.BooleanNode]
    with torch.serialization.safe_globals(settings):
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    config = checkpoint.get("hyper_parameters", {}).get("cfg") if isinstance(checkpoint, dict) else None
    if config is None or "state_dict" not in checkpoint:
        raise InputError(f"{path}: not a Lightning checkpoint of a NeMo model (it lacks state_dict or the model's cfg)")
    _check_is_character_ctc(config, path)
    with open_dict(config):
        for name in ("train_ds", "validation_ds", "test_ds"):
            config[name] = None  # the data may be elsewhere by now
    model = EncDecCTCModel(cfg=config)
    model.load_state_dict(checkpoint["state_dict"])
    return model


def _check_is_character_ctc(config: "DictConfig", path: Path) -> None:
    kind = str(config.get("target", "")).rpartition(".")[2]
    words = "tokenizer" in config or "joint" in config or "CTC" not in (kind or "CTC")
    if words or not (config.get("decoder") or {}).get("vocabulary"):
        raise InputError(
            f"{path}: {f'a {kind}, ' if kind else ''}not a character CTC model; expected an EncDecCTCModel, whose "
            "decoder has a vocabulary of letters"
        )


def alphabet(model: "EncDecCTCModel") -> list[str]:
    """The letters of a model, in the order of its outputs; CTC's blank is the output after the last."""
    return list(model.decoder.vocabulary)


def seconds_per_frame(model: "EncDecCTCModel") -> float:
    """Seconds between two outputs of a model."""
    return float(model.cfg.preprocessor.window_stride * model.encoder.subsampling_factor)


def decoder_of(model: "EncDecCTCModel", search: "Search | None" = None) -> str:
    """The name of the way from outputs to text: a search's own, "greedy", or NeMo's name of the model's strategy."""
    if search:
        return str(search)
    strategy = str(model.decoding.cfg.strategy)
    return "greedy" if strategy.startswith("greedy") else strategy


@contextlib.contextmanager
def _inference(model: "EncDecCTCModel") -> Iterator[None]:
    """Without gradients, dropout, dither (random) or extra padding, as in NeMo's own `transcribe`."""
    import torch

    featurizer, was_training = model.preprocessor.featurizer, model.training
    kept = featurizer.dither, featurizer.pad_to
    featurizer.dither, featurizer.pad_to = 0.0, 0
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        featurizer.dither, featurizer.pad_to = kept
        model.train(was_training)


def _forward(model: "EncDecCTCModel", batch: Sequence[np.ndarray]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Run a batch of recordings, (t,) each. Returns log-probs (B, T, V) and how many of the T frames each has, (B,)."""
    import torch

    signals = [torch.from_numpy(samples) for samples in batch]
    padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)  # (B, t)
    lengths = torch.tensor([len(samples) for samples in batch])
    output, frames, _ = model(input_signal=padded.to(model.device), input_signal_length=lengths.to(model.device))
    return output, frames


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indexes in batches of about one length, the longest first, so that too little memory shows at once."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: expected 1 or more")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def _sample_rate(model: "EncDecCTCModel") -> int:
    return int(model.cfg.preprocessor.sample_rate)


def _blocks(sound: Sound, index: int, rate: int) -> Iterator[np.ndarray]:
    """The samples of sound number `index`, mono float32 at `rate`, piece by piece and checked.

    Raises:
        InputError: it can't be read, or isn't mono float samples.
    """
    name = f"array {index}" if isinstance(sound, np.ndarray) else str(sound)
    for samples in [sound] if isinstance(sound, np.ndarray) else audio.stream_audio(sound, rate):
        if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.floating):
            raise InputError(
                f"{name}: {samples.dtype} samples of shape {samples.shape}; expected mono float samples, (T,)"
            )
        if not np.isfinite(samples).all():
            raise InputError(f"{name}: has samples that are no numbers (NaN or infinite); make the file again")
        yield np.ascontiguousarray(samples, np.float32)


# --- Outputs over time ------------------------------------------------------------------------------------------------


def log_probs(
    model: "EncDecCTCModel", sounds: Sequence[Sound], batch_size: int = 16, progress: bool = True
) -> list[np.ndarray]:
    """The model's output over time for each recording, in the order given. Long files are not cut.

    Returns:
        log-probabilities, (T, V) float32 each: a row every `seconds_per_frame`, a column a letter, the last the blank.

    Raises:
        InputError: a file can't be read, or an array isn't mono float samples.
    """
    rate = _sample_rate(model)
    samples = [np.concatenate(list(_blocks(sound, index, rate))) for index, sound in enumerate(sounds)]
    results: list[np.ndarray] = [np.empty(0)] * len(samples)
    with _inference(model), tqdm(total=len(samples), unit="file", delay=1, leave=False, disable=not progress) as bar:
        for batch in _batches([len(s) for s in samples], batch_size):
            output, frames = _forward(model, [samples[index] for index in batch])
            output = output.float().cpu().numpy()
            for index, row, length in zip(batch, output, frames.tolist(), strict=True):
                results[index] = row[:length].copy()
            bar.update(len(batch))
    return results


# --- Transcripts ------------------------------------------------------------------------------------------------------


def transcribe(
    model: "EncDecCTCModel",
    sounds: Sequence[Sound],
    batch_size: int = 16,
    progress: bool = True,
    search: "Search | None" = None,
) -> list[Transcript]:
    """Transcribe recordings of any length, in the order given.

    The texts are those of NeMo's `model.transcribe`; a recording of more than 20 s is cut at pauses.

    Args:
        model: as `load_model` gives it.
        sounds: the recordings.
        batch_size: pieces of sound at a time.
        progress: show a progress bar.
        search: a beam search with a language model (`beam.load`); by default the model's own decoding.

    Raises:
        InputError: a file can't be read, or an array isn't mono float samples.
    """
    transcripts = []
    for result in transcribe_each(model, sounds, batch_size, progress, search):
        if isinstance(result, InputError):
            raise result
        transcripts.append(result)
    return transcripts


def transcribe_each(
    model: "EncDecCTCModel",
    sounds: Sequence[Sound],
    batch_size: int = 16,
    progress: bool = True,
    search: "Search | None" = None,
) -> Iterator[Transcript | InputError]:
    """As `transcribe`, but one result after the other, and a recording that can't be read yields its error.

    At most `WINDOW_SECONDS` of sound and a piece are in memory, however long the recordings and however many.
    """
    waiting: list[_Read] = []
    rate, minutes = _sample_rate(model), 0.0
    with tqdm(total=len(sounds), unit="file", delay=1, leave=False, disable=not progress) as bar:
        for window in _windows(_pieces(sounds, rate), rate, batch_size):
            waiting += _transcribe_window(model, window, batch_size, search)
            minutes += sum(piece.size for piece in window) / rate / 60
            bar.set_postfix_str(f"{minutes:.0f} min of sound")
            last = waiting[-1].index  # more of it may follow
            for result in _joined(read for read in waiting if read.index < last):
                bar.update()
                yield result
            waiting = [read for read in waiting if read.index == last]
        for result in _joined(waiting):
            bar.update()
            yield result


@dataclass(frozen=True)
class _Piece:
    """A stretch of recording number `index` that begins `start` seconds into it, or why it can't be read."""

    index: int
    start: float
    samples: np.ndarray | InputError

    @property
    def size(self) -> int:
        return 0 if isinstance(self.samples, InputError) else len(self.samples)


@dataclass(frozen=True)
class _Read:
    """What was heard in a piece."""

    index: int
    start: float
    heard: Transcript | InputError


def _pieces(sounds: Iterable[Sound], rate: int) -> Iterator[_Piece]:
    for index, sound in enumerate(sounds):
        try:
            blocks = _blocks(sound, index, rate)
            for start, samples in audio.cut_at_pauses(blocks, rate, WHOLE, LONGEST_PIECE, SHORTEST_PIECE):
                yield _Piece(index, start, samples)
        except InputError as error:
            yield _Piece(index, 0.0, error)


def _windows(pieces: Iterable[_Piece], rate: int, batch_size: int) -> Iterator[list[_Piece]]:
    window: list[_Piece] = []
    size = 0
    for piece in pieces:
        window.append(piece)
        size += piece.size
        if size >= WINDOW_SECONDS * rate or len(window) >= WINDOW_BATCHES * batch_size:
            yield window
            window, size = [], 0
    if window:
        yield window


def _transcribe_window(
    model: "EncDecCTCModel", window: list[_Piece], batch_size: int, search: "Search | None"
) -> list[_Read]:
    heard: dict[int, Transcript | InputError] = {}
    readable = []
    for place, piece in enumerate(window):
        if isinstance(piece.samples, InputError):
            heard[place] = piece.samples
        else:
            readable.append(place)
    with _inference(model):
        for batch in _batches([window[place].size for place in readable], batch_size):
            places = [readable[index] for index in batch]
            samples = [window[place].samples for place in places]
            heard.update(zip(places, _transcribe_batch(model, samples, search), strict=True))
    return [_Read(piece.index, piece.start, heard[place]) for place, piece in enumerate(window)]


def _transcribe_batch(
    model: "EncDecCTCModel", batch: Sequence[np.ndarray], search: "Search | None"
) -> list[Transcript]:
    output, frames = _forward(model, batch)
    if search:
        rows = output.float().cpu().numpy()
        texts = search.texts([row[:length] for row, length in zip(rows, frames.tolist(), strict=True)])
    else:
        hypotheses = model.decoding.ctc_decoder_predictions_tensor(output, decoder_lengths=frames)
        # A beam search gives one list of hypotheses an utterance, the best first.
        texts = [(found[0] if isinstance(found, list) else found).text for found in hypotheses]
    paths = output.argmax(dim=-1).cpu().numpy()  # (B, T)
    transcripts = []
    for row, (text, samples, length) in enumerate(zip(texts, batch, frames.tolist(), strict=True)):
        duration = len(samples) / _sample_rate(model)
        words = _words(_runs(model, paths[row, :length]), duration)
        if [word.word for word in words] != text.split():  # not a greedy text: find its own path
            spelled = " ".join(text.split())
            words = _words(_align(model, output[row : row + 1, :length], spelled), duration) if spelled else []
        transcripts.append(Transcript(text, words, duration))
    return transcripts


def _runs(model: "EncDecCTCModel", path: np.ndarray) -> Iterator[Letter]:
    """The letters of a CTC path (T,), blanks and repetitions taken out."""
    letters, seconds = alphabet(model), seconds_per_frame(model)
    for label, run in groupby(enumerate(path.tolist()), key=lambda item: item[1]):
        first, *rest = [frame for frame, _ in run]
        if label < len(letters):
            yield _letter(letters[label], first, (rest or [first])[-1], seconds)


def _letter(letter: str, first: int, last: int, seconds: float) -> Letter:
    return Letter(letter, round(first * seconds, 3), round((last + 1) * seconds, 3))


def _words(letters: Iterable[Letter], duration: float) -> list[Word]:
    words = []
    for is_space, group in groupby(letters, key=lambda letter: letter.letter == " "):
        if not is_space:
            spelled = list(group)
            start, end = min(spelled[0].start, duration), min(spelled[-1].end, duration)
            words.append(Word("".join(letter.letter for letter in spelled), start, end))
    return words


def _joined(reads: Iterable[_Read]) -> Iterator[Transcript | InputError]:
    """Put the pieces of each recording together again."""
    for _, group in groupby(reads, key=lambda read: read.index):
        pieces = list(group)
        errors = [piece.heard for piece in pieces if isinstance(piece.heard, InputError)]
        if errors:
            yield errors[0]
        elif len(pieces) == 1:
            yield pieces[0].heard
        else:
            words = [
                Word(word.word, round(piece.start + word.start, 3), round(piece.start + word.end, 3))
                for piece in pieces
                for word in piece.heard.words
            ]
            text = " ".join(piece.heard.text.strip() for piece in pieces if piece.heard.text.strip())
            yield Transcript(text, words, pieces[-1].start + pieces[-1].heard.duration)


# --- Forced alignment -------------------------------------------------------------------------------------------------


def align(model: "EncDecCTCModel", sound: Sound, text: str) -> list[Letter]:
    """When each letter of a known transcript was said: the likeliest CTC path that spells it (Viterbi).

    Returns:
        the letters of `text` in turn, spaces among them.

    Raises:
        InputError: `text` is empty, has letters that the model lacks, or is too long for the recording.
    """
    import torch

    output = torch.from_numpy(log_probs(model, [sound], progress=False)[0])[None]  # (1, T, V)
    return _align(model, output, text)


def _align(model: "EncDecCTCModel", output: "torch.Tensor", text: str) -> list[Letter]:
    import torch
    from nemo.collections.asr.parts.utils.aligner_utils import viterbi_decoding

    letters, seconds = alphabet(model), seconds_per_frame(model)
    strange = sorted(set(text) - set(letters))
    if not text or strange:
        problem = f"has {' '.join(map(repr, strange))}, which the model can't spell" if strange else "is empty"
        raise InputError(f"the text to align, {text!r}, {problem}")
    needed = len(text) + sum(one == other for one, other in pairwise(text))  # a blank between twins
    if needed > output.shape[1]:
        raise InputError(
            f"the text to align, {text!r}, needs {needed} frames of {seconds:.2f} s, where the recording has "
            f"{output.shape[1]}; is it the right text?"
        )
    blank = len(letters)
    tokens = [blank]
    for letter in text:
        tokens += [letters.index(letter), blank]
    sizes = torch.tensor([output.shape[1]]), torch.tensor([len(tokens)])
    (path,) = viterbi_decoding(output.float().cpu(), torch.tensor([tokens]), *sizes, viterbi_device=torch.device("cpu"))
    aligned = []
    for place, run in groupby(enumerate(path), key=lambda item: item[1]):
        first, *rest = [frame for frame, _ in run]
        if place % 2:  # the even places are blanks
            aligned.append(_letter(text[place // 2], first, (rest or [first])[-1], seconds))
    return aligned
