"""True streaming with NeMo's cache-aware models: each frame of audio is computed once, when it has arrived.

Such a model was trained to hear only some frames ahead. Its encoder takes chunks of audio; what it needs of those
before is in caches, which are handed from chunk to chunk. So the network computes as much for a second of audio however
long the stream is, and a word that was written doesn't change. `deployment.live` does the same for all other models, by
recognising each utterance again and again.
"""

import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.data.pauses import WHOLE
from asr_with_nemo.deployment.live import INTERVAL, Heard, checked_samples
from asr_with_nemo.deployment.transducer import MOST_SYMBOLS, Choice, Memory, Transducer
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.recognizer import Recognizer, ctc_decoder, describe, durations, most_symbols
from asr_with_nemo.recognition import decoding, spelling, transcripts
from asr_with_nemo.recognition.transcripts import Output, Step, Transcript

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel


def check_streams(recognizer: Recognizer, look_ahead: float | None = None) -> float:
    """Return the look-ahead, in seconds, with which a recogniser is to stream: the one given, else its first.

    Raises:
        InputError: it doesn't stream, or not with this look-ahead; with what to do instead.
    """
    if "aed" in recognizer.decoders:
        raise InputError(
            "an attention encoder-decoder (Canary) hears whole recordings and isn't exported, so it can't be served "
            "here; transcribe.py takes it, and NeMo's examples/asr/asr_chunked_inference/aed streams it"
        )
    if not recognizer.streams:
        raise InputError(
            "the model hears whole recordings, so it can't stream; export it (scripts/export.py) and serve the .onnx "
            f"file: each utterance is then recognised again every {INTERVAL:g} s, and its words may change till its end"
        )
    if look_ahead is None:
        return recognizer.look_ahead[0]
    if look_ahead not in recognizer.look_ahead:
        has = ", ".join(f"{seconds:g}" for seconds in recognizer.look_ahead)
        raise InputError(f"look-ahead {look_ahead:g} s: the model was trained for {has}")
    return look_ahead


