"""One connection: kept alive where the server keeps it, and each way in which an answer can end."""

import socket
import threading

import pytest

from specreason_sgl.errors import ConfigError, ServerUnreachable
from specreason_sgl.lang.connection import Address
from specreason_sgl.lang.http import Deadline, Http

HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = HEAD + b"Content-Length: 4\r\n\r\n"


@pytest.fixture
def serve():
    """Starts a server that answers each request on one connection after the other with given bytes; an empty
    one closes the connection. Gives its `Http`, and the list of what was asked on which connection."""
    listeners = []

    def start(*connections):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        asked = []

        def answer():
            for number, answers in enumerate(connections):
                client, _ = listener.accept()
                for reply in answers:
                    asked.append((number, client.recv(1 << 16)))
                    client.sendall(reply)
                client.close()

        threading.Thread(target=answer, daemon=True).start()
        return Http(f"http://127.0.0.1:{listener.getsockname()[1]}/base", "key"), asked

    yield start
    for listener in listeners:
        listener.close()


def test_a_request_says_what_a_server_needs(serve):
    http, asked = serve([WHOLE + b"true"])
    assert http.json("POST", "/path", [1]) is True
    head, body = asked[0][1].split(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /base/path HTTP/1.1",
        b"Host: " + http.url.removeprefix("http://").removesuffix("/base").encode(),
        b"Content-Type: application/json",
        b"Authorization: Bearer key",
        b"Content-Length: 3",
    ]
    assert body == b"[1]"


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (WHOLE + b"true", [0, 0]),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\ntr\r\n2\r\nue\r\n0\r\n\r\n", [0, 0]),
        (HEAD + b"Connection: close\r\nContent-Length: 4\r\n\r\ntrue", [0, 1]),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ntrue", [0, 1]),
    ],
)
def test_a_connection_is_used_again_where_the_server_keeps_it(serve, answer, connections):
    answers = [[answer] * connections.count(number) for number in sorted(set(connections))]
    http, asked = serve(*answers)
    assert [http.json("GET", "/") for _ in connections] == [True, True]
    assert [number for number, _ in asked] == connections


def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(serve):
    http, asked = serve([WHOLE + b"true"], [WHOLE + b"null"])
    assert http.json("GET", "/") is True
    connection = http._pool._idle[0]
    connection.sock.recv(1)  # the end
    assert http.call("GET", "/") == (200, b"null")
    assert [number for number, _ in asked] == [0, 1]


def test_an_answer_without_a_length_ends_with_its_connection(serve):
    http, _ = serve([HEAD + b"\r\ntrue"])
    assert http.json("GET", "/") is True


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed before the answer's end"),
        (HEAD, "closed before the answer's end"),
        (WHOLE + b"tr", "closed before the answer's end"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\ntr\r\n", "closed before the answer's end"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", "not HTTP"),
    ],
)
def test_a_broken_answer_is_one_clear_error(serve, answer, why):
    http, _ = serve([answer])
    with pytest.raises(ServerUnreachable, match=f"the connection to {http.url} broke .*{why}"):
        http.json("GET", "/")


def test_a_body_that_was_not_read_to_its_end_closes_the_connection(serve):
    http, asked = serve([WHOLE + b"tr"], [WHOLE + b"true"])
    http.send("GET", "/", Deadline(5)).close()
    assert http.json("GET", "/") is True
    assert [number for number, _ in asked] == [0, 1]


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("http://host", ("host", 80, False, ""), "host:80"),
        ("https://host/a/", ("host", 443, True, "/a"), "host:443"),
        ("http://[::1]:30000", ("::1", 30000, False, ""), "[::1]:30000"),
    ],
)
def test_addresses(url, address, name):
    assert Address.parse(url) == address
    assert Address.parse(url).name == name


@pytest.mark.parametrize("key", ["a\r\nHost: x", "ключ"])
def test_a_key_that_cannot_be_in_a_header_is_refused(key):
    with pytest.raises(ConfigError, match="printable ASCII"):
        Http("http://127.0.0.1:1", key)
