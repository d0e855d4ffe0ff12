"""A trace in words and, for notebooks, as a table of HTML. It loads nothing and needs no style sheet."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from specreason_sgl.reasoning.trace import Call, ReadToken, Step, Trace

STOPS = {
    "answer": "the chain of thought has it",
    "end": "the thinking ended",
    "repetition": "a step repeated the one before",
    "budget": "the token budget is used up",
    "context": "the model's context is full",
    "failed": "none: the run failed",
}
DRAFT, BASE, REJECTED, REGRET = "#4c9f70", "#3b6fb6", "#c8553d", "#e08a00"
END = "⏎"  # where a step ends, and the line ends of a drafted token
SHADES = {"up to 1": 1.0, "to 2": 2.0, "to 4": 4.0, "above 4": float("inf")}  # most regret of each, in nats
_ALPHAS = ("", "28", "50", "80", "b0")  # of the colour of a regret, by shade
_TINTS = {  # of who wrote a step: half seen through, so that text stays readable on light and dark pages
    "draft": f"background: {DRAFT}50",
    "base": f"background: {BASE}50",
    "both": f"background: linear-gradient({DRAFT}50, {BASE}50)",
}
_MARKS = {
    "struck": (
        "del",
        f"background: {REJECTED}40; text-decoration: line-through {REJECTED}; user-select: none",
    ),
    "base": ("ins", f"background: {BASE}50; text-decoration: none"),
}
_CELL = "text-align: left; vertical-align: top"
_TEXT = (
    "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; font-family: inherit; margin: 0; "
    "background: none"
)


def model_name(path: str) -> str:
    """A model's name, where its server names the folder that it is in."""
    return Path(path).name.replace("--", "/")


def tokens_per_second(trace: Trace) -> float:
    return trace.tokens / trace.seconds if trace.seconds else 0.0


def rate(trace: Trace) -> str:
    return f"{trace.tokens} tokens in {trace.seconds:.1f} s ({tokens_per_second(trace):.1f} tokens/s)"


def rejected_drafts(trace: Trace) -> set[Call]:
    """The drafts of the steps that the base model then wrote."""
    steps = (step for step in trace.steps if step.author == "base")
    return {call for step in steps for call in step.calls if call.purpose == "draft"}


def totals(trace: Trace) -> str:
    """A line of figures."""
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


class Span(NamedTuple):
    """A part of a step as it is drawn.

    Attributes:
        text: a part of the step's text, or a drafted token, or `END`.
        kind: `struck`, a drafted token that is not in the text; `base`, what the base model put there; else
            `kept`.
        detail: for a tooltip; may be empty.
        shade: 0, or for a regret above 0 its place among `SHADES` from 1.
    """

    text: str
    kind: Literal["kept", "struck", "base"]
    detail: str = ""
    shade: int = 0


def spans(step: Step) -> Iterator[Span]:
    """A step's text in parts, and where it was corrected the drafted tokens."""
    tokens = _token_of_each_character(step)
    position = 0
    for correction in step.corrections:
        yield from _kept(step.text, tokens, position, correction.at)
        start = max(position, correction.at)
        position = max(start, correction.at + len(correction.text))
        drafted = correction.drafted.replace("\n", END) or END
        yield Span(drafted, "struck", f"drafted; regret {correction.regret:.2f} nats")
        yield Span(step.text[start:position] or END, "base", "the base model's token")
    yield from _kept(step.text, tokens, position, len(step.text))


def _token_of_each_character(step: Step) -> list[ReadToken | None]:
    """Of a character that several tokens make up, the one with the highest regret."""
    tokens: list[ReadToken | None] = [None] * len(step.text)
    for token in step.reading:
        end = token.at + max(len(token.text), 1)
        for i in range(max(token.at, 0), min(end, len(tokens))):
            if (before := tokens[i]) is None or token.regret > before.regret:
                tokens[i] = token
    return tokens


def _kept(text: str, tokens: list[ReadToken | None], start: int, end: int) -> Iterator[Span]:
    for _, places in groupby(range(start, end), key=lambda i: id(tokens[i])):
        first, *others = places
        part, token = text[first : first + 1 + len(others)], tokens[first]
        if token is None or token.regret <= 0:
            yield Span(part, "kept")
        else:
            choice = json.dumps(token.first, ensure_ascii=False)
            detail = f"regret {token.regret:.2f} nats; the base model's first choice: {choice}"
            yield Span(part, "kept", detail, bisect_left(list(SHADES.values()), token.regret) + 1)


def fate(step: Step) -> str:
    """What became of the draft of a step, where the draft model wrote it or began it."""
    parts = [f"{len(step.corrections)} corrected"] if step.corrections else []
    if step.author == "both" and (step.undrafted or not parts):
        parts.append("then base")
    return ", ".join(parts) or "kept"


def as_table(trace: Trace, regret: bool = False) -> str:
    """The question, a row for each step, the answer and the totals, as HTML. What was rejected or replaced is
    struck out.

    Args:
        regret: shade the tokens that are not the base model's first choice.

    Texts stand in `<pre>`, where notebooks do not take a dollar sign for mathematics.
    """
    models = {"draft": trace.draft_model, "base": trace.base_model}
    named = ", ".join(f"{side} {model_name(name)}" for side, name in models.items() if name)
    judged = any(step.score is not None for step in trace.steps)
    titles = ("step", "written by", *(["score"] if judged else []), "tokens", "text")
    head = "".join(f'<th style="{_CELL}">{title}</th>' for title in titles)
    rows = "".join(_row(number, step, judged, regret) for number, step in enumerate(trace.steps, 1))
    return (
        f"<p><b>question</b> ({escape(named)})</p>{_pre(trace.question)}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{_legend() if regret else ''}"
        f"<p><b>answer</b> ({STOPS[trace.stop]})</p>{_pre(trace.answer)}<p>{totals(trace)}</p>"
    )


def _row(number: int, step: Step, judged: bool, regret: bool) -> str:
    text = f'<pre style="{_TEXT}">{"".join(_span(span, regret) for span in spans(step))}</pre>'
    if step.rejected:
        text = f'<del style="color: {REJECTED}">{_pre(step.rejected)}</del>{text}'
    if step.undrafted:
        text = f"<i>{escape(step.undrafted)}</i>{text}"
    author = f"draft, {fate(step)}" if step.author == "both" or step.corrections else step.author
    score = [] if not judged else ["" if step.score is None else f"{step.score:.4g}"]
    cells = [str(number), author, *score, str(step.tokens or ""), text]
    styles = [_CELL, f"{_CELL}; {_TINTS[step.author]}", *[_CELL] * (len(cells) - 2)]
    columns = (f'<td style="{style}">{cell}</td>' for style, cell in zip(styles, cells, strict=True))
    return f"<tr>{''.join(columns)}</tr>"


def _span(span: Span, regret: bool) -> str:
    tag, style = _MARKS.get(span.kind, ("span", f"background: {REGRET}{_ALPHAS[span.shade]}"))
    if span.kind == "kept" and not (regret and span.shade):
        return escape(span.text)
    return f'<{tag} style="{style}" title="{escape(span.detail)}">{escape(span.text)}</{tag}>'


def _legend() -> str:
    samples = (
        f'<span style="background: {REGRET}{alpha}">&nbsp;{name}&nbsp;</span>'
        for name, alpha in zip(SHADES, _ALPHAS[1:], strict=True)
    )
    return f"<p>regret of the base model, in nats: {' '.join(samples)}</p>"


def _pre(text: str) -> str:
    return f'<pre style="{_TEXT}">{escape(text)}</pre>'
