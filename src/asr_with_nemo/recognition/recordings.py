"""What a command is to transcribe: files, folders, lists and manifests become recordings with names."""

import contextlib
import hashlib
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from asr_with_nemo.base.files import read_text
from asr_with_nemo.base.spool import Numbers, Spool
from asr_with_nemo.data import audio, object_storage
from asr_with_nemo.data.manifest import each_line, shortened
from asr_with_nemo.data.sound import SUFFIXES, Sound, is_recording, open_sound, two_talkers
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.ngrams import is_language_model

_BYTES_A_SECOND = 32_000  # of a 16-bit WAV; compressed files are longer
_LONGEST_NAME = 255  # bytes, on most systems
_LISTENED = 300.0  # seconds in which two talkers are looked for
_TABLES = (".csv", ".tsv", ".psv", ".xlsx", ".xls", ".ods")
LISTS, MANIFESTS = (".txt", ".lst", ".list"), (".json", ".jsonl")


@dataclass(frozen=True)
class Recording:
    """A recording, or a part of one.

    Attributes:
        name: as it is printed.
        sound: what is read.
        output: its name in a folder of outputs, without a suffix.
    """

    name: str
    sound: str | audio.Clip
    output: Path


def find(inputs: Iterable[str], log: Callable[[str], object] = lambda text: None) -> Spool[Recording]:
    """Find the recordings that a command's arguments name; of very many, most are kept in a temporary file.

    A folder is searched for files with a recording's ending, except hidden ones, such as the ._NAME files of Macs. A
    list has a path a line, from its own folder or the current one; a manifest a JSON object a line with
    `audio_filepath` and, if only a part is meant, `offset` and `duration`. `-` is a list on standard input. Recordings
    and folders may be in an object storage (`s3://BUCKET/...`), which only `recognition.bulk` reads.

    Args:
        inputs: paths.
        log: called with what the user should know.

    Raises:
        InputError: a folder, list or manifest has no recordings or can't be read, or an input is a language model.
    """
    found: Spool[Recording] = Spool()
    for name in inputs:
        found.extend(_expanded(name, log))
    return found


def _expanded(name: str, log: Callable[[str], object]) -> Iterable[Recording]:
    path, is_file = Path(name), os.path.isfile(name)  # Path's own raises where a name is too long for a file
    if name == "-":
        return _listed(_standard_input(), "standard input", Path())
    if object_storage.is_remote(name):
        return _in_storage(name)
    if os.path.isdir(name):
        return _in_folder(path)
    if path.suffix.lower() in LISTS and is_file:
        text = read_text(path, "a list of recordings", "no such list")
        if is_language_model(path):
            raise InputError(f"{path}: is a language model, not a list; use --lm={path}")
        return _listed(text, str(path), path.parent)
    if path.suffix.lower() in MANIFESTS:
        return _in_manifest(path, log)
    if path.suffix.lower() in _TABLES and is_file:
        raise InputError(
            f"{path}: a table, not a recording; name the folder of its recordings, or save its column of paths as "
            "text (.txt), a path a line"
        )
    if is_file and is_language_model(path):
        raise InputError(f"{path}: is a language model, not a recording; use --lm={path}")
    return [Recording(name, name, Path(path.stem))]


def _standard_input() -> str:
    if sys.stdin.isatty():
        print("reading paths from the terminal, one a line; end with Ctrl-D", file=sys.stderr)
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            "standard input: not text; `-` reads a list of paths, one a line; write a sound to a file first"
        ) from None


def _in_folder(folder: Path) -> list[Recording]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and is_recording(path):
                found.append(Recording(str(path), str(path), path.relative_to(folder).with_suffix("")))
    if not found:
        raise InputError(f"{folder}: has no recordings ({', '.join(sorted(SUFFIXES))})")
    return found


def _in_storage(name: str) -> list[Recording]:
    """Return the recordings of a folder of an object storage; or the one that a URL with a recording's ending names."""
    if Path(name).suffix.lower() in SUFFIXES:
        return [Recording(name, name, Path(Path(name).stem))]
    folder = name.rstrip("/") + "/"
    found = [
        Recording(url, url, Path(url.removeprefix(folder)).with_suffix(""))
        for url in object_storage.files_below(name)
        if Path(url).suffix.lower() in SUFFIXES and not Path(url).name.startswith(".")
    ]
    if not found:
        raise InputError(f"{name}: has no recordings ({', '.join(sorted(SUFFIXES))})")
    return found


