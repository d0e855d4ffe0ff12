"""What is sent back: OpenAI's completions and chunks, with `specreason` as an extension."""

import time
import uuid
from typing import Any

import msgspec

from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.service import Event

DONE = "data: [DONE]\n\n"  # the last event of a stream
ALIVE = ": alive\n\n"  # a comment, so that no proxy hangs up on a silent stream


class Reply:
    """Builds the reply to one request: a whole completion, or the chunks of a stream."""

    def __init__(self, body: ChatRequest):
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
        }
        self.with_trace = body.specreason.trace
        self.with_usage = bool(body.stream_options and body.stream_options.include_usage)

    def completion(self, traces: list[Trace], prompt_tokens: int) -> dict[str, Any]:
        """A whole answer, with one choice per trace."""
        reply = {
            **self.head,
            "object": "chat.completion",
            "choices": [_choice(index, trace) for index, trace in enumerate(traces)],
            "usage": usage(prompt_tokens, traces),
        }
        if self.with_trace:
            reply["specreason"] = {"traces": traces}
        return reply

    def begin_chunk(self, index: int) -> dict[str, Any]:
        """The first chunk of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def event_chunk(self, event: Event, delta: dict[str, str]) -> dict[str, Any]:
        """A chunk with what an event adds to its choice."""
        return self._chunk(event.choice, delta, {"step": event.step} if event.step else {})

    def end_chunk(self, index: int, trace: Trace) -> dict[str, Any]:
        """The last chunk of a choice."""
        return self._chunk(index, {}, {"trace": trace}, finish_reason(trace))

    def usage_chunk(self, traces: list[Trace], prompt_tokens: int) -> dict[str, Any]:
        """The last chunk of a stream whose client asked for the usage."""
        return {**self._chunk_head(), "choices": [], "usage": usage(prompt_tokens, traces)}

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        extension: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._chunk_head(), "choices": [choice]}
        if self.with_usage:
            chunk["usage"] = None
        if extension and self.with_trace:
            chunk["specreason"] = extension
        return chunk

    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}


class SentText:
    """What was sent of one choice, so that its deltas join to the texts of a whole answer."""

    def __init__(self, delimiter: str):
        self.delimiter = delimiter
        self.before_step = ""
        self.answer_began = False
        self.held_back = ""  # white space that is sent only if more of the answer follows

    def delta(self, event: Event) -> dict[str, str]:
        """What to send for an event; empty if nothing."""
        if event.step:
            text = self.before_step + event.step.text
            self.before_step = "" if event.step.end == "length" else self.delimiter
            return {"reasoning_content": text}
        if event.kind == "reasoning":
            return {"reasoning_content": event.text}
        text = self.held_back + event.text
        text = text if self.answer_began else text.lstrip()
        content = text.rstrip()
        self.held_back = text[len(content) :]
        self.answer_began = self.answer_began or bool(content)
        return {"content": content} if content else {}


def usage(prompt_tokens: int, traces: list[Trace]) -> dict[str, Any]:
    """OpenAI's counts over all choices; in `specreason` each model's, and what became of the drafts."""
    reasoning = sum(step.tokens for trace in traces for step in trace.steps)
    completion = sum(trace.tokens for trace in traces)
    by_side = {"draft": 0, "base": 0}
    for trace in traces:
        for call in [*trace.calls, *trace.wasted]:
            by_side[call.side] += call.completion_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "specreason": {
            "draft_tokens": by_side["draft"],
            "base_tokens": by_side["base"],
            "wasted_tokens": sum(trace.wasted_tokens for trace in traces),
            "steps_kept": sum(trace.kept for trace in traces),
            "corrections": sum(trace.corrections for trace in traces),
            "steps_rewritten": sum(trace.rewritten for trace in traces),
        },
    }


def finish_reason(trace: Trace) -> str:
    """`length` if the answer was cut off, or if no tokens were left for one; else `stop`."""
    call = trace.answer_call
    is_cut = call is None or call.completion_tokens >= trace.config["answer_tokens"]
    return "length" if is_cut else "stop"


def as_json(data: Any) -> str:
    """JSON, in which an infinite or undefined number is null, as in files of traces."""
    return msgspec.json.encode(data).decode()


def as_event(data: Any) -> str:
    """A server-sent event with JSON."""
    return f"data: {as_json(data)}\n\n"


def _choice(index: int, trace: Trace) -> dict[str, Any]:
    message = {"role": "assistant", "content": trace.answer, "reasoning_content": trace.reasoning}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason(trace)}
