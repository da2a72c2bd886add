"""Decoding uploaded audio files, within limits."""

import functools
import io
import re

import numpy as np
import soundfile

from asr_with_nemo.data import audio
from asr_with_nemo.errors import InputError

RATES = range(1_000, 384_001)
"""Hz; what claims another rate is no recording."""
CHANNELS = 64
BLOCK = 1 << 18
"""Samples of all channels that are decoded at a time."""
WHAT_TO_SEND = "send WAV, FLAC, Ogg or MP3"
_KINDS_OF_SOUND = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|riff\x2e\x91\xcf\x11|fLaC|OggS|\xff[\xe0-\xff]|FORM....AIF[FC]|[.]snd|dns[.]|caff|NIST_1A",
    re.DOTALL,
)
"""How WAV (also of 64 bits), FLAC, Ogg, MP3, AIFF, AU, CAF and NIST SPHERE begin. libsndfile also knows kinds that
nobody sends, in some of which a damaged file keeps it busy for minutes: MIDI's sample dumps."""
_ID3 = re.compile(rb"ID3..(.)([\0-\x7f]{4})", re.DOTALL)
"""A label before the sound, with its flags and length (7 bits a byte; https://id3.org/id3v2.4.0-structure)."""


class AudioTooLongError(InputError):
    """An upload has more audio than the server accepts."""


class _InMemory(io.BytesIO):
    """A file in which nothing lies before its start, where damaged ones send libsndfile."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(0, offset) if whence == io.SEEK_SET else offset, whence)


def decode_upload(content: bytes, name: str, rate: int, seconds: float) -> np.ndarray:
    """The samples of an uploaded file, mono float32 (t,), at `rate`.

    Args:
        content: a file: WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF or NIST SPHERE.
        name: what the file is called in messages.
        rate: in Hz.
        seconds: that it may have.

    Raises:
        AudioTooLongError: it has more than `seconds` of audio.
        InputError: it isn't audio, is damaged or is empty.
    """
    start = 0
    while label := _ID3.match(content, start):
        size = functools.reduce(lambda most, byte: most << 7 | byte, label[2])
        start = label.end() + size + (10 if label[1][0] & 0x10 else 0)
    if not _KINDS_OF_SOUND.match(content, start):
        raise InputError(f"{name}: can't be read as sound (format not recognised); {WHAT_TO_SEND}")
    try:
        with soundfile.SoundFile(_InMemory(content[start:])) as sound:
            if sound.samplerate not in RATES or not 1 <= sound.channels <= CHANNELS:
                raise InputError(f"{name}: {sound.samplerate:,} Hz with {sound.channels} channels is no recording")
            blocks = sound.blocks(max(1, BLOCK // sound.channels), dtype="float32")
            parts, heard = [], 0
            for part in audio.resampled(blocks, sound.samplerate, rate):
                heard += len(part)
                if heard > seconds * rate:
                    raise AudioTooLongError(f"{name}: longer than {seconds:g} s")
                if not np.isfinite(part).all():
                    raise InputError(f"{name}: has samples that are no numbers (NaN or infinite)")
                parts.append(np.clip(part, -1.0, 1.0))
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".") or type(error).__name__
        raise InputError(f"{name}: can't be read as sound ({reason}); {WHAT_TO_SEND}") from error
    if not heard:
        raise InputError(f"{name}: holds no sound (zero samples)")
    return np.concatenate(parts)
