"""Offline decoding with NeMo: log-probabilities, transcripts with word times, and forced alignment.

Every function takes audio as files (any format that soundfile reads, at any sample rate) or as arrays of mono samples
at the model's rate. Results don't depend on order or batching, apart from floating-point rounding.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, sample_rate, seconds_per_frame, writes_letters
from asr_with_nemo.models.names import model_path
from asr_with_nemo.recognition import transcripts
from asr_with_nemo.recognition.transcripts import Letter, Output, Sound, Transcript

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import EncDecCTCModel

    from asr_with_nemo.recognition.beam import Search


# --- Models -----------------------------------------------------------------------------------------------------------


def language_model_path(model: str | os.PathLike, lm: str | os.PathLike = "") -> Path:
    """Find the language model for a model: the file given, else the .arpa next to the model with the same name.

    Raises:
        InputError: the file doesn't exist.
    """
    path = Path(lm) if os.fspath(lm) else model_path(model).with_suffix(".arpa")
    if not path.is_file():
        where = "" if os.fspath(lm) else f" next to the model {model}"
        raise InputError(
            f"{path}: no such language model{where}; make one with scripts/build_lm.py, or name another: --lm FILE.arpa"
        )
    return path


def decoder_of(model: "EncDecCTCModel", search: "Search | None" = None) -> str:
    """Name the decoder: the search's own name, "greedy", or NeMo's name of the model's decoding strategy."""
    if search:
        return str(search)
    strategy = str(model.decoding.cfg.strategy)
    return "greedy" if strategy.startswith("greedy") else strategy


@contextlib.contextmanager
def _inference(model: "EncDecCTCModel") -> Iterator[None]:
    """Switch off gradients, dropout, dither (random) and extra padding, as NeMo's own `transcribe` does."""
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
    """Run a batch of recordings, (t,) each; return log-probs (B, T, V) and the number of frames of each, (B,)."""
    import torch

    signals = [torch.from_numpy(samples) for samples in batch]
    padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)  # (B, t)
    lengths = torch.tensor([len(samples) for samples in batch])
    output, frames, _ = model(input_signal=padded.to(model.device), input_signal_length=lengths.to(model.device))
    return output, frames


# --- Outputs over time ------------------------------------------------------------------------------------------------


def log_probs(
    model: "EncDecCTCModel", sounds: Sequence[Sound], batch_size: int = 16, progress: bool = True
) -> list[np.ndarray]:
    """Compute the model's log-probabilities for each recording, in the order given. Long files are not cut.

    Returns:
        log-probabilities, (T, V) float32 each: a row every `seconds_per_frame`, a column per letter, the blank last.

    Raises:
        InputError: a file can't be read, or an array isn't mono float samples.
    """
    samples = transcripts.read(sounds, sample_rate(model))
    results: list[np.ndarray] = [np.empty(0)] * len(samples)
    with _inference(model), tqdm(total=len(samples), unit="file", delay=1, leave=False, disable=not progress) as bar:
        for batch in transcripts.batches([len(s) for s in samples], batch_size):
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

    The texts are those of NeMo's `model.transcribe`, but recordings of more than 20 s, and those with pauses of a
    second, are cut there (`data.pauses`), silence has an empty text, and quiet recordings are raised.

    Args:
        model: from `models.loading.load_model`.
        sounds: the recordings.
        batch_size: pieces of audio per batch.
        progress: show a progress bar.
        search: a beam search with a language model (`beam.load`); by default the model's own decoding.

    Raises:
        InputError: a file can't be read, or an array isn't mono float samples.
    """
    return transcripts.all_of(transcribe_each(model, sounds, batch_size, progress, search))


def transcribe_each(
    model: "EncDecCTCModel",
    sounds: Sequence[Sound],
    batch_size: int = 16,
    progress: bool = True,
    search: "Search | None" = None,
) -> Iterator[Transcript | InputError]:
    """Transcribe as `transcribe` does, but yield one result at a time; an unreadable recording yields its error.

    At most twice `transcripts.WINDOW_SECONDS` of audio and a piece are in memory, however long or many the recordings.
    """
    return transcripts.transcribe_each(
        sounds, sample_rate(model), lambda batch: _transcribe_batch(model, batch, search), batch_size, progress
    )


def _transcribe_batch(
    model: "EncDecCTCModel", batch: Sequence[np.ndarray], search: "Search | None"
) -> list[Transcript]:
    return transcripts.recognise_audible(
        batch, sample_rate(model), lambda audible: _transcribe_audible(model, audible, search)
    )


def _transcribe_audible(
    model: "EncDecCTCModel", batch: Sequence[np.ndarray], search: "Search | None"
) -> list[Transcript]:
    with _inference(model):
        output, frames = _forward(model, batch)
        rows = [row[:length] for row, length in zip(output.float().cpu().numpy(), frames.tolist(), strict=True)]
        if search:
            texts = search.texts(rows)
        else:
            hypotheses = model.decoding.ctc_decoder_predictions_tensor(output, decoder_lengths=frames)
            # A beam search returns a list of hypotheses per utterance, the best first.
            texts = [(found[0] if isinstance(found, list) else found).text for found in hypotheses]
    return [
        _output(model, row).transcript(text, len(samples) / sample_rate(model))
        for row, text, samples in zip(rows, texts, batch, strict=True)
    ]


def _output(model: "EncDecCTCModel", log_probs: np.ndarray) -> Output:
    spell = None if writes_letters(model) else model.tokenizer.text_to_ids
    return Output(log_probs, alphabet(model), seconds_per_frame(model), spell)


# --- Forced alignment -------------------------------------------------------------------------------------------------


def align(model: "EncDecCTCModel", sound: Sound, text: str) -> list[Letter]:
    """Align a known transcript with its recording: the most likely CTC path that spells it (Viterbi).

    Returns:
        the letters of `text` in order, spaces included; for a model of subword pieces, those pieces.

    Raises:
        InputError: `text` is empty, has characters that the model lacks, or is too long for the recording.
    """
    return _output(model, log_probs(model, [sound], progress=False)[0]).align(text)
