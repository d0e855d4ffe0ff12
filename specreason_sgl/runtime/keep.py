"""Keeping servers running: one that ends or hangs is restarted on its port.

    with launch_pair(spec) as pair, Keeper([pair.draft, pair.base]) as keeper:
        keeper.snapshot()["base"].state

A restarted server is the same `Server` object, so `launch_pair` still stops it at the end of its block.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime.flags import flag_value
from specreason_sgl.runtime.launch import START_TIMEOUT
from specreason_sgl.runtime.server import Server

CHECK_TIMEOUT = 30.0  # seconds; SGLang's /health itself gives up after 20 and answers 503
POLL = 0.2  # seconds between checks that the process is alive
WATCHDOG_MARGIN = 60.0  # seconds that SGLang gets to end itself after its own watchdog fires

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestartPolicy:
    """When a server counts as ended, and how soon it is started again; all in seconds.

    Attributes:
        start: from its start until it must be healthy.
        hang: a server without a 200 from `/health` for this long counts as hung. SGLang's `/health` passes
            through the scheduler, which is silent during a forward pass, and on a CPU one chunk of a long
            prefill takes minutes. SGLang's own watchdog gives up on a pass after 300 s; a shorter limit here
            would kill servers that are busy. `--watchdog-timeout` raises this limit, too (`hang_limit`).
        check: between two checks of a healthy server; each costs an idle one a token.
        first_wait, longest_wait: before a restart; the wait doubles from the first to the longest.
        steady: a server that was healthy for this long starts over with `first_wait`.
    """

    start: float = START_TIMEOUT
    hang: float = 360.0
    check: float = 10.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    steady: float = 60.0


@dataclass(frozen=True)
class ServerState:
    """The state of one server.

    Attributes:
        state: `starting` until it is first healthy; `restarting` from its end until it is healthy again;
            `unwatched` if the thread that watches it has died.
        since: when this state began, in seconds since the epoch.
        restarts: how often it was restarted.
        error: why it last ended, in one line; empty if it never did.
    """

    state: Literal["starting", "ready", "restarting", "unwatched"]
    since: float
    restarts: int = 0
    error: str = ""


def hang_limit(args: Sequence[str], policy: RestartPolicy) -> float:
    """Seconds without health after which a server with these flags counts as hung."""
    watchdog = flag_value(args, ["--watchdog-timeout"])
    return max(policy.hang, float(watchdog) + WATCHDOG_MARGIN) if watchdog else policy.hang


class Keeper:
    """Watches servers, one thread each, from `start()` to `stop()` (or in a `with` block).

    `stop()` neither starts nor ends a server: they belong to whoever launched them, and outlive the keeper.
    """

    def __init__(self, servers: Sequence[Server], policy: RestartPolicy = RestartPolicy()):
        # Servers that share a GPU start one after the other: each measures what the other left free.
        shares_gpu = any(server.spec.share for server in servers)
        turn = threading.Lock() if shares_gpu else contextlib.nullcontext()
        self._watches = [_Watch(server, policy, turn) for server in servers]

    def start(self) -> None:
        for watch in self._watches:
            watch.thread.start()

    def stop(self) -> None:
        """After this no server is restarted. Returns within about a second."""
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            watch.thread.join(0.5)  # a thread that waits for an answer ends when it has one

    def __enter__(self) -> "Keeper":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def snapshot(self) -> dict[str, ServerState]:
        """Each server's state now, by role."""
        return {watch.server.spec.role: watch.snapshot() for watch in self._watches}


class _Watch:
    """One server and the thread that watches it. Methods that wait return why the server ended, or ""."""

    def __init__(self, server: Server, policy: RestartPolicy, turn: contextlib.AbstractContextManager):
        self.server, self.policy, self.turn = server, policy, turn
        self.hang = hang_limit(server.spec.args, policy)
        self.state = ServerState("ready" if server.ready else "starting", time.time())
        self.thread = threading.Thread(target=self._run, name=f"keep-{server.spec.role}", daemon=True)
        self._stopping = threading.Event()
        self._starting = threading.Lock()  # held while a process is started, and by stop(), which forbids it

    def stop(self) -> None:
        with self._starting:
            self._stopping.set()

    def snapshot(self) -> ServerState:
        has_died = (
            self.thread.ident is not None and not self.thread.is_alive() and not self._stopping.is_set()
        )
        return replace(self.state, state="unwatched") if has_died else self.state

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._keep()
            except Exception:  # else nobody would start the server again
                log.exception("watching the %s server failed; it goes on", self.server.spec.role)
                self._stopping.wait(self.policy.first_wait)

    def _keep(self) -> None:
        error = "" if self.server.ready else self._until_ready()
        wait = self.policy.first_wait
        while not self._stopping.is_set():
            if not error:
                ready_at = time.monotonic()
                error = self._until_ended()
                if time.monotonic() - ready_at >= self.policy.steady:
                    wait = self.policy.first_wait
            if self._stopping.is_set():
                return
            self._change("restarting", error=error)
            log.warning("the %s server %s; starting it again in %g s", self.server.spec.role, error, wait)
            self.server.stop()  # also clears up after a process that ended by itself
            if self._stopping.wait(wait):
                return
            wait = min(2 * wait, self.policy.longest_wait)
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
        deadline = time.monotonic() + self.policy.start
        while not self._stopping.wait(POLL):
            if reason := self.server.ended():
                return reason
            if self.server.healthy(CHECK_TIMEOUT):
                self._change("ready")
                return ""
            if time.monotonic() > deadline:
                return f"was not ready after {self.policy.start:.0f} s"
        return ""

    def _until_ended(self) -> str:
        healthy_at = check_at = time.monotonic()
        while not self._stopping.wait(POLL):
            if reason := self.server.ended():
                return reason
            if time.monotonic() < check_at:
                continue
            if self.server.healthy(CHECK_TIMEOUT):
                healthy_at = time.monotonic()
                check_at = healthy_at + self.policy.check
            elif time.monotonic() - healthy_at > self.hang:
                return f"did not answer /health for {self.hang:.0f} s"
        return ""

    def _change(self, state: str, **changes) -> None:
        self.state = replace(self.state, state=state, since=time.time(), **changes)
