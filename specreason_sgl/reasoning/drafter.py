"""The draft model, writing step after step in a thread of its own, as if all of it were kept."""

import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ContextLengthExceeded, RequestAborted
from specreason_sgl.reasoning.chain import Chain
from specreason_sgl.reasoning.repair import AUTO
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Call, End, Step
from specreason_sgl.reasoning.verifiers import Drafted, is_askable
from specreason_sgl.reasoning.writing import Request, begin, finish

LEAST_STEP = 32  # tokens; with less of its context left the draft model does not begin a step
# A window ends where a word or a number does: both models' tokens end there, whatever their vocabularies.
_LAST_WORD_END = re.compile(r".*[^\W_](?=[\W_])", re.DOTALL)


@dataclass
class _Draft:
    """A step that is being drafted, and how much of it was taken."""

    text: str = ""
    tokens: int = 0
    end: End | None = None
    call: Call | None = None
    logprobs: tuple[float, ...] = ()
    taken: int = 0
    taken_tokens: int = 0

    def take(self, window: int | None, delimiter: str) -> Drafted | None:
        """What is new: the rest of a step that has ended, or at least a window up to a word's end."""
        upto = len(self.text)
        if self.end is None:
            if window is None or self.tokens - self.taken_tokens < window:
                return None
            match = _LAST_WORD_END.match(self.text, self.taken)
            if not match:
                return None
            upto = match.end()
        share = (upto - self.taken) / max(len(self.text) - self.taken, 1)
        tokens = (
            self.tokens - self.taken_tokens if self.end else round(share * (self.tokens - self.taken_tokens))
        )
        drafted = Drafted(
            self.text[self.taken : upto],
            tokens,
            self.end,
            delimiter if self.end == "delimiter" else "",
            self.logprobs[self.taken_tokens : self.taken_tokens + max(tokens, 1)],
            self.call,
        )
        self.taken, self.taken_tokens = upto, self.taken_tokens + tokens
        return drafted


class Pace:
    """How many drafted tokens the base model reads at once, where that is chosen by measurement: so many that
    a read takes half of the time that drafting them does. So reading keeps up with drafting and leaves the
    base model time for other runs, and where these are many and a read takes long, the window grows.
    """

    FIRST, LEAST, MOST = 8, 4, 64  # tokens; the first before anything was measured

    def __init__(self, window: int | Literal["auto"] | None):
        self._fixed = window
        self._read = self._token = 0.0  # seconds

    def read(self, seconds: float) -> None:
        """A read took so long."""
        self._read = _smoothed(self._read, seconds)

    def drafted(self, tokens: int, seconds: float) -> None:
        """So many tokens were drafted in that time."""
        self._token = _smoothed(self._token, seconds / max(tokens, 1))

    @property
    def window(self) -> int | None:
        if self._fixed != AUTO:
            return self._fixed
        if not self._read or not self._token:
            return self.FIRST
        return round(min(max(2 * self._read / self._token, self.LEAST), self.MOST))


def _smoothed(before: float, now: float) -> float:
    return 0.7 * before + 0.3 * now if before else now


class Drafter:
    """Writes ahead. It stays at most `lookahead` steps ahead of those that `kept` was told of.

    Args:
        run: it belongs to.
        state: the draft model's, the chain of thought so far in it; it streams where there is a window.
        pace: how large the windows are.
    """

    def __init__(self, run: Run, state: ProgramState, pace: Pace):
        self._run, self._state, self._pace = run, run.adopt(state, "draft"), pace
        self._chain: Chain = run.chain.copy()  # as if all were kept
        self._slots = threading.Semaphore(1 + run.config.lookahead)
        self._changed = threading.Condition()
        self._drafts: deque[_Draft] = deque()  # that have something to take
        self._error: BaseException | None = None
        self._dropped = self._ended = False
        run.help(self._work, self.drop)

    def take(self) -> list[Drafted]:
        """What is new, in order; waits until there is something. None: all was taken, and the draft model
        has ended.

        Raises:
            SpecReasonError: the draft model's runtime failed at what is needed now; further ahead it may
                never be needed.
        """
        with self._changed:
            while not (taken := self._take_new()):
                if self._error:
                    raise self._error
                if self._ended:
                    break
                self._changed.wait()
            return taken

    def _take_new(self) -> list[Drafted]:
        window, delimiter = self._pace.window, self._run.config.delimiter
        taken = []
        while self._drafts and (drafted := self._drafts[0].take(window, delimiter)):
            taken.append(drafted)
            if drafted.end is None:
                break
            self._drafts.popleft()
        return taken

    def kept(self) -> None:
        """A step that was taken is kept: one more can be drafted."""
        self._slots.release()

    def drop(self) -> None:
        """Abort what is being drafted; nothing more is, and what nobody took was for nothing."""
        with self._changed:
            if self._dropped:
                return
            self._dropped = True
            untaken = [draft.call for draft in self._drafts if draft.call]
            self._drafts.clear()
        self._run.wasted += untaken
        self._slots.release()
        self._run.abort(self._state)

    def _work(self) -> None:
        try:
            while not self._chain.why_stop():
                self._slots.acquire()
                if self._dropped:
                    break
                if self._state.stream_executor.backend.room(self._state) < LEAST_STEP:
                    raise ContextLengthExceeded("the draft model's context is full")
                self._chain.append(self._draft_step())
                judge = self._run.config.judge
                if judge and not is_askable(self._chain.steps[-1].text, judge):
                    break  # it will be rejected
        except BaseException as error:
            if isinstance(error, RequestAborted):
                self._run.count_wasted("draft", "draft", error)
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._run.done(self._state)
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _draft_step(self) -> Step:
        run = self._run
        run.adopt(self._state, "draft")  # its time begins anew
        request = begin(
            run, self._state, "draft", "draft", lead=self._chain.lead,
            max_tokens=self._chain.step_tokens_left, logprobs=run.config.confidence is not None,
        )  # fmt: skip
        draft = _Draft()
        with self._changed:
            if self._dropped:  # between the look at it and here
                run.abort(self._state)
            self._drafts.append(draft)
        if run.config.window:
            self._follow(request, draft)
        written = finish(run, request)
        with self._changed:
            if self._dropped:
                run.wasted.append(written.call)
            draft.text, draft.end, draft.call = written.text, written.end, written.call
            draft.tokens, draft.logprobs = written.call.completion_tokens, written.logprobs
            self._changed.notify_all()
        return written.as_step("draft")

    def _follow(self, request: Request, draft: _Draft) -> None:
        """Note what streams in."""
        text, began = "", time.monotonic()
        for piece in request.state.text_iter(request.name):
            meta = request.state.stream_executor.meta_info.get(request.name) or {}
            text += piece
            with self._changed:
                draft.text, draft.tokens = text, meta.get("completion_tokens", 0)
                self._pace.drafted(draft.tokens, time.monotonic() - began)
                if entries := meta.get("output_token_logprobs"):
                    draft.logprobs = tuple(entry[0] for entry in entries)
                self._changed.notify_all()
