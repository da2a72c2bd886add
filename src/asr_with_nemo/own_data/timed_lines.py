"""Lines of text files that begin with times: labels with start and end, and transcripts with clock times."""

import re
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from asr_with_nemo.own_data import captions, times
from asr_with_nemo.own_data.cues import Cue, hours_before

Rows = Sequence[tuple[int, str]]
"""The lines of a file that aren't empty, with their numbers."""
# A line of Audacity's labels (seconds) or of TIMIT (samples): start, end, text.
_LABEL = re.compile(r"(\d+(?:[.,]\d+)?)\s+(\d+(?:[.,]\d+)?)\s+(\S.*)")
_DELIMITED = re.compile(r"(\d+\.\d+)\s*[;,–-]\s*(\d+\.\d+)\s*[\s;,:]\s*(\S.*)")
_DECIMAL_COMMAS = re.compile(r"(\d+,\d+)\s*;\s*(\d+,\d+)\s*;\s*(\S.*)")
_PUNCTUATED = (_DELIMITED, _DECIMAL_COMMAS)
_WITHOUT_TEXT = re.compile(r"(\d+[.,]\d+)\t(\d+[.,]\d+)()")
_REMARK = re.compile(r"(#|;;)(?!\S{0,40}?\d[.,]\d)")
_SIDE = re.compile(r"([AB])\d?:\s*")  # of a telephone call, as in Fisher
_NUMBERS = re.compile(r"[\d ]+")
_MOST = 0.8  # share of the lines that are labels; the others are then damaged
_UNITS = ((1_000.0, "milliseconds"), (0.0, "samples"), (1e7, "units of 100 ns"))  # of whole numbers, per second

_TIME = r"\d{1,3}:[0-5]\d(?::[0-5]\d)?(?:[.,]\d{1,3})?"
_RANGE = rf"(?P<start>{_TIME})(?:\s*(?:-{{1,2}}>|[-–—]|to)\s*(?P<end>{_TIME}))?"
_CLOCK_FIRST = re.compile(rf"[\[(]?\s*{_RANGE}\s*[\])]?(?:\s*[:;,|–-]\s+|\s+|$)(?P<text>.*)")
_NAME = r"(?P<speaker>[^\W\d_][^:\d\[\]()]{0,30}?(?: \d{1,2})?):?\s*"
_APART = r"(?:(?<=\t)|(?<=\s\s)|(?<=:\s)|(?<=\d\s))"  # between a name and a time with the text behind it, as Rev AI's
_NAME_FIRST = (
    re.compile(rf"{_NAME}[\[(]{_RANGE}[\])]:?(?P<text>\s.*)?"),
    re.compile(rf"{_NAME}\s{_RANGE}"),
    re.compile(rf"{_NAME}{_APART}{_RANGE}:?\s+(?P<text>\S.*)"),
)
_BOLD = re.compile(r"\*\*([^*]{1,40}?):?\*\*:?\s*")  # a name in Markdown
_CLOCKS = 0.2  # share of the lines with a clock time, from which they are the times of the lines
_TIMECODE = 3600.0  # seconds at which the timecode of a film begins
_UNSORTED = 0.25  # share of the clock times that may come before the one above them, if nearly all lines have one
_PAST = 1.0  # seconds that a time may lie behind the end of the recording


class Form(NamedTuple):
    """A recording's rate in Hz, its seconds (None if they are unknown), and how many channels it has."""

    rate: int
    seconds: float | None
    channels: int


