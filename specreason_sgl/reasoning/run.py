"""`Run`: a run in progress. Its deadline, its forks, its chain of thought, and an orderly end."""

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ConfigError, DeadlineExceeded, RequestAborted, SpecReasonError
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.lang.sglang_fixes import copy_defaults_quickly
from specreason_sgl.reasoning.chain import Chain, OnStep
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.live import Live, OnDraft, OnText
from specreason_sgl.reasoning.pauses import policy_of
from specreason_sgl.reasoning.trace import Call, Purpose, Side, Stop, Trace

if TYPE_CHECKING:
    from specreason_sgl.reasoning.writing import Written

FAILED_WAIT = 5.0  # seconds that a failed run waits for the token counts of aborted requests
FINISHED_WAIT = 2.0  # the same for a run that succeeded
QUESTION_TOKENS = 32  # room in the context for a verifier's question, or for what asks for the answer


class Abortable(Protocol):
    def abort_all(self) -> None: ...


class Cancel:
    """Called from any thread, it ends the runs that were given it: they raise `RequestAborted`."""

    def __init__(self) -> None:
        self.called = False
        self._runs: list[Abortable] = []

    def __call__(self) -> None:
        self.called = True
        for run in list(self._runs):
            run.abort_all()

    def add(self, run: Abortable) -> None:
        self._runs.append(run)
        if self.called:
            run.abort_all()


class _Background(NamedTuple):
    thread: threading.Thread
    stop: Callable[[], None]  # makes the thread end early


