"""What a worker of a server does: it serves at a shared address, and hears of the runtimes by a pipe."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from socket import socket
from typing import Any

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.processes import GRACE, Pipe, end_within
from specreason_sgl.serving.settings import Limits, Settings


def serve(pipe: Pipe, sock: socket, folder: str, settings: Settings, limits: Limits) -> None:
    """Serve until None comes, the other end has gone, or SIGTERM.

    Args:
        pipe: brings what `Front` has to be told, as names and arguments of its methods: first a list of all
            so far, then one at a time. Takes True when the worker takes requests.
        sock: to listen at.
        folder: where the workers share their metrics.
        settings, limits: of this worker.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when prometheus_client is imported
    from specreason_sgl.serving.front import Front
    from specreason_sgl.serving.metrics import Metrics

    front = Front(settings, limits, Metrics(folder))

    def hear(name: str, arguments: tuple[Any, ...]) -> None:
        getattr(front, name)(*arguments)
        if name == "open":
            pipe.send(True)

    try:
        with contextlib.suppress(EOFError):
            for news in pipe.receive():  # all so far: who replaces another worker refuses no request
                hear(*news)
            with front.serving(sock), _ending():
                while news := pipe.receive():
                    hear(*news)
    except SpecReasonError as error:  # a runtime that is just being restarted
        sys.exit(f"a worker process has to begin again: {error}")


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """However the block ends, the process does soon after."""
    try:
        yield
    finally:
        end_within(GRACE)
