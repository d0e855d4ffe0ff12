"""The draft model, working ahead of the base model's judgement."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence

from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ContextLengthExceeded, ServerError, SpecReasonError
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.reasoning.acceptance import is_on_trial, is_paused
from specreason_sgl.reasoning.run import Run, Writing, Written
from specreason_sgl.reasoning.stopping import why_stop
from specreason_sgl.reasoning.trace import Step
from specreason_sgl.reasoning.verifiers import is_askable

Versions = tuple[Written, ...]  # the candidates for one step
FAILED = "the draft runtime failed"
LEAST_STEP = 32  # tokens; with less of its context left the draft model does not begin a step


class Drafts:
    """What a run's draft model writes, as long as it is worth asking: its runtime may be down or hang, its
    drafts rejected again and again, or its context full. The run goes on without it then.

    Args:
        run: it belongs to.
        s: the run's own state.
        draft: the draft model's runtime.
    """

    def __init__(self, run: Run, s: ProgramState, draft: Endpoint):
        self._run, self._s, self._draft = run, s, draft
        self._drafter: Drafter | None = None
        self._trial = False

    def take(
        self, steps: Sequence[Step], on_trial: Callable[[], None] | None
    ) -> tuple[list[Versions], str | None]:
        """The drafted steps that wait after `steps`, at least one; or none, and why there should be one.

        Args:
            steps: the chain of thought so far.
            on_trial: called before a draft is waited for that may well be of no use.

        Raises:
            SpecReasonError: the run is over, or the draft model's template refuses the conversation.
        """
        config, breaker = self._run.config, self._draft.breaker
        if self._drafter is None:
            if len(steps) < config.first_base_steps:
                return [], None
            if is_paused(steps, config.patience):
                return [], "a pause after rejections"
            if (verdict := breaker.ask()) == "open":
                return [], f"a pause after {FAILED}"
            self._trial = verdict == "trial"
        try:
            if self._drafter is None:
                if on_trial and (self._trial or is_on_trial(steps, config.patience)):
                    on_trial()
                wants = getattr(config.verifier, "wants_draft_logprobs", False)
                self._drafter = Drafter(self._run, fork_to(self._s, self._draft), steps, wants)
            taken = self._drafter.take()
            if self._trial:
                breaker.succeeded()
            return taken, None
        except ContextLengthExceeded:
            self.drop()
            return [], "the draft model's context is full"
        except ServerError as error:
            if self._run.over:
                raise
            breaker.failed(error, self._trial)
            self._trial = False
            self.drop()
            return [], f"{FAILED}: {error}"
        finally:
            if self._trial:
                breaker.untried()
            self._trial = False

    def kept(self) -> None:
        """The oldest step that was taken is kept."""
        self._drafter.kept()

    def drop(self) -> None:
        """Abort what is being drafted; the next step is drafted anew."""
        if self._drafter:
            self._drafter.drop()
            self._drafter = None


class Drafter:
    """Writes one step after another in a thread of its own, as if each were kept (its first version, where
    there are several). It stays at most `lookahead` steps ahead of those that `kept` was told of.

    Args:
        run: it belongs to.
        state: the draft model's, the chain of thought so far in it.
        steps: the chain of thought so far.
        logprobs: whether the draft model's own are wanted.
    """

    def __init__(self, run: Run, state: ProgramState, steps: Sequence[Step], logprobs: bool):
        self._run, self._state, self._logprobs = run, run.own(state, "draft"), logprobs
        self._slots = threading.Semaphore(1 + run.config.lookahead)
        self._drafted: queue.SimpleQueue[Versions | BaseException] = queue.SimpleQueue()
        self._dropped = False
        self._writings = []
        run.help(lambda: self._work(list(steps)), self.drop)

    def take(self) -> list[Versions]:
        """The drafted steps that wait, in order; waits for the first.

        Raises:
            SpecReasonError: the draft model's runtime failed at the step that is needed now; one further
                ahead may never be.
        """
        taken = [self._drafted.get()]
        while not isinstance(taken[-1], BaseException) and not self._drafted.empty():
            taken.append(self._drafted.get())
        if not isinstance(taken[-1], BaseException):
            return taken
        if len(taken) == 1:
            raise taken[0]
        self._drafted.put(taken.pop())  # the last that its thread put there
        return taken

    def kept(self) -> None:
        """The oldest step that was taken is kept: one more can be drafted."""
        self._slots.release()

    def drop(self) -> None:
        """Abort what is being drafted; nothing more is."""
        if not self._dropped:
            self._dropped = True
            self._slots.release()
            self._abort()
            self._count_wasted()

    def _abort(self) -> None:
        for state in {id(one): one for one in (self._state, *(w.state for w in self._writings))}.values():
            self._run.abort(state)

    def _work(self, steps: list[Step]) -> None:
        lead = ""
        try:
            while not why_stop(steps, self._run.config):
                self._slots.acquire()
                if self._dropped:
                    break
                if self._state.stream_executor.backend.room(self._state) < LEAST_STEP:
                    raise ContextLengthExceeded("the draft model's context is full")
                versions = self._draft(steps, lead)
                self._drafted.put(versions)
                if not is_askable(versions[0].text, self._run.config.verifier):
                    break  # it will be rejected
                lead = self._run.config.delimiter
                steps.append(versions[0].as_step("draft"))
        except BaseException as error:
            self._drafted.put(error)
        finally:
            self._run.done(self._state)
            if self._dropped:
                self._count_wasted()

    def _draft(self, steps: list[Step], lead: str) -> Versions:
        n = self._run.config.candidates
        self._run.own(self._state, "draft")
        if lead and n > 1:
            self._state += lead
            lead = ""
        states = [self._state] if n == 1 else list(self._state.fork(n))
        self._writings = [
            self._run.begin(state, "draft", "draft", steps, lead, self._logprobs) for state in states
        ]
        if self._dropped:  # between the look at it and here
            self._abort()
        results = [self._result(writing) for writing in self._writings]
        if n > 1:
            for state in states:
                self._run.done(state)
        if error := next((one for one in results if isinstance(one, BaseException)), None):
            for one in results:
                self._run.count_wasted("draft", "draft", one)
            raise error
        if n > 1:
            self._state += results[0].text
        return tuple(results)

    def _result(self, writing: Writing) -> Written | SpecReasonError:
        try:
            return self._run.finish(writing)
        except SpecReasonError as error:
            return error

    def _count_wasted(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                if isinstance(one := self._drafted.get_nowait(), tuple):
                    self._run.wasted += [version.call for version in one]
