"""The connection: kept alive, bounded by deadlines, and each failure as one clear error."""

import json
import warnings

import pytest

from specreason_sgl import Endpoint
from specreason_sgl.errors import (
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    ServerError,
    ServerUnreachable,
    Unauthorized,
)
from tests.support.asking import ask, run
from tests.support.scripted import answer, part_of
from tests.support.waiting import ended, wait_until


def test_connections_are_kept_alive(scripted, endpoint):
    for _ in range(5):
        run(endpoint)
    assert scripted.connections == 1


def test_a_missed_deadline_says_so_and_aborts_the_request(scripted):
    scripted.on_generate = scripted.hang
    with Endpoint(scripted.url, timeout=2.0) as endpoint:
        state = run(endpoint)
        with pytest.raises(DeadlineExceeded, match=rf"{scripted.url} did not answer within 2 s"):
            state["a"]
        wait_until(lambda: scripted.aborted() == [scripted.generated()[0]["rid"]])
        assert endpoint.in_flight() == 0


def test_a_server_that_drips_bytes_misses_the_deadline_too(scripted):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not scripted.released.wait(0.05):
            handler.wfile.write(b" ")

    scripted.on_generate = lambda payload: drip
    with Endpoint(scripted.url, timeout=0.3) as endpoint, pytest.raises(DeadlineExceeded):
        run(endpoint)["a"]


def test_a_stream_that_stalls_does_not_get_the_time_twice(scripted):
    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        scripted.released.wait(0.8)
        handler.wfile.write(b"data: " + json.dumps(part_of(answer("Hello"), "Hel")).encode() + b"\n\n")
        scripted.released.wait(0.7)  # in all too late, unless the first part began the time anew
        handler.wfile.write(b"data: " + json.dumps(answer("Hello")).encode() + b"\n\ndata: [DONE]\n\n")
        scripted.released.wait(20)

    scripted.on_generate = lambda payload: stall
    with Endpoint(scripted.url, timeout=1.0) as endpoint, pytest.raises(DeadlineExceeded):
        ended(ask.run(backend=endpoint, stream=True))["a"]


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        ((500, b'{"error": {"message": "boom"}}'), ServerError, "status 500: boom"),
        ((503, b"busy"), ServerError, "status 503: busy"),
        ((401, b'{"error": "Unauthorized"}'), Unauthorized, "refuses the API key"),
        ((200, b"<html>"), ServerError, "not JSON: '<html>'"),
        ((200, b"[1]"), ServerError, "not an answer"),
        ((200, b'{"text": "x"}'), ServerError, "not an answer"),
        (
            (400, b'{"error": {"message": "longer than the model\'s context length (32 tokens)"}}'),
            ContextLengthExceeded,
            "longer than the context of scripted",
        ),
    ],
)
def test_what_a_server_gets_wrong_is_one_clear_error(scripted, endpoint, reply, error, says):
    scripted.on_generate = lambda payload: reply
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = run(endpoint)
        with pytest.raises(error) as raised:
            state["a"]
    assert says in str(raised.value)
    assert scripted.url in str(raised.value)
    assert "\n" not in str(raised.value)
    assert isinstance(state.error(), error)
    with pytest.raises(error):
        state.get_meta_info("a")


def test_nobody_there():
    with pytest.raises(ServerUnreachable, match="is the server running"):
        Endpoint("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["localhost:30000", "", "ftp://x", "http://"])
def test_what_is_not_a_url(url):
    with pytest.raises((ConfigError, ServerUnreachable)):
        Endpoint(url)
