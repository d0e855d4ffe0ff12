"""The HTTP server in front of a scripted pair, by real clients."""

import json
import math
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest
import urllib3

from specreason_sgl import Correct, Rewrite, SpecReasonConfig, Trace
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.runtime.keep import ServerState
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.health import Health
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.verifiers import Likelihood, UtilityScore, get_step_threshold
from tests.support.pair import aborted
from tests.support.serving import CONFIG, serving
from tests.support.waiting import wait_until
from tests.support.writers import FAILS, steps_of

ASK = {"model": "two", "messages": [{"role": "user", "content": "q"}]}


pytestmark = pytest.mark.usefixtures("calm")


def post(url, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    return urllib3.request(
        "POST", f"{url}/v1/chat/completions", body=data, headers=headers, timeout=30, retries=False
    )


def refusal(response):
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def test_a_client_gets_thinking_answer_and_counts(pair, client):
    reply = client.chat.completions.create(**ASK, extra_body={"specreason": {"repair": "rewrite"}})
    message = reply.choices[0].message
    assert message.reasoning_content == "draft 1\n\ndraft 2\n\ndraft 3"
    assert message.content == message.content.strip() != ""
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == 9 + 2
    assert reply.usage.completion_tokens_details.reasoning_tokens == 9
    asked_for_the_answer = pair.base_server.generated()[-1]["input_ids"]
    chain = pair.base.tokenizer.encode(
        f"{message.reasoning_content}\n\nFinal answer:", add_special_tokens=False
    )
    assert reply.usage.prompt_tokens == len(asked_for_the_answer) - len(chain)
    extension = reply.usage.specreason
    assert (extension["draft_tokens"], extension["steps_kept"], extension["steps_rewritten"]) == (9, 3, 0)
    assert extension["base_tokens"] == 3 + 2  # a digit for each step, and the answer


@pytest.mark.parametrize("model", ["two", "two-base", "two-draft"])
def test_a_stream_joins_to_the_whole_answer(client, model):
    whole = client.chat.completions.create(**{**ASK, "model": model})
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**{**ASK, "model": model}, **options))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    joined = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert joined == whole.choices[0].message.reasoning_content
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_step_is_sent_when_it_is_kept(pair, url):
    third = threading.Event()

    def before(seen):
        if seen.turn.startswith("draft 1\n\ndraft 2\n\ndraft 3"):
            third.wait(20)

    pair.start_anew(steps_of(3), lambda turn: 9, before)
    body = {**ASK, "stream": True, "specreason": {"lookahead": 0}}
    response = urllib3.request("POST", f"{url}/v1/chat/completions", json=body, preload_content=False)
    seen = b""
    while b"draft 2" not in seen:
        seen += response.read1(1000)
    assert b"draft 3" not in seen
    third.set()
    rest = response.read()
    assert b"draft 3" in rest
    assert rest.endswith(b"data: [DONE]\n\n")


def test_the_trace_comes_where_it_is_asked_for(client):
    extension = {"specreason": {"trace": True, "lookahead": 0}}
    reply = client.chat.completions.create(**ASK, extra_body=extension)
    trace = Trace.from_json(json.dumps(reply.specreason["traces"][0]))
    assert trace.reasoning == reply.choices[0].message.reasoning_content
    assert trace.config["lookahead"] == 0
    chunks = list(client.chat.completions.create(**ASK, extra_body=extension, stream=True))
    extensions = [chunk.specreason for chunk in chunks if getattr(chunk, "specreason", None)]
    assert [extension["step"]["text"] for extension in extensions[:-1]] == ["draft 1", "draft 2", "draft 3"]
    assert Trace.from_json(json.dumps(extensions[-1]["trace"])).answer == trace.answer
    plain = client.chat.completions.create(**ASK)
    assert not hasattr(plain, "specreason")


