"""The speech recognition server: an ASGI app that is compatible with OpenAI's clients, and a page with a microphone.

    POST /v1/audio/transcriptions   transcribe an audio file, as OpenAI's API defines it
    GET  /v1/models                 the model that is served
    WS   /v1/listen                 live transcription: 16-bit PCM in, partial and final texts out
    GET  /healthz, /metrics         for monitoring
    GET  /                          the page; /docs the API with examples

Requests are batched dynamically. When the queue is full, the server answers 503 with Retry-After. An upload is kept in
memory or in an unnamed temporary file, which is deleted with the request.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import prometheus_client
import uvicorn
from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.deployment.openapi import ANSWERS, DESCRIPTION, UPLOAD, docs_page
from asr_with_nemo.deployment.runtime import Recognizer
from asr_with_nemo.deployment.service import (
    Limits,
    RequestError,
    RequestMonitor,
    Server,
    error_response,
    unexpected_error_response,
)
from asr_with_nemo.deployment.streams import serve_stream
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from asr_with_nemo.deployment.cache_aware import StreamingModel
    from asr_with_nemo.deployment.runtime import Search

_PAGE = Path(__file__).parent / "page"
_OWN_NAMES = ("localhost", "127.0.0.1", "[::1]", "testserver")
"""This machine's names for itself, and the one of FastAPI's test client."""
_PAGE_HEADERS = {
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _page_headers(api_key: str) -> dict[str, str]:
    """Return the headers of the server's pages.

    Without a key, only this machine reaches the server; a page of its own, such as a notebook, may show it in a frame.
    """
    frames = "'none'" if api_key else "http://127.0.0.1:* http://localhost:*"
    policy = f"default-src 'self'; media-src 'self' blob:; frame-ancestors {frames}"
    return _PAGE_HEADERS | {"Content-Security-Policy": policy}


# --- The app ----------------------------------------------------------------------------------------------------------


def create_app(
    recognizer: "Recognizer | StreamingModel",
    search: "Search | None" = None,
    threads: int = 2,
    limits: Limits = Limits(),
    api_key: str = "",
    host: str = "127.0.0.1",
) -> FastAPI:
    """Build the server as an ASGI app; `app.state.server` holds the state that its routes share.

    Args:
        recognizer: with a single thread (`Recognizer(model, threads=1)`); or a model that streams.
        search: beam search with a language model; by default decoding is greedy.
        threads: batches that are computed at the same time.
        limits: of uploads, requests and streams.
        api_key: that clients must send; empty for none. Without one, only requests to this machine's own names are
            answered: otherwise a web page could reach the server by a name of its own that it lets point here (DNS
            rebinding).
        host: the address to listen on, one of those names.
    """
    server = Server(recognizer, search, threads, limits, api_key)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.engine.close)

    app = FastAPI(title="asr-with-nemo", description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_middleware(RequestMonitor, metrics=server.metrics, limit=limits.bytes)
    if not api_key:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*_OWN_NAMES, host, f"[{host}]"], www_redirect=False)
    app.add_exception_handler(StarletteHTTPException, error_response)
    app.add_exception_handler(Exception, unexpected_error_response)
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    _add_openai_routes(app, server)
    _add_other_routes(app, server, _page_headers(api_key))
    return app


def _add_openai_routes(app: FastAPI, server: Server) -> None:
    """Add the routes that OpenAI's API defines; they need the API key."""
    key = [Depends(server.authorised)]

    @app.post(
        "/v1/audio/transcriptions",
        dependencies=key,
        responses=ANSWERS,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}},
    )
    async def transcribe(request: Request) -> Response:
        """Transcribe an audio file."""
        return await server.transcribe(request)

    model = {"id": server.name, "object": "model", "created": server.created, "owned_by": "asr-with-nemo"}

    @app.get("/v1/models", dependencies=key)
    async def models() -> dict[str, Any]:
        """List the model that is served."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}", dependencies=key, responses={404: ANSWERS[404]})
    async def one_model(name: str) -> dict[str, Any]:
        """Get the model by its name."""
        if name != server.name:
            raise RequestError(404, f"the model {name[:100]!r} does not exist; {server.name!r} does", "model_not_found")
        return model


def _add_other_routes(app: FastAPI, server: Server, page_headers: dict[str, str]) -> None:
    """Add live recognition, monitoring, the page and the API's description."""

    @app.get("/healthz")
    async def health() -> JSONResponse:
        """Report whether the server accepts requests: 200, or 503 while it stops."""
        stopping = server.stopping.is_set()
        return JSONResponse(
            {"status": "stopping" if stopping else "ok", "model": server.name}, 503 if stopping else 200
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(server.metrics.text(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers=page_headers)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()), headers=page_headers)

    @app.websocket("/v1/listen")
    async def listen(websocket: WebSocket) -> None:
        await serve_stream(server, websocket)


# --- Running ----------------------------------------------------------------------------------------------------------


_STOP_SECONDS = 30
"""How long accepted requests and streams may continue after a signal to stop."""


class _Uvicorn(uvicorn.Server):
    """Lets live streams send their final text before uvicorn closes their connections."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._server.stopping.is_set():  # a second signal: stop at once
            self.force_exit = True
        self._server.stopping.set()
        self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        deadline = time.monotonic() + _STOP_SECONDS
        while self._server.streams and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.02)
        self.should_exit = True  # uvicorn's own handler would end the process by the signal


def run_server(app: FastAPI, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; then finish the accepted requests.

    Args:
        app: as `create_app` builds it.
        host: an IP address or host name to listen on.
        port: 0 for any free one; the address is printed.

    Raises:
        InputError: the server can't listen on the address.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2_048)
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port}: can't listen there ({error}); choose another --host or --port") from error
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # broken uploads needn't be logged
    host, port = listening.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"listening on http://{address}:{port}/", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
        ws_max_size=1 << 20,
        lifespan="on",
    )
    _Uvicorn(config, app.state.server).run(sockets=[listening])


def serve_in_background(model: str | os.PathLike = "an4") -> str:
    """Serve a model to this machine, on any free port, until this process (a notebook's kernel, say) ends.

    Args:
        model: a file that scripts/export.py wrote, or the name of a model that ships.

    Returns:
        the address of its page, as a browser opens it.

    Raises:
        InputError: the model can't be used.
    """
    app = create_app(Recognizer(model, threads=1), threads=usable_cores())
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False, lifespan="on")
    serve = uvicorn.Server(config).run
    threading.Thread(target=serve, kwargs={"sockets": [listening]}, name="server", daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/"
