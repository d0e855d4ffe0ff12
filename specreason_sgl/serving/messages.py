"""The conversation of a request, as the models' templates take it: system, user and assistant, in turns."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from specreason_sgl.reasoning.config import Message
from specreason_sgl.serving.parameters import Content, Strict, without_nulls
from specreason_sgl.serving.tools import ToolCall

# Clients send an answer back as they got it; these fields are not part of the conversation.
IGNORED = (
    "annotations", "id", "name", "provider_specific_fields", "reasoning", "reasoning_content", "status",
    "type",
)  # fmt: skip


def _describe(schema: dict[str, Any]) -> None:
    """Add what is ignored, and that a message without a content must call something."""
    for name in IGNORED:
        schema["properties"].setdefault(name, {"description": "Accepted, and not read."})
    schema["anyOf"] = [
        {"required": ["content"], "properties": {"content": {"type": "string"}}},
        {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
    ]


class ChatMessage(Strict):
    model_config = ConfigDict(json_schema_extra=_describe)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: list[ToolCall] = Field([])
    tool_call_id: str | None = Field(None, description="Results of tools are read in their order.")

    @model_validator(mode="before")
    @classmethod
    def _without_ignored(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in without_nulls(data).items() if name not in IGNORED}
        return data

    @model_validator(mode="after")
    def _check_content(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            raise ValueError("a message must have a content")
        return self

    def plain(self) -> dict[str, str]:
        """The message as `SpecReasonConfig.messages` takes it."""
        content = self.content or ""
        if self.role == "tool":
            return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
        role = "system" if self.role == "developer" else self.role
        return {
            "role": role,
            "content": "\n".join(filter(None, [content, *map(ToolCall.as_text, self.tool_calls)])),
        }


def conversation(messages: Iterable[ChatMessage], system: str) -> list[Message]:
    """The messages, with what the server adds to the system's. Results of tools that follow each other are
    one message."""
    plain: list[dict[str, str]] = []
    last = None
    for message in messages:
        if message.role == last == "tool":
            plain[-1]["content"] += "\n" + message.plain()["content"]
        else:
            plain.append(message.plain())
        last = message.role
    if not system:
        return [*plain]
    if plain and plain[0]["role"] == "system":
        return [{"role": "system", "content": f"{plain[0]['content']}\n\n{system}"}, *plain[1:]]
    return [{"role": "system", "content": system}, *plain]
