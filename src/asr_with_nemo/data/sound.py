# ruff: noqa: SIM905 (lists of words read better as text)
"""One way to read sound: files of any format, by libsndfile, FFmpeg's libraries or SoX, in blocks; mixed down to mono.

libsndfile reads WAV, FLAC, Ogg, MP3, AIFF and their kind. What phones, browsers and cameras write (m4a, mp4, webm, amr,
wma) is decoded by PyAV, whose wheel brings FFmpeg's libraries; SoX reads the odd kinds of SPHERE. Of a file that is cut
short or damaged, what can be decoded is read.
"""

import functools
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile

from asr_with_nemo.data import ffmpeg, sox
from asr_with_nemo.errors import InputError

RATES = range(1_000, 384_001)
"""Sample rates of recordings, in Hz."""
_CHANNELS = 64
FILMS = frozenset(
    f".{suffix}"
    for suffix in (
        "mp4 m4v mov qt f4v webm mkv wmv asf 3gp 3gpp 3g2 avi divx flv ogv mpg mpeg mpe vob ts mts m2t m2ts rm rmvb"
    ).split()
)
"""Endings of recordings that may have pictures."""
SUFFIXES = FILMS | frozenset(
    f".{suffix}"
    for suffix in (
        "wav wave bwf flac mp3 mp2 mpa mpga ogg oga ogx opus spx m4a m4b m4r f4a alac aac adts wma weba mka amr awb "
        "3ga aif aiff aifc au snd caf w64 rf64 voc gsm sph nist wv1 wv2 ac3 eac3 ec3 dts tta ape wv ra"
    ).split()
)
"""Endings of the recordings that are looked for in folders (`is_recording`)."""
_OF_PROGRAMS = frozenset((".ts", ".dts"))  # endings of sources, too: of TypeScript, and of device trees
_UNKNOWN = 1 << 50  # frames; a larger number in a header means that the length isn't known
_HEAD = 4096  # bytes from which the kind of a file is told
_OPEN_SIZES = (0x7FFF0000, 0xFFFF0000)  # of a WAV's data: from there on they mean "not known yet"
_SEEKABLE = ("mov", "matroska")  # FFmpeg's formats in which each packet has its exact time
_SOX_KINDS = {  # SoX's name of each kind of file that it is used for -> its first bytes
    "sph": rb"NIST_1A",
    "wv": rb"wvpk",
    "aiff": rb"FORM....AIFF",
    "aifc": rb"FORM....AIFC",
    "maud": rb"FORM....MAUD",
    "au": rb"\.snd",
    "voc": rb"Creative Voice File\x1a",
    "smp": rb"SOUND SAMPLE DATA",
    "sndt": rb"SOUND\x1a",
    "hcom": rb".{65}FSSD.{59}HCOM",
    "prc": rb"\x37\x00\x00\x10\x6d\x00\x00\x10",
    "sox": rb"\.SoX",
}
# Suffix -> SoX's name of the kind, of files whose first bytes tell nothing: of telephones, and MP3 from mid-frame.
_SOX_SUFFIXES = {f".{kind}": kind for kind in "al ul la lu vox sln mp3 mp2".split()}
_BARE = (".raw", ".pcm")  # samples of any rate and coding: their first bytes say nothing
_HEADERLESS = frozenset(".al .ul .la .lu .vox .sln".split())  # any bytes are samples of these
# FFmpeg's formats whose header states the length; in others, FFmpeg guesses it from the bit rate.
_STATED = frozenset("mov matroska asf wav avi caf ogg flac tta wv ape aiff au".split())
_WHOLE = 0.95  # of the stated length: a file with less is cut short,
_MISSING = 0.1  # if so many seconds are missing: of short files, the stated length isn't exact
_PAGE = 1 << 16  # bytes; a page of Ogg has less
_CANCELLED = 0.05  # of the louder channel's power: what is left of two channels that cancel each other out


@dataclass(frozen=True)
class _Kind:
    """A kind of file, told by its first bytes.

    Attributes:
        title: what it is, for messages.
        start: a pattern of its first bytes.
        format: FFmpeg's name of the format, if it decodes it here; "" if not.
    """

    title: str
    start: re.Pattern[bytes]
    format: str = ""


