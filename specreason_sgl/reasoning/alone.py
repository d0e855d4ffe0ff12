"""One model by itself, for comparison."""

import sglang as sgl
from msgspec.structs import replace

from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Side, Step
from specreason_sgl.reasoning.writing import final_answer, write_out


@sgl.function
def alone(s, question: Question, side: Side, config: SpecReasonConfig, run: Run | None = None):
    """One model by itself on the same prompt: the chain of thought in one request, then the answer.

    `s["trace"]` is the `Trace`; its steps are the text split at the delimiter, and the last one has the call
    and the tokens of all.

    Args:
        question, config: as in `solve_alone`.
        side: which model of a pair it is.
        run: its deadline, and who is told; `solve_alone` makes it.
    """
    run = run or Run(question, config)
    with run.of(s, **{side: s.stream_executor.backend}):
        stops = [THINK_CLOSE] if run.thinking else None
        most = int(max(min(config.token_budget, run.room(s)), 1))
        written = write_out(run, "reasoning", side, "reason", max_tokens=most, stop=stops)
        *texts, last = written.text.split(config.delimiter)
        for text in texts:
            run.chain.append(Step(text, side, "delimiter", 0))
        run.chain.append(replace(written.as_step(side), text=last))
        stop = "end"
        if written.end == "length":
            stop = "budget" if most == config.token_budget else "context"
        s["trace"] = run.trace(stop, *final_answer(run, side, stop))
