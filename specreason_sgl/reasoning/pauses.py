"""When the draft model is not asked: after drafts that were of no use, and after failures of its runtime.

One policy for both: a pause of some steps, twice as long each time until drafting is of use again.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from specreason_sgl.reasoning.trace import Step

WORTH = 2  # a useful draft saves about as much time as so many useless ones lose, or more
USEFUL_TOKENS = 8  # kept before a correction; with fewer, base's reading cost about as much as writing them
LONGEST_SECONDS = 60.0  # a pause after a failure is over then, however few steps there were
log = logging.getLogger(__name__)


class Backoff:
    """A pause, counted in steps so that the same run pauses at the same steps; each is twice the last.

    Args:
        first, longest: steps of a pause.
    """

    def __init__(self, first: int, longest: int):
        self._first = self._next = first
        self._longest = longest
        self.left = 0

    def begin(self) -> int:
        """Begin a pause, and say how long it is."""
        self.left, self._next = self._next, min(2 * self._next, self._longest)
        return self.left

    def step(self) -> None:
        """A step has passed."""
        self.left = max(self.left - 1, 0)

    def reset(self) -> None:
        """It was of use: there is no pause, and the next one is short."""
        self.left, self._next = 0, self._first


def is_paused(steps: Sequence[Step], patience: int) -> bool:
    """Whether the text after these steps is the base model's alone, because too many drafts were of no use.

    Drafting has `patience` drafts of credit. A useless one costs one, a useful one brings `WORTH`. Where no
    credit is left drafting pauses, and then one draft is tried. So however bad the drafts are, a run of n
    steps has about patience + log2(n / 4) of them. It depends on the steps alone.

    Args:
        steps: the chain of thought, the step that is being written included.
        patience: 0: drafting never pauses.
    """
    credit, backoff = patience, Backoff(4, 64)
    for step in steps:
        if step.author == "base" and step.rejected is None:
            backoff.step()
            continue
        for useful in _outcomes(step):
            if useful:
                credit = max(credit, 0) + WORTH
                backoff.reset()
            else:
                credit -= 1
                if credit <= 0:
                    backoff.begin()
    return patience > 0 and backoff.left > 0


def _outcomes(step: Step) -> Iterator[bool]:
    """Of each draft of a step, whether it was of use."""
    if step.rejected is not None:
        yield False
        return
    for correction in step.corrections:
        yield correction.kept >= USEFUL_TOKENS
    if step.author == "draft":
        yield True


class Breaker:
    """A circuit breaker: whether a draft runtime that fails is worth asking. Shared by all runs on it.

    After a failure no run asks it for a number of steps, counted over all runs; then one run tries, while the
    others do without it.

    Args:
        name: of the runtime, for the log.
    """

    def __init__(self, name: str):
        self._name = name
        self._failures = 0  # in a row
        self._backoff = Backoff(2, 32)
        self._until = 0.0
        self._trying = False
        self._lock = threading.Lock()

    def ask(self) -> Literal["closed", "trial", "open"]:
        """Called before each step: `open` is to do without. Who gets a `trial` must tell what came of it."""
        with self._lock:
            if not self._failures:
                return "closed"
            if self._backoff.left and time.monotonic() < self._until:
                self._backoff.step()
                return "open"
            if self._trying:
                return "open"
            self._trying = True
            return "trial"

    def within(self, seconds: float) -> float:
        """How long to wait for an answer: less after failures, so that a runtime that hangs costs little."""
        return seconds / min(2**self._failures, 16)

    def succeeded(self) -> None:
        """The trial was answered. Other answers may have been on their way since before it failed."""
        with self._lock:
            self._failures, self._trying = 0, False
            self._backoff.reset()
        log.warning("%s is back", self._name)

    def failed(self, why: Exception, trial: bool) -> None:
        """Record a failed request. Requests that were on their way when it first failed count once."""
        with self._lock:
            if self._failures and not trial:
                return
            self._failures, self._trying = self._failures + 1, False
            pause = self._backoff.begin()
            self._until = time.monotonic() + LONGEST_SECONDS
        log.warning("%s is left alone for %d steps: %s", self._name, pause, why)

    def untried(self) -> None:
        """The trial ended without a verdict."""
        with self._lock:
            self._trying = False


_breakers: dict[str, Breaker] = {}  # by URL
_breakers_lock = threading.Lock()


def breaker_of(endpoint) -> Breaker:
    """The breaker of a draft endpoint, the same for all runs on its server."""
    url = endpoint.base_url
    with _breakers_lock:
        return _breakers.setdefault(url, Breaker(url))


def forget_failures(endpoint) -> None:
    """Take a draft endpoint's server for one that never failed."""
    with _breakers_lock:
        _breakers.pop(endpoint.base_url, None)
