"""`solve` and `solve_alone`: solve one problem with a pair of models, or with one model."""

from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.alone import alone
from specreason_sgl.reasoning.chain import OnStep
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.live import OnDraft, OnText
from specreason_sgl.reasoning.run import Cancel, Run
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
    on_draft: OnDraft | None = None,
    cancel: Cancel | None = None,
    resume: Trace | None = None,
) -> Trace:
    """Solve one problem with a draft and a base model.

    If the draft model's runtime fails, the base model continues alone, and the trace says so. Whatever ends
    the run, Ctrl-C included, requests in flight are aborted.

    Args:
        question: the problem as a text; or a conversation that ends with it, as messages with `role`
            (`system`, `user`, `assistant`) and `content`.
        draft, base: the two models' endpoints.
        config: settings; default: `SpecReasonConfig()`.
        timeout: deadline of the whole run, in seconds; None: only the endpoints' own timeouts apply.
        on_step: called with each `Step` as it is finished.
        on_text: called with "answer" and new text of the final answer, as it is written.
        on_draft: called with the drafted text that is not judged yet, and the unfinished step that it
            continues or None, whenever one of them changes; from several threads, one at a time. Where the
            base model writes a step itself, the unfinished step grows as it does. Both models then send each
            token at once, which costs a little.
        cancel: ends the run when called, from any thread.
        resume: the trace of a failed run of the same question; the run continues after its steps.

    Returns:
        The run's `Trace`.

    Raises:
        ConfigError: the question is empty, the timeout is not positive, or the trace is not of a failed run
            of this question.
        RequestAborted: the run was cancelled.
        DeadlineExceeded: the deadline has passed.
        ServerError: the base model's runtime failed. An error's `trace` has the steps so far.
    """
    config = config or SpecReasonConfig()
    run = Run(
        question, config, timeout=timeout, on_step=on_step, on_text=on_text, on_draft=on_draft,
        cancel=cancel, resume=resume,
    )  # fmt: skip
    draft, base = (_configured(endpoint, config) for endpoint in (draft, base))
    return speculate.run(
        question=question, draft=draft, config=config, run=run, backend=base, use_thread=False
    )["trace"]


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
    """Solve one problem with one model; arguments and errors as in `solve`.

    Args:
        endpoint: the model's endpoint.
        side: which model of a pair it is.
        on_text: called with "reasoning" or "answer" and new text, as it is written.
    """
    config = config or SpecReasonConfig()
    run = Run(question, config, timeout=timeout, on_text=on_text, cancel=cancel)
    endpoint = _configured(endpoint, config)
    return alone.run(
        question=question, side=side, config=config, run=run, backend=endpoint, use_thread=False
    )["trace"]


def _configured(endpoint: Endpoint, config: SpecReasonConfig) -> Endpoint:
    return endpoint.with_template(config.template).with_sampling(config.runtime_sampling)