def _kind(title: str, start: bytes, format: str = "") -> _Kind:
    return _Kind(title, re.compile(start, re.DOTALL), format)


# Formats that name other files or addresses (playlists) are not among them: a recording is one file.
_KINDS = (
    # Before the box's name is its size: never four letters, and of all but the sound itself a small one.
    _kind("MP4, M4A or 3GP", rb"....ftyp|(?![\t\n\r -~]{4})....mdat|[\0-\x08]...(moov|wide|skip|free|pnot)", "mov"),
    _kind("WebM or Matroska", rb"\x1a\x45\xdf\xa3", "matroska"),
    _kind("AAC", rb"\xff[\xf0\xf1\xf8\xf9]", "aac"),
    _kind("AMR", rb"#!AMR", "amr"),
    _kind("Windows Media", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    _kind("WAV", rb"(RIFF|RIFX|RF64)....WAVE", "wav"),
    _kind("MP3", rb"(ID3|\xff[\xe2-\xef\xf2-\xf7\xfa-\xff])", "mp3"),
    _kind("Ogg", rb"OggS", "ogg"),
    _kind("FLAC", rb"fLaC", "flac"),
    _kind("AIFF", rb"FORM....AIF[FC]", "aiff"),
    _kind("AU", rb"\.snd", "au"),
    _kind("Apple's CAF", rb"caff", "caf"),
    _kind("an AVI film", rb"RIFF....AVI ", "avi"),
    _kind("an MPEG transport stream", rb"\x47.{187}\x47.{187}\x47", "mpegts"),
    _kind("an MPEG transport stream", rb".{4}\x47.{191}\x47.{191}\x47", "mpegts"),
    _kind("MPEG", rb"\x00\x00\x01\xba", "mpeg"),
    _kind("Flash video", rb"FLV\x01", "flv"),
    _kind("E-AC-3", rb"\x0b\x77...[\x58-\x87]", "eac3"),
    _kind("AC-3", rb"\x0b\x77...[\x00-\x57]", "ac3"),
    _kind("DTS", rb"\x7f\xfe\x80\x01", "dts"),
    _kind("True Audio", rb"TTA1", "tta"),
    _kind("WavPack", rb"wvpk", "wv"),
    _kind("Monkey's Audio", rb"MAC ", "ape"),
    _kind("RealMedia", rb"\.RMF", "rm"),
    _kind("a Shorten file", rb"ajkg"),
    _kind("a pointer of Git LFS; `git lfs pull` gets the file itself", rb"version https://git-lfs"),
    _kind("a web page", rb"\s*(<!doctype html|<!DOCTYPE html|<!DOCTYPE HTML|<html|<HTML)"),
    _kind("XML", rb"\s*<\?xml"),
    _kind("JSON", rb"\s*[{\[]\s*[{\"]"),
    _kind("a pointer of git-annex; `git annex get` gets the file itself", rb"(\.\./)*(\.git)?/annex/objects/"),
    _kind("a MIDI file", rb"MThd"),
    _kind("a PDF", rb"%PDF"),
    _kind("a ZIP archive", rb"PK\x03\x04"),
    _kind("a gzip archive", rb"\x1f\x8b"),
    _kind("a 7z archive", rb"7z\xbc\xaf"),
)

_BY_SUFFIX = {  # kinds of files that may begin with anything, by the suffixes that tell them then
    **dict.fromkeys((".mp3", ".mp2", ".mpga"), _kind("MP3", b"", "mp3")),
    ".aac": _kind("AAC", b"", "aac"),
    ".gsm": _kind("GSM", rb"[\xd0-\xdf](.{32}[\xd0-\xdf]|.{,32}\Z)", "gsm"),
}


_ID3 = re.compile(rb"ID3..(.)([\0-\x7f]{4})", re.DOTALL)
"""A tag before the audio, with its flags and length (7 bits a byte; https://id3.org/id3v2.4.0-structure)."""


def kind_of(start: bytes) -> _Kind | None:
    """Return the kind of a file by its first bytes; None if no kind here has them."""
    return next((kind for kind in _KINDS if kind.start.match(start)), None)


def after_tags(file: BinaryIO) -> bytes:
    """Return the first bytes of a file that come after its ID3 tags, which any format may have before it."""
    start = file.read(_HEAD)
    for _ in range(8):
        tag = _ID3.match(start)
        if tag is None:
            break
        size = functools.reduce(lambda most, byte: most << 7 | byte, tag[2])
        file.seek(size + (10 if tag[1][0] & 0x10 else 0) - len(start) + tag.end(), io.SEEK_CUR)
        start = file.read(_HEAD)
    return start


def is_recording(path: str | os.PathLike) -> bool:
    """Return whether a file in a folder is taken for a recording: by its ending, and its start if that is unclear."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _OF_PROGRAMS or not os.path.isfile(path):
        return suffix in SUFFIXES
    try:
        with open(path, "rb") as file:
            kind = kind_of(file.read(_HEAD))
    except OSError:
        return True  # who reads it says why it can't be read
    return kind is not None and bool(kind.format)


class Sound:
    """An open recording. Use it as a context manager.

    Attributes:
        rate: sample rate in Hz.
        channels: their number.
        frames: samples of a channel; None if the file doesn't say.
        coding: format and coding, for reports.
        unfinished: whether the header was never completed, as by a recorder that lost its power.
        cut: whether the file is cut short or damaged; None if that isn't known until it has been read to the end.
    """

    def __init__(
        self,
        rate: int,
        channels: int,
        frames: int | None,
        coding: str,
        blocks: Callable[[int, int], Iterator[np.ndarray]],
        close: Callable[[], object] = lambda: None,
    ):
        self.rate, self.channels, self.frames, self.coding = rate, channels, frames, coding
        self.unfinished, self.cut = False, None
        self._blocks, self._close = blocks, close

    @property
    def seconds(self) -> float | None:
        """The duration; None if the file doesn't say."""
        return None if self.frames is None else self.frames / self.rate

    def blocks(self, size: int, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """Yield float32 samples, (n, channels), in blocks of `size` or fewer.

        Args:
            size: samples of a channel in a block.
            start: the first sample.
            count: how many; None for all that follow.

        Raises:
            InputError: the file is so damaged that nothing can be decoded.
        """
        left = count
        for block in self._blocks(size, start):
            if left is not None:
                block = block[:left]
                left -= len(block)
            if len(block):
                yield block
            if left == 0:
                return

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()


def open_sound(source: str | os.PathLike | bytes, name: str = "") -> Sound:
    """Open a recording of any format.

    Args:
        source: a path, or the file's bytes.
        name: of the file, for messages; by default its path.

    Raises:
        InputError: the file is missing or empty, or holds no sound that can be decoded, or one of a rate or a number of
            channels that no recording has; the error says what it is.
    """
    name = name or (os.fspath(source) if not isinstance(source, bytes) else "the recording")
    sound = _opened(source, name)
    if sound.rate not in RATES or not 1 <= sound.channels <= _CHANNELS:
        sound.__exit__()  # at 1 Hz, say, a small file is hours of sound
        raise InputError(
            f"{name}: {sound.rate:,} Hz with {sound.channels} channels; expected {RATES[0]:,} to {RATES[-1]:,} Hz and "
            f"1 to {_CHANNELS} channels"
        )
    return sound


def _opened(source: str | os.PathLike | bytes, name: str) -> Sound:
    start, suffix = _first_bytes(source, name), _suffix(source, name)
    kind = kind_of(start)
    if suffix in _HEADERLESS and _tells_nothing(start) and not isinstance(source, bytes):
        return _by_sox(source, name)
    try:
        sound = _by_libsndfile(source, name, kind)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
    else:
        if sound.frames or kind is None or kind.title != "WAV" or _size(source) < 100:
            return sound
        sound.__exit__()  # a header that was never completed says that there is nothing
        reason = "no samples"
        if opened := _by_ffmpeg(source, name, kind):
            opened.unfinished, opened.frames, opened.cut = True, None, False
            return opened
    if kind is not None and kind.format and (opened := _by_ffmpeg(source, name, kind)):
        return opened
    by_suffix = _BY_SUFFIX.get(suffix) if kind is None else None
    if by_suffix and by_suffix.start.match(start) and (opened := _by_ffmpeg(source, name, by_suffix)):
        return opened
    if kind is not None and kind.format and suffix not in _BARE:
        raise InputError(f"{name}: {kind.title}, cut short or damaged; get the file again")
    if kind is not None and not kind.format and kind.title != "a Shorten file":
        raise InputError(f"{name}: is {kind.title}, not a recording")
    if isinstance(source, bytes):
        raise InputError(f"{name}: holds no sound that can be decoded ({reason})")
    return _by_sox(source, name)


def _suffix(source: str | os.PathLike | bytes, name: str) -> str:
    return os.path.splitext(name if isinstance(source, bytes) else os.fspath(source))[1].lower()


def _tells_nothing(start: bytes) -> bool:
    """Return whether first bytes can be samples: they are of no kind, or of one that a few bits make."""
    kind = kind_of(start)
    return kind is None or start[:1] == b"\xff"


def _first_bytes(source: str | os.PathLike | bytes, name: str) -> bytes:
    """Return the first bytes of a recording after its tags; the tag's, if nothing comes after it."""
    if isinstance(source, bytes):
        start, sound = source[:_HEAD], after_tags(io.BytesIO(source))
    else:
        path = os.fspath(source)
        if not os.path.isfile(path):  # Path's own raises where a name is too long for a file
            raise InputError(f"{name[:1000]}: no such file" if not os.path.exists(path) else f"{name}: not a file")
        try:
            with open(path, "rb") as file:
                start = file.read(_HEAD)
                file.seek(0)
                sound = after_tags(file)
        except OSError as error:
            raise InputError(f"{name}: can't be read ({error.strerror})") from error
    if not start:
        raise InputError(f"{name}: has no audio (the file is empty)")
    return sound if kind_of(sound) else start


def _size(source: str | os.PathLike | bytes) -> int:
    return len(source) if isinstance(source, bytes) else os.path.getsize(source)


# --- libsndfile -------------------------------------------------------------------------------------------------------


class _InMemory(io.BytesIO):
    """A file whose negative positions are its start: damaged files make libsndfile seek there."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(0, offset) if whence == io.SEEK_SET else offset, whence)


def _by_libsndfile(source: str | os.PathLike | bytes, name: str, kind: _Kind | None) -> Sound:
    descriptor = None
    if isinstance(source, bytes):
        file = soundfile.SoundFile(_InMemory(source))
    else:
        # By a descriptor: by a path, libsndfile takes ._NAME, which Macs write, for a part of the file, and soundfile
        # takes the suffix .raw for a format.
        descriptor = os.open(source, os.O_RDONLY)
        try:
            file = soundfile.SoundFile(descriptor, closefd=False)
        except BaseException:
            os.close(descriptor)
            raise
    frames = file.frames if 0 <= file.frames < _UNKNOWN else None

    def blocks(size: int, start: int) -> Iterator[np.ndarray]:
        read = start
        try:
            if start:
                file.seek(start)
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                read += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            reason = error.error_string.rstrip(".")
            opened = _by_ffmpeg(source, name, kind) if kind is not None and kind.format else None
            if opened is None or (opened.rate, opened.channels) != (sound.rate, sound.channels):
                raise InputError(f"{name}: damaged or cut short ({reason}); get the file again") from error
            with opened:  # FFmpeg goes on where libsndfile gives up
                yield from opened.blocks(size, read)
            sound.cut = True
        else:
            sound.cut = bool(sound.cut) or ends_too_early(sound, read, sound.frames)

    def close() -> None:
        file.close()
        if descriptor is not None:
            os.close(descriptor)

    sound = Sound(file.samplerate, file.channels, frames, f"{file.format} {file.subtype}", blocks, close)
    if file.format.startswith(("WAV", "AIFF", "AU")):
        stated = re.search(r"(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", file.extra_info)
        if stated and int(stated[2]) < int(stated[1]):
            # Programs that write to a pipe state the most that there can be, or a round number.
            sound.unfinished = int(stated[1]) >= _OPEN_SIZES[0] or int(stated[1]) % 1_000_000 == 0
        sound.cut = bool(stated and int(stated[2]) < int(stated[1]) and not sound.unfinished)
    elif file.format == "OGG":
        sound.cut = _ends_in_a_page(source) or None
    return sound


def ends_too_early(sound: Sound, read: int, stated: int | None) -> bool:
    """Return whether much less was read of a recording than it has by its header, both in samples of a channel."""
    return stated is not None and read < min(_WHOLE * stated, stated - _MISSING * sound.rate)


def _ends_in_a_page(source: str | os.PathLike | bytes) -> bool:
    """Return whether an Ogg file ends within a page, whose header says how long it is."""
    if isinstance(source, bytes):
        end = source[-_PAGE:]
    else:
        with open(source, "rb") as file:
            file.seek(max(0, os.path.getsize(source) - _PAGE))
            end = file.read()
    start = end.rfind(b"OggS")
    header = end[start : start + 27]
    if start < 0 or len(header) < 27:
        return start >= 0
    sizes = end[start + 27 : start + 27 + header[26]]
    return start + 27 + header[26] + sum(sizes) > len(end)


# --- FFmpeg -----------------------------------------------------------------------------------------------------------


def _by_ffmpeg(source: str | os.PathLike | bytes, name: str, kind: _Kind) -> Sound | None:
    """Open with FFmpeg's libraries a file of a kind that they decode; None if they don't."""
    import av

    file = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115 (closed with the Sound)
    try:
        # The format is given and the file is open, so that nothing that it says makes FFmpeg open another.
        options = {"protocol_whitelist": ""}
        container = av.open(file, format=kind.format, options=options, metadata_errors="replace")
    except Exception:  # PyAV raises FFmpeg's errors, and Python's own
        file.close()
        return None

    def close() -> None:
        container.close()
        file.close()

    if not container.streams.audio:
        close()
        if not container.streams:
            return None
        raise InputError(f"{name}: {kind.title} without a sound track")
    stream = container.streams.audio[0]
    codec = stream.codec_context
    if codec is None or not codec.rate or not codec.layout.nb_channels:  # None: a coding that FFmpeg doesn't know
        close()
        return None
    rate, channels = codec.rate, codec.layout.nb_channels

    def blocks(size: int, start: int) -> Iterator[np.ndarray]:
        decoder = ffmpeg.Decoder(container, kind.format in _SEEKABLE)
        skip = at = start
        parts, held = [], 0
        if kind.format in _SEEKABLE and start >= 10 * ffmpeg.RUN_UP * rate:
            try:
                skip = decoder.start_before(start)
            except Exception as error:  # as above
                raise InputError(f"{name}: {kind.title}, cut short or damaged ({error}); get the file again") from error
        for part in decoder.pieces():
            sound.cut = sound.cut or bool(decoder.reason) or None  # who reads a part doesn't come to the end
            part, skip = part[skip:], max(0, skip - len(part))
            parts.append(part)
            held += len(part)
            while held >= size:
                whole = np.concatenate(parts)
                yield np.ascontiguousarray(whole[:size])
                parts, held, at = [whole[size:]], held - size, at + size
        if held:
            yield np.concatenate(parts)
        at += held
        if kind.format == "matroska" and ffmpeg.ends_in_an_element(file):
            sound.cut = True
        if decoder.reason and at == start and not decoder.heard:
            raise InputError(f"{name}: {kind.title}, cut short or damaged ({decoder.reason}); get the file again")
        sound.cut = bool(sound.cut) or bool(decoder.reason) or ends_too_early(sound, at, sound.frames)

    seconds = float(stream.duration * stream.time_base) if stream.duration and kind.format in _STATED else None
    frames = round(seconds * rate) if seconds else None
    sound = Sound(rate, channels, frames, f"{kind.title} ({codec.name})", blocks, close)
    sound.cut = True if kind.format == "ogg" and _ends_in_a_page(source) else None
    return sound


# --- SoX --------------------------------------------------------------------------------------------------------------


def read_with_sox(path: str | os.PathLike, name: str = "") -> tuple[np.ndarray, int]:
    """Decode with SoX a file of one of the kinds that it is used for (`_SOX_KINDS`).

    Of a file whose first bytes tell nothing, the suffix says the kind (`_SOX_SUFFIXES`).

    Args:
        path: the file.
        name: of it, for messages; by default its path.

    Returns:
        int16 samples, (T,) or (T, channels), and the sample rate in Hz.

    Raises:
        InputError: the file is of no such kind, SoX isn't installed, or it can't read the file.
    """
    name = name or os.fspath(path)
    start = _first_bytes(path, name)
    kind = next((kind for kind, pattern in _SOX_KINDS.items() if re.match(pattern, start, re.DOTALL)), None)
    kind = kind or (_SOX_SUFFIXES.get(_suffix(path, "")) if _tells_nothing(start) else None)
    if kind is None:
        raise InputError(f"{name}: neither libsndfile nor SoX reads this kind of file; convert it to WAV or FLAC")
    with open(path, "rb") as file:
        return sox.decode(file, kind, name)


def _by_sox(path: str | os.PathLike, name: str) -> Sound:
    if _suffix(path, name) in _BARE:
        raise InputError(
            f"{name}: samples without a header, so their rate and coding aren't known; convert it: "
            "sox -t raw -r RATE -e signed -b 16 -c 1 IN.raw OUT.wav"
        )
    samples, rate = read_with_sox(path, name)
    samples = samples.reshape(len(samples), -1).astype(np.float32) / 32_768  # (T, channels)

    def blocks(size: int, start: int) -> Iterator[np.ndarray]:
        yield from (samples[place : place + size] for place in range(start, len(samples), size))

    return Sound(rate, samples.shape[1], len(samples), "read by SoX", blocks)


# --- Channels ---------------------------------------------------------------------------------------------------------


def mix_down(samples: np.ndarray) -> np.ndarray:
    """Return the mean of all channels; the loudest channel where they cancel each other out.

    Args:
        samples: float, (T, channels) or mono, (T,).

    Returns:
        float32, (T,).

    Example:
        >>> left = np.array([0.5, -0.5], np.float32)
        >>> mix_down(np.stack([left, -left], axis=1))
        array([ 0.5, -0.5], dtype=float32)
    """
    if samples.ndim == 1 or samples.shape[1] == 1:
        return samples.reshape(len(samples)).astype(np.float32, copy=False)
    mean = samples.mean(axis=1, dtype=np.float32)
    if not len(samples):
        return mean
    power = np.square(samples, dtype=np.float64).mean(axis=0)  # (channels,)
    if np.square(mean, dtype=np.float64).mean() < _CANCELLED * power.max():
        return np.ascontiguousarray(samples[:, power.argmax()], dtype=np.float32)
    return mean


def two_talkers(samples: np.ndarray, rate: int) -> bool:
    """Return whether two channels hold two people in turn, as in a recorded call.

    Each channel must be much louder (15 dB) than the other for a good part (20%) of the time in which somebody speaks.

    Args:
        samples: float, (T, channels).
        rate: sample rate in Hz.
    """
    if samples.ndim != 2 or samples.shape[1] != 2 or len(samples) < rate:
        return False
    levels = _spoken_levels(samples, rate)
    ratio = levels[:, 0] - levels[:, 1]
    return bool(len(ratio) and min((ratio > 15).mean(), (ratio < -15).mean()) > 0.2)


def speaking_channel(samples: np.ndarray, rate: int) -> int | None:
    """Return the channel, from 0, in which somebody speaks while the others are quiet; None if it can't be told.

    It must be the loudest by 6 dB in at least 80% of the time in which there is speech.

    Args:
        samples: float, (T, channels), at least two of them.
        rate: sample rate in Hz.

    Example:
        >>> voice = np.sin(np.arange(8_000)).astype(np.float32)
        >>> speaking_channel(np.stack([0.01 * voice, voice], axis=1), 8_000)
        1
        >>> speaking_channel(np.stack([voice, voice], axis=1), 8_000)
    """
    levels = _spoken_levels(samples, rate)
    if not len(levels):
        return None
    best, second = np.argmax(levels, axis=1), np.sort(levels, axis=1)
    leads = np.bincount(best[second[:, -1] - second[:, -2] > 6], minlength=samples.shape[1]) / len(levels)
    return int(leads.argmax()) if leads.max() >= 0.8 else None


def _spoken_levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the levels in dB of each channel in the frames of 20 ms in which one of them speaks, (n, channels)."""
    size = max(1, rate // 50)
    frames = samples[: len(samples) // size * size].reshape(-1, size, samples.shape[1])
    powers = np.square(frames, dtype=np.float64).mean(axis=1)  # (T, channels)
    if not len(powers):
        return powers
    loudest = powers.max(axis=1)
    spoken = loudest > max(1e-3 * np.quantile(loudest, 0.95), 1e-10)
    return 10 * np.log10(powers[spoken] + 1e-12)
