"""Decoding uploaded audio files, within limits."""

import functools
import io
import re

import numpy as np
import soundfile

from asr_with_nemo.data import audio
from asr_with_nemo.errors import InputError

RATES = range(1_000, 384_001)
"""Accepted sample rates, in Hz."""
_CHANNELS = 64
_BLOCK = 1 << 18
"""Samples, over all channels, that are decoded at a time."""
_WHAT_TO_SEND = "send WAV, FLAC, Ogg or MP3"
_FORMATS = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|riff\x2e\x91\xcf\x11|fLaC|OggS|\xff[\xe0-\xff]|FORM....AIF[FC]|[.]snd|dns[.]|caff|NIST_1A",
    re.DOTALL,
)
"""The first bytes of WAV (RF64 and W64, too), FLAC, Ogg, MP3, AIFF, AU, CAF and NIST SPHERE. libsndfile knows further
formats; in some of them (MIDI sample dumps), a damaged file keeps it busy for minutes."""
_ID3 = re.compile(rb"ID3..(.)([\0-\x7f]{4})", re.DOTALL)
"""A tag before the audio, with its flags and length (7 bits a byte; https://id3.org/id3v2.4.0-structure)."""


class AudioTooLongError(InputError):
    """An upload has more seconds of audio than the server accepts."""


class _InMemory(io.BytesIO):
    """A file whose negative positions are its start: damaged files make libsndfile seek there."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(0, offset) if whence == io.SEEK_SET else offset, whence)


def decode_upload(content: bytes, name: str, rate: int, seconds: float) -> np.ndarray:
    """Decode an uploaded file to mono float32 samples, (t,).

    Args:
        content: the bytes of a WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF or NIST SPHERE file.
        name: of the file, for messages.
        rate: of the samples returned, in Hz.
        seconds: the longest audio that is accepted.

    Raises:
        AudioTooLongError: it has more than `seconds` of audio.
        InputError: it isn't audio, is damaged or is empty.
    """
    start = 0
    while tag := _ID3.match(content, start):
        size = functools.reduce(lambda most, byte: most << 7 | byte, tag[2])
        start = tag.end() + size + (10 if tag[1][0] & 0x10 else 0)
    if not _FORMATS.match(content, start):
        raise InputError(f"{name}: can't be decoded (format not recognised); {_WHAT_TO_SEND}")
    try:
        with soundfile.SoundFile(_InMemory(content[start:])) as sound:
            if sound.samplerate not in RATES or not 1 <= sound.channels <= _CHANNELS:
                raise InputError(
                    f"{name}: {sound.samplerate:,} Hz with {sound.channels} channels; expected {RATES[0]:,} to "
                    f"{RATES[-1]:,} Hz and 1 to {_CHANNELS} channels"
                )
            blocks = sound.blocks(max(1, _BLOCK // sound.channels), dtype="float32")
            parts, heard = [], 0
            for part in audio.resampled(blocks, sound.samplerate, rate):
                heard += len(part)
                if heard > seconds * rate:
                    raise AudioTooLongError(f"{name}: longer than {seconds:g} s, the server's limit; send it in parts")
                if not np.isfinite(part).all():
                    raise InputError(f"{name}: has samples that are not finite (NaN or infinite); export it again")
                parts.append(np.clip(part, -1.0, 1.0))
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".") or type(error).__name__
        raise InputError(f"{name}: can't be decoded ({reason}); {_WHAT_TO_SEND}") from error
    if not heard:
        raise InputError(f"{name}: holds no audio (zero samples); record it again")
    return np.concatenate(parts)
