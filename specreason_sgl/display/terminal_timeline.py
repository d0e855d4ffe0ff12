"""The timeline of a trace in the terminal: one line per model, one mark per slice of time."""

from rich.console import Console
from rich.text import Text

from specreason_sgl.display.bars import Part, bars
from specreason_sgl.reasoning.trace import Trace

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


def print_timeline(console: Console, trace: Trace) -> None:
    """Print what each model did when. An x is a request, or the rest of a draft, that was cut off or not
    needed."""
    lanes: dict[str, list[tuple[Part, tuple[str, str]]]] = {"draft": [], "base": []}
    for bar in bars(trace):
        mark = _MARKS[bar.call.purpose]
        lanes[bar.call.side] += [(part, mark if part.used else _UNUSED) for part in bar.parts]
    end = max((part.start + part.seconds for lane in lanes.values() for part, _ in lane), default=0.0)
    if not end:
        return
    width = max(min(console.width - _MARGIN, MAX_WIDTH), 20)
    for side, lane in lanes.items():
        if lane:
            console.print(Text(f"{side:<{_MARGIN}}") + _lane(lane, end, width), soft_wrap=True)
    times = f"{'0 s':<{width - 8}}{end:>6.1f} s"
    console.print(Text(f"{'':{_MARGIN}}{times}"), soft_wrap=True)
    console.print(_legend({mark for lane in lanes.values() for _, mark in lane}), soft_wrap=True)


def _lane(parts: list[tuple[Part, tuple[str, str]]], end: float, width: int) -> Text:
    """For each of `width` slices of the time, the mark of what covers most of it."""
    lane = Text()
    for column in range(width):
        low, high = end * column / width, end * (column + 1) / width
        mark, longest = _IDLE, 0.0
        for part, its_mark in parts:
            covered = min(part.start + part.seconds, high) - max(part.start, low)
            if covered > longest:
                mark, longest = its_mark, covered
        lane.append(*mark)
    return lane


def _legend(marks: set[tuple[str, str]]) -> Text:
    legend = Text(" " * _MARGIN)
    for purpose, mark in _MARKS.items():
        if mark in marks:
            legend += Text.assemble(mark, f" {'think' if purpose == 'reason' else purpose}  ")
    if _UNUSED in marks:
        legend += Text.assemble(_UNUSED, " cut off or not needed  ")
    return legend + Text("· idle\n")