def strictly(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({"verifier": lambda s, drafted: -math.inf, "threshold": 0}, -sys.float_info.max),
        ({"verifier": lambda s, drafted: math.inf, "threshold": 0}, sys.float_info.max),
    ],
)
def test_infinite_scores_are_sent_as_the_largest_numbers(pair, settings, sent):
    config = replace(CONFIG, repair=Rewrite(), **settings)
    with serving(pair, config=config) as url:
        ask = {**ASK, "specreason": {"trace": True}}
        (trace,) = strictly(post(url, ask).data)["specreason"]["traces"]
        assert {step["score"] for step in trace["steps"]} == {sent}
        lines = post(url, {**ask, "stream": True}).data.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        chunks = [strictly(line.removeprefix("data: ")) for line in lines[:-2]]
        steps = [chunk["specreason"]["step"] for chunk in chunks if "step" in chunk.get("specreason", {})]
        assert {step["score"] for step in steps} == {sent}
        assert chunks[-1]["specreason"]["trace"]["steps"][0]["score"] == sent


def test_several_turns_reach_the_models_in_their_template(pair, client):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "reasoning_content": "thought", "refusal": None},
        {"role": "user", "content": "d"},
    ]
    client.chat.completions.create(model="two", messages=messages)
    prompt = pair.base.tokenizer.decode(pair.draft_server.generated()[0]["input_ids"])
    expected = [("system", "Be brief."), ("user", "a b"), ("assistant", "c"), ("user", "d")]
    rendered = pair.base.tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in expected],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert prompt.startswith(rendered)
    assert "thought" not in prompt


def test_model_names_choose_the_mode(pair, client):
    assert [model.id for model in client.models.list()] == ["two", "two-base", "two-draft"]
    client.chat.completions.create(**{**ASK, "model": "two-draft"})
    assert not pair.base_server.generated()
    pair.start_anew(steps_of(3), lambda turn: 9)
    client.chat.completions.create(**{**ASK, "model": "two-base"})
    assert not pair.draft_server.generated()


def test_parameters_reach_the_runtimes(pair, client):
    client.chat.completions.create(
        **ASK,
        temperature=0.7,
        top_p=0.8,
        stop=["###"],
        max_completion_tokens=40,
        extra_body={"specreason": {"step_tokens": 10, "first_base_steps": 1, "threshold": 4}},
    )
    requests = [request["sampling_params"] for request in pair.base_server.generated()]
    assert (requests[0]["temperature"], requests[0]["top_p"]) == (0.7, 0.8)
    assert requests[0]["max_new_tokens"] == 10
    assert requests[-1]["stop"] == ["###"]
    assert requests[-1]["max_new_tokens"] == 20  # of the 40: the other half is the reasoning's
    assert len(pair.of("draft")) == 2


def test_tokens_are_corrected_as_the_client_asks(pair, client):
    seven = pair.base.tokenizer.encode("7", add_special_tokens=False)[0]
    two = pair.base.tokenizer.encode("2", add_special_tokens=False)[0]
    pair.first = lambda ids, at: seven if ids[at] == two else None  # with a regret of 9.5 nats

    def corrected(**knobs):
        extension = {"specreason": {"trace": True, **knobs}}
        reply = client.chat.completions.create(**ASK, extra_body=extension)
        (trace,) = reply.specreason["traces"]
        return {c["text"] for step in trace["steps"] for c in step["corrections"]}, trace["config"]["repair"]

    assert corrected()[0] == {"7"}
    lax = Correct(delta=10, numeric_delta=10)
    assert corrected(delta=10, numeric_delta=10) == (set(), lax.__dict__ | {"kind": "Correct"})
    texts, repair = corrected(delta=10, window="step")
    assert (texts, repair["window"]) == ({"7"}, None)
    assert corrected(repair="rewrite")[0] == set()


def test_arguments_of_the_chat_template_are_passed_on(pair, client):
    reply = client.chat.completions.create(
        **ASK, extra_body={"chat_template_kwargs": {"enable_thinking": False}, "specreason": {"trace": True}}
    )
    (trace,) = reply.specreason["traces"]
    assert trace["config"]["template"] == {"enable_thinking": False}
    with pytest.raises(openai.BadRequestError, match="tokenize"):
        client.chat.completions.create(**ASK, extra_body={"chat_template_kwargs": {"tokenize": True}})


CORRECTS = SpecReasonConfig(repair=Correct(delta=2, window=8))
JUDGES_FIRST = SpecReasonConfig(repair=Correct(delta=2), verifier=UtilityScore(), threshold=5)
REWRITES = SpecReasonConfig(**get_step_threshold("mini").settings())
LIKELIHOOD, MINI = Likelihood(reduce="min"), get_step_threshold("mini")


