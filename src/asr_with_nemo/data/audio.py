"""Audio files: NIST SPHERE headers and checksums, conversion to WAV, resampling, cutting.

SPHERE is the format of many classic speech corpora: an ASCII header of 1,024 bytes (or a multiple), then the samples.
libsndfile reads its plain PCM variant; SoX reads the others.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from asr_with_nemo.base.files import replacing
from asr_with_nemo.data.sound import Sound, mix_down, open_sound
from asr_with_nemo.data.sox import sox_is_here
from asr_with_nemo.errors import InputError

__all__ = ["sox_is_here"]

SAMPLE_RATE = 16_000
"""Sample rate of the course's models, in Hz."""
SILENCE = 10 ** (-70 / 20)
"""Samples below this, -70 dB of full scale, are silence: a speaker's microphone has more noise."""
_SPHERE_MAGIC = b"NIST_1A"
# Seconds by which a manifest's duration may be rounded.
_ROUNDING = 0.1
PAST_END = 0.5
"""Seconds that a part of a recording may end after it: times are rounded, and headers not exact."""
_LOOK = 1 << 12  # samples of a block in which sound is looked for
# Conversion mostly waits for the disk; more threads would only wait for the interpreter's lock.
_THREADS = 2


@dataclass(frozen=True)
class SphereHeader:
    """The header of a NIST SPHERE file.

    Attributes:
        size: bytes before the first sample.
        fields: every `name -type value` line; `-i` values are int, `-r` float, `-s` str.
    """

    size: int
    fields: dict[str, int | float | str]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.fields.items())


def read_sphere_header(path: str | os.PathLike) -> SphereHeader:
    """Read the header of a SPHERE file.

    Raises:
        InputError: the file is missing or empty, or has no complete SPHERE header.
    """
    path = Path(path)
    convert = {"i": int, "r": float, "s": str}
    try:
        with open(path, "rb") as file:
            start = file.read(16)
            if not start:
                raise InputError(f"{path}: the file is empty; expected a SPHERE file")
            if start[:7] != _SPHERE_MAGIC:
                raise InputError(f"{path}: not a SPHERE file (it starts with {start[:7]!r}, not {_SPHERE_MAGIC!r})")
            size = int(start[8:16])
            text = (start + file.read(size - 16)).decode("latin-1")
        if "\nend_head" not in text or len(text) < size:
            raise InputError(f"{path}: the SPHERE header is cut short; get the file again")
        fields = {}
        for line in text[: text.index("\nend_head")].splitlines()[2:]:
            if line.strip() and not line.startswith(";"):
                name, kind, value = line.split(maxsplit=2)
                fields[name] = convert[kind[1]](value)
        if any(not isinstance(fields.get(name, 0), int) for name in ("sample_count", "sample_rate", "sample_checksum")):
            raise ValueError("a count, rate or checksum that is not an integer")
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{path}: the SPHERE header is damaged ({error}); get the file again") from error
    return SphereHeader(size, fields)


def sphere_checksum(samples: np.ndarray) -> int:
    """Return SPHERE's `sample_checksum`: the sum of the 16-bit samples as unsigned words, modulo 65,536.

    Example:
        >>> sphere_checksum(np.array([1, -1, 5]))
        5
    """
    return int(samples.astype(np.int16).view(np.uint16).sum(dtype=np.uint64) % 65_536)


