"""The timeline of a trace in the terminal: one line per model, one mark per slice of time."""

from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from specreason_sgl.display.parts import rejected_drafts
from specreason_sgl.reasoning.trace import Call, Trace

MAX_WIDTH = 100  # slices
_MARKS = {  # of a request's purpose, with its colour
    "draft": ("D", "green"),
    "score": ("S", "yellow"),
    "read": ("r", "yellow"),
    "rewrite": ("R", "blue"),
    "reason": ("T", "blue"),
    "answer": ("A", "magenta"),
}
_UNUSED, _IDLE = ("x", "red"), ("·", "dim")
_MARGIN = 7  # columns of the models' names


class _Bar(NamedTuple):
    call: Call
    used: bool

    @property
    def mark(self) -> tuple[str, str]:
        return _MARKS.get(self.call.purpose, ("?", "")) if self.used else _UNUSED


def print_timeline(console: Console, trace: Trace) -> None:
    """Print what each model did when. An x is a request that was cut off or not needed."""
    rejected = rejected_drafts(trace)
    bars = [_Bar(call, call not in rejected) for call in trace.calls]
    bars += [_Bar(call, False) for call in trace.wasted]
    end = max((bar.call.start + bar.call.seconds for bar in bars), default=0.0)
    if not end:
        return
    width = max(min(console.width - _MARGIN, MAX_WIDTH), 20)
    for side in ("draft", "base"):
        lane = [bar for bar in bars if bar.call.side == side]
        if lane:
            console.print(Text(f"{side:<{_MARGIN}}") + _lane(lane, end, width), soft_wrap=True)
    times = f"{'0 s':<{width - 8}}{end:>6.1f} s"
    console.print(Text(f"{'':{_MARGIN}}{times}"), soft_wrap=True)
    console.print(_legend(bars), soft_wrap=True)


def _lane(bars: list[_Bar], end: float, width: int) -> Text:
    """For each of `width` slices of the time, the mark of the request that covers most of it."""
    lane = Text()
    for column in range(width):
        low, high = end * column / width, end * (column + 1) / width
        mark, longest = _IDLE, 0.0
        for bar in bars:
            covered = min(bar.call.start + bar.call.seconds, high) - max(bar.call.start, low)
            if covered > longest:
                mark, longest = bar.mark, covered
        lane.append(*mark)
    return lane


def _legend(bars: list[_Bar]) -> Text:
    seen = {bar.call.purpose for bar in bars if bar.used}
    legend = Text(" " * _MARGIN)
    for purpose, mark in _MARKS.items():
        if purpose in seen:
            legend += Text.assemble(mark, f" {'think' if purpose == 'reason' else purpose}  ")
    if not all(bar.used for bar in bars):
        legend += Text.assemble(_UNUSED, " cut off or not needed  ")
    return legend + Text("· idle\n")
