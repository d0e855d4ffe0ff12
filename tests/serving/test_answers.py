"""Tools, JSON, and the other APIs: what OpenAI's own client makes of the answers."""

import json

import openai
import pytest
import urllib3

from specreason_sgl import SpecReasonConfig
from specreason_sgl.serving.api import ChatRequest
from tests.support.pair import ENDS
from tests.support.scripted import answer, by_character, streamed
from tests.support.serving import serving
from tests.support.writers import FAILS, steps_of

QUESTION = [{"role": "user", "content": "q"}]
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": SCHEMA}}
REASONING = "draft 1\n\ndraft 2\n\ndraft 3"


pytestmark = pytest.mark.usefixtures("calm")


def answering(pair, text, streams=False):
    """Have the base model's final answer be this text."""
    whole = answer(text, ENDS["eos"])

    def before(seen):
        if seen.purpose == "answer":
            return streamed(*by_character(whole)) if streams else whole
        return None

    pair.start_anew(steps_of(3), lambda turn: 9, before)


def sampling_of(pair, purpose):
    """The sampling parameters of the last request to the base model."""
    assert pair.seen[-1].purpose == purpose
    return pair.base_server.generated()[-1]["sampling_params"]


CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 2}}\n</tool_call>'
ARRAY = '[{"name": "add", "parameters": {"x": 2}}]'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "text", "content"),
    [
        ("auto", f"Let me add. {CALL}", "Let me add."),
        ("auto", CALL, None),
        ("required", ARRAY, None),
        ({"type": "function", "function": {"name": "add"}}, ARRAY, None),
    ],
)
def test_a_call_of_a_tool_is_the_answer(pair, client, stream, choice, text, content):
    answering(pair, text, stream)
    reply = client.chat.completions.create(
        model="two", messages=QUESTION, tools=[TOOL], tool_choice=choice, stream=stream
    )
    if stream:
        deltas = [chunk.choices[0] for chunk in reply if chunk.choices]
        (call,) = [call for delta in deltas for call in delta.delta.tool_calls or ()]
        finish = deltas[-1].finish_reason
        said = "".join(delta.delta.content or "" for delta in deltas) or None
        assert call.index == 0
    else:
        message, finish = reply.choices[0].message, reply.choices[0].finish_reason
        (call,), said = message.tool_calls, message.content
        assert message.reasoning_content == REASONING
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "add",
        {"x": 2},
    )
    assert (said, finish) == (content, "tool_calls")
    schema = sampling_of(pair, "answer")["json_schema"]
    assert (schema is None) == (choice == "auto")


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_call_the_answer_is_text(pair, client, stream):
    for text, choice in [
        ("2 <tool", "auto"),
        ("<tool_call>{", "auto"),
        (CALL, "none"),
        ('[{"na', "required"),
    ]:
        answering(pair, text, stream)
        reply = client.chat.completions.create(
            model="two", messages=QUESTION, tools=[TOOL], tool_choice=choice, stream=stream
        )
        said = (
            "".join(c.choices[0].delta.content or "" for c in reply)
            if stream
            else reply.choices[0].message.content
        )
        assert said == text


def test_tools_and_their_results_are_in_the_prompt(pair, client):
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 2}'}}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "b"}]},
        {"role": "tool", "tool_call_id": "a", "content": "4"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "5"}]},
    ]
    client.chat.completions.create(model="two", messages=messages, tools=[TOOL])
    prompt = pair.base.tokenizer.decode(pair.draft_server.generated()[0]["input_ids"])
    system, user, assistant, results = prompt.split("<|im_start|>")[1:5]
    assert json.dumps(TOOL["function"]["parameters"]) in system
    assert user == "user\nq<|im_end|>\n"
    assert assistant == f"assistant\n{CALL}\n{CALL}<|im_end|>\n"
    responses = "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in "45")
    assert results.startswith(f"user\n{responses}")


@pytest.mark.parametrize(
    ("format", "schema"),
    [
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "text"}, None),
    ],
)
def test_json_is_asked_of_the_answer_alone(pair, client, format, schema):
    client.chat.completions.create(
        model="two",
        messages=QUESTION,
        response_format=format,
        extra_body={"specreason": {"first_base_steps": 1}},
    )
    asked = [request["sampling_params"].get("json_schema") for request in pair.base_server.generated()]
    assert [json.loads(text) if text else None for text in asked] == [*[None] * (len(asked) - 1), schema]


def deep(levels):
    return {"type": "object", "properties": {"a": deep(levels - 1)}} if levels else SCHEMA


@pytest.mark.parametrize(
    ("change", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "robot"}}}},
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": SCHEMA}}}},
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": deep(200)}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "sub"}}, "tools": [TOOL]}, "tool_choice"),
        ({"messages": [{"role": "assistant"}, *QUESTION]}, "messages.0"),
    ],
)
def test_what_the_grammar_cannot_do_is_refused(client, change, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "two", "messages": QUESTION, **change})
    assert refused.value.param == param


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_can_be_part_of_the_content(pair, client, stream):
    answering(pair, " 7 ", stream)
    options = {"stream": stream, "extra_body": {"separate_reasoning": False}}
    reply = client.chat.completions.create(model="two", messages=QUESTION, **options)
    said = (
        "".join(c.choices[0].delta.content or "" for c in reply)
        if stream
        else reply.choices[0].message.content
    )
    assert said == f"<think>\n{REASONING}\n</think>\n\n7"


