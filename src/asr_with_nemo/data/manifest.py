"""NeMo manifests: one JSON object a line, `{"audio_filepath": ..., "duration": seconds, "text": ...}`.

Paths are relative to the manifest, so that a folder with its manifests can be moved. Further keys (`speaker`) are kept;
NeMo ignores them.
"""

import codecs
import json
import os
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import soundfile

from asr_with_nemo.base.files import reading, replacing
from asr_with_nemo.data.audio import PAST_END
from asr_with_nemo.data.sound import open_sound
from asr_with_nemo.errors import InputError

CORPUS_NOTES = "corpus.json"
"""The file next to a corpus's manifests that describes how the corpus was made."""
_LONGEST = 1e9  # seconds: thirty years
_REQUIRED = {"audio_filepath": str, "duration": (int, float), "text": str}
Utterance = dict
"""A line of a manifest: audio_filepath, duration in seconds, text, and further keys such as speaker."""


def read_manifest(path: str | os.PathLike, check_audio: bool = True) -> list[Utterance]:
    """Read a manifest, with each `audio_filepath` made absolute.

    Raises:
        InputError: the manifest is missing or empty, a line (named by its number) isn't JSON or lacks a key, or, with
            `check_audio`, an audio file is missing.
    """
    return list(each_utterance(path, check_audio))


def each_utterance(path: str | os.PathLike, check_audio: bool = True) -> Iterator[Utterance]:
    """Read a manifest utterance by utterance, so that its size doesn't matter; otherwise as `read_manifest`.

    Raises:
        InputError: as `read_manifest`, when the line is reached.
    """
    path = Path(path)
    folder = str(path.parent.absolute())
    for number, line in each_line(path):
        utterance = parse_line(path, number, line.data)
        audio = _joined(folder, utterance["audio_filepath"])
        if check_audio and not os.path.isfile(audio):
            said = f"{path}, line {number}: the audio file {shortened(audio)} is missing"
            raise InputError(f"{said}{_same_name(Path(audio))}")
        utterance["audio_filepath"] = audio
        yield utterance


def _joined(folder: str, name: str) -> str:
    """Return `str(Path(folder) / name)`, in a fifth of the time for an ordinary name."""
    path = os.path.join(folder, name)  # an absolute path stays as it is
    return str(Path(path)) if "/." in path or "//" in path or path.endswith("/") else path


def _same_name(path: Path) -> str:
    """Return, for an error, that a file has this name with its accents stored in another way; "" if there is none."""
    names = {unicodedata.normalize(form, path.name) for form in ("NFC", "NFD")} - {path.name}
    if any(path.with_name(name).is_file() for name in names):
        return "; a file is there whose name looks the same, with its accents stored otherwise (NFC, NFD): rename it"
    return ""


class Line(NamedTuple):
    """A line of a manifest, and its place in the file in bytes."""

    place: int
    data: bytes


def each_line(path: str | os.PathLike) -> Iterator[tuple[int, Line]]:
    """Yield the lines of a manifest that have an utterance, with their numbers from 1.

    Raises:
        InputError: the manifest is missing, can't be read, or is empty.
    """
    place, found = 0, False
    missing = "no such manifest; scripts/prepare_corpus.py makes one, or scripts/prepare_an4.py for AN4"
    with reading(path, "a manifest", missing), open(path, "rb") as file:
        for number, data in enumerate(file, 1):
            start, place = place, place + len(data)
            if number == 1 and data.startswith(codecs.BOM_UTF8):
                start, data = len(codecs.BOM_UTF8), data[len(codecs.BOM_UTF8) :]
            if data.strip():
                found = True
                yield number, Line(start, data)
    if not found:
        raise InputError(f"{path}: the manifest is empty; expected a JSON object per utterance, one a line")


def count_rows(paths: Iterable[str | os.PathLike]) -> int:
    """Count the utterances of manifests, without parsing them.

    Raises:
        InputError: as `each_line`.
    """
    return sum(1 for path in paths for _ in each_line(path))


def parse_line(path: str | os.PathLike, number: int, data: bytes) -> Utterance:
    """Parse and check a line of a manifest; its `audio_filepath` stays as it is.

    Args:
        path, number: of the manifest and the line, for the message.
        data: the line.

    Raises:
        InputError: it isn't an utterance.
    """
    where = f"{path}, line {number}"
    try:
        utterance = json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: can't be read as a manifest ({error})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise InputError(f"{where}: not JSON that can be read ({error})") from error
    except RecursionError as error:
        raise InputError(f"{where}: not an utterance: its JSON is nested too deeply") from error
    _check(utterance, where)
    return utterance


