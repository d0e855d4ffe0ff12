"""LangChain's OpenAI client against a running `serve`: python tests/clients/langchain_client.py URL MODEL"""

import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

url, name = sys.argv[1:]
model = ChatOpenAI(
    model=name,
    base_url=f"{url}/v1",
    api_key="none",
    max_tokens=48,
    timeout=1500,
    max_retries=0,
    temperature=0,
)
QUESTION = "What is 2 + 3?"


class Sum(BaseModel):
    result: int


@tool
def add(a: int, b: int) -> int:
    """Adds two integers."""
    return a + b


print("invoke:", repr(model.invoke(QUESTION).content), flush=True)
print("stream:", repr("".join(chunk.text for chunk in model.stream(QUESTION))), flush=True)
print("with_structured_output:", repr(model.with_structured_output(Sum).invoke(QUESTION)), flush=True)
with_tools = model.bind_tools([add], tool_choice="add").bind(max_tokens=160)
message = with_tools.invoke(QUESTION)
print("bind_tools:", message.tool_calls, flush=True)
result = ToolMessage(str(add.invoke(message.tool_calls[0]["args"])), tool_call_id=message.tool_calls[0]["id"])
answer = model.bind_tools([add]).invoke([HumanMessage(QUESTION), message, result])
print("the result of a tool:", repr(answer.content), flush=True)