@pytest.mark.parametrize(
    ("server", "asked", "expected"),
    [
        (CORRECTS, {}, (CORRECTS.repair, None, None)),
        (CORRECTS, {"repair": "correct"}, (CORRECTS.repair, None, None)),
        (CORRECTS, {"delta": 1}, (Correct(delta=1, window=8), None, None)),
        (CORRECTS, {"window": "step"}, (Correct(delta=2, window=None), None, None)),
        (CORRECTS, {"repair": "rewrite"}, (Rewrite(), LIKELIHOOD, MINI.threshold)),
        (CORRECTS, {"threshold": 5}, (Rewrite(), UtilityScore(), 5)),
        (CORRECTS, {"keep": 0.5}, (Rewrite(), LIKELIHOOD, Quantile(0.5, MINI.values))),
        (CORRECTS, {"repair": "correct", "threshold": 5}, (CORRECTS.repair, UtilityScore(), 5)),
        (JUDGES_FIRST, {"threshold": 8}, (Correct(delta=2), UtilityScore(), 8)),
        (JUDGES_FIRST, {"threshold": 8, "delta": 1}, (Correct(delta=1), UtilityScore(), 8)),
        (JUDGES_FIRST, {"numeric_delta": 1}, (Correct(delta=2, numeric_delta=1), UtilityScore(), 5)),
        (JUDGES_FIRST, {"repair": "rewrite"}, (Rewrite(), LIKELIHOOD, MINI.threshold)),
        (REWRITES, {"repair": "rewrite"}, (Rewrite(), LIKELIHOOD, MINI.threshold)),
        (REWRITES, {"threshold": -3}, (Rewrite(), LIKELIHOOD, -3)),
        (REWRITES, {"keep": 0.5}, (Rewrite(), LIKELIHOOD, Quantile(0.5))),
        (REWRITES, {"verifier": "score"}, (Rewrite(), UtilityScore(), 7)),
        (REWRITES, {"repair": "correct"}, (Correct(), None, None)),
        (REWRITES, {"delta": 1}, (Correct(delta=1), None, None)),
    ],
)
def test_what_a_client_leaves_out_is_the_servers(server, asked, expected):
    config = ChatRequest(**ASK, specreason=asked).config(server, "mini")
    assert (config.repair, config.verifier, config.threshold) == expected


def test_without_a_named_pair_a_rewrite_is_judged_by_the_papers_digit():
    config = ChatRequest(**ASK, specreason={"repair": "rewrite"}).config(CORRECTS)
    assert (config.repair, config.verifier, config.threshold) == (Rewrite(), UtilityScore(), 7)


@pytest.mark.parametrize("server", [CORRECTS, REWRITES])
def test_a_correction_and_a_judge_need_to_be_told_apart(server):
    with pytest.raises(ConfigError, match="delta must come with repair correct, got rewrite"):
        ChatRequest(**ASK, specreason={"threshold": -3, "delta": 1}).config(server)


def test_the_server_tells_requests_its_pair(pair):
    with serving(pair, pair="mini") as url:
        extension = {"repair": "rewrite", "trace": True}
        (trace,) = post(url, {**ASK, "specreason": extension}).json()["specreason"]["traces"]
    assert trace["config"]["threshold"] == MINI.threshold


