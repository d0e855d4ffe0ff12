"""Pictures of a run and of an evaluation, by matplotlib."""

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from specreason_sgl.display.bars import Bar, Part, bars
from specreason_sgl.display.parts import BASE_COLOUR, DRAFT_COLOUR, REJECTED_COLOUR
from specreason_sgl.evaluation.groups import Group, drafted, is_drafted
from specreason_sgl.evaluation.report import Row
from specreason_sgl.evaluation.settings import MODES
from specreason_sgl.reasoning.trace import Trace

_MARKERS = "osD^vP*X<>"
_AT_RANDOM = "each problem to one of them at random"
_NOT_USED = "cut off or not needed"
_PARTS = {  # of a sample's time, by the purpose of its requests
    "draft": DRAFT_COLOUR,
    "score": "#e0b13a",
    "read": "#e0b13a",
    "rewrite": BASE_COLOUR,
    "reason": "#7d9fd1",
    "answer": "#9a6fb0",
    _NOT_USED: "#c9c9c9",
}
_BINS = 20


class Picture(Figure):
    """A figure that a notebook shows, without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


# A run


class _Placed(NamedTuple):
    """A bar with its place in its model's lane, from 0 to 1, and its height there."""

    bar: Bar
    low: float
    height: float


def timeline(*traces: Trace) -> Picture:
    """What each model did when, of one run or of several below each other on the same seconds. A number is
    that of the step that a request was made for."""
    lanes = [("draft", "base") if trace.mode == "specreason" else (trace.mode,) for trace in traces]
    heights = [len(sides) for sides in lanes]
    figure = Picture(figsize=(9, 0.8 + 0.4 * len(traces) + 0.5 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(traces), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    end = max(trace.seconds for trace in traces)
    boxes: dict[str, Any] = {}  # one of each part, for the legend
    for trace, sides, axes in zip(traces, lanes, panels, strict=True):
        all_bars = bars(trace)
        for place, side in enumerate(sides):
            lane = [bar for bar in all_bars if bar.call.side == side]
            boxes = _draw_lane(axes, lane, place - 0.4, 0.02 * end) | boxes
        axes.set_yticks(range(len(sides)), sides)
        axes.set_ylim(len(sides) - 0.5, -0.5)
        axes.set_title(_title(trace), fontsize=9, loc="left")
    panels[-1].set_xlabel("seconds")
    panels[-1].set_xlim(0, end)
    parts = [part for part in _PARTS if part in boxes]
    figure.legend([boxes[part] for part in parts], parts, loc="outside right upper", fontsize=8)
    return figure


def _title(trace: Trace) -> str:
    """The setting of a run, and its time."""
    repair = trace.config.get("repair") or {}
    together = f"corrected, delta {repair['delta']:g}" if "delta" in repair else "steps rewritten"
    setting = together if trace.mode == "specreason" else f"{trace.mode} alone"
    return f"{setting}: {trace.seconds:.1f} s"


def _draw_lane(axes: Axes, lane: Sequence[Bar], top: float, numbered: float) -> dict[str, Any]:
    """Draw one model's requests; those longer than `numbered` seconds get their step's number."""
    boxes: dict[str, Any] = {}
    for bar, low, height in _side_by_side(lane):
        for part in bar.parts:
            kind = _kind(bar, part)
            box = axes.barh(
                top + 0.8 * low, part.seconds, 0.8 * height, part.start, align="edge",
                color=_PARTS[kind], edgecolor="white", lw=0.5,
            )  # fmt: skip
            boxes.setdefault(kind, box)
        first = bar.parts[0]
        if bar.step and bar.call.purpose != "reason" and first.seconds > numbered:
            middle = (first.start + first.seconds / 2, top + 0.8 * (low + height / 2))
            axes.annotate(str(bar.step), middle, ha="center", va="center", fontsize=7)
    return boxes


def _kind(bar: Bar, part: Part) -> str:
    """A key of `_PARTS`."""
    return bar.call.purpose if part.used else _NOT_USED


def _side_by_side(bars: Sequence[Bar]) -> list[_Placed]:
    """Place bars so that none hides another that runs at the same time."""
    groups: list[list[tuple[Bar, int]]] = []  # bars that overlap, each with its row
    ends: list[float] = []  # of the last bar in each row of the group
    for bar in bars:
        start = bar.call.start + 1e-3  # a bar may begin as the one before ends
        if not groups or start >= max(ends):
            groups.append([])
            ends = []
        row = next((i for i, end in enumerate(ends) if start >= end), len(ends))
        ends[row : row + 1] = [bar.call.start + bar.call.seconds]
        groups[-1].append((bar, row))
    placed = []
    for group in groups:
        height = 1 / (1 + max(row for _, row in group))
        placed += [_Placed(bar, row * height, height) for bar, row in group]
    return placed


# An evaluation


class Section(NamedTuple):
    """A picture of an evaluation, with its title and what it shows."""

    title: str
    note: str
    picture: Picture


def report_sections(rows: Sequence[Row], groups: Sequence[Group]) -> Iterator[Section]:
    """The pictures of an evaluation that have something to show."""
    yield Section(
        "Accuracy against latency", "Bars are 95 % intervals. Up and left is better.", trade_off(rows)
    )
    yield Section(
        "Where time goes",
        "Seconds of requests, mean over samples; both models can work at once. The line is the elapsed time. "
        "reason: a chain of thought that one model writes alone.",
        where_time_goes([group for group in groups if group.samples]),
    )
    speculative = [group for group in groups if any(map(drafted, group.traces))]
    scored = [
        group
        for group in speculative
        if any(step.score is not None for trace in group.traces for step in drafted(trace))
    ]
    if scored:
        note = "Each in its verifier's units; the line is the threshold."
        yield Section("Scores of drafted steps", note, scores(scored))
    if speculative:
        yield Section(
            "Share of steps kept, by position",
            "Kept word for word, of the drafted steps at this position in the chain of thought. Few samples "
            "are long, so the right end rests on few steps.",
            kept_by_position(speculative),
        )


def trade_off(rows: Sequence[Row]) -> Picture:
    """Accuracy against seconds per sample, one point per setting, and the line between the models alone,
    through what was measured of their mixes."""
    figure = Picture(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    if sorted(row.mode for row in rows if row.mode in ("draft", "base")) == ["base", "draft"]:
        stops = sorted(
            (row.seconds.value, 100 * row.right.value) for row in rows if row.mode in ("draft", "mix", "base")
        )
        axes.plot(*zip(*stops, strict=True), "--", lw=1, color="grey", label=_AT_RANDOM)
    for row, style in zip(rows, _styles(rows), strict=True):
        x, y = row.seconds, row.right
        widths, heights = (
            np.nan_to_num([[mean.value - mean.low], [mean.high - mean.value]]) for mean in (x, y)
        )
        axes.errorbar(
            x.value, 100 * y.value, xerr=widths, yerr=100 * heights, ls="", capsize=3, lw=1,
            label=row.setting, **style,
        )  # fmt: skip
    axes.set(xlabel="seconds per sample", ylabel="accuracy, %", ylim=(-4, 104))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _styles(settings: Sequence[Row | Group]) -> list[dict[str, Any]]:
    """A colour for each mode, the same in all pictures, and a marker for each setting of it."""
    modes = [setting.mode for setting in settings]
    return [
        {
            "color": colormaps["tab10"](MODES.index(mode) if mode in MODES else len(MODES)),
            "marker": _MARKERS[modes[:i].count(mode) % len(_MARKERS)],
        }
        for i, mode in enumerate(modes)
    ]


def where_time_goes(groups: Sequence[Group]) -> Picture:
    """Mean seconds per sample by purpose of the requests, one bar per setting."""
    figure = Picture(figsize=(9, 1.4 + 0.4 * len(groups)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(groups))
    seconds = [[_seconds_by_part(trace) for trace in group.traces] for group in groups]
    for part, color in _PARTS.items():
        means = np.array([np.mean([trace[part] for trace in traces]) for traces in seconds])
        if means.any():
            axes.barh(range(len(groups)), means, left=left, color=color, label=part)
        left += means
    elapsed = [np.mean([trace.seconds for trace in group.traces]) for group in groups]
    places = np.arange(len(groups))
    axes.vlines(elapsed, places - 0.4, places + 0.4, color="black", label="elapsed")
    axes.set_yticks(places, [group.name for group in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds per sample")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _seconds_by_part(trace: Trace) -> Counter[str]:
    seconds: Counter[str] = Counter()
    for bar in bars(trace):
        for part in bar.parts:
            seconds[_kind(bar, part)] += part.seconds
    return seconds


def scores(groups: Sequence[Group]) -> Picture:
    """Histograms of the scores of drafted steps, kept and rejected, one panel per setting."""
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = Picture(figsize=(3 * columns + 1, 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for group, axes in zip(groups, panels, strict=False):
        steps = [step for trace in group.traces for step in drafted(trace) if step.score is not None]
        by_fate = [[s.score for s in steps if (s.author == "draft") is kept] for kept in (True, False)]
        colours = [DRAFT_COLOUR, REJECTED_COLOUR]
        axes.hist(by_fate, _BINS, stacked=True, color=colours, label=["kept", "rejected"])
        if isinstance(threshold := group.config.get("threshold"), int | float):
            axes.axvline(threshold, color="black", lw=1)
        axes.set_title(group.name, fontsize=8)
        axes.yaxis.get_major_locator().set_params(integer=True)
    for axes in panels:
        axes.set_axis_off()
    figure.axes[0].set_ylabel("steps")
    figure.axes[0].legend(fontsize=7)
    return figure


def kept_by_position(groups: Sequence[Group]) -> Picture:
    """The share of drafted steps that were kept word for word, by position in the chain of thought."""
    figure = Picture(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    longest = max(len(trace.steps) for group in groups for trace in group.traces)
    bins = np.arange(0.5, longest + 1.5, max(1, math.ceil(longest / _BINS)))
    bins = np.append(bins, longest + 0.5) if bins[-1] < longest + 0.5 else bins
    for group, style in zip(groups, _styles(groups), strict=True):
        steps = [
            (place, step.author == "draft")
            for trace in group.traces
            for place, step in enumerate(trace.steps, 1)
            if is_drafted(step)
        ]
        places, kept = np.array(steps).T
        counts = np.histogram(places, bins)[0]
        share = np.histogram(places, bins, weights=kept)[0][counts > 0] / counts[counts > 0]
        middles = ((bins[:-1] + bins[1:]) / 2)[counts > 0]
        axes.plot(middles, 100 * share, ms=4, lw=1, label=group.name, **style)
    axes.set(xlabel="step", ylabel="kept, %", ylim=(-4, 104))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
