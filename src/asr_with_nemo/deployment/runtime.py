"""Speech recognition without NeMo and torch: onnxruntime, NumPy, and an ONNX file that scripts/export.py wrote.

    recognizer = Recognizer("an4")
    for transcript in recognizer.transcribe(["recording.wav", samples]):
        print(transcript.text)

Everything that the file needs is inside it: the mel features, the network, its letters or pieces of words, its sample
rate, and a transducer's prediction and joint networks.
"""

import base64
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.deployment.transducer import MOST_SYMBOLS, BoostedGreedy, Transducer, of_sessions
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import model_path
from asr_with_nemo.models.recognizer import FRAMEWISE
from asr_with_nemo.recognition import spelling, transcripts
from asr_with_nemo.recognition.transcripts import Output, Sound, Step, Transcript

if TYPE_CHECKING:
    from asr_with_nemo.recognition import beam
    from asr_with_nemo.recognition.boosting import Phrases

    Search = beam.Search | BoostedGreedy

LETTERS, FORMAT = "1", "2"
"""Versions of a file's metadata: of models that write letters by CTC, and of all others. Other versions are refused."""
_RATES = range(1_000, 200_001)
"""Sample rates that a model may have, in Hz."""
_MOST_DURATION = 1_000
"""The longest duration, in frames, that a TDT model may choose."""
_BATCH_SIZE = 2
"""Segments per batch. Larger batches don't fit into a core's cache, and have more padding."""


