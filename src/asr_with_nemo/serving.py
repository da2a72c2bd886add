"""A server for speech recognition that clients of OpenAI's API already speak to, and a page with a microphone.

    POST /v1/audio/transcriptions   a file becomes text, as OpenAI defines it
    GET  /v1/models                 the model that is served
    WS   /v1/listen                 live: 16-bit PCM in, partial and final texts out
    GET  /healthz, /metrics         for those who watch it
    GET  /                          the page; /docs the API with examples

What comes together is computed together; what is too much is refused at once, with the time after which to try again.
An upload lies in memory, or in a file without a name that is gone with the request.
"""

import asyncio
import contextlib
import functools
import hashlib
import hmac
import html
import io
import json
import logging
import math
import re
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import prometheus_client
import soundfile
import soxr
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from asr_with_nemo import audio, transcripts
from asr_with_nemo.errors import InputError
from asr_with_nemo.live import Heard, Listener
from asr_with_nemo.runtime import Recognizer
from asr_with_nemo.transcripts import Transcript, Word

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from asr_with_nemo.beam import Search

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

BATCH = 8
"""Pieces of sound that are computed together at most."""
UNLIKE = 1.5
"""How many times as long as another a piece in the same batch may be: the rest is padding."""
IN_FLIGHT = 8
"""Pieces of one recording that wait at a time, so that a long one doesn't keep the others waiting."""
RATES = range(1_000, 384_001)
"""Hz; what claims another rate is no recording."""
CHANNELS = 64
BLOCK = 1 << 18
"""Samples of all channels that are decoded at a time."""
WHAT_TO_SEND = "send WAV, FLAC, Ogg or MP3"
FIELD_BYTES = 10_000
SMALL = 1_000
"""Bytes of a message that isn't sound."""
HELLO_SECONDS = 10.0
IDLE_SECONDS = 60.0
"""How long a live stream may take to say what it is, and how long it may be silent on the wire."""


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Attributes:
        bytes: of an upload.
        seconds: of sound in an upload.
        stream_seconds: of sound in a live stream.
        timeout: seconds that an upload may take to arrive, and then to be transcribed.
        requests: that are worked on or wait at a time.
        streams: live ones at a time.
    """

    bytes: int = 25_000_000
    seconds: float = 600.0
    stream_seconds: float = 3_600.0
    timeout: float = 60.0
    requests: int = 64
    streams: int = 16


# --- Computing --------------------------------------------------------------------------------------------------------


class Engine:
    """Computes what waits, together where it is about as long. It belongs to the event loop that it is first used in.

    Args:
        recognizer: with one thread of its own, since several batches are computed beside each other.
        search: a beam search with a language model; by default greedy.
        threads: batches that are computed at a time.
    """

    def __init__(self, recognizer: Recognizer, search: "Search | None", threads: int, batches: Callable[[int], None]):
        self.recognizer, self.search, self.threads = recognizer, search, threads
        self._pool = ThreadPoolExecutor(threads, "recognise")
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[Transcript]]] = deque()
        self._running = 0
        self._tell = batches

    async def recognise(self, samples: np.ndarray) -> Transcript:
        """Transcribe one piece, (t,), as soon as a thread is free."""
        future: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        self._waiting.append((samples, future))
        self._go_on()
        return await future

    async def transcribe(self, samples: np.ndarray) -> Transcript:
        """Transcribe a recording of any length, (t,)."""
        rate = self.recognizer.sample_rate
        sizes = transcripts.WHOLE, transcripts.LONGEST_PIECE, transcripts.SHORTEST_PIECE
        cut = await asyncio.to_thread(lambda: list(audio.cut_at_pauses([samples], rate, *sizes)))
        heard: list[Transcript] = []
        for first in range(0, len(cut), IN_FLIGHT):
            heard += await asyncio.gather(*(self.recognise(piece) for _, piece in cut[first : first + IN_FLIGHT]))
        return transcripts.joined([(start, one) for (start, _), one in zip(cut, heard, strict=True)])

    @property
    def waiting(self) -> int:
        """Pieces that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Wait until what is being computed is done."""
        self._pool.shutdown()

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        while self._running < self.threads and (batch := self._next()):
            self._running += 1
            self._tell(len(batch))
            work = loop.run_in_executor(
                self._pool, self.recognizer.recognise, [samples for samples, _ in batch], self.search
            )
            work.add_done_callback(lambda work, batch=batch: self._done(work, batch))

    def _next(self) -> list[tuple[np.ndarray, asyncio.Future]]:
        """The piece that has waited longest, and others of about its length."""
        batch, others = [], deque()
        while self._waiting and len(batch) < BATCH:
            piece = self._waiting.popleft()
            if piece[1].done():  # nobody waits for it any more
                continue
            size = len(batch[0][0]) if batch else len(piece[0])
            alike = max(size, len(piece[0])) <= UNLIKE * min(size, len(piece[0]))
            (batch if alike else others).append(piece)
        self._waiting.extendleft(reversed(others))
        return batch

    def _done(self, work: asyncio.Future, batch: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        self._running -= 1
        error = work.exception()
        for number, (_, future) in enumerate(batch):
            if not future.done():
                if error:
                    future.set_exception(error)
                else:
                    future.set_result(work.result()[number])
        self._go_on()


class _Shared:
    """The engine as a recogniser for `Listener`, which computes in a thread of its own."""

    def __init__(self, engine: Engine):
        self.sample_rate = engine.recognizer.sample_rate
        self._engine, self._loop = engine, asyncio.get_running_loop()

    def recognise(self, batch: Sequence[np.ndarray], search: None = None) -> list[Transcript]:
        futures = [asyncio.run_coroutine_threadsafe(self._engine.recognise(one), self._loop) for one in batch]
        return [future.result() for future in futures]


# --- Uploads ----------------------------------------------------------------------------------------------------------


_KINDS_OF_SOUND = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|riff\x2e\x91\xcf\x11|fLaC|OggS|\xff[\xe0-\xff]|FORM....AIF[FC]|[.]snd|dns[.]|caff|NIST_1A",
    re.DOTALL,
)
"""How WAV (also of 64 bits), FLAC, Ogg, MP3, AIFF, AU, CAF and NIST SPHERE begin. libsndfile also knows kinds that
nobody sends, in some of which a damaged file keeps it busy for minutes: MIDI's sample dumps."""
_ID3 = re.compile(rb"ID3..(.)([\0-\x7f]{4})", re.DOTALL)
"""A label before the sound, with its flags and length (7 bits a byte; https://id3.org/id3v2.4.0-structure)."""


