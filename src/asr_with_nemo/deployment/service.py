"""The HTTP service: limits, metrics, errors, authentication, and the transcription route."""

import asyncio
import contextlib
import hashlib
import hmac
import math
import threading
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

from asr_with_nemo.base.files import is_full
from asr_with_nemo.deployment.answers import Format, event_response, format_response
from asr_with_nemo.deployment.engine import BATCH, Engine
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.deployment.uploads import AudioTooLongError, decode_upload
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import boosting

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from asr_with_nemo.deployment.cache_aware import StreamingModel
    from asr_with_nemo.deployment.runtime import Search

_FIELD_BYTES = 10_000
_SEARCHES = 32
"""Lists of boosted phrases that are kept ready."""


@dataclass(frozen=True)
class Limits:
    """The server's limits.

    Attributes:
        bytes: of an upload.
        seconds: of audio in an upload.
        stream_seconds: of audio in a live stream.
        timeout: seconds for an upload to arrive, and the same again for its transcription.
        requests: uploads that are processed or queued at the same time.
        streams: live streams at the same time.
    """

    bytes: int = 25_000_000
    seconds: float = 600.0
    stream_seconds: float = 3_600.0
    timeout: float = 60.0
    requests: int = 64
    streams: int = 16


_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_AUDIO_SECONDS = (1, 2, 5, 10, 20, 60, 300, 600)


class Metrics:
    """The server's metrics for Prometheus."""

    def __init__(self) -> None:
        self.registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self.requests = prometheus_client.Counter(
            "asr_requests_total", "Requests, by route and status.", ["route", "status"], registry=registry
        )
        self.latency = prometheus_client.Histogram(
            "asr_request_seconds", "Seconds from request to response.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.sound = prometheus_client.Histogram(
            "asr_audio_seconds", "Seconds of audio in an upload.", buckets=_AUDIO_SECONDS, registry=registry
        )
        self.batches = prometheus_client.Histogram(
            "asr_batch_size", "Segments in a batch.", buckets=range(1, BATCH + 1), registry=registry
        )
        self.accepted = prometheus_client.Gauge(
            "asr_requests_accepted", "Uploads that are processed or queued.", registry=registry
        )
        self.waiting = prometheus_client.Gauge("asr_pieces_waiting", "Queued segments of audio.", registry=registry)
        self.streams = prometheus_client.Gauge("asr_streams", "Live streams.", registry=registry)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)


class RequestMonitor:
    """Middleware that counts and times requests, and limits the size of uploads.

    A client that is still sending when its request is refused would see the connection break instead of the response,
    so the rest of its upload is read and discarded, up to a limit.
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
    """An error response in OpenAI's form."""

    def __init__(self, status: int, message: str, code: str | None = None, retry_after: float | None = None):
        headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
        self.code = code


_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "overloaded_error"}


async def error_response(request: Request, error: StarletteHTTPException) -> JSONResponse:
    """Answer with an error in OpenAI's form."""
    kind = _KINDS.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "server_error")
    body = {"message": str(error.detail), "type": kind, "param": None, "code": getattr(error, "code", None)}
    return JSONResponse({"error": body}, error.status_code, headers=error.headers)


async def unexpected_error_response(request: Request, error: Exception) -> JSONResponse:
    """Answer with status 500, without the error's details; Starlette logs them."""
    return await error_response(request, StarletteHTTPException(500, "internal server error; see the server's log"))