def cues_of(rows: Rows, form: Callable[[], Form]) -> tuple[list[Cue], str] | None:
    """Return the texts of lines that begin with their times, and what the times are; None if they don't.

    Args:
        rows: of the file.
        form: returns the form of the recording, which is opened only for lines that may have times.
    """
    said = [(number, row) for number, row in rows if not _REMARK.match(row)]
    if _are_labels([row for _, row in said]) and _are_within([row for _, row in said], form()):
        return _of_labels(said, form())
    clocks = [(number, row, _clock(row)) for number, row in rows]
    found = [clock for _, _, clock in clocks if clock]
    starts = [times.parse_time(clock["start"]) for clock in found]
    is_range = any(clock["end"] and "-->" in clock["line"] for clock in found)
    if len(found) < (1 if is_range else 2) or len(found) < _CLOCKS * len(rows) or _end_sentences(clocks):
        return None
    turns = sum(start > following for start, following in pairwise(starts))
    if turns and (len(found) < _MOST * len(rows) or turns > _UNSORTED * len(found)):
        return None
    whole = form().seconds
    before = hours_before(min(starts), max(starts), whole)
    before = before if before == _TIMECODE else 0.0  # other hours may be the time of day
    if whole is not None and max(starts) - before > whole + _PAST:  # times of day, verses, amounts
        return None
    cues, note = _of_clocks(clocks, whole and whole + before)
    if before:
        cues = [
            cue if cue.problem else replace(cue, start=cue.start - before, end=round(cue.end - before, 6))
            for cue in cues
        ]
        note += f"; they begin at {before / 3600:g}:00:00, which is taken for the start of the recording"
    return _with_names(cues), note


# --- Labels -----------------------------------------------------------------------------------------------------------


def _label(row: str) -> tuple[str, str, str] | None:
    found = (form.fullmatch(row) for form in (_LABEL, *_PUNCTUATED, _WITHOUT_TEXT))
    return next((label.groups() for label in found if label), None)


def _are_within(rows: Sequence[str], form: Form) -> bool:
    """Return whether labels with marks between their numbers are some: two at least, all within the recording."""
    marked = [label for row in rows if any(one.fullmatch(row) for one in _PUNCTUATED) and (label := _label(row))]
    if not marked or any(_LABEL.fullmatch(row) for row in rows):
        return True
    latest = max(_time(end) for _, end, _ in marked)
    return len(marked) > 1 and (form.seconds is None or latest <= form.seconds + _PAST)


def _are_labels(rows: Sequence[str]) -> bool:
    labels = [row for row in rows if _label(row)]
    # A transcript may be digits: 1 2 3 4.
    return bool(labels) and len(labels) >= _MOST * len(rows) and not all(_NUMBERS.fullmatch(row) for row in labels)


def _of_labels(rows: Rows, form: Form) -> tuple[list[Cue], str]:
    labels = [(number, row, _label(row)) for number, row in rows]
    known = [label for _, _, label in labels if label]
    per_second, unit = _unit(known, form.rate, form.seconds)
    sides = {side and side[1] for _, _, text in known for side in [_SIDE.match(text)]}
    is_call = None not in sides and (len(sides) > 1 or form.channels > 1)
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
            channel = "AB".index(side[1]) if form.channels > 1 else None
            cue = replace(cue, text=label[2][side.end() :], speaker=side[1], channel=channel)
        cues.append(cue)
    note = f"lines that begin with two numbers: read as start, end and text, in {unit}"
    timed = [cue for cue in cues if not cue.problem]
    if all(cue.start == cue.end for cue in timed):  # Audacity's labels of points
        starts = sorted({cue.start for cue in timed})
        last = form.seconds if form.seconds is not None and form.seconds > starts[-1] else starts[-1]
        until = dict(zip(starts, [*starts[1:], last], strict=True))
        return [cue if cue.problem else replace(cue, end=until[cue.start]) for cue in cues], (
            f"{note}; they are points, each read until the next one"
        )
    return cues, note


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


def _with_names(cues: list[Cue]) -> list[Cue]:
    """Return cues without the names before what is said, `Ann: hello`, if nearly all begin so and none has another."""
    written = [_BOLD.sub(r"\1: ", cue.text, count=1) if cue.text.startswith("**") else cue.text for cue in cues]
    said = [text for text, cue in zip(written, cues, strict=True) if text and not cue.problem]
    if any(cue.speaker for cue in cues) or not captions.are_names(said):
        return cues
    named = (captions.without_name(text) for text in written)
    return [replace(cue, speaker=name, text=text) for cue, (name, text) in zip(cues, named, strict=True)]


def _end_sentences(clocks: Sequence[tuple[int, str, dict | None]]) -> bool:
    """Return whether lines that end in a time are sentences, "we left at 10:30": most have no text below them."""
    followed = pairwise([*(clock for _, _, clock in clocks), {}])
    texts = [below is None for clock, below in followed if clock and clock["speaker"] and not clock["text"]]
    return sum(texts) < len(texts) / 2


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