class _InMemory(io.BytesIO):
    """A file in which nothing lies before its start, where damaged ones send libsndfile."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(0, offset) if whence == io.SEEK_SET else offset, whence)


def decode(content: bytes, name: str, rate: int, seconds: float) -> np.ndarray:
    """The samples of an uploaded file, mono float32 (t,), at `rate`.

    Args:
        content: a file: WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF or NIST SPHERE.
        name: what the file is called in messages.
        rate: in Hz.
        seconds: that it may have.

    Raises:
        InputError: it is no sound, damaged, empty or too long.
    """
    start = 0
    while label := _ID3.match(content, start):
        size = functools.reduce(lambda most, byte: most << 7 | byte, label[2])
        start = label.end() + size + (10 if label[1][0] & 0x10 else 0)
    if not _KINDS_OF_SOUND.match(content, start):
        raise InputError(f"{name}: can't be read as sound (format not recognised); {WHAT_TO_SEND}")
    try:
        with soundfile.SoundFile(_InMemory(content[start:])) as sound:
            if sound.samplerate not in RATES or not 1 <= sound.channels <= CHANNELS:
                raise InputError(f"{name}: {sound.samplerate:,} Hz with {sound.channels} channels is no recording")
            blocks = sound.blocks(max(1, BLOCK // sound.channels), dtype="float32")
            parts, heard = [], 0
            for part in audio.resampled(blocks, sound.samplerate, rate):
                heard += len(part)
                if heard > seconds * rate:
                    raise InputError(f"{name}: longer than {seconds:g} s")
                if not np.isfinite(part).all():
                    raise InputError(f"{name}: has samples that are no numbers (NaN or infinite)")
                parts.append(np.clip(part, -1.0, 1.0))
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".") or type(error).__name__
        raise InputError(f"{name}: can't be read as sound ({reason}); {WHAT_TO_SEND}") from error
    if not heard:
        raise InputError(f"{name}: holds no sound (zero samples)")
    return np.concatenate(parts)


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


def answer(heard: Transcript, form: Format, language: str) -> Response:
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
            "words": _words(heard.words),
            "segments": [_segment(number, line) for number, line in enumerate(lines)],
            "usage": usage,
        }
    )


def _words(words: Iterable[Word]) -> list[dict[str, object]]:
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


# --- Metrics ----------------------------------------------------------------------------------------------------------

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SOUND_SECONDS = (1, 2, 5, 10, 20, 60, 300, 600)


class Metrics:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self.requests = prometheus_client.Counter(
            "asr_requests_total", "Requests, by route and status.", ["route", "status"], registry=registry
        )
        self.latency = prometheus_client.Histogram(
            "asr_request_seconds", "From request to answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.sound = prometheus_client.Histogram(
            "asr_audio_seconds", "Sound of an upload.", buckets=SOUND_SECONDS, registry=registry
        )
        self.batches = prometheus_client.Histogram(
            "asr_batch_size", "Pieces that were computed together.", buckets=range(1, BATCH + 1), registry=registry
        )
        self.accepted = prometheus_client.Gauge(
            "asr_requests_accepted", "Uploads that are worked on or wait.", registry=registry
        )
        self.waiting = prometheus_client.Gauge("asr_pieces_waiting", "Pieces of sound that wait.", registry=registry)
        self.streams = prometheus_client.Gauge("asr_streams", "Live streams.", registry=registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return prometheus_client.generate_latest(self.registry)


# --- HTTP -------------------------------------------------------------------------------------------------------------


class _Watch:
    """Counts and times requests, holds uploads to their size, and lets a refused client read why.

    A client that is still sending when it is refused would see its connection break instead of the answer, so what it
    sends is taken and thrown away, within limits.
    """

    def __init__(self, app: "ASGIApp", metrics: Metrics, limit: int):
        self.app, self.metrics, self.limit = app, metrics, limit

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, taken, more, status = time.perf_counter(), 0, True, 500
        length = dict(scope["headers"]).get(b"content-length", b"")
        declared = int(length) if length.isdigit() else 0

        async def counted() -> "Message":
            nonlocal taken, more
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                more = message.get("more_body", False)
                if max(taken, declared) > self.limit:
                    raise _Refused(413, f"the upload is larger than {self.limit:,} bytes")
            return message

        async def drained(message: "Message") -> None:
            nonlocal more, taken, status
            if message["type"] == "http.response.start":
                status = message["status"]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        while more and status >= 400 and taken <= 2 * self.limit:
                            rest = await receive()
                            taken += len(rest.get("body", b""))
                            more = rest["type"] == "http.request" and rest.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, counted, drained)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.latency.labels(route).observe(time.perf_counter() - started)


class _Refused(HTTPException):
    """An answer to a request that can't be served, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str | None = None, retry_after: float | None = None):
        headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code = code


_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}


async def _explained(request: Request, error: StarletteHTTPException) -> JSONResponse:
    kind = _KINDS.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "server_error")
    body = {"message": str(error.detail), "type": kind, "param": None, "code": getattr(error, "code", None)}
    return JSONResponse({"error": body}, error.status_code, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    return await _explained(request, StarletteHTTPException(500, "something went wrong here; the log says what"))


class Server:
    """What the routes share.

    Attributes:
        stopping: set when no more shall be taken on; live streams then end with what they have.
    """

    def __init__(self, recognizer: Recognizer, search: "Search | None", threads: int, limits: Limits, api_key: str):
        self.metrics = Metrics()
        self.engine = Engine(recognizer, search, threads, self.metrics.batches.observe)
        self.metrics.waiting.set_function(lambda: self.engine.waiting)
        self.limits, self.name = limits, recognizer.path.stem
        self.created = int(recognizer.path.stat().st_mtime)
        self.stopping = asyncio.Event()
        self._key = hashlib.sha256(api_key.encode()).digest() if api_key else None
        self._accepted = self._streams = 0
        self._decoding = asyncio.Semaphore(2 * threads)
        self._seconds = deque([1.0], maxlen=32)  # that uploads of late have taken

    def lets_in(self, key: bytes) -> bool:
        """Whether a key is the right one; any is where none is asked for."""
        return self._key is None or hmac.compare_digest(self._key, hashlib.sha256(key).digest())

    async def authorised(self, request: Request) -> None:
        """For the routes that cost something: refuses a request without the key."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if not self.lets_in(key.encode("latin-1") if scheme.lower() == "bearer" else b""):  # as it came
            raise _Refused(
                401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", "invalid_api_key"
            )

    @contextlib.contextmanager
    def accepted(self) -> Iterator[None]:
        """A place among the requests that are worked on or wait."""
        wait = self._accepted * sum(self._seconds) / len(self._seconds) / self.engine.threads
        if self.stopping.is_set():
            raise _Refused(503, "the server is stopping", retry_after=5)
        if self._accepted >= self.limits.requests:
            raise _Refused(
                503, f"{self._accepted} requests are waiting; try again later", retry_after=min(30, 1 + wait)
            )
        self._accepted += 1
        self.metrics.accepted.inc()
        started = time.perf_counter()
        try:
            yield
        finally:
            self._accepted -= 1
            self.metrics.accepted.dec()
            self._seconds.append(time.perf_counter() - started)

    @contextlib.contextmanager
    def live(self) -> Iterator[bool]:
        """A place among the live streams; False where there is none."""
        if self._streams >= self.limits.streams or self.stopping.is_set():
            yield False
            return
        self._streams += 1
        self.metrics.streams.inc()
        try:
            yield True
        finally:
            self._streams -= 1
            self.metrics.streams.dec()

    @property
    def streams(self) -> int:
        """Live streams at the moment."""
        return self._streams

    async def transcribe(self, request: Request) -> Response:
        """Answer POST /v1/audio/transcriptions."""
        with self.accepted():
            try:
                async with asyncio.timeout(self.limits.timeout):
                    fields = await _read_form(request)
            except TimeoutError:
                raise _Refused(408, f"the upload took longer than {self.limits.timeout:g} s") from None
            except ClientDisconnect:
                raise _Refused(400, "the upload broke off") from None
            try:
                upload, form, language = _checked(fields, self.name)
                async with asyncio.timeout(self.limits.timeout):
                    samples = await self._decode(upload)
                    heard = await self.engine.transcribe(samples)
            except TimeoutError:
                raise _Refused(503, f"it took longer than {self.limits.timeout:g} s", retry_after=10) from None
            finally:
                await fields.close()
            self.metrics.sound.observe(heard.duration)
            return answer(heard, form, language)

    async def _decode(self, upload: UploadFile) -> np.ndarray:
        rate, name = self.engine.recognizer.sample_rate, (upload.filename or "the upload")[:100]
        async with self._decoding:
            # The thread goes on when the request's time is up and its file closed; so it has what is in it.
            content = await upload.read()
            try:
                return await asyncio.to_thread(decode, content, name, rate, self.limits.seconds)
            except InputError as error:
                status = 413 if "longer than" in str(error) else 400
                raise _Refused(status, str(error)) from None


async def _read_form(request: Request) -> FormData:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise _Refused(400, "expected multipart/form-data with a file, as in: curl -F file=@recording.wav -F model=...")
    return await request.form(max_files=1, max_fields=20, max_part_size=FIELD_BYTES)


def _checked(fields: FormData, name: str) -> tuple[UploadFile, Format, str]:
    """The uploaded file, what the answer shall look like, and the language to name in it."""
    upload, model, form = fields.get("file"), fields.get("model", name), fields.get("response_format", "json")
    if not isinstance(upload, UploadFile):
        raise _Refused(400, "the field 'file' is missing, or isn't a file")
    if model != name:
        raise _Refused(404, f"the model {str(model)[:100]!r} does not exist; {name!r} does", "model_not_found")
    if form not in list(Format):
        raise _Refused(400, f"response_format {str(form)[:100]!r}: expected one of {', '.join(Format)}")
    return upload, Format(form), str(fields.get("language", "en"))[:20]


# --- Live -------------------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """A live stream can't go on; the message goes to the client, with the code of the end (RFC 6455)."""

    def __init__(self, message: str, code: int = 1008):
        super().__init__(message)
        self.code = code


class _Gone(Exception):
    """The client has left."""


async def _listen(server: Server, websocket: WebSocket) -> None:
    """Serve a live stream: {"type": "start"}, sound in binary messages, {"type": "stop"}; the answers are JSON too."""
    origin, host = websocket.headers.get("origin"), websocket.headers.get("host")
    if origin and origin.partition("://")[2] != host:
        await websocket.close(1008)  # another site's page in the user's browser
        return
    await websocket.accept()
    with server.live() as place, contextlib.suppress(_Gone, WebSocketDisconnect, RuntimeError):
        try:
            if not place:
                raise _Wrong("too many live streams, or the server is stopping; try again later", 1013)
            await _serve_stream(server, websocket)
            await websocket.send_json({"type": "done"})
            await websocket.close()
        except _Wrong as error:
            await websocket.send_json({"type": "error", "message": str(error)})
            await websocket.close(error.code)


async def _serve_stream(server: Server, websocket: WebSocket) -> None:
    hello = _parsed(await _receive(server, websocket, HELLO_SECONDS))
    rate = hello.get("sample_rate", server.engine.recognizer.sample_rate)
    if hello.get("type") != "start" or type(rate) is not int or rate not in RATES:
        raise _Wrong(f'expected {{"type": "start", "sample_rate": HZ}}, with {RATES[0]} to {RATES[-1]} Hz')
    if not server.lets_in(str(hello.get("api_key", "")).encode("utf-8", "replace")):
        raise _Wrong("the API key is missing or wrong")
    await websocket.send_json({"type": "ready", "sample_rate": rate})
    listener = Listener(_Shared(server.engine))
    resampler = soxr.ResampleStream(rate, listener.recognizer.sample_rate, 1, dtype="float32")
    heard, most = 0, server.limits.stream_seconds * rate
    while isinstance(message := await _receive(server, websocket, IDLE_SECONDS), bytes):
        if len(message) % 2:
            raise _Wrong("half a sample: expected 16-bit PCM, little-endian, mono", 1007)
        samples = np.frombuffer(message, "<i2").astype(np.float32) / 32_768
        heard += len(samples)
        if heard > most:
            raise _Wrong(f"longer than {server.limits.stream_seconds:g} s", 1009)
        samples = await asyncio.to_thread(resampler.resample_chunk, samples)
        await _tell(websocket, await asyncio.to_thread(lambda samples=samples: list(listener.feed(samples))))
    if message is not None and _parsed(message).get("type") != "stop":
        raise _Wrong('expected sound in binary messages, or {"type": "stop"}')
    rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    await _tell(websocket, await asyncio.to_thread(lambda: [*listener.feed(rest), *listener.finish()]))


async def _receive(server: Server, websocket: WebSocket, seconds: float) -> bytes | str | None:
    """The next message; None when the server stops.

    Raises:
        _Gone: the client has left.
        _Wrong: nothing came for so many seconds.
    """
    message, stop = asyncio.ensure_future(websocket.receive()), asyncio.ensure_future(server.stopping.wait())
    try:
        await asyncio.wait({message, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not message.done():
            if stop.done():
                return None
            raise _Wrong(f"nothing came for {seconds:g} s")
        content = message.result()
    finally:
        message.cancel()
        stop.cancel()
    if content["type"] != "websocket.receive":
        raise _Gone
    return content["text"] if content.get("bytes") is None else content["bytes"]


def _parsed(message: bytes | str | None) -> dict:
    try:
        content = json.loads(message) if isinstance(message, str) and len(message) <= SMALL else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise _Wrong("expected a JSON object in a text message")
    return content


async def _tell(websocket: WebSocket, heard: Iterable[Heard]) -> None:
    for one in heard:
        await websocket.send_json(
            {
                "type": "final" if one.final else "partial",
                "text": one.text,
                "words": _words(one.words),
                "stable": one.stable,
                "start": round(one.start, 3),
                "end": round(one.end, 3),
            }
        )


# --- The app ----------------------------------------------------------------------------------------------------------

_UPLOAD = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "WAV, FLAC, Ogg (Vorbis, Opus), MP3 and more."},
        "model": {"type": "string", "description": "As GET /v1/models names it."},
        "response_format": {"type": "string", "enum": list(Format), "default": "json"},
        "language": {"type": "string", "description": "Given back in verbose_json; the model knows one language."},
        "prompt": {"type": "string", "description": "Accepted and ignored."},
        "temperature": {"type": "number", "description": "Accepted and ignored."},
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["word", "segment"]},
            "description": "Accepted and ignored: verbose_json has both.",
        },
    },
}
_WORD = {"word": "rubout", "start": 0.42, "end": 0.94, "confidence": 0.98}
_ERROR = {"error": {"message": "what is wrong", "type": "invalid_request_error", "param": None, "code": None}}
_ANSWERS = {
    200: {
        "description": "What was said.",
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
            "text/vtt": {"example": "WEBVTT\n\n00:00:00.420 --> 00:00:00.940\nrubout\n"},
        },
    }
} | {
    status: {"description": description, "content": {"application/json": {"example": _ERROR}}}
    for status, description in {
        400: "The upload isn't sound, or a field is wrong.",
        401: "The API key is missing or wrong.",
        404: "There is no such model.",
        408: "The upload took too long.",
        413: "Too many bytes, or too many seconds of sound.",
        503: "Too much to do; Retry-After says when to try again.",
    }.items()
}
_DESCRIPTION = """
Speech to text as OpenAI's API has it, so that its clients work unchanged:

    curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@recording.wav -F model=NAME -F response_format=srt

    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.audio.transcriptions.create(model="NAME", file=open("recording.wav", "rb")).text

Live, over a WebSocket at /v1/listen: send {"type": "start", "sample_rate": 16000}, then 16-bit little-endian mono PCM
in binary messages, then {"type": "stop"}. Answers are {"type": "partial" or "final", "text", "words", "stable",
"start", "end"}, and {"type": "done"} at the end. Where a key is asked for, it is "api_key" in the first message.
"""


