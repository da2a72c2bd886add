"""Where transcripts are written: to the terminal, into one file, or a file each into a folder.

What has been transcribed is noted in a file beside (`.NAME.progress`), a line a recording, so that a command that was
interrupted goes on. The notes begin with the command's settings: with another model or format, all is done anew.
"""

import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from asr_with_nemo.base.files import alone_in, reason_of, replacing
from asr_with_nemo.base.spool import Numbers, Spool
from asr_with_nemo.data import audio
from asr_with_nemo.data.manifest import Utterance, write_manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.formats import FORMATS, Format
from asr_with_nemo.recognition.recordings import Recording, outputs
from asr_with_nemo.recognition.transcripts import Transcript, Word


class Terminal:
    """Prints each transcript when it is ready.

    Attributes:
        pending: the recordings that are still to be transcribed.
    """

    def __init__(self, form: Format, recordings: Sequence[Recording]):
        self.pending, self._form, self._several = recordings, form, len(recordings) > 1
        if self._several and not form.several:
            raise InputError(
                f"{form.suffix.removeprefix('.')} holds one recording, and these are {len(recordings)}; write a file "
                "each: --output-dir DIR"
            )
        self._begun = False
        self._names: dict[Recording, deque[str]] = {}  # of a recording that is listed twice, both
        if form.names:
            for one, name in zip(recordings, form.names([one.name for one in recordings]), strict=True):
                self._names.setdefault(one, deque()).append(name)

    def add(self, recording: Recording, heard: Transcript) -> None:
        """Print a transcript."""
        print("" if self._begun else self._form.head, end="")
        self._begun = True
        print(self._form.write(self._name(recording), heard, self._several), end="", flush=True)

    def _name(self, recording: Recording) -> str:
        names = self._names.get(recording)
        return names.popleft() if names else self._form.name(recording.name)

    def finish(self) -> None:
        """Do nothing: all is printed."""


class OneFile(Terminal):
    """Writes all transcripts into one file, in the order of the recordings, once all are done.

    Raises:
        InputError: the file can't be written, or the format holds one recording and there are several.
    """

    def __init__(self, form: Format, recordings: Sequence[Recording], path: Path, settings: Mapping):
        super().__init__(form, recordings)
        self._path, self._all = path, recordings
        self._notes = _Notes(path.with_name(f".{path.name}.progress"), settings)
        if self._notes.any:
            self.pending = Spool(recording for recording in recordings if _key(recording) not in self._notes.places)

    def add(self, recording: Recording, heard: Transcript) -> None:
        """Keep a transcript."""
        self._notes.add(_key(recording), heard)

    def finish(self) -> None:
        """Write the file, and remove the notes."""
        try:
            with (
                replacing(self._path) as partial,
                open(partial, "w", encoding="utf-8", errors="backslashreplace") as file,
            ):
                file.write(self._form.head)
                for recording in self._all:
                    if (heard := self._notes.heard(_key(recording))) is not None:
                        file.write(self._form.write(self._name(recording), heard, self._several))
        except OSError as error:
            raise InputError(f"{self._path}: can't be written ({reason_of(error)})") from error
        self._notes.remove()


class ForAPerson(OneFile):
    """Writes recordings with the texts that were heard, to be corrected: all, or those with the lowest confidence.

    Args:
        recordings, path, settings: as of `OneFile`.
        write: called with the path, the recordings' places and transcripts, and what `log` is to be told of them.
        count: of the recordings to write; None for all, in their order.

    Raises:
        InputError: the file is there already, or can't be written.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        path: Path,
        settings: Mapping,
        write: Callable[[Path, Iterator[tuple[int, Transcript]], str], None],
        count: int | None = None,
    ):
        if path.exists():
            raise InputError(f"{path}: there is such a file, which may hold corrected texts; name another --output")
        super().__init__(FORMATS["jsonl"], recordings, path, settings)
        self._count, self._write = count, write

    def finish(self) -> None:
        """Write the file, the lowest confidence first if some are chosen, and remove the notes."""
        if self._count is None:
            places, said = [place for place, one in enumerate(self._all) if _key(one) in self._notes.places], ""
        else:
            places, said = self._least_certain(self._count)
        self._write(self._path, ((place, self._notes.heard(_key(self._all[place]))) for place in places), said)
        self._notes.remove()

    def _least_certain(self, count: int) -> tuple[list[int], str]:
        found, without = [], 0
        for place, recording in enumerate(self._all):
            heard = self._notes.heard(_key(recording))
            if heard is not None and heard.confidence is None:
                without += 1
            elif heard is not None:
                found.append((heard.confidence, place))
        chosen = sorted(found)[:count]
        if not chosen:
            raise InputError(f"{self._path}: not written, since in none of the recordings a word was heard")
        left = f"; {without} without a word are left out" if without else ""
        return [place for _, place in chosen], (
            f"the {len(chosen)} of {len(self._all)} recordings with the lowest confidence, "
            f"{chosen[0][0]:.2f} to {chosen[-1][0]:.2f}{left}"
        )


def write_manifest_to_correct(
    path: Path,
    heard: Iterable[tuple[int, Transcript]],
    said: str,
    recordings: Sequence[Recording],
    log: Callable[[str], object] = print,
) -> None:
    """Write recordings with the texts that were heard and their confidence as a manifest.

    Raises:
        InputError: it can't be written.
    """
    try:
        write_manifest(path, (_utterance(recordings[place], one) for place, one in heard))
    except OSError as error:
        raise InputError(f"{path}: can't be written ({reason_of(error)})") from error
    log(f"{path}: {said}. Listen, correct the texts in it, then: python scripts/prepare_corpus.py {path} --out DIR")


def _utterance(recording: Recording, heard: Transcript) -> Utterance:
    sound = recording.sound
    clip = sound if isinstance(sound, audio.Clip) else audio.Clip(sound)
    row = {"audio_filepath": clip.path, "duration": round(heard.duration, 3), "text": heard.text}
    row |= {"offset": clip.offset} if clip.offset or clip.duration else {}
    row |= {} if clip.channel is None else {"channel": clip.channel + 1}
    return row | {"confidence": round(heard.confidence, 4)}


class Folder(Terminal):
    """Writes each transcript into a file of its own, as soon as it is ready; the notes stay for the next time.

    Raises:
        InputError: the folder can't be written, or two recordings would have the same file.
    """

    def __init__(self, form: Format, recordings: Sequence[Recording], folder: Path, settings: Mapping):
        super().__init__(form, recordings[:1])
        self._paths = dict(zip(recordings, outputs(recordings, folder, form.suffix), strict=True))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: can't be written ({reason_of(error)})") from error
        notes = folder / f".transcribe{form.suffix}.progress"
        if not notes.is_file() and (old := next((path for path in self._paths.values() if path.exists()), None)):
            raise InputError(f"{old}: there is such a file, and not from this command; name another --output-dir")
        self._notes = _Notes(notes, settings)
        self.pending = [
            recording
            for recording, path in self._paths.items()
            if _key(recording) not in self._notes.places or not path.is_file()
        ]

    def add(self, recording: Recording, heard: Transcript) -> None:
        """Write a transcript."""
        path = self._paths[recording]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                text = self._form.head + self._form.write(self._form.name(recording.name), heard, False)
                partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(f"{path}: can't be written ({reason_of(error)})") from error
        self._notes.add(_key(recording))


def _key(recording: Recording) -> str:
    """Return what a recording is known by: its name and part, and its file's size and date."""
    sound = recording.sound
    path, part = (sound.path, [sound.offset, sound.duration]) if isinstance(sound, audio.Clip) else (sound, None)
    if isinstance(sound, audio.Clip) and sound.channel is not None:
        part = [*part, sound.channel]
    return json.dumps([recording.name, str(recording.output), part, *stamp(path)])


