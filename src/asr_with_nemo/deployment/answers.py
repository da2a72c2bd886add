"""Transcripts in the response formats of OpenAI's API: JSON, text, SRT, VTT."""

import math
from collections.abc import Iterable
from enum import StrEnum

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from asr_with_nemo.recognition.transcripts import Transcript, Word


class Format(StrEnum):
    """What an answer may look like, as OpenAI names it."""

    json = "json"
    text = "text"
    verbose_json = "verbose_json"
    srt = "srt"
    vtt = "vtt"


PAUSE, LONGEST_LINE, LETTERS = 0.6, 6.0, 42
"""A caption ends at a pause of so many seconds, and has at most so many seconds and letters."""


def captions(words: Iterable[Word]) -> list[list[Word]]:
    """Words in groups that fit on a line under a film."""
    lines: list[list[Word]] = []
    for word in words:
        line = lines[-1] if lines else []
        letters = sum(len(one.word) + 1 for one in line) + len(word.word)
        if (
            not line
            or word.start - line[-1].end > PAUSE
            or word.end - line[0].start > LONGEST_LINE
            or letters > LETTERS
        ):
            lines.append([])
        lines[-1].append(word)
    return lines


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _spelled(line: Iterable[Word]) -> str:
    return " ".join(word.word for word in line)


def format_response(heard: Transcript, form: Format, language: str) -> Response:
    """A transcript as OpenAI's API gives it."""
    lines = captions(heard.words)
    if form is Format.text:
        return PlainTextResponse(heard.text + "\n")
    if form in (Format.srt, Format.vtt):
        point = "," if form is Format.srt else "."
        parts = [] if form is Format.srt else ["WEBVTT\n"]
        for number, line in enumerate(lines, 1):
            head = f"{number}\n" if form is Format.srt else ""
            parts.append(f"{head}{_clock(line[0].start, point)} --> {_clock(line[-1].end, point)}\n{_spelled(line)}\n")
        return PlainTextResponse("\n".join(parts), media_type="text/vtt" if form is Format.vtt else "text/plain")
    usage = {"type": "duration", "seconds": math.ceil(heard.duration)}
    if form is Format.json:
        return JSONResponse({"text": heard.text, "usage": usage})
    return JSONResponse(
        {
            "task": "transcribe",
            "language": language,
            "duration": round(heard.duration, 3),
            "text": heard.text,
            "words": words_as_json(heard.words),
            "segments": [_segment(number, line) for number, line in enumerate(lines)],
            "usage": usage,
        }
    )


def words_as_json(words: Iterable[Word]) -> list[dict[str, object]]:
    return [{"word": one.word, "start": one.start, "end": one.end, "confidence": one.confidence} for one in words]


def _segment(number: int, line: list[Word]) -> dict[str, object]:
    """As OpenAI's; what only its own models have is 0 or empty."""
    return {
        "id": number,
        "seek": 0,
        "start": line[0].start,
        "end": line[-1].end,
        "text": _spelled(line),
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(math.log(max(word.confidence, 1e-4)) for word in line) / len(line), 4),
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
