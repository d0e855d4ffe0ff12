"""`solve` and `solve_alone`: one problem, by a pair or by one model."""

from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.alone import alone
from specreason_sgl.reasoning.chain import OnStep
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.run import Cancel, OnText, Run
from specreason_sgl.reasoning.speculate import speculate
from specreason_sgl.reasoning.trace import Side, Trace


def solve(
    question: Question,
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    on_step: OnStep | None = None,
    on_text: OnText | None = None,
    cancel: Cancel | None = None,
    resume: Trace | None = None,
) -> Trace:
    """Solve one problem with a draft and a base model. Where the draft model's runtime fails, the base model
    goes on alone, and the trace says so.

    Args:
        question: the problem, plain text; or a conversation that ends with it, as messages with `role`
            (`system`, `user`, `assistant`) and `content`.
        draft, base: the two runtimes.
        config: default `SpecReasonConfig()`.
        timeout: deadline of the whole run, in seconds; None leaves it to the endpoints' own.
        on_step: called with each `Step` as it is finished.
        on_text: called with "answer" and what comes of the final answer, as it comes.
        cancel: ends the run when it is called, from any thread.
        resume: the trace of a run of the same question that failed: its steps are kept, and the run goes on
            after them.

    Raises:
        ConfigError: the question is empty, the timeout is not above 0, or the trace is not this question's,
            or not one that failed.
        RequestAborted: it was cancelled.
        ServerError: the base model's runtime failed; `DeadlineExceeded`: the time is over. Requests in flight
            are aborted, also on Ctrl-C. The error's `trace` is what there was.
    """
    config = config or SpecReasonConfig()
    run = Run(
        question, config, timeout=timeout, on_step=on_step, on_text=on_text, cancel=cancel, resume=resume
    )
    draft, base = (endpoint.with_template(config.template) for endpoint in (draft, base))
    return speculate.run(question=question, draft=draft, config=config, run=run, backend=base)["trace"]


def solve_alone(
    question: Question,
    *,
    endpoint: Endpoint,
    side: Side = "base",
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    on_text: OnText | None = None,
    cancel: Cancel | None = None,
) -> Trace:
    """Solve one problem with one model; arguments and errors as in `solve`. `on_text` is told of the
    "reasoning" too, as it comes."""
    config = config or SpecReasonConfig()
    run = Run(question, config, timeout=timeout, on_text=on_text, cancel=cancel)
    endpoint = endpoint.with_template(config.template)
    return alone.run(question=question, side=side, config=config, run=run, backend=endpoint)["trace"]
