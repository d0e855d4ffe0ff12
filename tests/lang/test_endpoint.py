import json
import subprocess
import sys
import threading
import time
import warnings

import pytest
import sglang as sgl
from sglang.lang.interpreter import ProgramState, StreamExecutor
from sglang.lang.ir import SglSamplingParams

from specreason_sgl import Endpoint, fork_to, score
from specreason_sgl.errors import (
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    NotSGLang,
    RequestAborted,
    ServerBusy,
    ServerError,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
)
from specreason_sgl.lang import requests as module
from specreason_sgl.lang.logprobs import logprobs as logprobs_of
from tests.scripted import answer, part_of, streamed, wait_until
from tests.scripted import reading as prefill


@sgl.function
def ask(s):
    s += sgl.user("q")
    s += sgl.assistant(sgl.gen("a", max_tokens=4))


@pytest.fixture
def endpoint(scripted):
    with Endpoint(scripted.url, timeout=20, retry_for=0) as endpoint:
        yield endpoint


def hang_up(handler):
    handler.close_connection = True
    handler.connection.close()


def run(endpoint):
    state = ask.run(backend=endpoint)
    state.sync()
    return state


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


def test_connections_are_kept_alive(scripted, endpoint):
    for _ in range(5):
        run(endpoint)
    assert scripted.connections == 1


def test_a_missed_deadline_says_so_and_aborts_the_request(scripted):
    scripted.on_generate = scripted.hang
    with Endpoint(scripted.url, timeout=0.3) as endpoint:
        state = run(endpoint)
        with pytest.raises(DeadlineExceeded, match=rf"{scripted.url} did not answer within 0.3 s"):
            state["a"]
        wait_until(lambda: scripted.aborted() == [scripted.generated()[0]["rid"]])
        assert endpoint.in_flight() == 0


