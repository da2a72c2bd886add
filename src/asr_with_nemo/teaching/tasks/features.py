"""Checks of the tasks of 02_features."""

import librosa
import numpy as np

from asr_with_nemo.teaching.tasks import Wrong, number

_SEEN = 3.0
"""Decibels that two tones drop between them, if they are seen as two."""


def task_1(answer: object) -> str:
    """Check how many of the 64 mel bands have their centre above 4,000 Hz."""
    centres = librosa.mel_frequencies(n_mels=66, fmax=8000)[1:-1]  # without the two ends
    right = int((centres > 4000).sum())
    answer = number(answer, "The answer is a number of bands.")
    if answer == right:
        return (
            f"{right} of 64. A telephone takes away half of the frequencies, but well below half of the bands: most of "
            "them are where most of speech is."
        )
    if answer == 32:
        raise Wrong("32 would be right if the bands were equally wide in Hz. They are equally wide in mel.")
    if answer == 64 - right:
        raise Wrong("This many are below 4,000 Hz; those above are asked for.")
    if abs(answer - right) <= 2:
        raise Wrong(
            "Nearly. 64 triangles have 66 corners: each begins at one, peaks at the next and ends at the one after it. "
            "Count peaks only (`librosa.mel_frequencies(n_mels=66, fmax=8000)[1:-1]`)."
        )
    raise Wrong("Take the frequency at which each of the 64 triangles peaks, and count those above 4,000 Hz.")


def task_2(answer: object) -> str:
    """Check the shortest window, in ms, that shows the harmonics of a voice of 210 Hz apart."""
    answer = number(answer, "The answer is a number of milliseconds.")
    needed = 2000 / 210  # two bins of the window's own spectrum: nearly right
    if answer > 1000:
        raise Wrong("That is longer than a second; the answer is in milliseconds.")
    if 0.75 * 16 * needed <= answer <= 1.3 * 16 * needed:
        raise Wrong("That looks like a number of samples. At 16,000 Hz, 16 samples are a millisecond.")
    if answer < 1 or _valley(answer, 210) < _SEEN:
        raise Wrong("Too short: through this window the two tones are one hump. Did `valley` give less than 3 dB?")
    if _valley(answer - 0.5, 210) >= _SEEN:
        raise Wrong("This window shows them apart, but one that is half a millisecond shorter does as well.")
    return (
        "About two periods of the voice. So the 20 ms of the model's features show the harmonics of most women and "
        "children, and of a man with a low voice hardly."
    )


def _valley(milliseconds: float, apart: float) -> float:
    """How far two tones `apart` Hz from one another drop between them, in dB, as in 02_features."""
    hump = np.abs(np.fft.rfft(np.hanning(round(16 * milliseconds)), 65536)) ** 2
    top, side, middle = (hump[round(hertz * 65536 / 16000)] for hertz in (0, apart, apart / 2))
    return float(10 * np.log10((top + side) / (2 * middle)))