class StreamingModel:
    """A cache-aware model, ready to stream. Several streams may share one.

    Attributes:
        path: of the model's file.
        sample_rate: of the input, in Hz.
        seconds_per_frame: the time from one output frame to the next.
        look_ahead: the seconds of audio after a frame that it is computed from.
        chunk: seconds of audio that are computed at once; words appear at its end.
        decoder: "ctc", "rnnt" or "tdt".

    Args:
        model: from `models.loading.load_model`; its look-ahead is set.
        look_ahead: one of those that the model was trained for (`models.recognizer.describe`), in seconds; by default
            the first.
        decoder: of a model that has several; by default a hybrid's transducer.
        path: of the model's file.

    Raises:
        InputError: the model doesn't stream, was trained for other look-aheads, or lacks the decoder.
    """

    def __init__(
        self, model: "ASRModel", look_ahead: float | None = None, decoder: str = "", path: str | os.PathLike = ""
    ):
        recognizer = describe(model)
        self.look_ahead = check_streams(recognizer, look_ahead)
        self.decoder = decoding.check_decoder(model, decoder)
        featurizer, encoder = model.preprocessor.featurizer, model.encoder
        if getattr(encoder, "att_context_style", "") != "chunked_limited" or getattr(featurizer, "exact_pad", False):
            raise InputError("streaming takes encoders with att_context_style chunked_limited, and no exact_pad")
        if featurizer.normalize in ("per_feature", "all_features"):
            raise InputError(
                f"the model's features are normalised over the whole recording (normalize: {featurizer.normalize}), so "
                "it can't stream"
            )
        contexts = [context for context in encoder.att_context_size_all if context[1] >= 0]
        context = contexts[recognizer.look_ahead.index(self.look_ahead)]
        encoder.set_default_att_context_size(list(context))
        self.sample_rate, self.seconds_per_frame = recognizer.sample_rate, recognizer.seconds_per_frame
        self.chunk = (context[1] + 1) * self.seconds_per_frame
        self.model, self.labels, self.has_pieces = model, recognizer.vocabulary, recognizer.writes == "pieces"
        self.pieces = spelling.written(model.tokenizer.tokenizer) if self.has_pieces else self.labels
        self.transducer = None if self.decoder == "ctc" else _transducer(model, self.seconds_per_frame)
        self.path = Path(path)
        self._recognise = decoding.recogniser(model, decoder=self.decoder)
        self._lock = threading.Lock()  # NeMo keeps a part of its settings in the model

    def listener(self) -> "CacheListener":
        """Return what transcribes one audio stream."""
        return CacheListener(self)

    def recognise(self, batch: Sequence[np.ndarray], search: None = None) -> list[Transcript]:
        """Transcribe one batch of whole recordings, with the same look-ahead: mono float32 samples, (t,) each.

        `search` is for `runtime.Recognizer`, in whose place a server takes this model.
        """
        with self._lock:
            return self._recognise(batch)

    def spelled(self, columns: Sequence[int]) -> str:
        """Return the text of letters or pieces, by their columns in the outputs, as NeMo spells it."""
        decoder = decoding.ctc_decoding(self.model) if self.decoder == "ctc" else self.model.decoding
        return decoder.decode_tokens_to_str_with_strip_punctuation(list(columns)).strip()

    def features(self, samples: np.ndarray) -> "torch.Tensor":
        """Compute the features, (1, D, T), of samples (t,)."""
        import torch

        signal = torch.from_numpy(samples).to(self.model.device)[None]
        with self._lock, decoding.inference(self.model):
            return self.model.preprocessor(input_signal=signal, length=torch.tensor([signal.shape[1]]))[0]

    def step(
        self, chunk: "torch.Tensor", length: int, drop: int, caches: "tuple[torch.Tensor, ...]"
    ) -> "tuple[np.ndarray, tuple[torch.Tensor, ...]]":
        """Compute the outputs of a chunk of features, (1, D, T), of which the first `length` are valid.

        The first `drop` frames that the encoder's start makes of it are dropped, since they were computed before.

        Returns:
            log-probabilities (T, V), or what the joint network takes, (T, H); and the new caches.
        """
        import torch

        encoder = self.model.encoder
        with self._lock, decoding.inference(self.model):
            encoded, frames, *caches = encoder.cache_aware_stream_step(
                processed_signal=chunk,
                processed_signal_length=torch.tensor([length], device=chunk.device),
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=True,
                drop_extra_pre_encoded=drop,
            )
            encoded = encoded[:, :, : int(frames[0])]
            if self.decoder == "ctc":
                outputs = ctc_decoder(self.model)(encoder_output=encoded)
            else:
                outputs = self.model.joint.enc(encoded.transpose(1, 2))
        return outputs[0].float().cpu().numpy(), tuple(caches)


