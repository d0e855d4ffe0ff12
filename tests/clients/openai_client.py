"""OpenAI's client against a running `serve`: python tests/clients/openai_client.py URL MODEL"""

import json
import sys

import openai

url, model = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=1500)
ASK = {"model": model, "messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 48}
SCHEMA = {
    "type": "object",
    "properties": {"result": {"type": "integer"}},
    "required": ["result"],
    "additionalProperties": False,
}
ADD = {"name": "add", "description": "Adds two integers.", "parameters": {
    "type": "object", "required": ["a", "b"],
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
}}  # fmt: skip
TOOLS = {"tools": [{"type": "function", "function": ADD}]}


def say(what, result):
    print(f"{what}: {result!r}", flush=True)


reply = client.chat.completions.create(**ASK)
say("chat", (reply.choices[0].message.content, reply.choices[0].finish_reason, reply.usage.total_tokens))

chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
say("stream", ("".join(delta.content or "" for delta in deltas), len(chunks), chunks[-1].usage.total_tokens))

format = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}}
reply = client.chat.completions.create(**ASK, response_format=format)
say("JSON schema", json.loads(reply.choices[0].message.content))

for choice in ("required", {"type": "function", "function": {"name": "add"}}):
    reply = client.chat.completions.create(
        **{**ASK, "max_tokens": 160}, **TOOLS, tool_choice=choice, parallel_tool_calls=False
    )
    (call,) = reply.choices[0].message.tool_calls
    say(f"tools, {choice}", (call.function.name, json.loads(call.function.arguments)))
reply = client.chat.completions.create(**ASK, **TOOLS)
say("tools, auto", (reply.choices[0].message.content, reply.choices[0].finish_reason))
results = [
    {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
    {"role": "tool", "tool_call_id": call.id, "content": "5"},
]
reply = client.chat.completions.create(**{**ASK, "messages": [*ASK["messages"], *results]}, **TOOLS)
say("the result of a tool", reply.choices[0].message.content)

response = client.responses.create(model=model, input="What is 2 + 3?", max_output_tokens=48)
say("responses", (response.output_text, response.status))
text = {"format": {"type": "json_schema", "name": "sum", "schema": SCHEMA, "strict": True}}
with client.responses.stream(model=model, input="What is 2 + 3?", max_output_tokens=48, text=text) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response()
say("responses, a stream with a JSON schema", (json.loads(final.output_text), len(kinds)))

reply = client.completions.create(model=model, prompt="What is 2 + 3?", max_tokens=48)
say("completions", reply.choices[0].text)
say("models", [client.models.retrieve(listed.id).id for listed in client.models.list()])
