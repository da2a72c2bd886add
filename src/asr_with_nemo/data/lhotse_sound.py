"""Lhotse's recordings, decoded here: Lhotse itself hands the names of SPHERE and Opus files to a shell."""

import io
import os

import numpy as np

from asr_with_nemo.data.sound import open_sound


def decode_here() -> None:
    """Let Lhotse decode whatever it reads in this process with `data.sound`, and no shell.

    Recordings that are commands or addresses remain: Lhotse runs and fetches them, so a manifest of Lhotse's that
    somebody else wrote must be checked before.
    """
    from lhotse.audio import backend

    class Decoder(backend.LibsndfileBackend):  # which writes
        def read_audio(self, path_or_fd, offset=0.0, duration=None, force_opus_sampling_rate=None):
            with _opened(path_or_fd) as sound:
                count = None if duration is None else max(1, round(duration * sound.rate))
                blocks = list(sound.blocks(1 << 20, round(offset * sound.rate), count))
                samples = np.concatenate([np.zeros((0, sound.channels), np.float32), *blocks])
                return samples.T, sound.rate  # (channels, T)

        def info(self, path_or_fd, force_opus_sampling_rate=None):
            with _opened(path_or_fd) as sound:
                frames = sound.frames
                if frames is None:
                    frames = sum(map(len, sound.blocks(1 << 20)))
                return backend.LibsndfileCompatibleAudioInfo(sound.channels, frames, sound.rate, frames / sound.rate)

    if type(backend.CURRENT_AUDIO_BACKEND).__name__ != Decoder.__name__:
        backend.set_current_audio_backend(Decoder())


def _opened(source: str | os.PathLike | io.IOBase):
    return open_sound(source if isinstance(source, str | os.PathLike) else source.read())
