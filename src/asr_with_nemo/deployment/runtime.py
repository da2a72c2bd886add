"""Speech recognition without NeMo and torch: onnxruntime, NumPy, and an ONNX file that scripts/export.py wrote.

    recognizer = Recognizer("an4")
    for transcript in recognizer.transcribe(["recording.wav", samples]):
        print(transcript.text)

Everything that the file needs is inside it: the mel features, the network, its letters and its sample rate.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import model_path
from asr_with_nemo.recognition import transcripts
from asr_with_nemo.recognition.transcripts import Output, Sound, Transcript

if TYPE_CHECKING:
    from asr_with_nemo.recognition.beam import Search

FORMAT = "1"
"""The version of a file's metadata; a file with another version is refused."""
_BATCH_SIZE = 2
"""Segments per batch. Larger batches don't fit into a core's cache, and have more padding."""


class Recognizer:
    """A model in an ONNX file, ready to recognise. It may be used from several threads at once.

    Attributes:
        labels: the model's alphabet, in the order of its outputs; CTC's blank is the output after the last.
        sample_rate: of the input, in Hz.
        seconds_per_frame: the time from one output frame to the next.
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
        options = onnxruntime.SessionOptions()
        # Batches in parallel use the cores better than several threads in each operation.
        self.threads, options.intra_op_num_threads = threads or usable_cores(), 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads don't use a core
        options.enable_mem_pattern = False  # it plans memory for a single input shape
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
            self.facts: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
            if self.facts.get("format") != FORMAT:
                raise ValueError(f"its format is {self.facts.get('format')}, where this version reads {FORMAT}")
            self.labels: list[str] = json.loads(self.facts["labels"])
            self.sample_rate = int(self.facts["sample_rate"])
            self.seconds_per_frame = float(self.facts["seconds_per_frame"])
        except Exception as error:  # onnxruntime's exceptions aren't documented
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.path}: can't be used as a model ({reason}); make it again with scripts/export.py"
            ) from error

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
            InputError: a file can't be read, or an array isn't mono float samples.
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
            search: beam search with a language model, `beam.load(arpa, recognizer.labels)`; by default decoding is
                greedy.

        Raises:
            InputError: a file can't be read, or an array isn't mono float samples.
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
        return transcripts.transcribe_each(
            sounds, self.sample_rate, lambda batch: self.recognise(batch, search), batch_size, progress, self.threads
        )

    def recognise(self, batch: Sequence[np.ndarray], search: "Search | None" = None) -> list[Transcript]:
        """Transcribe one batch of recordings: mono float32 samples, (t,) each, at the model's rate; they aren't cut."""
        return transcripts.recognise_audible(
            batch, self.sample_rate, lambda audible: self._recognise_audible(audible, search)
        )

    def _recognise_audible(self, batch: Sequence[np.ndarray], search: "Search | None") -> list[Transcript]:
        outputs = [self.output(row) for row in self.run(batch)]
        texts = search.texts([output.log_probs for output in outputs]) if search else [o.greedy for o in outputs]
        return [
            output.transcript(text, len(samples) / self.sample_rate)
            for output, text, samples in zip(outputs, texts, batch, strict=True)
        ]

    def output(self, log_probs: np.ndarray) -> Output:
        """Wrap log-probabilities, (T, V), of this model, from which words and alignments are made."""
        return Output(log_probs, self.labels, self.seconds_per_frame)

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the log-probabilities, (T, V) each, of one batch of recordings: mono float32 samples, (t,) each."""
        lengths = np.array([len(samples) for samples in batch])
        padded = np.zeros((len(batch), lengths.max()), np.float32)  # (B, t)
        for row, samples in zip(padded, batch, strict=True):
            row[: len(samples)] = samples
        log_probs, frames = self._session.run(None, {"sound": padded, "lengths": lengths})
        return [row[:count].copy() for row, count in zip(log_probs, frames.tolist(), strict=True)]
