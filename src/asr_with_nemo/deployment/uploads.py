"""Decoding uploaded audio files, within limits."""

import io
import re
from collections.abc import Iterator

import numpy as np
import soundfile

from asr_with_nemo.data import audio
from asr_with_nemo.data.sound import Sound, after_tags, kind_of, open_sound
from asr_with_nemo.errors import InputError

_BLOCK = 1 << 18
"""Samples, over all channels, that are decoded at a time."""
_WHAT_TO_SEND = "send WAV, FLAC, Ogg, MP3, M4A or WebM"
_FORMATS = re.compile(rb"riff\x2e\x91\xcf\x11|\xff[\xe0-\xff]|dns[.]|NIST_1A", re.DOTALL)
"""The first bytes of W64, AU of the other byte order and NIST SPHERE, which libsndfile reads, and of MPEG audio.
libsndfile knows further formats; in some of them (MIDI sample dumps), a damaged file keeps it busy for minutes."""


class AudioTooLongError(InputError):
    """An upload has more seconds of audio than the server accepts."""


def decode_upload(content: bytes, name: str, rate: int, seconds: float) -> np.ndarray:
    """Decode an uploaded file to mono float32 samples, (t,).

    Args:
        content: the bytes of a file of any kind that `data.sound` reads without SoX.
        name: of the file, for messages.
        rate: of the samples returned, in Hz.
        seconds: the longest audio that is accepted.

    Raises:
        AudioTooLongError: it has more than `seconds` of audio.
        InputError: it isn't audio, is damaged or is empty.
    """
    start = after_tags(io.BytesIO(content))
    kind = kind_of(start)
    if not _FORMATS.match(start) and not (kind and kind.format):
        what = f"is {kind.title}" if kind else "format not recognised"
        raise InputError(f"{name}: can't be decoded ({what}); {_WHAT_TO_SEND}")
    try:
        with open_sound(content, name) as sound:
            parts = _samples(sound, name, rate, seconds)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".") or type(error).__name__
        raise InputError(f"{name}: can't be decoded ({reason}); {_WHAT_TO_SEND}") from error
    if not parts:
        raise InputError(f"{name}: holds no audio (zero samples); record it again")
    return np.concatenate(parts)


def _samples(sound: Sound, name: str, rate: int, seconds: float) -> list[np.ndarray]:
    """Return blocks of mono samples at `rate`, in [-1, 1]; floats above full scale are scaled, not cut off."""
    parts, heard, loudest = [], 0, 1.0

    def measured() -> Iterator[np.ndarray]:
        nonlocal loudest
        for block in sound.blocks(max(1, _BLOCK // sound.channels)):
            loudest = max(loudest, float(np.abs(block).max(initial=0.0)))
            yield block

    for part in audio.resampled(measured(), sound.rate, rate):
        heard += len(part)
        if heard > seconds * rate:
            raise AudioTooLongError(f"{name}: longer than {seconds:g} s, the server's limit; send it in parts")
        if not np.isfinite(part).all():
            raise InputError(f"{name}: has samples that are not finite (NaN or infinite); export it again")
        parts.append(part)
    return [np.clip(part / loudest, -1.0, 1.0) for part in parts]
