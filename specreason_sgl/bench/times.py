"""Times of a run from its requests: what it could have taken at least, and how much none of them covers."""

from specreason_sgl.reasoning.trace import Trace


def bound(trace: Trace, lookahead: int) -> float:
    """Seconds that the necessary requests of a run that rewrites take, each as long as it took, with nothing
    between them.

    Sequential (`lookahead` 0): one after another. Otherwise drafts run beside scores and rewrites, as far
    ahead as `lookahead` allows. A mode of one model is sequential.
    """
    drafted: list[float] = []  # when each step's draft was there, since drafting last restarted
    decided: list[float] = []  # when each step was decided
    restarted = 0.0
    for step in trace.steps:
        seconds = {call.purpose: call.seconds for call in step.calls}
        now = decided[-1] if decided else 0.0
        if "draft" in seconds:
            behind = len(decided) - 1 - lookahead
            free = max(restarted, decided[behind]) if behind >= 0 else restarted
            start = max(free, drafted[-1]) if drafted else free
            drafted.append(start + seconds["draft"])
            now = max(drafted[-1], now)
        now += max(seconds.get("score", 0.0), seconds.get("read", 0.0))  # sent side by side
        now += sum(seconds.get(purpose, 0.0) for purpose in ("rewrite", "reason"))
        decided.append(now)
        if step.author != "draft":
            restarted, drafted = now, []
    return (decided[-1] if decided else 0.0) + (trace.answer_call.seconds if trace.answer_call else 0.0)


def uncovered(trace: Trace) -> float:
    """The share of a run's time in which none of its requests was in flight."""
    covered = at = 0.0
    for call in sorted((*trace.calls, *trace.wasted), key=lambda call: call.start):
        start, stop = max(call.start, at), min(call.start + call.seconds, trace.seconds)
        if stop > start:
            covered += stop - start
            at = stop
    return 1 - covered / trace.seconds
