"""`/v1/responses`: what OpenAI's client needs of it. No response is kept."""

import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving.api import MOST_MESSAGES, ChatRequest
from specreason_sgl.serving.messages import ChatMessage
from specreason_sgl.serving.parameters import Effort, Request, Strict, Text, Tokens
from specreason_sgl.serving.refusals import ApiError
from specreason_sgl.serving.replies import SentText, as_event, finish_reason, usage
from specreason_sgl.serving.service import Event
from specreason_sgl.serving.tools import Schema


class Reasoning(Strict):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="Accepted, without effect."
    )


class Format(Strict):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Text = ""
    description: Text | None = None
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool | None = None

    def as_chat(self) -> dict[str, Any]:
        """The same as a chat's `response_format`."""
        if self.type != "json_schema":
            return {"type": self.type}
        fields = self.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
        return {"type": self.type, "json_schema": fields if self.schema_ else None}


class TextSettings(Strict):
    format: Format = Format()
    verbosity: str | None = Field(None, description="Accepted, without effect.")


def _as_messages(given: Any) -> Any:
    """A text as a message; and messages without the thinking of earlier responses, which clients send."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if isinstance(given, list):
        return [item for item in given if not (isinstance(item, dict) and item.get("type") == "reasoning")]
    return given


Input = Annotated[
    list[ChatMessage],
    Field(max_length=MOST_MESSAGES),
    BeforeValidator(_as_messages, json_schema_input_type=str | list[ChatMessage]),
]


class ResponsesRequest(Request):
    input: Input = Field(
        description="A text, or messages.", json_schema_extra={"minLength": 1, "minItems": 1}
    )
    instructions: Text | None = Field(None, description="The system message.")
    max_output_tokens: Tokens | None = Field(None, description="As `max_tokens` of a chat.")
    reasoning: Reasoning = Field(Reasoning(), description="`effort`; `summary` is ignored.")
    text: TextSettings = Field(TextSettings(), description="`format` as JSON; `verbosity` is ignored.")

    def as_chat(self) -> ChatRequest:
        """The same request as a conversation."""
        system = [ChatMessage(role="system", content=self.instructions)] if self.instructions else []
        not_chats = {
            "input",
            "instructions",
            "max_output_tokens",
            "reasoning",
            "text",
            *(self.model_extra or {}),
        }
        return ChatRequest(
            **self.model_dump(exclude_unset=True, exclude=not_chats),
            messages=[*system, *self.input],
            max_tokens=self.max_output_tokens,
            reasoning_effort=self.reasoning.effort,
            response_format=self.text.format.as_chat(),
        )


class ResponsesReply:
    """`Reply` of `/v1/responses`: a reasoning item and a message.

    Args: as of `ChatReply`.
    """

    def __init__(self, body: ResponsesRequest, delimiter: str):
        self.body, self.sent = body, SentText(delimiter)
        self.id, self.created = f"resp_{uuid.uuid4().hex}", int(time.time())
        self.items: list[Item] = []
        self.events = 0

    def whole(self, traces: list[Trace], prompt_tokens: int) -> dict[str, Any]:
        (trace,) = traces
        items = [Item("reasoning", trace.reasoning)] if trace.reasoning else []
        return self._response([*items, Item("answer", trace.answer)], trace, prompt_tokens)

    def _response(
        self, items: list["Item"], trace: Trace | None = None, prompt_tokens: int = 0
    ) -> dict[str, Any]:
        is_cut = trace is not None and finish_reason(trace) == "length"
        status = "in_progress" if trace is None else "incomplete" if is_cut else "completed"
        body = self.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": body.model,
            "output": [item.whole(status) for item in items],
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": {},
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": body.reasoning.model_dump(),
            "store": False,
            "text": body.text.model_dump(exclude_none=True, by_alias=True),
            "tool_choice": "none",
            "tools": [],
            "usage": _usage(prompt_tokens, trace) if trace else None,
        }

    def begin(self) -> Iterator[str]:
        yield self._event("response.created", response=self._response([]))
        yield self._event("response.in_progress", response=self._response([]))

    def tell(self, event: Event) -> Iterator[str]:
        if event.trace:
            return
        if part := self.sent.part(event):
            yield from self._text(*part)

    def _text(self, kind: str, text: str) -> Iterator[str]:
        if not self.items or self.items[-1].kind != kind:
            yield from self._close()
            self.items.append(Item(kind))
            index, item = len(self.items) - 1, self.items[-1]
            yield self._event(
                "response.output_item.added",
                output_index=index,
                item={**item.whole("in_progress"), "content": []},
            )
            yield self._event("response.content_part.added", **self._place(), part=item.part())
        self.items[-1].text += text
        more = {"logprobs": []} if kind == "answer" else {}
        yield self._event(f"{self.items[-1].event}.delta", **self._place(), delta=text, **more)

    def _close(self) -> Iterator[str]:
        """End the last item."""
        if not self.items:
            return
        item = self.items[-1]
        more = {"logprobs": []} if item.kind == "answer" else {}
        yield self._event(f"{item.event}.done", **self._place(), text=item.text, **more)
        yield self._event("response.content_part.done", **self._place(), part=item.part())
        yield self._event(
            "response.output_item.done", output_index=len(self.items) - 1, item=item.whole("completed")
        )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1].id, "output_index": len(self.items) - 1, "content_index": 0}

    def end(self, traces: list[Trace], prompt_tokens: int) -> Iterator[str]:
        (trace,) = traces
        if not trace.answer:
            yield from self._text("answer", "")
        yield from self._close()
        response = self._response(self.items, trace, prompt_tokens)
        yield self._event(f"response.{response['status']}", response=response)

    def fail(self, error: ApiError) -> Iterator[str]:
        body = error.body["error"]
        failed = {"code": "server_error", "message": body["message"]}
        response = {**self._response(self.items), "status": "failed", "error": failed}
        yield self._event("response.failed", response=response)

    def _event(self, kind: str, **fields: Any) -> str:
        number, self.events = self.events, self.events + 1
        return as_event({"type": kind, "sequence_number": number, **fields}, kind)


class Item:
    """An item of the output: the thinking, or the message with the answer."""

    def __init__(self, kind: str, text: str = ""):
        self.kind, self.text = kind, text
        self.id = ("msg_" if kind == "answer" else "rs_") + uuid.uuid4().hex
        self.event = "response.output_text" if kind == "answer" else "response.reasoning_text"

    def part(self) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def whole(self, status: str) -> dict[str, Any]:
        if self.kind == "reasoning":
            return {
                "type": "reasoning",
                "id": self.id,
                "summary": [],
                "content": [self.part()],
                "status": status,
            }
        return {
            "type": "message", "id": self.id, "role": "assistant", "content": [self.part()], "status": status,
        }  # fmt: skip


def _usage(prompt_tokens: int, trace: Trace) -> dict[str, Any]:
    counts = usage(prompt_tokens, [trace])
    side = "draft" if trace.mode == "draft" else "base"
    cached = next((call.cached_tokens for call in trace.calls if call.side == side), 0)
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": min(cached, prompt_tokens)},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": counts["completion_tokens_details"],
        "total_tokens": counts["total_tokens"],
        "specreason": counts["specreason"],
    }