def _listed(text: str, name: str, folder: Path) -> list[Recording]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{name}: empty; expected the path of a recording a line")
    found = []
    for line in lines:
        if object_storage.is_remote(line):
            found.append(Recording(line, line, Path(Path(line).stem)))
            continue
        path = folder / line
        try:
            path = path if path.exists() else Path(line)
        except OSError:  # a name that no file can have
            raise InputError(f"{name}: a line is no path of a recording: {line[:80]}") from None
        found.append(Recording(str(path), str(path), Path(path.stem)))
    return found


def _in_manifest(path: Path, log: Callable[[str], object]) -> Iterator[Recording]:
    """Read a manifest row by row; its texts don't matter here."""
    cut, first = 0, ""
    for number, line in each_line(path):
        row = _row(line.data, f"{path}, line {number}")
        file = row["audio_filepath"]
        if not object_storage.is_remote(file):
            file = os.path.normpath(path.parent / file)
        sound = audio.clip_of(row | {"audio_filepath": file})
        inside = os.path.relpath(file, path.parent)
        output = Path(Path(file).stem) if inside.startswith("..") else Path(inside).with_suffix("")
        if isinstance(sound, audio.Clip):
            until = "end" if sound.duration is None else f"{sound.offset + sound.duration:.2f}"
            output = output.with_name(f"{output.name}_{sound.offset:.2f}-{until}")
            if not row.get("offset") and (audio.minutes_of(file) or 0) * 60 > (sound.duration or 0):
                cut, first = cut + 1, first or str(sound)
        yield Recording(str(sound) if isinstance(sound, audio.Clip) else file, sound, output)
    if cut:
        log(
            f"warning: {path}: {cut} recordings are longer than their duration says; only that much is heard, as "
            f"NeMo does (first: {first})"
        )


def _row(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: can't be read as a manifest ({error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({shortened(error)}); a manifest has an object a line") from error
    if isinstance(row, list):
        raise InputError(f"{where}: a JSON list; a manifest has an object a line, without brackets around them")
    if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str):
        raise InputError(f"{where}: lacks 'audio_filepath', the path of a recording")
    for key in ("offset", "duration"):
        value = row.get(key)
        fine = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        if not fine or not 0 <= (value or 0) < 1e9:
            raise InputError(f"{where}: {key!r} is {shortened(repr(value))}; expected seconds")
    return row | {"duration": row.get("duration") or None}


# --- Channels, and what shows when a file is read ---------------------------------------------------------------------


def split_channels(recordings: Iterable[Recording]) -> Iterator[Recording]:
    """Yield each channel of recordings of several as a recording of its own; others, and unreadable ones, unchanged.

    In a folder of outputs, the channels of call.wav are call_channel1 and call_channel2.
    """
    channels = Numbers()
    for recording in recordings:
        whole = recording.sound if isinstance(recording.sound, audio.Clip) else audio.Clip(recording.sound)
        count = channels.get(whole.path)
        if count is None:
            channels[whole.path] = count = _channels_of(whole.path)
        if count < 2:
            yield recording
            continue
        for channel in range(count):
            output = recording.output.with_name(f"{recording.output.name}_channel{channel + 1}")
            clip = replace(whole, channel=channel)
            yield Recording(f"{recording.name} channel {channel + 1}", clip, output)


def _channels_of(path: str) -> int:
    """Return the number of a file's channels; 0 if it can't be read."""
    try:
        with open_sound(path) as sound:
            return sound.channels
    except InputError:
        return 0


