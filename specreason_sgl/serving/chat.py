"""A chat completion, from a request's arrival to the end of its answer, whole or as a stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.refusals import ApiError, api_error, queue_full, unknown_model
from specreason_sgl.serving.replies import ALIVE, DONE, Reply, SentText, as_event, as_json
from specreason_sgl.serving.service import Event, Job, QueueFull, Service
from specreason_sgl.serving.settings import Settings

SILENCE = 15.0  # seconds without an event after which a stream sends a comment
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Chat:
    """One request.

    Raises:
        ApiError, ConfigError: it cannot be answered as asked.
    """

    def __init__(self, body: ChatRequest, service: Service, settings: Settings):
        if body.model not in settings.modes:
            raise unknown_model(body.model, [*settings.modes])
        self.body, self.service, self.mode = body, service, settings.modes[body.model]
        self.arrived = time.monotonic()
        self.reply = Reply(body)
        self.messages = [message.plain() for message in body.messages]
        self.config = body.config(settings.config, settings.pair)
        try:
            self.prompt = self.config.messages(self.messages)
        except ConfigError as error:
            raise api_error(error, "messages") from None

    async def answer(self, request: Request) -> Response:
        """Run the request, and cancel it if its client goes away."""
        self.prompt_tokens = await asyncio.to_thread(
            self.service.count_tokens, self.mode, self.prompt, self.config
        )
        choices, stream = self.body.n or 1, self.body.stream
        start = self.service.start(self.mode, self.messages, self.config, choices, stream)
        starting = asyncio.create_task(start)
        watcher = asyncio.create_task(_when_gone(request, lambda: _cancel(starting)))
        status, job, response = "error", None, None
        try:
            job = await starting
            if stream:
                response = await self._begin_stream(job, watcher)
                return response
            traces = await _wait_for_traces(job)
            status = "ok"
            return Response(
                as_json(self.reply.completion(traces, self.prompt_tokens)), media_type="application/json"
            )
        except QueueFull:
            status = "refused"
            raise queue_full() from None
        except asyncio.CancelledError:
            if not starting.cancelled():
                raise
            raise ApiError(499, "the client has gone") from None
        finally:
            if response is None:  # else the stream does it
                self._end(job, watcher, status)

    async def _begin_stream(self, job: Job, watcher: asyncio.Task) -> StreamingResponse:
        first = await job.next()  # a failure before the first event still gets a status of its own
        self._observe(self.service.metrics.first)
        return StreamingResponse(
            self._stream(job, first, watcher), media_type="text/event-stream", headers=STREAM_HEADERS
        )

    async def _stream(self, job: Job, event: Event | None, watcher: asyncio.Task) -> AsyncIterator[str]:
        sent = [SentText(self.config.delimiter) for _ in range(job.choices)]
        traces: list[Trace] = []
        status = "gone"
        try:
            for index in range(job.choices):
                yield as_event(self.reply.begin_chunk(index))
            while True:
                if event is None:
                    yield ALIVE
                elif event.trace:
                    traces.append(event.trace)
                    yield as_event(self.reply.end_chunk(event.choice, event.trace))
                elif delta := sent[event.choice].delta(event):
                    yield as_event(self.reply.event_chunk(event, delta))
                if len(traces) == job.choices:
                    break
                event = await job.next(SILENCE)
            if self.reply.with_usage:
                yield as_event(self.reply.usage_chunk(traces, self.prompt_tokens))
            yield DONE
            status = "ok"
        except SpecReasonError as error:  # the status was sent long ago, so the error goes into the stream
            status = "error"
            yield as_event(api_error(error).body)
            yield DONE
        finally:
            self._end(job, watcher, status)

    def _end(self, job: Job | None, watcher: asyncio.Task, status: str) -> None:
        watcher.cancel()
        if job:
            job.cancel()
        self.service.metrics.requests.labels(self.body.model, status).inc()
        self._observe(self.service.metrics.seconds)

    def _observe(self, histogram) -> None:
        histogram.labels(self.body.model).observe(time.monotonic() - self.arrived)


async def _wait_for_traces(job: Job) -> list[Trace]:
    traces: dict[int, Trace] = {}
    while len(traces) < job.choices:
        event = await job.next()
        if event.trace:
            traces[event.choice] = event.trace
    return [traces[index] for index in range(job.choices)]


async def _when_gone(request: Request, then: Callable[[], None]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    then()


def _cancel(starting: asyncio.Task[Job]) -> None:
    if not starting.cancel() and not starting.exception():
        starting.result().cancel()
