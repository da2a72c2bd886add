"""What the interactive piece "resolution" shows: windows of several lengths, and numbers of mel bands."""

import base64
import io
import itertools
from collections.abc import Sequence

import librosa
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from matplotlib.figure import Figure

WINDOWS = (5, 10, 20, 40, 100)
"""Lengths of the window, in milliseconds."""
BANDS = (8, 16, 32, 64, 128)
"""Numbers of mel bands."""
_TOP_HZ, _ROWS, _COLUMNS, _SECONDS = 3600, 108, 160, 0.4  # of the pictures of a letter
_FLOOR_DB = -60
_N_FFT, _HOP, _WINDOW = 1024, 160, 320  # of the mel spectrograms, in samples


def through_window(
    samples: np.ndarray, sample_rate: int, milliseconds: float, start: float, seconds: float = _SECONDS
) -> np.ndarray:
    """Return a spectrogram of a part of the samples, seen through a Hann window of that length.

    Args:
        samples: mono, (t,).
        sample_rate: in Hz.
        milliseconds: length of the window.
        start: where the part begins, in seconds.
        seconds: how long it is.

    Returns:
        dB below the loudest, from -60 to 0, (108, 160): row 0 is 0 Hz, the last row 3,600 Hz.
    """
    hop = max(1, round(seconds * sample_rate / _COLUMNS))
    window = round(milliseconds / 1000 * sample_rate)
    part = samples[int(start * sample_rate) : int(start * sample_rate) + hop * _COLUMNS]
    part = np.pad(part, (0, hop * _COLUMNS - len(part)))
    strength = np.abs(librosa.stft(part, n_fft=2048, hop_length=hop, win_length=window))[:, :_COLUMNS]
    edges = np.linspace(0, _TOP_HZ * 2048 / sample_rate, _ROWS + 1).astype(int)
    rows = [strength[low : max(low + 1, high)].max(axis=0) for low, high in itertools.pairwise(edges)]
    return librosa.amplitude_to_db(np.array(rows), ref=np.max, top_db=-_FLOOR_DB)


def mel_strength(samples: np.ndarray, sample_rate: int, bands: int) -> np.ndarray:
    """Return the power of a recording in mel bands every 10 ms, (bands, T)."""
    return librosa.feature.melspectrogram(
        y=samples, sr=sample_rate, n_fft=_N_FFT, hop_length=_HOP, win_length=_WINDOW, n_mels=bands
    )


def resynthesised(samples: np.ndarray, sample_rate: int, bands: int) -> np.ndarray:
    """Return a sound that has the same mel spectrogram, (t,): what so many bands have kept of the recording.

    The spectrum is estimated from the bands, and a phase that fits it by Griffin and Lim's method.
    """
    mel = mel_strength(samples, sample_rate, bands)
    spectrum = librosa.feature.inverse.mel_to_stft(mel, sr=sample_rate, n_fft=_N_FFT)
    sound = librosa.griffinlim(
        spectrum, hop_length=_HOP, win_length=_WINDOW, n_fft=_N_FFT, random_state=0, length=len(samples)
    )
    return sound / max(1e-6, np.abs(sound).max()) * np.abs(samples).max()


def data(
    samples: np.ndarray, sample_rate: int, spans: np.ndarray, names: Sequence[str], with_sound: bool = True
) -> dict[str, object]:
    """Return what teaching/pieces/resolution.js shows of a recording.

    Args:
        samples: mono, (t,), in [-1, 1].
        sample_rate: in Hz.
        spans: start and end of each letter in seconds, (N, 2); the first is looked at through the windows.
        names: the letters; marked if there are N.
        with_sound: put in the sounds resynthesised from the bands.
    """
    start = max(0.0, float(spans[0][0]) - 0.03)
    duration = len(samples) / sample_rate
    windows = {
        str(milliseconds): _packed(through_window(samples, sample_rate, milliseconds, start))
        for milliseconds in WINDOWS
    }
    bands, sounds = {}, {}
    for count in BANDS:
        mel = librosa.power_to_db(mel_strength(samples, sample_rate, count), ref=np.max, top_db=-_FLOOR_DB)
        bands[str(count)] = _packed(mel[:, ::2])
        sounds[str(count)] = _as_uri(resynthesised(samples, sample_rate, count), sample_rate) if with_sound else ""
    marks = [
        [round(float(begin) / duration, 3), round(float(end) / duration, 3), name.upper()]
        for (begin, end), name in zip(spans, names, strict=len(spans) == len(names))
    ]
    return {
        "windows": windows,
        "top": _TOP_HZ,
        "seconds": _SECONDS,
        "letter": names[0].upper() if len(spans) == len(names) else "the first sound",
        "bands": bands,
        "sounds": sounds,
        "original": _as_uri(samples, sample_rate) if with_sound else "",
        "duration": round(duration, 2),
        "marks": marks if len(spans) == len(names) else [],
    }


def still(samples: np.ndarray, sample_rate: int, spans: np.ndarray) -> Figure:
    """Draw the first letter through the shortest, the course's and the longest window, and 8, 32 and 128 mel bands."""
    figure, panels = plt.subplots(2, 3, figsize=(7.5, 3.4), sharey="row", layout="constrained")
    style = {"origin": "lower", "aspect": "auto", "vmin": _FLOOR_DB, "interpolation": "none"}
    style["cmap"] = plt.get_cmap("magma", 16)  # few colours make a small file
    start = max(0.0, float(spans[0][0]) - 0.03)
    for axes, milliseconds in zip(panels[0], (WINDOWS[0], 20, WINDOWS[-1]), strict=True):
        picture = through_window(samples, sample_rate, milliseconds, start)
        extent = (0, _SECONDS, 0, _TOP_HZ)
        axes.imshow(picture, extent=extent, **style)
        axes.set(title=f"window of {milliseconds} ms", xlabel="seconds")
    panels[0][0].set_ylabel("Hz")
    for axes, count in zip(panels[1], (BANDS[0], 32, BANDS[-1]), strict=True):
        mel = librosa.power_to_db(mel_strength(samples, sample_rate, count), ref=np.max, top_db=-_FLOOR_DB)
        extent = (0, len(samples) / sample_rate, 0, 1)
        axes.imshow(mel[:, ::2], extent=extent, **style)
        axes.set(title=f"{count} mel bands", xlabel="seconds", yticks=[])
    panels[1][0].set_ylabel("low to high")
    return figure


def _packed(decibels: np.ndarray) -> dict[str, object]:
    """Pack a picture, (rows, columns), into bytes: 0 for -60 dB, 255 for 0 dB, the lowest row first."""
    levels = np.clip(np.round((decibels - _FLOOR_DB) / -_FLOOR_DB * 255), 0, 255).astype(np.uint8)
    return {"rows": levels.shape[0], "columns": levels.shape[1], "levels": base64.b64encode(levels.tobytes()).decode()}


def _as_uri(samples: np.ndarray, sample_rate: int) -> str:
    """Return samples as a WAV in a `data:` address, which the tool that commits notebooks takes out."""
    wav = io.BytesIO()
    soundfile.write(wav, samples, sample_rate, subtype="PCM_16", format="WAV")
    return f"data:audio/wav;base64,{base64.b64encode(wav.getvalue()).decode()}"
