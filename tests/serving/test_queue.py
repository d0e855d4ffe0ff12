"""The queue, and what a client gets while it waits."""

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from specreason_sgl.serving import chat, connections, listen
from specreason_sgl.serving.slots import QueueFull, Slots
from tests.support.serving import serving
from tests.support.waiting import wait_until
from tests.support.writers import steps_of

ASK = {"model": "two", "messages": [{"role": "user", "content": "q"}]}


def post(url, **more):
    return urllib3.request(
        "POST", f"{url}/v1/chat/completions", json={**ASK, **more}, timeout=30, retries=False
    )


def in_a_loop(test):
    def run():
        asyncio.run(test())

    return run


def hold(pair):
    """Hold every draft back until the event is set."""
    release = threading.Event()

    def before(seen):
        if seen.purpose == "draft":
            release.wait(30)

    pair.start_anew(steps_of(3), lambda turn: 9, before)
    return release


@in_a_loop
async def test_who_came_first_is_first_however_much_it_needs():
    slots = Slots(4, 8)
    first, large, small = slots.ask(2), slots.ask(4), slots.ask(1)
    assert [ticket.granted.done() for ticket in (first, large, small)] == [True, False, False]
    assert (slots.taken, slots.waited_for) == (2, 5)
    slots.release(2)
    assert [ticket.granted.done() for ticket in (large, small)] == [True, False]
    slots.release()
    assert small.granted.done()


@in_a_loop
async def test_each_choice_counts_in_the_queue():
    slots = Slots(4, 3)
    slots.ask(4)
    slots.ask(2)
    with pytest.raises(QueueFull):
        slots.ask(2)
    assert not slots.ask(1).granted.done()


@in_a_loop
async def test_who_leaves_the_queue_lets_the_next_one_in():
    slots = Slots(2, 8)
    first, large, small = slots.ask(1), slots.ask(2), slots.ask(1)
    slots.withdraw(large)
    assert small.granted.done()
    slots.withdraw(first)  # it had its slot
    slots.withdraw(small)
    assert (slots.taken, slots.waited_for) == (0, 0)


@in_a_loop
async def test_a_wait_that_was_cancelled_costs_no_slot():
    slots = Slots(1, 8)
    slots.ask(1)
    waits = slots.ask(1)
    waits.granted.cancel()
    slots.release()  # grants it before its owner has withdrawn
    slots.withdraw(waits)
    assert slots.taken == 0


def test_choices_fill_the_queue_and_none_are_more_than_can_run(pair):
    with serving(pair, limits={"max_running": 2, "max_queue": 1}) as url, ThreadPoolExecutor(1) as pool:
        release = hold(pair)
        first = pool.submit(post, url, n=2)
        wait_until(lambda: len(pair.of("draft")) == 2)
        assert post(url, n=2).status == 429
        refused = post(url, n=3)
        assert (refused.status, refused.json()["error"]["param"]) == (400, "n")
        release.set()
        assert len(first.result().json()["choices"]) == 2


def test_a_full_queue_is_known_before_the_prompt_is_read(pair, monkeypatch):
    with serving(pair, limits={"max_running": 1, "max_queue": 0}) as url, ThreadPoolExecutor(1) as pool:
        release = hold(pair)
        first = pool.submit(post, url)
        wait_until(lambda: pair.of("draft"))
        monkeypatch.setattr(type(pair.base.chat_template), "render", lambda *_, **__: pytest.fail("was read"))
        assert post(url).status == 429
        monkeypatch.undo()
        release.set()
        assert first.result().status == 200


def test_a_stream_that_waits_has_bytes_from_the_first_second_on(pair, monkeypatch):
    monkeypatch.setattr(chat, "FIRST_SILENCE", 0.01)
    monkeypatch.setattr(chat, "SILENCE", 0.01)
    with serving(pair, limits={"max_running": 1}) as url, ThreadPoolExecutor(1) as pool:
        release = hold(pair)
        first = pool.submit(post, url)
        wait_until(lambda: pair.of("draft"))
        response = urllib3.request(
            "POST", f"{url}/v1/chat/completions", json={**ASK, "stream": True}, preload_content=False
        )
        assert response.read1(1000).strip(b"\n") == b""
        release.set()
        rest = response.read()
        assert b'"role":"assistant"' in rest
        assert rest.endswith(b"data: [DONE]\n\n")
        assert first.result().status == 200


def test_a_stream_without_a_word_for_long_is_kept_alive(pair, monkeypatch):
    monkeypatch.setattr(chat, "FIRST_SILENCE", 0.01)
    monkeypatch.setattr(chat, "SILENCE", 0.01)
    with serving(pair) as url:
        release = hold(pair)
        body = {"model": "two", "prompt": "q", "stream": True}  # the thinking is not sent
        response = urllib3.request("POST", f"{url}/v1/completions", json=body, preload_content=False)
        while (sent := response.read1(1000)).strip(b"\n"):
            assert b"data" in sent
        release.set()
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_probes_of_a_runtime_that_hangs_delay_no_answer(pair):
    asked, release = [], threading.Event()

    def health():
        asked.append(1)
        release.wait(30)
        return "ok", {}

    pair.start_anew(steps_of(3), lambda turn: 9)
    with serving(pair, health=health) as url, ThreadPoolExecutor(30) as pool:
        probes = [pool.submit(urllib3.request, "GET", f"{url}/health") for _ in range(30)]
        wait_until(lambda: asked)
        assert post(url).status == 200
        assert not any(probe.done() for probe in probes)
        release.set()
        assert {probe.result().status for probe in probes} == {200}
        assert len(asked) < 30  # who came while it was asked shares the answer


@pytest.mark.parametrize("after_an_answer", [False, True])
def test_a_connection_that_sends_no_whole_head_is_closed(pair, monkeypatch, after_an_answer):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.2)
    with serving(pair) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            if after_an_answer:
                connection.sendall(b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
            assert connection.recv(100) == b""


def test_an_answer_may_take_longer_than_a_head(pair, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.1)
    with serving(pair) as url, ThreadPoolExecutor(1) as pool:
        release = hold(pair)
        answer = pool.submit(post, url)
        wait_until(lambda: pair.of("draft"))
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as late:
            assert late.recv(100) == b""
        release.set()
        assert answer.result().status == 200


@pytest.mark.parametrize(
    ("host", "allowed", "names"),
    [
        ("127.0.0.1", (), ("localhost", "127.0.0.1", "[::1]")),
        ("127.0.0.2", (), ("localhost", "127.0.0.1", "[::1]", "127.0.0.2")),
        ("127.0.0.1", ("Proxy.example",), ("localhost", "127.0.0.1", "[::1]", "proxy.example")),
        ("0.0.0.0", (), ()),
        ("0.0.0.0", ("a",), ("localhost", "127.0.0.1", "[::1]", "0.0.0.0", "a")),
    ],
)
def test_hosts_are_loopback_its_own_address_and_what_is_allowed(host, allowed, names):
    assert listen.host_names(host, allowed) == names


def test_the_page_is_in_no_frame(url):
    assert urllib3.request("GET", f"{url}/").headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def test_the_api_describes_what_it_accepts(url):
    schemas = urllib3.request("GET", f"{url}/openapi.json").json()["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest", "ResponsesRequest"):
        fields = schemas[name]["properties"]
        assert fields["echo"]["enum"] == [False, None]
        assert "enum" not in fields["user"]
        assert fields["top_p"]["maximum"] == 1
        assert fields["model"]["enum"] == ["two", "two-base", "two-draft"]
        assert json.dumps(schemas[name]).count("additionalProperties") >= 1
