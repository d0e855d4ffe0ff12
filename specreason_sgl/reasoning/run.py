"""What a run in progress needs beside the language: its clock, its requests, and an orderly end."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import DeadlineExceeded, RequestAborted, SpecReasonError
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.lang.score import TokenLogprob
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.stopping import how_ended, tokens_left
from specreason_sgl.reasoning.trace import Call, End, Side, Step, Trace

OnText = Callable[[Literal["reasoning", "answer"], str], None]

PATIENCE = 5.0  # seconds, for the end of requests that were aborted
BESIDE = 32  # tokens of the context for what leads to the answer, or for the question after a step


@dataclass(frozen=True)
class Written:
    """A step as a model wrote it."""

    text: str
    call: Call
    end: End
    logprobs: tuple[TokenLogprob, ...]

    def as_step(self, side: Side) -> Step:
        return Step(self.text, side, self.end, self.call.completion_tokens, calls=(self.call,))


@dataclass(frozen=True)
class Writing:
    """A step that a model is writing; `Run.finish` waits for it, `Run.discard` aborts it."""

    state: ProgramState
    name: str
    side: Side
    purpose: str


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
    """One run of a program, as a context: what it owns is ended with it, and aborted where it fails.

    Args:
        s: the program's state.
        config: its settings.
        timeout: seconds for the whole run, or None.
        cancel: ends the run when it is called.
        so_far: gives the trace of what is done; an error that ends the run takes it along.
        before: seconds that an earlier run, which this one goes on from, took.
        endpoints: by side.
    """

    def __init__(
        self,
        s: ProgramState,
        config: SpecReasonConfig,
        timeout: float | None = None,
        cancel: Cancel | None = None,
        so_far: Callable[[], Trace] | None = None,
        before: float = 0.0,
        **endpoints: Endpoint,
    ):
        self.config = config
        self.wasted: list[Call] = []
        self._main = s
        self._timeout = timeout
        self._so_far = so_far
        self._began = time.monotonic()
        self._started = self._began - before
        self._reserve = 0.0  # tokens of the context
        self._states: dict[int, ProgramState] = {}
        self._helpers: list[tuple[threading.Thread, Callable[[], None]]] = []
        self._thinking = any(one.chat_template.thinking for one in endpoints.values())
        self._limit(s)
        self._cancel = cancel or Cancel()
        self._cancel.add(self)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind, error, _) -> None:
        for _, stop in self._helpers:
            stop()
        if kind:
            self.abort_all()
        if any(thread.is_alive() for thread, _ in self._helpers):  # what was aborted may take its time
            threading.Thread(target=self._end_states, daemon=True).start()
        else:
            self._end_states()
        late = None
        if isinstance(error, DeadlineExceeded) and self._late:
            late = DeadlineExceeded(
                f"the run was not done within {self._timeout:g} s; give it more time or a smaller "
                "token budget"
            )
        if error and self._so_far:
            (late or error).trace = self._so_far()
        if late:
            raise late from None

    def _end_states(self) -> None:
        """End all states, when no helper can use them any more: it would wait for ever for one that has
        ended. SGLang ends the main state itself."""
        for thread, _ in self._helpers:
            thread.join()
        for state in list(self._states.values()):
            self.done(state)

    def abort_all(self) -> None:
        """Abort all requests of the run, and have it send no more."""
        for state in [*self._states.values(), self._main]:
            state.stream_executor.backend.abort(state)

    def ask(self, question: Question) -> None:
        """Begin the assistant's turn after the conversation."""
        s = self._main
        for message in self.config.messages(question):
            s += getattr(sgl, message["role"])(message["content"])
        s += sgl.assistant_begin()
        s += s.stream_executor.chat_template.thinking_prefix
        room = s.stream_executor.backend.room(s)
        if room < math.inf:
            self._reserve = min(self.config.answer_tokens + BESIDE, room // 2)

    def room(self, state: ProgramState, extra: str = "") -> float:
        """Tokens of the base model's context that a chain of thought may still take, the answer's left."""
        return state.stream_executor.backend.room(state, extra) - self._reserve

    @property
    def over(self) -> bool:
        """Whether it was cancelled, or its time is over."""
        return self._cancel.called or self._late

    @property
    def _late(self) -> bool:
        return self._timeout is not None and time.monotonic() >= self._began + self._timeout

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._started

    def own(self, state: ProgramState, side: Side = "base") -> ProgramState:
        """Have a state ended with the run, and its requests aborted where the run fails or is late. Those of
        a draft have `draft_timeout` from now, too, and are not sent again and again."""
        self._states[id(state)] = state
        self._limit(state, side)
        if self._cancel.called:  # it may have come before this state
            self.abort(state)
        return state

    def done(self, state: ProgramState) -> None:
        """End a state of the run's."""
        if self._states.pop(id(state), None) is not None:
            state.stream_executor.end()

    def abort(self, state: ProgramState) -> None:
        """Abort a state's requests, unless the state has ended."""
        if id(state) in self._states:
            state.stream_executor.backend.abort(state)

    def begin(
        self,
        state: ProgramState,
        side: Side,
        purpose: str,
        steps: Sequence[Step],
        lead: str = "",
        logprobs: bool = False,
        head_tokens: int = 0,
    ) -> Writing:
        """Have a model write the step after `steps` on a state, after `lead`; returns at once."""
        name, config = f"step{len(steps)}", self.config
        self.own(state, side)
        budget = min(config.step_tokens, tokens_left(steps, config)) - head_tokens
        if side == "base":
            budget = min(budget, self.room(state, lead))
        state += lead + sgl.gen(
            name,
            max_tokens=max(int(budget), 1),
            stop=[config.delimiter, THINK_CLOSE],
            temperature=config.temperature,
            top_p=config.top_p,
            return_logprob=logprobs or None,
            return_text_in_logprobs=logprobs or None,
        )
        return Writing(state, name, side, purpose)

    def finish(self, writing: Writing) -> Written:
        """The step, when it is there."""
        meta = writing.state.get_meta_info(writing.name)
        call = self.call(writing.side, writing.purpose, meta)
        found = meta.get("output_token_logprobs") or ()
        logprobs = tuple(TokenLogprob(text or "", p) for p, _, text in found)
        reason = meta.get("finish_reason") or {}
        if isinstance(reason.get("matched"), int):  # a token that is not in the text
            logprobs = logprobs[:-1]
        end = how_ended(reason, self._thinking)
        return Written(writing.state[writing.name], call, end, logprobs)

    def write_out(self, name: str, side: Side, purpose: str, on_text: OnText | None, **sampling) -> Written:
        """Have a model write on the run's own state, telling `on_text` what comes as it comes."""
        s = writer = self._main
        if on_text:
            writer = self.own(fork_to(s, s.stream_executor.backend, stream=True))
        writer += sgl.gen(name, temperature=self.config.temperature, top_p=self.config.top_p, **sampling)
        told = 0
        if on_text:
            for text in filter(None, writer.text_iter(name)):
                on_text(name, text)
                told += len(text)
        written = self.finish(Writing(writer, name, side, purpose))
        if on_text:
            if rest := written.text[told:]:  # `text_iter` (0.5.23) leaves out what comes during the last call
                on_text(name, rest)
            s += written.text
            self.done(writer)
        return written

    def call(self, side: Side, purpose: str, meta) -> Call:
        """The record of a request, from its meta information."""
        counts = (meta.get(f"{kind}_tokens", 0) for kind in ("prompt", "cached", "completion"))
        sent_at = meta.get("sent_at", time.monotonic())
        return Call(side, purpose, *counts, sent_at - self._started, meta.get("seconds", 0.0))

    def discard(self, writing: Writing) -> None:
        """Abort a step in writing; what was generated until then counts as wasted."""
        self.abort(writing.state)
        self.help(lambda: self._count_discarded(writing))

    def _count_discarded(self, writing: Writing) -> None:
        try:
            self.count_wasted(writing.side, writing.purpose, self.finish(writing))
        except RequestAborted as error:
            self.count_wasted(writing.side, writing.purpose, error)
        finally:
            self.done(writing.state)

    def count_wasted(self, side: Side, purpose: str, result: Written | BaseException) -> None:
        """Count what was written for nothing, or until it was aborted."""
        if isinstance(result, Written):
            self.wasted.append(result.call)
        elif isinstance(result, RequestAborted) and result.meta_info:
            self.wasted.append(self.call(side, purpose, result.meta_info))

    def help(self, work: Callable[[], None], stop: Callable[[], None] = lambda: None) -> None:
        """Do work in a thread of its own, which `stop` ends early."""

        def run() -> None:
            with contextlib.suppress(SpecReasonError):  # nobody waits for what was discarded
                work()

        thread = threading.Thread(target=run, daemon=True)
        self._helpers.append((thread, stop))
        thread.start()

    def all_wasted(self, wait: float = PATIENCE) -> tuple[Call, ...]:
        """What was done ahead for nothing, once the aborted requests have ended, or after so many seconds."""
        until = time.monotonic() + wait
        for thread, _ in self._helpers:
            thread.join(max(until - time.monotonic(), 0))
        return tuple(sorted(self.wasted, key=lambda call: call.start))

    def _limit(self, state: ProgramState, side: Side = "base") -> None:
        endpoint = state.stream_executor.backend
        deadline, retry_for = self._began + (math.inf if self._timeout is None else self._timeout), math.inf
        if side == "draft":
            seconds = endpoint.breaker.within(self.config.draft_timeout)
            deadline, retry_for = min(deadline, time.monotonic() + seconds), 0.0
        endpoint.limit(state, deadline, retry_for)
