"""Readers of captions, SubRip (.srt) and WebVTT (.vtt), YouTube's among them, which repeat what is shown already.

The libraries for them read what is right and leave out the rest; a corpus needs the line of each cue, what is wrong
with it, and each word once.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import times
from asr_with_nemo.own_data.cues import Cue, Reading, hours_before, lines_of

_TIME = r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]?\d)(?:[.,](\d{1,6}))?"
_TIMING = re.compile(rf"\s*{_TIME}\s*-{{1,3}}>\s*{_TIME}(?:\s.*)?")
_SETTING = r"(?:align|line|position|size|vertical|region|[XY][12]):\S+"
_TIMING_ALONE = re.compile(rf"\s*{_TIME}\s*-{{1,3}}>\s*{_TIME}(?:\s+{_SETTING})*\s*")
_READING = re.compile(r"<rt>.*?(?:</rt>|(?=<rt>|</ruby>)|$)", re.IGNORECASE)  # how a character is read, above it
_TAG = re.compile(r"</?(?:i|b|u|s|c|v|font|lang|ruby|rt|br|span)(?:[.\s][^<>]*)?/?>|\{\\[^{}]*\}", re.IGNORECASE)
_WORD_TIME = re.compile(r"<\d[\d:.,]*>")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s([^<>]+)>", re.IGNORECASE)
_DASH = re.compile(r"\s*[-‐–—]\s*(?=\S)")
_CHANGE = re.compile(r"\s*>>+\s*")
_IN_BRACKETS = re.compile(r"\[([^\[\]]{1,40})\]:\s+")
_NAME = re.compile(r"([^\W\d_](?:[\w .'’-]{0,30}\w)?):\s+")
_CAPITALS = re.compile(r"([A-Z][A-Z .'’-]{0,30}[A-Z](?: ?\d{1,2})?):\s+")
_TOGETHER = 0.2  # seconds; captions that roll follow each other within so much
_NAMED = 0.8  # share of the cues that begin with a name, from which it is their speaker
_ROLLING = 0.5  # share of the cues that repeat what is shown, from which captions roll
_OVERLAP = 0.1  # seconds


@dataclass
class _Block:
    """A cue as written: its line, its times, and the lines below them."""

    line: int
    start: float = 0.0
    end: float = 0.0
    broken: str = ""
    raw: list[str] = field(default_factory=list)
    doubt: str = ""
    rows: list[str] = field(default_factory=list)  # without markup
    is_new: list[bool] = field(default_factory=list)  # whether a row has times for its words, as YouTube's new rows
    speakers: list[str] = field(default_factory=list)
    people: int = 1


def read(path: Path, encoding: str = "") -> Reading:
    """Read captions.

    Markup is removed: tags, positions, dashes before what somebody says. A speaker is who `<v Name>`, `>> NAME:`,
    `NAME:` or `[NAME]:` says; or `Name:`, if nearly all cues begin so. Captions that roll, each with the rows of the
    one before, become one cue per new row.

    Raises:
        InputError: the file can't be read, or has no cue.
    """
    blocks = _blocks(path, encoding)
    if not blocks:
        raise InputError(f"{path}: no captions found; expected times such as 00:00:01,000 --> 00:00:02,500")
    first = [next((row for row in block.raw if row.strip()), "") for block in blocks]
    form = _NAME if are_names([row for row in first if row]) else _CAPITALS
    for block in blocks:
        _clean(block, form)
    notes: list[str] = []
    if form is _NAME:
        notes.append("nearly all cues begin with a name and a colon: read as their speakers")
    if len(joined := _joined(blocks)) < len(blocks):
        blocks = joined
        notes.append("cues that only mark the next word of the same text: joined")
    if _is_rolling(blocks):
        before = len(blocks)
        blocks = _unrolled(blocks)
        notes.append("captions that roll: each row is read once")
        if len(blocks) < before:
            notes[-1] += ", and cues without a new row aren't rows"
    elif _is_overlapping(blocks):
        notes.append("most cues are still shown when the next one starts: each is read until then")
        for block, following in pairwise(blocks):
            block.end = min(block.end, following.start)
    return Reading([_cue(block) for block in blocks], notes)


def are_in(rows: Iterable[str]) -> bool:
    """Return whether lines are captions: some have the times of SubRip or WebVTT, and none a text behind them."""
    timed = [row for row in rows if "-->" in row and _TIMING.fullmatch(row)]
    return bool(timed) and all(map(_TIMING_ALONE.fullmatch, timed))


def from_zero(cues: list[Cue], whole: float | None) -> tuple[list[Cue], str]:
    """Return captions from the start of their recording, and a note, if they begin at a whole hour of timecode."""
    timed = [cue for cue in cues if not cue.problem]
    before = hours_before(min(cue.start for cue in timed), max(cue.end for cue in timed), whole) if timed else 0.0
    if not before:
        return cues, ""
    note = f"all times begin at {before / 3600:g}:00:00, which is taken for the start of the recording"
    return [one if one.problem else replace(one, start=one.start - before, end=one.end - before) for one in cues], note


def _blocks(path: Path, encoding: str) -> list[_Block]:
    lines = lines_of(path, encoding)
    blocks: list[_Block] = []
    is_vtt, is_first, is_open, is_skipped = False, True, False, False
    for line in lines:
        line = line.rstrip("\n")
        if is_first and line.strip():
            is_vtt, is_first = line.lstrip("\ufeff ").startswith("WEBVTT"), False
        if is_skipped:  # a note or a style of WebVTT, up to an empty line
            is_skipped = bool(line.strip())
            continue
        if is_vtt and not is_open and re.match(r"(NOTE|STYLE|REGION)(\s|$)", line):
            is_skipped = True
            continue
        timing = _TIMING.fullmatch(line) if ">" in line else None
        if timing or "-->" in line:
            if blocks and is_open and not is_vtt and blocks[-1].raw and blocks[-1].raw[-1].strip().isdecimal():
                blocks[-1].raw.pop()  # the number of this cue
            parts = timing.groups() if timing else ()
            broken = "" if timing else _why_not(line)
            blocks.append(_Block(lines.number, *(_seconds(*parts[at : at + 4]) for at in (0, 4) if timing)))
            blocks[-1].broken, blocks[-1].doubt, is_open = broken, lines.doubt(), True
        elif is_vtt and not line:
            is_open = False
        elif is_open:
            blocks[-1].raw.append(line)
            blocks[-1].doubt = lines.doubt() or blocks[-1].doubt
    return blocks


def _why_not(line: str) -> str:
    """Return what is wrong with a line of times."""
    if times.has_frames(line):
        return f"times with frames, whose rate isn't known; export with milliseconds: {line.strip()[:80]}"
    return f"no valid times: {line.strip()[:80]}"


def _seconds(hours: str | None, minutes: str, seconds: str, part: str | None) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(f"{seconds}.{part or 0}")


# --- Markup and speakers ----------------------------------------------------------------------------------------------


def are_names(rows: Sequence[str]) -> bool:
    """Return whether nearly all rows begin with one of a few speakers, `Ann Lee: hello`, as Zoom writes them."""
    names = [name[1] for row in rows if (name := _NAME.match(_TAG.sub("", row).strip()))]
    return len(names) >= 3 and len(names) >= _NAMED * len(rows) and len(set(names)) <= len(names) / 2


def without_name(row: str) -> tuple[str, str]:
    """Return the name that a row begins with, "" for none, and the rest."""
    name = _NAME.match(row)
    return (name[1], row[name.end() :]) if name else ("", row)


def _clean(block: _Block, form: re.Pattern[str]) -> None:
    """Fill a block's rows and speakers, whose names have a form, unless they follow a sign."""
    dashes = changes = 0
    for written in block.raw:
        is_timed = bool(_WORD_TIME.search(written))
        block.speakers += [html.unescape(name).strip() for name in _VOICE.findall(written)]
        bare = _READING.sub("", written)
        row = html.unescape(_TAG.sub(lambda tag: " " if tag[0].lower().startswith("<br") else "", bare))
        row = " ".join(_WORD_TIME.sub("", row).replace("\\N", " ").replace("\\h", " ").split())
        if dash := _DASH.match(row):
            dashes, row = dashes + 1, row[dash.end() :]
        parts = _CHANGE.split(row)
        changes += sum(bool(part) for part in parts[:-1]) + (len(parts) > 1 and bool(block.rows))
        row = " ".join(
            filter(None, (_without_name(block, part, _NAME if place else form) for place, part in enumerate(parts)))
        )
        row = " ".join(row.split())
        if row:
            block.rows.append(row)
            block.is_new.append(is_timed)
    names = list(dict.fromkeys(filter(None, block.speakers)))
    block.speakers = names
    block.people = max(len(names), dashes, changes + 1)


