"""The HTTP server: OpenAI's API in front of a pair, metrics, health, and the page."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from specreason_sgl import __version__
from specreason_sgl.display.page import page
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.chat import Exchange, understand
from specreason_sgl.serving.completions import CompletionReply, CompletionRequest
from specreason_sgl.serving.connections import Connection
from specreason_sgl.serving.guard import Guard
from specreason_sgl.serving.refusals import ApiError, ErrorReply, api_error, invalid, unknown_model
from specreason_sgl.serving.replies import ChatReply
from specreason_sgl.serving.responses import ResponsesReply, ResponsesRequest
from specreason_sgl.serving.service import Service
from specreason_sgl.serving.settings import Settings

ANSWERS = {
    200: {"content": {"text/event-stream": {}}},
    **{status: {"model": ErrorReply} for status in (404, 429, 500, 502, 503, 504)},
}
PAGE_HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'"}  # the rest is in the page itself
POLL = 0.01  # seconds
log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves the application; when told to stop, it cancels running requests instead of waiting for them."""

    def __init__(self, service: Service, settings: Settings):
        self.service = service
        super().__init__(uvicorn.Config(make_app(service, settings), http=Connection, log_level="warning"))

    async def shutdown(self, sockets=None) -> None:
        self.service.cancel_all()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def in_background(self, sock: socket.socket) -> Iterator[Future]:
        """Serve in a thread, to the end of the block; gives what ends with the server.

        The block begins when the server has imported what it needs. A signal that ends an import of the main
        thread leaves an import lock behind, and a thread that met it could not be stopped any more.
        """
        with ThreadPoolExecutor(1, "http") as thread:
            running = thread.submit(self.run, [sock])
            try:
                while not self.started and not running.done():
                    wait([running], POLL)
                yield running
            finally:
                self.should_exit = True
                until_done(running)


def until_done(running: Future) -> None:
    """Wait in short waits: on a busy machine, signals have failed to wake the main thread from long ones."""
    while not running.done():
        wait([running], 1)


def make_app(service: Service, settings: Settings) -> FastAPI:
    """The application. When it ends, requests that still run are aborted."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await service.close()

    app = FastAPI(
        title="specreason-sgl",
        description="Speculative reasoning behind OpenAI's API.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": ErrorReply} for status in (400, 401, 403, 413)},
    )
    _add_endpoints(app, service, settings)
    _add_answers(app, service, settings)
    for kind in (SpecReasonError, ApiError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    app.add_middleware(Guard, settings=settings)
    _describe(app, [*settings.modes])
    return app


def _add_endpoints(app: FastAPI, service: Service, settings: Settings) -> None:
    started = int(time.time())
    ask_health = _Shared(settings.health)

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "specreason-sgl"}

    @app.get("/", include_in_schema=False)
    async def show_page():
        return HTMLResponse(page(), headers=PAGE_HEADERS)

    @app.get("/v1/models")
    async def list_models():
        return {"object": "list", "data": [model(name) for name in settings.modes]}

    @app.get("/v1/models/{name:path}", responses={404: {"model": ErrorReply}})
    async def show_model(name: str):
        if name not in settings.modes:
            raise unknown_model(name, [*settings.modes])
        return model(name)

    @app.get("/health", responses={503: {}})
    async def health():
        status, more = await ask_health()
        return JSONResponse({"status": status, **more}, 200 if status == "ok" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics():
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_answers(app: FastAPI, service: Service, settings: Settings) -> None:
    @app.post("/v1/chat/completions", responses=ANSWERS)
    async def chat(body: ChatRequest, request: Request):
        asked = understand(body, body.unsupported, settings)
        reply = ChatReply(body, asked.config.delimiter, body.n, asked.tools, service.fingerprint)
        return await Exchange(asked, reply, service, settings).answer(request)

    @app.post("/v1/completions", responses=ANSWERS)
    async def complete(body: CompletionRequest, request: Request):
        asked = understand(body.as_chat(), body.unsupported, settings, "prompt")
        reply = CompletionReply(body, asked.config.delimiter, body.n, service.fingerprint)
        return await Exchange(asked, reply, service, settings).answer(request)

    @app.post("/v1/responses", responses=ANSWERS)
    async def respond(body: ResponsesRequest, request: Request):
        asked = understand(body.as_chat(), body.unsupported, settings, "input")
        reply = ResponsesReply(body, asked.config.delimiter)
        return await Exchange(asked, reply, service, settings).answer(request)


class _Shared:
    """An answer that takes long: asked for in a thread of its own, by one caller at a time, for all."""

    def __init__(self, ask: Callable[[], Any]):
        self._ask, self._pool = ask, ThreadPoolExecutor(1, thread_name_prefix="health")
        self._answer: asyncio.Future[Any] | None = None

    async def __call__(self) -> Any:
        if self._answer is None or self._answer.done():
            self._answer = asyncio.get_running_loop().run_in_executor(self._pool, self._ask)
        return await asyncio.shield(self._answer)


def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, SpecReasonError):
        error = api_error(error)
    elif isinstance(error, RequestValidationError):
        error = invalid(error)
    elif isinstance(error, HTTPException):
        error = ApiError(error.status_code, str(error.detail), headers=error.headers)
    elif not isinstance(error, ApiError):
        log.error("a request failed", exc_info=error)
        error = ApiError(500, "something is wrong in this server; its log says more", "server_error")
    return error.response()


def _describe(app: FastAPI, models: list[str]) -> None:
    """Correct what FastAPI says of the API in /openapi.json."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's status for a wrong body; here it is 400
        for body in (ChatRequest, CompletionRequest, ResponsesRequest):
            schema["components"]["schemas"][body.__name__]["properties"]["model"]["enum"] = models
        return schema

    app.openapi = openapi
