"""A run in progress: its clock, its forks, its chain of thought, and an orderly end."""

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Literal

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ConfigError, DeadlineExceeded, RequestAborted, SpecReasonError
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.chain import Chain, OnStep
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.pauses import breaker_of
from specreason_sgl.reasoning.trace import Call, Side, Stop, Trace

OnText = Callable[[Literal["reasoning", "answer"], str], None]

ABORT_SECONDS = 5.0  # for the end of requests that were aborted, when the run failed
LAST_SECONDS = 2.0  # the same at the end of a run that did not
BESIDE = 32  # tokens of the context for what leads to the answer, or for the question after a step


class Cancel:
    """Called from any thread, it ends the runs that it was given to: they raise `RequestAborted`."""

    def __init__(self):
        self.called = False
        self._runs: list[Run] = []

    def __call__(self) -> None:
        self.called = True
        for run in list(self._runs):
            run.abort_all()

    def add(self, run: "Run") -> None:
        self._runs.append(run)
        if self.called:
            run.abort_all()


class Run:
    """One run of a program. Within `with run.of(s, base=..., draft=...)`, what it adopts is ended with it and
    aborted where it fails. `trace()` gives what there is at any time.

    Args:
        question: a text, or messages that end with it.
        config: its settings.
        timeout: seconds for the whole run, or None.
        on_step: called with each `Step` as it is finished.
        on_text: called with what comes of the answer, and of one model's reasoning, as it comes.
        cancel: ends the run when it is called.
        resume: the trace of a run of the same question that failed, to go on from.

    Raises:
        ConfigError: the question is empty, the timeout is not above 0, or the trace cannot be gone on with.
    """

    def __init__(
        self,
        question: Question,
        config: SpecReasonConfig,
        *,
        timeout: float | None = None,
        on_step: OnStep | None = None,
        on_text: OnText | None = None,
        cancel: Cancel | None = None,
        resume: Trace | None = None,
    ):
        self.messages = config.messages(question)
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout must be a positive number of seconds, got {timeout}")
        self.question = question if isinstance(question, str) else question[-1]["content"]
        self.earlier = () if isinstance(question, str) else tuple(map(dict, question[:-1]))
        if resume:
            self._check_resumable(resume, config)
        self.config, self.on_text = config, on_text
        self.chain = Chain(config, resume.steps if resume else (), on_step)
        self.dice = random.Random()
        self.wasted: list[Call] = list(resume.wasted) if resume else []
        self._timeout, self._cancel = timeout, cancel or Cancel()
        self._seconds_before = resume.seconds if resume else 0.0
        self._states: dict[int, ProgramState] = {}
        self._helpers: list[tuple[threading.Thread, Callable[[], None]]] = []
        self._reserve = 0.0  # tokens of the context

    def _check_resumable(self, trace: Trace, config: SpecReasonConfig) -> None:
        if not trace.resumable:
            raise ConfigError("the trace is not one of a run that failed: there is nothing to go on with")
        if (trace.question, trace.earlier) != (self.question, self.earlier):
            raise ConfigError("the trace is of another question")
        if trace.config["delimiter"] != config.delimiter:
            raise ConfigError("the trace has another delimiter between its steps")

    @contextlib.contextmanager
    def of(self, s: ProgramState, **endpoints: Endpoint):
        """Begin the run on the program's state: the clock, the conversation, the chain so far.

        Args:
            s: the program's state.
            endpoints: by side, `base` and `draft`, or the only one.
        """
        self.main, self.endpoints = s, endpoints
        self.thinking = any(endpoint.chat_template.thinking for endpoint in endpoints.values())
        self._began = time.monotonic()
        self._started = self._began - self._seconds_before
        self._limit(s, "base")
        self._cancel.add(self)
        try:
            self._ask()
            s += self.chain.text
            yield self
        except BaseException as error:
            raise self._failed(error) from error.__cause__
        finally:
            self._end()

    def _ask(self) -> None:
        """Begin the assistant's turn after the conversation."""
        s = self.main
        for message in self.messages:
            s += getattr(sgl, message["role"])(message["content"])
        s += sgl.assistant_begin()
        s += s.stream_executor.chat_template.thinking_prefix
        room = s.stream_executor.backend.room(s)
        if room < math.inf:
            self._reserve = min(self.config.answer_tokens + BESIDE, room // 2)

    def _failed(self, error: BaseException) -> BaseException:
        """The error, with the trace; all requests are aborted."""
        for _, stop in self._helpers:
            stop()
        self.abort_all()
        if isinstance(error, DeadlineExceeded) and self._late:
            error = DeadlineExceeded(
                f"the run was not done within {self._timeout:g} s; give it more time or a smaller "
                "token budget"
            )
        error.trace = self.trace("failed")
        return error

    def _end(self) -> None:
        """End all states once no helper can use them any more: it would wait for ever for one that has ended.
        SGLang ends the main state itself."""

        def end_states() -> None:
            for thread, _ in self._helpers:
                thread.join()
            for state in list(self._states.values()):
                self.done(state)

        for _, stop in self._helpers:
            stop()
        if any(thread.is_alive() for thread, _ in self._helpers):  # what was aborted may take its time
            threading.Thread(target=end_states, daemon=True).start()
        else:
            end_states()

    # What the run knows.

    def now(self) -> float:
        """Seconds since the run began, those of the run that it goes on from included."""
        return time.monotonic() - self._started

    @property
    def over(self) -> bool:
        """Whether it was cancelled, or its time is over."""
        return self._cancel.called or self._late

    @property
    def _late(self) -> bool:
        return self._timeout is not None and time.monotonic() >= self._began + self._timeout

    def room(self, state: ProgramState, extra: str = "") -> float:
        """Tokens of the base model's context that a chain of thought may still take, the answer's left."""
        return state.stream_executor.backend.room(state, extra) - self._reserve

    def why_stop(self) -> Stop | None:
        """Why the thinking ends here, or None."""
        return self.chain.why_stop() or ("context" if self.room(self.main) <= 0 else None)

    def trace(self, stop: Stop, answer: str = "", answer_call: Call | None = None) -> Trace:
        """The record so far.

        Args:
            stop: why the thinking ended; "failed": the run did not come to its end.
        """
        seconds = self.now()
        self._join_helpers(ABORT_SECONDS if stop == "failed" and self.over else LAST_SECONDS)
        draft, base = (self.endpoints.get(side) for side in ("draft", "base"))
        return Trace(
            question=self.question,
            mode="specreason" if draft and base else "base" if base else "draft",
            draft_model=draft.get_model_name() if draft else None,
            base_model=base.get_model_name() if base else None,
            config=self.config.as_dict(),
            steps=tuple(self.chain.all_steps),
            stop=stop,
            answer=answer,
            answer_call=answer_call,
            seconds=seconds,
            wasted=tuple(sorted(self.wasted, key=lambda call: call.start)),
            earlier=self.earlier,
        )

    # What the run owns.

    def adopt(self, state: ProgramState, side: Side = "base") -> ProgramState:
        """Tie a fork to the run's lifetime and deadline. A draft's has `draft_timeout` from now, too, and its
        requests are not sent again and again."""
        self._states[id(state)] = state
        self._limit(state, side)
        if self._cancel.called:  # it may have come before this state
            self.abort(state)
        return state

    def _limit(self, state: ProgramState, side: Side) -> None:
        endpoint = state.stream_executor.backend
        deadline, retry_for = self._began + (math.inf if self._timeout is None else self._timeout), math.inf
        if side == "draft" and "base" in self.endpoints:
            seconds = breaker_of(endpoint).within(self.config.draft_timeout)
            deadline, retry_for = min(deadline, time.monotonic() + seconds), 0.0
        endpoint.limit(state, deadline, retry_for)

    def done(self, state: ProgramState) -> None:
        """End a state of the run's."""
        if self._states.pop(id(state), None) is not None:
            state.stream_executor.end()

    def abort(self, state: ProgramState) -> None:
        """Abort a state's requests, unless the state has ended."""
        if id(state) in self._states:
            state.stream_executor.backend.abort(state)

    def abort_all(self) -> None:
        """Abort all requests of the run, and have it send no more."""
        for state in [*self._states.values(), self.main]:
            state.stream_executor.backend.abort(state)

    def call(self, side: Side, purpose: str, meta) -> Call:
        """The record of a request, from its meta information."""
        counts = (meta.get(f"{kind}_tokens", 0) for kind in ("prompt", "cached", "completion"))
        sent_at = meta.get("sent_at", time.monotonic())
        return Call(side, purpose, *counts, sent_at - self._started, meta.get("seconds", 0.0))

    def count_wasted(self, side: Side, purpose: str, error: RequestAborted) -> None:
        """Count what was generated until a request was aborted."""
        if error.meta_info:
            self.wasted.append(self.call(side, purpose, error.meta_info))

    def help(self, work: Callable[[], None], stop: Callable[[], None] = lambda: None) -> None:
        """Do work in a thread of its own, which `stop` ends early."""

        def run() -> None:
            with contextlib.suppress(SpecReasonError):  # nobody waits for what was discarded
                work()

        thread = threading.Thread(target=run, daemon=True)
        self._helpers = [helper for helper in self._helpers if helper[0].is_alive()]
        self._helpers.append((thread, stop))
        thread.start()

    def _join_helpers(self, seconds: float) -> None:
        """Wait until aborted requests have told what they had generated, at most for so long."""
        until = time.monotonic() + seconds
        for thread, _ in self._helpers:
            thread.join(max(until - time.monotonic(), 0))
