"""The connection to a server: HTTP with keep-alive and deadlines, and every failure as one of our errors."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import urllib3

from specreason_sgl.errors import (
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    ServerBusy,
    ServerError,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
)
from specreason_sgl.lang.answers import one_line

CONNECT_TIMEOUT = 5.0  # seconds
CONNECTIONS = 256  # kept alive; more are opened and closed
LEAST_TIMEOUT = 0.01  # seconds: urllib3 refuses a timeout of 0
JSON_TIMEOUT = 30.0  # seconds for a request that generates nothing
CHUNK = 1 << 20  # bytes
REFUSED = (401, 403)
BUSY = (429, 502, 503, 504)
TOO_LONG = ("context length", "longer than the model", "maximum allowed length")  # SGLang's words


class Deadline:
    """A moment on the clock of `time.monotonic`, and how many seconds were given until then."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never less than what can be a timeout."""
        return max(self.at - time.monotonic(), LEAST_TIMEOUT)

    def has_passed(self) -> bool:
        return time.monotonic() > self.at


class Http:
    """Sends requests to one server over connections that are kept alive; any number of threads may.

    Args:
        base_url: for example `http://127.0.0.1:30000`.
        api_key: the server's, if it has one.
        timeout: seconds for a request that generates nothing.

    Attributes:
        url: the server's, without a slash at its end.
        model_name: named in errors, where it is known.

    Raises:
        ConfigError: `base_url` is not the URL of a server.
    """

    def __init__(self, base_url: str, api_key: str | None = None, timeout: float = JSON_TIMEOUT):
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{base_url!r} is not a server's URL: it should look like http://127.0.0.1:30000"
            )
        self.url = base_url.rstrip("/")
        self.api_key = api_key
        self.model_name = "the model"
        self._timeout = min(timeout, JSON_TIMEOUT)
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        try:
            self._pool = urllib3.connection_from_url(self.url, maxsize=CONNECTIONS)
        except urllib3.exceptions.LocationValueError:
            raise ConfigError(f"{base_url!r} is not a server's URL: it names no host") from None
        self._pool.ConnectionCls = type("Connection", (_Connection, self._pool.ConnectionCls), {})
        self._path = urllib3.util.parse_url(self.url).path or ""

    def send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: bytes | None = None,
        wire: "Wire | None" = None,
    ) -> "Response":
        """Send a request, and return when the answer's headers are there.

        Args:
            wire: is told of the connection that the request is on.

        Raises:
            ServerUnreachable: nobody answers, or the connection broke.
            DeadlineExceeded: there was no answer in time.
        """
        timeout = deadline.remaining()
        _sending.wire = wire
        try:
            with self._errors(deadline):
                response = self._pool.urlopen(
                    method,
                    self._path + path,
                    body=body,
                    headers=self._headers,
                    retries=False,
                    assert_same_host=False,
                    preload_content=False,
                    timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT, timeout), read=timeout),
                )
        finally:
            _sending.wire = None
        return Response(self, response, deadline)

    def call(
        self, method: str, path: str, payload: Any = None, timeout: float | None = None
    ) -> tuple[int, bytes]:
        """Status and body of a small request. Raises as `send` does."""
        body = None if payload is None else json.dumps(payload).encode()
        response = self.send(method, path, Deadline(timeout or self._timeout), body)
        try:
            return response.status, response.read()
        finally:
            response.close(early=False)

    def json(self, method: str, path: str, payload: Any = None) -> Any:
        """The parsed answer of a small request. Raises as `send` and `parse` do."""
        return self.parse(*self.call(method, path, payload))

    def parse(self, status: int, body: bytes) -> Any:
        """The JSON value that a server answered with.

        Raises:
            ServerError: it answered with an error; see `refusal`.
            ServerFailed: the answer is not JSON.
        """
        self.check(status, body)
        if (answer := _load(body)) is None:
            excerpt = repr(body[:80].decode(errors="replace"))
            raise ServerFailed(f"{self.url} sent an answer that is not JSON: {excerpt}")
        return answer

    def check(self, status: int, body: bytes) -> None:
        """Raise the error that a server answered with, if its status is not 200."""
        if status != 200:
            raise self.refusal(status, _load(body) or body.decode(errors="replace"))

    def refusal(self, status: int, answer: Any) -> ServerError:
        """The error that a status and an answer, parsed or not, stand for."""
        message = answer
        while isinstance(message, dict):
            message = message.get("error") or message.get("message") or message.get("detail") or str(message)
        message = one_line(str(message or "no reason given"))
        if any(words in message for words in TOO_LONG):
            return self.too_long(message[:500])
        if status in REFUSED:
            return Unauthorized(f"{self.url} refuses the API key (status {status}); pass the right one")
        kind = ServerBusy if status in BUSY else ServerError if 400 <= status < 500 else ServerFailed
        what = "an error" if status == 200 else f"status {status}"
        return kind(f"{self.url} answered with {what}: {message[:500]}")

    def too_long(self, why: str) -> ContextLengthExceeded:
        """The error for a prompt that does not fit."""
        return ContextLengthExceeded(
            f"the prompt is longer than the context of {self.model_name} at {self.url}: {why}"
        )

    def close(self) -> None:
        self._pool.close()

    @contextlib.contextmanager
    def _errors(self, deadline: Deadline) -> Iterator[None]:
        """Raise urllib3's exceptions as this package's."""
        try:
            yield
        except (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.NewConnectionError) as error:
            raise ServerUnreachable(
                f"nobody answers at {self.url}; is the server running? ({_reason(error)})"
            ) from None
        except urllib3.exceptions.ReadTimeoutError:
            raise self._missed(deadline) from None
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnreachable(f"the connection to {self.url} broke ({_reason(error)})") from None

    def _missed(self, deadline: Deadline) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.url} did not answer within {max(deadline.seconds, 0):.3g} s; it may be overloaded, "
            "or the timeout too short for this machine"
        )


