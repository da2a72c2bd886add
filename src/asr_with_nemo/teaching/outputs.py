"""What a CTC model's output says of its input: where the spikes lie in the sound; padding."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from nemo.collections.asr.models import EncDecCTCModel
from nemo.collections.asr.parts.submodules.jasper import MaskedConv1d

from asr_with_nemo.data import audio
from asr_with_nemo.data.manifest import Utterance
from asr_with_nemo.models.loading import alphabet, seconds_per_frame
from asr_with_nemo.recognition import decoding
from asr_with_nemo.recognition.transcripts import Letter, Output
from asr_with_nemo.teaching import drawings

_LETTER_SECONDS = (0.15, 0.8)
"""The sounds of spelled letters; a shorter or longer loud part is a click, or letters that run into one another."""


@dataclass(frozen=True)
class Spike:
    """A spelled letter in a model's output, and its sound: seconds from the start of the recording.

    Example:
        >>> Spike("g", seconds=0.4, start=0.3, end=0.7).place
        0.25
    """

    letter: str
    seconds: float
    start: float
    end: float

    @property
    def place(self) -> float:
        """Where in its sound the spike lies: 0 at the start, 1 at the end."""
        return round((self.seconds - self.start) / (self.end - self.start), 6)


def spelled_apart(utterances: Sequence[Utterance]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Select the utterances that spell letters with a pause after each, by their loudness.

    These are the ones in which the loud parts are as many as the letters, and each is as long as a letter's sound.

    Returns:
        of each: its text, its samples, (t,), and its loud parts, (N, 2) starts and ends in seconds.
    """
    found = []
    for utterance in utterances:
        letters = utterance["text"].split()
        if letters and all(len(letter) == 1 for letter in letters):
            samples = audio.load_audio(utterance["audio_filepath"])
            spans = drawings.loud_spans(samples, audio.SAMPLE_RATE)
            lengths = spans[:, 1] - spans[:, 0]
            shortest, longest = _LETTER_SECONDS
            if len(spans) == len(letters) and shortest <= lengths.min() and lengths.max() <= longest:
                found.append((utterance["text"], samples, spans))
    return found


def spikes(model: EncDecCTCModel, utterances: Sequence[Utterance]) -> list[Spike]:
    """Align the utterances of `spelled_apart` with a model's output, and return all their letters."""
    found = spelled_apart(utterances)
    outputs = decoding.log_probs(model, [samples for _, samples, _ in found], progress=False)
    return [
        Spike(letter.letter, (letter.start + letter.end) / 2, float(start), float(end))
        for (text, _, spans), log_probs in zip(found, outputs, strict=True)
        for letter, (start, end) in zip(_letters(model, log_probs, text), spans, strict=True)
    ]


def _letters(model: EncDecCTCModel, log_probs: np.ndarray, text: str) -> list[Letter]:
    aligned = Output(log_probs, alphabet(model), seconds_per_frame(model), None).align(text)
    return [letter for letter in aligned if letter.letter != " "]


@contextlib.contextmanager
def without_masks(model: EncDecCTCModel) -> Iterator[None]:
    """Switch off the masks that keep padding out of all convolutions of a model's encoder."""
    layers = [module for module in model.encoder.modules() if isinstance(module, MaskedConv1d)]
    kept = [layer.use_mask for layer in layers]
    for layer in layers:
        layer.use_mask = False
    try:
        yield
    finally:
        for layer, was in zip(layers, kept, strict=True):
            layer.use_mask = was
