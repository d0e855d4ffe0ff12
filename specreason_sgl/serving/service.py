"""Runs requests on a pair: a bounded number at a time, a bounded queue, and events as they happen."""

import asyncio
import contextlib
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from specreason_sgl import __version__
from specreason_sgl.errors import ConfigError, DeadlineExceeded, RequestAborted, ServerBusy
from specreason_sgl.reasoning.config import Message, SpecReasonConfig
from specreason_sgl.reasoning.trace import Side, Step, Trace
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.slots import Slots, Ticket

if TYPE_CHECKING:  # importing sglang takes seconds, in which clients are told that the runtimes are starting
    from specreason_sgl.lang.endpoint import Endpoint

Mode = Literal["specreason", "base", "draft"]

COUNTERS = 2  # threads that tokenize prompts, apart from those of the runs
CANCELLED = "the request was cancelled: its client has gone, or the server is shutting down"


@dataclass(frozen=True)
class Event:
    """News of one choice of a request: a kept step, a piece of text, what is drafted and not judged yet (with
    the unfinished step that it continues), or its trace when it ends."""

    choice: int
    draft: str | None = None
    open_step: Step | None = None
    step: Step | None = None
    kind: Literal["reasoning", "answer"] | None = None
    text: str = ""
    trace: Trace | None = None


class Job:
    """A request from the queue to its end, one thread per choice. Whoever holds it must call `cancel` in the
    end.

    Attributes:
        choices: how many there are.
        has_started: whether it left the queue.
        prompt_tokens: known when it has started.
    """

    def __init__(self, choices: int):
        from specreason_sgl.reasoning.run import Cancel

        self.choices = choices
        self.has_started = False
        self.prompt_tokens = 0
        self.cancellation = Cancel()
        self.finished = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
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
        """Leave the queue, or abort its runs on both runtimes; returns at once."""
        if self.finished.is_set() or self._cancelled:
            return
        self._cancelled = True
        if self.has_started:  # takes seconds if a runtime hangs
            threading.Thread(target=self.cancellation, daemon=True).start()
        elif self.task:
            self.task.cancel()


class Service:
    """A pair of runtimes, and the requests on them, which are refused until `open`.

    Args:
        metrics: counts what happens.
        max_running: choices that run at once.
        max_queue: choices that may wait.
        timeout: seconds for a request, from its arrival.

    Attributes:
        fingerprint: OpenAI's `system_fingerprint`: this package's version and the models, once it is open.
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
        self._slots = Slots(max_running, max_queue, self._show_slots)
        self._closing = False
        self._endpoints: dict[Side, Endpoint] = {}
        self._jobs: set[Job] = set()
        self._pool = ThreadPoolExecutor(max_running, thread_name_prefix="request")
        self._counters = ThreadPoolExecutor(COUNTERS, thread_name_prefix="count")
        self.fingerprint = ""

    def open(self, draft: "Endpoint", base: "Endpoint") -> None:
        """Take requests, on these runtimes."""
        from specreason_sgl.reasoning.pauses import policy_of

        names = f"{draft.get_model_name()} {base.get_model_name()}"
        self.fingerprint = f"specreason-sgl-{__version__}-{zlib.crc32(names.encode()):08x}"
        self.metrics.watch(policy_of(draft).load)
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

    def submit(
        self,
        mode: Mode,
        messages: Sequence[Message],
        config: SpecReasonConfig,
        choices: int,
        streaming: bool,
        drafts: bool = False,
    ) -> Job:
        """Queue a request; its events, or its error, are for `Job.next`.

        Args:
            mode, messages, config, choices: what to run.
            streaming: whether texts are told as they are written.
            drafts: whether what is drafted and not judged yet is told.

        Raises:
            ServerBusy: the runtimes are still starting.
            QueueFull: too many requests wait already.
            ConfigError: it has more choices than may run at once.
            RequestAborted: the server is shutting down.
        """
        if self._closing:
            raise RequestAborted("the server is shutting down")
        self.endpoint("base")
        if choices > self.max_running:
            raise ConfigError(f"n must be at most {self.max_running} on this server, got {choices}", "n")
        ticket, job = self._slots.ask(choices), Job(choices)
        self._jobs.add(job)
        job.task = asyncio.create_task(self._work(job, ticket, mode, messages, config, streaming, drafts))
        job.task.add_done_callback(lambda task: self._finish(job, ticket, task))
        return job

    async def _work(
        self,
        job: Job,
        ticket: Ticket,
        mode: Mode,
        messages: Sequence[Message],
        config: SpecReasonConfig,
        streaming: bool,
        drafts: bool,
    ) -> None:
        """Wait for the slots, count the prompt, run the choices."""
        deadline = time.monotonic() + self.timeout
        loop = asyncio.get_running_loop()
        await self._wait(ticket)
        prompt = config.messages(messages)
        job.prompt_tokens = await loop.run_in_executor(
            self._counters, self.count_tokens, mode, prompt, config
        )
        job.has_started = True
        arguments = (mode, messages, config, deadline, streaming, drafts)
        runs = [loop.run_in_executor(self._pool, self._run, job, i, *arguments) for i in range(job.choices)]
        for run in runs:
            run.add_done_callback(lambda _: self._slots.release())
        await asyncio.gather(*runs)

    def _finish(self, job: Job, ticket: Ticket, task: asyncio.Task[None]) -> None:
        if not job.has_started:
            self._slots.withdraw(ticket)
        if error := RequestAborted(CANCELLED) if task.cancelled() else task.exception():
            job.tell(error)
        job.finished.set()
        self._jobs.discard(job)

    async def _wait(self, ticket: Ticket) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await ticket.granted
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request waited {self.timeout:g} s for a free slot; the server is overloaded"
            ) from None

    def _run(
        self,
        job: Job,
        choice: int,
        mode: Mode,
        messages: Sequence[Message],
        config: SpecReasonConfig,
        deadline: float,
        streaming: bool,
        drafts: bool,
    ) -> None:
        from specreason_sgl.reasoning.solve import solve, solve_alone

        def on_text(kind: str, text: str) -> None:
            job.tell(Event(choice, kind=kind, text=text))

        def on_draft(text: str, open_step: Step | None) -> None:
            job.tell(Event(choice, draft=text, open_step=open_step))

        if config.seed is not None:  # or all choices were the same
            config = replace(config, seed=config.seed + choice)
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
                    on_step=lambda step: job.tell(Event(choice, step=step)),
                    on_draft=on_draft if drafts else None, **common,
                )  # fmt: skip
            else:
                trace = solve_alone(messages, endpoint=self.endpoint(mode), side=mode, **common)
            self.metrics.count(trace)
            job.tell(Event(choice, trace=trace))
        except BaseException as error:
            job.tell(error)

    def _show_slots(self) -> None:
        self.metrics.running.set(self._slots.taken)
        self.metrics.waiting.set(self._slots.waited_for)

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
        self._counters.shutdown()
