"""`Workers`: a server of several processes at one address. A process that ends is replaced."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from socket import socket
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prometheus_client.multiprocess import mark_process_dead

from specreason_sgl.processes import Worker
from specreason_sgl.runtime.keep import ServerState
from specreason_sgl.serving.settings import Limits, Settings
from specreason_sgl.serving.worker import serve

if TYPE_CHECKING:
    from specreason_sgl.lang.endpoint import Endpoint

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds before a worker is replaced; doubled until one takes requests
POLL = 0.1  # seconds
log = logging.getLogger(__name__)


class Workers:
    """What `Front` is in one process, in a process for each of some sockets.

    Each has its share of the limits, so that all together keep within them, and connections of its own to the
    runtimes. What a worker has to know comes by its pipe, the runtimes' keys included.

    Args:
        sockets: of `listen.bind_shared`. They stay open while a worker is replaced, so that its clients
            wait, and are closed in the end.
        settings, limits: of all together.
    """

    def __init__(self, sockets: Sequence[socket], settings: Settings, limits: Limits):
        self._sockets, self._settings = sockets, settings
        self._limits = [limits.share(number, len(sockets)) for number in range(len(sockets))]
        self._are_open = [threading.Event() for _ in sockets]
        self._news: dict[str, tuple[Any, ...]] = {}  # the latest of each kind, for a new worker
        self._workers: dict[int, Worker] = {}
        self._ending = threading.Event()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def serving(self) -> Iterator["Workers"]:
        """Serve to the end of the block."""
        with TemporaryDirectory(prefix="specreason-sgl-", ignore_cleanup_errors=True) as folder:
            for number in range(len(self._sockets)):
                threading.Thread(target=self._keep, args=(number, folder), daemon=True).start()
            try:
                yield self
            finally:
                self._end()
                while self._workers:
                    time.sleep(POLL)

    def is_waiting(self, line: str) -> None:
        """As `Front.is_waiting`."""
        self._tell("is_waiting", line)

    def open(
        self, draft: "Endpoint", base: "Endpoint", states: Mapping[str, ServerState] | None = None
    ) -> None:
        """As `Front.open`; returns when each worker takes requests."""
        self._tell("open", draft, base, states)
        for is_open in self._are_open:
            while not is_open.wait(POLL):
                pass

    def report(self, states: Mapping[str, ServerState]) -> None:
        """As `Front.report`."""
        if self._news.get("report") != (states,):
            self._tell("report", states)

    def has_ended(self, within: float) -> bool:
        """Wait some seconds. Workers are replaced, so this server does not end by itself."""
        return self._ending.wait(within)

    def _tell(self, name: str, *arguments: Any) -> None:
        with self._lock:
            self._news[name] = arguments
            for worker in self._workers.values():
                worker.pipe.send((name, arguments))

    def _end(self) -> None:
        with self._lock:
            self._ending.set()
            for worker in self._workers.values():
                worker.end()
        for sock in self._sockets:
            sock.close()

    def _keep(self, number: int, folder: str) -> None:
        """Keep a worker in its place."""
        wait = FIRST_WAIT
        while not self._ending.is_set():
            self._are_open[number].clear()
            try:
                what = self._run(number, folder)
            except Exception as error:  # such as too many processes; else nobody would try again
                what = f"a worker process did not start: {error!r}"
            if self._are_open[number].is_set():
                wait = FIRST_WAIT
            if not self._ending.is_set():
                log.warning("%s; another one takes its place in %g s", what, wait)
            self._ending.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _run(self, number: int, folder: str) -> str:
        """Run a worker until it ends; returns how it ended."""
        worker = Worker(serve, self._sockets[number], folder, self._settings, self._limits[number])
        with self._lock:
            if self._ending.is_set():
                worker.end()
            else:
                self._workers[number] = worker
                worker.pipe.send(list(self._news.items()))
        with contextlib.suppress(EOFError):
            while worker.pipe.receive():
                self._are_open[number].set()
        status = worker.join()
        mark_process_dead(worker.pid, folder)
        with self._lock:
            self._workers.pop(number, None)
        return f"worker process {worker.pid} ended with status {status}"
