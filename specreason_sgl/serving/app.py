"""The HTTP server: OpenAI's chat completions in front of a pair, metrics, health, and the page."""

import asyncio
import contextlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from specreason_sgl import __version__
from specreason_sgl.display.page import page
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving.api import ApiError, ChatRequest, api_error, finish_reason, invalid, usage
from specreason_sgl.serving.service import Event, Job, Mode, QueueFull, Service

ALIVE = 15.0  # seconds without an event until a comment is sent, so that no proxy hangs up
BODY_TIMEOUT = 60.0  # seconds
RETRY_AFTER = "5"  # seconds
OPEN = ("/", "/health", "/metrics")  # without a key
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        name: of the pair; `NAME-base` and `NAME-draft` are the models alone.
        config: what a request gets that asks for nothing else.
        pair: the named pair, whose calibration a request for `rewrite` gets.
        api_key: asked for at all paths but `/`, `/health` and `/metrics`; None: no key.
        hosts: the names by which it may be called; empty: any. On a loopback address these keep pages of
            other sites out (DNS rebinding).
        max_body: bytes of a request.
        health: whether all is well, and what `/health` says of the runtimes.
    """

    name: str
    config: SpecReasonConfig
    pair: str | None = None
    api_key: str | None = None
    hosts: tuple[str, ...] = ()
    max_body: int = 2 * 2**20
    health: Callable[[], tuple[bool, dict[str, Any]]] = lambda: (True, {})

    @property
    def modes(self) -> dict[str, Mode]:
        """What each model name asks for."""
        return {self.name: "specreason", f"{self.name}-base": "base", f"{self.name}-draft": "draft"}


class Server(uvicorn.Server):
    """Serves the application; told to stop, it ends the requests that run instead of waiting for them.

    Args:
        on_ready: called when it answers.
    """

    def __init__(self, service: Service, settings: Settings, on_ready: Callable[[], None] = lambda: None):
        self.service = service
        self.on_ready = on_ready
        super().__init__(uvicorn.Config(make_app(service, settings), log_level="warning"))

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_ready()

    async def shutdown(self, sockets=None) -> None:
        self.service.cancel_all()
        await super().shutdown(sockets)


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """OpenAI's error format."""

    error: ErrorBody


