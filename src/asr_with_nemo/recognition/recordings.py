"""What a command is to transcribe: files, folders, lists and manifests become recordings with names."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from asr_with_nemo.base.files import read_text
from asr_with_nemo.data import audio
from asr_with_nemo.data.manifest import shortened
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.ngrams import is_language_model

SUFFIXES = frozenset(
    [
        ".wav",
        ".flac",
        ".mp3",
        ".ogg",
        ".oga",
        ".opus",
        ".m4a",
        ".mp4",
        ".webm",
        ".mkv",
        ".mov",
        ".aac",
        ".amr",
        ".3gp",
        ".wma",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".sph",
        ".w64",
        ".rf64",
    ]
)
"""Endings of the recordings that are looked for in folders."""
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


def find(inputs: Iterable[str], log: Callable[[str], object] = lambda text: None) -> list[Recording]:
    """Find the recordings that a command's arguments name.

    A folder is searched for files with a recording's ending, except hidden ones, such as the ._NAME files of Macs. A
    list has a path a line, from its own folder or the current one; a manifest a JSON object a line with
    `audio_filepath` and, if only a part is meant, `offset` and `duration`. `-` is a list on standard input.

    Args:
        inputs: paths.
        log: called with what the user should know.

    Raises:
        InputError: a folder, list or manifest has no recordings or can't be read, or an input is a language model.
    """
    found: list[Recording] = []
    for name in inputs:
        found += _expanded(name, log)
    return found


def _expanded(name: str, log: Callable[[str], object]) -> list[Recording]:
    path = Path(name)
    if name == "-":
        return _listed(_standard_input(), "standard input", Path())
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() in LISTS and path.is_file():
        text = read_text(path, "a list of recordings", "no such list")
        if is_language_model(path):
            raise InputError(f"{path}: is a language model, not a list; use --lm={path}")
        return _listed(text, str(path), path.parent)
    if path.suffix.lower() in MANIFESTS:
        return _in_manifest(path, log)
    if path.is_file() and is_language_model(path):
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
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.append(Recording(str(path), str(path), path.relative_to(folder).with_suffix("")))
    if not found:
        raise InputError(f"{folder}: has no recordings ({', '.join(sorted(SUFFIXES))})")
    return found


def _listed(text: str, name: str, folder: Path) -> list[Recording]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{name}: empty; expected the path of a recording a line")
    found = []
    for line in lines:
        path = folder / line
        try:
            path = path if path.exists() else Path(line)
        except OSError:  # a name that no file can have
            raise InputError(f"{name}: a line is no path of a recording: {line[:80]}") from None
        found.append(Recording(str(path), str(path), Path(path.stem)))
    return found


def _in_manifest(path: Path, log: Callable[[str], object]) -> list[Recording]:
    """Read a manifest, whose texts don't matter here."""
    text = read_text(path, "a manifest", "no such manifest")
    found, cut = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = _row(line, f"{path}, line {number}")
        file = os.path.normpath(path.parent / row["audio_filepath"])
        sound = audio.clip_of(row | {"audio_filepath": file})
        inside = os.path.relpath(file, path.parent)
        output = Path(Path(file).stem) if inside.startswith("..") else Path(inside).with_suffix("")
        if isinstance(sound, audio.Clip):
            until = "end" if sound.duration is None else f"{sound.offset + sound.duration:.2f}"
            output = output.with_name(f"{output.name}_{sound.offset:.2f}-{until}")
            if not row.get("offset") and (audio.minutes_of(file) or 0) * 60 > (sound.duration or 0):
                cut.append(str(sound))
        found.append(Recording(str(sound) if isinstance(sound, audio.Clip) else file, sound, output))
    if not found:
        raise InputError(f"{path}: the manifest is empty; expected a JSON object per utterance, one a line")
    if cut:
        log(
            f"warning: {path}: {len(cut)} recordings are longer than their duration says; only that much is heard, as "
            f"NeMo does (first: {cut[0]})"
        )
    return found


def _row(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({shortened(error)}); a manifest has an object a line") from error
    if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str):
        raise InputError(f"{where}: lacks 'audio_filepath', the path of a recording")
    for key in ("offset", "duration"):
        value = row.get(key)
        fine = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        if not fine or not 0 <= (value or 0) < 1e9:
            raise InputError(f"{where}: {key!r} is {shortened(repr(value))}; expected seconds")
    return row | {"duration": row.get("duration") or None}


def outputs(recordings: Iterable[Recording], folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the output file of each recording.

    Raises:
        InputError: two recordings would be written to one file.
    """
    taken: dict[Path, str] = {}
    for recording in recordings:
        path = folder / recording.output.with_name(recording.output.name + suffix)
        if path in taken:
            raise InputError(
                f"{path}: would hold both {taken[path]} and {recording.name}; name their common folder instead, "
                "whose folders are kept apart"
            )
        taken[path] = recording.name
        yield path
