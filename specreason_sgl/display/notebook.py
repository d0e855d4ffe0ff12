"""A trace as an HTML table, and what IPython shows of a `Trace` and a `Report`.

The table loads nothing and needs no style sheet.
"""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING, Any

from specreason_sgl.display.parts import (
    BASE_COLOUR,
    DRAFT_COLOUR,
    REGRET_COLOUR,
    REJECTED_COLOUR,
    SHADES,
    STOPS,
    Span,
    fate,
    spans,
    totals,
)
from specreason_sgl.reasoning.trace import model_name

if TYPE_CHECKING:
    from specreason_sgl.evaluation.report import Report
    from specreason_sgl.reasoning.trace import Step, Trace

_ALPHAS = ("", "28", "50", "80", "b0")  # opacity of the regret colour, by shade
_TINTS = {  # by author; half transparent, so that text stays readable on light and dark pages
    "draft": f"background: {DRAFT_COLOUR}50",
    "base": f"background: {BASE_COLOUR}50",
    "both": f"background: linear-gradient({DRAFT_COLOUR}50, {BASE_COLOUR}50)",
}
_MARKS = {
    "struck": (
        "del",
        f"background: {REJECTED_COLOUR}40; text-decoration: line-through {REJECTED_COLOUR}; "
        "user-select: none",
    ),
    "base": ("ins", f"background: {BASE_COLOUR}50; text-decoration: none"),
}
_CELL = "text-align: left; vertical-align: top"
_TEXT = (
    "white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; font-family: inherit; margin: 0; "
    "background: none"
)


def register() -> None:
    """Have the running IPython shell show traces and reports as tables; without a shell, do nothing."""
    ipython = sys.modules.get("IPython")
    if shell := ipython and ipython.get_ipython():
        show_in(shell.display_formatter)


def show_in(formatter: Any) -> None:
    """Teach an IPython `DisplayFormatter` to show traces and reports. By name: nothing more is imported."""
    views = formatter.mimebundle_formatter
    views.for_type_by_name("specreason_sgl.reasoning.trace", "Trace", trace_views)
    views.for_type_by_name("specreason_sgl.evaluation.report", "Report", report_views)


def trace_views(trace: Trace) -> dict[str, str]:
    """A trace by MIME type."""
    return {"text/html": as_table(trace), "text/plain": totals(trace)}


def report_views(report: Report) -> dict[str, str]:
    """A report by MIME type."""
    from specreason_sgl.display.report import as_markdown, tables_html

    views = {"text/html": tables_html, "text/plain": as_markdown}
    return {kind: view(report.rows, report.groups) for kind, view in views.items()}


def as_table(trace: Trace, regret: bool = False) -> str:
    """The question, one row per step, the answer and the totals, as HTML. Rejected and replaced text is
    struck out.

    Args:
        regret: shade the tokens that are not the base model's first choice.
    """
    models = {"draft": trace.draft_model, "base": trace.base_model}
    named = ", ".join(f"{side} {model_name(name)}" for side, name in models.items() if name)
    scored = any(step.score is not None for step in trace.steps)
    titles = ("step", "written by", *(["score"] if scored else []), "tokens", "text")
    head = "".join(f'<th style="{_CELL}">{title}</th>' for title in titles)
    rows = "".join(_row(number, step, scored, regret) for number, step in enumerate(trace.steps, 1))
    return (
        f"<p><b>question</b> ({escape(named)})</p>{_pre(trace.question)}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{_legend() if regret else ''}"
        f"<p><b>answer</b> ({STOPS[trace.stop]})</p>{_pre(trace.answer)}<p>{totals(trace)}</p>"
    )


def _row(number: int, step: Step, scored: bool, regret: bool) -> str:
    text = f'<pre style="{_TEXT}">{"".join(_marked(span, regret) for span in spans(step))}</pre>'
    if step.rejected:
        text = f'<del style="color: {REJECTED_COLOUR}">{_pre(step.rejected)}</del>{text}'
    if step.undrafted:
        text = f"<i>{escape(step.undrafted_reason)}</i>{text}"
    author = f"draft, {fate(step)}" if step.author == "both" or step.corrections else step.author
    score = [] if not scored else ["" if step.score is None else f"{step.score:.4g}"]
    cells = [str(number), author, *score, str(step.tokens or ""), text]
    styles = [_CELL, f"{_CELL}; {_TINTS[step.author]}", *[_CELL] * (len(cells) - 2)]
    columns = (f'<td style="{style}">{cell}</td>' for style, cell in zip(styles, cells, strict=True))
    return f"<tr>{''.join(columns)}</tr>"


def _marked(span: Span, regret: bool) -> str:
    if span.kind == "kept" and not (regret and span.shade):
        return escape(span.text)
    tag, style = _MARKS.get(span.kind, ("span", f"background: {REGRET_COLOUR}{_ALPHAS[span.shade]}"))
    return f'<{tag} style="{style}" title="{escape(span.detail)}">{escape(span.text)}</{tag}>'


def _legend() -> str:
    samples = (
        f'<span style="background: {REGRET_COLOUR}{alpha}">&nbsp;{name}&nbsp;</span>'
        for name, alpha in zip(SHADES, _ALPHAS[1:], strict=True)
    )
    return f"<p>regret of the base model, in nats: {' '.join(samples)}</p>"


def _pre(text: str) -> str:
    # In <pre>, notebooks do not take a dollar sign for mathematics.
    return f'<pre style="{_TEXT}">{escape(text)}</pre>'
