"""Live transcription over a WebSocket."""

import asyncio
import contextlib
import json
from collections.abc import Iterable

import numpy as np
import soxr
from fastapi import WebSocket, WebSocketDisconnect

from asr_with_nemo.data.sound import RATES
from asr_with_nemo.deployment.answers import words_as_json
from asr_with_nemo.deployment.engine import EngineRecognizer
from asr_with_nemo.deployment.live import Heard, Listener
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.deployment.service import RequestError, Server

_TEXT_LENGTH = 1_000
"""The most characters of a text message."""
_HELLO_SECONDS = 10.0
"""How long a client may take to send the start message."""
_IDLE_SECONDS = 60.0
"""How long a client may send nothing."""


class _StreamError(Exception):
    """A live stream can't continue; the message goes to the client, with the close code (RFC 6455)."""

    def __init__(self, message: str, code: int = 1008):
        super().__init__(message)
        self.code = code


class _ClientGone(Exception):
    """The client has closed the connection."""


async def serve_stream(server: Server, websocket: WebSocket) -> None:
    """Serve a live stream: {"type": "start"}, audio in binary messages, {"type": "stop"}; the answers are JSON, too."""
    origin, host = websocket.headers.get("origin"), websocket.headers.get("host")
    if origin and origin.partition("://")[2] != host:
        await websocket.close(1008)  # a page of another site, in the user's browser
        return
    await websocket.accept()
    with server.live() as place, contextlib.suppress(_ClientGone, WebSocketDisconnect, RuntimeError):
        try:
            if not place:
                raise _StreamError("too many live streams, or the server is stopping; try again later", 1013)
            await _transcribe_stream(server, websocket)
            await websocket.send_json({"type": "done"})
            await websocket.close()
        except _StreamError as error:
            await websocket.send_json({"type": "error", "message": str(error)})
            await websocket.close(error.code)


async def _transcribe_stream(server: Server, websocket: WebSocket) -> None:
    hello = _parsed(await _receive(server, websocket, _HELLO_SECONDS))
    rate = hello.get("sample_rate", server.engine.recognizer.sample_rate)
    if hello.get("type") != "start" or type(rate) is not int or rate not in RATES:
        raise _StreamError(f'expected {{"type": "start", "sample_rate": HZ}}, with {RATES[0]} to {RATES[-1]} Hz')
    if not server.lets_in(str(hello.get("api_key", "")).encode("utf-8", "replace")):
        raise _StreamError("the API key is missing or wrong")
    recognizer = server.engine.recognizer
    whole = isinstance(recognizer, Recognizer)
    try:
        search = await server.search_for(hello.get("boost", ""))
    except RequestError as error:
        raise _StreamError(str(error.detail)) from None
    listener = Listener(EngineRecognizer(server.engine, search)) if whole else recognizer.listener()
    ready = {"type": "ready", "sample_rate": rate, "latency": round(listener.latency, 3), "about": listener.about}
    await websocket.send_json(ready)
    resampler = soxr.ResampleStream(rate, recognizer.sample_rate, 1, dtype="float32")
    received, most = 0, server.limits.stream_seconds * rate
    while isinstance(message := await _receive(server, websocket, _IDLE_SECONDS), bytes):
        if len(message) % 2:
            raise _StreamError("an odd number of bytes: expected 16-bit PCM, little-endian, mono", 1007)
        samples = np.frombuffer(message, "<i2").astype(np.float32) / 32_768
        received += len(samples)
        if received > most:
            raise _StreamError(f"longer than {server.limits.stream_seconds:g} s; open another stream", 1009)
        samples = await asyncio.to_thread(resampler.resample_chunk, samples)
        await _send(websocket, await asyncio.to_thread(lambda samples=samples: list(listener.feed(samples))))
    if message is not None and _parsed(message).get("type") != "stop":
        raise _StreamError('expected audio in binary messages, or {"type": "stop"}')
    rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    await _send(websocket, await asyncio.to_thread(lambda: [*listener.feed(rest), *listener.finish()]))


async def _receive(server: Server, websocket: WebSocket, seconds: float) -> bytes | str | None:
    """Return the next message; None when the server stops.

    Raises:
        _ClientGone: the client has closed the connection.
        _StreamError: no message came within `seconds`.
    """
    message, stop = asyncio.ensure_future(websocket.receive()), asyncio.ensure_future(server.stopping.wait())
    try:
        await asyncio.wait({message, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not message.done():
            if stop.done():
                return None
            raise _StreamError(f"no message for {seconds:g} s; open another stream")
        content = message.result()
    finally:
        message.cancel()
        stop.cancel()
    if content["type"] != "websocket.receive":
        raise _ClientGone
    return content["text"] if content.get("bytes") is None else content["bytes"]


def _parsed(message: bytes | str | None) -> dict:
    try:
        content = json.loads(message) if isinstance(message, str) and len(message) <= _TEXT_LENGTH else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise _StreamError("expected a JSON object in a text message")
    return content


async def _send(websocket: WebSocket, hypotheses: Iterable[Heard]) -> None:
    for one in hypotheses:
        await websocket.send_json(
            {
                "type": "final" if one.final else "partial",
                "text": one.text,
                "words": words_as_json(one.words),
                "stable": one.stable,
                "start": round(one.start, 3),
                "end": round(one.end, 3),
            }
        )
