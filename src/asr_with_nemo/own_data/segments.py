"""Readers of segments with times: Whisper's JSON and what looks like it, STM, CTM, and tables with start and end."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import tables, times
from asr_with_nemo.own_data.cues import PAUSE, Cue, Reading, lines_of, seconds_of, utterances_of
from asr_with_nemo.own_data.store import AUDIO

# --- Whisper ----------------------------------------------------------------------------------------------------------


def read_json(path: Path, encoding: str = "") -> Reading | None:
    """Read the segments that Whisper, faster-whisper, WhisperX, whisper.cpp or OpenAI's API have written.

    Returns:
        None if it is valid JSON of another kind.

    Raises:
        InputError: the file can't be read, or isn't JSON.
    """
    content = "".join(lines_of(path, encoding))
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON, or truncated ({str(error)[:200]})") from error
    key, segments = _segments(document)
    if segments is None:
        return None
    cues = [_of_segment(f"{key} {number}", one) for number, one in enumerate(segments, 1)]
    notes = ["a machine's transcripts, and as right as it was: listen to some"]
    if key == "word":
        notes.append(f"words with times: joined to utterances, up to {PAUSE:g} s of pause")
        cues = list(utterances_of(cues))
    return Reading(cues, notes)


def _segments(document: object) -> tuple[str, list | None]:
    """Return what the items are called, and the items; None if it isn't a transcript."""
    if isinstance(document, list):
        is_one = bool(document) and all(
            isinstance(one, dict) and {"start", "end", "text"} <= set(one) for one in document
        )
        return "segment", document if is_one and not any(_names_audio(one) for one in document[:20]) else None
    if not isinstance(document, dict):
        return "", None
    for key in ("segments", "chunks", "transcription", "words"):
        items = document.get(key)
        if isinstance(items, list):
            first = [one for one in items[:20] if isinstance(one, dict)]
            timed = [one for one in first if {"start", "timestamp", "timestamps", "offsets"} & set(one)]
            if timed or (not items and "text" in document and key == "segments"):
                return "word" if key == "words" else "segment", items
    return "", None


def _names_audio(cells: dict) -> bool:
    return any(isinstance(value, str) and Path(value[-300:]).suffix.lower() in AUDIO for value in cells.values())


def _of_segment(place: str, one: object) -> Cue:
    if not isinstance(one, dict):
        return Cue(place, problem="broken row", detail=f"not a segment: {str(one)[:80]}")
    start, end = one.get("start"), one.get("end")
    pair = one.get("timestamp")
    if isinstance(pair, list) and len(pair) == 2:  # of Hugging Face's pipeline
        start, end = pair
    if isinstance(one.get("offsets"), dict):  # of whisper.cpp, in ms
        start, end = (seconds_of(one["offsets"].get(key)) for key in ("from", "to"))
        start, end = (None if value is None else value / 1000 for value in (start, end))
    start, end = seconds_of(start), seconds_of(end)
    words = one.get("words") if isinstance(one.get("words"), list) else []
    spoken = [str(word.get("word") or word.get("text") or "") for word in words if isinstance(word, dict)]
    text = one.get("text") or one.get("word") or "".join(spoken)
    text = " ".join(str(text).split())
    if start is None or end is None:
        return Cue(place, text=text, problem="bad times", detail="it has no start or no end")
    speaker = one.get("speaker")
    return Cue(place, start, end, text, speaker if isinstance(speaker, str) else "")


# --- NIST's lists -----------------------------------------------------------------------------------------------------


def _channel(name: str) -> int | None:
    return {"A": 0, "B": 1, "1": 0, "2": 1}.get(name.upper())


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
    cues = []
    for number, line, doubts in _rows(path, encoding):
        fields = line.split(None, 5)
        start, end = (seconds_of(field) for field in [*fields[3:5], "", ""][:2])
        if start is None or end is None:
            detail = f"expected recording, channel, speaker, start, end and text: {line[:80]}"
            cues.append(Cue(f"line {number}", problem="broken row", detail=detail, recording=fields[0]))
            continue
        text = fields[5] if len(fields) > 5 else ""
        text = re.sub(r"^<[^<>]*,[^<>]*>\s*", "", text)
        text = re.sub(r"(?<=\w) '(?=(?:s|re|ve|ll|d|m|t)\b)", "'", text)  # TED-LIUM writes it 's
        ignored = text.casefold().startswith("ignore_time_segment_in_scoring")
        cue = Cue(f"line {number}", start, end, text, fields[2], "", fields[0], _channel(fields[1]), doubts=doubts)
        if ignored:
            cue = replace(cue, problem="no speech", detail="marked to be ignored")
        cues.append(cue)
    return Reading(cues)


def read_ctm(path: Path, encoding: str = "") -> Reading:
    """Read a CTM, lines of recording, channel, start, duration and word; the words are joined to utterances at pauses.

    Of alternatives, the first is taken.

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
        if alternative == 2 or fields[4].casefold() in ("@", "<eps>", "<sil>", "sil", "sp"):
            continue
        channel = _channel(fields[1])
        word = Cue(place, start, start + seconds, fields[4], "", "", recording, channel, doubts=doubts)
        words.setdefault((recording, channel), []).append(word)
    cues = [cue for run in words.values() for cue in utterances_of(run)]
    return Reading(cues, [f"words joined to utterances, up to {PAUSE:g} s of pause"] if cues else [])


# --- Tables -----------------------------------------------------------------------------------------------------------


def read_table(path: Path, encoding: str = "", delimiter: str = "") -> Reading | None:
    """Read a table of one recording, with columns of start, end (or duration) and text.

    Returns:
        None if it is a table of another kind.

    Raises:
        InputError: the file can't be read.
    """
    lines_of(path, encoding)  # a text of a plausible size
    try:
        table = tables.inspect(path, _is_audio, encoding, delimiter, needs=("text",))
    except InputError:
        return None
    roles = table.roles
    if not table.has_header or "start" not in roles or not {"end", "seconds"} & set(roles) or "audio" in roles:
        return None
    notes = [f"read {table}".replace(f"{path.name} ", "")]
    notes += table.notes
    cues, is_whole = [], True
    for row in tables.read(table):
        cells = {role: tables.as_text(row.cells.get(column)) for role, column in roles.items()}
        is_whole &= all(cells.get(role, "0").isdecimal() for role in ("start", "end", "seconds"))
        cues.append(_of_row(row, cells, table))
    unnamed = all(table.scales.get(role, 1.0) == 1.0 for role in ("start", "end", "seconds"))
    return Reading(cues, notes, is_unitless=is_whole and unnamed and bool(cues))


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
