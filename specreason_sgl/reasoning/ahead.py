"""The draft model ahead of the base model's judgement: what was drafted, what is said of it, and when the
draft model is not asked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ContextLengthExceeded, ServerError
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.lang.logprobs import TokenLogprob, logprobs
from specreason_sgl.reasoning.drafter import Drafter, Pace
from specreason_sgl.reasoning.pauses import breaker_of, is_paused
from specreason_sgl.reasoning.repair import ALTERNATIVES
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Call, Step
from specreason_sgl.reasoning.verifiers import (
    RESULT,
    Drafted,
    Judgement,
    Verifier,
    is_askable,
    verifier_errors,
)
from specreason_sgl.reasoning.writing import Request, discard

FAILED = "the draft runtime failed"


class Skipped(NamedTuple):
    """Nothing was drafted; `why`, where something should have been."""

    why: str | None


@dataclass(frozen=True)
class Judged:
    """A drafted step or window, and what the base model says of it.

    Attributes:
        drafted: the text.
        keeps: whether it is kept whole.
        judgement: the verifier's, where there is one and it was asked.
        tokens: as the base model read them, those of its end included; empty where it did not.
        calls: the requests for it so far: the draft, where this is its last part, and the judgement.
    """

    drafted: Drafted
    keeps: bool
    judgement: Judgement | None = None
    tokens: tuple[TokenLogprob, ...] = ()
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """A drafted text on trial: `judge` was asked for its value, `reader` for its tokens."""

    drafted: Drafted
    judge: Request | None = None
    reader: Request | None = None
    sure: bool = False  # kept unread

    @property
    def requests(self) -> list[Request]:
        return [request for request in (self.judge, self.reader) if request]


class Ahead:
    """What a run's draft model writes and the base model says of it, as long as the draft model is worth
    asking: its runtime may be down or hang, its drafts be of no use, or its context full. The run goes on
    without it then.

    Args:
        run: it belongs to.
        s: the run's own state.
        draft: the draft model's runtime.
    """

    def __init__(self, run: Run, s: ProgramState, draft: Endpoint):
        self._run, self._s, self._draft = run, s, draft
        self._drafter: Drafter | None = None
        self._pace = Pace(run.config.window)
        self._asked: deque[_Asked] = deque()

    def next(self) -> Judged | Skipped:
        """The oldest drafted text and its judgement; waits for both.

        Raises:
            SpecReasonError: the run is over, the base model's runtime or the verifier failed, or the draft
                model's template refuses the conversation.
        """
        if not self._asked:
            taken = self._take()
            if isinstance(taken, Skipped):
                return taken
            before = self._run.chain.lead
            for drafted in taken:
                self._asked.append(self._ask(drafted, before))
                before += drafted.whole
        return self._judged(self._asked.popleft())

    def kept(self, judged: Judged, piece: Step) -> None:
        """What `next` gave last is kept, as this piece."""
        drafted = judged.drafted
        if (piece.text, piece.end) != (drafted.text, drafted.end):  # the draft model goes on from the whole
            self.drop()
        elif piece.end:
            self._drafter.kept()

    def drop(self) -> None:
        """Abort what was written and asked beyond what `next` gave last; drafting begins anew after it."""
        for asked in self._asked:
            for request in asked.requests:
                discard(self._run, request)
            if asked.drafted.call:
                self._run.wasted.append(asked.drafted.call)
        self._asked.clear()
        if self._drafter:
            self._drafter.drop()
            self._drafter = None

    # Drafting.

    def _take(self) -> list[Drafted] | Skipped:
        if self._drafter:
            return self._taken(trial=False)
        chain, config = self._run.chain, self._run.config
        if len(chain.steps) < config.first_base_steps:
            return Skipped(None)
        if is_paused(chain.all_steps, config.patience):
            return Skipped("a pause after rejections")
        verdict: Literal["closed", "trial", "open"] = breaker_of(self._draft).ask()
        if verdict == "open":
            return Skipped(f"a pause after {FAILED}")
        return self._taken(trial=verdict == "trial")

    def _taken(self, trial: bool) -> list[Drafted] | Skipped:
        breaker, succeeded = breaker_of(self._draft), False
        try:
            taken: list[Drafted] = []
            while not taken:  # none: the draft model has ended, and the chain of thought has not
                if not self._drafter:
                    streams = self._run.config.window is not None
                    fork = fork_to(self._s, self._draft, stream=streams)
                    self._drafter = Drafter(self._run, fork, self._pace)
                if not (taken := self._drafter.take()):
                    self.drop()
            succeeded = True
            return taken
        except ContextLengthExceeded:
            self.drop()
            return Skipped("the draft model's context is full")
        except ServerError as error:
            if self._run.over:
                raise
            breaker.failed(error, trial)
            trial = False
            self.drop()
            return Skipped(f"{FAILED}: {error}")
        finally:
            if trial and succeeded:
                breaker.succeeded()
            elif trial:
                breaker.untried()

    # Judging.

    def _ask(self, drafted: Drafted, before: str) -> _Asked:
        """Have the base model judge a text, after what comes `before` it in the chain; returns at once."""
        run, judge = self._run, self._run.config.judge
        ends = drafted.end in ("eos", "think")
        askable = is_askable(drafted.text, judge) if judge else drafted.text or drafted.delimiter or ends
        if not askable or run.room(self._s, before + drafted.text) < 0:
            return _Asked(drafted)
        if self._is_sure(drafted):
            return _Asked(drafted, sure=True)
        return _Asked(
            drafted,
            judge=self._ask_verifier(judge, drafted, before) if judge else None,
            reader=read(run, drafted, before) if ends or not judge else None,
        )

    def _ask_verifier(self, judge: Verifier, drafted: Drafted, before: str) -> Request:
        fork = self._run.adopt(self._s.fork(1)[0])
        if before:
            fork += before
        with verifier_errors(judge):
            there = judge.ask(fork, drafted)
        if there is not fork:
            self._run.adopt(there)
        return Request(there, RESULT, "base", "score")

    def _is_sure(self, drafted: Drafted) -> bool:
        least = self._run.config.confidence
        ends = drafted.end in ("eos", "think")  # these are judged whatever the draft model thinks
        return least is not None and not ends and min(drafted.logprobs, default=-1e9) >= least

    def _judged(self, asked: _Asked) -> Judged:
        run, config, drafted = self._run, self._run.config, asked.drafted
        calls = [drafted.call] if drafted.call else []
        if not asked.requests:
            return Judged(drafted, asked.sure, calls=tuple(calls))
        judgement, tokens = None, ()
        try:
            if asked.judge:
                judgement = config.judge.judgement(asked.judge.state, drafted)
                calls.append(call_of(run, asked.judge))
                tokens = judgement.tokens
            if asked.reader:
                tokens = asked.reader.state.get_meta_info(RESULT)["logprobs"]
                calls.append(call_of(run, asked.reader))
                self._pace.read(calls[-1].seconds)
        except ContextLengthExceeded:  # the base model then writes a step that fits
            return Judged(drafted, False, calls=tuple(calls))
        finally:
            for request in asked.requests:
                run.done(request.state)
        if judgement:
            keeps = config.rule.keeps(judgement.value, run.chain.scores)
        else:
            keeps = config.repair.cut(tokens, config.temperature) is None
        return Judged(drafted, keeps, judgement, tokens, tuple(calls))


def read(run: Run, drafted: Drafted, before: str) -> Request:
    """Have the base model read a text and what ended it, token by token; returns at once."""
    top = ALTERNATIVES if run.config.temperature else 1
    fork = run.adopt(run.main.fork(1)[0])
    if before:
        fork += before
    fork += logprobs(RESULT, text_to_read(drafted), top, end_of_turn=drafted.end == "eos")
    return Request(fork, RESULT, "base", "read")


def text_to_read(drafted: Drafted) -> str:
    """A drafted text with what ended it, as far as that is text."""
    return drafted.whole + (THINK_CLOSE if drafted.end == "think" else "")


def call_of(run: Run, request: Request) -> Call:
    """The record of a request that was answered; of a verifier that asks nothing, one of no tokens."""
    meta = request.state.stream_executor.meta_info.get(request.name) or {}
    return run.call(request.side, request.purpose, meta)