@pytest.mark.parametrize("prompt", ["q", ["q"]])
def test_a_completion_is_the_answer_to_a_prompt(pair, client, prompt):
    reply = client.completions.create(model="two", prompt=prompt, n=2, max_tokens=100, echo=False, best_of=1)
    asked = pair.draft_server.generated()[0]["input_ids"]
    assert "user\nq" in pair.base.tokenizer.decode(asked)
    assert [choice.finish_reason for choice in reply.choices] == ["stop", "stop"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.completions.create(model="two", prompt=prompt, max_tokens=100, **options)
    assert "".join(chunk.choices[0].text for chunk in chunks) == reply.choices[0].text != ""
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert 2 * last.usage.completion_tokens == reply.usage.completion_tokens
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.completions.create(model="two", prompt=["q", "r"])


def test_a_response_has_its_thinking_and_its_text(pair, client):
    given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]}]
    response = client.responses.create(
        model="two", input=given, instructions="Be brief.", max_output_tokens=90, reasoning={"effort": "high"}
    )
    prompt = pair.base.tokenizer.decode(pair.draft_server.generated()[0]["input_ids"])
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nq<|im_end|>")
    thinking, message = response.output
    assert (thinking.type, thinking.content[0].text) == ("reasoning", REASONING)
    assert (message.type, response.output_text, response.status) == (
        "message",
        message.content[0].text,
        "completed",
    )
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    with client.responses.stream(model="two", input=[*given, *response.output, *given]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert final.output_text
    with pytest.raises(openai.BadRequestError, match="the question is empty") as refused:
        client.responses.create(model="two", input=" ")
    assert refused.value.param == "input"
    with pytest.raises(openai.BadRequestError, match="send the conversation as input"):
        client.responses.create(model="two", input="q", previous_response_id="resp_1")


def test_a_response_follows_a_schema_and_says_when_it_was_cut(pair, client):
    format = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}
    client.responses.create(model="two", input="q", text={"format": format})
    assert json.loads(sampling_of(pair, "answer")["json_schema"]) == SCHEMA
    response = client.responses.create(model="two", input="q", max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_response_that_fails_in_mid_stream_says_so(pair, client):
    pair.start_anew(steps_of(3), lambda turn: 9, lambda seen: FAILS if seen.purpose == "answer" else None)
    *_, last = client.responses.create(model="two", input="q", stream=True)
    assert last.type == "response.failed"
    assert "boom" in last.response.error.message


def test_every_model_is_listed_and_can_be_asked_for(url, client):
    for model in client.models.list():
        assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError, match="there are two"):
        client.models.retrieve("three")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/v1/models/two"])
def test_a_head_is_a_get_without_its_body(url, path):
    response = urllib3.request("HEAD", url + path)
    assert (response.status, response.data) == (200, b"")
    assert int(response.headers["Content-Length"]) > 0


def test_sampling_reaches_both_models_and_a_seed_each_choice(pair, client):
    reply = client.chat.completions.create(
        model="two", messages=QUESTION, temperature=0.8, seed=5, n=2,
        extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1},
    )  # fmt: skip
    asked = [*pair.draft_server.generated(), pair.base_server.generated()[-1]]
    for request in asked:
        sampling = request["sampling_params"]
        assert (sampling["top_k"], sampling["min_p"], sampling["repetition_penalty"]) == (40, 0.1, 1.1)
    assert {request["sampling_params"]["sampling_seed"] for request in asked} == {5, 6}
    assert (
        reply.system_fingerprint
        == client.completions.create(model="two", prompt="q").system_fingerprint
        != ""
    )


@pytest.mark.parametrize(
    ("asked", "budget", "answer"),
    [
        ({}, 1000, 512),
        ({"max_tokens": 1}, 0, 1),
        ({"max_tokens": 100}, 50, 50),
        ({"max_tokens": 1100, "max_completion_tokens": 1200}, 588, 512),
        ({"reasoning_effort": "none"}, 0, 512),
        ({"reasoning_effort": "minimal"}, 125, 512),
        ({"reasoning_effort": "low"}, 250, 512),
        ({"reasoning_effort": "medium", "max_tokens": 600}, 300, 300),
        ({"reasoning_effort": "high"}, 1000, 512),
        ({"reasoning_effort": "none", "max_tokens": 100}, 0, 100),
        ({"reasoning_effort": "low", "specreason": {"token_budget": 80}}, 80, 512),
    ],
)
def test_limits_and_effort_are_budgets(asked, budget, answer):
    config = ChatRequest(model="two", messages=QUESTION, **asked).config(SpecReasonConfig(token_budget=1000))
    assert (config.token_budget, config.answer_tokens) == (budget, answer)


@pytest.mark.parametrize("model", ["two", "two-base"])
def test_a_health_check_of_a_single_token_is_answered(pair, client, model):
    reply = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=1)
    assert [request.purpose for request in pair.seen] == ["answer"]
    assert reply.choices[0].finish_reason == "length"


def test_what_is_not_supported_is_ignored_with_a_warning_where_the_server_says_so(pair):
    ask = {"model": "two", "messages": QUESTION, "logprobs": True, "surprise": 1, 'x"\r\ny': 1}
    with serving(pair, ignore_unsupported=True) as url:
        response = urllib3.request("POST", f"{url}/v1/chat/completions", json=ask)
        assert response.headers["Warning"] == '299 specreason-sgl "parameters ignored: logprobs, surprise, ?"'
        assert response.status == 200
        assert urllib3.request("POST", f"{url}/v1/chat/completions", json={**ask, "n": 99}).status == 400
        plain = urllib3.request(
            "POST", f"{url}/v1/chat/completions", json={"model": "two", "messages": QUESTION}
        )
        assert "Warning" not in plain.headers
