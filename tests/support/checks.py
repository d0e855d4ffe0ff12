"""What must hold for the trace of every run of a scripted `Pair`."""

from tests.support.pair import Pair
from tests.support.waiting import wait_until


def what_was_decided(trace):
    """All of a trace that does not depend on time."""
    steps = [
        (step.text, step.author, step.score, step.rejected, step.corrections, step.tokens, step.end)
        for step in trace.steps
    ]
    return steps, trace.stop, trace.answer, [[c.purpose for c in step.calls] for step in trace.steps]


def what_was_written(trace):
    """The steps without their requests: the number of windows depends on time."""
    return [(step.text, step.author, step.corrections, step.tokens, step.end) for step in trace.steps]


def check_books(pair: Pair, trace):
    """The trace has every generated token exactly once, and no request is in flight."""
    used = sum(call.completion_tokens for call in trace.calls)
    wasted = sum(call.completion_tokens for call in trace.wasted)
    assert used + wasted == pair.generated()
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)


def check_books_of_streams(pair: Pair, trace):
    """No request is in flight, and the trace has no more tokens than were generated. It may have fewer: the
    server goes on writing after a stream was closed."""
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
    traced = sum(call.completion_tokens for call in (*trace.calls, *trace.wasted))
    assert traced <= pair.generated()
    assert trace.wasted_tokens >= 0
