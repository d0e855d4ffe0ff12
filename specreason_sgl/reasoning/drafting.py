"""The draft model, working ahead of the base model's judgement."""

import contextlib
import queue
import threading
from collections.abc import Sequence

from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import RequestAborted
from specreason_sgl.reasoning.run import Run, Written
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
            SpecReasonError: the draft model's runtime failed.
        """
        taken = [self._drafted.get()]
        while not self._drafted.empty():
            taken.append(self._drafted.get())
        for one in taken:
            if isinstance(one, BaseException):
                raise one
        return taken

    def kept(self) -> None:
        """The oldest step that was taken is kept: one more can be drafted."""
        self._slots.release()

    def drop(self) -> None:
        """Abort what is being drafted; nothing more is."""
        self._dropped = True
        self._slots.release()
        for writing in self._writings:
            writing.state.stream_executor.backend.abort(writing.state)
        self._count_wasted()

    def _work(self, steps: list[Step]) -> None:
        try:
            while not why_stop(steps, self._run.config):
                self._slots.acquire()
                if self._dropped:
                    break
                versions = self._draft(steps)
                self._drafted.put(versions)
                if not versions[0].text.strip():
                    break  # it will be rejected
                self._state += self._run.config.delimiter
                steps.append(versions[0].as_step("draft"))
        except BaseException as error:
            self._drafted.put(error)
        finally:
            self._run.done(self._state)
            if self._dropped:
                self._count_wasted()

    def _draft(self, steps: list[Step]) -> Versions:
        n = self._run.config.candidates
        states = [self._state] if n == 1 else list(self._state.fork(n))
        self._writings = [
            self._run.begin(state, "draft", "draft", steps, logprobs=self._logprobs) for state in states
        ]
        if self._dropped:  # between the look at it and here
            self.drop()
        versions = tuple(self._run.finish(writing) for writing in self._writings)
        if n > 1:
            for state in states:
                self._run.done(state)
            self._state += versions[0].text
        return versions

    def _count_wasted(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                one = self._drafted.get_nowait()
                if isinstance(one, RequestAborted) and one.meta_info:
                    self._run.wasted.append(self._run.call("draft", "draft", one.meta_info))
                elif isinstance(one, tuple):
                    self._run.wasted += [version.call for version in one]
