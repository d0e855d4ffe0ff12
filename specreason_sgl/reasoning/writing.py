"""A model writing: a step on a fork, or the answer on the run's own state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import RequestAborted
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Call, End, Side, Step, Stop

# What leads from the chain of thought to the final answer: closing the thinking, or, in a model that does
# not think apart, a few words.
ANSWER_LEAD = "Final answer:"


@dataclass(frozen=True)
class Written:
    """What a model wrote: a step, or a part of one. `logprobs` are its own of its tokens, where wanted."""

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
    """What was asked for on a fork; `finish` or `answer_of` waits for it, `discard` aborts it."""

    state: ProgramState
    name: str
    side: Side
    purpose: str


def begin(
    run: Run,
    state: ProgramState,
    side: Side,
    purpose: str,
    *,
    lead: str,
    max_tokens: float,
    logprobs: bool = False,
) -> Request:
    """Have a model write on a fork, after `lead`, up to the step's end; returns at once."""
    config, name = run.config, f"{purpose}{len(state.stream_executor.variable_event)}"
    run.adopt(state, side)
    if side == "base":
        max_tokens = min(max_tokens, run.room(state, lead))
    state += lead + sgl.gen(
        name,
        max_tokens=max(int(max_tokens), 1),
        stop=[config.delimiter, THINK_CLOSE],
        temperature=config.temperature,
        top_p=config.top_p,
        return_logprob=logprobs or None,
    )
    return Request(state, name, side, purpose)


def finish(run: Run, request: Request) -> Written:
    """What was written, when it is there.

    Raises:
        SpecReasonError: the request failed.
    """
    meta = request.state.get_meta_info(request.name)
    reason = meta.get("finish_reason") or {}
    logprobs = tuple(entry[0] for entry in meta.get("output_token_logprobs") or ())
    call = run.call(request.side, request.purpose, meta)
    return Written(request.state[request.name], call, how_ended(reason, run.thinking), logprobs)


def how_ended(finish_reason: dict[str, Any] | None, thinking: bool) -> End:
    """What ended a step, from SGLang's `finish_reason`.

    Where no model of the pair is a `thinking` one, a `</think>` is a stray: it is left out, and ends no more
    than the step.
    """
    reason = finish_reason or {}
    if reason.get("type") == "length":
        return "length"
    matched = reason.get("matched")
    if matched == THINK_CLOSE and thinking:
        return "think"
    return "delimiter" if isinstance(matched, str) else "eos"


def discard(run: Run, request: Request) -> None:
    """Abort a request; what was generated until then counts as wasted."""
    run.abort(request.state)

    def count() -> None:
        try:
            meta = request.state.get_meta_info(request.name)
            if meta:  # none of a function that was not called
                run.wasted.append(run.call(request.side, request.purpose, meta))
        except RequestAborted as error:
            run.count_wasted(request.side, request.purpose, error)
        finally:
            run.done(request.state)

    run.help(count)


def written_by_base(run: Run, lead: str, max_tokens: int) -> Written:
    """What the base model writes after the chain of thought and `lead`, up to the step's end."""
    fork = run.main.fork(1)[0]
    try:
        return finish(run, begin(run, fork, "base", "rewrite", lead=lead, max_tokens=max_tokens))
    finally:
        run.done(fork)


def write_step(run: Run, **fields: Any) -> Step:
    """The base model writes the next step, or the rest of it.

    Args:
        fields: of the `Step`, besides what was written.
    """
    written = written_by_base(run, run.chain.lead, run.chain.step_tokens_left)
    return written.as_step("base", **{**fields, "calls": (*fields.get("calls", ()), written.call)})


def write_out(run: Run, name: str, side: Side, purpose: str, **sampling: Any) -> Written:
    """A model writes on the run's own state, and `on_text` is told what comes as it comes."""
    s = writer = run.main
    if run.on_text:
        writer = run.adopt(fork_to(s, s.stream_executor.backend, stream=True), side="base")
    writer += sgl.gen(name, temperature=run.config.temperature, top_p=run.config.top_p, **sampling)
    told = 0
    if run.on_text:
        for text in filter(None, writer.text_iter(name)):
            run.on_text(name, text)
            told += len(text)
    written = finish(run, Request(writer, name, side, purpose))
    if run.on_text:
        if rest := written.text[told:]:  # `text_iter` (0.5.23) leaves out what comes during the last call
            run.on_text(name, rest)
        s += written.text
        run.done(writer)
    return written


def final_answer(run: Run, side: Side, stop: Stop) -> tuple[str, Call | None]:
    """Close the thinking and write the answer; none where the budget ended it and the settings say stop."""
    s, config = run.main, run.config
    if stop in ("budget", "context") and config.at_budget == "stop":
        return "", None
    thinking = s.stream_executor.chat_template.thinking
    s += f"\n{THINK_CLOSE}\n\n" if thinking else config.delimiter + ANSWER_LEAD
    stops = list(config.answer_stop) or None
    written = write_out(run, "answer", side, "answer", max_tokens=config.answer_tokens, stop=stops)
    s += sgl.assistant_end()
    return written.text.strip(), written.call
