"""`SpecReason`: a draft and a base model, ready to solve problems."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, TypeVar

from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.server import Running
from specreason_sgl.reasoning.batch import solve_batch
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.plain import config_of
from specreason_sgl.reasoning.run import Cancel
from specreason_sgl.reasoning.solve import solve, solve_alone
from specreason_sgl.reasoning.trace import Side, Step, Trace

T = TypeVar("T")
THREADS = 1024


class SpecReason:
    """A draft and a base model, as a context.

        with SpecReason("mini") as pair:
            print(pair.solve("What is 17 * 23?").answer)

    Where a block does not fit, as in a notebook, `start` and `close` do the same.

    Args:
        pair: a named pair, whose two servers are started and stopped with the context.
        draft, base: instead, the two running servers: URLs, those of `launch_pair`, or `Endpoint`s, which
            stay open.
        config: the settings of each run; default: those of `config_of`, the package's for the pair.
        timeout: deadline of each run, in seconds; None leaves it to the endpoints' own.
        api_key: of the servers at the URLs.
        launch: further arguments of `launch_pair`, such as `pin=True` or `base_args=("--tp", "2")`. By
            default, a line of the terminal or notebook shows the progress.

    Attributes:
        draft, base: the two endpoints, inside the context.

    Raises:
        ConfigError: neither a pair nor two servers are given, or both.
        LaunchError, ServerUnreachable, NotSGLang: on starting; see `launch_pair` and `Endpoint`.
    """

    draft: Endpoint
    base: Endpoint

    def __init__(
        self,
        pair: str | None = None,
        *,
        draft: str | Running | Endpoint | None = None,
        base: str | Running | Endpoint | None = None,
        config: SpecReasonConfig | None = None,
        timeout: float | None = None,
        api_key: str | None = None,
        **launch: Any,
    ):
        self._pair = pair
        self._servers = (draft, base) if draft is not None and base is not None else None
        if bool(pair) == bool(self._servers) or (draft is None) != (base is None):
            raise ConfigError("SpecReason takes the name of a pair, or both draft and base")
        self._api_key, self._launch = api_key, launch
        self.config = config or config_of({}, pair=pair)
        self.timeout = timeout
        self._stack = ExitStack()

    def start(self) -> Self:
        """Start the servers, or connect to those given."""
        with ExitStack() as stack:
            servers = self._servers or self._launch_pair(stack)
            self.draft, self.base = (self._endpoint(stack, server) for server in servers)
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """Stop what `start` started."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch_pair(self, stack: ExitStack) -> tuple[Running, Running]:
        from specreason_sgl.runtime.launch import launch_pair, print_progress
        from specreason_sgl.runtime.pairs import get_pair

        told = {"status": print_progress, "progress": print_progress}
        pair = stack.enter_context(launch_pair(get_pair(self._pair or ""), **{**told, **self._launch}))
        return pair.draft, pair.base

    def _endpoint(self, stack: ExitStack, server: str | Running | Endpoint) -> Endpoint:
        if isinstance(server, Endpoint):
            return server
        return stack.enter_context(Endpoint(server, self._api_key))

    def solve(self, question: Question, *, config: SpecReasonConfig | None = None, **options: Any) -> Trace:
        """Solve one problem; arguments and errors as in `specreason_sgl.solve`."""
        return solve(question, draft=self.draft, base=self.base, **self._options(config, options))

    def alone(
        self,
        question: Question,
        *,
        side: Side = "base",
        config: SpecReasonConfig | None = None,
        **options: Any,
    ) -> Trace:
        """Solve one problem with one of the two models; as `specreason_sgl.solve_alone`."""
        endpoint = self.base if side == "base" else self.draft
        return solve_alone(question, endpoint=endpoint, side=side, **self._options(config, options))

    def stream(
        self, question: Question, *, config: SpecReasonConfig | None = None, **options: Any
    ) -> "Stream":
        """Solve one problem, step by step.

            stream = pair.stream("What is 17 * 23?")
            for step in stream:
                print(step.text)
            print(stream.trace.answer)

        Arguments and errors as in `solve`; an error is raised by the iteration. `close`, or leaving it as a
        context, ends the run.
        """
        return Stream(lambda **more: self.solve(question, config=config, **{**options, **more}))

    def batch(
        self, questions: Sequence[str], *, config: SpecReasonConfig | None = None, **options: Any
    ) -> list[Trace | SpecReasonError]:
        """Solve many problems at once; as `specreason_sgl.solve_batch`."""
        return solve_batch(questions, draft=self.draft, base=self.base, **self._options(config, options))

    def _options(self, config: SpecReasonConfig | None, options: dict[str, Any]) -> dict[str, Any]:
        return {"config": config or self.config, "timeout": self.timeout, **options}


