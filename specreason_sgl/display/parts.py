"""What every view of a trace shares: words, colours, figures, and a step cut into spans."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from specreason_sgl.reasoning.trace import ReadToken, Step, Trace

STOPS = {
    "answer": "the chain of thought has it",
    "end": "the thinking ended",
    "repetition": "a step repeated the one before",
    "budget": "the token budget is used up",
    "context": "the model's context is full",
    "failed": "none: the run failed",
}
DRAFT_COLOUR, BASE_COLOUR = "#4c9f70", "#3b6fb6"
REJECTED_COLOUR, REGRET_COLOUR = "#c8553d", "#e08a00"
END = "⏎"  # stands for the end of a step, and for a line break in a drafted token
SHADES = {"up to 1": 1.0, "to 2": 2.0, "to 4": 4.0, "above 4": float("inf")}  # upper bounds of regret, nats


def tokens_per_second(trace: Trace) -> float:
    return trace.tokens / trace.seconds if trace.seconds else 0.0


def rate(trace: Trace) -> str:
    return f"{trace.tokens} tokens in {trace.seconds:.1f} s ({tokens_per_second(trace):.1f} tokens/s)"


def totals(trace: Trace) -> str:
    """One line: steps by outcome, tokens, time and waste."""
    if trace.mode != "specreason":
        return f"{trace.mode} alone: {rate(trace)}"
    counts = [f"{trace.kept} kept"]
    if trace.corrections:
        corrected = sum(bool(step.corrections) for step in trace.steps)
        counts.append(f"{corrected} corrected ({_count(trace.corrections, 'token')})")
    if trace.rewritten:
        counts.append(f"{trace.rewritten} rewritten")
    steps = f"{_count(len(trace.steps), 'step')}: {', '.join(counts)}"
    return f"{steps}; {rate(trace)}, {trace.wasted_tokens} more thrown away"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def fate(step: Step) -> str:
    """What became of a step's draft, for a step that the draft model wrote or began."""
    outcomes = [f"{len(step.corrections)} corrected"] if step.corrections else []
    if step.author == "both" and (step.undrafted or not outcomes):
        outcomes.append("then base")
    return ", ".join(outcomes) or "kept"


class Span(NamedTuple):
    """A part of a step that is drawn in one style.

    Attributes:
        text: a part of the step's text, or a drafted token, or `END`.
        kind: `struck`, a drafted token that is not in the text; `base`, what the base model put in its place;
            `kept`, the rest.
        detail: text of a tooltip; may be empty.
        shade: 0 without regret, else the position in `SHADES`, from 1.
    """

    text: str
    kind: Literal["kept", "struck", "base"]
    detail: str = ""
    shade: int = 0


def spans(step: Step) -> Iterator[Span]:
    """Cut a step's text into spans, with each replaced token before its correction."""
    tokens = _token_of_each_character(step)
    position = 0
    for correction in step.corrections:
        yield from _kept_spans(step.text, tokens, position, correction.at)
        start = max(position, correction.at)
        position = max(start, correction.at + len(correction.text))
        drafted = correction.drafted.replace("\n", END) or END
        yield Span(drafted, "struck", f"drafted; regret {correction.regret:.2f} nats")
        yield Span(step.text[start:position] or END, "base", "the base model's token")
    yield from _kept_spans(step.text, tokens, position, len(step.text))


def _token_of_each_character(step: Step) -> list[ReadToken | None]:
    """The token that each character belongs to; of several tokens in one character, the most regretted."""
    tokens: list[ReadToken | None] = [None] * len(step.text)
    for token in step.reading:
        end = token.at + max(len(token.text), 1)
        for i in range(max(token.at, 0), min(end, len(tokens))):
            if (before := tokens[i]) is None or token.regret > before.regret:
                tokens[i] = token
    return tokens


def _kept_spans(text: str, tokens: list[ReadToken | None], start: int, end: int) -> Iterator[Span]:
    for _, positions in groupby(range(start, end), key=lambda i: id(tokens[i])):
        first, *others = positions
        part, token = text[first : first + 1 + len(others)], tokens[first]
        if token is None or token.regret <= 0:
            yield Span(part, "kept")
        else:
            choice = json.dumps(token.first, ensure_ascii=False)
            detail = f"regret {token.regret:.2f} nats; the base model's first choice: {choice}"
            yield Span(part, "kept", detail, bisect_left(list(SHADES.values()), token.regret) + 1)
