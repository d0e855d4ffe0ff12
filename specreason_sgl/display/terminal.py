"""Traces in the terminal: steps as they come, results, whole traces, comparisons."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from specreason_sgl.display.parts import SHADES, STOPS, fate, rate, spans, tokens_per_second, totals
from specreason_sgl.display.terminal_timeline import print_timeline
from specreason_sgl.reasoning.trace import Step, Trace

# Control characters in a model's text could move the cursor: all but tab and newline become pictures.
VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
VISIBLE |= {code: 0xFFFD for code in range(127, 160)}
_SPANS = {  # style of a span by kind, and the marks around it on a terminal without colours
    "kept": ("", "", ""),
    "struck": ("red strike", "[-", "-]"),
    "base": ("bold blue", "{+", "+}"),
}
_SHADES = ("#000000 on #fff2c8", "#000000 on #ffe070", "#000000 on #e8ac28", "#000000 on #d07800")


def print_traces(console: Console, traces: Sequence[Trace], regret: bool = False) -> None:
    """Print traces one after another, then compare those that have a run of the base model alone.

    Args:
        regret: shade the tokens that are not the base model's first choice.
    """
    for trace in traces:
        print_trace(console, trace, regret)
    for trace in traces:
        alone = [other for other in traces if other.mode == "base" and other.question == trace.question]
        if trace.mode == "specreason" and alone:
            print_comparison(console, trace, alone[0])


def print_trace(console: Console, trace: Trace, regret: bool = False) -> None:
    """Print a whole trace: the question, its steps, the answer, the timeline and totals."""
    models = {"draft": trace.draft_model, "base": trace.base_model}
    named = ", ".join(f"{side} {name}" for side, name in models.items() if name)
    console.print(Text.assemble(("question", "bold"), f" ({named})"), soft_wrap=True)
    print_text(console, trace.question)
    if trace.mode == "specreason":
        for step in trace.steps:
            print_step(console, step, regret)
        if regret:
            _print_shades(console, trace)
    print_result(console, trace)
    print_timeline(console, trace)
    if trace.mode != "specreason":
        console.print(f"{rate(trace)}\n")


def print_step(console: Console, step: Step, regret: bool = False) -> None:
    """Print a step: its author, its score, and what was drafted and not kept."""
    score = "" if step.score is None else f"score {step.score:.4g}, "
    reason = step.undrafted_reason.translate(VISIBLE)
    if step.rejected:
        console.print(f"[red]draft[/]  {score}rejected")
        print_text(console, step.rejected, "dim strike")
    if step.author == "base" and not step.corrections:
        wrote = "wrote it" if step.rejected is None else "rewrote it"
        heading = Text.assemble(("base", "blue"), f"   {wrote}", f" alone: {reason}" if reason else "")
    else:
        heading = Text.assemble(("draft", "green"), f"  {score}{fate(step)}", f": {reason}" if reason else "")
    console.print(heading, soft_wrap=True)
    console.print(step_text(step, regret, _has_colours(console)).append("\n"), soft_wrap=True)


def print_text(console: Console, text: str, style: str | None = None) -> None:
    """Print a model's text verbatim."""
    console.print(Text(f"{text.translate(VISIBLE)}\n", style or ""), soft_wrap=True)


def print_result(console: Console, trace: Trace) -> None:
    """Print the answer; before it the reasoning of a model alone, or after it the totals of the pair."""
    if trace.mode != "specreason":
        console.print(f"[bold]{trace.mode} alone[/]")
        print_text(console, trace.reasoning)
    console.print(f"[bold]answer[/] ({STOPS[trace.stop]})")
    print_text(console, trace.answer)
    if trace.mode == "specreason":
        console.print(f"{totals(trace)}\n")


def print_comparison(console: Console, trace: Trace, alone: Trace) -> None:
    """Print speculative reasoning beside the base model alone on the same question."""
    table = Table("mode", "seconds", "tokens", "tokens/s", "answer", box=None, pad_edge=False)
    for name, run in (("specreason", trace), ("base alone", alone)):
        answer = Text(run.answer.translate(VISIBLE))
        table.add_row(name, f"{run.seconds:.1f}", str(run.tokens), f"{tokens_per_second(run):.1f}", answer)
    console.print(table)
    if trace.seconds:
        console.print(f"base alone took {alone.seconds / trace.seconds:.2f} times as long")


def step_text(step: Step, regret: bool, colours: bool) -> Text:
    """A step's text with its corrections, in colours or with marks around them."""
    text = Text()
    for span in spans(step):
        style = _shade_style(span.shade) if regret and span.shade else _SPANS[span.kind]
        _append(text, span.text.translate(VISIBLE), style, colours)
    return text


def _print_shades(console: Console, trace: Trace) -> None:
    if not any(step.reading for step in trace.steps):
        console.print("The base model read no tokens of this run: it has no regrets to show.\n")
        return
    colours = _has_colours(console)
    legend = Text("regret of the base model, in nats: ")
    for shade, name in enumerate(SHADES, 1):
        _append(legend, f" {name} " if colours else name, _shade_style(shade), colours)
        legend.append(" ")
    console.print(legend.append("\n"), soft_wrap=True)


def _append(text: Text, part: str, style: tuple[str, str, str], colours: bool) -> None:
    colour, before, after = style
    text.append(*(part, colour) if colours else (f"{before}{part}{after}",))


def _shade_style(shade: int) -> tuple[str, str, str]:
    """Style and marks of a shade of regret, as in `_SPANS`."""
    return _SHADES[shade - 1], "{~", f"~{shade}}}"


def _has_colours(console: Console) -> bool:
    return console.color_system is not None and not console.no_color
