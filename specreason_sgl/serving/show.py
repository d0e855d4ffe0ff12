"""Traces to look at: in the terminal, and as a page of HTML. Needs neither SGLang nor a server."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import UnionType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.display import (
    SHADES,
    STOPS,
    fate,
    rate,
    rejected_drafts,
    spans,
    tokens_per_second,
    totals,
)
from specreason_sgl.reasoning.trace import Call, Step, Trace

NO_TRACES = '<script type="application/json" id="traces">[]</script>'
TIMELINE_WIDTH = 100
# Control characters of a model could move the cursor: all but tab and newline are shown as pictures.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_VISIBLE |= {code: 0xFFFD for code in range(127, 160)}
_MARKS = {  # of a call's purpose in the timeline, with their colours
    "draft": ("D", "green"),
    "score": ("S", "yellow"),
    "read": ("r", "yellow"),
    "rewrite": ("R", "blue"),
    "reason": ("T", "blue"),
    "answer": ("A", "magenta"),
}
_SPANS = {  # style of a correction's parts, and the marks around them where there are no colours
    "kept": ("", "", ""),
    "struck": ("red strike", "[-", "-]"),
    "base": ("bold blue", "{+", "+}"),
}
_SHADES = ("#000000 on #fff2c8", "#000000 on #ffe070", "#000000 on #e8ac28", "#000000 on #d07800")


def page() -> str:
    """The page: HTML that asks the server it came from, and shows traces."""
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def as_html(traces: Sequence[Trace]) -> str:
    """The page with traces in it, in one file that needs no server."""
    plain = [
        json.loads(trace.to_json(), parse_constant=lambda name: None) for trace in traces
    ]  # no NaN there
    data = json.dumps(plain, ensure_ascii=False).replace(
        "<", "\\u003c"
    )  # else `</script>` in a text would end the element
    return page().replace(NO_TRACES, NO_TRACES.replace("[]", data), 1)


def read_traces(path: Path) -> list[Trace]:
    """Read what `solve --json` wrote: one trace, or JSON Lines with several.

    Raises:
        ConfigError: the file cannot be read, has no trace, or a line is not one (its number is named).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the trace {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a trace of specreason-sgl (it is no text)") from None
    lines = text.split("\n")  # not splitlines: a text in JSON may have other line ends of Unicode
    if len(lines) > 1 and _is_json(text):  # one trace over several lines
        lines = [text]
    traces = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            traces.append(_checked(Trace.from_json(line)))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
    if not traces:
        raise ConfigError(f"{path} has no trace")
    return traces


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _checked(trace: Trace) -> Trace:
    """What the views rely on beyond `from_json`."""
    calls = (*trace.calls, *trace.wasted)
    valid = (
        isinstance(trace.config, dict)
        and _are(str, trace.config.get("delimiter"), trace.question, trace.answer)
        and trace.mode in ("specreason", "base", "draft")
        and trace.stop in list(STOPS)
        and all(map(_is_valid_step, trace.steps))
        and _are(int | float, trace.seconds)
        and all(_are(int | float, call.start, call.seconds, call.completion_tokens) for call in calls)
        and all(call.side in ("draft", "base") for call in calls)
    )
    if not valid:
        raise ConfigError("this is not a trace of specreason-sgl (a value is of the wrong kind)")
    return trace


def _is_valid_step(step: Step) -> bool:
    optional = [text for text in (step.rejected, step.undrafted) if text is not None]
    return (
        step.author in ("draft", "base", "both")
        and _are(str, step.text, *optional)
        and _are(int | float, step.tokens, step.draft_tokens, 0 if step.score is None else step.score)
        and all(_are(str, c.drafted, c.text) and _are(int | float, c.regret) for c in step.corrections)
        and all(
            _are(str, token.text, token.first) and _are(int | float, token.regret) for token in step.reading
        )
        and all(isinstance(token.at, int) for token in step.reading)
        and all(isinstance(c.at, int) and 0 <= c.at <= len(step.text) for c in step.corrections)
    )


def _are(kind: type | UnionType, *values: object) -> bool:
    return all(isinstance(value, kind) for value in values)


def print_traces(console: Console, traces: Sequence[Trace], regret: bool = False) -> None:
    """Traces one after the other; where one has the base model alone beside it, the comparison as well.

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
    """A whole trace: the question, its steps, the answer, what each model did when, and totals."""
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
    """A step: who wrote it, its score, and the drafted text or tokens that were not kept."""
    score = "" if step.score is None else f"score {step.score:.4g}, "
    reason = (step.undrafted or "").translate(_VISIBLE)
    if step.rejected:
        console.print(f"[red]draft[/]  {score}rejected")
        print_text(console, step.rejected, "dim strike")
    if step.author == "base" and not step.corrections:
        wrote = "wrote it" if step.rejected is None else "rewrote it"
        heading = Text.assemble(("base", "blue"), f"   {wrote}", f" alone: {reason}" if reason else "")
    else:
        heading = Text.assemble(("draft", "green"), f"  {score}{fate(step)}", f": {reason}" if reason else "")
    console.print(heading, soft_wrap=True)
    console.print(_drawn(step, regret, _has_colours(console)).append("\n"), soft_wrap=True)


def _drawn(step: Step, regret: bool, colours: bool) -> Text:
    """A step's text with its corrections, in colours or with marks around them."""
    drawn = Text()
    for span in spans(step):
        style, before, after = _SPANS[span.kind]
        if regret and span.shade:
            style, before, after = _shade(span.shade)
        text = span.text.translate(_VISIBLE)
        drawn.append(*(text, style) if colours else (f"{before}{text}{after}",))
    return drawn


def _shade(shade: int) -> tuple[str, str, str]:
    """Like `_SPANS`, of a regret."""
    return _SHADES[shade - 1], "{~", f"~{shade}}}"


def _print_shades(console: Console, trace: Trace) -> None:
    if not any(step.reading for step in trace.steps):
        console.print("The base model read no tokens of this run: it has no regrets to show.\n")
        return
    legend = Text("regret of the base model, in nats: ")
    for number, name in enumerate(SHADES, 1):
        style, before, after = _shade(number)
        legend.append(*(f" {name} ", style) if _has_colours(console) else (f"{before}{name}{after}",))
        legend.append(" ")
    console.print(legend.append("\n"), soft_wrap=True)


def _has_colours(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def print_text(console: Console, text: str, style: str | None = None) -> None:
    """A model's text, as it is."""
    console.print(Text(f"{text.translate(_VISIBLE)}\n", style or ""), soft_wrap=True)


def print_result(console: Console, trace: Trace) -> None:
    """The answer, and of speculative reasoning the totals."""
    if trace.mode != "specreason":
        console.print(f"[bold]{trace.mode} alone[/]")
        print_text(console, trace.reasoning)
    console.print(f"[bold]answer[/] ({STOPS[trace.stop]})")
    print_text(console, trace.answer)
    if trace.mode == "specreason":
        console.print(f"{totals(trace)}\n")


def print_comparison(console: Console, trace: Trace, alone: Trace) -> None:
    """Speculative reasoning beside the base model alone on the same question."""
    table = Table("mode", "seconds", "tokens", "tokens/s", "answer", box=None, pad_edge=False)
    for name, one in (("specreason", trace), ("base alone", alone)):
        answer = Text(one.answer.translate(_VISIBLE))
        table.add_row(name, f"{one.seconds:.1f}", str(one.tokens), f"{tokens_per_second(one):.1f}", answer)
    console.print(table)
    if trace.seconds:
        console.print(f"base alone took {alone.seconds / trace.seconds:.2f} times as long")


def print_timeline(console: Console, trace: Trace) -> None:
    """A line for each model: what it did when. An x is a request that was cut off or not needed."""
    rejected = rejected_drafts(trace)
    calls = [(call, call in rejected) for call in trace.calls]
    calls += [(call, True) for call in trace.wasted]
    end = max((call.start + call.seconds for call, _ in calls), default=0.0)
    if not end:
        return
    width = max(min(console.width - 7, TIMELINE_WIDTH), 20)
    for side in ("draft", "base"):
        mine = [(call, lost) for call, lost in calls if call.side == side]
        if mine:
            console.print(Text(f"{side:<7}") + _lane(mine, end, width), soft_wrap=True)
    times = f"{'0 s':<{width - 8}}{end:>6.1f} s"
    console.print(Text(f"{'':7}{times}"), soft_wrap=True)
    seen = {call.purpose for call, lost in calls if not lost}
    legend = Text(" " * 7)
    for purpose, (mark, colour) in _MARKS.items():
        if purpose in seen:
            legend += Text.assemble((mark, colour), f" {'think' if purpose == 'reason' else purpose}  ")
    if any(lost for _, lost in calls):
        legend += Text.assemble(("x", "red"), " cut off or not needed  ")
    console.print(legend + Text("· idle\n"), soft_wrap=True)


def _lane(calls: list[tuple[Call, bool]], end: float, width: int) -> Text:
    """In each of `width` parts of the time, the call that took most of it."""
    lane = Text()
    for column in range(width):
        low, high = end * column / width, end * (column + 1) / width
        best, longest = ("·", "dim"), 0.0
        for call, lost in calls:
            covered = min(call.start + call.seconds, high) - max(call.start, low)
            if covered > longest:
                best, longest = ("x", "red") if lost else _MARKS.get(call.purpose, ("?", "")), covered
        lane.append(*best)
    return lane
