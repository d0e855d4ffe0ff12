"""`Load`: what drafting wins at the present load, and what follows from it."""

import threading
from typing import Literal

from specreason_sgl.reasoning.trace import Step

State = Literal["drafting", "wide", "alone"]

ENOUGH = 1024  # tokens of all runs, before a state is judged
LEAST_WRITTEN = 8  # tokens; of a shorter request most of the time is its prefill


class Backoff:
    """A pause counted in steps, so that equal runs pause at equal steps. Each pause is twice the last.

    Args:
        first, longest: lengths of a pause, in steps.
    """

    def __init__(self, first: int, longest: int):
        self._first = self._next = first
        self._longest = longest
        self.left = 0

    def begin(self) -> int:
        """Begin a pause; returns its length in steps."""
        self.left, self._next = self._next, min(2 * self._next, self._longest)
        return self.left

    def step(self) -> None:
        """Record that a step has passed."""
        self.left = max(self.left - 1, 0)

    def reset(self) -> None:
        """End the pause; the next one is short again."""
        self.left, self._next = 0, self._first


class Rate:
    """Seconds a token, over about the latest `ENOUGH` tokens."""

    def __init__(self) -> None:
        self.tokens = self._seconds = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.tokens, self._seconds = self.tokens + tokens, self._seconds + seconds
        if self.tokens > 2 * ENOUGH:
            self.tokens, self._seconds = self.tokens / 2, self._seconds / 2

    @property
    def seconds(self) -> float | None:
        """Seconds a token; None before there was one."""
        return self._seconds / self.tokens if self.tokens else None


class Load:
    """Measured times of all runs on a pair of runtimes, and whether drafting pays at this load.

    It is fed with times and has no clock of its own. `drafting` lasts as long as a token of the chain of
    thought takes less time than the base model alone would need. Then the base model reads whole steps
    (`wide`). Where that does not pay either, it writes alone (`alone`) in the runs whose settings allow that.
    After a pause of some steps, twice as long each time until drafting pays again, all runs draft again.

    Attributes:
        state: the present state.
        base: the base model writing.
        speculating: the chain of thought growing, with a draft model.
    """

    FIRST, LEAST, MOST = 8, 4, 64  # tokens of an automatic window; FIRST until both times are measured

    def __init__(self) -> None:
        self.state: State = "drafting"
        self.base, self.speculating = Rate(), Rate()
        self.read_seconds = self.draft_seconds = 0.0
        self._backoff = Backoff(64, 4096)
        self._lock = threading.Lock()

    # What is measured.

    def read(self, seconds: float) -> None:
        """Record how long the base model took to read a draft."""
        self.read_seconds = _smoothed(self.read_seconds, seconds)

    def drafted(self, tokens: int, seconds: float) -> None:
        """Record how long the draft model took to write some tokens."""
        self.draft_seconds = _smoothed(self.draft_seconds, seconds / max(tokens, 1))

    def wrote(self, tokens: int, seconds: float) -> None:
        """Record how long the base model took to write some tokens."""
        if tokens >= LEAST_WRITTEN:
            with self._lock:
                self.base.add(tokens, seconds)

    def record(self, piece: Step, seconds: float) -> None:
        """Record how long a run took for a piece of its chain of thought."""
        if piece.author == "base" and piece.rejected is None:
            self.wrote(piece.tokens, seconds)
            return
        for call in piece.calls:
            if call.purpose == "rewrite":
                self.wrote(call.completion_tokens, call.seconds)
        with self._lock:
            self.speculating.add(piece.tokens, seconds)
            self._judge()

    # What follows.

    @property
    def speedup(self) -> float | None:
        """Time of the base model alone over the time with drafting, by token; None before it is known."""
        if self.base.seconds is None or not self.speculating.seconds:
            return None
        return self.base.seconds / self.speculating.seconds

    def window(self, setting: int | Literal["auto"] | None) -> int | None:
        """Drafted tokens after which the base model reads; None for whole steps.

        With "auto", as many that a read takes half as long as drafting them. Reading then keeps up with
        drafting and leaves the base model time for other runs; under load, when reads are slow, the window
        grows.
        """
        if setting != "auto":
            return setting
        if self.state == "wide":
            return None
        if not self.read_seconds or not self.draft_seconds:
            return self.FIRST
        return round(min(max(2 * self.read_seconds / self.draft_seconds, self.LEAST), self.MOST))

    def allows(self, at_load: Literal["draft", "base"]) -> bool:
        """Ask before each step, with the run's setting, whether to draft it."""
        if at_load == "draft":
            return True
        with self._lock:
            if self.state == "wide" and self._does_not_pay():
                self.state = "alone"
                self._backoff.begin()
            elif self.state == "alone":
                self._pass_step()
            return self.state != "alone"

    def _judge(self) -> None:
        """Change the state by what was measured with drafting."""
        if self.state == "wide":
            self._pass_step()
        elif self.state == "drafting" and self._does_not_pay():
            self._enter("wide")
            self._backoff.begin()
        elif self.state == "drafting" and self.speculating.tokens >= ENOUGH:
            self._backoff.reset()

    def _does_not_pay(self) -> bool:
        speedup = self.speedup
        return self.speculating.tokens >= ENOUGH and speedup is not None and speedup < 1

    def _pass_step(self) -> None:
        self._backoff.step()
        if not self._backoff.left:
            self._enter("drafting")

    def _enter(self, state: State) -> None:
        self.state, self.speculating = state, Rate()


def _smoothed(average: float, value: float) -> float:
    return 0.7 * average + 0.3 * value if average else value
