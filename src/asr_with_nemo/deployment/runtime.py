"""Speech recognition without NeMo and torch: an ONNX file as scripts/export.py writes it, onnxruntime and NumPy.

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
"""Of the metadata in a file; another one means that this runtime can't know what the file's inputs mean."""
BATCH_SIZE = 2
"""Pieces of sound at a time. More of them no longer fit into a core's cache, and have more padding."""


class Recognizer:
    """A model in an ONNX file, ready to recognise. It may be used from several threads at once.

    Attributes:
        labels: the letters that it can spell, in the order of its outputs; CTC's blank is the output after the last.
        sample_rate: of the sound that it takes, in Hz.
        seconds_per_frame: between two outputs.
        threads: batches that are computed at a time.
        facts: the file's metadata, as they stand there.

    Args:
        model: a file that scripts/export.py wrote, or the name of a model that ships.
        threads: batches that are computed at a time; by default as many as `cores` says.

    Raises:
        InputError: the file isn't there, or isn't of such a kind.
    """

    def __init__(self, model: str | os.PathLike = "an4", threads: int | None = None):
        self.path = model_path(model, suffix=".onnx")
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file; expected a model that scripts/export.py wrote (.onnx)")
        if self.path.suffix in (".nemo", ".ckpt"):
            raise InputError(
                f"{self.path}: a model of NeMo's, which this doesn't read; first: python scripts/export.py {self.path} "
                f"{self.path.with_suffix('.onnx').name}"
            )
        options = onnxruntime.SessionOptions()
        # Batches beside each other use the cores better than several threads for each operation.
        self.threads, options.intra_op_num_threads = threads or usable_cores(), 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # no idle thread burns a core
        options.enable_mem_pattern = False  # plans memory for one shape, and each recording has its own
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
            self.facts: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
            if self.facts.get("format") != FORMAT:
                raise ValueError(f"its format is {self.facts.get('format')}, where this version reads {FORMAT}")
            self.labels: list[str] = json.loads(self.facts["labels"])
            self.sample_rate = int(self.facts["sample_rate"])
            self.seconds_per_frame = float(self.facts["seconds_per_frame"])
        except Exception as error:  # onnxruntime has many of its own, and none of them is documented
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.path}: can't be used as a model ({reason}); make it again with scripts/export.py"
            ) from error

    @cached_property
    def card(self) -> dict:
        """What the model is, how it was made, and the check that its export passed."""
        return json.loads(self.facts["card"])

    def log_probs(self, sounds: Sequence[Sound], batch_size: int = BATCH_SIZE) -> list[np.ndarray]:
        """The model's output over time for each recording, in the order given. Long files are not cut.

        Returns:
            log-probabilities, (T, V) float32 each: a row every `seconds_per_frame`, a column a letter, the last the
            blank.

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
        batch_size: int = BATCH_SIZE,
        progress: bool = False,
        search: "Search | None" = None,
    ) -> list[Transcript]:
        """Transcribe recordings of any length, in the order given; those of more than 20 s are cut at pauses.

        Args:
            sounds: files of any rate, or mono float samples (T,) at the model's rate.
            batch_size: pieces of sound at a time.
            progress: show a progress bar.
            search: a beam search with a language model, `beam.load(arpa, recognizer.labels)`; by default greedy.

        Raises:
            InputError: a file can't be read, or an array isn't mono float samples.
        """
        return transcripts.all_of(self.transcribe_each(sounds, batch_size, progress, search))

    def transcribe_each(
        self,
        sounds: Sequence[Sound],
        batch_size: int = BATCH_SIZE,
        progress: bool = False,
        search: "Search | None" = None,
    ) -> Iterator[Transcript | InputError]:
        """As `transcribe`, but one result after the other, and a recording that can't be read yields its error."""
        return transcripts.transcribe_each(
            sounds, self.sample_rate, lambda batch: self.recognise(batch, search), batch_size, progress, self.threads
        )

    def recognise(self, batch: Sequence[np.ndarray], search: "Search | None" = None) -> list[Transcript]:
        """Transcribe a batch of recordings at once: mono float32 samples (t,) each, at the model's rate, not cut."""
        outputs = [self.output(row) for row in self.run(batch)]
        texts = search.texts([output.log_probs for output in outputs]) if search else [o.greedy for o in outputs]
        return [
            output.transcript(text, len(samples) / self.sample_rate)
            for output, text, samples in zip(outputs, texts, batch, strict=True)
        ]

    def output(self, log_probs: np.ndarray) -> Output:
        """Log-probs (T, V) of this model, as what words and alignments are made of."""
        return Output(log_probs, self.labels, self.seconds_per_frame)

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probs, (T, V) each, of a batch of recordings at once: mono float32 samples (t,) each."""
        lengths = np.array([len(samples) for samples in batch])
        padded = np.zeros((len(batch), lengths.max()), np.float32)  # (B, t)
        for row, samples in zip(padded, batch, strict=True):
            row[: len(samples)] = samples
        log_probs, frames = self._session.run(None, {"sound": padded, "lengths": lengths})
        return [row[:count].copy() for row, count in zip(log_probs, frames.tolist(), strict=True)]
