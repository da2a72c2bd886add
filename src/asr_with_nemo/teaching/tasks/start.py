"""Checks of the tasks of 00_start."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from asr_with_nemo.data.manifest import Utterance
from asr_with_nemo.teaching.tasks import Wrong, number

LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Standard deviations of the noise that task 2 adds."""


class _Recognizer(Protocol):
    """What the tasks need of `deployment.runtime.Recognizer`."""

    def transcribe(self, sounds: Sequence[np.ndarray | str | Path]) -> Sequence: ...


def task_1(answer: object, recognizer: _Recognizer, utterances: Sequence[Utterance]) -> str:
    """Check the number of utterances that the recogniser writes exactly as they were said."""
    heard = recognizer.transcribe([row["audio_filepath"] for row in utterances])
    right = sum(one.text == row["text"] for one, row in zip(heard, utterances, strict=True))
    answer = number(answer, "The answer is a number: how many of the recordings.")
    if answer == right:
        return f"{right} of {len(utterances)}. Notebook 04 counts finer: not whole recordings, but words."
    if answer == len(utterances) - right:
        raise Wrong("That is how many it got wrong; count those that it got right.")
    raise Wrong("Count the pairs in which `said` and `heard` are the same text. Is it this very list of recordings?")


def task_2(answer: object, recognizer: _Recognizer, samples: np.ndarray) -> str:
    """Check the least level of noise that changes the text."""
    texts = recognizer.transcribe([samples, *(with_noise(samples, level) for level in LEVELS)])
    right = next((level for level, one in zip(LEVELS, texts[1:], strict=True) if one.text != texts[0].text), None)
    if answer not in LEVELS:
        raise Wrong(f"The answer is one of {', '.join(map(str, LEVELS))}.")
    if answer == right:
        loudness = float(np.sqrt(np.mean(np.square(samples))))
        return f"The recording's own level, with its pauses, is {loudness:.3f}. Could you still understand it?"
    if right is not None and answer > right:
        raise Wrong("The text changes with less noise than that already.")
    raise Wrong("With this noise the text is still the same. Was the noise drawn with `with_noise`?")


def with_noise(samples: np.ndarray, level: float) -> np.ndarray:
    """Add white noise of a standard deviation to mono samples, (t,); the same noise each time."""
    return (samples + np.random.default_rng(0).normal(0, level, len(samples))).astype(np.float32)