def read_sphere(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Read a SPHERE file and verify it against its own header.

    Returns:
        int16 samples, (T,) or (T, channels), and the sample rate in Hz.

    Raises:
        InputError: the file can't be read, is cut short, or its samples don't agree with the header's
            `sample_count` or `sample_checksum`.
    """
    header = read_sphere_header(path)
    with open_sound(path) as sound:  # by libsndfile, or what is compressed by Shorten and the like, by SoX
        blocks, rate = [np.zeros((0, sound.channels), np.float32), *sound.blocks(1 << 20)], sound.rate
    samples = np.clip(np.rint(np.concatenate(blocks) * 32_768), -32_768, 32_767).astype(np.int16)
    samples = samples[:, 0] if samples.shape[1] == 1 else samples
    expected = header.fields.get("sample_count")
    if expected is not None and expected != len(samples):
        raise InputError(f"{path}: has {len(samples):,} samples, its header says {expected:,}; get it again")
    if len(samples) == 0:
        raise InputError(f"{path}: has no samples")
    checksum = header.fields.get("sample_checksum")
    if checksum is not None and checksum != sphere_checksum(samples):
        raise InputError(
            f"{path}: the checksum of its samples is {sphere_checksum(samples)}, its header's sample_checksum "
            f"{checksum}: the audio is damaged; get it again"
        )
    return samples, rate


def write_wav(path: str | os.PathLike, samples: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write int16 samples as a 16-bit WAV, atomically."""
    # In memory first: libsndfile writes in small pieces, which takes the disk three times as long.
    complete = io.BytesIO()
    soundfile.write(complete, samples, rate, subtype="PCM_16", format="WAV")
    with replacing(path, shared=True) as partial, open(partial, "wb") as file:
        file.write(complete.getbuffer())


def convert_sphere(path: str | os.PathLike, wav: str | os.PathLike) -> float:
    """Convert a SPHERE file to a 16-bit, 16 kHz, mono WAV with the same samples, and return its seconds.

    Raises:
        InputError: the file is damaged, or isn't 16-bit, 16 kHz, mono (it is never resampled silently).
    """
    fields = read_sphere_header(path).fields
    if str(fields.get("sample_coding", "pcm")).startswith("pcm") and fields.get("sample_n_bytes", 2) != 2:
        raise InputError(f"{path}: samples of {fields['sample_n_bytes']} bytes where 16-bit ones were expected")
    samples, rate = read_sphere(path)
    if rate != SAMPLE_RATE or samples.ndim != 1:
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        raise InputError(f"{path}: {rate:,} Hz with {channels} channel(s) where {SAMPLE_RATE:,} Hz mono was expected")
    write_wav(wav, samples, rate)
    return len(samples) / rate


class Converter:
    """Convert SPHERE files in the background, each to a WAV next to it; a damaged file doesn't stop the others.

    As a context manager, it waits at the end until all are done.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS)
        self._results: list[Future[str | None]] = []

    def add(self, path: Path) -> None:
        """Convert a file if its name ends in .sph."""
        if path.suffix == ".sph":
            self._results.append(self._pool.submit(self._convert, path))

    @staticmethod
    def _convert(path: Path) -> str | None:
        try:
            convert_sphere(path, path.with_suffix(".wav"))
        except InputError as error:
            return str(error)
        except OSError as error:  # a full disk, say
            return f"{path.with_suffix('.wav')}: can't be written ({error.strerror})"
        return None

    def problems(self, progress: bool = True) -> list[str]:
        """Wait for all files, and return the errors, one message a damaged file, in the order of `add`."""
        results = tqdm(self._results, "SPHERE to WAV", unit="file", delay=1, disable=not progress)
        return [message for result in results if (message := result.result())]

    def __enter__(self) -> "Converter":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()


def wav_samples(path: str | os.PathLike) -> int:
    """Return the number of samples of a mono WAV of `write_wav`, from its size alone; -1 if the file is missing."""
    try:
        return (os.stat(path).st_size - 44) // 2
    except FileNotFoundError:
        return -1


@dataclass(frozen=True)
class Clip:
    """A part of an audio file, `duration` seconds from second `offset` on; to the end, if the duration is None.

    Of the channel with the number `channel`, from 0; of a mix of all channels, if that is None. Once `stream_audio` has
    read it, `seen` is called with the open file, which then says what was found out on the way.
    """

    path: str
    offset: float = 0.0
    duration: float | None = None
    channel: int | None = None
    seen: Callable[[Sound], object] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        until = "" if self.duration is None else f"{self.offset + self.duration:g}"
        parts = [] if self.channel is None else [f"channel {self.channel + 1}"]
        parts += [f"{self.offset:g}-{until} s"] if self.offset or until else []
        return f"{self.path} ({', '.join(parts)})" if parts else self.path


def clip_of(utterance: Mapping) -> "str | Clip":
    """Return what a line of a manifest names: a file's path, or the part that its `offset` and `duration` say.

    As in NeMo, a duration that is shorter than the file counts without an offset, too. One that differs by less than
    `_ROUNDING` seconds is the file's own, rounded.
    """
    path, offset, duration = utterance["audio_filepath"], utterance.get("offset") or 0.0, utterance.get("duration")
    if not offset:
        minutes = minutes_of(path)
        if duration is None or minutes is None or abs(60 * minutes - duration) < _ROUNDING:
            return path
    return Clip(path, float(offset), None if duration is None else float(duration))


def minutes_of(path: str | os.PathLike | Clip) -> float | None:
    """Return the minutes of an audio file by its header; None if it can't be read or doesn't say."""
    if isinstance(path, Clip):
        if path.duration is not None:
            return path.duration / 60
        whole = minutes_of(path.path)
        return None if whole is None else max(0.0, whole - path.offset / 60)
    try:
        with open_sound(path) as sound:
            return None if sound.seconds is None else sound.seconds / 60
    except InputError:
        return None


def load_audio(path: str | os.PathLike | Clip, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read an audio file as mono float32 in [-1, 1], (T,), resampled to `sample_rate` if it has another rate.

    Raises:
        InputError: the file is missing, isn't audio, or is empty.
    """
    blocks = list(stream_audio(path, sample_rate))
    return np.concatenate(blocks)


def load_through(path: str | os.PathLike | Clip, line_rate: int, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read an audio file as transmitted at `line_rate` in Hz: frequencies above half of it are lost.

    A telephone line has 8,000 Hz. Otherwise as `load_audio`.
    """
    return soxr.resample(load_audio(path, line_rate), line_rate, sample_rate)


def stream_audio(
    path: str | os.PathLike | Clip, sample_rate: int = SAMPLE_RATE, block_seconds: float = 30.0
) -> Iterator[np.ndarray]:
    """Read an audio file in blocks, so that memory doesn't grow with its length.

    Yields:
        mono float32 samples at `sample_rate`, (t,), of about `block_seconds` each.

    Raises:
        InputError: the file is missing, isn't audio, has no samples, or ends more than `PAST_END` seconds before a
            clip of it does.
    """
    heard = 0
    clip = path if isinstance(path, Clip) else Clip(os.fspath(path))
    with open_sound(clip.path) as sound:
        size = max(1, int(block_seconds * sound.rate))
        check_end(clip, sound.seconds)
        if clip.channel is not None and clip.channel >= sound.channels:
            raise InputError(f"{clip.path}: has no channel {clip.channel + 1}, only {sound.channels}")
        count = None if clip.duration is None else max(1, round(clip.duration * sound.rate))
        blocks = sound.blocks(size, round(clip.offset * sound.rate), count)
        if clip.channel is not None:
            blocks = (block[:, clip.channel] for block in blocks)
        for mono in resampled(blocks, sound.rate, sample_rate):
            heard += len(mono)
            yield mono
        if clip.duration is not None:
            check_end(clip, clip.offset + heard / sample_rate)
        if heard == 0:
            raise InputError(f"{path}: has no audio (zero samples)")
        if clip.seen is not None:
            clip.seen(sound)


def check_end(clip: Clip, seconds: float | None) -> None:
    """Check that a file of this length holds the clip.

    Raises:
        InputError: it doesn't.
    """
    end = clip.offset + (clip.duration or 0.0)
    if seconds is not None and end > seconds + PAST_END:
        raise InputError(
            f"{clip.path}: ends after {seconds:.2f} s, but offset {clip.offset:g} and duration {clip.duration or 0:g} "
            f"reach to {end:.2f} s; are the times in milliseconds, or of another file?"
        )


def resampled(blocks: Iterable[np.ndarray], rate: int, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """Convert blocks of samples, (t,) or (t, channels), at `rate` to mono float32 blocks, (t,), at `sample_rate`."""
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32") if rate != sample_rate else None
    for block in blocks:
        mono = mix_down(block)
        if resampler:
            mono = resampler.resample_chunk(mono)
        if len(mono):
            yield mono
    if resampler:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(rest):
            yield rest


def frame_powers(samples: np.ndarray, size: int, hop: int | None = None) -> np.ndarray:
    """Return the power (mean square) of each frame of mono samples, without its mean: a constant isn't sound.

    Args:
        samples: mono float samples in [-1, 1], (t,).
        size: samples in a frame.
        hop: samples from the start of one frame to the start of the next; by default `size`, without overlap.

    Returns:
        float64, (T,), for the T = 1 + (t - size) // hop complete frames. In dB of full scale: 10 * log10(power).

    Example:
        >>> frame_powers(np.array([0.0, 0.0, 0.5, -0.5, 0.75, 0.25]), 2)
        array([0.    , 0.25  , 0.0625])
    """
    if len(samples) < size:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: hop or size]  # (T, size)
    constant = np.square(frames.mean(axis=1, dtype=np.float64))
    return np.maximum(np.square(frames, dtype=np.float64).mean(axis=1) - constant, 0.0)


def quietest_place(samples: np.ndarray, size: int, count: int) -> int:
    """Return where mono samples, (t,), are quietest: the sample near the middle of the quietest stretch.

    Args:
        samples: at least `size` * `count` of them.
        size: samples in a frame.
        count: consecutive frames in a stretch.
    """
    powers = np.convolve(frame_powers(samples, size), np.ones(count), "valid")
    return (int(powers.argmin()) + count // 2) * size


def is_all_zero(path: str | os.PathLike, offset: float = 0.0, duration: float | None = None) -> bool:
    """Return whether all samples of a part of a file are zero, which no microphone records.

    It is read up to the first sample that isn't zero. False for a file that can't be read.

    Args:
        path: the file.
        offset, duration: the part, in seconds; to the end, if the duration is None.
    """
    try:
        with open_sound(path) as sound:
            start = max(0, round(offset * sound.rate))
            count = None if duration is None else round(duration * sound.rate)
            read = 0
            for block in sound.blocks(_LOOK, start, count):
                read += len(block)
                if block.any():
                    return False
            return read > 0
    except (InputError, OSError):
        return False