class Recognizer:
    """A model in an ONNX file, ready to recognise. It may be used from several threads at once.

    Attributes:
        labels: the letters or pieces that the model writes, in the order of its outputs; the blank is the output after
            the last.
        spelling: how the pieces are written; None for letters.
        decoder: "ctc", "rnnt" or "tdt" (`models.recognizer`); a file has one.
        sample_rate: of the input, in Hz.
        seconds_per_frame: the time from one output frame to the next.
        transducer: the prediction and joint networks; None by CTC.
        threads: batches that are computed at the same time.
        facts: the file's metadata, unparsed.

    Args:
        model: a file that scripts/export.py wrote, or the name of a model that ships.
        threads: batches that are computed at the same time; by default as many as there are usable cores.

    Raises:
        InputError: the file doesn't exist, or scripts/export.py didn't write it.
    """

    def __init__(self, model: str | os.PathLike = "an4", threads: int | None = None):
        self.path = model_path(model, suffix=".onnx")
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file; expected a model that scripts/export.py wrote (.onnx)")
        if self.path.suffix in (".nemo", ".ckpt"):
            raise InputError(
                f"{self.path}: a NeMo model, which the runtime can't read; export it first: "
                f"python scripts/export.py {self.path} {self.path.with_suffix('.onnx').name}"
            )
        # Batches in parallel use the cores better than several threads in each operation.
        self.threads = threads or usable_cores()
        try:
            self._session = _session(self.path)
            self.facts: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
            if self.facts.get("format") not in (LETTERS, FORMAT):
                raise ValueError(
                    f"its format is {self.facts.get('format')}, where this version reads {LETTERS} and {FORMAT}"
                )
            self._read()
        except Exception as error:  # onnxruntime's exceptions aren't documented
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
            reason = f"its metadata lack {reason}" if isinstance(error, KeyError) else reason
            raise InputError(
                f"{self.path}: can't be used as a model ({reason}); make it again with scripts/export.py"
            ) from error

    def _read(self) -> None:
        """Read the metadata, which are checked against the graphs.

        Raises:
            Exception: they are of another form.
        """
        facts = self.facts
        self.labels: list[str] = json.loads(facts["labels"])
        self.sample_rate = int(facts["sample_rate"])
        self.seconds_per_frame = float(facts["seconds_per_frame"])
        self.decoder = facts.get("decoder", "ctc")
        self.spelling = spelling.parsed(facts["pieces"]) if "pieces" in facts else None
        if not isinstance(self.labels, list) or not all(isinstance(label, str) for label in self.labels):
            raise ValueError("its labels aren't a list of texts")
        if self.sample_rate not in _RATES or not 0.001 <= self.seconds_per_frame < 60:
            raise ValueError(
                f"its sample rate is {self.sample_rate} and its frame length {self.seconds_per_frame}, where "
                f"{_RATES[0]:,} to {_RATES[-1]:,} Hz and 0.001 to 60 seconds were expected"
            )
        if not isinstance(self.card, dict):
            raise ValueError("its card isn't an object")
        if self.decoder not in FRAMEWISE:
            raise ValueError(f"its decoder is {self.decoder}, where this version has {', '.join(FRAMEWISE)}")
        if self.spelling and len(self.spelling.pieces) != len(self.labels):
            raise ValueError("its pieces don't fit its labels")
        self.transducer, width = (None, len(self.labels) + 1) if self.decoder == "ctc" else self._read_transducer()
        given = self._session.get_outputs()[0].shape
        if len(given) != 3 or (isinstance(given[2], int) and given[2] != width):
            raise ValueError(f"its network has outputs of shape {given}, where its labels need (B, T, {width})")

    def _read_transducer(self) -> tuple[Transducer, int]:
        facts = self.facts
        durations = json.loads(facts["durations"]) if self.decoder == "tdt" else []
        if self.decoder == "tdt" and not (
            isinstance(durations, list)
            and durations
            and all(type(one) is int and 0 <= one <= _MOST_DURATION for one in durations)
        ):
            raise ValueError("its durations aren't a list of numbers of frames")
        most_symbols = int(facts["most_symbols"])
        if not 0 < most_symbols <= MOST_SYMBOLS:
            raise ValueError(f"it may write {most_symbols} letters or pieces in a frame; expected 1 to {MOST_SYMBOLS}")
        networks = [_session(base64.b64decode(facts[name], validate=True)) for name in ("prediction", "joint")]
        return of_sessions(
            *networks,
            blank=len(self.labels),
            durations=durations,
            most_symbols=most_symbols,
            seconds=self.seconds_per_frame,
        )

    @cached_property
    def card(self) -> dict:
        """The model's card: network, source file, training, and the check that its export passed."""
        return json.loads(self.facts["card"])

    def log_probs(self, sounds: Sequence[Sound], batch_size: int = _BATCH_SIZE) -> list[np.ndarray]:
        """Compute the log-probabilities of each recording, in the order given. Long files are not cut.

        Returns:
            log-probabilities, (T, V) float32 each: one row per `seconds_per_frame`, one column per label, and the
            blank last.

        Raises:
            InputError: a file can't be read, an array isn't mono float samples, or the model has no CTC decoder.
        """
        samples = transcripts.read(sounds, self.sample_rate)
        results: list[np.ndarray] = [np.empty(0)] * len(samples)
        batches = transcripts.batches([len(one) for one in samples], batch_size)
        with ThreadPoolExecutor(self.threads) as pool:
            outputs = pool.map(lambda batch: self.run([samples[index] for index in batch]), batches)
            for batch, rows in zip(batches, outputs, strict=True):
                for index, row in zip(batch, rows, strict=True):
                    results[index] = row
        return results

    def transcribe(
        self,
        sounds: Sequence[Sound],
        batch_size: int = _BATCH_SIZE,
        progress: bool = False,
        search: "Search | None" = None,
    ) -> list[Transcript]:
        """Transcribe recordings of any length, in the order given, cut at pauses (`data.pauses`).

        Args:
            sounds: files of any rate, or mono float samples (T,) at the model's rate.
            batch_size: segments per batch.
            progress: show a progress bar.
            search: with a language model or boosted phrases (`load_search`); by default decoding is greedy.

        Raises:
            InputError: a file can't be read, an array isn't mono float samples, or the search is for another decoder.
        """
        return transcripts.all_of(self.transcribe_each(sounds, batch_size, progress, search))

    def transcribe_each(
        self,
        sounds: Sequence[Sound],
        batch_size: int = _BATCH_SIZE,
        progress: bool = False,
        search: "Search | None" = None,
    ) -> Iterator[Transcript | InputError]:
        """As `transcribe`, but yields each result when it is ready, and an error for a recording that can't be read."""
        self.check_decoder(search=search)
        return transcripts.transcribe_each(
            sounds, self.sample_rate, lambda batch: self.recognise(batch, search), batch_size, progress, self.threads
        )

    def recognise(self, batch: Sequence[np.ndarray], search: "Search | None" = None) -> list[Transcript]:
        """Transcribe one batch of recordings: mono float32 samples, (t,) each, at the model's rate; they aren't cut."""
        return transcripts.recognise_audible(
            batch, self.sample_rate, lambda audible: self._recognise_audible(audible, search)
        )

    def load_search(
        self,
        arpa: str | os.PathLike | None = None,
        boosts: "Phrases | None" = None,
        alpha: float | None = None,
        beta: float | None = None,
        width: int | None = None,
    ) -> "Search | None":
        """Load the search for a language model, for boosted phrases, or for both; None for neither.

        By CTC, it is one of `beam.load`, which has the same arguments. A transducer's stays greedy (`BoostedGreedy`).

        Raises:
            InputError: the file or a weight isn't for this model, or the model can't write what is boosted.
        """
        if not (arpa or boosts):
            return None
        if self.transducer:
            self.check_decoder(search=arpa)
            return self._boosted(boosts, {"alpha": alpha, "beta": beta, "width": width})
        from asr_with_nemo.recognition import beam

        return beam.load(arpa, self.labels, alpha, beta, width, boosts, self.spelling)

    def _boosted(self, boosts: "Phrases", weights: dict[str, float | None]) -> BoostedGreedy:
        if given := [name for name, value in weights.items() if value is not None]:
            raise InputError(f"--{given[0]} is for a beam search; an exported transducer's is greedy: leave it out")
        if not self.transducer.score:
            raise InputError(
                f"{self.path}: was exported without the scores that boosts are added to; make it again with "
                "scripts/export.py"
            )
        return BoostedGreedy(self.labels, self.spelling, boosts)

    def check_decoder(self, decoder: str = "", search: object = None) -> None:
        """Make sure that the file decodes as asked.

        Args:
            decoder: the name of the decoder; by default the file's.
            search: one of `load_search`; or the file of a language model, if one is to be used.

        Raises:
            InputError: it has another decoder, or the search isn't for it.
        """
        if decoder and decoder != self.decoder:
            raise InputError(
                f"{self.path}: decodes with {self.decoder}, the one decoder of this export; leave out --decoder "
                f"{decoder}, or export the .nemo file again with it, if its model has it"
            )
        if not search or bool(self.transducer) == isinstance(search, BoostedGreedy):
            return
        if not self.transducer:
            raise InputError(f"{self.path}: this search is not for the decoder ctc: make it with load_search")
        raise InputError(
            f"{self.path}: a language model can't be used with the decoder {self.decoder} of an export, whose search "
            "is greedy and has one text to score, only with ctc: take the .nemo file, or, of a hybrid, export the "
            "other decoder: scripts/export.py --decoder ctc"
        )

    def decoder_of(self, search: "Search | None" = None) -> str:
        """Name the decoder as `decoding.decoder_of` does: the search's own name or "greedy", and "tdt" or "rnnt"."""
        name = str(search) if search else "greedy"
        return name if self.decoder == "ctc" else f"{name}, {self.decoder}"

    def _recognise_audible(self, batch: Sequence[np.ndarray], search: "Search | None") -> list[Transcript]:
        if self.transducer:
            return self._transduce(batch, search)
        outputs = [self.output(row) for row in self.run(batch)]
        if search:
            texts = search.texts([output.log_probs for output in outputs])
        else:
            texts = [self._tidy(output.greedy) for output in outputs]
        return [
            output.transcript(text, len(samples) / self.sample_rate)
            for output, text, samples in zip(outputs, texts, batch, strict=True)
        ]

    def _transduce(self, batch: Sequence[np.ndarray], boosted: BoostedGreedy | None) -> list[Transcript]:
        pieces = self.spelling.pieces if self.spelling else self.labels
        found = []
        written = self.transducer.search(*self.encode(batch), boosted=boosted)
        for choices, samples in zip(written, batch, strict=True):
            text = self.spelled([choice.column for choice in choices])
            steps = (Step(pieces[column], *rest) for column, *rest in choices)
            duration = len(samples) / self.sample_rate
            found.append(transcripts.from_steps(steps, self.seconds_per_frame, text, duration, bool(self.spelling)))
        return found

    def spelled(self, columns: Sequence[int]) -> str:
        """Return the text of letters or pieces, by their columns in the outputs, without space around it."""
        return self.spelling.text(columns) if self.spelling else "".join(self.labels[one] for one in columns).strip()

    def greedy(self, log_probs: np.ndarray) -> str:
        """Return the greedy text of log-probabilities, (T, V), of this model."""
        return self._tidy(self.output(log_probs).greedy)

    def _tidy(self, text: str) -> str:
        return self.spelling.tidy(text) if self.spelling else text

    def output(self, log_probs: np.ndarray) -> Output:
        """Wrap log-probabilities, (T, V), of this model, from which words and alignments are made."""
        if self.spelling:
            return Output(log_probs, self.spelling.pieces, self.seconds_per_frame, self.spelling.columns)
        return Output(log_probs, self.labels, self.seconds_per_frame)

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the log-probabilities, (T, V) each, of one batch of recordings: mono float32 samples, (t,) each.

        Raises:
            InputError: the model has no CTC decoder.
        """
        if self.transducer:
            raise InputError(
                f"{self.path}: decodes with {self.decoder}, which gives no log-probabilities of its frames"
            )
        return [row[:count].copy() for row, count in zip(*self.encode(batch), strict=True)]

    def encode(self, batch: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """Run the network on one batch of recordings: mono float32 samples, (t,) each.

        Returns:
            its outputs, and the number of frames of each recording: log-probabilities (B, T, V), or what a transducer's
            joint network takes, (B, T, H).
        """
        lengths = np.array([len(samples) for samples in batch])
        padded = np.zeros((len(batch), lengths.max()), np.float32)  # (B, t)
        for row, samples in zip(padded, batch, strict=True):
            row[: len(samples)] = samples
        outputs, frames = self._session.run(None, {"sound": padded, "lengths": lengths})
        return outputs, frames.tolist()


def _session(graph: str | os.PathLike | bytes) -> onnxruntime.InferenceSession:
    """Load a graph that computes in the calling thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads don't use a core
    options.enable_mem_pattern = False  # it plans memory for a single input shape
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
