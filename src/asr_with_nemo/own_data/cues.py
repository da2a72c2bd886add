"""Texts with times: the common form of captions, tiers and segments, their checks, and words joined to utterances."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import text, text_files
from asr_with_nemo.own_data.sources import Entry
from asr_with_nemo.own_data.store import clean_text

PAUSE = 0.3  # seconds; where single words have times, a longer pause ends an utterance
_LONGEST = 20.0  # seconds; a longer run of words is divided at its longest pause
_TOUCH = 0.1  # seconds that two utterances may overlap
END_OF_TIME = 1e6  # seconds, 11 days: no recording is that long
_MOST_BYTES = 64 << 20  # of a file with times; an hour of captions has about 0.1 MB
_CLOCK = re.compile(r"\d\d:\d\d[.,:]\d\d[.,]\d|-->")
_NOTES = re.compile("[♪♫♬🎵🎶]")
# Speakers that are numbered anew in each recording: SPEAKER_00, spk1, A.
_NUMBERED = re.compile(
    r"(?:speaker|spk|spkr|talker|participant|person|s|spch)?[\s_.-]*(?:\d{1,3}|[a-z])?", re.IGNORECASE
)


@dataclass(frozen=True)
class Cue:
    """A text and its time in a recording.

    Attributes:
        place: within the file: "line 12".
        start, end: seconds.
        text: as written, without markup.
        speaker: "" if it isn't named.
        tier: only cues of one tier are compared with each other for their order.
        recording: its name, where the file has several; "" for the recording beside the file.
        channel: from 0; None for all.
        problem, detail: why it can't be used: a kind of `quality.KINDS`, and details.
        doubts: kinds of problems and details.
    """

    place: str
    start: float = 0.0
    end: float = 0.0
    text: str = ""
    speaker: str = ""
    tier: str = ""
    recording: str = ""
    channel: int | None = None
    problem: str = ""
    detail: str = ""
    doubts: tuple[tuple[str, str], ...] = ()


@dataclass
class Reading:
    """The content of a file with times.

    Attributes:
        cues: in the order of the file.
        notes: what was chosen while reading, for the user.
        media: the recording that the file names; "" for none.
        is_unitless: whether the times are whole numbers of an unnamed unit.
        has_tiers: whether its cues are on named tiers.
    """

    cues: list[Cue]
    notes: list[str] = field(default_factory=list)
    media: str = ""
    is_unitless: bool = False
    has_tiers: bool = False


def lines_of(path: Path, encoding: str) -> text_files.Lines:
    """Return the lines of a file with times.

    Raises:
        InputError: the file can't be read, or isn't a text of a plausible size.
    """
    check_size(path)
    try:
        lines = text_files.Lines(path, encoding or text_files.encoding_of(path))
        with open(path, "rb") as file:
            if b"\0" in file.read(4096) and not text_files.is_wide(lines.encoding):
                raise InputError(f"{path}: not a text file")
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    except LookupError as error:
        raise InputError(f"--encoding {encoding}: unknown to Python; use a name such as utf-8, or cp1251") from error
    return lines


def check_size(path: Path) -> None:
    """Raise InputError if a file is far too large for texts with times, or can't be read."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    if size > _MOST_BYTES:
        raise InputError(f"{path}: {size / 1e6:,.0f} MB are too many for texts with times; divide it")


