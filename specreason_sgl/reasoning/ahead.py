"""`Ahead`: drafts and their judgements, oldest first, and the pauses in which nothing is drafted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ContextLengthExceeded, ServerError
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.lang.logprobs import TokenLogprob, logprobs
from specreason_sgl.reasoning.drafter import Drafter
from specreason_sgl.reasoning.pauses import policy_of
from specreason_sgl.reasoning.repair import ALTERNATIVES
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Call, Step, Undrafted
from specreason_sgl.reasoning.verifier import (
    RESULT,
    Drafted,
    Judgement,
    Verifier,
    is_askable,
    verifier_errors,
)
from specreason_sgl.reasoning.writing import Request, Written, discard


class Skipped(NamedTuple):
    """Nothing was drafted.

    Attributes:
        reason: why not; None where the settings leave the step to the base model.
        detail: the error message of a failure.
    """

    reason: Undrafted | None
    detail: str = ""


@dataclass(frozen=True)
class Judged:
    """A drafted step or window, and what the base model says of it.

    Attributes:
        drafted: the drafted text.
        passes: whether the text is kept whole.
        judgement: the verifier's judgement; None if no verifier was asked.
        tokens: the tokens as the base model read them, including those of the step's end; empty if the base
            model did not read them.
        calls: the requests so far: the draft, if this is the last part of it, and those of the judgement.
    """

    drafted: Drafted
    passes: bool
    judgement: Judgement | None = None
    tokens: tuple[TokenLogprob, ...] = ()
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class _Pending:
    """A drafted text whose judgement is under way.

    Attributes:
        drafted: the drafted text.
        verifier: the request of the verifier, if one was asked.
        reader: the request for the text's token logprobs, if they were asked for.
        is_sure: whether the text is kept unread.
    """

    drafted: Drafted
    verifier: Request | None = None
    reader: Request | None = None
    is_sure: bool = False

    @property
    def requests(self) -> list[Request]:
        return [request for request in (self.verifier, self.reader) if request]


class Ahead:
    """Has the draft model write ahead and the base model judge what it wrote.

    Drafting pauses while the draft model is not worth asking: its drafts are useless, its runtime fails, its
    context is full, or, where the settings allow it, the base model writes alone at this load.

    Args:
        run: the run.
        s: the program's state.
        draft: the draft model's endpoint.
    """

    def __init__(self, run: Run, s: ProgramState, draft: Endpoint):
        self._run, self._s, self._draft = run, s, draft
        self._drafter: Drafter | None = None
        self._policy = policy_of(draft)
        self._began = run.now()  # of the piece that is next
        self._pending: deque[_Pending] = deque()

    def next(self) -> Judged | Skipped:
        """Wait for the oldest drafted text and its judgement.

        Raises:
            SpecReasonError: the run is over, the base model's runtime or the verifier failed, or the draft
                model's template refuses the conversation.
        """
        if not self._pending:
            drafts = self._next_drafts()
            if isinstance(drafts, Skipped):
                return drafts
            before, side_by_side = self._run.chain.lead, len(drafts) > 1
            for drafted in drafts:
                self._pending.append(self._start_judging(drafted, before, side_by_side))
                before += drafted.whole
        return self._finish_judging(self._pending.popleft())

    def keep(self, judged: Judged, piece: Step) -> None:
        """Keep the text that `next` returned last, as this piece of the chain."""
        drafted = judged.drafted
        if (piece.text, piece.end) != (drafted.text, drafted.end):
            self.drop()  # the draft model went on from another text
        elif piece.end and self._drafter:
            self._drafter.keep()

    def drop(self) -> None:
        """Abort all drafts and judgements beyond the text that `next` returned last."""
        for pending in self._pending:
            for request in pending.requests:
                discard(self._run, request)
            if pending.drafted.call:
                self._run.wasted.append(pending.drafted.call)
        self._pending.clear()
        if self._drafter:
            self._drafter.drop()
            self._drafter = None

    def advanced(self, piece: Step, text: str) -> None:
        """Record that the chain grew by a piece, and how long that took; tell whoever watches."""
        began, self._began = self._began, self._run.now()
        self._policy.load.record(piece.tokens, self._began - began)
        if live := self._run.live:
            live.advanced(text, self._run.chain.open_step, is_drafting=self._drafter is not None)

    def answered(self, answer: Written | None) -> Written | None:
        """Record how long the base model took for the answer; returns the answer."""
        if answer:
            self._policy.load.record(answer.call.completion_tokens, answer.call.seconds)
        return answer

    # Drafting.

    def _next_drafts(self) -> list[Drafted] | Skipped:
        chain, config = self._run.chain, self._run.config
        if not self._policy.load.allows(config.at_load):
            self.drop()
            return Skipped("load")
        if self._drafter:
            return self._draft_or_skip(trial=False)
        if len(chain.steps) < config.first_base_steps:
            return Skipped(None)
        permission = self._policy.ask(chain.all_steps, config)
        if permission == "rejections" or permission == "breaker":
            return Skipped(permission)
        return self._draft_or_skip(trial=permission == "trial")

    def _draft_or_skip(self, trial: bool) -> list[Drafted] | Skipped:
        """Wait for drafted texts. A failure of the draft model's runtime is reported to its breaker."""
        breaker, succeeded = self._policy.breaker, False
        try:
            drafts = self._wait_for_drafts()
            succeeded = True
            return drafts
        except ContextLengthExceeded:
            self.drop()
            return Skipped("context")
        except ServerError as error:
            if self._run.is_over:
                raise
            breaker.failed(error, trial)
            trial = False
            self.drop()
            return Skipped("failure", str(error))
        finally:
            if trial and succeeded:
                breaker.succeeded()
            elif trial:
                breaker.abandon_trial()

    def _wait_for_drafts(self) -> list[Drafted]:
        while True:
            if not self._drafter:
                streams = self._run.config.window is not None or self._run.live is not None
                fork = fork_to(self._s, self._draft, stream=streams, use_thread=False)
                self._drafter = Drafter(self._run, fork, self._policy.load)
            if drafts := self._drafter.take():
                return drafts
            self.drop()  # the drafter stopped, but the chain has not ended: draft anew from the chain

    # Judging.

    def _start_judging(self, drafted: Drafted, before: str, side_by_side: bool) -> _Pending:
        """Have the base model judge a text that follows the chain and `before`.

        Args:
            side_by_side: whether other texts are judged beside it; a text alone is waited for.
        """
        run, verifier = self._run, self._run.config.judge
        ends_thinking = drafted.end in ("eos", "think")
        has_tokens = bool(drafted.whole) or ends_thinking
        askable = is_askable(drafted.text, verifier) if verifier else has_tokens
        if not askable or run.room(self._s, before + drafted.text, enough=0) < 0:
            return _Pending(drafted)
        if self._is_sure(drafted):
            return _Pending(drafted, is_sure=True)
        side_by_side = side_by_side or bool(verifier and ends_thinking)
        return _Pending(
            drafted,
            verifier=self._ask_verifier(verifier, drafted, before, side_by_side) if verifier else None,
            reader=read(run, drafted, before, side_by_side) if ends_thinking or not verifier else None,
        )

    def _ask_verifier(self, verifier: Verifier, drafted: Drafted, before: str, side_by_side: bool) -> Request:
        fork = self._run.fork(side_by_side)
        if before:
            fork += before
        with verifier_errors(verifier):
            asked = verifier.ask(fork, drafted)
        if asked is not fork:
            self._run.adopt(asked)
        return Request(asked, RESULT, "base", "score")

    def _is_sure(self, drafted: Drafted) -> bool:
        """Whether the draft model is sure enough of a text to keep it unread. Ends of the thinking are always
        judged."""
        confidence = self._run.config.confidence
        if confidence is None or drafted.end in ("eos", "think") or not drafted.logprobs:
            return False
        return min(drafted.logprobs) >= confidence

    def _finish_judging(self, pending: _Pending) -> Judged:
        """Wait for a judgement."""
        run, drafted = self._run, pending.drafted
        calls = [drafted.call] if drafted.call else []
        if not pending.requests:
            return Judged(drafted, pending.is_sure, calls=tuple(calls))
        judgement: Judgement | None = None
        tokens: tuple[TokenLogprob, ...] = ()
        try:
            if pending.verifier and run.config.judge:
                judgement = run.config.judge.judgement(pending.verifier.state, drafted)
                calls.append(self._close(pending.verifier))
                tokens = judgement.tokens
            if pending.reader:
                tokens = pending.reader.state.get_meta_info(RESULT)["logprobs"]
                calls.append(self._close(pending.reader))
                self._policy.load.read(calls[-1].seconds)
        except ContextLengthExceeded:  # there is room for the text, but not for the verifier's question
            if pending.reader:
                discard(run, pending.reader)
            return Judged(drafted, False, calls=tuple(calls))
        return Judged(drafted, self._passes(judgement, tokens), judgement, tokens, tuple(calls))

    def _close(self, request: Request) -> Call:
        """End the fork of an answered request; returns the request's record. After an error the fork is left
        to the run, which aborts it first."""
        call = call_of(self._run, request)
        self._run.end(request.state)
        return call

    def _passes(self, judgement: Judgement | None, tokens: tuple[TokenLogprob, ...]) -> bool:
        config = self._run.config
        if judgement:
            return config.rule.keeps(judgement.value, self._run.chain.scores)
        return config.repair.cut(tokens, config.temperature) is None


def read(run: Run, drafted: Drafted, before: str, side_by_side: bool = False) -> Request:
    """Have the base model read a text and its end, token by token; waits unless `side_by_side`."""
    top = ALTERNATIVES if run.config.temperature else 1
    fork = run.fork(side_by_side)
    if before:
        fork += before
    fork += logprobs(RESULT, text_to_read(drafted), top, end_of_turn=drafted.end == "eos")
    return Request(fork, RESULT, "base", "read")


def text_to_read(drafted: Drafted) -> str:
    """A drafted text and the text that ended it."""
    return drafted.whole + (THINK_CLOSE if drafted.end == "think" else "")


def call_of(run: Run, request: Request) -> Call:
    """The record of an answered request. A verifier that sends no request has a record without tokens."""
    meta = request.state.stream_executor.meta_info.get(request.name) or {}
    return run.to_call(request.side, request.purpose, meta)
