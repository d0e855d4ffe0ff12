"""`logprobs`: the tokens of a text as a model reads them, and what it would have written itself."""

import pytest
import sglang as sgl

from specreason_sgl import Endpoint, logprobs, score
from specreason_sgl.errors import ConfigError, ServerFailed
from specreason_sgl.lang.logprobs import Choice, TokenLogprob, read_tokens
from tests.support.scripted import ScriptedServer, answer, reading
from tests.support.tokenizers import make_tokenizer

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
def test_the_logprobs_of_a_text_are_of_its_tokens(server, text):
    server.on_generate = with_logprobs
    state = read.run(before="So:", expression=logprobs("x", text), backend=server.endpoint)
    tokens = state.get_meta_info("x")["logprobs"]
    (payload,) = server.generated()
    ids, count = payload["input_ids"], len(tokens)
    assert "".join(token.text for token in tokens).endswith(text)
    assert [token.id for token in tokens] == ids[-count:]
    assert [token.logprob for token in tokens] == [-float(i) for i in range(len(ids) - count, len(ids))]
    assert payload["logprob_start_len"] == len(ids) - count - 1  # the first that is asked for has none
    assert payload["sampling_params"]["max_new_tokens"] == 0
    assert payload["return_logprob"] is True
    assert state["x"] == text
    assert state.text().endswith("So:" + text)


def test_each_token_has_the_models_first_choices(server):
    endpoint = server.endpoint
    seven = endpoint.chat_template.encode_text("7")[-1]

    def first(ids, at):
        return seven if at == len(ids) - 1 else None

    server.on_generate = lambda payload: answer("", **reading(payload, first=first))
    *same, last = tokens_of(endpoint, logprobs("x", "2 + 3 = 6"))
    assert (last.first[0].text.strip(), last.first[0].id, last.regret) == ("7", seven, 9.5)
    assert all(token.first[0].id == token.id and token.regret == 0 for token in same)
    assert server.generated()[-1]["top_logprobs_num"] == 1


def test_top_is_how_many_first_choices_are_asked_for(server):
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


def with_logprobs(payload):
    """Answers with -i of the i-th prompt token, and 3 for the digit."""
    meta = {}
    if "logprob_start_len" in payload:
        meta = reading(payload, logprob=lambda ids, at: -float(at))
    if wanted := payload.get("token_ids_logprob"):
        meta["output_token_ids_logprobs"] = [[[-float(i != 3), t, None] for i, t in enumerate(wanted)]]
    return answer("", {"type": "length"}, **meta)


def scored(endpoint, text, after):
    """The state of a program that reads `text` before what is `after` it and a score."""
    start = len(read.run(before="So:", expression="", backend=endpoint).text())
    expression = text + after + score("x", logprobs_of=(start, start + len(text)))
    return read.run(before="So:", expression=expression, backend=endpoint)


@pytest.mark.parametrize("text", TEXTS)
def test_a_score_brings_the_logprobs_of_a_part_of_the_text(scripted, endpoint, text):
    scripted.on_generate = with_logprobs
    state = scored(endpoint, text, "\n\nScore: ")
    tokens = state.get_meta_info("x")["logprobs"]
    (payload,) = scripted.generated()
    ids, text_ids = payload["input_ids"], endpoint.tokenizer.encode(text, add_special_tokens=False)
    at = next(i for i in range(len(ids) - 1, 0, -1) if ids[i : i + len(text_ids)] == text_ids)
    assert payload["logprob_start_len"] == at - 1
    assert payload["sampling_params"]["max_new_tokens"] == 1
    assert len(payload["token_ids_logprob"]) == 10
    assert [token.logprob for token in tokens] == [-float(i) for i in range(at, at + len(text_ids))]
    assert all(len(token.first) == 1 for token in tokens)
    assert state["x"] == "3"


def test_a_token_that_two_texts_share_is_of_neither(scripted, endpoint):
    """The tokens of a text inside another are those that it has wholly: a shared one says nothing of it."""
    text, after = "the lic", "ense: "
    scripted.on_generate = with_logprobs
    together = endpoint.tokenizer.encode(text + after, add_special_tokens=False)
    apart = endpoint.tokenizer.encode(text, add_special_tokens=False)
    same = next(i for i, (a, b) in enumerate(zip(together, apart, strict=False)) if a != b)
    assert same < len(apart)  # else this would test nothing
    state = scored(endpoint, text, after)
    tokens = state.get_meta_info("x")["logprobs"]
    assert [token.text for token in tokens] == [endpoint.tokenizer.decode([token]) for token in apart[:same]]