def _check(utterance: object, where: str) -> None:
    if not isinstance(utterance, dict):
        raise InputError(f"{where}: expected a JSON object with {', '.join(_REQUIRED)}")
    for key, kind in _REQUIRED.items():
        if key not in utterance:
            raise InputError(f"{where}: lacks {key!r}; expected {', '.join(_REQUIRED)}")
        if not isinstance(utterance[key], kind) or isinstance(utterance[key], bool):
            raise InputError(
                f"{where}: {key!r} is {shortened(repr(utterance[key]))}, "
                f"expected a {'text' if kind is str else 'number'}"
            )
    if not 0 < utterance["duration"] < _LONGEST:
        duration = shortened(str(utterance["duration"]))
        raise InputError(f"{where}: 'duration' is {duration}; expected seconds above zero")
    offset = utterance.get("offset")
    is_number = isinstance(offset, int | float) and not isinstance(offset, bool)
    if offset is not None and not (is_number and 0 <= offset < _LONGEST):
        raise InputError(f"{where}: 'offset' is {shortened(repr(offset))}; expected seconds from the file's start")


def shortened(value: object, length: int = 300) -> str:
    """Return a value as text for a message, without its middle if it is long.

    Example:
        >>> shortened("a" * 1_000, 9)
        'aaa...aaa'
    """
    text = str(value)
    kept = (length - 3) // 2
    return text if len(text) <= length else f"{text[:kept]}...{text[-kept:]}"


