"""Readers of segments with times: Whisper's JSON and what looks like it, STM, CTM, and tables with start and end."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median

from asr_with_nemo.base.values import is_whole
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import channels, services, tables, times
from asr_with_nemo.own_data.cues import PAUSE, Cue, Reading, lines_of, seconds_of, utterances_of
from asr_with_nemo.own_data.store import AUDIO

_STARTS = ("start", "startTime", "start_time", "begin", "begin_time")
_ENDS = ("end", "endTime", "end_time", "stop")
_TEXTS = ("text", "word", "body", "transcript", "content")
_LOOKED = 20  # rows
_LONG_WORD = 10.0  # seconds; no word is as long

# --- Whisper ----------------------------------------------------------------------------------------------------------


def read_json(path: Path, encoding: str = "") -> Reading | None:
    """Read the segments that Whisper, faster-whisper, WhisperX, whisper.cpp, OpenAI's API or a speech service wrote.

    Returns:
        None if it is valid JSON of another kind.

    Raises:
        InputError: the file can't be read, or isn't JSON.
    """
    content = "".join(lines_of(path, encoding))
    try:
        document = _document(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON, or truncated ({str(error)[:200]})") from error
    notes = ["a machine's transcripts, and as right as it was: listen to some"]
    if of_service := services.items_of(document):
        name, key, segments = of_service
        notes.append(f"read as JSON of {name}")
    else:
        key, segments = _segments(document)
    if segments is None:
        return None
    cues = [_of_segment(f"{key} {number}", one) for number, one in enumerate(segments, 1)]
    cues = cues if of_service else _with_channels(cues)
    are_whole = not of_service and bool(segments) and all(_has_whole_times(one) for one in segments)
    if key == "word":
        notes.append(f"words with times: joined to utterances, up to {PAUSE:g} s of pause")
        if are_whole and median(cue.end - cue.start for cue in cues) > _LONG_WORD:
            notes.append("words of many seconds: their times are read as milliseconds")
            cues = [replace(cue, start=cue.start / 1000, end=cue.end / 1000) for cue in cues]
        channels_there = dict.fromkeys(cue.channel for cue in cues)
        cues = [one for way in channels_there for one in utterances_of([cue for cue in cues if cue.channel == way])]
    return Reading(cues, notes, is_unitless=are_whole and key != "word")


def _document(content: str) -> object:
    """Return the value of a file of JSON, or the list of those of JSON lines."""
    try:
        return json.loads(content)
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
        if "Extra data" not in str(error) or not lines[0][1].strip().endswith("}"):
            raise
    found = []
    for number, line in lines:
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"line {number} of JSON lines: {error}") from error
    return found


def _has_whole_times(one: object) -> bool:
    return isinstance(one, dict) and all(type(_first(one, names)) is int for names in (_STARTS, _ENDS))


def _first(one: dict, names: Sequence[str]) -> object:
    return next((one[name] for name in names if one.get(name) is not None), None)


def _segments(document: object) -> tuple[str, list | None]:
    """Return what the items are called, and the items; None if it isn't a transcript."""
    if isinstance(document, list):
        is_one = bool(document) and all(
            isinstance(one, dict) and all(_first(one, names) is not None for names in (_STARTS, _ENDS, _TEXTS))
            for one in document
        )
        return "segment", document if is_one and not any(_names_audio(one) for one in document[:20]) else None
    if not isinstance(document, dict):
        return "", None
    for key in ("segments", "chunks", "transcription", "utterances", "words"):
        items = document.get(key)
        if isinstance(items, list):
            first = [one for one in items[:20] if isinstance(one, dict)]
            timed = [one for one in first if {*_STARTS, "timestamp", "timestamps", "offsets"} & set(one)]
            if timed or (not items and "text" in document and key == "segments"):
                return "word" if key == "words" else "segment", items
    return "", None


def _names_audio(cells: dict) -> bool:
    return any(isinstance(value, str) and Path(value[-300:]).suffix.lower() in AUDIO for value in cells.values())