def stamp(path: str | os.PathLike) -> list:
    """Return a file's size and date, by which a change shows; nothing if it is missing."""
    try:
        facts = os.stat(path)
    except OSError:
        return []
    return [facts.st_size, facts.st_mtime_ns]


class _Notes:
    """The notes of what is done: the settings, then a line a recording, with its transcript if it is kept here."""

    def __init__(self, path: Path, settings: Mapping):
        self._path, self.places, self.any = path, Numbers(), False  # key → where its line begins
        head = json.dumps({"settings": settings}, sort_keys=True) + "\n"
        try:
            end = self._read(head.encode())
            self._file = open(path, "r+b" if end else "wb")  # noqa: SIM115 (open while the command runs)
            if not end:
                end = self._file.write(head.encode())
            self._file.truncate(end)  # half a line
            self._file.seek(end)
        except OSError as error:
            raise InputError(f"{path}: can't be written ({reason_of(error)})") from error

    def _read(self, head: bytes) -> int:
        """Read what is there, and return where its last whole line ends; 0 if it is of other settings."""
        if not self._path.is_file():
            return 0
        with open(self._path, "rb") as file:
            if file.readline() != head:
                return 0
            end = len(head)
            for line in file:
                try:
                    key = json.loads(line)["key"] if line.endswith(b"\n") else None
                except (ValueError, TypeError, KeyError):
                    key = None
                if not isinstance(key, str):
                    break
                self.places[key], self.any = end, True
                end += len(line)
            return end

    def add(self, key: str, heard: Transcript | None = None) -> None:
        line = {"key": key} if heard is None else {"key": key, "heard": asdict(heard)}
        self.places[key] = self._file.tell()
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def heard(self, key: str) -> Transcript | None:
        place = self.places.get(key)
        if place is None:
            return None
        with open(self._path, "rb") as file:
            file.seek(place)
            heard = json.loads(file.readline())["heard"]
        return Transcript(**heard | {"words": [Word(**word) for word in heard["words"]]})

    def remove(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(output: Path | None, folder: Path | None, log: Callable[[str], object]) -> Iterator[None]:
    """Write to a file or folder as the only process; while another command does, wait for it to end, and say so.

    Raises:
        InputError: it can't be written.
    """
    with contextlib.ExitStack() as stack:
        place = folder if folder is not None or output is None else output.parent
        if place is not None and (folder is not None or place.is_dir()):
            name = "" if output is None else output.name
            try:
                stack.enter_context(alone_in(place, "is transcribing", log, name))
            except OSError as error:
                raise InputError(f"{place}: can't be written ({reason_of(error)})") from error
        yield


def destination(
    form: Format, recordings: Sequence[Recording], output: Path | None, folder: Path | None, settings: Mapping
) -> Terminal:
    """Return where a command writes.

    Raises:
        InputError: it can't be written, or the format doesn't fit.
    """
    if folder is not None:
        return Folder(form, recordings, folder, settings)
    if output is not None:
        return OneFile(form, recordings, output, settings)
    return Terminal(form, recordings)


def say_what_is_done(recordings: Sequence[Recording], pending: Sequence[Recording]) -> None:
    """Say on stderr how many recordings were done before."""
    if len(pending) < len(recordings):
        print(f"{len(recordings) - len(pending)} of {len(recordings)} were done before", file=sys.stderr)