class Server:
    """The state that the routes share. For the arguments, see `create_app`.

    Attributes:
        stopping: set when the server accepts no more requests; live streams then send their final text and end.
    """

    def __init__(
        self,
        recognizer: "Recognizer | StreamingModel",
        search: "Search | None",
        threads: int,
        limits: Limits,
        api_key: str,
    ):
        self.metrics = Metrics()
        self.engine = Engine(recognizer, search, threads, self.metrics.batches.observe)
        self.metrics.waiting.set_function(lambda: self.engine.waiting)
        self.limits, self.name = limits, recognizer.path.stem
        self.created = int(recognizer.path.stat().st_mtime)
        self.stopping = asyncio.Event()
        self._key = hashlib.sha256(api_key.encode()).digest() if api_key else None
        self._accepted = self._streams = 0
        self._searches: dict[str, Search] = {}
        self._lock = threading.Lock()
        self._decoding = asyncio.Semaphore(2 * threads)
        self._seconds = deque([1.0], maxlen=32)  # that the last uploads have taken

    def lets_in(self, key: bytes) -> bool:
        """Return whether an API key is valid; every key is if the server has none."""
        return self._key is None or hmac.compare_digest(self._key, hashlib.sha256(key).digest())

    async def authorised(self, request: Request) -> None:
        """Refuse a request without a valid API key: a dependency of the routes."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if not self.lets_in(key.encode("latin-1") if scheme.lower() == "bearer" else b""):  # the bytes as sent
            raise RequestError(
                401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", "invalid_api_key"
            )

    @contextlib.contextmanager
    def accepted(self) -> Iterator[None]:
        """Occupy a place in the queue of requests while the context lasts.

        Raises:
            RequestError: 503, with Retry-After: the queue is full, or the server is stopping.
        """
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
        """Occupy a place for a live stream while the context lasts; yields False if none is free."""
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
        """The number of open live streams."""
        return self._streams

    async def transcribe(self, request: Request) -> Response:
        """Answer POST /v1/audio/transcriptions."""
        with self.accepted():
            try:
                async with asyncio.timeout(self.limits.timeout):
                    fields = await _read_form(request)
            except TimeoutError:
                raise RequestError(
                    408, f"the upload took longer than {self.limits.timeout:g} s; send a shorter one"
                ) from None
            except ClientDisconnect:
                raise RequestError(400, "the upload was interrupted; send it again") from None
            try:
                upload, form, language, as_events = _checked(fields, self.name)
                search = await self.search_for(fields.get("boost", ""))
                async with asyncio.timeout(self.limits.timeout):
                    samples = await self._decode(upload)
                    transcript = await self.engine.transcribe(samples, search)
            except TimeoutError:
                raise RequestError(
                    503, f"transcription took longer than {self.limits.timeout:g} s", retry_after=10
                ) from None
            finally:
                await fields.close()
            self.metrics.sound.observe(transcript.duration)
            return event_response(transcript) if as_events else format_response(transcript, form, language)

    async def search_for(self, boost: object) -> "Search | None":
        """Return the search for the phrases that a request boosts, as text (`boosting.parse_boosts`); None for none.

        Raises:
            RequestError: 400: the text has no phrases, or this model can't boost or write them.
        """
        if boost == "":
            return None
        try:
            if not isinstance(boost, str):
                raise InputError("boost: expected a text, such as: rubout:3, new york")
            phrases = boosting.parse_boosts(boost)
            if not phrases:
                return None
            if not isinstance(self.engine.recognizer, Recognizer):
                raise InputError("boost: a model that streams takes no boosts; serve an exported model")
            return await asyncio.to_thread(self._boosted, phrases)
        except InputError as error:
            raise RequestError(400, str(error)) from None

    def _boosted(self, phrases: "boosting.Phrases") -> "Search":
        """Return a search with boosts; requests with the same ones share it, so that they can share a batch."""
        key = boosting.key(phrases)
        with self._lock:
            if key not in self._searches:
                if len(self._searches) >= _SEARCHES:
                    del self._searches[next(iter(self._searches))]
                own = self.engine.search
                if own and not hasattr(own, "with_boosts"):
                    raise InputError("boost: the server's language model, of characters, can't be used with boosts")
                if own:
                    self._searches[key] = own.with_boosts({**own.boosts, **phrases})
                else:
                    self._searches[key] = self.engine.recognizer.load_search(boosts=phrases)
            return self._searches[key]

    async def _decode(self, upload: UploadFile) -> np.ndarray:
        rate, name = self.engine.recognizer.sample_rate, (upload.filename or "the upload")[:100]
        async with self._decoding:
            # The thread outlives a request that times out, whose file is closed: it gets the bytes, not the file.
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
    try:
        return await request.form(max_files=1, max_fields=20, max_part_size=_FIELD_BYTES)
    except OSError as error:
        if is_full(error) or isinstance(error, FileNotFoundError):  # or there is no folder for temporary files
            raise RequestError(
                507, f"the server has no room for the upload in its temporary folder ({error.strerror})"
            ) from error
        raise


def _checked(fields: FormData, name: str) -> tuple[UploadFile, Format, str, bool]:
    """Check the form's fields.

    Returns:
        the uploaded file, the response format, the language to return, and whether the answer is a stream of events.
    """
    upload, model, form = fields.get("file"), fields.get("model", name), fields.get("response_format", "json")
    if not isinstance(upload, UploadFile):
        raise RequestError(400, "the field 'file' is missing, or isn't a file")
    if model != name:
        raise RequestError(404, f"the model {str(model)[:100]!r} does not exist; {name!r} does", "model_not_found")
    if form not in list(Format):
        raise RequestError(400, f"response_format {str(form)[:100]!r}: expected one of {', '.join(Format)}")
    stream = str(fields.get("stream", "false")).lower()
    if stream not in ("true", "false"):
        raise RequestError(400, f"stream {stream[:100]!r}: expected true or false")
    if stream == "true" and form not in ("json", "text"):
        raise RequestError(400, f"stream=true with response_format {form}: events have the text alone; expected json")
    return upload, Format(form), str(fields.get("language", "en"))[:20], stream == "true"
