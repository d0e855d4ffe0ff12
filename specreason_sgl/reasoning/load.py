"""`Load`: whether drafting pays at the present load, by trials of the whole server, and what follows."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

State = Literal["drafting", "wide", "alone"]

# A period of another state than the one before, in tokens for each run in flight:
SETTLE = 64  # not measured, while what began before the period ends
MEASURE = 256  # measured; of all runs together at least `MEASURE_ALL`
MEASURE_ALL = 1024
MEMORY = 4  # periods of a state that its seconds are averaged over
FIRST_REST = 32  # periods before the first trial, by runs in flight: the fewer, the likelier drafting pays
REST = 4  # periods between two trials of a state, at least
COST = 0.01  # share of the time that the trials of a state may cost
MARGIN = 0.05  # share of the time that another state must save


class Level:
    """Which state is the fastest while about the same number of runs are in flight.

    The tokens of all runs count the time, in periods. Most periods have the best state so far, a few try
    another one. A period is of all runs: one that tried another state among runs that do not would be
    measured under their load.

    Args:
        runs: how many are in flight.
        best: the best state until another is measured to be faster.

    Attributes:
        state: the state of the period.
        seconds: for each state that was measured, how long a run takes for a token that it keeps.
        settling: tokens until this period is measured.
        first_rest: periods before the first trial.
    """

    def __init__(self, runs: int, best: State = "drafting"):
        self.runs, self.best, self.state = runs, best, best
        self.first_rest = max(FIRST_REST // runs, 2)
        self.seconds: dict[State, float] = {}
        self._sums: dict[State, tuple[int, float]] = {}  # tokens and seconds of periods that have not ended
        self._periods: Counter[State] = Counter()
        self._rests: dict[State, int] = {}  # periods until the next trial
        self.enter()

    @property
    def has_compared(self) -> bool:
        """Whether there was a trial."""
        return len(self.seconds) > 1

    def enter(self) -> None:
        """Go on after another level. A trial that was interrupted goes on after a rest."""
        if self.state != self.best:
            self._rests[self.state] = REST
        self.state, self.settling = self.best, SETTLE * self.runs

    def record(self, tokens: int, seconds: float, possible: Collection[State]) -> None:
        """Record tokens of a run, how long it took for them, and which states can be tried."""
        if self.settling > 0:
            self.settling -= tokens
            return
        tokens_before, seconds_before = self._sums.get(self.state, (0, 0.0))
        self._sums[self.state] = tokens + tokens_before, seconds + seconds_before
        if tokens + tokens_before >= max(MEASURE * self.runs, MEASURE_ALL):
            self._end_period(possible)

    def _begin(self, state: State) -> None:
        if state != self.state:
            self.state, self.settling = state, SETTLE * self.runs

    def _end_period(self, possible: Collection[State]) -> None:
        tokens, seconds = self._sums.pop(self.state)
        self._periods[self.state] += 1
        before, weight = self.seconds.get(self.state, 0.0), 1 / min(self._periods[self.state], MEMORY)
        self.seconds[self.state] = before + weight * (seconds / tokens - before)
        if self.state != self.best:
            self._judge_trial()
            self._begin(self.best)
            return
        others = [state for state in get_args(State) if state in possible and state != self.best]
        for state in others:
            self._rests[state] = self._rests.get(state, self.first_rest) - 1
        due = [state for state in others if self._rests[state] <= 0 or self._saves(state)]
        self._begin(min(due, key=lambda state: self.seconds.get(state, 0.0), default=self.best))

    def _saves(self, state: State) -> bool:
        """Whether another state is faster than the best one has become."""
        return self.seconds.get(state, math.inf) < (1 - MARGIN) * self.seconds[self.best]

    def _judge_trial(self) -> None:
        """Choose the better state. The other one rests until its next trial costs no more than `COST`."""
        other = self.state
        if self._saves(other):
            self.best, other = other, self.best
        loss = self.seconds[other] / self.seconds[self.best] - 1
        self._rests[other] = max(round(loss / COST), REST)


class Load:
    """What all runs on a pair of runtimes have measured, and which state they are in.

    `drafting`: as the settings say. `wide`: the base model reads whole steps where windows are automatic.
    `alone`: it writes alone in the runs whose settings allow that.

    Args:
        clock: tells the seconds.

    Attributes:
        runs: how many are in flight.
        level: the states where so many are in flight.
        read_seconds: how long the base model takes to read a draft.
        draft_seconds: how long the draft model takes to write a token.
    """

    FIRST, LEAST, MOST = 8, 4, 64  # tokens of an automatic window; FIRST until both times are measured

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.read_seconds = self.draft_seconds = 0.0
        self._clock, self._followed_at = clock, clock()
        self._token_seconds = 0.0
        self.runs = 0
        self._doublings = 0.0  # log2 of them, smoothed; levels are whole numbers of it
        self.level = Level(1)
        self._levels = {0: self.level}
        self._possible: frozenset[State] = frozenset({"drafting"})
        self._lock = threading.Lock()

    # What is measured.

    @contextmanager
    def run(self) -> Iterator[None]:
        """A run is in flight."""
        self._change_runs(1)
        try:
            yield
        finally:
            self._change_runs(-1)

    def _change_runs(self, by: int) -> None:
        with self._lock:
            self._find_level()
            self.runs += by

    def read(self, seconds: float) -> None:
        """Record how long the base model took to read a draft."""
        self.read_seconds = _smoothed(self.read_seconds, seconds)

    def drafted(self, tokens: int, seconds: float) -> None:
        """Record how long the draft model took to write some tokens."""
        self.draft_seconds = _smoothed(self.draft_seconds, seconds / max(tokens, 1))

    def record(self, tokens: int, seconds: float) -> None:
        """Record how long a run took for tokens of its chain of thought or its answer."""
        with self._lock:
            self._find_level()
            if tokens:
                self._token_seconds = _smoothed(self._token_seconds, seconds / tokens)
            self.level.record(tokens, seconds, self._possible)

    def _find_level(self) -> None:
        """Follow the runs in flight, over about the time of the latest `SETTLE` tokens of each. A level
        that has compared no states yet begins with the best one of the next lower level that has."""
        before, self._followed_at = self._followed_at, self._clock()
        memory = SETTLE * self._token_seconds
        weight = 1 - math.exp((before - self._followed_at) / memory) if memory else 1.0
        self._doublings += weight * (math.log2(max(self.runs, 1)) - self._doublings)
        if abs(self._doublings - math.log2(self.level.runs)) <= 0.75:  # more than half: not to and fro
            return
        doublings = round(self._doublings)
        self.level = self._levels.setdefault(doublings, Level(2**doublings))
        if not self.level.has_compared:
            self.level.best = self._best_below(doublings)
        self.level.enter()

    def _best_below(self, doublings: int) -> State:
        compared = [
            below for below, level in self._levels.items() if below < doublings and level.has_compared
        ]
        return self._levels[max(compared)].best if compared else "drafting"

    # What follows.

    @property
    def state(self) -> State:
        """The present state."""
        return self.level.state

    @property
    def speedup(self) -> float | None:
        """Time of the base model alone over the time with drafting, by token, at the present number of runs;
        None before both are known."""
        seconds = dict(self.level.seconds)
        alone = seconds.pop("alone", None)
        return alone / min(seconds.values()) if alone and seconds else None

    def window(self, setting: int | Literal["auto"] | None) -> int | None:
        """Drafted tokens after which the base model reads; None for whole steps.

        With "auto", as many that a read takes half as long as drafting them. Reading then keeps up with
        drafting and leaves the base model time for other runs; under load, when reads are slow, the window
        grows.
        """
        if setting != "auto":
            return setting
        self._possible |= {"wide"}
        if self.state == "wide":
            return None
        if not self.read_seconds or not self.draft_seconds:
            return self.FIRST
        return round(min(max(2 * self.read_seconds / self.draft_seconds, self.LEAST), self.MOST))

    def allows(self, at_load: Literal["draft", "base"]) -> bool:
        """Ask before each step, with the run's setting, whether to draft it."""
        if at_load == "draft":
            return True
        self._possible |= {"alone"}
        return self.state != "alone"


def _smoothed(average: float, value: float) -> float:
    return 0.7 * average + 0.3 * value if average else value