def _of_segment(place: str, one: object) -> Cue:
    if not isinstance(one, dict):
        return Cue(place, problem="broken row", detail=f"not a segment: {str(one)[:80]}")
    start, end = _first(one, _STARTS), _first(one, _ENDS)
    pair = one.get("timestamp")
    if isinstance(pair, list) and len(pair) == 2:  # of Hugging Face's pipeline
        start, end = pair
    if isinstance(one.get("offsets"), dict):  # of whisper.cpp, in ms
        start, end = (seconds_of(one["offsets"].get(key)) for key in ("from", "to"))
        start, end = (None if value is None else value / 1000 for value in (start, end))
    start, end = _time(start), _time(end)
    words = one.get("words") if isinstance(one.get("words"), list) else []
    spoken = [str(word.get("word") or word.get("text") or "") for word in words if isinstance(word, dict)]
    text = _first(one, _TEXTS) or "".join(spoken)
    text = " ".join(str(text).split())
    if start is None or end is None:
        return Cue(place, text=text, problem="bad times", detail="it has no start or no end")
    speaker, channel = one.get("speaker"), one.get("channel")
    speaker = f"speaker {speaker}" if is_whole(speaker) else speaker
    speaker = speaker if isinstance(speaker, str) else ""
    return Cue(place, start, end, text, speaker, channel=channel if is_whole(channel) and channel >= 0 else None)


def _with_channels(cues: list[Cue]) -> list[Cue]:
    """Return cues with their channels counted from 0; with none, if they name only one."""
    written = [str(cue.channel) for cue in cues if cue.channel is not None]
    first = channels.numbering(written) if len(set(written)) > 1 else None
    if first is None:
        return [replace(cue, channel=None) for cue in cues]
    return [cue if cue.channel is None else replace(cue, channel=cue.channel - first) for cue in cues]


def _time(written: object) -> float | None:
    """Return seconds, written as a number, with a unit, or as a clock time; None for anything else."""
    if (seconds := seconds_of(written)) is not None or not isinstance(written, str):
        return seconds
    try:
        return times.parse_time(written)
    except ValueError:
        return None


# --- NIST's lists -----------------------------------------------------------------------------------------------------


_HESITATION = re.compile(r"\(?%hes(itation)?\)?", re.IGNORECASE)
_NOBODY = {"", "<na>", "na", "null", "unknown"}
_NO_WORDS = {"@", "<eps>", "<sil>", "sil", "sp"}
_NOT_SPOKEN = {"noise", "non-speech", "non-lex", "misc"}  # types of words in the CTM of a rich transcription
_OPTIONS = re.compile(r"\{([^{}/]*)/[^{}]*\}")  # in STM, of which any may be said


def _channel(name: str) -> int | None:
    """Return a channel, from 0, by its number from 1 or its letter; None for a mix of all."""
    return channels.number_of(name, first=1)


def _rows(path: Path, encoding: str) -> Iterator[tuple[int, str, tuple[tuple[str, str], ...]]]:
    """Yield number, text and doubts of each line that isn't a remark."""
    lines = lines_of(path, encoding)
    for line in lines:
        if line.strip() and not line.startswith(";;"):
            yield lines.number, line.strip(), (("encoding", ""),) if lines.doubt() else ()


def read_stm(path: Path, encoding: str = "") -> Reading:
    """Read an STM: lines of recording, channel, speaker, start, end, `<label>` and text.

    Raises:
        InputError: the file can't be read.
    """
    cues, has_options = [], False
    for number, line, doubts in _rows(path, encoding):
        fields = line.split(None, 5)
        start, end = (seconds_of(field) for field in [*fields[3:5], "", ""][:2])
        if start is None or end is None:
            detail = f"expected recording, channel, speaker, start, end and text: {line[:80]}"
            cues.append(Cue(f"line {number}", problem="broken row", detail=detail, recording=fields[0]))
            continue
        text = " ".join(fields[5].split()) if len(fields) > 5 else ""
        text = re.sub(r"^<(?:[^<>]*,[^<>]*|NA)>\s*", "", text)
        text = re.sub(r"(?<=\w) '(?=(?:s|re|ve|ll|d|m|t)\b)", "'", text)  # TED-LIUM writes it 's
        ignored = "ignore_time_segment_in_scoring" in text.casefold()
        has_options |= bool(_OPTIONS.search(text))
        text = " ".join(_HESITATION.sub("", _OPTIONS.sub(r"\1", text)).split())
        cue = Cue(f"line {number}", start, end, text, fields[2], "", fields[0], _channel(fields[1]), doubts=doubts)
        if ignored:
            cue = replace(cue, problem="no speech", detail="marked to be ignored")
        cues.append(cue)
    return Reading(cues, ["alternatives such as {one / two}: the first is read"] if has_options else [])