class Stream(Iterator[Step]):
    """The steps of a run as they come.

    Attributes:
        trace: when they have ended, the whole `Trace`; None until then.
    """

    def __init__(self, run: Callable[..., Trace]):
        self.trace: Trace | None = None
        self._events: queue.SimpleQueue[Step | Trace | BaseException] = queue.SimpleQueue()
        self._cancel = Cancel()
        self._ended = False
        threading.Thread(target=self._work, args=(run,), daemon=True).start()

    def _work(self, run: Callable[..., Trace]) -> None:
        try:
            self._events.put(run(on_step=self._events.put, cancel=self._cancel))
        except BaseException as error:  # raised where the steps are read
            self._events.put(error)

    def __next__(self) -> Step:
        if self._ended:
            raise StopIteration
        event = self._events.get()
        if isinstance(event, Step):
            return event
        self._ended = True
        if isinstance(event, BaseException):
            raise event
        self.trace = event
        raise StopIteration

    def close(self) -> None:
        """End the run; its requests are aborted."""
        self._ended = True
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._ended:
            self.close()


class AsyncSpecReason:
    """`SpecReason` for asyncio: the same arguments, and the same methods to be awaited.

        async with AsyncSpecReason("mini") as pair:
            trace = await pair.solve("What is 17 * 23?")
            async for step in pair.stream("And 17 * 24?"):
                print(step.text)

    A task that is cancelled ends its run.
    """

    def __init__(self, pair: str | None = None, **options: Any):
        self._pair = SpecReason(pair, **options)
        self._threads = ThreadPoolExecutor(THREADS)  # asyncio's own pool has a few; they start when needed

    async def start(self) -> Self:
        """As `SpecReason.start`."""
        await self._in_thread(self._pair.start)
        return self

    async def close(self) -> None:
        """As `SpecReason.close`."""
        await self._in_thread(self._pair.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def solve(
        self, question: Question, *, config: SpecReasonConfig | None = None, **options: Any
    ) -> Trace:
        """As `SpecReason.solve`."""
        return await self._cancelling(self._pair.solve, question, config=config, **options)

    async def alone(
        self,
        question: Question,
        *,
        side: Side = "base",
        config: SpecReasonConfig | None = None,
        **options: Any,
    ) -> Trace:
        """As `SpecReason.alone`."""
        return await self._cancelling(self._pair.alone, question, side=side, config=config, **options)

    def stream(
        self, question: Question, *, config: SpecReasonConfig | None = None, **options: Any
    ) -> "AsyncStream":
        """As `SpecReason.stream`, for `async for`."""
        return AsyncStream(self._pair.stream(question, config=config, **options), self._in_thread)

    async def batch(
        self, questions: Sequence[str], *, config: SpecReasonConfig | None = None, **options: Any
    ) -> list[Trace | SpecReasonError]:
        """As `SpecReason.batch`."""
        return await self._cancelling(self._pair.batch, questions, config=config, **options)

    async def _cancelling(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        cancel = Cancel()
        try:
            return await self._in_thread(work, *args, cancel=cancel, **options)
        except asyncio.CancelledError:
            cancel()
            raise

    async def _in_thread(self, work: Callable[..., T], *args: Any, **options: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *args, **options))


class AsyncStream(AsyncIterator[Step]):
    """The steps of a run as they come; attributes as those of `Stream`."""

    def __init__(self, stream: Stream, in_thread: Callable[..., Awaitable[Any]]):
        self._stream, self._in_thread = stream, in_thread

    @property
    def trace(self) -> Trace | None:
        return self._stream.trace

    async def __anext__(self) -> Step:
        try:
            step = await self._in_thread(next, self._stream, None)
        except asyncio.CancelledError:
            self._stream.close()
            raise
        if step is None:
            raise StopAsyncIteration
        return step

    def close(self) -> None:
        """End the run; its requests are aborted."""
        self._stream.close()
