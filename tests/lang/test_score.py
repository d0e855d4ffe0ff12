"""`score`: a decision in one request of one token, or by SGLang's `select`."""

import pytest
import sglang as sgl

from specreason_sgl import score
from specreason_sgl.errors import ConfigError
from tests.support.scripted import answer


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
        tail = [prompt[payload["logprob_start_len"] :] for prompt in ids]
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
