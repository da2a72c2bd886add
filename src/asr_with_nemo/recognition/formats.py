"""Transcripts as text, JSON lines, subtitles (SRT, WebVTT), CTM, Praat's TextGrid, and a table of words."""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path

from asr_with_nemo.recognition.transcripts import Transcript, Word

_WIDTH, _LINES, _LONGEST = 42, 2, 7.0
"""Characters a line, lines a subtitle, and its seconds at most, as subtitlers have it."""
_SHORTEST, _GAP = 1.0, 1.0
"""Seconds that a subtitle stays at least, if the next one leaves it the time; and a pause that ends one."""


@dataclass(frozen=True)
class Format:
    """A format of transcripts.

    Attributes:
        suffix: of its files.
        write: (what the recording is called, transcript, whether there are several) → what is written for it.
        several: whether a file may hold several recordings.
        head: what a file starts with.
        name: (name of a recording) → what it is called in a file.
        names: the same of all recordings of a file, where one's name depends on the others'.
    """

    suffix: str
    write: Callable[[str, Transcript, bool], str]
    several: bool = True
    head: str = ""
    name: Callable[[str], str] = str
    names: Callable[[Sequence[str]], list[str]] | None = None


# --- Text, tables -----------------------------------------------------------------------------------------------------


_CLIP = re.compile(r"(?P<file>.*?)(?P<times> \([^()/]*\))?", re.DOTALL)
"""The name of a part of a recording, as `audio.Clip` has it."""
_ENDS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\x0b": "\\x0b", "\x0c": "\\x0c"})


def _cell(name: str) -> str:
    """Return a name without what ends a column or a line, which is written as in a string of Python."""
    return name.translate(_ENDS)


def _text(name: str, heard: Transcript, several: bool) -> str:
    return f"{name}\t{heard.text}\n" if several else f"{heard.text}\n"


def json_row(name: str, heard: Transcript) -> dict:
    """Return a transcript as an object of JSON: file, text, words, duration in seconds.

    And `has_word_times`, false, if words have the times of a stretch of speech.
    """
    row = {"file": name} | asdict(heard)
    if heard.has_word_times:  # as ever
        row.pop("has_word_times")
    return row


def _jsonl(name: str, heard: Transcript, several: bool) -> str:
    return json.dumps(json_row(name, heard), ensure_ascii=False) + "\n"


def _tsv(name: str, heard: Transcript, several: bool) -> str:
    return "".join(f"{name}\t{w.start:.3f}\t{w.end:.3f}\t{w.word}\t{w.confidence:.4f}\n" for w in heard.words)


def _words(names: Sequence[str]) -> list[str]:
    """Return a name of one word for each recording: its file's, or its whole path where two have the same.

    Example:
        >>> _words(["x/a b.wav", "x/c.wav"]), _words(["x/a.wav", "y/a.wav"]), _words(["a b.wav", "a_b.wav", "a b.wav"])
        (['a_b', 'c'], ['x/a.wav', 'y/a.wav'], ['a_b.wav', 'a_b.wav_2', 'a_b.wav_3'])
        >>> _words(["x/a.wav (1.5-3.25 s)", "x/a.wav (channel 2, 4- s)"])
        ['a_(1.5-3.25_s)', 'a_(channel_2,_4-_s)']
    """
    parts = [_CLIP.fullmatch(name) for name in names]
    short = ["_".join(f"{Path(part['file']).stem}{part['times'] or ''}".split()) for part in parts]
    several = Counter(short)
    made, taken = [], set(several)
    for name, word in zip(names, short, strict=True):
        whole = "_".join(name.split())
        numbers = (f"{whole}_{number}" for number in count(2))
        if several[word] > 1:
            word = next(one for one in chain([whole], numbers) if one not in taken)
            taken.add(word)
        made.append(word)
    return made


def _ctm(name: str, heard: Transcript, several: bool) -> str:
    """NIST's CTM: recording, channel, start, duration, word, confidence, separated by spaces."""
    return "".join(f"{name} 1 {w.start:.3f} {w.end - w.start:.3f} {w.word} {w.confidence:.4f}\n" for w in heard.words)


# --- Subtitles --------------------------------------------------------------------------------------------------------


