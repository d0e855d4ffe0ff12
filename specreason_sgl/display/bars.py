"""The bars of a timeline: what each model did when, and how much of it is in the chain of thought."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from specreason_sgl.reasoning.trace import Call, Trace


class Part(NamedTuple):
    """A part of a request, in seconds since the run began, and whether its result was used."""

    start: float
    seconds: float
    used: bool


class Bar(NamedTuple):
    """A request.

    Attributes:
        call: the request.
        step: the number of the step that it was made for; 0 if it was for none.
        kept: the share of its result that was used; less than 1 of a draft that was cut.
    """

    call: Call
    step: int
    kept: float

    @property
    def parts(self) -> list[Part]:
        """What was used, and then what was not."""
        used = self.call.seconds * self.kept
        parts = [Part(self.call.start, used, True)] if self.kept else []
        if self.kept < 1:
            parts.append(Part(self.call.start + used, self.call.seconds - used, False))
        return parts


def bars(trace: Trace) -> list[Bar]:
    """Every request of a run, by start."""
    steps = {call: number for number, step in enumerate(trace.steps, 1) for call in step.calls}
    kept: Counter[Call] = Counter()  # tokens of drafts
    for call, number, tokens in _kept(trace):
        steps[call] = number
        kept[call] += tokens
    every = []
    for calls, used in ((trace.calls, 1.0), (trace.wasted, 0.0)):
        for call in calls:
            share = min(kept[call] / (call.completion_tokens or 1), 1.0)
            every.append(Bar(call, steps.get(call, 0), share if call.purpose == "draft" else used))
    return sorted(every, key=lambda bar: bar.call.start)


def _kept(trace: Trace) -> Iterator[tuple[Call, int, int]]:
    """The drafts that were kept, whole or up to a correction: each with its step's number and how many of its
    tokens are there.

    A draft that was cut was aborted, so its step does not have the request. Its prompt tells which it was: it
    is as long as the chain of thought was where the draft began.
    """
    wasted = [call for call in trace.wasted if call.purpose == "draft"]
    drafts = [call for call in trace.calls if call.purpose == "draft"]
    first = min([*drafts, *wasted], key=lambda call: call.start, default=None)
    if first is None:
        return
    before = sum(step.tokens for step in trace.steps if step.calls and step.calls[0].start < first.start)
    length = first.prompt_tokens - before  # tokens of the prompt and of the chain of thought
    for number, step in enumerate(trace.steps, 1):
        drafted = [call for call in step.calls if call.purpose == "draft"]
        cut = [correction.kept for correction in step.corrections]
        rest, by_base = step.draft_tokens - sum(cut), step.tokens - step.draft_tokens
        parts = [(tokens, drafted + wasted, 1) for tokens in cut]  # each before a token of the base model
        for tokens, among, after in [*parts, (rest, drafted or wasted, by_base - len(cut))]:
            if tokens > 0 and among:
                call = min(among, key=lambda call: (abs(call.prompt_tokens - length), -call.start))
                yield call, number, tokens
                length = call.prompt_tokens + tokens
            length += after
