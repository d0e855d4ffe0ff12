"""`speculate`: speculative reasoning (SpecReason, arXiv 2504.07891) as a program of SGLang's language.

The chain of thought grows piece by piece. A piece is a step, or a part of a step that the base model read
while the draft model was still writing it. Each piece is drafted, judged, and then kept or repaired.
"""

from __future__ import annotations

from sglang.lang.interpreter import ProgramState

from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.program import program
from specreason_sgl.reasoning.ahead import Ahead, Skipped
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.pieces import accept, repair
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.writing import final_answer, write_step


@program
def speculate(
    s: ProgramState, question: Question, draft: Endpoint, config: SpecReasonConfig, run: Run | None = None
) -> None:
    """Solve a problem: the draft model writes, the base model judges, keeps or repairs.

    Both models work at the same time. The draft model writes up to `config.lookahead` steps beyond the step
    that is being judged, as if every draft were kept. A draft that is not kept aborts what was written beyond
    it; the draft model resumes after the repair. Under greedy decoding the text does not depend on
    `lookahead` and `window`, nor on the load unless `at_load` is "base".

    Run it on the base model's endpoint:

        state = speculate.run(question="What is 17 * 23?", draft=draft, config=config, backend=base)
        print(state["trace"].answer)

    Args:
        question: as in `solve`.
        draft: the draft model's endpoint.
        config: as in `solve`.
        run: deadline, callbacks and the steps to resume from; default: a `Run` without any.

    Returns:
        The state; `state["trace"]` is the `Trace`.
    """
    run = run or Run(question, config)
    with run.start(s, base=s.stream_executor.backend, draft=draft):
        ahead = Ahead(run, s, draft)
        while not (stop := run.why_stop()):
            judged = ahead.next()
            if isinstance(judged, Skipped):
                piece = write_step(run, undrafted=judged.reason, undrafted_detail=judged.detail)
            elif judged.passes:
                piece = accept(run, judged)
                ahead.keep(judged, piece)
            else:
                ahead.drop()
                piece = repair(run, judged)
            s += (text := run.chain.append(piece))
            ahead.advanced(piece, text)
        ahead.drop()
        s["trace"] = run.trace(stop, ahead.answered(final_answer(run, "base", stop)))
