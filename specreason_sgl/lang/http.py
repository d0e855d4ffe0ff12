"""The connection to a server: HTTP with keep-alive and deadlines, and every failure as one of our errors."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec

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
from specreason_sgl.lang.connection import Address, Connection, Pool, Wire

CONNECT_TIMEOUT = 5.0  # seconds
LEAST_TIMEOUT = 0.01  # seconds: with a timeout of 0 a socket would not wait at all
JSON_TIMEOUT = 30.0  # seconds for a request that generates nothing
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
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("an API key must be printable ASCII characters")
        try:
            address = Address.parse(self.url)
        except ValueError as error:
            raise ConfigError(f"{base_url!r} is not a server's URL: {error}") from None
        self._pool = Pool(address)
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._headers = f"Host: {address.name}\r\nContent-Type: application/json\r\n{key}Content-Length: "

    def send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: bytes = b"",
        wire: Wire | None = None,
    ) -> "Response":
        """Send a request, and return when the answer's headers are there.

        Args:
            wire: is told of the connection that the request is on.

        Raises:
            ServerUnreachable: nobody answers, or the connection broke.
            DeadlineExceeded: there was no answer in time.
        """
        head = f"{method} {self._pool.address.path}{path} HTTP/1.1\r\n{self._headers}{len(body)}\r\n\r\n"
        try:
            connection = self._pool.take(min(CONNECT_TIMEOUT, deadline.remaining()))
        except OSError as error:
            raise ServerUnreachable(
                f"nobody answers at {self.url}; is the server running? ({_reason(error)})"
            ) from None
        response = Response(self, connection, deadline, wire)
        try:
            with self._errors(deadline):
                connection.send(head.encode() + body, deadline.remaining())
                while connection.status is None:
                    connection.receive(deadline.remaining())
        except BaseException:
            response.close()
            raise
        return response

    def call(
        self, method: str, path: str, payload: Any = None, timeout: float | None = None
    ) -> tuple[int, bytes]:
        """Status and body of a small request. Raises as `send` does."""
        body = b"" if payload is None else msgspec.json.encode(payload)
        response = self.send(method, path, Deadline(timeout or self._timeout), body)
        try:
            return response.status, response.read()
        finally:
            response.close()

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
        """Raise a socket's errors as this package's."""
        try:
            yield
        except TimeoutError:
            raise self._missed(deadline) from None
        except OSError as error:
            raise ServerUnreachable(f"the connection to {self.url} broke ({_reason(error)})") from None

    def _missed(self, deadline: Deadline) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.url} did not answer within {max(deadline.seconds, 0):.3g} s; it may be overloaded, "
            "or the timeout too short for this machine"
        )


class Response:
    """An answer whose body is still to be read, by a deadline that no pause between two bytes extends."""

    def __init__(self, http: Http, connection: Connection, deadline: Deadline, wire: Wire | None):
        self._http, self._connection, self._deadline = http, connection, deadline
        self._wire = wire or Wire()
        self._wire.put_on(connection)
        self._is_closed = False

    @property
    def status(self) -> int:
        return self._connection.status or 0

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

    def close(self) -> None:
        """Give the connection back, once; with bytes unread it cannot be used again and is closed."""
        if not self._is_closed:
            self._is_closed = True
            self._wire.put_on(None)
            self._http._pool.give_back(self._connection)

    def _chunks(self) -> Iterator[bytes]:
        connection, deadline = self._connection, self._deadline
        while True:
            if body := connection.take_body():
                yield body
            if connection.is_complete:
                self.close()
                return
            if deadline.has_passed():
                raise self._http._missed(deadline)
            with self._http._errors(deadline):
                connection.receive(deadline.remaining())


def _load(body: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:  # half surrogates and NaN, which Python's own module reads
            return json.loads(body)
    return None


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
