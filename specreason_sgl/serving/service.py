"""Runs requests on a pair: a bounded number at a time, a bounded queue, and events as they happen."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from specreason_sgl.errors import DeadlineExceeded, RequestAborted, ServerBusy
from specreason_sgl.reasoning.config import Message, SpecReasonConfig
from specreason_sgl.reasoning.trace import Side, Step, Trace
from specreason_sgl.serving.api import MOST_CHOICES
from specreason_sgl.serving.metrics import Metrics

if TYPE_CHECKING:  # importing sglang takes seconds, in which clients are told that the runtimes are starting
    from specreason_sgl.lang.endpoint import Endpoint

Mode = Literal["specreason", "base", "draft"]


class QueueFull(Exception):
    """The queue has no room for another request."""


@dataclass(frozen=True)
class Event:
    """News of one choice of a request: a kept step, a piece of text, or its trace when it ends."""

    choice: int
    step: Step | None = None
    kind: Literal["reasoning", "answer"] | None = None
    text: str = ""
    trace: Trace | None = None


class Job:
    """A running request, one thread per choice. Whoever holds it must call `cancel` in the end."""

    def __init__(self, choices: int):
        from specreason_sgl.reasoning.run import Cancel

        self.choices = choices
        self.cancellation = Cancel()
        self.finished = asyncio.Event()
        self._cancelled = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    def tell(self, event: Event | BaseException) -> None:
        """Queue an event; called from the thread of a choice."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, so nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next(self, timeout: float | None = None) -> Event | None:
        """The next event, or None if there is none within `timeout` seconds.

        Raises:
            SpecReasonError: a choice failed.
        """
        try:
            event = await asyncio.wait_for(self._events.get(), timeout)
        except TimeoutError:
            return None
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self) -> None:
        """Abort its runs on both runtimes; returns at once."""
        if not self.finished.is_set() and not self._cancelled:
            self._cancelled = True
            threading.Thread(
                target=self.cancellation, daemon=True
            ).start()  # takes seconds if a runtime hangs


class Service:
    """A pair of runtimes, and the requests on them, which are refused until `open`.

    Args:
        metrics: counts what happens.
        max_running: requests that run at once.
        max_queue: requests that may wait.
        timeout: seconds for a request, from its arrival.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_running: int = 64,
        max_queue: int = 256,
        timeout: float = 600.0,
    ):
        self.metrics = metrics
        self.max_running, self.max_queue, self.timeout = max_running, max_queue, timeout
        self._slots = asyncio.Semaphore(max_running)
        self._waiting = 0
        self._closing = False
        self._endpoints: dict[Side, Endpoint] = {}
        self._jobs: set[Job] = set()
        self._pool = ThreadPoolExecutor(max_running * MOST_CHOICES, thread_name_prefix="request")

    def open(self, draft: "Endpoint", base: "Endpoint") -> None:
        """Take requests, on these runtimes."""
        self._endpoints = {"draft": draft, "base": base}

    def endpoint(self, side: Side) -> "Endpoint":
        """A runtime.

        Raises:
            ServerBusy: the runtimes are still starting.
        """
        if not self._endpoints:
            raise ServerBusy("the runtimes are still starting; /health says what is waited for")
        return self._endpoints[side]

    def count_tokens(self, mode: Mode, messages: Sequence[Message], config: SpecReasonConfig) -> int:
        """Tokens of a prompt for the base model, or for the draft model if it is alone.

        Raises:
            ServerBusy: the runtimes are still starting.
            TemplateError: the model's chat template refuses the messages.
        """
        endpoint = self.endpoint("draft" if mode == "draft" else "base")
        template = endpoint.with_template(config.template).chat_template
        return len(template.encode_text(template.render(messages, generation_prompt=True)))

    async def start(
        self, mode: Mode, messages: Sequence[Message], config: SpecReasonConfig, choices: int, streaming: bool
    ) -> Job:
        """Wait for a free slot and start a request.

        Raises:
            QueueFull: too many requests wait already.
            DeadlineExceeded: no slot was free within the timeout.
            RequestAborted: the server is shutting down.
        """
        deadline = time.monotonic() + self.timeout
        await self._acquire_slot()
        job = Job(choices)
        self._jobs.add(job)
        self.metrics.running.inc()
        loop = asyncio.get_running_loop()
        arguments = (mode, messages, config, deadline, streaming)
        runs = (loop.run_in_executor(self._pool, self._run, job, i, *arguments) for i in range(choices))
        asyncio.gather(*runs).add_done_callback(lambda _: self._finish(job))
        return job

    async def _acquire_slot(self) -> None:
        if self._closing:
            raise RequestAborted("the server is shutting down")
        if self._slots.locked() and self._waiting >= self.max_queue:
            raise QueueFull
        self._waiting += 1
        self.metrics.waiting.inc()
        try:
            async with asyncio.timeout(self.timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request waited {self.timeout:g} s for a free slot; the server is overloaded"
            ) from None
        finally:
            self._waiting -= 1
            self.metrics.waiting.dec()
        if self._closing:  # since the request began to wait
            self._slots.release()
            raise RequestAborted("the server is shutting down")

    def _finish(self, job: Job) -> None:
        job.finished.set()
        self._jobs.discard(job)
        self.metrics.running.dec()
        self._slots.release()

    def _run(
        self,
        job: Job,
        choice: int,
        mode: Mode,
        messages: Sequence[Message],
        config: SpecReasonConfig,
        deadline: float,
        streaming: bool,
    ) -> None:
        from specreason_sgl.reasoning.solve import solve, solve_alone

        def on_text(kind: str, text: str) -> None:
            job.tell(Event(choice, kind=kind, text=text))

        common = {
            "config": config,
            "timeout": max(deadline - time.monotonic(), 0.001),
            "on_text": on_text if streaming else None,
            "cancel": job.cancellation,
        }
        try:
            if mode == "specreason":
                trace = solve(
                    messages, draft=self.endpoint("draft"), base=self.endpoint("base"),
                    on_step=lambda step: job.tell(Event(choice, step=step)), **common,
                )  # fmt: skip
            else:
                trace = solve_alone(messages, endpoint=self.endpoint(mode), side=mode, **common)
            self.metrics.count(trace)
            job.tell(Event(choice, trace=trace))
        except BaseException as error:
            job.tell(error)

    def cancel_all(self) -> None:
        """Cancel every request, and start no more."""
        self._closing = True
        for job in list(self._jobs):
            job.cancel()

    async def close(self) -> None:
        """Cancel every request and wait until they have ended."""
        self.cancel_all()
        for job in list(self._jobs):
            await job.finished.wait()
        self._pool.shutdown()
