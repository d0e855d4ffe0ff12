"""Ending requests: which, how, and on servers that refuse it, hang, or are busy in other threads."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sglang as sgl

from specreason_sgl import Endpoint
from specreason_sgl.errors import DeadlineExceeded, RequestAborted
from specreason_sgl.lang import aborts, http, requests
from specreason_sgl.lang.requests import Request
from tests.support.asking import ask, run
from tests.support.scripted import ScriptedServer, answer, hang_up, part_of, streamed
from tests.support.waiting import wait_until


def test_abort_of_a_state_ends_its_requests_and_no_others(scripted, endpoint):
    scripted.on_generate = scripted.hang
    states = [ask.run(backend=endpoint), ask.run(backend=endpoint)]
    wait_until(lambda: len(scripted.generated()) == 2)
    assert endpoint.abort(states[0]) == 1
    assert len(scripted.aborted()) == 1
    assert endpoint.abort() == 1
    scripted.released.set()
    for state in states:
        with pytest.raises(RequestAborted) as raised:
            state["a"]
        assert raised.value.meta_info["completion_tokens"] == 3
        assert raised.value.meta_info["seconds"] > 0


def test_an_aborted_request_is_not_sent_again(scripted, endpoint):
    def abort_and_hang_up(payload):
        endpoint.abort()
        return hang_up

    scripted.on_generate = abort_and_hang_up
    with pytest.raises(RequestAborted):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 1


def test_a_request_that_had_not_arrived_is_aborted_again(scripted, endpoint):
    """The server forgets the first aborts, as one does that has not seen the request yet."""
    scripted.on_generate = lambda payload: (wait_until(lambda: len(scripted.aborted()) >= 3), answer("late"))[
        1
    ]
    state = ask.run(backend=endpoint)
    wait_until(lambda: endpoint.in_flight() == 1)
    assert endpoint.abort(state) == 1
    with pytest.raises(RequestAborted):
        state["a"]
    assert set(scripted.aborted()) == {scripted.generated()[0]["rid"]}
    assert endpoint.in_flight() == 0


def test_an_abort_ends_the_pause_before_a_request_is_sent_again(scripted, monkeypatch):
    monkeypatch.setattr(requests, "FIRST_WAIT", 30)
    scripted.on_generate = lambda payload: hang_up
    with Endpoint(scripted.url, timeout=40) as endpoint:
        state = ask.run(backend=endpoint)
        wait_until(lambda: len(scripted.aborted()) == 1)
        endpoint.abort(state)
        with pytest.raises(RequestAborted):
            state["a"]
    assert len(scripted.generated()) == 1


@pytest.fixture
def waits_long(monkeypatch):
    """Whoever waits for an abort to be answered waits until the server that hangs has `waited_out`."""
    monkeypatch.setattr(aborts, "CONNECT_TIMEOUT", 600)


def test_nobody_waits_for_a_server_that_hangs_to_abort(scripted, waits_long):
    scripted.on_generate = scripted.on_abort = scripted.hang
    with Endpoint(scripted.url, timeout=0.2) as endpoint, pytest.raises(DeadlineExceeded):
        run(endpoint)["a"]
    assert not scripted.waited_out


def test_a_server_that_answers_no_abort_is_not_asked_for_one_after_the_other(scripted):
    scripted.on_generate = scripted.hang
    scripted.on_abort = lambda payload: hang_up
    with Endpoint(scripted.url, timeout=20) as endpoint:
        states = [ask.run(backend=endpoint) for _ in range(6)]
        wait_until(lambda: len(scripted.generated()) == 6)
        assert endpoint.abort() == 6
        wait_until(lambda: len(scripted.aborted()) >= 3)  # repeated, of the first request
        assert len(set(scripted.aborted())) == 1
        scripted.released.set()
        for state in states:
            with pytest.raises(RequestAborted):
                state["a"]


class Clients:
    """An `on_generate` that never answers, and notes whose clients have gone."""

    def __init__(self):
        self.asked, self.gone = 0, threading.Semaphore(0)

    def __call__(self, payload):
        return self.wait

    def wait(self, handler):
        self.asked += 1
        if handler.connection.recv(1) == b"":
            self.gone.release()
        handler.close_connection = True


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if "refuses to abort" in r.getMessage()]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_abort_closes_the_connection_and_is_said_once(scripted, endpoint, caplog, status):
    scripted.on_generate = clients = Clients()
    scripted.on_abort = lambda payload: (status, b"{}")
    with caplog.at_level(logging.WARNING):
        for asked in (1, 2):
            state = ask.run(backend=endpoint)
            wait_until(lambda: clients.asked == asked)  # noqa: B023
            assert endpoint.abort(state) == 1
            assert clients.gone.acquire(timeout=60)
            with pytest.raises(RequestAborted):
                state["a"]
    assert len(warnings_of(caplog)) == 1
    assert f"{scripted.url} refuses" in warnings_of(caplog)[0]


@pytest.mark.parametrize("regex", [None, "[0-9]+"])
def test_a_refused_abort_closes_a_streams_connection(scripted, endpoint, regex):
    gone = threading.Event()

    def begin(handler):
        streamed(part_of(answer("12"), "1"), done=False)(handler)
        if handler.connection.recv(1) == b"":
            gone.set()

    scripted.on_generate = lambda payload: begin
    scripted.on_abort = lambda payload: (401, b"{}")
    state = ask.run(backend=endpoint, stream=True, regex=regex)
    assert next(state.text_iter("a")) == "1"
    assert endpoint.abort(state) == 1
    assert gone.wait(60)
    with pytest.raises(RequestAborted) as raised:
        state["a"]
    assert (raised.value.meta_info["prompt_tokens"], raised.value.meta_info["completion_tokens"]) == (5, 3)


def test_a_refused_abort_leaves_the_connections_of_other_requests(scripted, endpoint):
    scripted.on_generate = clients = Clients()
    scripted.on_abort = lambda payload: (401, b"{}")
    first, second = (ask.run(backend=endpoint) for _ in range(2))
    wait_until(lambda: clients.asked == 2)
    endpoint.abort(first)
    assert clients.gone.acquire(timeout=60)
    with pytest.raises(RequestAborted):
        first["a"]
    assert endpoint.in_flight() == 1
    assert not clients.gone.acquire(blocking=False)
    endpoint.abort(second)
    assert clients.gone.acquire(timeout=60)


def test_a_connection_that_another_request_has_taken_is_left_alone(scripted, endpoint):
    ask.run(backend=endpoint).sync()
    with Request(endpoint.requests, "earlier") as earlier:
        response = earlier.send({"input_ids": [1]})
        response.read()  # the connection is in the pool again
        scripted.on_generate = clients = Clients()
        later = ask.run(backend=endpoint)
        wait_until(lambda: clients.asked == 1)
        assert scripted.connections == 1
        earlier.wire.shut_down()
        assert not clients.gone.acquire(timeout=0.2)
    endpoint.abort(later)


def test_nobody_waits_long_for_two_servers_that_hang_to_abort(scripted, chatml_folder, waits_long):
    with ScriptedServer(chatml_folder) as other:
        for server in (scripted, other):
            server.on_generate = server.on_abort = server.hang
        endpoints = [Endpoint(server.url, timeout=20) for server in (scripted, other)]
        first, second = (ask.run(backend=endpoint) for endpoint in endpoints)
        endpoints[0].tie(first, [second])
        wait_until(lambda: scripted.generated() and other.generated())
        assert endpoints[0].abort(first) == 2
        wait_until(lambda: scripted.aborted() and other.aborted())
        assert not any(server.waited_out for server in (scripted, other))
        scripted.released.set(), other.released.set()
        for state, endpoint in zip((first, second), endpoints, strict=True):
            with pytest.raises(RequestAborted):
                state["a"]
            endpoint.close()


def test_a_state_is_refused_while_its_abort_still_waits(scripted):
    scripted.on_generate = scripted.on_abort = scripted.hang

    @sgl.function
    def two(s):
        s += sgl.user("q")
        s += sgl.assistant(sgl.gen("a", max_tokens=4) + sgl.gen("b", max_tokens=4))

    with Endpoint(scripted.url, timeout=20) as endpoint:
        state = two.run(backend=endpoint)
        wait_until(lambda: scripted.generated())
        endpoint.abort(state)
        scripted.released.set()
        with pytest.raises(RequestAborted):
            state["b"]
    assert len(scripted.generated()) == 1


def test_a_request_that_failed_does_not_wait_long_for_its_abort(scripted, endpoint, waits_long):
    scripted.on_generate = lambda payload: (500, b"{}")
    scripted.on_abort = scripted.hang
    ask.run(backend=endpoint).sync()
    assert scripted.aborted()
    assert not scripted.waited_out


def test_what_a_router_does_not_abort_is_aborted_at_its_workers(scripted, chatml_folder, monkeypatch):
    scripted.on_abort = lambda payload: (404, b"{}")
    with ScriptedServer(chatml_folder) as first, ScriptedServer(chatml_folder) as second:
        second.on_abort = lambda payload: (403, b"{}")
        router = http.Http(scripted.url)
        workers = {"workers": [{"url": server.url} for server in (first, second)]}
        monkeypatch.setattr(router, "json", lambda method, path: workers if path == "/workers" else None)
        assert aborts.Aborts(router).post("abc") == 403
        assert first.aborted() == second.aborted() == ["abc"]
        second.on_abort = lambda payload: {}
        assert aborts.Aborts(router).post("abc") == 404
        monkeypatch.setattr(router, "json", lambda method, path: {"workers": [{}]})
        assert aborts.Aborts(router).post("abc") is None


class Watched(dict):
    """A dictionary that notes each use without the lock."""

    def __init__(self, lock):
        self.lock, self.misuses = lock, []


def watching(method):
    def use(self, *arguments):
        if not self.lock._is_owned():
            self.misuses.append(method)
        return getattr(dict, method)(self, *arguments)

    return use


for method in ("items", "pop", "__setitem__", "__contains__", "__getitem__"):
    setattr(Watched, method, watching(method))


def test_requests_end_while_other_threads_abort(scripted, endpoint, monkeypatch):
    """8 threads begin and end 100 requests each while one aborts all 200 times."""
    sent = endpoint.requests
    sent.in_flight = watched = Watched(sent.lock)
    monkeypatch.setattr(sent.http, "send", lambda *_, **__: None)
    monkeypatch.setattr(sent.aborts, "post", lambda rid: 200)
    begin = threading.Barrier(9)

    def request_often(name):
        begin.wait()
        for _ in range(100):
            with Request(sent, name) as request:
                request.send({"input_ids": [1]})
        return True

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(request_often, str(i)) for i in range(8)]
        begin.wait()
        for _ in range(200):
            endpoint.abort()
    assert all(each.result() for each in done)
    assert not watched.misuses
    assert endpoint.in_flight() == 0
