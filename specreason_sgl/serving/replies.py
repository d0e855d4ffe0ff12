"""What is sent back of a run: a `Reply` per API. Here OpenAI's chat completions, with `specreason` as an
extension; `completions` and `responses` have the others."""

import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import msgspec

from specreason_sgl.reasoning.trace import Step, Trace
from specreason_sgl.serving.api import ChatRequest
from specreason_sgl.serving.refusals import ApiError
from specreason_sgl.serving.service import Event
from specreason_sgl.serving.tools import Toolbox

DONE = "data: [DONE]\n\n"  # the last event of a stream
# So that no client or proxy hangs up on a silent stream. A comment (": alive") would do, but SGLang's own
# bench_serving (0.5.23) takes one for JSON; every client skips an empty line.
ALIVE = "\n\n"

Part = tuple[Literal["reasoning", "answer"], str]


class Reply(Protocol):
    """The reply to one request: whole, or as the events of a stream."""

    def whole(self, traces: list[Trace], prompt_tokens: int) -> dict[str, Any]:
        """A whole answer, with one choice per trace."""

    def begin(self) -> Iterator[str]:
        """The first events."""

    def tell(self, event: Event) -> Iterator[str]:
        """What an event of the run adds, its last one included."""

    def end(self, traces: list[Trace], prompt_tokens: int) -> Iterator[str]:
        """The last events, when all choices have ended."""

    def fail(self, error: ApiError) -> Iterator[str]:
        """The last events where the run failed."""


class SentText:
    """What was sent of one choice, so that its parts join to the texts of a whole answer."""

    def __init__(self, delimiter: str):
        self.delimiter = delimiter
        self.before_step = ""
        self.answer_began = False
        self.held_back = ""  # white space that is sent only if more of the answer follows

    def part(self, event: Event) -> Part | None:
        """What to send for an event of a step or a text."""
        if event.step:
            text = self.before_step + event.step.text
            self.before_step = "" if event.step.end == "length" else self.delimiter
            return "reasoning", text
        if event.kind == "reasoning":
            return "reasoning", event.text
        text = self.held_back + event.text
        text = text if self.answer_began else text.lstrip()
        content = text.rstrip()
        self.held_back = text[len(content) :]
        self.answer_began = self.answer_began or bool(content)
        return ("answer", content) if content else None


class ChatReply:
    """`Reply` of `/v1/chat/completions`.

    Args:
        body: the request.
        delimiter: between the steps.
        choices: how many there are.
        tools: what may be called; with tools an answer is sent when it is whole.
        fingerprint: OpenAI's `system_fingerprint`.
    """

    def __init__(self, body: ChatRequest, delimiter: str, choices: int, tools: Toolbox, fingerprint: str):
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": fingerprint,
        }
        self.tools, self.separate = tools, body.separate_reasoning
        self.with_trace = body.specreason.trace
        self.with_usage = body.stream_options.include_usage
        self.sent = [SentText(delimiter) for _ in range(choices)]
        self.open_steps: list[Step | None] = [None] * choices  # as they were sent
        self.opened = [False] * choices  # whether thinking was sent as content, and its end was not

    def whole(self, traces: list[Trace], prompt_tokens: int) -> dict[str, Any]:
        reply = {
            **self.head,
            "object": "chat.completion",
            "choices": [self._choice(index, trace) for index, trace in enumerate(traces)],
            "usage": usage(prompt_tokens, traces),
        }
        if self.with_trace:
            reply["specreason"] = {"traces": traces}
        return reply

    def _choice(self, index: int, trace: Trace) -> dict[str, Any]:
        content, calls = self.tools.read(trace.answer)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content,
            "reasoning_content": trace.reasoning,
        }
        if not self.separate:
            message = {"role": "assistant", "content": inline(trace.reasoning) + content}
        if calls:
            calls = [{name: call[name] for name in ("id", "type", "function")} for call in calls]
            message |= {"content": message["content"] or None, "tool_calls": calls}
        finish = finish_reason(trace, bool(calls))
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def begin(self) -> Iterator[str]:
        for index in range(len(self.sent)):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def tell(self, event: Event) -> Iterator[str]:
        if event.trace:
            yield from self._end_choice(event.choice, event.trace)
            return
        if event.draft is not None:
            yield self._draft_chunk(event)
            return
        part = self.sent[event.choice].part(event)
        if part and not (part[0] == "answer" and self.tools.tools):
            extension = {"step": event.step} if event.step else {}
            yield self._chunk(event.choice, self._delta(event.choice, *part), extension)

    def _draft_chunk(self, event: Event) -> str:
        news: dict[str, Any] = {"draft": event.draft}
        if event.open_step is not self.open_steps[event.choice]:
            self.open_steps[event.choice] = news["open_step"] = event.open_step
        return self._chunk(event.choice, {}, news)

    def _delta(self, index: int, kind: str, text: str) -> dict[str, str]:
        if kind == "reasoning" and self.separate:
            return {"reasoning_content": text}
        if kind == "reasoning":
            text, self.opened[index] = (text if self.opened[index] else THINK_BEGIN + text), True
        elif self.opened[index]:
            text, self.opened[index] = THINK_END + text, False
        return {"content": text}

    def _end_choice(self, index: int, trace: Trace) -> Iterator[str]:
        content, calls = self.tools.read(trace.answer)
        unsent = content if self.tools.tools else ""
        if unsent or self.opened[index]:
            yield self._chunk(index, self._delta(index, "answer", unsent))
        if calls:
            yield self._chunk(index, {"tool_calls": calls})
        yield self._chunk(index, {}, {"trace": trace}, finish_reason(trace, bool(calls)))

    def end(self, traces: list[Trace], prompt_tokens: int) -> Iterator[str]:
        if self.with_usage:
            yield as_event({**self._chunk_head(), "choices": [], "usage": usage(prompt_tokens, traces)})
        yield DONE

    def fail(self, error: ApiError) -> Iterator[str]:
        yield as_event(error.body)
        yield DONE

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        extension: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._chunk_head(), "choices": [choice]}
        if self.with_usage:
            chunk["usage"] = None
        if extension and self.with_trace:
            chunk["specreason"] = extension
        return as_event(chunk)

    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}


THINK_BEGIN, THINK_END = "<think>\n", "\n</think>\n\n"  # around thinking that is part of the content


def inline(reasoning: str) -> str:
    """Thinking as the beginning of a content."""
    return THINK_BEGIN + reasoning + THINK_END if reasoning else ""


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


def finish_reason(trace: Trace, calls: bool = False) -> str:
    """`length` if the answer's server says that it was cut, or if no tokens were left for one; else `stop`,
    or `tool_calls`."""
    if trace.answer_end in (None, "length"):
        return "length"
    return "tool_calls" if calls else "stop"


def as_json(data: Any) -> str:
    """JSON, in which an infinite or undefined number is null, as in files of traces."""
    return msgspec.json.encode(data).decode()


def as_event(data: Any, name: str = "") -> str:
    """A server-sent event with JSON."""
    return (f"event: {name}\n" if name else "") + f"data: {as_json(data)}\n\n"
