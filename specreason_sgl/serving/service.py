"""Runs requests on a pair: a bounded number at a time, a bounded queue, and what they tell as it comes."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from specreason_sgl.errors import DeadlineExceeded, RequestAborted
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.config import Message, SpecReasonConfig
from specreason_sgl.reasoning.run import Cancel
from specreason_sgl.reasoning.solve import solve, solve_alone
from specreason_sgl.reasoning.trace import Step, Trace
from specreason_sgl.serving.api import MOST_CHOICES
from specreason_sgl.serving.metrics import Metrics

Mode = Literal["specreason", "base", "draft"]


class QueueFull(Exception):
    """As many requests wait as may."""


@dataclass(frozen=True)
class Event:
    """What one choice of a request tells: a kept step, a piece of text, or at its end the trace."""

    choice: int
    step: Step | None = None
    kind: Literal["reasoning", "answer"] | None = None
    text: str = ""
    trace: Trace | None = None


class Job:
    """A request that runs, in threads. `cancel` has to be called in the end, by whoever has it."""

    def __init__(self, choices: int):
        self.choices = choices
        self.end = Cancel()
        self.finished = asyncio.Event()
        self._cancelled = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()

    def tell(self, event: Event | BaseException) -> None:
        """Called from a run's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next(self, timeout: float | None = None) -> Event | None:
        """What is told next, or None after so many seconds without.

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
        """Abort what still runs of it, on both runtimes; returns at once."""
        if not self.finished.is_set() and not self._cancelled:
            self._cancelled = True
            threading.Thread(target=self.end, daemon=True).start()  # a runtime that hangs takes seconds


class Service:
    """A pair of runtimes, and the requests on them.

    Args:
        draft, base: the runtimes.
        metrics: counts what happens.
        max_running: requests at a time.
        max_queue: requests that wait beside these.
        timeout: seconds for a request, the waiting included.
    """

    def __init__(
        self,
        draft: Endpoint,
        base: Endpoint,
        metrics: Metrics,
        *,
        max_running: int = 64,
        max_queue: int = 256,
        timeout: float = 600.0,
    ):
        self.draft, self.base, self.metrics = draft, base, metrics
        self.max_running, self.max_queue, self.timeout = max_running, max_queue, timeout
        self._slots = asyncio.Semaphore(max_running)
        self._waiting = 0
        self._closing = False
        self._jobs: set[Job] = set()
        self._pool = ThreadPoolExecutor(max_running * MOST_CHOICES, thread_name_prefix="request")

    def count_tokens(self, mode: Mode, messages: Sequence[Message], config: SpecReasonConfig) -> int:
        """Tokens of a prompt, in the base model's tokenizer unless the draft model is alone.

        Raises:
            TemplateError: the model's chat template refuses the messages.
        """
        endpoint = self.draft if mode == "draft" else self.base
        template = endpoint.with_template(config.template).chat_template
        return len(template.encode_text(template.render(messages, generation_prompt=True)))

    async def start(
        self, mode: Mode, messages: Sequence[Message], config: SpecReasonConfig, choices: int, streaming: bool
    ) -> Job:
        """Admit a request and begin it.

        Raises:
            QueueFull: try again later.
            DeadlineExceeded: its time was over before its turn came.
            RequestAborted: the server is shutting down.
        """
        if self._closing:
            raise RequestAborted("the server is shutting down")
        deadline = time.monotonic() + self.timeout
        if self._slots.locked() and self._waiting >= self.max_queue:
            raise QueueFull
        self._waiting += 1
        self.metrics.waiting.inc()
        try:
            async with asyncio.timeout(self.timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request waited {self.timeout:g} s and its turn did not come; the server is overloaded"
            ) from None
        finally:
            self._waiting -= 1
            self.metrics.waiting.dec()
        if self._closing:
            self._slots.release()
            raise RequestAborted("the server is shutting down")
        job = Job(choices)
        self._jobs.add(job)
        self.metrics.running.inc()
        loop = asyncio.get_running_loop()
        arguments = (mode, messages, config, deadline, streaming)
        runs = (loop.run_in_executor(self._pool, self._run, job, i, *arguments) for i in range(choices))
        asyncio.gather(*runs).add_done_callback(lambda _: self._finish(job))
        return job

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
        def on_text(kind: str, text: str) -> None:
            job.tell(Event(choice, kind=kind, text=text))

        common = {
            "config": config,
            "timeout": max(deadline - time.monotonic(), 0.001),
            "on_text": on_text if streaming else None,
            "cancel": job.end,
        }
        try:
            if mode == "specreason":
                trace = solve(
                    messages, draft=self.draft, base=self.base,
                    on_step=lambda step: job.tell(Event(choice, step=step)), **common,
                )  # fmt: skip
            else:
                endpoint = self.base if mode == "base" else self.draft
                trace = solve_alone(messages, endpoint=endpoint, side=mode, **common)
            self.metrics.count(trace)
            job.tell(Event(choice, trace=trace))
        except BaseException as error:
            job.tell(error)

    def cancel_all(self) -> None:
        """End every request, and begin no other."""
        self._closing = True
        for job in list(self._jobs):
            job.cancel()

    async def close(self) -> None:
        """End every request and wait until each has."""
        self.cancel_all()
        for job in list(self._jobs):
            await job.finished.wait()
        self._pool.shutdown()
