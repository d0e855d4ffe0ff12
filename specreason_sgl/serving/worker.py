"""What a worker of a server does: it serves at a shared address, and hears of the runtimes by a pipe."""

import contextlib
import os
import signal
import sys
from socket import socket
from typing import Any

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.processes import GRACE, Pipe, end_within
from specreason_sgl.serving.settings import Limits, Settings

News = tuple[str, tuple[Any, ...]]  # a method of `Front`, and its arguments


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
    try:
        with contextlib.suppress(EOFError):
            if (known := pipe.receive()) is not None:
                _serve(pipe, known, sock, folder, settings, limits)
    except SpecReasonError as error:  # a runtime that is just being restarted
        sys.exit(f"a worker process has to begin again: {error}")


def _serve(
    pipe: Pipe, known: list[News], sock: socket, folder: str, settings: Settings, limits: Limits
) -> None:
    from specreason_sgl.serving.front import Front
    from specreason_sgl.serving.metrics import Metrics

    front = Front(settings, limits, Metrics(folder))

    def hear(name: str, arguments: tuple[Any, ...]) -> None:
        getattr(front, name)(*arguments)
        if name == "open":
            pipe.send(True)

    for news in known:  # before it serves: who replaces another worker refuses no request
        hear(*news)
    with front.serving(sock):
        try:
            while news := pipe.receive():
                hear(*news)
        finally:
            end_within(GRACE)
