"""Offline decoding with NeMo: log-probabilities, transcripts with word times, and forced alignment.

`transcribe` takes every recogniser that `models.loading.load_model` loads. Log-probabilities, alignment and the search
with a language model of words need a CTC decoder, which a CTC model or a hybrid has. Attention decoders are in
`recognition.attention`.

Every function takes audio as files (any format that soundfile reads, at any sample rate) or as arrays of mono samples
at the model's rate. Results don't depend on order or batching, apart from floating-point rounding.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, sample_rate, seconds_per_frame, writes_letters
from asr_with_nemo.models.names import model_path
from asr_with_nemo.models.recognizer import (
    check_has_frames,
    choose_decoder,
    ctc_decoder,
    decoders,
    durations,
    most_symbols,
)
from asr_with_nemo.recognition import attention, confidence, spelling, transcripts
from asr_with_nemo.recognition.transcripts import Letter, Output, Sound, Step, Transcript

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel
    from nemo.collections.asr.parts.submodules.rnnt_decoding import AbstractRNNTDecoding
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

    from asr_with_nemo.recognition import beam, boosting
    from asr_with_nemo.recognition.transducer_beam import TransducerSearch

    Search = beam.Search | TransducerSearch


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


def decoder_of(
    model: "ASRModel", search: "Search | None" = None, decoder: str = "", prompt: Mapping[str, str] | None = None
) -> str:
    """Name the decoder: the search's own name, "greedy", or NeMo's name of the model's decoding strategy.

    For models other than CTC ones, it ends with the name of the decoder: "greedy, tdt"; for those with a prompt, with
    this too: "greedy, aed (source_lang=en target_lang=en pnc=yes)".
    """
    decoder = choose_decoder(model, decoder)
    if decoder == "aed":
        return f"greedy, aed ({attention.described(model, prompt or {})})"
    if search:
        return str(search) if decoder == "ctc" else f"{search}, {decoder}"
    strategy = str((ctc_decoding(model) if decoder == "ctc" else model.decoding).cfg.strategy)
    strategy = "greedy" if strategy.startswith("greedy") else strategy
    return strategy if decoders(model) == ("ctc",) else f"{strategy}, {decoder}"


def check_decoder(model: "ASRModel", decoder: str = "", search: "Search | None" = None) -> str:
    """Return the decoder to use: the one given, else the model's default.

    Raises:
        InputError: the model doesn't have it, or the search is for another one.
    """
    from asr_with_nemo.recognition.transducer_beam import TransducerSearch

    decoder = choose_decoder(model, decoder)
    if search:
        _check_takes_search(model)
    cfg = (ctc_decoding(model) if decoder == "ctc" else model.decoding).cfg
    one_beam = decoder == "aed" and (cfg.get("beam") or {}).get("beam_size") == 1  # which is greedy
    greedy = decoder == "ctc" or one_beam or str(cfg.strategy).startswith("greedy")
    if search and (decoder != "ctc") != isinstance(search, TransducerSearch):
        other = "; add --decoder ctc" if "ctc" in decoders(model) else ""
        raise InputError(f"this search is not for the decoder {decoder}: make it with decoding.load_search{other}")
    if not search and not greedy:
        raise InputError(
            f"the model is set to decode with {model.decoding.cfg.strategy}; here, the decoder {decoder} is greedy: "
            "model.change_decoding_strategy sets greedy_batch, or use model.transcribe"
        )
    return decoder


def _check_takes_search(model: "ASRModel") -> None:
    check_has_frames(
        model, "--lm and --boost", "NeMo's own beam search takes both: examples/asr/transcribe_speech.py of NeMo"
    )


def load_search(
    model: "ASRModel",
    decoder: str = "",
    arpa: str | os.PathLike | None = None,
    boosts: "boosting.Phrases | None" = None,
    alpha: float | None = None,
    beta: float | None = None,
    width: int | None = None,
) -> "Search | None":
    """Load the beam search for a language model, for boosted phrases, or for both; None for neither.

    By CTC, it is one of `beam.load`; by RNN-T or TDT, NeMo's (`transducer_beam`), whose language model is of the
    model's letters or pieces.

    Args:
        model: any recogniser.
        decoder: "ctc", "rnnt" or "tdt", of a model that has several; by default a hybrid's transducer.
        arpa: the language model's file.
        boosts: words or phrases that are expected, with a bonus each (`boosting`).
        alpha, beta, width: by default the file's tuned weights, which are for CTC, else the search's defaults.

    Raises:
        InputError: the language model can't be read or isn't for this decoder, a weight is out of range, or the model
            lacks the decoder or can't write what is boosted.
    """
    decoder = choose_decoder(model, decoder)
    if not (arpa or boosts):
        return None
    _check_takes_search(model)
    if decoder == "ctc":
        from asr_with_nemo.recognition import beam

        return beam.load(arpa, alphabet(model), alpha, beta, width, boosts, spelling.of(model))
    from asr_with_nemo.recognition.transducer_beam import TransducerSearch

    if beta:
        raise InputError(f"--beta {beta:g}: the search of the decoder {decoder} has no beta; leave it out")
    try:
        return TransducerSearch(model, arpa, boosts, alpha, width)
    except InputError as error:
        if not arpa or "ctc" not in decoders(model):
            raise
        raise InputError(f"{error}, or add --decoder ctc") from None


def ctc_decoding(model: "ASRModel"):
    """Return NeMo's decoding by CTC of a CTC model or a hybrid."""
    return model.ctc_decoding if hasattr(model, "ctc_decoding") else model.decoding


