"""Transcripts in the response formats of OpenAI's API: JSON, text, SRT and WebVTT captions."""

import json
import math
from collections.abc import Iterable
from enum import StrEnum

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from asr_with_nemo.recognition.formats import clock
from asr_with_nemo.recognition.transcripts import Transcript, Word


class Format(StrEnum):
    """The values of OpenAI's `response_format`."""

    json = "json"
    text = "text"
    verbose_json = "verbose_json"
    srt = "srt"
    vtt = "vtt"


_PAUSE, LONGEST_LINE, _CHARACTERS = 0.6, 6.0, 42
"""A caption ends at a pause of so many seconds, and has at most so many seconds and characters."""


def captions(words: Iterable[Word]) -> list[list[Word]]:
    """Group words into captions: lines that fit under a film.

    Example:
        >>> words = [Word("go", 0.0, 0.3, 1.0), Word("on", 0.4, 0.6, 1.0), Word("now", 2.0, 2.2, 1.0)]
        >>> [[one.word for one in line] for line in captions(words)]
        [['go', 'on'], ['now']]
    """
    lines: list[list[Word]] = []
    for word in words:
        line = lines[-1] if lines else []
        characters = sum(len(one.word) + 1 for one in line) + len(word.word)
        if (
            not line
            or word.start - line[-1].end > _PAUSE
            or word.end - line[0].start > LONGEST_LINE
            or characters > _CHARACTERS
        ):
            lines.append([])
        lines[-1].append(word)
    return lines


def _spelled(line: Iterable[Word]) -> str:
    return " ".join(word.word for word in line)


def format_response(transcript: Transcript, form: Format, language: str) -> Response:
    """Return a transcript as OpenAI's API does.

    Args:
        transcript: of the whole recording.
        form: the response format.
        language: named in verbose_json.
    """
    lines = captions(transcript.words)
    if form is Format.text:
        return PlainTextResponse(transcript.text + "\n")
    if form in (Format.srt, Format.vtt):
        point = "," if form is Format.srt else "."
        parts = [] if form is Format.srt else ["WEBVTT\n"]
        for number, line in enumerate(lines, 1):
            head = f"{number}\n" if form is Format.srt else ""
            parts.append(f"{head}{clock(line[0].start, point)} --> {clock(line[-1].end, point)}\n{_spelled(line)}\n")
        return PlainTextResponse("\n".join(parts), media_type="text/vtt" if form is Format.vtt else "text/plain")
    usage = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    if form is Format.json:
        return JSONResponse({"text": transcript.text, "usage": usage})
    return JSONResponse(
        {
            "task": "transcribe",
            "language": language,
            "duration": round(transcript.duration, 3),
            "text": transcript.text,
            "words": words_as_json(transcript.words),
            "segments": [_segment(number, line) for number, line in enumerate(lines)],
            "usage": usage,
        }
    )


def event_response(transcript: Transcript) -> Response:
    """Return a transcript as OpenAI's server-sent events: its captions one by one, then the whole text.

    The recording has been transcribed when the first event is sent; the WebSocket sends words while one speaks.
    """
    events: list[dict[str, object]] = []
    for number, line in enumerate(captions(transcript.words)):
        events.append({"type": "transcript.text.delta", "delta": " " * (number > 0) + _spelled(line)})
    usage = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    events.append({"type": "transcript.text.done", "text": transcript.text, "usage": usage})
    lines = [f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events]
    return Response("".join(lines), media_type="text/event-stream")


def words_as_json(words: Iterable[Word]) -> list[dict[str, object]]:
    """Return words as JSON objects, with times in seconds."""
    return [{"word": one.word, "start": one.start, "end": one.end, "confidence": one.confidence} for one in words]


def _segment(number: int, line: list[Word]) -> dict[str, object]:
    """Return a caption in OpenAI's form; fields that only its own models fill are 0 or empty."""
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
