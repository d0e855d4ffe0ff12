"""A model writing: a step on a fork, or the answer on the program's state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import RequestAborted
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.reasoning.live import TextPart
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Call, End, Purpose, Side, Step, Stop

ANSWER_LEAD = "Final answer:"  # asks for the answer where there is no thinking to close


@dataclass(frozen=True)
class Written:
    """What a model wrote: a step, or a part of one.

    Attributes:
        text: the text, without what ended it.
        call: the request.
        end: what ended the text.
        logprobs: the model's own logprobs of its tokens; empty if they were not requested.
    """

    text: str
    call: Call
    end: End
    logprobs: tuple[float, ...]

    def as_step(self, side: Side, **fields: Any) -> Step:
        tokens = self.call.completion_tokens
        drafted = tokens if side == "draft" else 0
        return Step(self.text, side, self.end, tokens, drafted, **{"calls": (self.call,), **fields})


@dataclass(frozen=True)
class Request:
    """A request in flight on a fork; `finish` waits for its result, `discard` aborts it."""

    state: ProgramState
    name: str
    side: Side
    purpose: Purpose


def begin(
    run: Run,
    state: ProgramState,
    side: Side,
    purpose: Purpose,
    *,
    lead: str,
    max_tokens: float,
    logprobs: bool = False,
) -> Request:
    """Have a model write on a fork, after `lead`, up to the end of the step; waits if it has no thread."""
    config, name = run.config, f"{purpose}{len(state.stream_executor.variable_event)}"
    run.adopt(state, side)  # `draft_timeout` starts again
    if side == "base":
        max_tokens = min(max_tokens, run.room(state, lead, enough=max_tokens))
    state += lead + sgl.gen(
        name,
        max_tokens=max(int(max_tokens), 1),
        stop=[config.delimiter, THINK_CLOSE],
        **config.sampling,
        return_logprob=logprobs or None,
    )
    return Request(state, name, side, purpose)


def finish(run: Run, request: Request) -> Written:
    """Wait for a request's text.

    Raises:
        SpecReasonError: the request failed.
    """
    meta = request.state.get_meta_info(request.name)
    reason = meta.get("finish_reason") or {}
    logprobs = tuple(entry[0] for entry in meta.get("output_token_logprobs") or ())
    call = run.to_call(request.side, request.purpose, meta)
    return Written(request.state[request.name], call, how_ended(reason, run.thinking), logprobs)


def how_ended(finish_reason: dict[str, Any] | None, thinking: bool) -> End:
    """What ended a step, from SGLang's `finish_reason`.

    Args:
        finish_reason: as in the request's `meta_info`.
        thinking: whether a model of the pair is a thinking model. Otherwise `</think>` only ends the step.
    """
    reason = finish_reason or {}
    if reason.get("type") == "length":
        return "length"
    matched = reason.get("matched")
    if matched == THINK_CLOSE and thinking:
        return "think"
    return "delimiter" if isinstance(matched, str) else "eos"


def discard(run: Run, request: Request) -> None:
    """Abort a request; what it generated counts as wasted."""
    run.abort(request.state)

    def count() -> None:
        try:
            meta = request.state.get_meta_info(request.name)
            if meta:  # empty for a verifier that sent no request
                run.wasted.append(run.to_call(request.side, request.purpose, meta))
        except RequestAborted as error:
            run.count_wasted(request.side, request.purpose, error)
        finally:
            run.end(request.state)

    run.run_in_background(count)


def write_with_base(
    run: Run, lead: str, max_tokens: int, on_text: Callable[[str], None] | None = None
) -> Written:
    """Have the base model write after the chain of thought and `lead`, up to the end of the step; `on_text`
    receives the text as it comes."""
    fork = run.fork(stream=on_text is not None)
    request = begin(run, fork, "base", "rewrite", lead=lead, max_tokens=max_tokens)
    written = _follow(run, request, on_text) if on_text else finish(run, request)
    run.end(fork)  # not after an error: the run aborts the request, and ends the fork
    return written


def write_step(run: Run, **fields: Any) -> Step:
    """Have the base model write the next step, or the rest of it.

    Args:
        fields: further fields of the `Step`; `calls` come before the base model's.
    """
    on_text = run.live.written if run.live else None
    written = write_with_base(run, run.chain.lead, run.chain.step_tokens_left, on_text)
    return written.as_step("base", **{**fields, "calls": (*fields.get("calls", ()), written.call)})


def stream_out(run: Run, name: TextPart, side: Side, purpose: Purpose, **sampling: Any) -> Written:
    """Have a model write on the program's state; `run.on_text` receives the text as it comes.

    Args:
        name: of the result, and of the text for `on_text`.
        side, purpose: for the request's record.
        sampling: further arguments of `sgl.gen`.
    """
    s, config = run.main, run.config
    expression = sgl.gen(name, **config.sampling, **sampling)
    if not run.on_text:
        s += expression
        return finish(run, Request(s, name, side, purpose))
    fork = run.adopt(fork_to(s, s.stream_executor.backend, stream=True), side="base")
    fork += expression
    written = _follow(run, Request(fork, name, side, purpose), partial(run.on_text, name))
    s += written.text
    run.end(fork)
    return written


def _follow(run: Run, request: Request, on_text: Callable[[str], None]) -> Written:
    """Wait for a request's text, and pass it on as it comes."""
    length = 0
    for text in filter(None, request.state.text_iter(request.name)):
        on_text(text)
        length += len(text)
    written = finish(run, request)
    if rest := written.text[length:]:  # `text_iter` (SGLang 0.5.23) omits what arrives during the last call
        on_text(rest)
    return written


def final_answer(run: Run, side: Side, stop: Stop) -> Written | None:
    """Close the thinking and write the answer; None if the settings ask for none at the budget's end."""
    s, config = run.main, run.config
    if stop in ("budget", "context") and config.at_budget == "stop":
        return None
    thinking = s.stream_executor.chat_template.thinking
    s += f"\n{THINK_CLOSE}\n\n" if thinking else run.chain.closing + ANSWER_LEAD
    written = stream_out(
        run, "answer", side, "answer", max_tokens=config.answer_tokens,
        stop=list(config.answer_stop) or None, json_schema=config.answer_schema,
    )  # fmt: skip
    s += sgl.assistant_end()
    return written
