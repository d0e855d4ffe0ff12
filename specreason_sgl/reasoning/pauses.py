"""When the draft model is asked: pauses after useless drafts and after failures of its runtime.

Both follow the same policy: a pause of some steps, twice as long each time until drafting is useful again.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.load import Load
from specreason_sgl.reasoning.trace import Step

USEFUL_CREDIT = 2  # drafts; a useful draft saves at least the time that two useless drafts cost
USEFUL_TOKENS = 4  # kept; fewer take about as long as if the base model had written them
LONGEST_PAUSE = 60.0  # seconds; ends a pause after a failure, however few steps have passed
log = logging.getLogger(__name__)


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


def is_paused(steps: Sequence[Step], patience: int) -> bool:
    """Whether drafting pauses after these steps because too many drafts were useless.

    Drafting starts with a credit of `patience` drafts. A useless draft costs 1, a useful draft adds
    `USEFUL_CREDIT`. Without credit, drafting pauses, and then a single draft is tried. However bad the drafts
    are, a run of n steps has about patience + log2(n / 4) of them. The decision depends only on the steps.

    Args:
        steps: the chain of thought, with the unfinished step.
        patience: the setting; 0: drafting never pauses.
    """
    credit, backoff = patience, Backoff(4, 64)
    for step in steps:
        if step.author == "base" and step.rejected is None:
            backoff.step()
            continue
        for is_useful in _drafts_of(step):
            if is_useful:
                credit = max(credit, 0) + USEFUL_CREDIT
                backoff.reset()
            else:
                credit -= 1
                if credit <= 0:
                    backoff.begin()
    return patience > 0 and backoff.left > 0


def _drafts_of(step: Step) -> Iterator[bool]:
    """Whether each draft of a step was useful. What the draft model writes after a correction is one more."""
    if step.rejected is not None:
        yield False
        return
    for correction in step.corrections:
        yield correction.kept >= USEFUL_TOKENS
    if step.author == "draft" or (step.end and step.kept_last >= USEFUL_TOKENS):
        yield True


class Breaker:
    """A circuit breaker in front of a draft model's runtime, shared by all runs on it.

    After a failure no run asks the runtime for a number of steps, counted over all runs. Then a single run
    tries, while the others continue without drafts.

    Args:
        name: the runtime's name in the log.
    """

    def __init__(self, name: str):
        self._name = name
        self._failures = 0  # consecutive
        self._backoff = Backoff(2, 32)
        self._paused_until = 0.0
        self._is_trying = False
        self._lock = threading.Lock()

    def ask(self) -> Literal["closed", "trial", "open"]:
        """Ask before each step whether to draft it: `open` means no, `closed` yes. After `trial`, also yes,
        the caller must report the result: `succeeded`, `failed` or `abandon_trial`."""
        with self._lock:
            if not self._failures:
                return "closed"
            if self._backoff.left and time.monotonic() < self._paused_until:
                self._backoff.step()
                return "open"
            if self._is_trying:
                return "open"
            self._is_trying = True
            return "trial"

    def timeout(self, seconds: float) -> float:
        """How long to wait for an answer: less than `seconds` after failures, so that a runtime that hangs
        costs little."""
        return seconds / min(2**self._failures, 16)

    def succeeded(self) -> None:
        """Record a successful trial. Other answers do not count: their requests may be older than the
        failure."""
        with self._lock:
            self._failures, self._is_trying = 0, False
            self._backoff.reset()
        log.warning("%s works again", self._name)

    def failed(self, error: Exception, trial: bool) -> None:
        """Record a failed request. Requests that were in flight at the first failure count once."""
        with self._lock:
            if self._failures and not trial:
                return
            self._failures, self._is_trying = self._failures + 1, False
            pause = self._backoff.begin()
            self._paused_until = time.monotonic() + LONGEST_PAUSE
        log.warning("%s is not used for the next %d steps: %s", self._name, pause, error)

    def abandon_trial(self) -> None:
        """Record that a trial ended without a result."""
        with self._lock:
            self._is_trying = False


class Policy:
    """When a draft model's runtime is asked, for all runs on it.

    Args:
        name: the runtime's name in the log.

    Attributes:
        breaker: what its failures say.
        load: whether drafting pays at the present load.
    """

    def __init__(self, name: str):
        self.breaker, self.load = Breaker(name), Load()

    def ask(
        self, steps: Sequence[Step], config: SpecReasonConfig
    ) -> Literal["draft", "trial", "rejections", "breaker"]:
        """Ask before a run begins to draft: whether it may, or why not.

        After `trial` the caller must report the result to the breaker (see `Breaker.ask`).
        """
        if is_paused(steps, config.patience):
            return "rejections"
        permission = self.breaker.ask()
        if permission == "open":
            return "breaker"
        return "trial" if permission == "trial" else "draft"


_policies: dict[str, Policy] = {}  # by URL
_policies_lock = threading.Lock()


def policy_of(endpoint: Endpoint) -> Policy:
    """The policy of a draft endpoint's server, shared by all runs."""
    url = endpoint.base_url
    with _policies_lock:
        return _policies.setdefault(url, Policy(url))


def forget_failures(endpoint: Endpoint) -> None:
    """Treat a draft endpoint's server as a new one, which never failed and was not measured."""
    with _policies_lock:
        _policies.pop(endpoint.base_url, None)
