"""HTTP connections that another thread can shut down while a request is on them."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Protocol

import urllib3

_sending = threading.local()  # `request`: what this thread sends
_lock = threading.Lock()


class Carried(Protocol):
    """A request that may be on a connection."""

    connection: "_Connection | None"
    sock: socket.socket | None


class _Connection:
    request_on_it: Carried | None = None  # the latest; the pool gives a connection to one at a time

    def request(self, *args, **settings):
        request = getattr(_sending, "request", None)
        with _lock:
            self.request_on_it = request
        super().request(*args, **settings)
        if request is not None:
            with _lock:
                request.connection, request.sock = self, self.sock


def make_pool(url: str, maxsize: int) -> urllib3.HTTPConnectionPool:
    """A pool of connections to a server, `maxsize` of them kept alive.

    Raises:
        urllib3.exceptions.LocationValueError: the URL names no host.
    """
    pool = urllib3.connection_from_url(url, maxsize=maxsize)
    pool.ConnectionCls = type("Connection", (_Connection, pool.ConnectionCls), {})
    return pool


@contextlib.contextmanager
def carrying(request: Carried | None) -> Iterator[None]:
    """What this thread sends meanwhile belongs to a request."""
    _sending.request = request
    try:
        yield
    finally:
        _sending.request = None


def shut_down(request: Carried) -> None:
    """End the connection that a request is on, if any: whoever waits for the answer gets an error at once,
    and the server sees that its client has gone."""
    with _lock:
        connection, sock = request.connection, request.sock
        if connection is not None and sock is not None and connection.request_on_it is request:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, which is not safe for two threads