def read_ctm(path: Path, encoding: str = "") -> Reading:
    """Read a CTM, lines of recording, channel, start, duration and word; the words are joined to utterances at pauses.

    Of alternatives, the first is taken. Behind the word, there may be its confidence, its type and the speaker.

    Raises:
        InputError: the file can't be read.
    """
    words: dict[tuple[str, int | None], list[Cue]] = {}
    alternative = 0
    for number, line, doubts in _rows(path, encoding):
        fields = line.split()
        place, recording = f"line {number}", fields[0]
        if len(fields) > 4 and fields[4].upper() in ("<ALT_BEGIN>", "<ALT>", "<ALT_END>"):
            alternative = {"<ALT_BEGIN>": 1, "<ALT>": 2, "<ALT_END>": 0}[fields[4].upper()]
            continue
        start, seconds = (seconds_of(field) for field in [*fields[2:4], "", ""][:2])
        if start is None or seconds is None or len(fields) < 5:
            detail = f"expected recording, channel, start, duration and word: {line[:80]}"
            words.setdefault((recording, None), []).append(
                Cue(place, problem="broken row", detail=detail, recording=recording)
            )
            continue
        kind, speaker = (*fields[6:8], "", "")[:2]
        is_word = fields[4].casefold() not in _NO_WORDS and not _HESITATION.fullmatch(fields[4])
        if alternative == 2 or not is_word or kind.casefold() in _NOT_SPOKEN:
            continue
        speaker, channel = "" if speaker.casefold() in _NOBODY else speaker, _channel(fields[1])
        word = Cue(place, start, start + seconds, fields[4], speaker, "", recording, channel, doubts=doubts)
        words.setdefault((recording, channel), []).append(word)
    cues = [cue for run in words.values() for cue in utterances_of(run)]
    return Reading(cues, [f"words joined to utterances, up to {PAUSE:g} s of pause"] if cues else [])


# --- Tables -----------------------------------------------------------------------------------------------------------


def read_table(
    path: Path, encoding: str = "", delimiter: str = "", columns: Mapping[str, str] | None = None
) -> Reading | None:
    """Read a table of one recording, with columns of start, end (or duration) and text.

    Args:
        path: the table.
        encoding, delimiter, columns: as of `tables.inspect`.

    Returns:
        None if it is a table of another kind.

    Raises:
        InputError: the file can't be read, or it can't be told which column has the texts.
    """
    lines_of(path, encoding)  # a text of a plausible size
    try:
        table = tables.inspect(path, _is_audio, encoding, delimiter, columns, needs=("text",))
    except InputError:
        return None
    roles = table.roles
    if not table.has_header or "start" not in roles or not {"end", "seconds"} & set(roles) or "audio" in roles:
        return None
    tables.check_texts(table)
    notes = [f"read {table}".replace(f"{path.name} ", "")]
    notes += table.notes
    cues, are_whole = [], True
    for row in tables.read(table):
        cells = {role: tables.as_text(row.cells.get(column)) for role, column in roles.items()}
        are_whole &= all(re.fullmatch(r"\d*(\.0*)?", cells.get(role, "")) for role in ("start", "end", "seconds"))
        cues.append(_of_row(row, cells, table))
    unnamed = all(table.scales.get(role, 1.0) == 1.0 for role in ("start", "end", "seconds"))
    return Reading(cues, notes, is_unitless=are_whole and unnamed and bool(cues))


def why_no_table(path: Path, encoding: str = "", delimiter: str = "") -> str:
    """Return why a table isn't read as the texts of one recording; "" if it isn't known."""
    try:
        table = tables.inspect(path, _is_audio, encoding, delimiter, needs=())
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")
    rows = [row.cells for row in islice(tables.read(table), _LOOKED)]
    for column in table.unread:
        cells = [cell for row in rows if (cell := tables.as_text(row.get(column)))]
        if any(map(times.has_frames, cells)):
            return f"column {column!r} has times with frames ({cells[0]}), whose rate isn't known; export milliseconds"
        if re.search("sample|frame", column, re.IGNORECASE):
            return f"column {column!r} counts samples or frames; write start and end in seconds"
        if cells:
            return (
                f"column {column!r} has no times that are understood ({cells[0][:40]}); write start and end in seconds"
            )
    return ""


def _is_audio(value: str) -> bool:
    return len(value) < 300 and Path(value).suffix.lower() in AUDIO


def _of_row(row: tables.TableRow, cells: dict[str, str], table: tables.Table) -> Cue:
    place = f"line {row.line}"
    if row.doubt == "broken":
        return Cue(place, problem="broken row", detail=row.detail)
    try:
        start = times.parse_time(cells["start"], table.scales.get("start", 1.0))
        if cells.get("end"):
            end = times.parse_time(cells["end"], table.scales.get("end", 1.0))
        else:
            end = start + times.parse_time(cells.get("seconds", ""), table.scales.get("seconds", 1.0))
    except ValueError as error:
        return Cue(place, problem="broken row", detail=f"{error}, in a time's column")
    doubts = ((row.doubt, ""),) if row.doubt else ()
    return Cue(place, start, end, " ".join(cells["text"].split()), cells.get("speaker", ""), doubts=doubts)
