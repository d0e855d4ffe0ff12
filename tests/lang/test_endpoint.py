"""`Endpoint`: how it connects, and what it makes of a request."""

import pytest
import sglang as sgl

from specreason_sgl import Endpoint
from specreason_sgl.errors import ConfigError, ContextLengthExceeded, NotSGLang, Unauthorized
from tests.support.asking import run
from tests.support.scripted import answer


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
    assert [payload["sampling_params"]["max_new_tokens"] for payload in scripted.generated()] == [4, 3]
    endpoint.context_length = prompt
    with pytest.raises(ContextLengthExceeded, match=f"context of scripted at .*: {prompt} tokens of at most"):
        run(endpoint)["a"]
    assert len(scripted.generated()) == 2


def test_room_is_counted_in_tokens_where_the_bytes_do_not_leave_enough(endpoint):
    state = run(endpoint)
    endpoint.context_length = 1000
    by_bytes = 1000 - len(f"{state.text()} déjà".encode())
    exact = endpoint.room(state, " déjà")
    assert by_bytes < exact < 1000
    assert endpoint.room(state, " déjà", enough=by_bytes) == by_bytes
    assert endpoint.room(state, " déjà", enough=by_bytes + 1) == exact


def test_a_launched_server_brings_its_key(scripted):
    scripted.api_key = "of this launch"
    with Endpoint(scripted, timeout=20) as endpoint:
        assert run(endpoint)["a"] == "ok"
    with pytest.raises(Unauthorized, match="refuses the API key"):
        Endpoint(scripted.url)


def test_what_follows_a_stop_is_cut_off(scripted, endpoint):
    scripted.on_generate = lambda payload: answer("one\n\ntwo", {"type": "length", "length": 9})

    @sgl.function
    def stopping(s):
        s += sgl.user("q")
        s += sgl.assistant(sgl.gen("a", stop=["\n\n"]))

    state = stopping.run(backend=endpoint)
    assert state["a"] == "one"
    assert state.get_meta_info("a")["finish_reason"] == {"type": "stop", "matched": "\n\n"}


def test_not_an_sglang_server(scripted):
    scripted.model_info = {}
    with pytest.raises(NotSGLang, match="not an SGLang server"):
        Endpoint(scripted.url)


def test_a_tokenizer_that_is_not_here_says_what_to_pass(scripted, tmp_path):
    scripted.model_info["tokenizer_path"] = str(tmp_path / "none")
    with pytest.raises(ConfigError, match="pass a folder or a Hugging Face name as tokenizer"):
        Endpoint(scripted.url)