def _without_name(block: _Block, row: str, form: re.Pattern[str]) -> str:
    """Return a row without the speaker before it, whom the block keeps."""
    for one in (_IN_BRACKETS, form):
        if name := one.match(row):
            block.speakers.append(name[1].strip())
            return row[name.end() :]
    return row


def _cue(block: _Block) -> Cue:
    text = " ".join(block.rows)
    place = f"line {block.line}"
    if block.broken:
        return Cue(place, text=text, problem="broken row", detail=block.broken)
    doubts = [("encoding", "")] if block.doubt else []
    if block.people > 1:
        doubts.append(("several speakers", ", ".join(block.speakers)))
    speaker = block.speakers[0] if len(block.speakers) == 1 and block.people == 1 else ""
    return Cue(place, block.start, block.end, text, speaker, doubts=tuple(doubts))


# --- Captions that roll -----------------------------------------------------------------------------------------------


def _joined(blocks: Sequence[_Block]) -> list[_Block]:
    """Return the blocks, joined if they differ in their markup alone: Whisper marks one word after another."""
    kept: list[_Block] = []
    for block in blocks:
        before = kept[-1] if kept else None
        if before and block.rows and _follows(before, block) and block.rows == before.rows:
            marked = any("<u>" in row for row in block.raw + before.raw)
            if marked and block.raw != before.raw:
                before.end = block.end
                continue
        kept.append(block)
    return kept


