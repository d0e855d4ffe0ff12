"""Requests: their ids, retries and limits, and the record that `on_request` is told."""

import threading
import time

import pytest
import sglang as sgl

from specreason_sgl import Endpoint
from specreason_sgl.errors import (
    DeadlineExceeded,
    RequestAborted,
    ServerBusy,
    ServerError,
    ServerFailed,
    ServerUnreachable,
)
from tests.support.asking import ask, run
from tests.support.scripted import answer, half_an_answer, hang_up, part_of, streamed
from tests.support.waiting import ended, wait_until


def test_prompts_are_sent_as_ids_with_ids_of_requests_of_one_length(scripted, endpoint):
    assert run(endpoint)["a"] == "ok"
    run(endpoint)
    first, second = scripted.generated()
    expected = endpoint.tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}], add_generation_prompt=True, return_dict=False
    )
    assert first["input_ids"] == expected
    assert first["rid"] != second["rid"]
    assert len(first["rid"]) == len(second["rid"])


FAILURES = {
    "an error": (500, b"{}"),
    "an error that says it is fine": (200, b'{"error": {"message": "boom"}}'),
    "nothing": (200, b""),
    "another answer": (200, b'{"text": "x"}'),
    "an abort that nobody asked for": answer("", {"type": "abort", "message": "Abort in waiting queue"}),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_request_that_a_server_fails_at_is_sent_three_times(scripted, quick_retries, failure):
    with Endpoint(scripted.url, timeout=20) as endpoint:
        for failed in (2, 3):
            replies = iter([FAILURES[failure]] * failed + [answer("ok")])
            scripted.requests.clear()
            scripted.on_generate = lambda payload, replies=replies: next(replies)
            state = run(endpoint)
            if failed == 2:
                assert state["a"] == "ok"
            else:
                with pytest.raises(ServerFailed, match=r"tried 3 times"):
                    state["a"]
            assert len({payload["rid"] for payload in scripted.generated()}) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_a_server_refuses_is_not_sent_again(scripted, endpoint, status):
    scripted.on_generate = lambda payload: (status, b"{}")
    with pytest.raises(ServerError):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 1


@pytest.mark.parametrize("broken", [hang_up, half_an_answer])
def test_a_request_whose_connection_broke_is_sent_again_after_an_abort(scripted, endpoint, broken):
    answers = iter([broken, answer("second")])
    scripted.on_generate = lambda payload: next(answers)
    assert run(endpoint)["a"] == "second"
    first, second = scripted.generated()
    assert scripted.aborted() == [first["rid"]]
    assert second["rid"] != first["rid"]


def test_retries_are_bounded(scripted, endpoint):
    scripted.on_generate = lambda payload: hang_up
    with pytest.raises(ServerUnreachable, match="broke"):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 2


def gone_until(scripted, tries):
    """Break the connection of the first `tries` requests."""

    def reply(payload):
        return answer("ok") if len(scripted.generated()) > tries else hang_up

    scripted.on_generate = reply


def test_a_request_outlives_a_restart_of_its_server(scripted, quick_retries):
    gone_until(scripted, 5)
    with Endpoint(scripted.url, timeout=20) as endpoint:
        state = run(endpoint)
        assert state["a"] == "ok"
        assert endpoint.in_flight() == 0
    assert scripted.aborted() == [payload["rid"] for payload in scripted.generated()[:-1]]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_is_too_busy_is_asked_again(scripted, quick_retries, status):
    scripted.on_generate = lambda payload: (
        answer("ok") if len(scripted.generated()) > 3 else (status, b"busy")
    )
    with Endpoint(scripted.url, timeout=20) as endpoint:
        assert run(endpoint)["a"] == "ok"


def test_trying_again_ends_with_one_error_that_says_how_often(scripted, quick_retries):
    scripted.on_generate = lambda payload: hang_up
    says = r"broke .* \(tried \d+ times in 0\.\d s\)"
    with (
        Endpoint(scripted.url, timeout=20, retry_for=0.1) as endpoint,
        pytest.raises(ServerUnreachable, match=says),
    ):
        run(endpoint)["a"]
    assert len(scripted.generated()) > 2


def test_trying_again_ends_at_the_deadline(scripted):
    scripted.on_generate = lambda payload: (503, b"busy")
    with Endpoint(scripted.url, timeout=0.5) as endpoint, pytest.raises(ServerBusy):
        run(endpoint)["a"]
    assert 1 < len(scripted.generated()) < 4


def test_one_endpoint_serves_many_threads(scripted, endpoint):
    scripted.on_generate = lambda payload: answer(payload["rid"])
    results = {}

    def read(i):
        results[i] = run(endpoint)["a"]

    threads = [threading.Thread(target=read, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results.values())) == 32
    assert endpoint.in_flight() == 0


def test_a_limited_state_misses_its_deadline_and_no_other_does(scripted, endpoint):
    released = threading.Event()

    def reply(payload):
        if "limited" in endpoint.tokenizer.decode(payload["input_ids"]):
            released.wait(20)
        return answer("ok")

    scripted.on_generate = reply

    @sgl.function
    def two(s):
        s += sgl.user("q")
        s += sgl.assistant_begin()
        limited, other = s.fork(1)[0], s.fork(1)[0]
        endpoint.limit(limited, time.monotonic() + 0.3)
        limited += "limited" + sgl.gen("a")
        other += sgl.gen("b")
        assert other["b"] == "ok"
        with pytest.raises(DeadlineExceeded):
            limited["a"]
        s["done"] = True

    assert two.run(backend=endpoint)["done"]
    wait_until(lambda: len(scripted.aborted()) == 1)
    released.set()


def test_tied_states_share_the_deadline_and_the_abort(scripted, endpoint):
    scripted.on_generate = scripted.hang

    @sgl.function
    def tied(s):
        s += sgl.user("q")
        s += sgl.assistant_begin()
        first = s.fork(1)[0]
        endpoint.limit(first, time.monotonic() + 0.3)
        second = s.fork(1)[0]
        endpoint.tie(first, [second])
        second += sgl.gen("b")
        with pytest.raises(DeadlineExceeded):
            second["b"]
        third, fourth = s.fork(1)[0], s.fork(1)[0]
        endpoint.tie(third, [fourth])
        fourth += sgl.gen("c")
        wait_until(lambda: len(scripted.generated()) == 2)
        assert endpoint.abort(third) == 1
        scripted.released.set()
        with pytest.raises(RequestAborted):
            fourth["c"]
        late = s.fork(1)[0]
        endpoint.tie(third, [late])  # it was aborted before
        late += sgl.gen("d")
        with pytest.raises(RequestAborted):
            late["d"]
        s["done"] = True

    assert tied.run(backend=endpoint)["done"]
    assert len(scripted.generated()) == 2


@pytest.fixture
def recorded(scripted, quick_retries):
    """An endpoint, and the records that its `on_request` was called with."""
    records = []
    with Endpoint(scripted.url, timeout=20, retry_for=0, on_request=records.append) as endpoint:
        yield endpoint, records


def test_a_request_is_told_of_when_its_answer_is_there(scripted, recorded):
    endpoint, records = recorded
    before = time.monotonic()
    state = run(endpoint)
    (record,) = records
    (payload,) = scripted.generated()
    assert {**record.payload, "rid": payload["rid"]} == payload
    assert (record.state_id, record.path) == (state.stream_executor.sid, "/generate")
    assert record.answer["text"] == state["a"] == "ok"
    assert record.error is None
    assert before <= record.sent_at <= record.sent_at + record.seconds <= time.monotonic()


def test_a_request_that_fails_is_told_of_with_its_error(scripted, recorded):
    endpoint, records = recorded
    scripted.on_generate = lambda payload: (400, b"{}")
    state = run(endpoint)
    (record,) = records
    assert record.answer is None
    assert record.error is state.error()


def test_a_request_that_is_sent_again_is_told_of_once(scripted, recorded):
    endpoint, records = recorded
    gone_until(scripted, 1)
    run(endpoint)
    (record,) = records
    assert len(scripted.generated()) == 2
    assert (record.answer["text"], record.error) == ("ok", None)


def test_a_stream_is_told_of_with_its_last_event(scripted, recorded):
    endpoint, records = recorded
    whole = answer("Hello")
    scripted.on_generate = lambda payload: streamed(part_of(whole, "Hel"), whole)
    ended(ask.run(backend=endpoint, stream=True))
    (record,) = records
    assert record.payload["stream"] is True
    assert record.answer["text"] == "Hello"


def test_a_request_of_an_aborted_state_is_told_of_and_never_sent(scripted, recorded):
    endpoint, records = recorded

    @sgl.function
    def aborted(s):
        endpoint.abort(s)
        s += sgl.user("q")
        s += sgl.assistant(sgl.gen("a"))
        with pytest.raises(RequestAborted):
            s["a"]

    aborted.run(backend=endpoint)
    (record,) = records
    assert isinstance(record.error, RequestAborted)
    assert record.payload is None
    assert not scripted.generated()
