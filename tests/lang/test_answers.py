"""Whatever a server answers, what comes of it is a result or one of the package's own errors."""

import copy
import json
import math

import pytest
import sglang as sgl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specreason_sgl import Endpoint, score
from specreason_sgl.errors import ServerError, SpecReasonError
from specreason_sgl.lang.logprobs import logprobs
from specreason_sgl.reasoning.verifier import Drafted
from specreason_sgl.verifiers import RewardModel
from tests.support.scripted import ScriptedServer, answer, reading, streamed
from tests.support.waiting import quick_retries

SOME = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens", "output_token_logprobs",
    "input_token_logprobs", "input_top_logprobs", "output_token_ids_logprobs",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(chatml_folder):
    with ScriptedServer(chatml_folder) as server:
        yield server


@pytest.fixture(scope="module")
def endpoint(server):
    with quick_retries(), Endpoint(server.url, timeout=20, retry_for=0) as endpoint:
        yield endpoint


@sgl.function
def everything(s, endpoint, kind):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += "So "
    if kind in ("gen", "stream"):
        s += sgl.gen("x", max_tokens=4, stop=["\n\n"], return_logprob=True)
    elif kind == "score":
        start = len(s.text())
        s += "this" + score("x", logprobs_of=(start, start + 4))
    elif kind == "select":
        s += sgl.select("x", choices=["one", "two"])
    elif kind == "logprobs":
        s += logprobs("x", "this and that")
    else:
        verifier, drafted = RewardModel(endpoint), Drafted("step", 1, "delimiter")
        s["x"] = verifier.judgement(verifier.ask(s, drafted), drafted).value


KINDS = ["gen", "stream", "score", "select", "logprobs", "reward"]


def ask(server, endpoint, kind, body: bytes, status: int = 200):
    """The result, or the error, where the server answers with this to everything."""

    def reply(payload):
        if payload.get("stream") and status == 200:
            return streamed(body.replace(b"\n", b" "))
        several = len(payload["input_ids"]) if isinstance(payload["input_ids"][0], list) else 0
        return status, b"[" + b",".join([body] * several) + b"]" if several else body

    server.on_generate = server.on_classify = reply
    try:
        state = everything.run(endpoint=endpoint, kind=kind, backend=endpoint, stream=kind == "stream")
        if kind == "stream":
            list(state.text_iter())
        state.get_meta_info("x") if kind != "reward" else None
        return state["x"]
    except SpecReasonError as error:
        return error


def good(endpoint, server, kind):
    """What SGLang would answer, for any kind."""
    digits = [endpoint.tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(10)]
    prefill = {}
    if kind in ("score", "logprobs"):
        ask(server, endpoint, kind, b"{}", status=400)
        prefill = reading(server.generated()[-1])
    whole = answer(
        "x",
        **prefill,
        output_token_logprobs=[[-0.5, 5, "x"]],
        output_token_ids_logprobs=[[[-1.0, token, None] for token in digits]],
    )
    whole["embedding"] = [0.1, 0.9]
    if kind == "reward":
        del whole["text"]
    else:
        del whole["embedding"]
    return whole


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(data=VALUES)
def test_any_json(server, endpoint, kind, data):
    ask(server, endpoint, kind, json.dumps(data).encode())


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(body=st.binary(max_size=60))
def test_any_bytes(server, endpoint, kind, body):
    ask(server, endpoint, kind, body)


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(value=VALUES, field=st.sampled_from([*FIELDS, "text", "embedding", "meta_info"]), drop=st.booleans())
def test_an_answer_with_one_odd_part(server, endpoint, kind, value, field, drop):
    whole = copy.deepcopy(good(endpoint, server, kind))
    part = whole["meta_info"] if field in FIELDS else whole
    if drop:
        part.pop(field, None)
    else:
        part[field] = value
    result = ask(server, endpoint, kind, json.dumps(whole).encode())
    assert isinstance(result, str | int | float | SpecReasonError)


@pytest.mark.parametrize("kind", ["gen", "stream", "score", "logprobs", "reward"])
def test_the_answer_without_an_odd_part_is_one(server, endpoint, kind):
    result = ask(server, endpoint, kind, json.dumps(good(endpoint, server, kind)).encode())
    assert not isinstance(result, SpecReasonError)


@pytest.mark.parametrize("logprob", [None, "x", math.nan, math.inf, 10**400, [], 800.0])
def test_a_logprob_that_is_none_is_the_servers_fault(server, endpoint, logprob):
    whole = good(endpoint, server, "score")
    whole["meta_info"]["output_token_ids_logprobs"][0][3][0] = logprob
    result = ask(server, endpoint, "score", json.dumps(whole).encode())
    assert isinstance(result, ServerError)
    assert "not an answer" in str(result)


ODD = [b"[" * 100_000, b'{"error": ' * 5000 + b"1" + b"}" * 5000, b"9" * 10_000, b'"\\ud800"', b"\xff", b""]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("status", [200, 400, 500])
def test_deep_and_odd_json(server, endpoint, body, status):
    error = ask(server, endpoint, "score", body, status)
    assert isinstance(error, ServerError)
    assert len(str(error).encode()) < 2000


def test_a_stream_with_nothing_in_it_is_an_error(server, endpoint):
    server.on_generate = lambda payload: streamed()
    state = everything.run(endpoint=endpoint, kind="stream", backend=endpoint, stream=True)
    list(state.text_iter())
    with pytest.raises(ServerError, match="no answer in it"):
        state.get_meta_info("x")
