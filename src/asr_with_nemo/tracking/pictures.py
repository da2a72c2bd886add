"""Spectrograms of recordings as small PNG files, and recordings as files that browsers play.

Matplotlib takes more than fifty times as long: here the spectrogram's matrix, quantised to levels of decibels, is
written directly as the pixels of a PNG with a palette.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import librosa
import matplotlib
import numpy as np
import scipy.sparse
from isal import isal_zlib
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from asr_with_nemo.base.files import make_writable, replacing
from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.data import audio
from asr_with_nemo.data.sound import open_sound
from asr_with_nemo.errors import InputError

MEDIA = "pictures"
"""Name of the folder for pictures, in the manifest's folder."""
_PLAYABLE = {".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "OGG"}
"""Suffixes of formats that every browser plays, and what such a file's coding begins with."""


@dataclass(frozen=True)
class PictureSettings:
    """Settings of the spectrograms; pictures cached under other settings are not used.

    Attributes:
        window, hop: length of a frame and distance between frames, in seconds.
        lowest: Hz at the lower end of the spectrogram's log axis.
        bands: of the mel spectrogram.
        decibels: range from the loudest value to the darkest colour.
        colours: name of a matplotlib colour map.
    """

    window: float = 0.02
    hop: float = 0.01
    lowest: float = 62.5
    bands: int = 64
    decibels: float = 80
    colours: str = "magma"


_FFT = 512
HEIGHT = 192  # pixels of the spectrogram itself: three per mel band
WIDEST = 1_000  # columns; frames of longer recordings share columns
COLUMN = 2  # pixels
LEFT, TOP, RIGHT, _BOTTOM = 42, 20, 74, 36  # pixels around it: Hz, title, dB, seconds
_BAR = 12  # pixels, the width of the colour scale
TICKS = (125, 250, 500, 1000, 2000, 4000, 8000)  # Hz
_LINE = 13  # pixels, of a line of text
LEVELS = 240  # of colour; the palette's other 16 are greys, for text
BLACK, WHITE = LEVELS, 255
_LAYOUT = 1  # increase it when the layout changes, to redraw cached pictures


class Pictured(NamedTuple):
    """The files of a recording: one that browsers play, and its two pictures."""

    audio: Path
    spectrogram: Path
    mel: Path


def power(samples: np.ndarray, settings: PictureSettings) -> np.ndarray:
    """Return the short-time power spectrum, (frames, 257), of mono samples at 16 kHz, (T,); frames are centred."""
    hop = round(settings.hop * audio.SAMPLE_RATE)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, _FFT // 2), _FFT)[::hop]
    spectrum = scipy.fft.rfft(frames * _window(settings.window))
    return spectrum.real**2 + spectrum.imag**2


@lru_cache
def _window(seconds: float) -> np.ndarray:
    length = round(seconds * audio.SAMPLE_RATE)
    window = np.zeros(_FFT, np.float32)
    window[(_FFT - length) // 2 :][:length] = np.hanning(length)
    return window


def log_rows(power: np.ndarray, lowest: float) -> np.ndarray:
    """Map a power spectrum to a log-frequency axis from `lowest` Hz: (frames, HEIGHT), lowest frequency first.

    A row is the maximum of the bins that it covers, so that no tone falls between two rows.
    """
    return np.maximum.reduceat(power, _first_bins(lowest), axis=1)


@lru_cache
def _first_bins(lowest: float) -> np.ndarray:
    edges = np.geomspace(lowest, audio.SAMPLE_RATE / 2, HEIGHT + 1)
    return np.round(edges[:-1] * _FFT / audio.SAMPLE_RATE).astype(int)


@lru_cache
def _mel_filters(bands: int) -> scipy.sparse.csr_array:
    # (bands, 257). Sparse, since a dense product starts threads of its own in each of the threads that draw.
    return scipy.sparse.csr_array(librosa.filters.mel(sr=audio.SAMPLE_RATE, n_fft=_FFT, n_mels=bands))


def levels(power: np.ndarray, decibels: float) -> np.ndarray:
    """Return power as colour levels, uint8: LEVELS - 1 is the loudest, 0 is `decibels` or more below it.

    Example:
        >>> levels(np.array([1.0, 1e-4, 1e-8]), decibels=80).tolist()
        [239, 120, 0]
    """
    loudest = max(float(power.max()), 1e-10)  # digital silence stays dark
    relative = 10 * np.log10(np.maximum(power / loudest, 10 ** (-decibels / 10)))
    return np.round((1 + relative / decibels) * (LEVELS - 1)).astype(np.uint8)


def draw(samples: np.ndarray, settings: PictureSettings = PictureSettings()) -> dict[str, np.ndarray]:
    """Draw a recording: its spectrogram over a log axis and its mel spectrogram, in dB below the loudest.

    Args:
        samples: mono at 16 kHz, (T,).
        settings: how to draw.

    Returns:
        "spectrogram" and "mel" → a picture with axes in Hz and seconds and a colour scale, (height, width), uint8
        indices of `palette`.
    """
    strength = power(samples, settings)
    together = -(-len(strength) // WIDEST)  # frames in a column
    if together > 1:
        strength = np.maximum.reduceat(strength, np.arange(0, len(strength), together))
    seconds = settings.hop * together / COLUMN  # of a pixel
    matrices = {
        "spectrogram": log_rows(strength, settings.lowest),
        "mel": (_mel_filters(settings.bands) @ strength.T).T,
    }
    pictures = {}
    for kind, matrix in matrices.items():
        columns = levels(matrix, settings.decibels).T[::-1]  # the highest first
        rows = np.arange(HEIGHT) * len(columns) // HEIGHT
        pixels = np.repeat(columns[rows], COLUMN, axis=1)
        canvas = _frame(kind, pixels.shape[1], seconds, settings).copy()
        canvas[TOP : TOP + HEIGHT, LEFT : LEFT + pixels.shape[1]] = pixels
        pictures[kind] = canvas
    return pictures


def encode(picture: np.ndarray, palette: bytes) -> bytes:
    """Return a picture of palette indices, (height, width), as PNG.

    Pillow's compressor takes five times as long, which would double the time of a picture.
    """
    height, width = picture.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each begins with the number of its filter: none
    lines[:, 1:] = picture
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),  # 8 bits, a palette
        b"PLTE": palette,
        b"IDAT": isal_zlib.compress(lines, 2),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@lru_cache
def palette(colours: str) -> bytes:
    """Return RGB for each index: `LEVELS` colours of a matplotlib colour map, then greys from black to white."""
    colours = matplotlib.colormaps[colours](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    greys = np.repeat(np.linspace(0, 255, 256 - LEVELS).astype(np.uint8)[:, None], 3, axis=1)
    return np.concatenate([colours, greys]).tobytes()


def row_of(frequency: float, kind: str, settings: PictureSettings = PictureSettings()) -> float:
    """Return the position of a frequency (Hz) in a picture, in pixels from its top."""
    top = audio.SAMPLE_RATE / 2
    if kind == "mel":  # a band's centre is in the middle of its row; a mel filter bank has its ends outside
        share = librosa.hz_to_mel(frequency) / librosa.hz_to_mel(top)
        height = (share * (settings.bands + 1) - 0.5) / settings.bands
    else:
        height = np.log(frequency / settings.lowest) / np.log(top / settings.lowest)
    return TOP + HEIGHT * (1 - float(np.clip(height, 0, 1)))


@lru_cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(11)


@lru_cache(maxsize=256)
def _frame(kind: str, width: int, seconds: float, settings: PictureSettings) -> np.ndarray:
    """Draw the axes, labels and colour scale of a picture, (height, width) of palette indices.

    Text is drawn in the greys, which serve for its antialiasing.
    """
    image = Image.new("L", (LEFT + width + RIGHT, TOP + HEIGHT + _BOTTOM), WHITE)
    pen = ImageDraw.Draw(image)
    pen.font = _font()
    right, bottom = LEFT + width, TOP + HEIGHT
    pen.rectangle((LEFT - 1, TOP - 1, right, bottom), outline=BLACK)
    pen.text((4, 3), "Hz", BLACK)
    pen.text((LEFT, 3), {"mel": "mel spectrogram"}.get(kind, kind), BLACK)
    previous = bottom + _LINE
    for frequency in TICKS:
        y = row_of(frequency, kind, settings)
        if settings.lowest < frequency and previous - y >= _LINE:  # the mel scale is dense at the bottom
            pen.line((LEFT - 5, y, LEFT - 2, y), BLACK)
            pen.text((LEFT - 7, y), f"{frequency:g}", BLACK, anchor="rm")
            previous = y

    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60) if step / seconds >= 50), 300)
    for number in range(int(width * seconds / step) + 1):
        x = LEFT + number * step / seconds
        pen.line((x, bottom + 1, x, bottom + 4), BLACK)
        pen.text((x, bottom + 6), f"{number * step:g}", BLACK, anchor="mt")
    pen.text((LEFT + width / 2, bottom + 20), "seconds", BLACK, anchor="mt")

    left = right + 10
    scale = np.linspace(LEVELS - 1, 0, HEIGHT).round().astype(np.uint8)
    image.paste(Image.fromarray(np.repeat(scale[:, None], _BAR, axis=1)), (left, TOP))
    for quarter in range(5):
        y = TOP + quarter * (HEIGHT - 1) / 4
        pen.text((left + _BAR + 4, y), f"{-settings.decibels * quarter / 4 or 0:g} dB", BLACK, anchor="lm")
    return np.asarray(image)