FAILURES = {
    "an error": (500, b"{}"),
    "an error that says it is fine": (200, b'{"error": {"message": "boom"}}'),
    "nothing": (200, b""),
    "another answer": (200, b'{"text": "x"}'),
    "an abort that nobody asked for": answer("", {"type": "abort", "message": "Abort in waiting queue"}),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_request_that_a_server_fails_at_is_sent_three_times(scripted, monkeypatch, failure):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
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
            assert len({one["rid"] for one in scripted.generated()}) == 3


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_a_server_refuses_is_not_sent_again(scripted, endpoint, status):
    scripted.on_generate = lambda payload: (status, b"{}")
    with pytest.raises(ServerError):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 1


def test_nobody_waits_for_a_server_that_hangs_to_abort(scripted):
    scripted.on_generate = scripted.on_abort = scripted.hang
    with Endpoint(scripted.url, timeout=0.2) as endpoint:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            run(endpoint)["a"]
        assert time.monotonic() - start < module.CONNECT_TIMEOUT / 2


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


def test_an_idle_connection_found_closed_is_tried_again_after_an_abort(scripted, endpoint):
    answers = iter([lambda payload: hang_up, lambda payload: answer("second")])
    scripted.on_generate = lambda payload: next(answers)(payload)
    assert run(endpoint)["a"] == "second"
    first, _ = scripted.generated()
    assert scripted.aborted() == [first["rid"]]


def test_retries_are_bounded(scripted, endpoint):
    scripted.on_generate = lambda payload: hang_up
    with pytest.raises(ServerUnreachable, match="broke"):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 2


def test_an_answer_that_broke_off_is_asked_for_again_after_an_abort(scripted, endpoint):
    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"text": "ha')
        handler.close_connection = True

    answers = iter([half, answer("whole")])
    scripted.on_generate = lambda payload: next(answers)
    assert run(endpoint)["a"] == "whole"
    first, second = scripted.generated()
    assert scripted.aborted() == [first["rid"]]
    assert second["rid"] != first["rid"]


def gone_until(scripted, tries):
    """The server breaks the connection until it was asked so many times."""

    def reply(payload):
        return answer("ok") if len(scripted.generated()) > tries else hang_up

    scripted.on_generate = reply


@pytest.fixture
def quick(monkeypatch):
    """Pauses before a request is sent again are short."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)


def test_a_request_outlives_a_restart_of_its_server(scripted, quick):
    gone_until(scripted, 5)
    with Endpoint(scripted.url, timeout=20) as endpoint:
        state = run(endpoint)
        assert state["a"] == "ok"
        assert endpoint.in_flight() == 0
    assert scripted.aborted() == [one["rid"] for one in scripted.generated()[:-1]]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_is_too_busy_is_asked_again(scripted, quick, status):
    scripted.on_generate = lambda payload: (
        answer("ok") if len(scripted.generated()) > 3 else (status, b"busy")
    )
    with Endpoint(scripted.url, timeout=20) as endpoint:
        assert run(endpoint)["a"] == "ok"


def test_trying_again_ends_with_one_error_that_says_how_often(scripted, quick):
    scripted.on_generate = lambda payload: hang_up
    says = r"broke .* \(tried \d+ times in 0\.\d s\)"
    with (
        Endpoint(scripted.url, timeout=20, retry_for=0.1) as endpoint,
        pytest.raises(ServerUnreachable, match=says),
    ):
        run(endpoint)["a"]
    assert len(scripted.generated()) > 3


def test_trying_again_ends_at_the_deadline(scripted):
    scripted.on_generate = lambda payload: (503, b"busy")
    with Endpoint(scripted.url, timeout=0.5) as endpoint, pytest.raises(ServerBusy):
        run(endpoint)["a"]
    assert 1 < len(scripted.generated()) < 4


def test_an_abort_ends_the_pause_before_a_request_is_sent_again(scripted, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 30)
    scripted.on_generate = lambda payload: hang_up
    with Endpoint(scripted.url, timeout=40) as endpoint:
        state = ask.run(backend=endpoint)
        wait_until(lambda: len(scripted.aborted()) == 1)
        endpoint.abort(state)
        with pytest.raises(RequestAborted):
            state["a"]
    assert len(scripted.generated()) == 1


def test_a_stream_goes_on_where_it_broke_off(scripted, quick):
    def begun(*texts):
        return [part_of(answer(text, completion_tokens=n), text) for n, text in enumerate(texts, 1)]

    sends = iter(
        [streamed(*begun("He", "Hel"), done=False), streamed(done=False), streamed(*begun("l", "lo"))]
    )
    scripted.on_generate = lambda payload: next(sends)
    with Endpoint(scripted.url, timeout=20) as endpoint:
        state = ask.run(backend=endpoint, stream=True)
        assert "".join(state.text_iter("a")) == state["a"] == "Hello"
        assert state.get_meta_info("a")["completion_tokens"] == 4
    first, second, third = scripted.generated()
    texts = [endpoint.tokenizer.decode(one["input_ids"]) for one in (first, third)]
    assert texts[1] == texts[0] + "Hel"
    assert [one["sampling_params"]["max_new_tokens"] for one in (first, second, third)] == [4, 2, 2]


def test_a_stream_that_says_that_the_server_is_busy_is_asked_for_again(scripted, quick):
    reason = {"type": "abort", "message": "The request queue is full.", "status_code": 503, "err_type": None}
    scripted.on_generate = lambda payload: (
        streamed(answer("ok")) if len(scripted.generated()) > 4 else streamed(answer("", reason))
    )
    with Endpoint(scripted.url, timeout=20) as endpoint:
        assert ask.run(backend=endpoint, stream=True)["a"] == "ok"
    assert len(scripted.generated()) == 5


def test_a_stream_that_breaks_off_after_its_last_event_is_whole(scripted, endpoint):
    whole = answer("Hello", completion_tokens=2)
    scripted.on_generate = lambda payload: streamed(part_of(whole, "Hel"), whole, done=False)
    assert ask.run(backend=endpoint, stream=True)["a"] == "Hello"
    assert len(scripted.generated()) == 1


def test_a_constrained_stream_that_breaks_off_is_not_gone_on_with(scripted, endpoint):
    @sgl.function
    def number(s):
        s += sgl.user("q")
        s += sgl.assistant(sgl.gen("a", regex=r"\d{3}"))

    scripted.on_generate = lambda payload: streamed(part_of(answer("123"), "12"), done=False)
    state = number.run(backend=endpoint, stream=True)
    with pytest.raises(ServerUnreachable, match="broke off"):
        state["a"]
    assert len(scripted.generated()) == 1


def test_a_stream_that_stalls_does_not_get_the_time_twice(scripted):
    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        scripted.released.wait(0.8)
        handler.wfile.write(b"data: " + json.dumps(part_of(answer("Hello"), "Hel")).encode() + b"\n\n")
        scripted.released.wait(20)

    scripted.on_generate = lambda payload: stall
    with Endpoint(scripted.url, timeout=1.0) as endpoint:
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            ask.run(backend=endpoint, stream=True)["a"]
        assert time.monotonic() - start < 1.7


def test_a_server_that_hangs_is_not_asked_for_one_abort_after_the_other(scripted, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.5)
    scripted.on_generate = scripted.on_abort = scripted.hang
    with Endpoint(scripted.url, timeout=20) as endpoint:
        states = [ask.run(backend=endpoint) for _ in range(6)]
        wait_until(lambda: len(scripted.generated()) == 6)
        start = time.monotonic()
        assert endpoint.abort() == 6
        assert time.monotonic() - start < 6 * 0.5 / 2
        scripted.released.set()
        for state in states:
            with pytest.raises(RequestAborted):
                state["a"]


@pytest.mark.parametrize(
    ("info", "length"),
    [
        ({"max_req_input_len": 40, "context_length": 4096}, 40),
        ({"max_req_input_len": None, "context_length": 46}, 40),
        ({"context_length": None}, None),
        ({}, None),
        ([1], None),
        ("x", None),
    ],
)
def test_the_context_length_is_the_servers(scripted, info, length):
    scripted.server_info = info
    with Endpoint(scripted.url, timeout=20) as endpoint:
        assert endpoint.context_length == length


def test_a_request_asks_for_no_more_than_the_context_holds(scripted, endpoint):
    run(endpoint)
    prompt = len(scripted.generated()[0]["input_ids"])
    endpoint.context_length = prompt + 3
    run(endpoint)["a"]
    assert [one["sampling_params"]["max_new_tokens"] for one in scripted.generated()] == [4, 3]
    endpoint.context_length = prompt
    with pytest.raises(ContextLengthExceeded, match=f"context of scripted at .*: {prompt} tokens of at most"):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 2


def test_what_follows_a_stop_is_cut_off(scripted, endpoint):
    scripted.on_generate = lambda payload: answer("one\n\ntwo", {"type": "length", "length": 9})

    @sgl.function
    def stopping(s):
        s += sgl.user("q")
        s += sgl.assistant(sgl.gen("a", stop=["\n\n"]))

    state = stopping.run(backend=endpoint)
    assert state["a"] == "one"
    assert state.get_meta_info("a")["finish_reason"] == {"type": "stop", "matched": "\n\n"}


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


def test_a_failure_keeps_earlier_results_and_sends_nothing_more(scripted, endpoint):
    replies = iter([answer("first"), *[(400, b"{}")] * 9])
    scripted.on_generate = lambda payload: next(replies)

    @sgl.function
    def three(s):
        s += sgl.user("q")
        s += sgl.assistant(sgl.gen("a") + sgl.gen("b") + sgl.gen("c"))

    state = three.run(backend=endpoint)
    with pytest.raises(ServerError):
        state["c"]
    assert state["a"] == "first"
    assert len(scripted.generated()) == 2


def test_a_failure_crosses_forks(scripted, endpoint):
    scripted.on_generate = lambda payload: (400, b"{}")

    @sgl.function
    def forking(s):
        s += sgl.user("q")
        s += sgl.assistant_begin()
        s += sgl.gen("a")
        forks = [*s.fork(2), fork_to(s, endpoint)]
        for fork in forks:
            fork += " and" + sgl.gen("b")
            with pytest.raises(ServerError):
                fork["b"]
        s["checked"] = True

    assert len(scripted.generated()) == 0
    state = forking.run(backend=endpoint)
    assert state.error() is not None
    assert len(scripted.generated()) == 1


FAILING_SCRIPT = """
import sys
import sglang as sgl
from specreason_sgl import Endpoint

@sgl.function
def failing(s):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    forks = s.fork(1)
    forks[0] += sgl.gen("a")
    print("asked", flush=True)
    sys.stdin.read(1)
    raise RuntimeError("boom")

failing.run(backend=Endpoint(sys.argv[1]))
"""


def test_a_script_whose_program_fails_ends_and_aborts(scripted):
    def end_when_aborted(payload):
        wait_until(lambda: scripted.aborted() == [payload["rid"]], 60)
        return answer("", {"type": "abort", "message": "Abort by client"})

    scripted.on_generate = end_when_aborted
    script = subprocess.Popen(
        [sys.executable, "-c", FAILING_SCRIPT, scripted.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert script.stdout.readline() == "asked\n"
    assert scripted.arrived.wait(20)
    _, errors = script.communicate("\n", timeout=60)
    assert script.returncode == 1
    assert "RuntimeError: boom" in errors
    assert len(scripted.aborted()) == 1


def test_streaming_gives_the_pieces(scripted, endpoint):
    pieces = ("Hel", "Hello ", "Hello é")
    scripted.on_generate = lambda payload: streamed(*map(answer, pieces))
    state = ask.run(backend=endpoint, stream=True)
    assert "".join(state.text_iter("a")) == "Hello é"
    assert scripted.generated()[0]["stream"] is True


def test_a_stream_that_breaks_off_is_an_error(scripted, endpoint):
    sent = [part_of(answer("Hel"), "Hel")]
    scripted.on_generate = lambda payload: streamed(*(sent.pop() for _ in sent[:1]), done=False)
    state = ask.run(backend=endpoint, stream=True)
    list(state.text_iter())
    with pytest.raises(ServerUnreachable, match="broke off"):
        state["a"]


def test_abort_of_a_state_ends_its_requests_and_no_others(scripted, endpoint):
    scripted.on_generate = scripted.hang
    states = [ask.run(backend=endpoint), ask.run(backend=endpoint)]
    wait_until(lambda: len(scripted.generated()) == 2)
    assert endpoint.abort(states[0]) == 1
    assert len(scripted.aborted()) == 1
    assert endpoint.abort() == 1
    scripted.released.set()
    for state in states:
        with pytest.raises(RequestAborted):
            state["a"]


def test_an_aborted_state_sends_nothing_more(scripted, endpoint):
    @sgl.function
    def two(s):
        s += sgl.user("q")
        s += sgl.assistant_begin()
        s += sgl.gen("a")
        s["a"]
        endpoint.abort(s)
        s += sgl.gen("b")
        with pytest.raises(RequestAborted):
            s["b"]
        s["done"] = True

    two.run(backend=endpoint)
    assert len(scripted.generated()) == 1


def test_nobody_there():
    with pytest.raises(ServerUnreachable, match="is the server running"):
        Endpoint("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["localhost:30000", "", "ftp://x", "http://"])
def test_what_is_not_a_url(url):
    with pytest.raises((ConfigError, ServerUnreachable)):
        Endpoint(url)


def test_not_an_sglang_server(scripted):
    scripted.model_info = {}
    with pytest.raises(NotSGLang, match="not an SGLang server"):
        Endpoint(scripted.url)


def test_a_tokenizer_that_is_not_here_says_what_to_pass(scripted, tmp_path):
    scripted.model_info["tokenizer_path"] = str(tmp_path / "none")
    with pytest.raises(ConfigError, match="pass a folder or a Hugging Face name as tokenizer"):
        Endpoint(scripted.url)


def logprobs(values: dict[int, float]):
    return answer(
        "7",
        {"type": "length", "length": 1},
        output_token_ids_logprobs=[[[value, token, None] for token, value in values.items()]],
    )


@sgl.function
def judge(s, read, choices):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += "Score:" + score("score", choices=choices, read=read)


def test_a_score_is_one_request_of_one_token(scripted, endpoint):
    digits = {endpoint.tokenizer.convert_tokens_to_ids(str(d)): -2.0 - abs(d - 6) for d in range(10)}
    scripted.on_generate = lambda payload: logprobs(digits)
    state = judge.run(read="greedy", choices=tuple("0123456789"), backend=endpoint)
    meta = state.get_meta_info("score")
    assert state["score"] == "6"
    assert meta["score"] == 6.0
    assert sum(meta["probabilities"].values()) == pytest.approx(1)
    assert max(meta["probabilities"], key=meta["probabilities"].get) == "6"
    assert 0 < meta["mass"] < 1
    (payload,) = scripted.generated()
    assert payload["sampling_params"]["max_new_tokens"] == 1
    assert payload["token_ids_logprob"] == list(digits)
    assert state.text().endswith("Score:6")


def test_the_average_is_the_expectation(scripted, endpoint):
    ids = [endpoint.tokenizer.convert_tokens_to_ids(d) for d in "28"]
    scripted.on_generate = lambda payload: logprobs({ids[0]: -1.0, ids[1]: -1.0})
    state = judge.run(read="average", choices=("2", "8"), backend=endpoint)
    assert state.get_meta_info("score")["score"] == pytest.approx(5.0)
    assert state["score"] == "2"


def test_choices_of_more_than_one_token_fall_back_to_sglangs_select(scripted, endpoint):
    def reply(payload):
        ids = payload["input_ids"]
        if isinstance(ids[0], int):
            return answer("", prompt_tokens=len(ids))
        tail = [one[payload["logprob_start_len"] :] for one in ids]
        replies = []
        for i, tokens in enumerate(tail):
            text = [endpoint.tokenizer.decode([token]) for token in tokens]
            entries = [[-1.0 - i, token, t] for token, t in zip(tokens, text, strict=True)]
            replies.append(answer("", input_token_logprobs=entries, output_token_logprobs=[]))
        return replies

    scripted.on_generate = reply
    state = judge.run(read="greedy", choices=("excellent", "terrible"), backend=endpoint)
    assert state["score"] == "excellent"
    assert len(scripted.generated()) == 2


@pytest.mark.parametrize(
    "arguments",
    [{"read": "mean"}, {"choices": ("1",)}, {"choices": ("1", "1")}, {"choices": ("1", "")}],
)
def test_a_score_that_cannot_be_is_refused_where_it_is_written(arguments):
    with pytest.raises(ConfigError):
        score("x", **arguments)


def test_one_endpoint_serves_many_threads(scripted, endpoint):
    scripted.on_generate = lambda payload: answer(payload["rid"])
    results = {}

    def one(i):
        results[i] = run(endpoint)["a"]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results.values())) == 32
    assert endpoint.in_flight() == 0


def test_a_state_can_be_collected_in_a_thread_that_has_the_endpoints_lock(scripted, endpoint):
    """An allocation under the lock can start the garbage collector, and that ends forgotten states."""
    state = run(endpoint)

    def collect():
        with endpoint.requests.lock:
            endpoint.end_program(state.stream_executor)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(threading, "_shutdown_locks_lock"), reason="Python 3.13 has no such lock")
def test_an_ended_state_can_be_collected_while_a_thread_starts(endpoint):
    """The garbage collector may run with the lock that `threading` takes at a thread's start."""
    states = [ProgramState(StreamExecutor(endpoint, {}, None, None, False))]
    ended = states[0].stream_executor.worker
    states[0].stream_executor.end()
    # Not `join`: it would note that the thread has ended.
    wait_until(lambda: ended.ident not in sys._current_frames())

    def collect():
        with threading._shutdown_locks_lock:
            states.clear()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_state_that_is_ended_twice_can_still_be_read(scripted, endpoint):
    scripted.on_generate = scripted.hang
    state = ProgramState(StreamExecutor(endpoint, {}, SglSamplingParams(), None, False))
    state += sgl.gen("a")
    assert scripted.arrived.wait(10)
    state.stream_executor.end()
    state.stream_executor.end()
    scripted.released.set()
    reader = threading.Thread(target=state.text, daemon=True)
    reader.start()
    reader.join(10)
    assert not reader.is_alive()


# Logprobs of texts.


def with_logprobs(endpoint):
    """Answers with -i of the i-th prompt token, and 3 for the digit."""

    def reply(payload):
        meta = {}
        if "logprob_start_len" in payload:
            meta = prefill(payload, logprob=lambda ids, at: -float(at))
        if wanted := payload.get("token_ids_logprob"):
            meta["output_token_ids_logprobs"] = [[[-float(i != 3), t, None] for i, t in enumerate(wanted)]]
        return answer("", {"type": "length"}, **meta)

    return reply


@sgl.function
def reading(s, before, text, expression):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += before
    start = len(s.text())
    s += expression(start, text)


TEXTS_TO_READ = ["Then 12 are left.", "é 🙂 好的", " x", "\n\ny", "3.5", "."]


@pytest.mark.parametrize("text", TEXTS_TO_READ)
def test_the_logprobs_of_a_text_are_of_its_tokens(scripted, endpoint, text):
    scripted.on_generate = with_logprobs(endpoint)
    state = reading.run(
        before="So:", text=text, expression=lambda start, text: logprobs_of("x", text), backend=endpoint
    )
    found = state.get_meta_info("x")["logprobs"]
    (payload,) = scripted.generated()
    own = endpoint.tokenizer.encode(text, add_special_tokens=False)
    ids = payload["input_ids"]
    assert ids[-len(own) :] == own
    assert payload["logprob_start_len"] == len(ids) - len(own) - 1  # the first that is asked for has none
    assert payload["sampling_params"]["max_new_tokens"] == 0
    assert payload["return_logprob"] is True
    assert [one.logprob for one in found] == [-float(i) for i in range(len(ids) - len(own), len(ids))]
    assert "".join(token.text for token in found) == text
    assert [token.id for token in found] == own
    assert state["x"] == text
    assert state.text().endswith("So:" + text)


@pytest.mark.parametrize("text", TEXTS_TO_READ)
def test_a_score_brings_the_logprobs_of_a_part_of_the_text(scripted, endpoint, text):
    scripted.on_generate = with_logprobs(endpoint)
    state = reading.run(
        before="So:",
        text=text,
        expression=lambda start, text: (
            text + "\n\nScore: " + score("x", logprobs_of=(start, start + len(text)))
        ),
        backend=endpoint,
    )
    found = state.get_meta_info("x")["logprobs"]
    (payload,) = scripted.generated()
    ids, own = payload["input_ids"], endpoint.tokenizer.encode(text, add_special_tokens=False)
    at = next(i for i in range(len(ids) - 1, 0, -1) if ids[i : i + len(own)] == own)
    assert payload["logprob_start_len"] == at - 1
    assert payload["sampling_params"]["max_new_tokens"] == 1
    assert len(payload["token_ids_logprob"]) == 10
    assert [one.logprob for one in found] == [-float(i) for i in range(at, at + len(own))]
    assert state["x"] == "3"


def test_a_token_that_two_texts_share_is_of_neither(scripted, endpoint):
    """The tokens of a text inside another are those that it has wholly: a shared one says nothing of it."""
    text, after = "the lic", "ense: "
    scripted.on_generate = with_logprobs(endpoint)
    together = endpoint.tokenizer.encode(text + after, add_special_tokens=False)
    apart = endpoint.tokenizer.encode(text, add_special_tokens=False)
    same = next(i for i, (a, b) in enumerate(zip(together, apart, strict=False)) if a != b)
    assert same < len(apart)  # else this would test nothing
    state = reading.run(
        before="So:",
        text=text,
        expression=lambda start, text: text + after + score("x", logprobs_of=(start, start + len(text))),
        backend=endpoint,
    )
    found = state.get_meta_info("x")["logprobs"]
    assert [one.text for one in found] == [endpoint.tokenizer.decode([token]) for token in apart[:same]]


def test_an_empty_text_has_no_logprobs():
    with pytest.raises(ConfigError, match="must not be empty"):
        logprobs_of("x", "")


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


def test_an_aborted_request_is_not_sent_again(scripted, endpoint):
    def abort_and_hang_up(payload):
        endpoint.abort()
        return hang_up

    scripted.on_generate = abort_and_hang_up
    with pytest.raises(RequestAborted):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 1


def test_an_aborted_request_says_what_it_had_generated_and_when(scripted, endpoint):
    scripted.on_generate = scripted.hang
    state = ask.run(backend=endpoint)
    assert scripted.arrived.wait(10)
    endpoint.abort(state)
    scripted.released.set()
    with pytest.raises(RequestAborted) as raised:
        state["a"]
    assert raised.value.meta_info["completion_tokens"] == 3
    assert raised.value.meta_info["seconds"] > 0


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
