"""Speculative reasoning (SpecReason, arXiv 2504.07891) as programs of SGLang's language.

`speculate` is the algorithm; it runs on the base endpoint and forks to the draft. `alone` is one model by
itself, for comparison. `solve` and `solve_alone` run them and return the `Trace`.
"""

import time
from collections.abc import Callable

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ConfigError, DeadlineExceeded
from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.stopping import how_ended, tokens_left, why_stop
from specreason_sgl.reasoning.trace import Call, End, Side, Step, Trace
from specreason_sgl.reasoning.verifiers import utility_score

OnStep = Callable[[Step], None]

# What leads from the chain of thought to the final answer: closing the thinking, or, in a model that does
# not think apart, a few words.
ANSWER_LEAD = "Final answer:"


@sgl.function
def speculate(
    s,
    question: str,
    draft: Endpoint,
    config: SpecReasonConfig,
    on_step: OnStep | None = None,
    timeout: float | None = None,
):
    """SpecReason, one step at a time: draft, score, keep or rewrite. Run it on the base endpoint.

    `s["trace"]` is the `Trace`. Arguments and errors as in `solve`.
    """
    base = s.stream_executor.backend
    with _Run(s, timeout, base=base, draft=draft) as run:
        s += sgl.user(config.prompt(question))
        s += sgl.assistant_begin()
        s += s.stream_executor.chat_template.thinking_prefix
        drafter = run.own(fork_to(s, draft))
        steps: list[Step] = []
        while not (stop := why_stop(steps, config)):
            if steps:
                s += config.delimiter
                drafter += config.delimiter
            step = _next_step(run, s, drafter, steps, config)
            s += step.text
            drafter += step.text
            steps.append(step)
            if on_step:
                on_step(step)
        answer, call = _final_answer(run, s, config)
        s["trace"] = Trace(
            question=question,
            mode="specreason",
            draft_model=draft.get_model_name(),
            base_model=base.get_model_name(),
            config=config.as_dict(),
            steps=tuple(steps),
            stop=stop,
            answer=answer,
            answer_call=call,
            seconds=run.now(),
        )


def _next_step(
    run: "_Run", s: ProgramState, drafter: ProgramState, steps: list[Step], config: SpecReasonConfig
) -> Step:
    budget = min(config.step_tokens, tokens_left(steps, config))
    meta, calls, rejected = {}, [], None
    if len(steps) >= config.first_base_steps:
        drafted, call, end = run.write_step("draft", drafter, "draft", budget, config)
        calls.append(call)
        if drafted.strip():
            start = run.now()
            judge = run.own(utility_score(s, drafted, config.read))
            meta = run.wait(judge, "score")
            run.done(judge)
            calls.append(run.call("base", "score", meta, start))
            if meta["score"] >= config.threshold:
                return Step(
                    drafted, "draft", end, call.completion_tokens,
                    meta["score"], meta["probabilities"], None, tuple(calls),
                )  # fmt: skip
        rejected = drafted
    text, call, end = run.write_step("base", s, "rewrite", budget, config)
    calls.append(call)
    return Step(
        text, "base", end, call.completion_tokens,
        meta.get("score"), meta.get("probabilities", {}), rejected, tuple(calls),
    )  # fmt: skip


@sgl.function
def alone(s, question: str, side: Side, config: SpecReasonConfig, timeout: float | None = None):
    """One model by itself on the same prompt: the chain of thought in one request, then the answer.

    `s["trace"]` is the `Trace`; its steps are the text split at the delimiter.
    """
    endpoint = s.stream_executor.backend
    with _Run(s, timeout, **{side: endpoint}) as run:
        s += sgl.user(config.prompt(question))
        s += sgl.assistant_begin()
        s += s.stream_executor.chat_template.thinking_prefix
        start = run.now()
        thinking = s.stream_executor.chat_template.thinking
        s += sgl.gen(
            "reasoning",
            max_tokens=config.token_budget,
            stop=[THINK_CLOSE] if thinking else None,
            temperature=config.temperature,
            top_p=config.top_p,
        )
        meta = run.wait(s, "reasoning")
        text = s["reasoning"]
        call = run.call(side, "reason", meta, start)
        end = how_ended(meta["finish_reason"], THINK_CLOSE)
        parts = text.split(config.delimiter)
        steps = [Step(part, side, "delimiter", 0) for part in parts[:-1]]
        steps.append(Step(parts[-1], side, end, call.completion_tokens, calls=(call,)))
        answer, answer_call = _final_answer(run, s, config, side)
        s["trace"] = Trace(
            question=question,
            mode=side,
            draft_model=endpoint.get_model_name() if side == "draft" else None,
            base_model=endpoint.get_model_name() if side == "base" else None,
            config=config.as_dict(),
            steps=tuple(steps),
            stop="budget" if end == "length" else "end",
            answer=answer,
            answer_call=answer_call,
            seconds=run.now(),
        )