def _transducer(model: "ASRModel", seconds: float) -> Transducer:
    """Return the search of a model's transducer, with its own networks."""
    import torch

    from asr_with_nemo.deployment.onnx_network import transducer_networks

    prediction, joint = transducer_networks(model)

    def call(network: torch.nn.Module, *inputs: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [
                value.cpu().numpy() for value in network(*(torch.from_numpy(one).to(model.device) for one in inputs))
            ]

    return Transducer(
        lambda labels, states: call(prediction, labels, states),
        lambda encoded, predicted: call(joint, encoded, predicted)[:-1],  # a stream takes no boosts
        prediction.size,
        blank=len(model.joint.vocabulary),
        durations=durations(model),
        most_symbols=min(most_symbols(model) or MOST_SYMBOLS, MOST_SYMBOLS),
        seconds=seconds,
    )


class _Features:
    """The features of a stream, computed as it arrives: each frame once the audio that it needs is there."""

    def __init__(self, model: StreamingModel):
        featurizer = model.model.preprocessor.featurizer
        self._model, self._hop, self._reach = model, featurizer.hop_length, featurizer.n_fft // 2
        self._before = -(-self._reach // self._hop) + 1  # frames whose audio a new frame needs
        self._sound = np.zeros(0, np.float32)
        self._start = self._done = 0  # the frame at which `_sound` begins, and the frames so far
        self.samples = 0  # so far

    def feed(self, samples: np.ndarray, is_last: bool = False) -> "torch.Tensor | None":
        """Take more audio, (t,), and return the new frames, (1, D, T), if there are any."""
        self._sound, self.samples = np.concatenate([self._sound, samples]), self.samples + len(samples)
        complete = len(self._sound) // self._hop
        if not is_last:
            complete = min(complete, (len(self._sound) - self._reach) // self._hop + 1)
        first, after = self._done - self._start, complete
        if after <= first:
            return None
        frames = self._model.features(self._sound)[:, :, first:after]
        self._done = self._start + after
        start = max(0, self._done - self._before)
        self._sound, self._start = self._sound[(start - self._start) * self._hop :], start
        return frames


class CacheListener:
    """Transcribes one audio stream with a cache-aware model; its texts only grow.

    Attributes:
        latency: seconds of audio that arrive between two texts.
        about: the way it works, in words.

    Args:
        streaming: several listeners may share one.
        pause: seconds without a letter or piece that end an utterance, beyond the model's chunk; after 20 s two
            frames, and after a minute it ends in any case.

    Raises:
        InputError: the pause isn't positive.
    """

    def __init__(self, streaming: StreamingModel, pause: float = 0.6):
        if not pause > 0:
            raise InputError(f"pause {pause}: expected positive seconds")
        self.streaming, self._pause, self.latency = streaming, pause, streaming.chunk
        self.about = (
            f"the model streams: each {streaming.chunk:g} s of audio are computed once, and words stay as they are; "
            f"its look-ahead is {streaming.look_ahead:g} s"
        )
        self._sizes = streaming.model.encoder.streaming_cfg
        self._features = _Features(streaming)
        self._buffer: torch.Tensor | None = None  # features that were not used yet, after those of the encoder's start
        self._kept = 0  # frames of the buffer that were used
        self._is_first = True
        self._outputs = 0  # frames of output so far
        self._begin_utterance()

    def _begin_utterance(self, after_pause: bool = True) -> None:
        """Forget what was written and, after a pause, what was heard: a model has learned from single utterances."""
        if after_pause:
            model = self.streaming.model
            self._caches = model.encoder.get_initial_cache_state(batch_size=1, device=model.device)
        self._first = self._outputs  # frame of output
        self._log_probs: list[np.ndarray] = []
        self._choices: list[Choice] = []
        self._memory: Memory | None = self.streaming.transducer.start(1) if self.streaming.transducer else None
        self._heard = Transcript("", [], 0.0)

    def feed(self, samples: np.ndarray) -> Iterator[Heard]:
        """Take more audio, and yield the partial texts that changed, and the final ones.

        Args:
            samples: mono float samples, (t,), at the model's rate, of any length.

        Raises:
            InputError: the samples have another shape or type, or aren't finite.
        """
        yield from self._take(self._features.feed(checked_samples(samples)))

    def finish(self) -> Iterator[Heard]:
        """Recognise the rest of the stream, which has ended."""
        yield from self._take(self._features.feed(np.zeros(0, np.float32), is_last=True), is_last=True)
        if self._heard.words:
            yield self._report(is_final=True)
            self._begin_utterance()

    def _take(self, frames: "torch.Tensor | None", is_last: bool = False) -> Iterator[Heard]:
        import torch

        if frames is not None:
            self._buffer = frames if self._buffer is None else torch.cat([self._buffer, frames], 2)
        while (chunk := self._next_chunk(is_last)) is not None:
            outputs, self._caches = self.streaming.step(*chunk, self._caches)
            self._is_first = False
            yield from self._hear(outputs)

    def _next_chunk(self, is_last: bool) -> "tuple[torch.Tensor, int, int] | None":
        """Return the next chunk of features, with those before it that the encoder's start needs, if it is complete.

        The last one may be shorter; it is padded to what makes a frame. The second value is its length without that,
        the third says how many frames of it the encoder's start has made before.
        """
        import torch

        if self._buffer is None:
            return None
        there, needed = self._buffer.shape[2] - self._kept, _of(self._sizes.chunk_size, self._is_first)
        fewest = _of(self.streaming.model.encoder.pre_encode.get_sampling_frames(), self._is_first)
        if there < (1 if is_last else needed):
            return None
        most = _of(self._sizes.pre_encode_cache_size, False)
        before, drop = most, self._sizes.drop_extra_pre_encoded
        if self._kept < most:  # The stream has just begun: all of it. Zeros before it would change the frames.
            before, drop = self._kept, self._outputs
        used = self._kept + min(there, needed)
        chunk = self._buffer[:, :, self._kept - before : used]
        keep = max(0, used - most)
        self._buffer, self._kept = self._buffer[:, :, keep:], used - keep
        return torch.nn.functional.pad(chunk, (0, max(0, fewest - there))), chunk.shape[2], drop

    def _hear(self, outputs: np.ndarray) -> Iterator[Heard]:
        """Decode the outputs of a chunk, (T, V) or (T, H)."""
        before, self._outputs = self._heard, self._outputs + len(outputs)
        if not len(outputs):
            return
        if self._memory is None:
            self._log_probs.append(outputs)
        else:
            first = self._outputs - len(outputs) - self._first
            (found,) = self.streaming.transducer.search(outputs[None], [len(outputs)], self._memory)
            self._choices += [choice._replace(frame=choice.frame + first) for choice in found]
        self._heard = self._transcript()
        if self._heard.text != before.text:
            yield self._report()
        frame = self.streaming.seconds_per_frame
        # What is long ends between two words, what is very long anywhere: the text of an utterance is made anew with
        # each chunk.
        enough = self._pause if self._seconds < WHOLE else 2 * frame if self._seconds < 3 * WHOLE else -math.inf
        quiet = self._seconds - self._heard.words[-1].end if self._heard.words else 0.0
        if self._heard.words and quiet >= enough:
            yield self._report(is_final=True)
            self._begin_utterance(after_pause=quiet >= self._pause)
        elif not self._heard.words and self._seconds > self._pause + 10 * frame:
            self._begin_utterance(after_pause=False)  # nothing but silence is kept; a word may just begin

    @property
    def _seconds(self) -> float:
        """Seconds of the current utterance so far; the last frame may go beyond the end of the audio."""
        frame, sound = self.streaming.seconds_per_frame, self._features.samples / self.streaming.sample_rate
        return max(0.0, min(self._outputs * frame, sound) - self._first * frame)

    def _transcript(self) -> Transcript:
        """Return what the current utterance says, with times from its start."""
        streaming = self.streaming
        if self._memory is None:
            log_probs = np.concatenate(self._log_probs)
            spell = streaming.model.tokenizer.text_to_ids if streaming.has_pieces else None
            output = Output(log_probs, streaming.pieces, streaming.seconds_per_frame, spell)
            return output.transcript(streaming.spelled(output.columns), self._seconds)
        columns = [choice.column for choice in self._choices]
        steps = (Step(streaming.pieces[column], *rest) for column, *rest in self._choices)
        text = streaming.spelled(columns)
        return transcripts.from_steps(steps, streaming.seconds_per_frame, text, self._seconds, streaming.has_pieces)

    def _report(self, is_final: bool = False) -> Heard:
        start = self._first * self.streaming.seconds_per_frame
        words = [
            replace(word, start=round(start + word.start, 3), end=round(start + word.end, 3))
            for word in self._heard.words
        ]
        # The last word may still get more letters; the others stay.
        stable = len(words) if is_final else max(0, len(words) - 1)
        return Heard(self._heard.text, words, stable, start, start + self._seconds, is_final)


def _of(setting: "int | list[int]", is_first: bool) -> int:
    """Return NeMo's setting for the first chunk or for the others; a number holds for all."""
    return setting[0 if is_first else 1] if isinstance(setting, list | tuple) else setting