def make_app(service: Service, settings: Settings) -> FastAPI:
    """The application. At its end the requests that still run are aborted."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await service.close()

    app = FastAPI(
        title="specreason-sgl",
        description="Speculative reasoning behind OpenAI's chat completions.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": ErrorReply} for status in (400, 401, 403, 413)},
    )
    started = int(time.time())

    @app.get("/", include_in_schema=False)
    async def the_page():
        return HTMLResponse(page())

    @app.get("/v1/models")
    async def list_models():
        kind = {"object": "model", "created": started, "owned_by": "specreason-sgl"}
        return {"object": "list", "data": [{"id": name, **kind} for name in settings.modes]}

    @app.get("/health", responses={503: {}})
    async def health():
        fine, runtimes = await asyncio.to_thread(settings.health)
        body = {"status": "ok" if fine else "degraded", "runtimes": runtimes}
        return JSONResponse(body, 200 if fine else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics():
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post(
        "/v1/chat/completions",
        responses={
            200: {"content": {"text/event-stream": {}}},
            **{status: {"model": ErrorReply} for status in (404, 429, 500, 502, 503, 504)},
        },
    )
    async def chat(body: ChatRequest, request: Request):
        return await _Chat(body, service, settings).answer(request)

    def refused(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, SpecReasonError):
            error = api_error(error)
        elif isinstance(error, RequestValidationError):
            error = invalid(error)
        elif isinstance(error, HTTPException):
            error = ApiError(error.status_code, str(error.detail), headers=error.headers)
        elif not isinstance(error, ApiError):
            log.error("a request failed", exc_info=error)
            error = ApiError(500, "something is wrong in this server; its log says more", "server_error")
        return _refusal(error)

    for kind in (SpecReasonError, ApiError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)
    app.add_middleware(_Guard, settings=settings)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own; here it is a 400
        schema["components"]["schemas"]["ChatRequest"]["properties"]["model"]["enum"] = [*settings.modes]
        return schema

    app.openapi = openapi
    return app


class _Chat:
    """One request for a chat completion."""

    def __init__(self, body: ChatRequest, service: Service, settings: Settings):
        if body.model not in settings.modes:
            known = ", ".join(settings.modes)
            raise ApiError(
                404,
                f"there is no model {body.model!r}; there are {known}",
                param="model",
                code="model_not_found",
            )
        self.body, self.service, self.mode = body, service, settings.modes[body.model]
        self.config = body.config(settings.config, settings.pair)
        self.messages = [one.plain() for one in body.messages]
        self.prompt = self.config.messages(self.messages)
        self.arrived = time.monotonic()
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
        }

    async def answer(self, request: Request) -> Response:
        self.prompt_tokens = await asyncio.to_thread(
            self.service.count_tokens, self.mode, self.prompt, self.config
        )
        stream = self.body.stream
        start = self.service.start(self.mode, self.messages, self.config, self.body.n or 1, stream)
        starting = asyncio.create_task(start)

        def gone() -> None:
            if not starting.cancel() and not starting.exception():
                starting.result().cancel()

        watcher = asyncio.create_task(_when_gone(request, gone))
        status, streaming, job = "error", False, None
        try:
            job = await starting
            if stream:
                first = await job.next()  # what fails before it still has a status of its own
                self._observe(self.service.metrics.first)
                streaming = True
                return StreamingResponse(
                    self._stream(job, first, watcher),
                    media_type="text/event-stream",
                    headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
                )
            traces: dict[int, Trace] = {}
            while len(traces) < job.choices:
                event = await job.next()
                if event.trace:
                    traces[event.choice] = event.trace
            status = "ok"
            whole = self._whole([traces[i] for i in range(job.choices)])
            return Response(msgspec.json.encode(whole), media_type="application/json")
        except QueueFull:
            status = "refused"
            raise ApiError(
                429, "the server is busy: its queue is full; try again later", "rate_limit_error",
                code="queue_full", headers={"Retry-After": RETRY_AFTER},
            ) from None  # fmt: skip
        except asyncio.CancelledError:
            if not starting.cancelled():
                raise
            raise ApiError(499, "the client has gone") from None
        finally:
            if not streaming:
                self._end(job, watcher, status)

    def _end(self, job: Job | None, watcher: asyncio.Task, status: str) -> None:
        watcher.cancel()
        if job:
            job.cancel()
        self.service.metrics.requests.labels(self.body.model, status).inc()
        self._observe(self.service.metrics.seconds)

    def _observe(self, histogram) -> None:
        histogram.labels(self.body.model).observe(time.monotonic() - self.arrived)

    def _whole(self, traces: list[Trace]) -> dict[str, Any]:
        reply = {
            **self.head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": i,
                    "message": {
                        "role": "assistant",
                        "content": trace.answer,
                        "reasoning_content": trace.reasoning,
                    },
                    "logprobs": None,
                    "finish_reason": finish_reason(trace),
                }
                for i, trace in enumerate(traces)
            ],
            "usage": usage(self.prompt_tokens, traces),
        }
        if self.body.specreason.trace:
            reply["specreason"] = {"traces": traces}
        return reply

    async def _stream(self, job: Job, event: Event | None, watcher: asyncio.Task) -> AsyncIterator[str]:
        sent = [_Sent(self.config.delimiter) for _ in range(job.choices)]
        traces: list[Trace] = []
        status = "gone"
        try:
            for i in range(job.choices):
                yield self._line(i, {"role": "assistant", "content": ""})
            while True:
                if event is None:
                    yield ": alive\n\n"
                elif event.trace:
                    traces.append(event.trace)
                    more = {"trace": event.trace}
                    yield self._line(event.choice, {}, more, finish_reason(event.trace))
                elif delta := sent[event.choice].delta(event):
                    yield self._line(event.choice, delta, {"step": event.step} if event.step else {})
                if len(traces) == job.choices:
                    break
                event = await job.next(ALIVE)
            if self._with_usage:
                yield _event({**self._chunk([]), "usage": usage(self.prompt_tokens, traces)})
            yield "data: [DONE]\n\n"
            status = "ok"
        except SpecReasonError as error:  # the status has been sent: what is left is to say it here
            status = "error"
            yield _event(api_error(error).body)
            yield "data: [DONE]\n\n"
        finally:
            self._end(job, watcher, status)

    @property
    def _with_usage(self) -> bool:
        return bool(self.body.stream_options and self.body.stream_options.include_usage)

    def _chunk(self, choices: list) -> dict[str, Any]:
        usage = {"usage": None} if self._with_usage else {}
        return {**self.head, "object": "chat.completion.chunk", "choices": choices, **usage}

    def _line(
        self,
        choice: int,
        delta: dict[str, str],
        more: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> str:
        one = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}
        extension = {"specreason": more} if more and self.body.specreason.trace else {}
        return _event({**self._chunk([one]), **extension})


class _Sent:
    """What of one choice was sent: its pieces join to the texts of an answer that comes whole."""

    def __init__(self, delimiter: str):
        self.delimiter, self.between, self.answer, self.held = delimiter, "", False, ""

    def delta(self, event: Event) -> dict[str, str]:
        if event.step:
            text = self.between + event.step.text
            self.between = "" if event.step.end == "length" else self.delimiter
            return {"reasoning_content": text}
        if event.kind == "reasoning":
            return {"reasoning_content": event.text}
        text = self.held + event.text  # white space at both ends is no part of an answer
        text = text if self.answer else text.lstrip()
        kept = text.rstrip()
        self.held, self.answer = text[len(kept) :], self.answer or bool(kept)
        return {"content": kept} if kept else {}


class _Guard:
    """Before anything else: who may call, under which name, and how much may be sent."""

    def __init__(self, app, settings: Settings):
        self.app, self.settings = app, settings

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            self._check_host(headers.get(b"host", b""))
            if scope["path"] not in OPEN:
                self._check_key(headers.get(b"authorization", b""))
            body = await self._read(receive)
        except ApiError as error:
            return await _refusal(error)(scope, receive, send)
        if body is None:
            return None
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed():
            return messages.pop() if messages else await receive()

        return await self.app(scope, replayed, send)

    def _check_host(self, host: bytes) -> None:
        name = host.decode("latin-1").rpartition(":")[0] if host.count(b":") == 1 else host.decode("latin-1")
        name = name.partition("]")[0] + "]" if name.startswith("[") else name
        if self.settings.hosts and name.lower() not in self.settings.hosts:
            raise ApiError(
                403, f"this server is not called {name!r}; it answers to {', '.join(self.settings.hosts)}"
            )

    def _check_key(self, given: bytes) -> None:
        if self.settings.api_key is None:
            return
        scheme, _, key = given.partition(b" ")
        right = hmac.compare_digest(key.strip(), self.settings.api_key.encode())
        if scheme.lower() != b"bearer" or not right:
            raise ApiError(
                401, "a right API key is needed, as Authorization: Bearer KEY", "authentication_error",
                code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    async def _read(self, receive) -> bytes | None:
        """The whole body, or None where the client has gone."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.settings.max_body:
                        raise ApiError(413, f"the request is longer than {self.settings.max_body} bytes")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, f"the request did not come within {BODY_TIMEOUT:g} s") from None


def _refusal(error: ApiError) -> Response:
    # ASCII only: what it quotes may be no valid Unicode.
    return Response(json.dumps(error.body), error.status, error.headers, "application/json")


def _event(data: dict[str, Any]) -> str:
    return f"data: {msgspec.json.encode(data).decode()}\n\n"


async def _when_gone(request: Request, gone: Callable[[], None]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone()