def _old_rows(before: _Block, block: _Block) -> int:
    """Return how many of a block's first rows are the last ones of the block before it."""
    for count in range(min(len(before.rows), len(block.rows)), 0, -1):
        if before.rows[-count:] == block.rows[:count] and not any(block.is_new[:count]):
            return count
    return 0


def _grown(before: _Block, block: _Block) -> str:
    """Return the words that a block adds to all words of the block before it; "" if it isn't that one with more."""
    shown, words = " ".join(before.rows).split(), " ".join(block.rows).split()
    return " ".join(words[len(shown) :]) if shown and words[: len(shown)] == shown else ""


def _follows(before: _Block, block: _Block) -> bool:
    return not before.broken and not block.broken and abs(block.start - before.end) < _TOGETHER


def _is_rolling(blocks: Sequence[_Block]) -> bool:
    repeated = moved = 0
    for before, block in pairwise(blocks):
        if not _follows(before, block):
            continue
        old = _old_rows(before, block)
        is_grown = not old and bool(_grown(before, block))
        repeated += bool(old) or is_grown
        moved += 0 < old < len(block.rows) or is_grown
    return len(blocks) > 2 and moved > 1 and repeated >= _ROLLING * (len(blocks) - 1)


def _unrolled(blocks: Sequence[_Block]) -> list[_Block]:
    """Return the blocks with their new rows alone."""
    kept, new_rows = [], []
    for number, block in enumerate(blocks):
        before = blocks[number - 1] if number else None
        rows = block.rows
        if before and _follows(before, block):
            old = _old_rows(before, block)
            grown = "" if old else _grown(before, block)
            rows = [grown] if grown else rows[old:]
        if rows or not block.rows:
            kept.append(block)
            new_rows.append(rows)
    for block, rows in zip(kept, new_rows, strict=True):
        block.rows = rows
    return [block for block in kept if block.rows or block.broken]


def _is_overlapping(blocks: Sequence[_Block]) -> bool:
    """Return whether most cues are shown until after the next one starts: a display of two rows, not two voices."""
    pairs = list(pairwise(blocks))
    if len(pairs) < 3 or any(block.speakers or block.broken for block in blocks):
        return False
    late = sum(before.start < block.start < before.end - _OVERLAP for before, block in pairs)
    return late > 0.6 * len(pairs) and all(before.start <= block.start for before, block in pairs)