class Survey:
    """Collects what a user should know of recordings while they are read: mixed channels, and files that are cut short.

    Example:
        >>> survey = Survey()
        >>> survey.watched("missing.wav").path  # who reads it says that it is missing
        'missing.wav'
        >>> list(survey.lines())
        []
    """

    def __init__(self) -> None:
        self._noted = Numbers()
        self._mixed: list[str] = []
        self._talkers: list[str] = []
        self._wrong: dict[str, list[str]] = {}

    def watched(self, sound: str | audio.Clip) -> audio.Clip:
        """Return a recording of which is noted what shows when it is read."""
        clip = sound if isinstance(sound, audio.Clip) else audio.Clip(sound)
        return replace(clip, seen=partial(self._note, clip))

    def _note(self, clip: audio.Clip, sound: Sound) -> None:
        wrong = "its header was never finished" if sound.unfinished else "is cut short or damaged" if sound.cut else ""
        if wrong and self._is_first(wrong, clip.path):
            self._wrong.setdefault(wrong, []).append(clip.path)
        if sound.channels > 1 and clip.channel is None and self._is_first("mixed", clip.path):
            self._mixed.append(clip.path)
            if sound.channels == 2 and _has_two_talkers(clip.path):
                self._talkers.append(clip.path)

    def _is_first(self, what: str, path: str) -> bool:
        key = json.dumps([what, path])
        is_first = key not in self._noted
        self._noted[key] = 1
        return is_first

    def lines(self) -> Iterator[str]:
        """Yield a warning for each kind of thing that was found, with a count and the first file."""
        for wrong, paths in self._wrong.items():
            yield f"warning: {paths[0]}{_and_others(paths)}: {wrong}; what is there was read"
        if self._mixed:
            line = f"{self._mixed[0]}{_and_others(self._mixed)}: several channels were mixed into one"
            if self._talkers:
                line = (
                    f"warning: {line}; of {self._talkers[0]}{_and_others(self._talkers)} each channel is another person"
                )
            yield f"{line}; --channels split reads each by itself"


def _and_others(paths: Sequence[str]) -> str:
    return f" and {len(paths) - 1:,} more" if paths[1:] else ""


def _has_two_talkers(path: str) -> bool:
    """Return whether two people speak in turn in the first minutes, a channel each."""
    try:
        with open_sound(path) as sound:
            samples = np.concatenate(list(sound.blocks(1 << 18, 0, round(_LISTENED * sound.rate))))
            return two_talkers(samples, sound.rate)
    except (InputError, ValueError):  # damaged, or without a sample
        return False


def outputs(recordings: Sequence[Recording], folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the output file of each recording; a.m4a.txt and a.webm.txt, where there is a.m4a beside a.webm.

    Raises:
        InputError: two recordings would be written to one file.
    """
    named = Counter(recording.output for recording in recordings)
    taken: dict[Path, str] = {}
    for recording in recordings:
        kind = Path(clip_of(recording)[0]).suffix if named[recording.output] > 1 else ""
        path = folder / recording.output.with_name(_short(recording.output.name, kind + suffix))
        if path in taken:
            same = taken[path] == recording.name
            raise InputError(
                f"{path}: would hold {recording.name} twice; name it once"
                if same
                else f"{path}: would hold both {taken[path]} and {recording.name}; name their common folder instead, "
                "whose folders are kept apart"
            )
        taken[path] = recording.name
        yield path


def _short(name: str, suffix: str) -> str:
    """Return a file's name with a suffix; of one that is too long for a file, the start and a digest."""
    written = os.fsencode(name)
    if len(written) + len(os.fsencode(suffix)) <= _LONGEST_NAME:
        return name + suffix
    start = written[: _LONGEST_NAME - 40].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(written).hexdigest()[:16]}{suffix}"


# --- Recordings of bulk work ------------------------------------------------------------------------------------------


def id_of(recording: Recording) -> str:
    """Return what a recording is known by, wherever the command is started: its path and part."""
    return hashlib.sha256(json.dumps(clip_of(recording)).encode()).hexdigest()[:24]


def clip_of(recording: Recording) -> list:
    """Return the arguments of an `audio.Clip`, with the absolute path or the URL."""
    sound = recording.sound if isinstance(recording.sound, audio.Clip) else audio.Clip(str(recording.sound))
    where = str(sound.path) if object_storage.is_remote(sound.path) else os.path.abspath(sound.path)
    return [where, sound.offset, sound.duration, sound.channel]


def mean_seconds(recordings: Sequence[Recording]) -> float:
    """Estimate the mean length of recordings by their sizes; 0 if none can be looked at."""
    seconds = []
    for recording in recordings:
        path, _, duration, _ = clip_of(recording)
        with contextlib.suppress(OSError, InputError):
            if duration is None:
                system, path = object_storage.filesystem(path)
                duration = (system.get_file_info(path).size or 0) / _BYTES_A_SECOND
            seconds.append(duration)
    return statistics.fmean(seconds) if seconds else 0.0
