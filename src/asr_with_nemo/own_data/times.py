# ruff: noqa: SIM905 (lists of words read better as text)
"""Times in tables: which columns hold them, in which unit, and how they are written."""

import math
import re
from collections.abc import Sequence

# In English, then in other languages.
_START = (
    "onset start begin tmin xmin from offset starts begins beginning in beginn anfang von début debut "
    "inicio início comienzo inizio начало 开始 开始时间 開始 開始時間 시작"
).split()
_END = (
    "end stop tmax xmax to until ends finish stops ending out ende bis fin fim fine конец окончание 结束 结束时间 結束 "
    "終了 終了時間 끝 종료"
).split()
_LENGTH = "duration length dur dauer länge durée duree duración duracion duração durata длительность 时长 時長".split()
_UNITS = {
    **dict.fromkeys(
        (
            *("", "s", "sec", "secs", "second", "seconds", "ss_msec", "ss_ms", "hh_mm_ss_ms", "hh_mm_ss", "hms"),
            *("sek", "sekunden", "secondes", "segundos", "secondi", "сек", "секунды", "秒"),
        ),
        1.0,
    ),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds", "мс", "毫秒"), 0.001),
    **dict.fromkeys(("us", "µs", "μs", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "minuten"), 60.0),
}
UNITS = {0.001: "ms", 1e-6: "µs", 60.0: "minutes"}
"""Seconds per unit → the name of the unit, but for seconds."""
_COLUMN = re.compile(
    r"(?:time_|timestamp_|timecode_|t_|tc_|segment_|utterance_|cue_|mark_)?"
    rf"(?P<word>{'|'.join((*_START, *_END, *_LENGTH, 'seconds'))})"
    r"(?:_time|_timestamp|_timecode|_tc|_at|_point)?"
    rf"(?:_(?P<unit>{'|'.join(filter(None, _UNITS))}))?"
)
_CLOCK = re.compile(r"(?:(\d{1,4}):)?(\d{1,3}):(\d{1,2}(?:[.,]\d+)?)")
_FRAMES = re.compile(r"(?<![\d:.,])\d{1,2}:[0-5]\d:[0-5]\d[:;]\d\d(?![\d:.,])")
_NUMBER = re.compile(r"([-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[-+]?\d+)?)\s*(s|sec|ms|msec)?", re.IGNORECASE)
_SUSPECT = re.compile(
    rf"(^|_)(times?|timestamps?|timecodes?|tc|{'|'.join({*_START, *_END, *_LENGTH} - {'length', 'in', 'out'})})(_|$)"
)


def time_roles(plain_names: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Return role → (place of its column, seconds per unit), for the roles "start", "end" and "seconds".

    A column `offset` is a start, as in NeMo's manifests, but the end where there is a column `onset`. `in` and `out`
    are start and end if there are both.

    Args:
        plain_names: the columns' names as `tables.plain` gives them, in order.

    Example:
        >>> time_roles(["path", "start_ms", "end_ms", "text"])
        {'start': (1, 0.001), 'end': (2, 0.001)}
        >>> time_roles(["onset", "offset", "text"])
        {'start': (0, 1.0), 'end': (1, 1.0)}
    """
    found: dict[str, list[tuple[int, int, float]]] = {"start": [], "end": [], "seconds": []}
    has_onset = any(name.startswith("onset") for name in plain_names)
    matches = [_COLUMN.fullmatch(name) for name in plain_names]
    has_both = {"in", "out"} <= {match["word"] for match in matches if match}
    for place, match in enumerate(matches):
        if not match or (match["word"] in ("in", "out") and not has_both):
            continue
        word, scale = match["word"], _UNITS[match["unit"] or ""]
        if word == "offset" and has_onset:
            found["end"].append((0, place, scale))
        elif word in _START:
            found["start"].append((_START.index(word), place, scale))
        elif word in _END:
            found["end"].append((_END.index(word), place, scale))
        else:
            found["seconds"].append((0, place, scale))
    # NeMo's manifests have "offset" beside "duration"; a more telling name wins over it.
    return {role: min(columns)[1:] for role, columns in found.items() if columns}


def looks_like_time(plain_name: str) -> bool:
    """Return whether a column's name speaks of times.

    Example:
        >>> looks_like_time("start_sample"), looks_like_time("speaker")
        (True, False)
    """
    return bool(_SUSPECT.search(plain_name))


def has_frames(written: str) -> bool:
    """Return whether a text has a time of a film, whose last part counts frames.

    Example:
        >>> has_frames("00:00:01:12"), has_frames("00:00:01.120")
        (True, False)
    """
    return bool(_FRAMES.search(written))


def parse_time(text: str, scale: float = 1.0) -> float:
    """Return a time in seconds: a number, with or without its unit, or a clock's hours, minutes and seconds.

    Args:
        text: as written.
        scale: seconds per unit of a number that has no unit.

    Raises:
        ValueError: it is no time.

    Example:
        >>> parse_time("1,5"), parse_time("250", 0.001), parse_time("250 ms"), parse_time("00:01:02.500")
        (1.5, 0.25, 0.25, 62.5)
    """
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = clock.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise ValueError(f"{text!r} is no time")
    unit = (number[2] or "").lower()
    seconds = float(number[1].replace(",", ".")) * (_UNITS[unit] if unit else scale)
    if not math.isfinite(seconds):
        raise ValueError(f"{text[:20]!r} is no time")
    return seconds
