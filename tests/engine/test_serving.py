"""The server in front of real runtimes, by real clients."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import urllib3

from specreason_sgl import Rewrite, SpecReasonConfig, Trace, solve
from tests.support import browser
from tests.support.runtimes import QUESTIONS, flush_caches, running, urls
from tests.support.waiting import wait_until

CONFIG = SpecReasonConfig(
    repair=Rewrite(), threshold=3, temperature=0, token_budget=60, step_tokens=25, answer_tokens=12
)
KNOBS = ["--threshold", "3", "--token-budget", "60", "--step-tokens", "25"]
KNOBS += ["--answer-tokens", "12"]

JSON = {"Content-Type": "application/json"}


@contextlib.contextmanager
def serve(*arguments):
    """`specreason-sgl serve` as a process; gives its URL."""
    command = [sys.executable, "-m", "specreason_sgl.cli", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield re.search(r"at (http://127\.0\.0\.1:\d+)/v1", process.stdout.readline())[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def url(pair):
    with serve(*urls(pair), "--served-model-name", "nano", *KNOBS) as url:
        yield url


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def asked(question):
    return {"model": "nano", "messages": [{"role": "user", "content": question}]}


def test_the_api_answers_as_solve_does(client, draft, base):
    question = QUESTIONS[0]
    flush_caches(draft, base)
    trace = solve(question, draft=draft, base=base, config=CONFIG)
    flush_caches(draft, base)
    reply = client.chat.completions.create(**asked(question))
    assert reply.choices[0].message.reasoning_content == trace.reasoning
    assert reply.choices[0].message.content == trace.answer
    assert reply.usage.completion_tokens_details.reasoning_tokens == sum(step.tokens for step in trace.steps)


def test_a_stream_has_the_steps_and_then_the_answer(client):
    chunks = [
        *client.chat.completions.create(
            **asked(QUESTIONS[0]), stream=True, extra_body={"specreason": {"trace": True}}
        )
    ]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    kinds = ["reasoning" if getattr(delta, "reasoning_content", None) else "answer" for delta in deltas[1:-1]]
    assert kinds == sorted(kinds, reverse=True)
    assert {"reasoning", "answer"} == set(kinds)
    trace = Trace.from_json(json.dumps(chunks[-1].specreason["trace"]))
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == trace.reasoning
    assert "".join(delta.content or "" for delta in deltas) == trace.answer
    steps = [chunk.specreason["step"]["text"] for chunk in chunks[:-1] if hasattr(chunk, "specreason")]
    assert steps == [step.text for step in trace.steps]


def test_the_server_remembers_what_was_said_before(client):
    talk = [
        {"role": "system", "content": "You are a careful teacher."},
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "And twice that?"},
    ]
    short = {"model": "nano", "extra_body": {"specreason": {"token_budget": 20}}}
    first = client.chat.completions.create(**short, messages=talk[:2])
    reply = client.chat.completions.create(**short, messages=talk)
    assert reply.choices[0].message.content
    assert reply.usage.prompt_tokens > first.usage.prompt_tokens + 8


def test_an_answer_is_json_and_a_required_call_follows_its_schema(client):
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    format = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    short = {"token_budget": 20, "answer_tokens": 64}
    reply = client.chat.completions.create(
        **asked("What is 2 + 3?"), response_format=format, extra_body={"specreason": short}
    )
    assert isinstance(json.loads(reply.choices[0].message.content)["sum"], int)
    tool = {"type": "function", "function": {"name": "tell", "parameters": schema}}
    reply = client.chat.completions.create(
        **asked("What is 2 + 3?"), tools=[tool], tool_choice="required", parallel_tool_calls=False,
        extra_body={"specreason": short},
    )  # fmt: skip
    (call,) = reply.choices[0].message.tool_calls
    assert isinstance(json.loads(call.function.arguments)["sum"], int)


def test_wrong_requests_are_told_apart(client):
    with pytest.raises(openai.BadRequestError, match="threshold"):
        client.chat.completions.create(**asked("q"), extra_body={"specreason": {"threshold": 11}})
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="other", messages=asked("q")["messages"])
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(**asked("word " * 40000))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_leaves_both_runtimes_idle(url, pair, stream):
    body = {**asked("Count to a thousand."), "stream": stream, "specreason": {"token_budget": 2000}}
    response = None
    pool = urllib3.HTTPConnectionPool(url.removeprefix("http://"))
    if stream:
        response = pool.request("POST", "/v1/chat/completions", json=body, preload_content=False)
    else:
        connection = pool.ConnectionCls(pool.host, pool.port)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), JSON)
    wait_until(lambda: running(pair.draft.url) + running(pair.base.url) > 0)
    (response or connection).close()
    wait_until(lambda: running(pair.draft.url) + running(pair.base.url) == 0)
    again = threading.Event()
    assert not again.wait(0.5)
    assert running(pair.draft.url) + running(pair.base.url) == 0


def test_clients_at_once_get_their_own_answers(client):
    animals = ["cats", "dogs", "hens", "owls", "rats"]
    questions = [f"A farm has {i} {name} and buys 2. How many {name}?" for i, name in enumerate(animals, 3)]
    extension = {"specreason": {"trace": True}}

    def ask(question):
        reply = client.chat.completions.create(**asked(question), extra_body=extension)
        trace = Trace.from_json(json.dumps(reply.specreason["traces"][0]))
        assert trace.reasoning == reply.choices[0].message.reasoning_content
        return trace

    with ThreadPoolExecutor(len(questions)) as threads:
        traces = [*threads.map(ask, questions)]
    assert [trace.question for trace in traces] == questions
    for trace, name in zip(traces, animals, strict=True):
        others = [other for other in animals if other != name]
        assert not re.search("|".join(others), trace.reasoning)
        assert name in trace.reasoning


@browser.needed
def test_the_page_shows_two_real_models_think(url, pair, tmp_path):
    server = types.SimpleNamespace(url=f"{url}/", key=None)
    with browser.started(tmp_path) as driver, browser.watched(driver, server) as view:
        view.open().ask(QUESTIONS[0])
        wait_until(lambda: "Done" in view.text("#status"), 120)
        assert view.all(".step")
        assert len(view.all("#timeline .bar")) >= len(view.all(".step"))
        assert view.text("#answer")
        assert view.texts("#timeline .name") == ["draft", "base"]
