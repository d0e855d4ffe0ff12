"""`alone`: one model without the other, for comparison."""

from __future__ import annotations

from msgspec.structs import replace
from sglang.lang.interpreter import ProgramState

from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.lang.program import program
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Side, Step, Stop
from specreason_sgl.reasoning.writing import final_answer, stream_out


@program
def alone(
    s: ProgramState, question: Question, side: Side, config: SpecReasonConfig, run: Run | None = None
) -> None:
    """Solve a problem with one model: the same prompt, the chain of thought in one request, the answer.

    Run it on the model's endpoint. The trace's steps are the text split at the delimiter. The last step holds
    the request and the tokens of all steps.

    Args:
        question: as in `solve_alone`.
        side: which model of a pair it is.
        config: as in `solve_alone`.
        run: deadline and callbacks; default: a `Run` without any.

    Returns:
        The state; `state["trace"]` is the `Trace`.
    """
    run = run or Run(question, config)
    with run.start(s, **{side: s.stream_executor.backend}):
        stop = run.why_stop() or _reason(run, side)
        s["trace"] = run.trace(stop, final_answer(run, side, stop))


def _reason(run: Run, side: Side) -> Stop:
    """Write the chain of thought. Returns why it ended."""
    config = run.config
    max_tokens = int(min(config.token_budget, run.room(run.main)))
    stops = [THINK_CLOSE] if run.thinking else None
    written = stream_out(run, "reasoning", side, "reason", max_tokens=max_tokens, stop=stops)
    *texts, last = written.text.split(config.delimiter)
    for text in texts:
        run.chain.append(Step(text, side, "delimiter", 0))
    run.chain.append(replace(written.as_step(side), text=last))
    if written.end != "length":
        return "end"
    return "budget" if max_tokens == config.token_budget else "context"