def subtitles(heard: Transcript) -> Iterator[tuple[float, float, list[str]]]:
    """Group words into subtitles: start and end in seconds, and one or two lines.

    A subtitle has up to 2 lines of 42 characters and 7 s, and ends at a pause of a second. It is shown for a second at
    least, if the next one leaves it the time. Words without times of their own share those of their stretch of speech,
    by their letters.

    Example:
        >>> words = [Word("go", 0.2, 0.4, 0.9), Word("on", 3.0, 3.2, 0.9)]
        >>> [(start, end, lines) for start, end, lines in subtitles(Transcript("go on", words, 3.5))]
        [(0.2, 1.2, ['go']), (3.0, 3.5, ['on'])]
    """
    groups: list[list[Word]] = []
    for word in heard.words if heard.has_word_times else _shared_out(heard):
        group = groups[-1] if groups else []
        if (
            group
            and word.start - group[-1].end < _GAP
            and word.end - group[0].start <= _LONGEST
            and len(_lines([*group, word])) <= _LINES
        ):
            group.append(word)
        else:
            groups.append([word])
    starts = [group[0].start for group in groups[1:]] + [heard.duration]
    for group, following in zip(groups, starts, strict=False):  # without words there is one too many
        start, end = group[0].start, min(group[-1].end, group[0].start + _LONGEST)
        end = max(end, min(start + _SHORTEST, following))
        yield start, round(max(end, start + 0.001), 3), _lines(group)


def _shared_out(heard: Transcript) -> Iterator[Word]:
    """Yield words whose times are parts of those of their stretch of speech, each as long as its share of the letters.

    Example:
        >>> list(_shared_out(Transcript("go on yo", [Word(word, 1, 4, 0.9) for word in ("go", "on", "yo")], 5)))[1]
        Word(word='on', start=2.0, end=3.0, confidence=0.9)
    """
    for stretch in heard.stretches:
        start, whole, letters = stretch[0].start, stretch[0].end - stretch[0].start, sum(map(len, _texts(stretch)))
        before = 0
        for word in stretch:
            first, before = before, before + len(word.word)
            times = (round(start + whole * place / letters, 3) for place in (first, before))
            yield Word(word.word, *times, word.confidence)


def _texts(words: list[Word]) -> list[str]:
    return [word.word for word in words]


def _lines(words: list[Word]) -> list[str]:
    """Break a subtitle into lines, two of about equal length rather than a full one and a rest."""
    text = " ".join(_texts(words))
    lines = textwrap.wrap(text, _WIDTH)
    if len(lines) == _LINES:
        for width in range(len(text) // _LINES, _WIDTH):
            balanced = textwrap.wrap(text, width, break_long_words=False)
            if len(balanced) == _LINES and max(map(len, balanced)) <= _WIDTH:
                return balanced
    return lines


def clock(seconds: float, comma: str) -> str:
    """Return a time as in subtitles, with milliseconds.

    Example:
        >>> clock(3_661.5, ",")
        '01:01:01,500'
    """
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{comma}{whole % 1000:03}"


def _srt(name: str, heard: Transcript, several: bool) -> str:
    return "".join(
        f"{number}\n{clock(start, ',')} --> {clock(end, ',')}\n" + "\n".join(lines) + "\n\n"
        for number, (start, end, lines) in enumerate(subtitles(heard), 1)
    )


def _vtt(name: str, heard: Transcript, several: bool) -> str:
    return "".join(
        f"{clock(start, '.')} --> {clock(end, '.')}\n" + "\n".join(map(_escaped, lines)) + "\n\n"
        for start, end, lines in subtitles(heard)
    )


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# --- Praat ------------------------------------------------------------------------------------------------------------


def _textgrid(name: str, heard: Transcript, several: bool) -> str:
    """Praat's TextGrid with a tier of words; what is between them are intervals without a text.

    Words without times of their own are together in the interval of their stretch of speech.
    """
    intervals: list[tuple[float, float, str]] = []
    reached = 0.0
    for words in [[word] for word in heard.words] if heard.has_word_times else heard.stretches:
        start, end = max(words[0].start, reached), words[0].end
        if end <= start:
            continue
        if start > reached:
            intervals.append((reached, start, ""))
        intervals.append((start, end, " ".join(_texts(words))))
        reached = end
    end = max(heard.duration, reached)
    if reached < end or not intervals:
        intervals.append((reached, end, ""))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}"]
    lines += ["tiers? <exists>", "size = 1", "item []:", "    item [1]:", '        class = "IntervalTier"']
    lines += ['        name = "words"', "        xmin = 0", f"        xmax = {end:.3f}"]
    lines += [f"        intervals: size = {len(intervals)}"]
    for number, (start, stop, text) in enumerate(intervals, 1):
        quoted = text.replace('"', '""')
        lines += [f"        intervals [{number}]:", f"            xmin = {start:.3f}", f"            xmax = {stop:.3f}"]
        lines += [f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


FORMATS = {
    "text": Format(".txt", _text, name=_cell),
    "jsonl": Format(".jsonl", _jsonl),
    "srt": Format(".srt", _srt, several=False),
    "vtt": Format(".vtt", _vtt, several=False, head="WEBVTT\n\n"),
    "ctm": Format(".ctm", _ctm, name=lambda name: _words([name])[0], names=_words),
    "textgrid": Format(".TextGrid", _textgrid, several=False),
    "tsv": Format(".tsv", _tsv, head="file\tstart\tend\tword\tconfidence\n", name=_cell),
}
"""The formats by their names."""