class Response:
    """An answer whose body is still to be read, by a deadline that no pause between two bytes extends."""

    def __init__(self, http: Http, response: urllib3.BaseHTTPResponse, deadline: Deadline):
        self.status = response.status
        self._http, self._response, self._deadline = http, response, deadline

    def read(self) -> bytes:
        """The whole body.

        Raises:
            ServerUnreachable: the connection broke.
            DeadlineExceeded: the body did not end in time.
        """
        return b"".join(self._chunks())

    def events(self) -> Iterator[bytes]:
        """The data of each server-sent event, up to the stream's end. Raises as `read` does."""
        buffer = b""
        for chunk in self._chunks():
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                if line.startswith(b"data: [DONE]"):
                    return
                if line.startswith(b"data:"):
                    yield line[5:]
        raise ServerUnreachable(
            f"{self._http.url} broke off in the middle of an answer; is it still running?"
        )

    def close(self, early: bool = True) -> None:
        """Give the connection back; `early`, with bytes unread, it cannot be used again and is closed."""
        if early:
            self._response.close()
        self._response.release_conn()

    def _chunks(self) -> Iterator[bytes]:
        while True:
            with self._http._errors(self._deadline):
                # The timeout that the request was sent with begins anew at each read.
                if sock := getattr(self._response.connection, "sock", None):
                    sock.settimeout(self._deadline.remaining())
                chunk = self._response.read1(CHUNK)
            if not chunk:
                return
            yield chunk
            if self._deadline.has_passed():
                raise self._http._missed(self._deadline)


class Wire:
    """The connection that one request is on, so that another thread can shut it down."""

    def __init__(self):
        self._connection: _Connection | None = None
        self._sock: socket.socket | None = None

    def shut_down(self) -> None:
        """End the connection, if the request is still on it: who waits for the answer gets an error at once,
        and the server sees that its client has gone."""
        with _wires:
            connection, sock = self._connection, self._sock
            if connection is not None and sock is not None and connection.wire is self:
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, which is not thread-safe

    def _is_on(self, connection: "_Connection") -> None:
        self._connection, self._sock = connection, connection.sock


class _Connection:
    """Mixed into urllib3's connections: notes which request each one carries."""

    sock: socket.socket | None
    wire: Wire | None = None  # the latest; the pool gives a connection to one request at a time

    def request(self, *args: Any, **settings: Any) -> None:
        wire = getattr(_sending, "wire", None)
        with _wires:
            self.wire = wire
        super().request(*args, **settings)  # type: ignore[misc]  # urllib3's connection
        if wire is not None:
            with _wires:
                wire._is_on(self)


_sending = threading.local()  # `wire`: of the request that this thread sends; urllib3 passes nothing on
_wires = threading.Lock()


def _load(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _reason(error: Exception) -> str:
    return str(error).rsplit(": ", 1)[-1]