def create_app(
    recognizer: Recognizer,
    search: "Search | None" = None,
    threads: int = 2,
    limits: Limits = Limits(),
    api_key: str = "",
) -> FastAPI:
    """The server as an ASGI app; `app.state.server` is what its routes share.

    Args:
        recognizer: with one thread of its own (`Recognizer(model, threads=1)`).
        search: a beam search with a language model for uploads; live streams and the default are greedy.
        threads: batches that are computed at a time.
        limits: what it takes on.
        api_key: what clients must send; empty for none.
    """
    server = Server(recognizer, search, threads, limits, api_key)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.engine.close)

    app = FastAPI(title="asr-with-nemo", description=_DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_middleware(_Watch, metrics=server.metrics, limit=limits.bytes)
    app.add_exception_handler(StarletteHTTPException, _explained)
    app.add_exception_handler(Exception, _unexpected)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    key = [Depends(server.authorised)]

    @app.post(
        "/v1/audio/transcriptions",
        dependencies=key,
        responses=_ANSWERS,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD}}}},
    )
    async def transcribe(request: Request) -> Response:
        """Turn a recording into text."""
        return await server.transcribe(request)

    model = {"id": server.name, "object": "model", "created": server.created, "owned_by": "asr-with-nemo"}

    @app.get("/v1/models", dependencies=key)
    async def models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}", dependencies=key, responses={404: _ANSWERS[404]})
    async def one_model(name: str) -> dict[str, Any]:
        """The same, by its name."""
        if name != server.name:
            raise _Refused(404, f"the model {name[:100]!r} does not exist; {server.name!r} does", "model_not_found")
        return model

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """Whether it takes on more: 200, or 503 while it stops."""
        stopping = server.stopping.is_set()
        return JSONResponse(
            {"status": "stopping" if stopping else "ok", "model": server.name}, 503 if stopping else 200
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(server.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_docs(app.openapi()), headers=PAGE_HEADERS)

    @app.websocket("/v1/listen")
    async def listen(websocket: WebSocket) -> None:
        await _listen(server, websocket)

    return app


def _docs(schema: dict[str, Any]) -> str:
    """The API's description as a page of its own: FastAPI's would load a program from elsewhere."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<title>API</title><link rel=stylesheet href=/page/page.css><main class=docs><h1>API</h1>",
        f"<pre>{html.escape(schema['info']['description'].strip())}</pre>",
        "<p>For programs: <a href=/openapi.json>openapi.json</a>. For people: <a href=/>a page with a microphone</a>.",
    ]
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{about.get('description', '')}")
            content = about.get("requestBody", {}).get("content", {})
            for fields in (kind["schema"].get("properties", {}) for kind in content.values()):
                rows = (
                    f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(', '.join(field.get('enum', [])))} "
                    f"{html.escape(field.get('description', ''))}"
                    for name, field in fields.items()
                )
                parts.append(f"<table>{''.join(rows)}</table>")
            for status, reply in about.get("responses", {}).items():
                parts.append(f"<p>{status}: {html.escape(reply['description'])}")
                for kind, example in reply.get("content", {}).items():
                    values = [one["value"] for one in example.get("examples", {}).values()]
                    for value in [*values, *([example["example"]] if "example" in example else [])]:
                        shown = value if isinstance(value, str) else json.dumps(value, indent=1)
                        parts.append(f"<pre title='{html.escape(kind)}'>{html.escape(shown)}</pre>")
    return "\n".join(parts)


# --- Running ----------------------------------------------------------------------------------------------------------

STOP_SECONDS = 30
"""How long what was accepted may go on after a signal to stop."""


class _Uvicorn(uvicorn.Server):
    """Lets live streams end with what they have before uvicorn closes their connections."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._server.stopping.is_set():  # a second signal: at once
            self.force_exit = True
        self._server.stopping.set()
        self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self._server.streams and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.02)
        self.should_exit = True  # and not uvicorn's own handler, which would end the process by the signal after all


def run(app: FastAPI, host: str, port: int) -> None:
    """Serve until a signal says to stop; then finish what was accepted.

    Raises:
        InputError: the address can't be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2_048)
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port}: can't be listened on ({error}); choose another --host or --port") from error
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken upload is no news for the log
    host, port = listening.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"listening on http://{address}:{port}/", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        ws_max_size=1 << 20,
        lifespan="on",
    )
    _Uvicorn(config, app.state.server).run(sockets=[listening])
