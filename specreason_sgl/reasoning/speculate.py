"""Speculative reasoning (SpecReason, arXiv 2504.07891) as a program of SGLang's language: the algorithm.

Question, chain of thought so far, a drafted text, what the base model says of it, a longer chain. Nothing
flows back to the draft model but "kept" and "drop".
"""

import sglang as sgl

from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning import pieces
from specreason_sgl.reasoning.ahead import Ahead, Judged, Skipped
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.repair import Rewrite
from specreason_sgl.reasoning.run import Run
from specreason_sgl.reasoning.trace import Step
from specreason_sgl.reasoning.writing import final_answer, write_step


@sgl.function
def speculate(s, question: Question, draft: Endpoint, config: SpecReasonConfig, run: Run | None = None):
    """Draft, judge, keep or repair, while the draft model works ahead.

    The draft model writes up to `config.lookahead` steps beyond the one in judgement. What is not kept aborts
    it, and it begins again after the repair. Under greedy decoding the text is the same for every `lookahead`
    and every `window`.

    Run it on the base endpoint. `s["trace"]` is the `Trace`.

    Args:
        question, config: as in `solve`.
        draft: the draft model's runtime.
        run: its deadline, and who is told; `solve` makes it.
    """
    run = run or Run(question, config)
    with run.of(s, base=s.stream_executor.backend, draft=draft):
        ahead = Ahead(run, s, draft)
        while not (stop := run.why_stop()):
            judged = ahead.next()
            if isinstance(judged, Skipped):
                piece = write_step(run, undrafted=judged.why)
            elif judged.keeps:
                piece = pieces.kept(run, judged)
                ahead.kept(judged, piece)
            else:
                ahead.drop()
                piece = repaired(run, judged)
            s += run.chain.append(piece)
        ahead.drop()
        s["trace"] = run.trace(stop, *final_answer(run, "base", stop))


def repaired(run: Run, judged: Judged) -> Step:
    """What stands in the place of a drafted text that is not kept."""
    if isinstance(run.config.repair, Rewrite):
        return pieces.rewritten(run, judged)
    return pieces.corrected(run, judged)