def seconds_of(value: object) -> float | None:
    """Return a finite number of seconds; None for anything else.

    Example:
        >>> seconds_of(1.5), seconds_of("2"), seconds_of(None), seconds_of(float("inf"))
        (1.5, 2.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def speaker_in(recording: str, speaker: str) -> str:
    """Return a speaker's name, with its recording's before it if it is a number or a letter: nobody elsewhere.

    Example:
        >>> speaker_in("calls/monday.wav", "SPEAKER_00"), speaker_in("monday.wav", "B"), speaker_in("monday.wav", "Ann")
        ('monday SPEAKER_00', 'monday B', 'Ann')
    """
    return f"{Path(recording).stem} {speaker}" if speaker and _NUMBERED.fullmatch(speaker) else speaker


def hours_before(earliest: float, latest: float, whole: float | None) -> float:
    """Return the seconds of whole hours that times begin with, if they fit into the recording only without them.

    Timecode of films often begins at one hour.

    Args:
        earliest, latest: times in seconds.
        whole: seconds of the recording; None if they are unknown.

    Example:
        >>> hours_before(3601.5, 3720.0, 125.0), hours_before(3601.5, 3720.0, 4000.0), hours_before(1.5, 3720.0, 125.0)
        (3600.0, 0.0, 0.0)
    """
    if whole is None or latest <= whole + 1 or not math.isfinite(latest):
        return 0.0
    before = earliest // 3600 * 3600
    return before if before > 0 and latest - before <= whole + 1 else 0.0


# --- Words ------------------------------------------------------------------------------------------------------------


def utterances_of(words: Sequence[Cue], pause: float = PAUSE) -> Iterator[Cue]:
    """Join words, in the order of their times, to utterances: at pauses, changes of the speaker, and broken words.

    Args:
        words: of one tier of one recording.
        pause: seconds; a longer one ends an utterance.
    """
    run: list[Cue] = []
    for word in words:
        if run and (
            word.problem
            or word.start - run[-1].end >= pause
            or word.start < run[0].start
            or word.speaker != run[-1].speaker
        ):
            yield from _divided(run)
            run = []
        if word.problem or word.end <= word.start:
            yield word
        else:
            run.append(word)
    if run:
        yield from _divided(run)


def _divided(run: list[Cue]) -> Iterator[Cue]:
    """Yield a run of words as one utterance, or divided at its longest pauses."""
    pending = [run]
    while pending:
        words = pending.pop()
        if len(words) > 1 and words[-1].end - words[0].start > _LONGEST:
            at = max(range(1, len(words)), key=lambda place: (words[place].start - words[place - 1].end, -place))
            pending += [words[at:], words[:at]]
            continue
        place = words[0].place
        if len(words) > 1:
            place = f"{place} to {words[-1].place.rsplit(' ', 1)[-1]}"
        doubts = tuple(dict.fromkeys(doubt for word in words for doubt in word.doubts))
        joined = " ".join(word.text for word in words)
        yield replace(words[0], place=place, end=max(word.end for word in words), text=joined, doubts=doubts)


# --- Checks -----------------------------------------------------------------------------------------------------------


def checked(cues: Sequence[Cue]) -> Iterator[Cue]:
    """Yield cues with the problems of their times and texts: of one recording, in the order of the file."""
    latest: dict[str, Cue] = {}
    overlaps = _overlaps(cues)
    for number, cue in enumerate(cues):
        if cue.problem:
            yield cue
            continue
        doubts = list(cue.doubts)
        if problem := _problem(cue):
            yield replace(cue, problem=problem[0], detail=problem[1])
            continue
        before = latest.get(cue.tier)
        if before and cue.start < before.start:
            doubts.append(("unsorted", f"at {cue.start:g} s, after {before.place} at {before.start:g} s"))
        latest[cue.tier] = cue
        if number in overlaps:
            doubts.append(("overlap", overlaps[number]))
        if _NOTES.search(cue.text):
            doubts.append(("sung", ""))
        yield replace(cue, doubts=tuple(doubts))


def _problem(cue: Cue) -> tuple[str, str] | None:
    if not (0 <= cue.start < END_OF_TIME and math.isfinite(cue.end)):
        return "bad times", f"from {cue.start:g} s to {cue.end:g} s"
    if cue.end <= cue.start:
        return "bad times", f"ends at {cue.end:g} s, and starts at {cue.start:g} s"
    if _CLOCK.search(cue.text):
        return "broken row", f"a time among its words: {cue.text[:80]}"
    if cue.text and not any(map(str.isalnum, text.repaired(_NOTES.sub(" ", cue.text)))):
        return "no speech", cue.text[:80]
    return None


def _overlaps(cues: Sequence[Cue]) -> dict[int, str]:
    """Return number of a cue → what it overlaps; a copy of a cue isn't an overlap."""
    usable = [number for number, cue in enumerate(cues) if not cue.problem and cue.end > cue.start]
    found: dict[int, str] = {}
    last: dict[int | None, int] = {}  # channel → the cue that ends last
    for number in sorted(usable, key=lambda number: (cues[number].start, cues[number].end)):
        cue, other = cues[number], last.get(cues[number].channel)
        if other is not None:
            before = cues[other]
            shared = min(cue.end, before.end) - cue.start
            same = (cue.start, cue.end, cue.text) == (before.start, before.end, before.text)
            if shared > _TOUCH and not same:
                found.setdefault(other, f"{shared:.2f} s with {cue.place}")
                found.setdefault(number, f"{shared:.2f} s with {before.place}")
        if other is None or cue.end > cues[other].end:
            last[cue.channel] = number
    return found


def entries(cues: Iterable[Cue], base: Entry, place_of: Callable[[Cue], str]) -> Iterator[Entry]:
    """Yield the entries of checked cues.

    Args:
        cues: of one recording.
        base: has the recording, and what its cues share.
        place_of: returns the place of a cue within the source.
    """
    for cue in cues:
        entry = replace(
            base,
            place=place_of(cue),
            text=clean_text(cue.text),
            speaker=clean_text(cue.speaker) or base.speaker,
            problem=cue.problem or base.problem,
            detail=clean_text(cue.detail) if cue.problem else base.detail,
        )
        if not entry.problem:
            seconds = round(cue.end - cue.start, 6)
            doubts = base.doubts + cue.doubts
            entry = replace(entry, start=cue.start, seconds=seconds, channel=cue.channel, doubts=doubts)
        yield entry
