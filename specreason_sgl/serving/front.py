"""`Front`: the HTTP server of a pair in this process, and what it is told of the runtimes."""

import gc
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import replace
from socket import socket
from typing import TYPE_CHECKING

from specreason_sgl.runtime.keep import ServerState
from specreason_sgl.serving.app import Server
from specreason_sgl.serving.health import Health
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.service import Service
from specreason_sgl.serving.settings import Limits, Settings

if TYPE_CHECKING:  # importing sglang takes seconds, in which clients are told that the runtimes are starting
    from specreason_sgl.lang.endpoint import Endpoint


class Front:
    """Serves a pair from this process. Until `open`, requests are refused."""

    def __init__(self, settings: Settings, limits: Limits, metrics: Metrics):
        self._health = Health()
        self._service = Service(
            metrics, max_running=limits.running, max_queue=limits.waiting, timeout=limits.timeout
        )
        self._server = Server(self._service, replace(settings, health=self._health))
        self._running: Future[None] = Future()

    @contextmanager
    def serving(self, sock: socket) -> Iterator["Front"]:
        """Serve at the socket's address to the end of the block."""
        with self._server.in_background(sock) as self._running:
            yield self

    def is_waiting(self, line: str) -> None:
        """The runtimes are starting; the line says what is waited for."""
        self._health.is_waiting(line)

    def open(
        self, draft: "Endpoint", base: "Endpoint", states: Mapping[str, ServerState] | None = None
    ) -> None:
        """Take requests, on these runtimes, which are asked how they are if nobody reports it."""
        self._service.open(draft, base)
        gc.freeze()  # what was imported is not searched for garbage: 0.3 s in which no request goes on
        if states:
            self.report(states)
        else:
            self._health.ask(draft, base)

    def report(self, states: Mapping[str, ServerState]) -> None:
        """How the runtimes are now."""
        self._health.report(states)
        self._service.metrics.report(states)

    def has_ended(self, within: float) -> bool:
        """Wait some seconds for the end of the server; raises what ended it."""
        wait([self._running], within)
        return self._running.done() and self._running.result() is None
