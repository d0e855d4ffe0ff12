"""A request, from its arrival to the end of its answer, whole or as a stream."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.refusals import api_error, queue_full, unknown_model, unsupported
from specreason_sgl.serving.replies import ALIVE, Reply, as_json
from specreason_sgl.serving.service import Event, Job, Service
from specreason_sgl.serving.settings import Settings
from specreason_sgl.serving.slots import QueueFull
from specreason_sgl.serving.tools import Toolbox

FIRST_SILENCE = 1.0  # seconds in which a stream that fails gets a status of its own; then it begins
SILENCE = 15.0  # seconds without bytes after which a stream sends an empty line
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        chat: the request, as a conversation.
        config: its settings.
        tools: what may be called.
        ignored: parameters that were not acted on.
        source: the parameter that has the conversation.
    """

    chat: ChatRequest
    config: SpecReasonConfig
    tools: Toolbox
    ignored: tuple[str, ...]
    source: str


def understand(
    chat: ChatRequest, not_supported: dict[str, str], settings: Settings, source: str = "messages"
) -> Asked:
    """Check a request against the server's settings.

    Args:
        chat: the request, as a conversation.
        not_supported: parameters of the request that are not supported, with the reasons.
        settings: the server's.
        source: the parameter that has the conversation.

    Raises:
        ApiError, ConfigError: it cannot be answered as asked.
    """
    if chat.model not in settings.modes:
        raise unknown_model(chat.model, [*settings.modes])
    if not_supported and not settings.ignore_unsupported:
        raise unsupported(not_supported)
    tools = chat.toolbox()
    config = chat.config(settings.config, settings.pair, tools)
    return Asked(chat, config, tools, tuple(not_supported), source)


class Exchange:
    """A request and its reply.

    Raises:
        ApiError, ConfigError: the conversation is malformed.
    """

    def __init__(self, asked: Asked, reply: Reply, service: Service, settings: Settings):
        self.service, self.reply, self.config = service, reply, asked.config
        self.model, self.stream, self.choices = asked.chat.model, asked.chat.stream, asked.chat.n
        extension = asked.chat.specreason
        self.drafts = self.stream and extension.trace and extension.drafts
        self.mode = settings.modes[self.model]
        self.arrived = time.monotonic()
        self.messages = asked.chat.conversation(asked.tools)
        self.headers = _warning(asked.ignored)
        self._has_begun = False
        try:
            asked.config.messages(self.messages)
        except ConfigError as error:
            raise api_error(error, asked.source) from None

    async def answer(self, request: Request) -> Response:
        """Run the request, and cancel it if its client goes away."""
        try:
            job = self.service.submit(
                self.mode, self.messages, self.config, self.choices, self.stream, self.drafts
            )
        except QueueFull:
            self._count("refused")
            raise queue_full() from None
        watcher = asyncio.create_task(_when_gone(request, job.cancel))
        status, response = "error", None
        try:
            if self.stream:
                response = await self._begin_stream(job, watcher)
                return response
            traces = await _wait_for_traces(job)
            status = "ok"
            whole = as_json(self.reply.whole(traces, job.prompt_tokens))
            return Response(whole, headers=self.headers, media_type="application/json")
        finally:
            if response is None:  # else the stream does it
                self._end(job, watcher, status)

    async def _begin_stream(self, job: Job, watcher: asyncio.Task) -> StreamingResponse:
        first = await job.next(FIRST_SILENCE)  # a failure until then gets a status of its own
        headers = {**STREAM_HEADERS, **self.headers}
        return StreamingResponse(
            self._stream(job, first, watcher), media_type="text/event-stream", headers=headers
        )

    async def _stream(self, job: Job, event: Event | None, watcher: asyncio.Task) -> AsyncIterator[str]:
        traces: dict[int, Trace] = {}
        status, sent = "gone", -math.inf
        try:
            while True:
                for text in self._texts(event, traces) if event else ():
                    sent = time.monotonic()
                    yield text
                if len(traces) == job.choices:
                    break
                if time.monotonic() - sent >= SILENCE:
                    sent = time.monotonic()
                    yield ALIVE
                event = await job.next(sent + SILENCE - time.monotonic())
            for text in self.reply.end(_in_order(traces), job.prompt_tokens):
                yield text
            status = "ok"
        except SpecReasonError as error:  # the status was sent long ago, so the error goes into the stream
            status = "error"
            for text in self.reply.fail(api_error(error)):
                yield text
        finally:
            self._end(job, watcher, status)

    def _texts(self, event: Event, traces: dict[int, Trace]) -> Iterator[str]:
        """What a stream sends for an event; `traces` receives its trace."""
        if not self._has_begun:
            self._has_begun = True
            self.service.metrics.first.labels(self.model).observe(time.monotonic() - self.arrived)
            yield from self.reply.begin()
        yield from self.reply.tell(event)
        if event.trace:
            traces[event.choice] = event.trace

    def _end(self, job: Job, watcher: asyncio.Task, status: str) -> None:
        watcher.cancel()
        job.cancel()
        self._count(status)

    def _count(self, status: str) -> None:
        self.service.metrics.requests.labels(self.model, status).inc()
        self.service.metrics.seconds.labels(self.model).observe(time.monotonic() - self.arrived)


def _warning(ignored: tuple[str, ...]) -> dict[str, str]:
    names = ", ".join(name if _NAME.fullmatch(name) else "?" for name in ignored)
    return {"Warning": f'299 specreason-sgl "parameters ignored: {names}"'} if ignored else {}


async def _wait_for_traces(job: Job) -> list[Trace]:
    traces: dict[int, Trace] = {}
    while len(traces) < job.choices:
        event = await job.next()
        if event and event.trace:
            traces[event.choice] = event.trace
    return _in_order(traces)


def _in_order(traces: dict[int, Trace]) -> list[Trace]:
    return [traces[index] for index in range(len(traces))]


async def _when_gone(request: Request, then: Callable[[], None]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    then()