@contextlib.contextmanager
def inference(model: "ASRModel") -> Iterator[None]:
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


def encode(model: "ASRModel", batch: Sequence[np.ndarray]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Run a batch of recordings, (t,) each; return the model's output and the number of frames of each, (B,).

    The output is log-probs (B, T, V) of a CTC model, and the encoder's output (B, D, T) of others. A network that reads
    backwards too (bidirectional LSTMs) would read the padding first, so it gets its recordings one by one.
    """
    import torch

    if len(batch) > 1 and any(getattr(layer, "bidirectional", False) for layer in model.modules()):
        outputs, frames = zip(*(encode(model, [samples]) for samples in batch), strict=True)
        place = 2 if hasattr(model, "joint") else 1  # of the frames
        rows = [output[0].movedim(place - 1, 0) for output in outputs]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).movedim(1, place), torch.cat(frames)
    signals = [torch.from_numpy(samples) for samples in batch]
    padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)  # (B, t)
    lengths = torch.tensor([len(samples) for samples in batch])
    output = model(input_signal=padded.to(model.device), input_signal_length=lengths.to(model.device))
    return output[0], output[1]


def _log_probs(model: "ASRModel", batch: Sequence[np.ndarray]) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Run a batch of recordings, (t,) each; return log-probs (B, T, V) and the number of frames of each, (B,)."""
    output, frames = encode(model, batch)
    if hasattr(model, "joint"):
        output = ctc_decoder(model)(encoder_output=output)
    return output, frames


# --- Outputs over time ------------------------------------------------------------------------------------------------


def log_probs(
    model: "ASRModel", sounds: Sequence[Sound], batch_size: int = 16, progress: bool = True
) -> list[np.ndarray]:
    """Compute the model's log-probabilities for each recording, in the order given. Long files are not cut.

    Returns:
        log-probabilities, (T, V) float32 each: a row every `seconds_per_frame`, a column per letter, the blank last.

    Raises:
        InputError: a file can't be read, an array isn't mono float samples, or the model has no CTC decoder.
    """
    ctc_decoder(model)
    samples = transcripts.read(sounds, sample_rate(model))
    with tqdm(total=len(samples), unit="file", delay=1, leave=False, disable=not progress) as bar:
        return _all_log_probs(model, samples, batch_size, bar.update)


def _all_log_probs(
    model: "ASRModel",
    samples: Sequence[np.ndarray],
    batch_size: int,
    done: Callable[[int], object] = lambda count: None,
) -> list[np.ndarray]:
    """Return the log-probabilities, (T, V) float32 each, of mono samples, (t,) each."""
    results: list[np.ndarray] = [np.empty(0)] * len(samples)
    with inference(model):
        for batch in transcripts.batches([len(s) for s in samples], batch_size):
            output, frames = _log_probs(model, [samples[index] for index in batch])
            output = output.float().cpu().numpy()
            for index, row, length in zip(batch, output, frames.tolist(), strict=True):
                results[index] = row[:length].copy()
            done(len(batch))
    return results


def piecewise_log_probs(
    model: "ASRModel", sounds: Iterable[Sound], batch_size: int = 16
) -> Iterator[tuple[transcripts.Piece, np.ndarray]]:
    """Compute the log-probabilities of recordings of any length, cut at pauses as for `transcribe`.

    At most `transcripts.WINDOW_SECONDS` of audio and a piece are in memory.

    Yields:
        the pieces in order, each with its log-probabilities, (T, V); (0, V) for silence, and for an error.
    """
    ctc_decoder(model)
    _keep_no_kernels()
    rate, nothing = sample_rate(model), np.zeros((0, len(alphabet(model)) + 1), np.float32)
    for window in transcripts.windows(transcripts.pieces(sounds, rate), rate, batch_size):
        audible = [place for place, piece in enumerate(window) if piece.is_audible]
        samples = [transcripts.raised(window[place].samples, rate) for place in audible]
        found = dict(zip(audible, _all_log_probs(model, samples, batch_size), strict=True))
        yield from ((piece, found.get(place, nothing)) for place, piece in enumerate(window))


def _keep_no_kernels() -> None:
    """Have oneDNN, which computes convolutions on CPUs, keep none of its kernels, unless the user has set how many.

    It makes a kernel for each layer and each shape of a batch, and would keep 1,024 of them. The pieces of a long
    recording have ever new shapes, whose kernels, small and lying between large buffers, let the process grow from
    0.9 GB to 1.8 GB in four hours of sound. To make them anew takes 5% of an alignment's time. oneDNN reads the
    variable once in a process, when it computes something first.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "0")


# --- Transcripts ------------------------------------------------------------------------------------------------------


def transcribe(
    model: "ASRModel",
    sounds: Sequence[Sound],
    batch_size: int = 16,
    progress: bool = True,
    search: "Search | None" = None,
    decoder: str = "",
    prompt: Mapping[str, str] | None = None,
) -> list[Transcript]:
    """Transcribe recordings of any length, in the order given.

    The texts are those of NeMo's `model.transcribe`, but recordings of more than 20 s, and those with pauses of a
    second, are cut there (`data.pauses`), silence has an empty text, and quiet recordings are raised.

    Args:
        model: from `models.loading.load_model`.
        sounds: the recordings.
        batch_size: pieces of audio per batch.
        progress: show a progress bar.
        search: a beam search with a language model or boosted phrases (`load_search`); by default the model's own
            decoding.
        decoder: "ctc", "rnnt" or "tdt", of a model that has several; by default a hybrid's transducer.
        prompt: what an attention decoder is told, for slots whose default isn't right (`attention.values_of`).

    Raises:
        InputError: a file can't be read, an array isn't mono float samples, or the model lacks the decoder, takes no
            prompt, or lacks a slot or value of it.
    """
    return transcripts.all_of(transcribe_each(model, sounds, batch_size, progress, search, decoder, prompt))


def transcribe_each(
    model: "ASRModel",
    sounds: Sequence[Sound],
    batch_size: int = 16,
    progress: bool = True,
    search: "Search | None" = None,
    decoder: str = "",
    prompt: Mapping[str, str] | None = None,
) -> Iterator[Transcript | InputError]:
    """Transcribe as `transcribe` does, but yield one result at a time; an unreadable recording yields its error.

    At most twice `transcripts.WINDOW_SECONDS` of audio and a piece are in memory, however long or many the recordings.
    """
    recognise = recogniser(model, search, decoder, prompt)
    return transcripts.transcribe_each(sounds, sample_rate(model), recognise, batch_size, progress)


def recogniser(
    model: "ASRModel",
    search: "Search | None" = None,
    decoder: str = "",
    prompt: Mapping[str, str] | None = None,
) -> Callable[[Sequence[np.ndarray]], list[Transcript]]:
    """Return a function that transcribes one batch of recordings, (t,) each at the model's rate; they aren't cut.

    Args:
        model, search, decoder, prompt: as of `transcribe`.

    Raises:
        InputError: the model lacks the decoder, takes no prompt, or lacks a slot or value of it.
    """
    decoder = check_decoder(model, decoder, search)
    if prompt and decoder != "aed":
        raise InputError(f"--prompt is for attention decoders (Canary); this model has {' and '.join(decoders(model))}")
    if decoder == "aed":
        recognise = _by_attention(model, prompt or {})
    elif decoder == "ctc":
        recognise = partial(_transcribe_ctc, model, search=search)
    else:
        recognise = partial(_transcribe_transducer, model, decoding=search.decoding if search else greedy_search(model))
    return partial(transcripts.recognise_audible, rate=sample_rate(model), recognise=recognise)


def _transcribe_ctc(model: "ASRModel", batch: Sequence[np.ndarray], search: "Search | None") -> list[Transcript]:
    with inference(model):
        output, frames = _log_probs(model, batch)
        rows = [row[:length] for row, length in zip(output.float().cpu().numpy(), frames.tolist(), strict=True)]
        if search:
            texts = search.texts(rows)
        else:
            hypotheses = ctc_decoding(model).ctc_decoder_predictions_tensor(output, decoder_lengths=frames)
            # A beam search returns a list of hypotheses per utterance, the best first.
            texts = [(found[0] if isinstance(found, list) else found).text for found in hypotheses]
    return [
        _output(model, row).transcript(text, len(samples) / sample_rate(model))
        for row, text, samples in zip(rows, texts, batch, strict=True)
    ]


# --- Transducers ------------------------------------------------------------------------------------------------------


def greedy_search(model: "ASRModel") -> "AbstractRNNTDecoding":
    """Return NeMo's greedy batched decoding of a transducer, with the frame and probability of each letter or piece."""
    from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTBPEDecoding, RNNTDecoding
    from omegaconf import OmegaConf

    settings: dict[str, object] = {
        "strategy": "greedy_batch",
        "greedy": {"max_symbols": most_symbols(model)},
        "confidence_cfg": confidence.SETTINGS,
    }
    if has := durations(model):
        settings |= {"model_type": "tdt", "durations": has, "tdt_include_token_duration": True}
    parts = {"decoding_cfg": OmegaConf.create(settings), "decoder": model.decoder, "joint": model.joint}
    if writes_letters(model):
        return RNNTDecoding(**parts, vocabulary=model.joint.vocabulary)
    return RNNTBPEDecoding(**parts, tokenizer=model.tokenizer)


def _transcribe_transducer(
    model: "ASRModel", batch: Sequence[np.ndarray], decoding: "AbstractRNNTDecoding"
) -> list[Transcript]:
    with inference(model):
        encoded, frames = encode(model, batch)  # (B, D, T), (B,)
        found = transduced(model, encoded, frames, decoding)
    seconds, has_pieces = seconds_per_frame(model), not writes_letters(model)
    return [
        transcripts.from_steps(steps, seconds, text, len(samples) / sample_rate(model), has_pieces)
        for (text, steps), samples in zip(found, batch, strict=True)
    ]


def transduced(
    model: "ASRModel", encoded: "torch.Tensor", frames: "torch.Tensor", decoding: "AbstractRNNTDecoding"
) -> list[tuple[str, list[Step]]]:
    """Return the text of each recording of a batch, and the letters or pieces that the transducer wrote.

    Args:
        model: in `inference`.
        encoded: the encoder's output (B, D, T).
        frames: the number of valid frames of each recording, (B,).
        decoding: from `greedy_search`, or of a `TransducerSearch`.
    """
    from asr_with_nemo.recognition.transducer_beam import probabilities

    labels = alphabet(model) if writes_letters(model) else spelling.written(model.tokenizer.tokenizer)
    hypotheses = decoding.rnnt_decoder_predictions_tensor(encoded, frames, return_hypotheses=True)
    is_greedy = str(decoding.cfg.strategy).startswith("greedy")
    written = []
    for row, found in zip(encoded, hypotheses, strict=True):
        sure = confidence.probabilities(found, len(labels) + 1) if is_greedy else probabilities(model, row, found)
        written.append((found.text, list(_steps(found, labels, sure))))
    return written


def _steps(hypothesis: "Hypothesis", labels: Sequence[str], sure: Iterable[float]) -> Iterator[Step]:
    """Yield what a hypothesis has written."""
    columns, frames = (list(map(int, values)) for values in (hypothesis.y_sequence, hypothesis.timestamp))
    has_lengths = hypothesis.token_duration is not None and len(hypothesis.token_duration)
    lengths = list(map(int, hypothesis.token_duration)) if has_lengths else [1] * len(columns)
    for column, frame, length, probability in zip(columns, frames, lengths, sure, strict=True):
        yield Step(labels[column], frame, length, probability)


def _by_attention(model: "ASRModel", prompt: Mapping[str, str]) -> Callable[[Sequence[np.ndarray]], list[Transcript]]:
    tokens, has_times = attention.prompt_tokens(model, prompt), attention.asks_for_times(model, prompt)
    decoding = attention.greedy_search(model)

    def recognise(batch: Sequence[np.ndarray]) -> list[Transcript]:
        with inference(model):
            return attention.transcribe(model, batch, decoding, tokens, has_times)

    return recognise


# --- Forced alignment -------------------------------------------------------------------------------------------------


def _output(model: "ASRModel", log_probs: np.ndarray) -> Output:
    if writes_letters(model):
        return Output(log_probs, alphabet(model), seconds_per_frame(model))
    pieces = spelling.written(model.tokenizer.tokenizer)
    return Output(log_probs, pieces, seconds_per_frame(model), model.tokenizer.text_to_ids)


def align(model: "ASRModel", sound: Sound, text: str) -> list[Letter]:
    """Align a known transcript with its recording: the most likely CTC path that spells it (Viterbi).

    Returns:
        the letters of `text` in order, spaces included; for a model of subword pieces, those pieces.

    Raises:
        InputError: `text` is empty, has characters that the model lacks, or is too long for the recording; or the model
            has no CTC decoder.
    """
    return _output(model, log_probs(model, [sound], progress=False)[0]).align(text)
