"""What a worker of a server does: it serves at a shared address, and hears of the runtimes by a pipe."""

import contextlib
import os
import signal
import sys
from socket import socket

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.processes import GRACE, Pipe, end_within
from specreason_sgl.serving.settings import Limits, Settings


def serve(pipe: Pipe, sock: socket, folder: str, settings: Settings, limits: Limits) -> None:
    """Serve until None comes, the other end has gone, or SIGTERM.

    Args:
        pipe: brings the names and arguments of `Front`'s methods, and takes True when requests are taken.
        sock: to listen at.
        folder: where the workers share their metrics.
        settings, limits: of this worker.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when prometheus_client is imported
    from specreason_sgl.serving.front import Front
    from specreason_sgl.serving.metrics import Metrics

    with Front(settings, limits, Metrics(folder)).serving(sock) as front:
        try:
            with contextlib.suppress(EOFError):
                while news := pipe.receive():
                    name, arguments = news
                    getattr(front, name)(*arguments)
                    if name == "open":
                        pipe.send(True)
        except SpecReasonError as error:  # a runtime that is just being restarted
            sys.exit(f"a worker process has to begin again: {error}")
        finally:
            end_within(GRACE)
