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
import logging
import socket
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
    from asr_with_nemo.recognition.beam import Search

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


# --- The app ----------------------------------------------------------------------------------------------------------


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

    app = FastAPI(title="asr-with-nemo", description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    app.add_middleware(RequestMonitor, metrics=server.metrics, limit=limits.bytes)
    app.add_exception_handler(StarletteHTTPException, error_response)
    app.add_exception_handler(Exception, unexpected_error_response)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    key = [Depends(server.authorised)]

    @app.post(
        "/v1/audio/transcriptions",
        dependencies=key,
        responses=ANSWERS,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}},
    )
    async def transcribe(request: Request) -> Response:
        """Turn a recording into text."""
        return await server.transcribe(request)

    model = {"id": server.name, "object": "model", "created": server.created, "owned_by": "asr-with-nemo"}

    @app.get("/v1/models", dependencies=key)
    async def models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}", dependencies=key, responses={404: ANSWERS[404]})
    async def one_model(name: str) -> dict[str, Any]:
        """The same, by its name."""
        if name != server.name:
            raise RequestError(404, f"the model {name[:100]!r} does not exist; {server.name!r} does", "model_not_found")
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
        return HTMLResponse(docs_page(app.openapi()), headers=PAGE_HEADERS)

    @app.websocket("/v1/listen")
    async def listen(websocket: WebSocket) -> None:
        await serve_stream(server, websocket)

    return app


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


def run_server(app: FastAPI, host: str, port: int) -> None:
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
