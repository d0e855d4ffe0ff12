"""`Drafter`: the draft model writing steps, as if every step were kept."""

import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ContextLengthExceeded, RequestAborted
from specreason_sgl.reasoning.chain import Chain
from specreason_sgl.reasoning.load import Load
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Call, End, Step
from specreason_sgl.reasoning.verifier import Drafted, is_askable
from specreason_sgl.reasoning.writing import Written, begin, finish

LEAST_ROOM = 32  # tokens; with less of its context left, the draft model does not begin a step
# A window ends at the end of a word or number: a token boundary in both models' vocabularies.
_LAST_WORD_END = re.compile(r".*[^\W_](?=[\W_])", re.DOTALL)


@dataclass
class _Draft:
    """A step that is being drafted, and how much of it was taken."""

    text: str = ""
    tokens: int = 0
    end: End | None = None
    call: Call | None = None
    logprobs: tuple[float, ...] = ()
    taken: int = 0  # characters
    taken_tokens: int = 0

    def take(self, window: int | None, delimiter: str) -> Drafted | None:
        """What was not taken yet: the rest of a finished step, or else at least a window, up to the end of a
        word. None if there is less."""
        new_tokens = self.tokens - self.taken_tokens
        cut = len(self.text)
        if self.end is None:
            if window is None or new_tokens < window:
                return None
            match = _LAST_WORD_END.match(self.text, self.taken)
            if not match:
                return None
            cut = match.end()
            share = (cut - self.taken) / max(len(self.text) - self.taken, 1)
            new_tokens = round(share * new_tokens)  # the stream does not say where a token's text ends
        drafted = Drafted(
            text=self.text[self.taken : cut],
            tokens=new_tokens,
            end=self.end,
            delimiter=delimiter if self.end == "delimiter" else "",
            logprobs=self.logprobs[self.taken_tokens : self.taken_tokens + max(new_tokens, 1)],
            call=self.call,
        )
        self.taken, self.taken_tokens = cut, self.taken_tokens + new_tokens
        return drafted


class Drafter:
    """Writes steps ahead, at most `lookahead` beyond the last step that was kept.

    It has a thread, unless the models take turns: then `take` writes.

    Args:
        run: the run.
        state: a fork on the draft model's endpoint, with the chain of thought so far, without a thread. It
            must stream if the run has a window.
        load: says how large the windows are, and is told how fast the draft model is.
    """

    def __init__(self, run: Run, state: ProgramState, load: Load):
        self._run, self._state, self._load = run, run.adopt(state, "draft"), load
        self._chain: Chain = run.chain.copy()  # as if every step were kept
        self._slots = threading.Semaphore(1 + run.config.lookahead)
        self._changed = threading.Condition()
        self._drafts: deque[_Draft] = deque()  # not taken completely
        self._error: BaseException | None = None
        self._is_dropped = self._has_stopped = False
        self._takes_turns = run.config.lookahead == 0 and not state.stream_executor.stream
        if not self._takes_turns:
            run.run_in_background(self._write_steps, self.drop)

    def take(self) -> list[Drafted]:
        """Wait for new text and take it, in order. Empty if all was taken and the drafter has stopped.

        Raises:
            SpecReasonError: the draft model's runtime failed, and all text before the failure was taken.
        """
        if self._takes_turns and not self._has_stopped:
            self._write_next()
        with self._changed:
            while not (drafts := self._take_new()):
                if self._error:
                    raise self._error
                if self._has_stopped:
                    break
                self._changed.wait()
            return drafts

    def _take_new(self) -> list[Drafted]:
        window, delimiter = self._load.window(self._run.config.window), self._run.config.delimiter
        new = []
        while self._drafts and (drafted := self._drafts[0].take(window, delimiter)):
            new.append(drafted)
            if drafted.end is None:
                break
            self._drafts.popleft()
        return new

    def keep(self) -> None:
        """Record that a step is kept: the drafter may write one more."""
        self._slots.release()

    def drop(self) -> None:
        """Stop drafting and abort the request in flight. Drafts that were not taken count as wasted."""
        with self._changed:
            if self._is_dropped:
                return
            self._is_dropped = True
            not_taken = [draft.call for draft in self._drafts if draft.call]
            self._drafts.clear()
        self._run.wasted += not_taken
        if self._takes_turns:
            self._stop()
        else:
            self._slots.release()
            self._run.abort(self._state)

    # In the drafter's thread, if it has one.

    def _write_steps(self) -> None:
        while not self._has_stopped:
            self._slots.acquire()
            self._write_next()

    def _write_next(self) -> None:
        """Write a step. Stop if no other follows it, or if it failed."""
        goes_on = False
        try:
            if not self._is_dropped:
                self._chain.append(self._write_step())
                verifier = self._run.config.judge
                goes_on = not self._chain.why_stop() and not (
                    verifier and not is_askable(self._chain.steps[-1].text, verifier)  # it will be rejected
                )
        except BaseException as error:
            if isinstance(error, RequestAborted):
                self._run.count_wasted("draft", "draft", error)
            self._error = error
        if not goes_on:
            self._stop()

    def _stop(self) -> None:
        self._run.end(self._state)
        with self._changed:
            self._has_stopped = True
            self._changed.notify_all()

    def _write_step(self) -> Step:
        run, endpoint, lead = self._run, self._state.stream_executor.backend, self._chain.lead
        if endpoint.room(self._state, enough=LEAST_ROOM) < LEAST_ROOM:
            raise ContextLengthExceeded("the draft model's context is full")
        draft = _Draft()
        if run.live or run.config.window:
            every = 1 if run.live else self._load.window(run.config.window) or Load.MOST
            endpoint.stream_every(self._state, every, partial(self._follow, draft))
        with self._changed:
            self._drafts.append(draft)
            self._tell(lead)
        request = begin(
            run, self._state, "draft", "draft", lead=lead,
            max_tokens=self._chain.step_tokens_left, logprobs=run.config.confidence is not None,
        )  # fmt: skip
        written = finish(run, request)
        self._complete(draft, written)
        return written.as_step("draft")

    def _follow(self, draft: _Draft, new_text: str, meta: Mapping[str, Any]) -> None:
        """Update the draft with text that streams in; the last of it is left to `_complete`."""
        if meta.get("finish_reason"):
            return
        with self._changed:
            draft.text, draft.tokens = draft.text + new_text, meta.get("completion_tokens", 0)
            self._load.drafted(draft.tokens, meta["seconds"])
            if entries := meta.get("output_token_logprobs"):
                draft.logprobs = tuple(entry[0] for entry in entries)
            self._tell(new_text)
            self._changed.notify_all()

    def _tell(self, text: str, instead_of: str = "") -> None:
        """Tell who watches the run what was drafted, unless nobody waits for it any more."""
        if self._run.live and not self._is_dropped and (text or instead_of):
            self._run.live.drafted(text, instead_of)

    def _complete(self, draft: _Draft, written: Written) -> None:
        with self._changed:
            if self._is_dropped:
                self._run.wasted.append(written.call)
            same = takewhile(lambda pair: pair[0] == pair[1], zip(draft.text, written.text, strict=False))
            shared = sum(1 for _ in same)  # not all: the beginning of a stop text may have streamed in
            self._tell(written.text[shared:], instead_of=draft.text[shared:])
            draft.text, draft.end, draft.call = written.text, written.end, written.call
            draft.tokens, draft.logprobs = written.call.completion_tokens, written.logprobs
            self._changed.notify_all()
