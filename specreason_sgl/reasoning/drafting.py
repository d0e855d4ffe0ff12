"""The draft model, working ahead of the base model's judgement."""

import contextlib
import queue
import threading
from collections.abc import Sequence

from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.reasoning.run import Run, Writing, Written
from specreason_sgl.reasoning.stopping import why_stop
from specreason_sgl.reasoning.trace import Step

Versions = tuple[Written, ...]  # the candidates for one step


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
        self._run, self._state, self._logprobs = run, run.own(state), logprobs
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
                versions = self._draft(steps, lead)
                self._drafted.put(versions)
                if not versions[0].text.strip():
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
        if error := next((one for one in results if isinstance(one, BaseException)), None):
            for one in results:
                self._run.count_wasted("draft", "draft", one)
            raise error
        if n > 1:
            for state in states:
                self._run.done(state)
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
