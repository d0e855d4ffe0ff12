"""A trace in words and, for notebooks, as a table of HTML. It loads nothing and needs no style sheet."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specreason_sgl.reasoning.trace import Call, Step, Trace

STOPS = {
    "answer": "the chain of thought has it",
    "end": "the thinking ended",
    "repetition": "a step repeated the one before",
    "budget": "the token budget is used up",
    "context": "the model's context is full",
    "failed": "none: the run failed",
}
DRAFT, BASE, REJECTED = "#4c9f70", "#3b6fb6", "#c8553d"
_TINTS = {  # of who wrote a step: half seen through, so that text stays readable on light and dark pages
    "draft": f"background: {DRAFT}50",
    "base": f"background: {BASE}50",
    "both": f"background: linear-gradient({DRAFT}50, {BASE}50)",
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
    return (
        f"{len(trace.steps)} steps: {trace.kept} kept, {trace.rewritten} rewritten; {rate(trace)}, "
        f"{trace.wasted_tokens} more thrown away"
    )


def as_table(trace: Trace) -> str:
    """The question, a row for each step, the answer and the totals, as HTML. What was rejected is struck out.

    Texts stand in `<pre>`, where notebooks do not take a dollar sign for mathematics.
    """
    models = {"draft": trace.draft_model, "base": trace.base_model}
    named = ", ".join(f"{side} {model_name(name)}" for side, name in models.items() if name)
    judged = any(step.score is not None for step in trace.steps)
    titles = ("step", "written by", *(["score"] if judged else []), "tokens", "text")
    head = "".join(f'<th style="{_CELL}">{title}</th>' for title in titles)
    rows = "".join(_row(number, step, judged) for number, step in enumerate(trace.steps, 1))
    return (
        f"<p><b>question</b> ({escape(named)})</p>{_pre(trace.question)}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p><b>answer</b> ({STOPS[trace.stop]})</p>{_pre(trace.answer)}<p>{totals(trace)}</p>"
    )


def _row(number: int, step: Step, judged: bool) -> str:
    text = _pre(step.text)
    if step.rejected:
        text = f'<del style="color: {REJECTED}">{_pre(step.rejected)}</del>{text}'
    if step.undrafted:
        text = f"<i>{escape(step.undrafted)}</i>{text}"
    author = "draft, then base" if step.author == "both" else step.author
    score = [] if not judged else ["" if step.score is None else f"{step.score:.4g}"]
    cells = [str(number), author, *score, str(step.tokens or ""), text]
    styles = [_CELL, f"{_CELL}; {_TINTS[step.author]}", *[_CELL] * (len(cells) - 2)]
    found = (f'<td style="{style}">{cell}</td>' for style, cell in zip(styles, cells, strict=True))
    return f"<tr>{''.join(found)}</tr>"


def _pre(text: str) -> str:
    return f'<pre style="{_TEXT}">{escape(text)}</pre>'