class Run:
    """One run of a program.

    Within `with run.start(s, base=..., draft=...)` the run owns the states that it adopts: they end with the
    run, and are aborted if it fails. `trace()` gives the record at any moment.

    Args:
        question: a text, or messages that end with the question.
        config: the settings.
        timeout: deadline of the whole run, in seconds, or None.
        on_step: called with each `Step` as it is finished.
        on_text: called with "answer" or "reasoning" and new text, as it is written.
        on_draft: called with what is drafted and not judged yet, and the unfinished step or None, as they
            change; a step that the base model writes grows with each token.
        cancel: ends the run when called.
        resume: the trace of a failed run of the same question, to continue from.

    Raises:
        ConfigError: the question is empty, the timeout is not positive, or the trace cannot be resumed.
    """

    def __init__(
        self,
        question: Question,
        config: SpecReasonConfig,
        *,
        timeout: float | None = None,
        on_step: OnStep | None = None,
        on_text: OnText | None = None,
        on_draft: OnDraft | None = None,
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
        self.live = Live(on_draft) if on_draft else None
        self.chain = Chain(config, resume.steps if resume else (), on_step)
        self.rng = random.Random(config.seed)
        self.wasted: list[Call] = list(resume.wasted) if resume else []
        self._timeout, self._cancel = timeout, cancel or Cancel()
        self._seconds_before = resume.seconds if resume else 0.0
        self._states: dict[int, ProgramState] = {}
        self._background: list[_Background] = []
        self._reserved_tokens = 0.0  # of the context, for the answer

    def _check_resumable(self, trace: Trace, config: SpecReasonConfig) -> None:
        if not trace.resumable:
            raise ConfigError(
                f"the trace to resume must be of a failed run of two models, got mode {trace.mode} and stop "
                f"{trace.stop}"
            )
        if (trace.question, trace.earlier) != (self.question, self.earlier):
            raise ConfigError("the trace to resume must be of the same question, got another question")
        if trace.config["delimiter"] != config.delimiter:
            raise ConfigError(
                f"the trace to resume must have the delimiter {config.delimiter!r} between its steps, got "
                f"{trace.config['delimiter']!r}"
            )

    @contextlib.contextmanager
    def start(self, s: ProgramState, **endpoints: Endpoint) -> Iterator["Run"]:
        """Begin the run on the program's state: clock, conversation, chain of thought so far.

        Args:
            s: the program's state.
            endpoints: `base`, `draft` or both.
        """
        self.main, self.endpoints = s, endpoints
        copy_defaults_quickly(s.stream_executor)
        self.thinking = any(endpoint.chat_template.thinking for endpoint in endpoints.values())
        self._began = time.monotonic()
        self._started = self._began - self._seconds_before
        self._limit(s, "base")
        self._cancel.add(self)
        is_pair = len(endpoints) == 2
        try:
            with policy_of(endpoints["draft"]).load.run() if is_pair else contextlib.nullcontext():
                self._ask()
                s += self.chain.text
                yield self
        except BaseException as error:
            raise self._fail(error) from error.__cause__
        finally:
            self._end_states()

    def _ask(self) -> None:
        """Write the conversation, and begin the assistant's turn."""
        s = self.main
        for message in self.messages:
            s += getattr(sgl, message["role"])(message["content"])
        s += sgl.assistant_begin()
        s += s.stream_executor.chat_template.thinking_prefix
        room = s.stream_executor.backend.room(s)
        if room < math.inf:
            self._reserved_tokens = min(self.config.answer_tokens + QUESTION_TOKENS, room // 2)

    def _fail(self, error: BaseException) -> BaseException:
        """Abort all requests. Returns the error, with the trace."""
        for _, stop in self._background:
            stop()
        self.abort_all()
        if isinstance(error, DeadlineExceeded) and self._is_late:
            error = DeadlineExceeded(
                f"the run did not finish within {self._timeout:g} s; raise the timeout or lower the token "
                "budget"
            )
        error.trace = self.trace("failed")  # type: ignore[attr-defined]  # any exception carries it, Ctrl-C too
        return error

    def _end_states(self) -> None:
        """End the adopted states after the background threads: a thread that uses an ended state would wait
        forever. SGLang itself ends the program's state."""

        def end_all() -> None:
            for thread, _ in self._background:
                thread.join()
            for state in list(self._states.values()):
                self.end(state)

        for _, stop in self._background:
            stop()
        if any(thread.is_alive() for thread, _ in self._background):  # an abort can take a while
            threading.Thread(target=end_all, daemon=True).start()
        else:
            end_all()

    # What the run knows.

    def now(self) -> float:
        """Seconds since the run began, including those of the run that it resumes."""
        return time.monotonic() - self._started

    @property
    def is_over(self) -> bool:
        """Whether the run was cancelled or its deadline has passed."""
        return self._cancel.called or self._is_late

    @property
    def _is_late(self) -> bool:
        return self._timeout is not None and time.monotonic() >= self._began + self._timeout

    def room(self, state: ProgramState, extra: str = "", enough: float = math.inf) -> float:
        """Tokens of the base model's context that are left for the chain of thought, after a state's text and
        `extra`; `enough` as in `Endpoint.room`."""
        reserved = self._reserved_tokens
        return state.stream_executor.backend.room(state, extra, enough + reserved) - reserved

    def why_stop(self) -> Stop | None:
        """Why the thinking ends here, or None."""
        return self.chain.why_stop() or ("context" if self.room(self.main, enough=1) <= 0 else None)

    def trace(self, stop: Stop, answer: "Written | None" = None) -> Trace:
        """The record so far.

        Args:
            stop: why the thinking ended; "failed" if the run did not finish.
            answer: the final answer, or None.
        """
        seconds = self.now()
        self._join_background(FAILED_WAIT if stop == "failed" and self.is_over else FINISHED_WAIT)
        draft, base = (self.endpoints.get(side) for side in ("draft", "base"))
        return Trace(
            question=self.question,
            mode="specreason" if draft and base else "base" if base else "draft",
            draft_model=draft.get_model_name() if draft else None,
            base_model=base.get_model_name() if base else None,
            config=self.config.as_dict(),
            steps=tuple(self.chain.all_steps),
            stop=stop,
            answer=answer.text.strip() if answer else "",
            answer_call=answer.call if answer else None,
            answer_end=answer.end if answer else None,
            seconds=seconds,
            wasted=tuple(sorted(self.wasted, key=lambda call: call.start)),
            earlier=self.earlier,
        )

    # What the run owns.

    def fork(self, use_thread: bool = False, stream: bool = False) -> ProgramState:
        """An adopted fork of the program's state.

        Args:
            use_thread: whether it works beside the program; otherwise the program waits for its requests.
            stream: whether its text can be read as it comes; it works beside the program then.
        """
        endpoint = self.endpoints["base"]
        return self.adopt(fork_to(self.main, endpoint, stream=stream, use_thread=use_thread or stream))

    def adopt(self, state: ProgramState, side: Side = "base") -> ProgramState:
        """Tie a fork to the run's lifetime and deadline.

        A fork on the draft model's endpoint also has `draft_timeout` from now, and its requests are not
        retried.
        """
        self._states[id(state)] = state
        self._limit(state, side)
        if self._cancel.called:  # possibly before this state was adopted
            self.abort(state)
        return state

    def _limit(self, state: ProgramState, side: Side) -> None:
        endpoint = state.stream_executor.backend
        deadline, retry_for = self._began + (math.inf if self._timeout is None else self._timeout), math.inf
        if side == "draft" and "base" in self.endpoints:
            seconds = policy_of(endpoint).breaker.timeout(self.config.draft_timeout)
            deadline, retry_for = min(deadline, time.monotonic() + seconds), 0.0
        endpoint.limit(state, deadline, retry_for)

    def end(self, state: ProgramState) -> None:
        """End an adopted state."""
        if self._states.pop(id(state), None) is not None:
            state.stream_executor.end()

    def abort(self, state: ProgramState) -> None:
        """Abort the requests of an adopted state; does nothing after its end."""
        if id(state) in self._states:
            state.stream_executor.backend.abort(state)

    def abort_all(self) -> None:
        """Abort all requests of the run, and refuse further ones."""
        for state in [*self._states.values(), self.main]:
            state.stream_executor.backend.abort(state)

    def to_call(self, side: Side, purpose: Purpose, meta: Mapping[str, Any]) -> Call:
        """The record of a request, from its meta information."""
        return Call(
            side,
            purpose,
            prompt_tokens=meta.get("prompt_tokens", 0),
            cached_tokens=meta.get("cached_tokens", 0),
            completion_tokens=meta.get("completion_tokens", 0),
            start=meta.get("sent_at", time.monotonic()) - self._started,
            seconds=meta.get("seconds", 0.0),
        )

    def count_wasted(self, side: Side, purpose: Purpose, error: RequestAborted) -> None:
        """Count the tokens of an aborted request."""
        if error.meta_info:
            self.wasted.append(self.to_call(side, purpose, error.meta_info))

    def run_in_background(self, work: Callable[[], None], stop: Callable[[], None] = lambda: None) -> None:
        """Run `work` in a thread of the run.

        Args:
            work: its `SpecReasonError`s are ignored.
            stop: makes the work end early.
        """

        def run() -> None:
            with contextlib.suppress(SpecReasonError):
                work()

        thread = threading.Thread(target=run, daemon=True)
        self._background = [background for background in self._background if background.thread.is_alive()]
        self._background.append(_Background(thread, stop))
        thread.start()

    def _join_background(self, seconds: float) -> None:
        """Wait until aborted requests have reported their tokens, at most `seconds`."""
        deadline = time.monotonic() + seconds
        for thread, _ in self._background:
            thread.join(max(deadline - time.monotonic(), 0))
