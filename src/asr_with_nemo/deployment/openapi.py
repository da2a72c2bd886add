"""The description of the HTTP API: the schema with examples, and the page under /docs."""

import json
from typing import Any

from asr_with_nemo.base.html import ENVIRONMENT
from asr_with_nemo.deployment.answers import Format

UPLOAD = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "WAV, FLAC, Ogg (Vorbis, Opus), MP3 and more."},
        "model": {"type": "string", "description": "The id that GET /v1/models returns."},
        "response_format": {"type": "string", "enum": list(Format), "default": "json"},
        "stream": {
            "type": "boolean",
            "default": False,
            "description": "Answer with server-sent events: the text caption by caption, then all of it.",
        },
        "language": {"type": "string", "description": "Returned in verbose_json; it doesn't change the transcript."},
        "boost": {
            "type": "string",
            "description": "Words or phrases that are expected, each with a weight or without one, with commas between "
            "them: `rubout:3, new york`. For exported models.",
        },
        "prompt": {"type": "string", "description": "Accepted and ignored; for expected words, see boost."},
        "temperature": {"type": "number", "description": "Accepted and ignored."},
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["word", "segment"]},
            "description": "Accepted and ignored: verbose_json always has both.",
        },
    },
}
_WORD = {"word": "rubout", "start": 0.42, "end": 0.94, "confidence": 0.98}
_ERROR = {"error": {"message": "cause and next step", "type": "invalid_request_error", "param": None, "code": None}}
ANSWERS = {
    200: {
        "description": "The transcript.",
        "content": {
            "application/json": {
                "examples": {
                    "json": {
                        "value": {"text": "rubout g m e f three nine", "usage": {"type": "duration", "seconds": 4}}
                    },
                    "verbose_json": {
                        "value": {
                            "task": "transcribe",
                            "language": "en",
                            "duration": 3.2,
                            "text": "rubout",
                            "words": [_WORD],
                            "segments": [{"id": 0, "start": 0.42, "end": 0.94, "text": "rubout", "avg_logprob": -0.02}],
                        }
                    },
                }
            },
            "text/plain": {"example": "1\n00:00:00,420 --> 00:00:00,940\nrubout\n"},
            "text/event-stream": {"example": 'data: {"type": "transcript.text.delta", "delta": "rubout"}\n\n'},
            "text/vtt": {"example": "WEBVTT\n\n00:00:00.420 --> 00:00:00.940\nrubout\n"},
        },
    }
} | {
    status: {"description": description, "content": {"application/json": {"example": _ERROR}}}
    for status, description in {
        400: "The upload isn't audio, or a field is wrong.",
        401: "The API key is missing or wrong.",
        404: "The model does not exist.",
        408: "The upload took too long.",
        413: "Too many bytes, or too many seconds of audio.",
        503: "The queue is full, or the server stops; try again after the seconds in Retry-After.",
        507: "The server's temporary folder is full.",
    }.items()
}
DESCRIPTION = """
Speech to text, compatible with OpenAI's API, so that its clients work unchanged:

    curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@recording.wav -F model=NAME -F response_format=srt

    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.audio.transcriptions.create(model="NAME", file=open("recording.wav", "rb")).text

Live, over a WebSocket at /v1/listen: send {"type": "start", "sample_rate": 16000}, then 16-bit little-endian mono PCM
in binary messages, then {"type": "stop"}. Answers are {"type": "ready", "latency", "about"}, with the seconds of audio
between two texts and whether the model streams; {"type": "partial" or "final", "text", "words", "stable", "start",
"end"}; and {"type": "done"} at the end. If the server needs a key, send it as "api_key" in the first message; words
that are expected, as "boost".
"""


def docs_page(schema: dict[str, Any]) -> str:
    """Render the API's description as a page that loads nothing from other servers, as FastAPI's own page would.

    Args:
        schema: the OpenAPI document, as `app.openapi()` returns it.
    """
    return ENVIRONMENT.get_template("api.html").render(schema=schema, as_text=_example_text)


def _example_text(example: object) -> str:
    return example if isinstance(example, str) else json.dumps(example, indent=1)