def test_n_choices_are_n_answers(client):
    reply = client.chat.completions.create(**ASK, n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    chunks = list(client.chat.completions.create(**ASK, n=2, stream=True))
    ends = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(ends) == [0, 1]


def test_an_answer_that_was_cut_says_so(pair, client):
    reply = client.chat.completions.create(**ASK, extra_body={"specreason": {"answer_tokens": 2}})
    assert reply.choices[0].finish_reason == "length"
    pair.start_anew(
        lambda side, turn, most: (f"{side} {turn.count(chr(10))}", "delimiter", 3), lambda turn: 9
    )
    extension = {"specreason": {"token_budget": 6, "at_budget": "stop"}}
    reply = client.chat.completions.create(**ASK, extra_body=extension)
    assert (reply.choices[0].finish_reason, reply.choices[0].message.content) == ("length", "")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
        ({"messages": "x"}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 100}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"best_of": 2}, "best_of"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"surprise": 1}, "surprise"),
        ({"specreason": {"surprise": 1}}, "specreason.surprise"),
        ({"specreason": {"lookahead": 99}}, "specreason.lookahead"),
        ({"specreason": {"repair": "mend"}}, "specreason.repair"),
        ({"specreason": {"delta": -1}}, "specreason.delta"),
        ({"specreason": {"delta": "3"}}, "specreason.delta"),
        ({"specreason": {"numeric_delta": -0.5}}, "specreason.numeric_delta"),
        ({"specreason": {"window": 0}}, "specreason.window"),
        ({"specreason": {"window": "all"}}, "specreason.window"),
        ({"specreason": {"window": 1.5}}, "specreason.window"),
        ({"specreason": {"window": True}}, "specreason.window"),
        ({"specreason": {"confidence": 0.1}}, "specreason.confidence"),
        ({"specreason": {"repair": "rewrite", "delta": 1}}, "specreason.repair"),
        ({"specreason": {"threshold": 5, "window": "step"}}, "specreason.repair"),
        ({"specreason": {"eager_rewrite": True}}, "specreason.eager_rewrite"),
        ({"specreason": {"threshold": 11}}, "specreason.threshold"),
        ({"specreason": {"threshold": 5, "keep": 0.5}}, "specreason.threshold"),
        ({"specreason": {"verifier": "guess"}}, "specreason.verifier"),
        ({"specreason": {"verifier": "yes-no"}}, "specreason.threshold"),
    ],
)
def test_what_cannot_be_done_is_refused_and_never_ignored(pair, url, change, param):
    response = post(url, {**ASK, **change})
    assert response.status == 400
    error = refusal(response)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert not pair.seen


@pytest.mark.parametrize(
    "harmless",
    [
        {"seed": 7, "temperature": 1},
        {"stream": None, "stop": [""], "max_tokens": 100.0, "stream_options": {"include_obfuscation": True}},
        {"min_p": 0, "repetition_penalty": 1, "top_k": -1, "best_of": 1, "echo": False, "ignore_eos": False},
        {"store": True, "service_tier": "flex", "verbosity": "low", "prompt_cache_key": "k"},
        {"n": 1, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0.0, "tools": None},
        {"user": "me", "metadata": {"a": "b"}, "response_format": {"type": "text"}, "logit_bias": {}},
    ],
)
def test_what_asks_for_nothing_is_accepted(url, harmless):
    assert post(url, {**ASK, **harmless}).status == 200


def test_other_refusals_are_in_the_same_format(url):
    assert refusal(post(url, {**ASK, "model": "three"}))["code"] == "model_not_found"
    for body in (b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff"):
        response = post(url, body)
        assert response.status == 400, body[:10]
        refusal(response)
    response = urllib3.request("POST", f"{url}/v1/chat/completions", body=json.dumps(ASK), headers={})
    assert response.status == 400  # a page of another site can send text, but no JSON
    assert refusal(urllib3.request("GET", f"{url}/v1/chat/completions"))["type"] == "invalid_request_error"
    assert urllib3.request("GET", f"{url}/v1/chat/completions").status == 405
    response = urllib3.request("GET", f"{url}/nothing")
    assert response.status == 404
    refusal(response)


def test_errors_are_the_clients_own_exceptions(client):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**ASK, temperature=9)
    with pytest.raises(openai.NotFoundError, match="there are two"):
        client.chat.completions.create(**{**ASK, "model": "x"})


