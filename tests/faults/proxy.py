"""A TCP proxy that spoils the answer to a chosen request."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

FIRST = 20  # bytes of a body that come before it is spoiled
PAUSE = 0.1  # seconds
RESET = struct.pack("ii", 1, 0)  # linger for 0 s: closing sends a reset


class Link:
    """A client's connection, and the one behind it. `fault` is called with what comes of the answer; it
    passes on what it likes.

    Whoever closes it only shuts its sockets down; they are freed when both directions have ended. A socket
    that is freed while another thread is about to use it has its number given to the next connection, which
    that thread would then read from, or end.
    """

    def __init__(self, client: socket.socket, server: socket.socket):
        self.client, self.server = client, server
        self.request, self.answered = b"", False
        self.fault: Callable[[Link, bytes], None] | None = None
        self.head, self.passed = True, 0  # whether the body has not begun yet; bytes of it that came
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._up, self._down = (threading.Thread(target=pump, daemon=True) for pump in (self.up, self.down))

    def start(self) -> None:
        self._up.start()
        self._down.start()

    def join(self) -> None:
        """Wait until the sockets are freed."""
        self._down.join()

    def up(self) -> None:
        while data := self._receive(self.client):
            if self.answered:
                self.request, self.answered, self.fault = b"", False, None
                self.head, self.passed = True, 0
            self.request += data
            with contextlib.suppress(OSError):
                self.server.sendall(data)
        self.close()

    def down(self) -> None:
        while data := self._receive(self.server):
            self.answered = True
            if fault := self.fault:
                fault(self, data)
            else:
                self.send(data)
        self.close()
        self._up.join()
        self.client.close()
        self.server.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.client.sendall(data)

    def body_from(self, data: bytes) -> tuple[bytes, bytes]:
        """What still passes as it is, the head and `FIRST` bytes of the body, and the rest."""
        body = 0
        if self.head:
            body = data.find(b"\r\n\r\n") + 4
            if body < 4:
                return data, b""
            self.head = False
        at = body + max(FIRST - self.passed, 0)
        self.passed += len(data) - body
        return data[:at], data[at:]

    def close(self, reset: bool = False) -> None:
        with self._lock:
            if self.closed.is_set():
                return
            self.closed.set()
            for sock in (self.client, self.server):
                with contextlib.suppress(OSError):  # the other end has gone
                    if reset:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    sock.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)  # wakes who reads

    @staticmethod
    def _receive(sock: socket.socket) -> bytes:
        try:
            return sock.recv(1 << 16)
        except OSError:
            return b""


def resets(link: Link, data: bytes) -> None:
    link.close(reset=True)


def cuts(link: Link, data: bytes) -> None:
    first, rest = link.body_from(data)
    link.send(first)
    if rest:
        link.close()


def garbles(link: Link, data: bytes) -> None:
    first, rest = link.body_from(data)
    link.send(first + bytes(byte ^ 0x80 for byte in rest))


def delays(link: Link, data: bytes) -> None:
    link.closed.wait(PAUSE)
    link.fault = None
    link.send(data)


def drips(link: Link, data: bytes) -> None:
    for at in range(0, len(data), 32):
        link.closed.wait(PAUSE / 50)
        link.send(data[at : at + 32])


def hangs(link: Link, data: bytes) -> None:
    link.closed.wait()


def stalls(link: Link, data: bytes) -> None:
    first, rest = link.body_from(data)
    link.send(first)
    if rest:
        link.closed.wait()


class Proxy:
    """In front of the server at a port of this machine."""

    def __init__(self, port: int):
        self._target = ("127.0.0.1", port)
        self._socket = _bound(0)
        address = self._socket.getsockname()
        self._socket.close()
        self._socket = _bound(address[1])  # a port that was asked for stays ours while nobody listens
        self.url = f"http://127.0.0.1:{address[1]}"
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._ended = False
        self._listen()

    def arm(self, request: str, fault: Callable[[Link, bytes], None], midway: bool = False) -> None:
        """Spoil the answer to the request that has this text in it, or, `midway`, what is still to come of
        an answer that has begun."""
        with self._lock:
            self._links = [link for link in self._links if not link.closed.is_set()]
            (link,) = [link for link in self._links if request.encode() in link.request]
        if midway:
            link.head, link.passed = False, FIRST
        link.fault = fault

    def refuse(self, seconds: float | None = None) -> None:
        """Break all connections and refuse new ones, for so long or until `accept`."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.close(reset=True)
        for link in links:
            link.join()
        if seconds is not None:
            threading.Timer(seconds, self.accept).start()

    def accept(self) -> None:
        """Take connections again, where that was refused."""
        with self._lock:
            if not self._listener.is_alive() and not self._ended:
                self._listen()

    def close(self) -> None:
        self._ended = True
        if self._listener.is_alive():
            self.refuse()
        self._socket.close()

    def _listen(self) -> None:
        self._socket.listen(64)
        self._listener = threading.Thread(target=self._accept_all, daemon=True)
        self._listener.start()

    def _accept_all(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # it listens no longer
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, server)
            with self._lock:
                self._links.append(link)
            link.start()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock
