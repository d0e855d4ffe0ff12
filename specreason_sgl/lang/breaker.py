"""Whether a runtime that is not strictly needed is worth asking: a circuit breaker."""

import logging
import threading
import time
from typing import Literal

FIRST_PAUSE, LONGEST_PAUSE = 2, 32  # steps; doubled with each failure
LONGEST_SECONDS = 60.0  # a pause is over then, however few steps there were
log = logging.getLogger(__name__)


class Breaker:
    """Shared by all runs on a runtime. After a failure nobody asks it for a number of steps, counted over all
    runs; then one run tries, while the others do without it.

    A pause is counted in steps, so that a run with the same failures at the same steps is the same run.

    Args:
        name: of the runtime, for the log.
    """

    def __init__(self, name: str):
        self._name = name
        self._failures = 0  # in a row
        self._left = 0  # steps
        self._until = 0.0
        self._trying = False
        self._lock = threading.Lock()

    def ask(self) -> Literal["closed", "trial", "open"]:
        """Called before each step: `open` is to do without. Who gets a `trial` must tell what came of it."""
        with self._lock:
            if not self._failures:
                return "closed"
            if self._left > 0 and time.monotonic() < self._until:
                self._left -= 1
                return "open"
            if self._trying:
                return "open"
            self._trying = True
            return "trial"

    def within(self, seconds: float) -> float:
        """How long to wait for an answer: less after failures, so that a runtime that hangs costs little."""
        return seconds / min(2**self._failures, 4)

    def succeeded(self) -> None:
        """The trial was answered. Other answers may have been on their way since before it failed."""
        with self._lock:
            self._failures, self._left, self._trying = 0, 0, False
        log.warning("%s is back", self._name)

    def failed(self, why: Exception, trial: bool) -> None:
        """It did not. Requests that were on their way when it first failed count once."""
        with self._lock:
            if self._failures and not trial:
                return
            pause = min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
            self._failures, self._left, self._trying = self._failures + 1, pause, False
            self._until = time.monotonic() + LONGEST_SECONDS
        log.warning("%s is left alone for %d steps: %s", self._name, pause, why)

    def untried(self) -> None:
        """The trial ended without a verdict."""
        with self._lock:
            self._trying = False