def make_pictures(
    files: Iterable[str | os.PathLike],
    folder: str | os.PathLike,
    settings: PictureSettings = PictureSettings(),
    progress: bool = True,
) -> list[Pictured]:
    """Draw recordings into a folder; pictures are cached by a digest of the recording's content.

    Args:
        files: recordings.
        folder: for the pictures, and for a WAV of each recording that browsers can't play or that isn't at 16 kHz.
        settings: how to draw.
        progress: show a progress bar.

    Raises:
        InputError: a recording can't be read, or the folder can't be written.
    """
    files = [Path(file) for file in files]
    digest = hashlib.sha256(repr((_LAYOUT, settings)).encode()).hexdigest()[:8]
    folder = _writable(Path(folder) / digest)
    different = list(dict.fromkeys(files))
    with ThreadPoolExecutor(usable_cores()) as pool:  # the FFT and compression release the GIL
        made = pool.map(lambda file: _picture(file, folder, settings), different)
        bar = tqdm(made, "pictures", total=len(different), unit="file", delay=1, disable=not progress)
        try:
            by_file = dict(zip(different, bar, strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [by_file[file] for file in files]


def _writable(folder: Path) -> Path:
    try:
        make_writable(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: pictures can't be written there ({error.strerror}); choose another folder"
        ) from error
    return folder


def _picture(path: Path, folder: Path, settings: PictureSettings) -> Pictured:
    name = _kept_name(path)
    sound = playable_file(path, folder, name)
    files = {kind: folder / f"{name}-{kind}.png" for kind in ("spectrogram", "mel")}
    if not all(file.is_file() for file in files.values()):
        for kind, picture in draw(audio.load_audio(path), settings).items():
            try:
                with replacing(files[kind], shared=True) as partial:
                    partial.write_bytes(encode(picture, palette(settings.colours)))
            except OSError as error:
                raise InputError(f"{files[kind]}: can't be written ({error.strerror})") from error
    return Pictured(sound, files["spectrogram"], files["mel"])


def _kept_name(path: Path) -> str:
    """Return the base name for files made of a recording: its name and a digest of its content."""
    try:
        return f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise InputError(f"{path}: the recording can't be read ({error.strerror})") from error


def playable_file(path: Path, folder: Path, name: str | None = None) -> Path:
    """Return a 16 kHz file that browsers play: the recording itself, or a WAV of it in `folder`.

    Raises:
        InputError: the recording can't be read, or the WAV can't be written.
    """
    if form := _PLAYABLE.get(path.suffix.lower()):
        with open_sound(path) as sound:  # a .wav of a classic corpus may be SPHERE
            if sound.coding.startswith(form) and sound.rate == audio.SAMPLE_RATE:
                return path
    wav = _writable(folder) / f"{name or _kept_name(path)}.wav"
    if not wav.is_file():
        samples = audio.load_audio(path)
        try:
            audio.write_wav(wav, np.round(np.clip(samples, -1, 1) * 32_767).astype(np.int16))
        except OSError as error:
            raise InputError(f"{wav}: can't be written ({error.strerror})") from error
    return wav