def write_manifest(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Write utterances as a manifest with paths relative to it; a file with the same content is left untouched."""
    path = Path(path)
    folder = path.parent.absolute()
    lines = (
        json.dumps(u | {"audio_filepath": os.path.relpath(u["audio_filepath"], folder)}, ensure_ascii=False) + "\n"
        for u in utterances
    )
    # The processes of one training may write it at the same moment.
    with (
        replacing(path, shared=True, only_if_changed=True) as partial,
        open(partial, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(lines)  # one by one: a large corpus may not fit into memory


def hold_out_speakers(
    utterances: list[Utterance], count: int, seed: int = 0, tries: int = 2_000
) -> tuple[list[Utterance], list[Utterance]]:
    """Split utterances into (kept, held out) by whole speakers, with about `count` utterances held out.

    Of `tries` random draws of speakers, the best is the one nearest to `count`; among equals, the one whose shares of
    speaker groups are nearest to the whole set's (a group is the first letter of the speaker's name: AN4 names women
    f..., men m...). The order of the utterances is kept, and the same input gives the same split.

    Raises:
        InputError: fewer than two speakers, so none can be held out.
    """
    by_speaker = defaultdict(int)
    for utterance in utterances:
        by_speaker[utterance["speaker"]] += 1
    if len(by_speaker) < 2:
        raise InputError(
            f"a dev set of other speakers needs at least two speakers; these {len(utterances)} utterances have "
            f"{len(by_speaker)}"
        )

    def shares(speakers: Iterable[str]) -> dict[str, float]:
        counts = defaultdict(float)
        for speaker in speakers:
            counts[speaker[:1]] += by_speaker[speaker]
        return {group: n / sum(counts.values()) for group, n in counts.items()}

    whole = shares(by_speaker)
    generator = random.Random(seed)
    best, best_cost = [], None
    for _ in range(tries):
        order = generator.sample(sorted(by_speaker), len(by_speaker))
        held, total = [], 0
        for speaker in order[:-1]:  # one speaker must be left for training
            if not held or total + by_speaker[speaker] <= count:
                held.append(speaker)
                total += by_speaker[speaker]
        part = shares(held)
        cost = (abs(count - total), sum(abs(part.get(group, 0) - share) for group, share in whole.items()))
        if best_cost is None or cost < best_cost:
            best, best_cost = held, cost
    held = set(best)
    return [u for u in utterances if u["speaker"] not in held], [u for u in utterances if u["speaker"] in held]


def shared_with(utterances: Iterable[Utterance], others: Iterable[Utterance]) -> dict[str, list[str]]:
    """Return the recordings and speakers that two sets share: `{"recording": [...], "speaker": [...]}`.

    Recordings are compared by their real paths, speakers by their names. A key without shared items is left out.
    The first set is read utterance by utterance (`each_utterance`); of the second, the paths and names are in memory.

    Example:
        >>> train, test = {"audio_filepath": "/a.wav", "speaker": "ann"}, {"audio_filepath": "/b.wav", "speaker": "ann"}
        >>> shared_with([train], [test])
        {'speaker': ['ann']}
    """

    real_folder = lru_cache(maxsize=1_000)(os.path.realpath)

    def keys(row: Utterance) -> dict[str, str | None]:
        path = row["audio_filepath"]
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_folder(folder), name)
        return {"recording": real, "speaker": row.get("speaker") or None}

    theirs, shared = defaultdict(set), defaultdict(set)
    for row in others:
        for kind, key in keys(row).items():
            theirs[kind].add(key)
    for row in utterances:
        for kind, key in keys(row).items():
            if key is not None and key in theirs[kind]:
                shared[kind].add(key)
    return {kind: sorted(shared[kind]) for kind in ("recording", "speaker") if shared[kind]}


def check_alphabet(manifest: str | os.PathLike, utterances: Iterable[Utterance], labels: Iterable[str]) -> None:
    """Check that every transcript uses only the model's alphabet.

    Raises:
        InputError: a transcript has characters outside `labels`, which NeMo would drop silently.
    """
    allowed = set(labels)
    for number, utterance in enumerate(utterances, 1):
        strange = sorted(set(utterance["text"]) - allowed)
        if strange:
            raise InputError(
                f"{manifest}, utterance {number}: the text {utterance['text']!r} has {' '.join(map(repr, strange))}, "
                f"which the model's alphabet {''.join(sorted(allowed))!r} lacks; change the text or model.labels"
            )


def check_recordings(manifest: str | os.PathLike, utterances: Iterable[Utterance], sample_rate: int) -> None:
    """Check, by the headers alone, that a model can be trained on the recordings.

    Raises:
        InputError: a file isn't audio, is empty, has several channels, or another rate than `sample_rate` in Hz; or an
            utterance lies beyond the end of its file.
    """
    seconds: dict[str, float] = {}  # several utterances can be cut out of one file
    for number, utterance in enumerate(utterances, 1):
        path = utterance["audio_filepath"]
        where = f"{manifest}, utterance {number}: {path}"
        if path not in seconds:
            seconds[path] = checked_length(where, path, sample_rate)
        check_part(where, utterance, seconds[path])


def checked_length(where: str, path: str, sample_rate: int) -> float:
    """Return the seconds of a recording, by its header, if a model can be trained on it.

    Args:
        where: begins the message of an error.
        path: of the recording.
        sample_rate: of the model, in Hz.

    Raises:
        InputError: it can't.
    """
    seconds, rate, channels = header_of(where, path)
    if seconds == 0:
        raise InputError(f"{where}: has no audio (zero samples); remove the line")
    if channels != 1 or rate != sample_rate:
        raise InputError(
            f"{where}: {rate:,} Hz with {channels} channel(s), where the model expects "
            f"{sample_rate:,} Hz mono; convert it: sox IN.wav -r {sample_rate} -c 1 OUT.wav"
        )
    return seconds


def header_of(where: str, path: str) -> tuple[float, int, int]:
    """Return the seconds, the sample rate in Hz, and the number of channels of a recording, by its header.

    Raises:
        InputError: it isn't audio, or can't be read; `where` begins the message.
    """
    try:
        info = soundfile.info(path)  # by its path, as NeMo opens it
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the suffix .raw, whatever the file is
        with open_sound(path, where) as sound:  # which says what it is if it can't be decoded either
            raise InputError(
                f"{where}: {sound.coding}, which training doesn't read; make WAVs: "
                "python scripts/prepare_corpus.py MANIFEST --out DIR"
            ) from error
    return info.frames / info.samplerate, info.samplerate, info.channels


def check_part(where: str, utterance: Utterance, seconds: float) -> None:
    """Check that a file of this length holds an utterance: NeMo would read what is there, or fail without its name.

    Raises:
        InputError: it doesn't.
    """
    offset = utterance.get("offset") or 0.0
    end = offset + (utterance.get("duration") or 0.0)
    if offset and (offset >= seconds or end > seconds + PAST_END):
        raise InputError(
            f"{where} has {seconds:.2f} s, but the utterance is from {offset:g} s to {end:g} s; are the times in "
            "milliseconds, or of another file?"
        )


def letters_of(manifests: Iterable[str | os.PathLike]) -> list[str]:
    """Return the characters of the texts of manifests, sorted by code point, so that the space is first.

    Raises:
        InputError: a manifest can't be read.
    """
    letters: set[str] = set()
    for path in manifests:
        for utterance in each_utterance(path, check_audio=False):
            letters.update(utterance["text"])
    return sorted(letters)
