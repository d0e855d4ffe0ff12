"""A pair of servers under load, simulated without a clock or a model: `python -m tests.support.queueing` is a
table of the state that `Load` chooses, and of the share of the fastest state's rate that it reaches.

A server prefills all that waits, at once; else it decodes a token of every request. As with `Ahead`, the
draft model writes a window while the base model reads the one before, or the base model writes a step.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from specreason_sgl.display.markdown import markdown_table
from specreason_sgl.reasoning.load import MEASURE, MEASURE_ALL, SETTLE, Load, State

STEP, ANSWER, CHAIN = 32, 48, range(20, 600)  # tokens
REGRETTED = 0.05  # share of drafted tokens that are corrected
PERIOD = SETTLE + MEASURE  # tokens of a run
AT_ONCE = (1, 4, 16, 64)


@dataclass(frozen=True)
class Costs:
    """Seconds of a forward pass: to load the weights, and to compute each token, whichever takes longer."""

    weights: float
    token: float

    def seconds(self, tokens: int) -> float:
        return max(self.weights, self.token * tokens)


MACHINES = {  # of the draft and the base model
    "CPU": (Costs(0.035, 0.004), Costs(0.100, 0.012)),  # a token read costs what one written in a batch costs
    "GPU": (Costs(0.004, 0.000005), Costs(0.020, 0.00003)),  # reading is nearly free
}


@dataclass
class Request:
    read: int
    write: int
    written: int = 0
    aborted: bool = False
    sent: float = 0.0
    seconds: float | None = None  # once it is answered
    then: Callable[[], None] | None = None


@dataclass
class Server:
    costs: Costs
    clock: "Clock"
    _arrived: list[Request] = field(default_factory=list)
    _writing: list[Request] = field(default_factory=list)
    _is_busy: bool = False

    def send(self, read: int, write: int) -> Request:
        request = Request(read, write, sent=self.clock.now)
        self._arrived.append(request)
        if not self._is_busy:
            self._is_busy = True
            self.clock.after(0, self._pass)
        return request

    def _pass(self) -> None:
        """Begin a forward pass."""
        self._arrived = [request for request in self._arrived if not request.aborted]
        self._writing = [request for request in self._writing if not request.aborted]
        if batch := self._arrived:
            self._arrived, tokens = [], sum(request.read for request in batch)
        else:
            (batch, self._writing), tokens = (self._writing, []), len(self._writing)
        self._is_busy = bool(batch)
        if batch:
            self.clock.after(self.costs.seconds(tokens), lambda: self._end(batch))

    def _end(self, batch: list[Request]) -> None:
        """A prefill gives the first token."""
        for request in batch:
            request.written += 1
            if request.written < request.write:
                self._writing.append(request)
            else:
                request.seconds = self.clock.now - request.sent
                if request.then and not request.aborted:
                    request.then()
        self._pass()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def step(self) -> None:
        self.now, _, event = heapq.heappop(self._events)
        event()


class Fixed(Load):
    """Runs are in the state that it is given, whatever was measured."""

    state: State = "alone"


class Simulation:
    """Runs on a machine.

    Args:
        machine: of `MACHINES`.
        at_load: the setting of all runs.
        load: what decides.

    Attributes:
        tokens: of chains and answers, so far.
    """

    def __init__(self, machine: str, at_load: Literal["draft", "base"] = "base", load: type[Load] = Load):
        self.at_load, self.clock = at_load, Clock()
        self.load = load(lambda: self.clock.now)
        self.draft, self.base = (Server(costs, self.clock) for costs in MACHINES[machine])
        self.random = random.Random(0)
        self.running = self.tokens = 0

    def go(self, at_once: int, periods: int) -> float:
        """Solve problems, so many at a time, until some periods have passed. Returns tokens a second."""
        began, before = self.clock.now, self.tokens
        end = before + periods * max(PERIOD * at_once, MEASURE_ALL)
        while self.tokens < end:
            while self.running < at_once:
                self._start()
            self.clock.step()
        return (self.tokens - before) / (self.clock.now - began)

    def _start(self) -> None:
        self.running += 1
        context, run = self.load.run(), self._run(self.random.choice(CHAIN))
        context.__enter__()

        def go_on() -> None:
            if request := next(run, None):
                request.then = go_on
            else:
                context.__exit__(None, None, None)
                self.running -= 1

        go_on()

    def _run(self, left: int) -> Iterator[Request]:
        """A run with so many tokens left of its chain: yields what it waits for."""
        while left > 0:
            writes = self._drafted(left) if self.load.allows(self.at_load) else self._written(min(STEP, left))
            left -= yield from writes
        yield from self._written(ANSWER)

    def _written(self, tokens: int) -> Iterator[Request]:
        """The base model writes."""
        request = self.base.send(4, tokens)
        yield request
        self._record(tokens, request.seconds)
        return tokens

    def _drafted(self, left: int) -> Iterator[Request]:
        """The draft model writes windows until one is corrected, or its steps are not wanted any more."""
        kept, began, in_step = 0, self.clock.now, STEP
        ahead = None
        while kept < left and self.load.allows(self.at_load):
            window = min(self.load.window("auto") or in_step, in_step, left - kept)
            drafting = ahead or self.draft.send(4, window)
            if drafting.seconds is None:
                yield drafting
            window = drafting.write
            self.load.drafted(window, drafting.seconds)
            in_step = in_step - window or STEP
            ahead = self.draft.send(1, min(self.load.window("auto") or in_step, in_step))
            reading = self.base.send(window, 0)
            yield reading
            self.load.read(reading.seconds)
            good = next((i for i in range(window) if self.random.random() < REGRETTED), window)
            tokens = min(good + 1, window)
            self._record(tokens, self.clock.now - began)
            kept, began = kept + tokens, self.clock.now
            if good < window:
                break
        if ahead:
            ahead.aborted = True
        return kept

    def _record(self, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self.load.record(tokens, seconds)


def rate_of(machine: str, state: State, at_once: int) -> float:
    """Tokens a second in a fixed state, after some time in which the runs spread over their phases."""
    simulation = Simulation(machine, load=Fixed)
    simulation.go(at_once, 2)  # alone
    simulation.load.state = state
    simulation.go(at_once, 2)
    return simulation.go(at_once, 12)


if __name__ == "__main__":
    rows = []
    for machine, at_once in itertools.product(MACHINES, AT_ONCE):
        rates = [rate_of(machine, state, at_once) for state in get_args(State)]
        simulation = Simulation(machine)
        shares = [f"{simulation.go(at_once, periods) / max(rates):.2f}" for periods in (8, 56)]
        chosen = simulation.load.level.best
        rows.append((machine, str(at_once), *(f"{rate:.0f}" for rate in rates), chosen, *shares))
    titles = ("machine", "at a time", *get_args(State), "chosen", "first 8 periods", "56 more")
    print(markdown_table(titles, rows))
