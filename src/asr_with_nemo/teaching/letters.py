"""Spelled letters, cut out of recordings at the pauses, and what they sound like beside each other."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import librosa
import numpy as np
import soundfile

from asr_with_nemo.data.manifest import Utterance
from asr_with_nemo.teaching import drawings


class Spelling(NamedTuple):
    """A recording in which somebody spells, with a pause after each letter.

    Attributes:
        speaker: who spells; "" if the manifest doesn't say.
        letters: N of them.
        samples: mono, (t,), in [-1, 1].
        sample_rate: in Hz.
        spans: start and end of each letter in seconds, (N, 2).
    """

    speaker: str
    letters: list[str]
    samples: np.ndarray
    sample_rate: int
    spans: np.ndarray


def spellings(utterances: Iterable[Utterance]) -> Iterator[Spelling]:
    """Yield the utterances that consist of letters only, and of as many stretches of sound as letters.

    Letters that run into one another can't be told apart in this way; such utterances are left out.
    """
    for utterance in utterances:
        letters = utterance["text"].split()
        if not letters or any(len(letter) != 1 for letter in letters):
            continue
        samples, sample_rate = soundfile.read(utterance["audio_filepath"])
        spans = drawings.loud_spans(samples, sample_rate)
        if len(spans) == len(letters):
            yield Spelling(utterance.get("speaker", ""), letters, samples, sample_rate, spans)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far apart two pictures of sound are, whatever their lengths, by dynamic time warping.

    Frames are paired in order, so that the sum of the Euclidean distances of the pairs is as small as possible.

    Args:
        one: (D, T).
        other: (D, U).

    Returns:
        the mean distance of the pairs, 0 for the same picture.

    Example:
        >>> distance(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 1.0, 2.0, 3.0]]))
        0.0
    """
    costs, path = librosa.sequence.dtw(one, other)
    return float(costs[-1, -1] / len(path))


def twins(found: Iterable[Spelling], features: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int, float]:
    """Count how often the nearest letter of a recording is the same letter, for letters that it has twice or more.

    Args:
        found: recordings, cut into letters.
        features: turns samples, (t,), into a picture with a frame every 10 ms, (D, T).

    Returns:
        how many had the same letter nearest, of how many, and how many would be expected if distances said nothing.
    """
    right, asked, expected = 0, 0, 0.0
    for spelling in found:
        letters = spelling.letters
        if len(set(letters)) in (1, len(letters)):  # all alike, or none twice
            continue
        picture = features(spelling.samples)
        starts, ends = (np.clip((100 * spelling.spans.T).astype(int), 0, picture.shape[1] - 1)).tolist()
        pieces = [picture[:, start : max(start + 1, end)] for start, end in zip(starts, ends, strict=True)]
        for here, letter in enumerate(letters):
            others = [place for place in range(len(letters)) if place != here]
            if letters.count(letter) == 1:
                continue
            nearest = min(others, key=lambda place: distance(pieces[here], pieces[place]))
            right += letters[nearest] == letter
            asked += 1
            expected += (letters.count(letter) - 1) / len(others)
    return right, asked, expected
