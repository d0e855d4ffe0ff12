"""Worker processes. Each has a pipe to this process, and ends when this process does, however that ends.

They are forked from a server process that has imported what they need: a worker starts in a moment, and
shares the memory of SGLang's and PyTorch's code with the others.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

GRACE = 10.0  # seconds that a worker has to end by itself
# The second is what loads a tokenizer: 1 s and 120 MB.
PRELOAD = ["specreason_sgl.reasoning.solve", "sglang.srt.utils.hf_transformers_utils"]


class Worker:
    """A process that runs `work(pipe, *arguments)`, where `pipe` is a `Pipe`.

    What Python's multiprocessing asks for holds here, too: a script that uses processes must start under
    `if __name__ == "__main__"`, and arguments must be picklable.

    Attributes:
        pipe: this process's end. `end` tells the worker by None that it has to end; if this process has gone,
            its `receive` raises `EOFError`.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        connection, theirs = context.Pipe()
        self.pipe = Pipe(connection)
        self._process = context.Process(target=_run, args=(theirs, work, *arguments), daemon=True)
        self._kill = _timer(2 * GRACE, self._process.kill)
        with theirs:
            self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def end(self) -> None:
        """Tell the worker to end, and kill it if that takes too long; does not wait."""
        self._kill.start()
        self.pipe.send(None)

    def join(self) -> int:
        """Wait until the worker has ended. Returns its exit status, or the signal that ended it, negative."""
        self._process.join()
        self._kill.cancel()
        return self._process.exitcode or 0


class Pipe:
    """An end of a connection that any number of threads may send to."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        """Send a message; it is lost if nobody is at the other end. `receive` says so there."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(message)

    def receive(self) -> Any:
        """Wait for a message.

        Raises:
            EOFError: the other end has gone.
        """
        try:
            return self._connection.recv()
        except OSError:  # it went while it was sending
            raise EOFError from None


def _run(connection: Connection, work: Callable[..., None], *arguments: Any) -> None:
    gc.freeze()  # what is shared is not searched for garbage, which would copy it and take 0.3 s each time
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    work(Pipe(connection), *arguments)


def end_within(seconds: float) -> None:
    """End this process after some time, whatever it then waits for."""
    _timer(seconds, lambda: os._exit(1)).start()


def _timer(seconds: float, work: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    return timer
