"""Keeping servers running: one that ends, or does not answer any more, is started again on its port.

    with launch_pair(spec) as pair, Keeper([pair.draft, pair.base]) as keeper:
        keeper.snapshot()["base"].state

A server that is started again is the same `Server` object, so `launch_pair` ends it at the end of its block.
"""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime.decode import flag_value
from specreason_sgl.runtime.launch import START_TIMEOUT, Server

CHECK_TIMEOUT = 30.0  # seconds; above the 20 after which SGLang's /health says 503
POLL = 0.2  # seconds between looks at the process


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for; all in seconds.

    Attributes:
        start: from its start until it must be healthy.
        hang: without a 200 from `/health` it counts as hung. SGLang's `/health` passes through the scheduler,
            which says nothing while one forward pass runs, and on a CPU a chunk of a long prefill takes
            minutes. SGLang itself gives up on a pass after 300 s (`--watchdog-timeout`, which raises this
            limit, too): a shorter limit would end servers that are at work.
        check: between two checks of a healthy server, each of which costs an idle one a token.
        first_wait, longest_wait: before a restart; doubled from the one to the other.
        steady: healthy for so long, it begins with `first_wait` again.
    """

    start: float = START_TIMEOUT
    hang: float = 360.0
    check: float = 10.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    steady: float = 60.0


@dataclass(frozen=True)
class ServerState:
    """How one server is.

    Attributes:
        state: `starting` until it is healthy for the first time; `restarting` from its end until it is again.
        since: when this state began, in seconds since the epoch.
        restarts: how often it was started again.
        error: why it ended last, in a line; empty if it never did.
    """

    state: Literal["starting", "ready", "restarting"]
    since: float
    restarts: int = 0
    error: str = ""


class Keeper:
    """Watches servers, each from a thread, from `start()` to `stop()` (or in a `with` block).

    `stop()` starts nothing and ends nothing: the servers belong to who made them, and outlive it.
    """

    def __init__(self, servers: Sequence[Server], patience: Patience = Patience()):
        # Servers that share a GPU start one after the other: each measures what the other has left.
        turn = threading.Lock() if any(one.spec.share for one in servers) else contextlib.nullcontext()
        self._watches = [_Watch(one, patience, turn) for one in servers]

    def start(self) -> None:
        for watch in self._watches:
            watch.thread.start()

    def stop(self) -> None:
        """After this no server is started any more. Returns within about a second."""
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            watch.thread.join(0.5)  # one that waits for an answer goes on to, and then ends

    def __enter__(self) -> "Keeper":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def snapshot(self) -> dict[str, ServerState]:
        """The servers' states by role, from any thread."""
        return {watch.server.spec.role: watch.state for watch in self._watches}


class _Watch:
    def __init__(self, server: Server, patience: Patience, turn: contextlib.AbstractContextManager):
        self.server, self.patience, self.turn = server, patience, turn
        own = flag_value(server.spec.args, ["--watchdog-timeout"])
        self.hang = max(patience.hang, float(own) + 60 if own else 0)
        self.state = ServerState("ready" if server.ready else "starting", time.time())
        self.thread = threading.Thread(target=self._run, name=f"keep-{server.spec.role}", daemon=True)
        self._stopping = threading.Event()
        self._starting = threading.Lock()  # held while a process is started, and to forbid that

    def stop(self) -> None:
        with self._starting:
            self._stopping.set()

    def _run(self) -> None:
        error = "" if self.server.ready else self._until_ready()
        wait = self.patience.first_wait
        while not self._stopping.is_set():
            if not error:
                ready_at = time.monotonic()
                error = self._until_dead()
                if time.monotonic() - ready_at >= self.patience.steady:
                    wait = self.patience.first_wait
            if self._stopping.is_set():
                return
            self._change("restarting", error=error)
            self.server.stop()  # a hung one; and what a dead one left
            if self._stopping.wait(wait):
                return
            wait = min(2 * wait, self.patience.longest_wait)
            with self.turn:
                error = self._start() or self._until_ready()

    def _start(self) -> str:
        with self._starting:
            if self._stopping.is_set():
                return ""
            try:
                self.server.start()
            except (LaunchError, OSError) as error:
                return str(error)
        self.state = replace(self.state, restarts=self.state.restarts + 1)
        return ""

    def _until_ready(self) -> str:
        """Wait until it is healthy or stopping; else how it failed."""
        deadline = time.monotonic() + self.patience.start
        while not self._stopping.wait(POLL):
            if how := self.server.ended():
                return how
            if self._healthy():
                self._change("ready")
                return ""
            if time.monotonic() > deadline:
                return f"was not ready after {self.patience.start:.0f} s"
        return ""

    def _until_dead(self) -> str:
        """Wait until it ends, hangs or is stopping; how."""
        healthy_at = check_at = time.monotonic()
        while not self._stopping.wait(POLL):
            if how := self.server.ended():
                return how
            if time.monotonic() < check_at:
                continue
            if self._healthy():
                healthy_at = time.monotonic()
                check_at = healthy_at + self.patience.check
            elif time.monotonic() - healthy_at > self.hang:
                return f"did not answer /health for {self.hang:.0f} s"
        return ""

    def _healthy(self) -> bool:
        try:
            return self.server.healthy(CHECK_TIMEOUT)
        except LaunchError:  # it has just ended, which the next look tells
            return False

    def _change(self, state: str, **changes) -> None:
        self.state = replace(self.state, state=state, since=time.time(), **changes)
