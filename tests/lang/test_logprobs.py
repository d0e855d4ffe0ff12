"""`logprobs`: the tokens of a text as a model reads them, and what it would have written itself."""

import pytest
import sglang as sgl

from specreason_sgl import Endpoint, logprobs, score
from specreason_sgl.errors import ConfigError, ServerFailed
from specreason_sgl.lang.logprobs import Choice, TokenLogprob, read_tokens
from tests.conftest import make_tokenizer
from tests.scripted import ScriptedServer, answer, by_character, part_of, reading, streamed

TEXTS = ["Then 12 are left.", "é 🙂 好的", " x", "\n\ny", "3.5", ".", "a\n", "  two  spaces"]


@sgl.function
def read(s, before, expression):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += before
    s += expression


def tokens_of(endpoint, expression, before="So:"):
    return read.run(before=before, expression=expression, backend=endpoint).get_meta_info("x")["logprobs"]


@pytest.fixture(params=["qwen2.5", "llama-3", "gemma-2", "zephyr"])
def server(request, tmp_path):
    make_tokenizer(request.param).save_pretrained(tmp_path)
    with ScriptedServer(str(tmp_path)) as server, Endpoint(server.url, timeout=20, retry_for=0) as endpoint:
        server.on_generate = lambda payload: answer("", **reading(payload))
        server.endpoint = endpoint
        yield server


@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_the_tokens_are_the_text(server, text):
    tokens = tokens_of(server.endpoint, logprobs("x", text))
    assert "".join(token.text for token in tokens).endswith(text)
    ids = server.generated()[-1]["input_ids"]
    assert [token.id for token in tokens] == ids[-len(tokens) :]


def test_each_token_has_the_models_first_choices(server):
    endpoint = server.endpoint
    own = endpoint.chat_template.encode_text("7")[-1]

    def first(ids, at):
        return own if at == len(ids) - 1 else None

    server.on_generate = lambda payload: answer("", **reading(payload, first=first))
    *same, last = tokens_of(endpoint, logprobs("x", "2 + 3 = 6"))
    assert (last.first[0].text.strip(), last.first[0].id, last.regret) == ("7", own, 9.5)
    assert all(token.first[0].id == token.id and token.regret == 0 for token in same)
    assert server.generated()[-1]["top_logprobs_num"] == 1


def test_so_many_first_choices_are_asked_for_as_are_wanted(server):
    tokens_of(server.endpoint, logprobs("x", "text", top=5))
    assert server.generated()[-1]["top_logprobs_num"] == 5


def test_the_end_of_the_turn_can_be_read(server):
    endpoint = server.endpoint
    *_, last = tokens_of(endpoint, logprobs("x", "It is 4.", end_of_turn=True))
    assert last.id == endpoint.chat_template.end_of_turn
    assert endpoint.chat_template.is_end(last.id)
    (only,) = tokens_of(endpoint, logprobs("x", "", end_of_turn=True), before="It is 4.")
    assert only.id == last.id


def test_a_token_that_begins_before_the_text_is_read_too(server):
    """Where the text before ends inside a token of the whole."""
    endpoint = server.endpoint
    whole = endpoint.chat_template.encode_text("lic" + "ense")
    if whole[: len(endpoint.chat_template.encode_text("lic"))] == endpoint.chat_template.encode_text("lic"):
        pytest.skip("this vocabulary has a token's end there")
    tokens = tokens_of(endpoint, logprobs("x", "ense"), before="lic")
    assert len("".join(token.text for token in tokens)) > len("ense")


def test_a_score_brings_first_choices_too(server):
    endpoint = server.endpoint

    def reply(payload):
        meta = reading(payload)
        wanted = payload["token_ids_logprob"]
        return answer("", **meta, output_token_ids_logprobs=[[[-1.0, token, None] for token in wanted]])

    server.on_generate = reply
    start = len(read.run(before="So:", expression="", backend=endpoint).text())
    tokens = tokens_of(endpoint, "12 is" + score("x", logprobs_of=(start, start + 5)))
    assert tokens
    assert all(len(token.first) == 1 for token in tokens)


def test_a_server_that_does_not_say_its_first_choices_is_one_error(server):
    def reply(payload):
        meta = reading(payload)
        del meta["input_top_logprobs"]
        return answer("", **meta)

    server.on_generate = reply
    with pytest.raises(ServerFailed, match="not an answer of SGLang's"):
        tokens_of(server.endpoint, logprobs("x", "text"))


def test_what_is_read_of_other_tokens_is_refused():
    meta = {
        "input_token_logprobs": [[None, 5, None], [-1.0, 6, None]],
        "input_top_logprobs": [None, [[-1.0, 6, None]]],
    }
    with pytest.raises(ValueError, match="other tokens"):
        read_tokens(str, [5, 7], 1, 2, meta)


@pytest.mark.parametrize(
    ("arguments", "why"), [(("",), "must not be empty"), (("x", 0), "top must be at least 1")]
)
def test_what_cannot_be_read_is_refused(arguments, why):
    with pytest.raises(ConfigError, match=why):
        logprobs("x", *arguments)


def test_a_regret_is_never_below_0():
    assert TokenLogprob("a", -1.0, 1, (Choice("b", 2, -1.5),)).regret == 0
    assert TokenLogprob("a", -1.0).regret == 0


def test_a_stream_holds_back_what_may_be_the_beginning_of_a_stop_text(scripted, chatml_folder):
    """SGLang cuts the stop text off at the end; what was told before must still be its beginning."""
    whole = answer("one\ntwo", {"type": "stop", "matched": "\n\n"})
    events = [*by_character(whole)[:-1], part_of(whole, "one\ntwo\n"), whole]
    scripted.on_generate = lambda payload: streamed(*events)

    @sgl.function
    def write(s):
        s += sgl.user("q")
        s += sgl.assistant_begin()
        s += sgl.gen("x", max_tokens=9, stop=["\n\n"])

    with Endpoint(scripted.url, timeout=20) as endpoint:
        state = write.run(backend=endpoint, stream=True)
        assert "".join(state.text_iter("x")).startswith("one\ntw")
        assert state["x"] == "one\ntwo"
