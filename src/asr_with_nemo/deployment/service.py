"""The HTTP service: limits, metrics, errors, authentication, and the transcription route."""

import asyncio
import contextlib
import hashlib
import hmac
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import prometheus_client
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from asr_with_nemo.deployment.answers import Format, format_response
from asr_with_nemo.deployment.engine import BATCH, Engine
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.deployment.uploads import AudioTooLongError, decode_upload
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from asr_with_nemo.recognition.beam import Search

FIELD_BYTES = 10_000


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


class RequestMonitor:
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
                    raise RequestError(413, f"the upload is larger than {self.limit:,} bytes")
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


class RequestError(HTTPException):
    """An answer to a request that can't be served, in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str | None = None, retry_after: float | None = None):
        headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code = code


_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}


async def error_response(request: Request, error: StarletteHTTPException) -> JSONResponse:
    kind = _KINDS.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "server_error")
    body = {"message": str(error.detail), "type": kind, "param": None, "code": getattr(error, "code", None)}
    return JSONResponse({"error": body}, error.status_code, headers=error.headers)


async def unexpected_error_response(request: Request, error: Exception) -> JSONResponse:
    return await error_response(request, StarletteHTTPException(500, "something went wrong here; the log says what"))


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
            raise RequestError(
                401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", "invalid_api_key"
            )

    @contextlib.contextmanager
    def accepted(self) -> Iterator[None]:
        """A place among the requests that are worked on or wait."""
        wait = self._accepted * sum(self._seconds) / len(self._seconds) / self.engine.threads
        if self.stopping.is_set():
            raise RequestError(503, "the server is stopping", retry_after=5)
        if self._accepted >= self.limits.requests:
            raise RequestError(
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
                raise RequestError(408, f"the upload took longer than {self.limits.timeout:g} s") from None
            except ClientDisconnect:
                raise RequestError(400, "the upload broke off") from None
            try:
                upload, form, language = _checked(fields, self.name)
                async with asyncio.timeout(self.limits.timeout):
                    samples = await self._decode(upload)
                    heard = await self.engine.transcribe(samples)
            except TimeoutError:
                raise RequestError(503, f"it took longer than {self.limits.timeout:g} s", retry_after=10) from None
            finally:
                await fields.close()
            self.metrics.sound.observe(heard.duration)
            return format_response(heard, form, language)

    async def _decode(self, upload: UploadFile) -> np.ndarray:
        rate, name = self.engine.recognizer.sample_rate, (upload.filename or "the upload")[:100]
        async with self._decoding:
            # The thread goes on when the request's time is up and its file closed; so it has what is in it.
            content = await upload.read()
            try:
                return await asyncio.to_thread(decode_upload, content, name, rate, self.limits.seconds)
            except InputError as error:
                raise RequestError(413 if isinstance(error, AudioTooLongError) else 400, str(error)) from None


async def _read_form(request: Request) -> FormData:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError(
            400, "expected multipart/form-data with a file, as in: curl -F file=@recording.wav -F model=..."
        )
    return await request.form(max_files=1, max_fields=20, max_part_size=FIELD_BYTES)


def _checked(fields: FormData, name: str) -> tuple[UploadFile, Format, str]:
    """The uploaded file, what the answer shall look like, and the language to name in it."""
    upload, model, form = fields.get("file"), fields.get("model", name), fields.get("response_format", "json")
    if not isinstance(upload, UploadFile):
        raise RequestError(400, "the field 'file' is missing, or isn't a file")
    if model != name:
        raise RequestError(404, f"the model {str(model)[:100]!r} does not exist; {name!r} does", "model_not_found")
    if form not in list(Format):
        raise RequestError(400, f"response_format {str(form)[:100]!r}: expected one of {', '.join(Format)}")
    return upload, Format(form), str(fields.get("language", "en"))[:20]
