"""Lines of text files that begin with times: labels with start and end, and transcripts with clock times."""

import re
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from asr_with_nemo.own_data import times
from asr_with_nemo.own_data.cues import Cue

Rows = Sequence[tuple[int, str]]
"""The lines of a file that aren't empty, with their numbers."""
# A line of Audacity's labels (seconds) or of TIMIT (samples): start, end, text.
_LABEL = re.compile(r"(\d+(?:[.,]\d+)?)\s+(\d+(?:[.,]\d+)?)\s+(\S.*)")
_DELIMITED = re.compile(r"(\d+\.\d+)\s*[;,–-]\s*(\d+\.\d+)\s*[\s;,:]\s*(\S.*)")
_DECIMAL_COMMAS = re.compile(r"(\d+,\d+)\s*;\s*(\d+,\d+)\s*;\s*(\S.*)")
_WITHOUT_TEXT = re.compile(r"(\d+[.,]\d+)\t(\d+[.,]\d+)()")
_REMARK = re.compile(r"(#|;;)(?!\S*\d+[.,]\d)")
_SIDE = re.compile(r"([AB])\d?:\s*")  # of a telephone call, as in Fisher
_NUMBERS = re.compile(r"[\d ]+")
_MOST = 0.8  # share of the lines that are labels; the others are then damaged
_UNITS = ((1_000.0, "milliseconds"), (0.0, "samples"), (1e7, "units of 100 ns"))  # of whole numbers, per second

_TIME = r"\d{1,3}:[0-5]\d(?::[0-5]\d)?(?:[.,]\d{1,3})?"
_RANGE = rf"(?P<start>{_TIME})(?:\s*(?:-{{1,2}}>|[-–—]|to)\s*(?P<end>{_TIME}))?"
_CLOCK_FIRST = re.compile(rf"[\[(]?\s*{_RANGE}\s*[\])]?(?:\s*[:;,|–-]\s+|\s+|$)(?P<text>.*)")
_NAME = r"(?P<speaker>[^\W\d_][^:\d\[\]()]{0,30}?(?: \d{1,2})?):?\s*"
_NAME_FIRST = (re.compile(rf"{_NAME}[\[(]{_RANGE}[\])]:?(?P<text>\s.*)?"), re.compile(rf"{_NAME}\s{_RANGE}"))
_CLOCKS = 0.2  # share of the lines with a clock time, from which they are the times of the lines


def cues_of(rows: Rows, form: Callable[[], tuple[int, float | None]]) -> tuple[list[Cue], str] | None:
    """Return the texts of lines that begin with their times, and what the times are; None if they don't.

    Args:
        rows: of the file.
        form: returns the recording's rate in Hz and its duration in seconds, None if it is unknown.
    """
    said = [(number, row) for number, row in rows if not _REMARK.match(row)]
    if _are_labels([row for _, row in said]):
        return _of_labels(said, *form())
    clocks = [(number, row, _clock(row)) for number, row in rows]
    found = [clock for _, _, clock in clocks if clock]
    starts = [times.parse_time(clock["start"]) for clock in found]
    is_range = any(clock["end"] and "-->" in clock["line"] for clock in found)
    if len(found) < (1 if is_range else 2) or len(found) < _CLOCKS * len(rows):
        return None
    if any(start > following for start, following in pairwise(starts)):
        return None
    return _of_clocks(clocks, form()[1])


# --- Labels -----------------------------------------------------------------------------------------------------------


def _label(row: str) -> tuple[str, str, str] | None:
    found = (form.fullmatch(row) for form in (_LABEL, _DELIMITED, _DECIMAL_COMMAS, _WITHOUT_TEXT))
    return next((label.groups() for label in found if label), None)


def _are_labels(rows: Sequence[str]) -> bool:
    labels = [row for row in rows if _label(row)]
    # A transcript may be digits: 1 2 3 4.
    return bool(labels) and len(labels) >= _MOST * len(rows) and not all(_NUMBERS.fullmatch(row) for row in labels)


def _of_labels(rows: Rows, rate: int, whole: float | None) -> tuple[list[Cue], str]:
    labels = [(number, row, _label(row)) for number, row in rows]
    known = [label for _, _, label in labels if label]
    per_second, unit = _unit(known, rate, whole)
    is_call = all(_SIDE.match(text) for _, _, text in known)
    cues = []
    for number, row, label in labels:
        if label is None:
            detail = f"expected start, end and text: {row[:80]}"
            cues.append(Cue(f"line {number}", problem="broken row", detail=detail))
            continue
        start, end = (_time(written) / per_second for written in label[:2])
        cue = Cue(f"line {number}", start, end, label[2])
        if is_call:
            side = _SIDE.match(label[2])
            cue = replace(cue, text=label[2][side.end() :], speaker=side[1], channel="AB".index(side[1]))
        cues.append(cue)
    return cues, f"lines that begin with two numbers: read as start, end and text, in {unit}"


def _unit(labels: Sequence[tuple[str, str, str]], rate: int, whole: float | None) -> tuple[float, str]:
    """Return how many units of labels' times are a second, and its name: seconds, if they may be."""
    longest = max(_time(end) for _, end, _ in labels)
    is_whole = all(start.isdecimal() and end.isdecimal() for start, end, _ in labels)
    if not is_whole or whole is None or longest <= whole + 1:
        return 1.0, "seconds"
    for per_second, unit in _UNITS:
        per_second = per_second or rate
        if longest / per_second <= whole + 0.5:
            return float(per_second), unit
    return float(rate), "samples"


def _time(written: str) -> float:
    """Return a number of a label; infinity if it is beyond all numbers."""
    try:
        return times.parse_time(written)
    except ValueError:
        return float("inf")


# --- Clock times ------------------------------------------------------------------------------------------------------


def _clock(row: str) -> dict[str, str] | None:
    """Return the parts of a line with a clock time: line, start, end, speaker, text."""
    found = next((found for form in (_CLOCK_FIRST, *_NAME_FIRST) if (found := form.fullmatch(row))), None)
    if found is None:
        return None
    parts = {name: (value or "").strip() for name, value in found.groupdict().items()}
    return {"line": row, "speaker": "", "text": ""} | parts


def _of_clocks(rows: Sequence[tuple[int, str, dict | None]], whole: float | None) -> tuple[list[Cue], str]:
    """Return the texts from one clock time to the next, below which a text may have several lines."""
    cues: list[Cue] = []
    starts = sorted(times.parse_time(clock["start"]) for _, _, clock in rows if clock)
    for number, row, clock in rows:
        if clock is None and not cues:
            cues.append(Cue(f"line {number}", problem="no speech", detail=f"above the first time: {row[:80]}"))
        elif clock is None and cues[-1].problem:
            cues.append(replace(cues[-1], place=f"line {number}", detail=f"above the first time: {row[:80]}"))
        elif clock is None:
            cues[-1] = replace(cues[-1], text=f"{cues[-1].text} {row}".strip())
        else:
            start = times.parse_time(clock["start"])
            following = bisect(starts, start)
            end = starts[following] if following < len(starts) else whole or start
            end = times.parse_time(clock["end"]) if clock["end"] else end
            cues.append(Cue(f"line {number}", start, end, clock["text"], clock["speaker"]))
    is_coarse = not any(re.search(r"[.,]\d", clock["start"]) for _, _, clock in rows if clock)
    ends = "" if any(clock and clock["end"] for _, _, clock in rows) else ", each until the next one"
    coarse = "; they are in whole seconds, and --align MODEL finds the exact ones" if is_coarse else ""
    return cues, f"lines with clock times: read as the times of their texts{ends}{coarse}"