@pytest.mark.parametrize("stream", [False, True])
def test_a_runtime_that_fails_is_a_502_before_anything_was_sent(pair, url, stream):
    pair.start_anew(steps_of(3), lambda turn: 9, lambda seen: FAILS if seen.purpose == "read" else None)
    response = post(url, {**ASK, "stream": stream})
    assert response.status == 502
    assert "boom" in refusal(response)["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_draft_runtime_that_fails_is_done_without(pair, url, stream):
    pair.start_anew(steps_of(3), lambda turn: 9, lambda seen: FAILS if seen.side == "draft" else None)
    response = post(url, {**ASK, "stream": stream})
    assert response.status == 200
    assert "base 3" in response.data.decode()
    assert "boom" not in response.data.decode()


def test_a_runtime_that_fails_in_mid_stream_is_said_in_the_stream(pair, url, client):
    pair.start_anew(steps_of(3), lambda turn: 9, lambda seen: FAILS if seen.purpose == "answer" else None)
    response = post(url, {**ASK, "stream": True})
    assert response.status == 200
    events = [line for line in response.data.decode().split("\n\n") if line]
    assert events[-1] == "data: [DONE]"
    assert "boom" in json.loads(events[-2].removeprefix("data: "))["error"]["message"]
    with pytest.raises(openai.APIError, match="boom"):
        list(client.chat.completions.create(**ASK, stream=True))


def test_a_key_is_asked_for(pair):
    with serving(pair, api_key="sesame é") as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame é"}):
            response = post(url, ASK, **{name: value.encode() for name, value in headers.items()})
            assert response.status == 401
            assert refusal(response)["code"] == "invalid_api_key"
        assert urllib3.request("GET", f"{url}/v1/models").status == 401
        assert urllib3.request("GET", f"{url}/health").status == 200
        assert post(url, ASK, Authorization="Bearer sesame é".encode()).status == 200
    assert len(pair.of("answer")) == 1


def test_a_request_that_is_too_long_is_refused_before_it_is_read_to_its_end(pair):
    with serving(pair, max_body=1000) as url:
        response = post(url, {**ASK, "user": "x" * 2000})
        assert response.status == 413
        refusal(response)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
            connection.sendall(head.encode() + b"x" * 2000)
            assert b"413" in connection.recv(1000)


def test_a_host_name_that_is_not_its_own_is_refused(pair):
    with serving(pair, hosts=("127.0.0.1", "localhost", "[::1]")) as url:
        assert post(url, ASK).status == 200
        for good in ("localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"):
            assert post(url, ASK, Host=good).status == 200
        response = post(url, ASK, Host="evil.example")
        assert response.status == 403
        refusal(response)


def test_no_other_site_is_let_in(url):
    response = urllib3.request(
        "OPTIONS",
        f"{url}/v1/chat/completions",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert "access-control-allow-origin" not in response.headers


def held_back(pair):
    """Holds every draft back until it is released or aborted."""
    release = threading.Event()

    def before(seen):
        if seen.purpose != "draft":
            return None
        wait_until(lambda: release.is_set() or seen.rid in pair.aborted(), 30)
        return aborted() if seen.rid in pair.aborted() else None

    pair.start_anew(steps_of(3), lambda turn: 9, before)
    return release


def test_beyond_the_queue_a_request_is_told_to_come_again(pair):
    with serving(pair, limits={"max_running": 1, "max_queue": 1}) as url, ThreadPoolExecutor(2) as pool:
        release = held_back(pair)
        first = pool.submit(post, url, ASK)
        wait_until(lambda: pair.of("draft"))
        second = pool.submit(post, url, ASK)
        wait_until(lambda: value(url, "specreason_requests_waiting") == 1)
        response = post(url, ASK)
        assert response.status == 429
        assert int(response.headers["Retry-After"]) > 0
        assert refusal(response)["type"] == "rate_limit_error"
        release.set()
        assert (first.result().status, second.result().status) == (200, 200)
        assert value(url, "specreason_requests_waiting") == value(url, "specreason_requests_running") == 0


def value(url, name):
    lines = urllib3.request("GET", f"{url}/metrics").data.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waiting", [False, True])
def test_a_client_that_goes_away_has_its_requests_aborted(pair, stream, waiting):
    with serving(pair, limits={"max_running": 1}) as url:
        release = held_back(pair)
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({**ASK, "stream": stream}).encode()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{kind}\r\n\r\n"

        def connect():
            connection = socket.create_connection((host, int(port)), timeout=20)
            connection.sendall(head.encode() + body)
            return connection

        first = connect()
        wait_until(lambda: pair.of("draft"))
        if waiting:
            second = connect()
            wait_until(lambda: value(url, "specreason_requests_waiting") == 1)
            second.close()
            wait_until(lambda: value(url, "specreason_requests_waiting") == 0)
            assert value(url, "specreason_requests_running") == 1
        first.close()
        wait_until(lambda: value(url, "specreason_requests_running") == 0)
        wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
        assert pair.aborted() == {request.rid for request in pair.of("draft")}
        release.set()
        assert post(url, ASK).status == 200  # its place is free again


def test_a_request_has_a_deadline(pair):
    with serving(pair, limits={"timeout": 0.3, "max_running": 1}) as url, ThreadPoolExecutor(2) as pool:
        held_back(pair)
        replies = [pool.submit(post, url, ASK) for _ in range(2)]  # one runs, one waits
        assert [reply.result().status for reply in replies] == [504, 504]
        assert refusal(replies[0].result())["type"] == "timeout_error"
        wait_until(lambda: pair.draft.in_flight() == 0)


def test_a_server_that_stops_aborts_what_runs(pair):
    with ThreadPoolExecutor(1) as pool:
        with serving(pair) as url:
            held_back(pair)
            reply = pool.submit(post, url, ASK)
            wait_until(lambda: pair.of("draft"))
        wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
        assert reply.result().status == 503


def test_a_server_that_stops_begins_nothing_that_waited(pair):
    with ThreadPoolExecutor(2) as pool:
        with serving(pair, limits={"max_running": 1}) as url:
            held_back(pair)
            replies = [pool.submit(post, url, ASK) for _ in range(2)]
            wait_until(lambda: pair.of("draft") and value(url, "specreason_requests_waiting") == 1)
        assert [reply.result().status for reply in replies] == [503, 503]
    assert len(pair.of("draft")) == 1


def test_health_says_how_the_runtimes_are(pair):
    states = {side: ServerState("ready", 1.0, restarts=2) for side in ("draft", "base")}
    health, metrics = Health(), Metrics()

    def report():
        health.report(states)
        metrics.report(states)

    with serving(pair, health=health) as url:
        report()
        response = urllib3.request("GET", f"{url}/health")
        assert (response.status, response.json()["status"]) == (200, "ok")
        states["draft"] = ServerState("unwatched", 1.0, restarts=3)
        report()
        response = urllib3.request("GET", f"{url}/health")
        assert (response.status, response.json()["status"]) == (503, "degraded")
        assert [runtime["state"] for runtime in response.json()["runtimes"].values()] == [
            "unwatched",
            "ready",
        ]
    name = "specreason_runtime_restarts"
    assert [metrics.registry.get_sample_value(name, {"side": side}) for side in states] == [3, 2]


def test_until_the_runtimes_are_ready_a_client_is_told_to_come_again(pair):
    health = Health()
    with serving(pair, health=health, is_open=False) as url:
        reply = post(url, ASK)
        assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
        error = reply.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("server_error", None, None)
        assert "still starting" in error["message"]
        assert post(url, {**ASK, "temperature": 9}).status == 400
        health.is_waiting("waiting for the base server, 3 s")
        reply = urllib3.request("GET", f"{url}/health")
        assert (reply.status, reply.json()) == (
            503, {"status": "starting", "doing": "waiting for the base server, 3 s"},
        )  # fmt: skip
        assert [urllib3.request("GET", url + path).status for path in ("/", "/v1/models")] == [200, 200]


def test_what_happens_is_counted(pair):
    digits = {"draft 1": 9, "draft 2": 3}
    pair.start_anew(steps_of(3), lambda turn: digits.get(turn.split("\n\n")[-1], 9))
    knobs = {"repair": "rewrite", "lookahead": 0}
    with serving(pair) as url:
        post(url, {**ASK, "specreason": knobs})
        post(url, {**ASK, "stream": True, "specreason": knobs})
        post(url, {**ASK, "temperature": 9})
        assert value(url, 'specreason_requests_total{model="two",status="ok"}'.partition("{")[0]) == 2
        assert value(url, "specreason_steps_total") == 6
        assert value(url, "specreason_steps_rejected_total") == 2
        assert value(url, "specreason_score_count") == 6
        assert value(url, "specreason_time_to_first_token_seconds_count") == 1
        assert value(url, "specreason_tokens_total") == 2 * (3 * 3 + 3 + 3 + 2)
        assert value(url, "specreason_wasted_tokens_total") == 2 * 3
        assert value(url, "specreason_request_seconds_count") == 2


def test_many_clients_get_each_its_own_answer(pair, url):
    seen = {}

    def ask(i):
        messages = [{"role": "user", "content": f"number {i}"}]
        reply = post(url, {**ASK, "messages": messages, "specreason": {"trace": True}}).json()
        seen[i] = reply["specreason"]["traces"][0]["question"]

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(64)))
    assert seen == {i: f"number {i}" for i in range(64)}
