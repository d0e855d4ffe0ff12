"""`/v1/completions`: the prompt as a question, the final answer as its completion."""

import time
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.parameters import (
    EFFORT_HELP,
    Choices,
    Effort,
    Request,
    Stops,
    StreamOptions,
    Text,
    Tokens,
)
from specreason_sgl.serving.refusals import ApiError
from specreason_sgl.serving.replies import DONE, SentText, as_event, finish_reason, usage
from specreason_sgl.serving.service import Event


def _only(prompt: Any) -> Any:
    return prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt


class CompletionRequest(Request):
    prompt: Annotated[Text, BeforeValidator(_only)] = Field(
        description="One text; token ids are refused.", json_schema_extra={"minLength": 1}
    )
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Tokens | None = None
    stop: Stops = Field([])
    n: Choices = 1
    reasoning_effort: Effort | None = Field(None, description=EFFORT_HELP)

    def as_chat(self) -> ChatRequest:
        """The same request as a conversation."""
        fields = self.model_dump(exclude_unset=True, exclude={"prompt", *(self.model_extra or {})})
        return ChatRequest(**fields, messages=[{"role": "user", "content": self.prompt}])


class CompletionReply:
    """`Reply` of `/v1/completions`. The thinking is not sent.

    Args: as of `ChatReply`.
    """

    def __init__(self, body: CompletionRequest, delimiter: str, choices: int, fingerprint: str):
        self.head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": fingerprint,
        }
        self.with_usage = body.stream_options.include_usage
        self.sent = [SentText(delimiter) for _ in range(choices)]

    def whole(self, traces: list[Trace], prompt_tokens: int) -> dict[str, Any]:
        choices = [_choice(i, trace.answer, finish_reason(trace)) for i, trace in enumerate(traces)]
        return {**self.head, "choices": choices, "usage": usage(prompt_tokens, traces)}

    def begin(self) -> Iterator[str]:
        yield from ()

    def tell(self, event: Event) -> Iterator[str]:
        if event.trace:
            yield self._chunk(_choice(event.choice, "", finish_reason(event.trace)))
            return
        part = self.sent[event.choice].part(event)
        if part and part[0] == "answer":
            yield self._chunk(_choice(event.choice, part[1], None))

    def end(self, traces: list[Trace], prompt_tokens: int) -> Iterator[str]:
        if self.with_usage:
            yield as_event({**self.head, "choices": [], "usage": usage(prompt_tokens, traces)})
        yield DONE

    def fail(self, error: ApiError) -> Iterator[str]:
        yield as_event(error.body)
        yield DONE

    def _chunk(self, choice: dict[str, Any]) -> str:
        return as_event({**self.head, "choices": [choice], **({"usage": None} if self.with_usage else {})})


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