def solve(
    question: str,
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    on_step: OnStep | None = None,
) -> Trace:
    """Solve one problem with a draft and a base model.

    Args:
        question: the problem, plain text.
        draft, base: the two runtimes.
        config: default `SpecReasonConfig()`.
        timeout: deadline of the whole run, in seconds; None leaves it to the endpoints' own.
        on_step: called with each `Step` as it is kept.

    Raises:
        ConfigError: the question is empty, or the timeout is not above 0.
        ServerError: a runtime failed; `DeadlineExceeded`: the time is over. Requests in flight are aborted,
            also on Ctrl-C.
    """
    arguments = {"draft": draft, "on_step": on_step}
    return _run(speculate, question, base, config, timeout, arguments)


def solve_alone(
    question: str,
    *,
    endpoint: Endpoint,
    side: Side = "base",
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
) -> Trace:
    """Solve one problem with one model; arguments and errors as in `solve`."""
    return _run(alone, question, endpoint, config, timeout, {"side": side})


def _run(program, question, backend, config, timeout, arguments) -> Trace:
    config = config or SpecReasonConfig()
    config.prompt(question)
    if timeout is not None and not timeout > 0:
        raise ConfigError(f"the timeout is a number of seconds above 0, not {timeout}")
    state = program.run(question=question, config=config, timeout=timeout, backend=backend, **arguments)
    return state["trace"]


def _final_answer(run: "_Run", s: ProgramState, config: SpecReasonConfig, side: Side = "base"):
    thinking = s.stream_executor.chat_template.thinking
    s += f"\n{THINK_CLOSE}\n\n" if thinking else config.delimiter + ANSWER_LEAD
    start = run.now()
    s += sgl.gen(
        "answer", max_tokens=config.answer_tokens, temperature=config.temperature, top_p=config.top_p
    )
    meta = run.wait(s, "answer")
    s += sgl.assistant_end()
    return s["answer"].strip(), run.call(side, "answer", meta, start)


class _Run:
    """What a run in progress needs beside the language: its clock, its forks, and an orderly end."""

    def __init__(self, s: ProgramState, timeout: float | None, **endpoints: Endpoint):
        self.main = s
        self.endpoints = endpoints
        self.timeout = timeout
        self.started = time.monotonic()
        self.states: list[ProgramState] = []

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, kind, *_) -> None:
        for state in self.states:
            if kind:
                state.stream_executor.backend.abort(state)
            state.stream_executor.end()
        if kind:  # SGLang ends the main state itself, and to end it twice would block its `sync`
            self.main.stream_executor.backend.abort(self.main)

    def own(self, state: ProgramState) -> ProgramState:
        """Have a state ended with the run, its requests aborted where the run fails."""
        self.states.append(state)
        return state

    def now(self) -> float:
        return time.monotonic() - self.started

    def wait(self, state: ProgramState, name: str) -> dict:
        """The meta information of a result, when it is there."""
        left = None if self.timeout is None else max(self.timeout - self.now(), 0.0)
        try:
            return state.stream_executor.get_meta_info(name, left)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the run was not done within {self.timeout:g} s; give it more time or a smaller token budget"
            ) from None

    def call(self, side: Side, purpose: str, meta: dict, start: float) -> Call:
        counts = (meta.get(f"{kind}_tokens", 0) for kind in ("prompt", "cached", "completion"))
        return Call(side, purpose, *counts, start, self.now() - start)

    def write_step(
        self, side: Side, state: ProgramState, purpose: str, budget: int, config: SpecReasonConfig
    ) -> tuple[str, Call, End]:
        """One step by one model, on a fork: its text, the request, and what ended it."""
        writer, start = self.own(state.fork(1)[0]), self.now()
        thinking = any(endpoint.chat_template.thinking for endpoint in self.endpoints.values())
        writer += sgl.gen(
            "step",
            max_tokens=budget,
            stop=[config.delimiter, THINK_CLOSE] if thinking else [config.delimiter],
            temperature=config.temperature,
            top_p=config.top_p,
        )
        meta = self.wait(writer, "step")
        call = self.call(side, purpose, meta, start)
        self.done(writer)
        return writer["step"], call, how_ended(meta["finish_reason"], THINK_CLOSE)

    def done(self, state: ProgramState) -> None:
        self.states.remove(state)
        state.stream_executor.end()
