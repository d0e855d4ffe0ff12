"""Pictures of an evaluation, by matplotlib."""

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from specreason_sgl.evaluation.report import Group, Row
from specreason_sgl.evaluation.settings import MODES
from specreason_sgl.reasoning.trace import Step

_MARKERS = "osD^vP*X<>"
_PARTS = {  # of a sample's time, by the purpose of its requests
    "draft": "#4c9f70",
    "score": "#e0b13a",
    "rewrite": "#3b6fb6",
    "reason": "#7d9fd1",
    "answer": "#9a6fb0",
    "thrown away": "#c9c9c9",
}
_BINS = 20


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def all_of(rows: Sequence[Row], groups: Sequence[Group]) -> Iterator[tuple[str, str, Figure]]:
    """Title, explanation and picture, of those that there is something to show in."""
    yield "Accuracy against latency", "Bars are 95 % intervals. Up and left is better.", trade_off(rows)
    yield (
        "Where time goes",
        "Seconds of requests, a mean over samples; both models can be at work at once. The line is the time "
        "that passed. reason: a chain of thought that one model writes alone.",
        where_time_goes([one for one in groups if one.samples]),
    )
    judged = [one for one in groups if any(map(_drafted, one.traces))]
    if judged:
        yield (
            "Scores of drafted steps",
            "Each in its verifier's units; the line is the threshold.",
            scores(judged),
        )
        yield (
            "Share of steps kept, by position",
            "Of the drafted steps at this place in the chain of thought; few samples are long, so the right "
            "end rests on few steps.",
            kept_by_position(judged),
        )


def _styles(settings: Sequence[Row | Group]) -> list[dict[str, Any]]:
    """A colour for each mode, the same in all pictures, and a marker for each setting of it."""
    modes = [one.mode for one in settings]
    return [
        {
            "color": colormaps["tab10"](MODES.index(mode)),
            "marker": _MARKERS[modes[:i].count(mode) % len(_MARKERS)],
        }
        for i, mode in enumerate(modes)
    ]


def trade_off(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for row, style in zip(rows, _styles(rows), strict=True):
        x, y = row.seconds, row.right
        spans = [[[one.value - one.low], [one.high - one.value]] for one in (x, y)]
        axes.errorbar(
            x.value, 100 * y.value, xerr=np.nan_to_num(spans[0]), yerr=100 * np.nan_to_num(spans[1]),
            ls="", capsize=3, lw=1, label=row.setting, **style,
        )  # fmt: skip
    axes.set(xlabel="seconds a sample", ylabel="right, %", ylim=(-4, 104))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def where_time_goes(groups: Sequence[Group]) -> Figure:
    figure = Figure(figsize=(9, 1.4 + 0.4 * len(groups)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(groups))
    for part, color in _PARTS.items():
        means = np.array([np.mean([_seconds(trace, part) for trace in one.traces]) for one in groups])
        axes.barh(range(len(groups)), means, left=left, color=color, label=part)
        left += means
    passed = [np.mean([trace.seconds for trace in one.traces]) for one in groups]
    places = np.arange(len(groups))
    axes.vlines(passed, places - 0.4, places + 0.4, color="black", label="time that passed")
    axes.set_yticks(places, [one.name for one in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a sample")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _seconds(trace, part: str) -> float:
    calls = trace.wasted if part == "thrown away" else [one for one in trace.calls if one.purpose == part]
    return sum(one.seconds for one in calls)


def scores(groups: Sequence[Group]) -> Figure:
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(3 * columns + 1, 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for group, axes in zip(groups, panels, strict=False):
        steps = [step for trace in group.traces for step in _drafted(trace) if step.score is not None]
        both = [[s.score for s in steps if (s.author == "draft") is kept] for kept in (True, False)]
        if steps:
            axes.hist(both, _BINS, stacked=True, color=["#4c9f70", "#c8553d"], label=["kept", "rejected"])
        if isinstance(threshold := group.config.get("threshold"), int | float):
            axes.axvline(threshold, color="black", lw=1)
        axes.set_title(group.name, fontsize=8)
    for axes in panels:
        axes.set_axis_off()
    figure.axes[0].set_ylabel("steps")
    figure.axes[0].legend(fontsize=7)
    return figure


def kept_by_position(groups: Sequence[Group]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    longest = max(len(trace.steps) for one in groups for trace in one.traces)
    bins = np.arange(0.5, longest + 1.5, max(1, math.ceil(longest / _BINS)))
    bins = np.append(bins, longest + 0.5) if bins[-1] < longest + 0.5 else bins
    for group, style in zip(groups, _styles(groups), strict=True):
        found = [
            (place, step.author == "draft")
            for trace in group.traces
            for place, step in enumerate(trace.steps, 1)
            if step.author == "draft" or step.rejected is not None
        ]
        places, kept = np.array(found).T
        every = np.histogram(places, bins)[0]
        share = np.histogram(places, bins, weights=kept)[0][every > 0] / every[every > 0]
        middles = ((bins[:-1] + bins[1:]) / 2)[every > 0]
        axes.plot(middles, 100 * share, ms=4, lw=1, label=group.name, **style)
    axes.set(xlabel="step", ylabel="kept, %", ylim=(-4, 104))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _drafted(trace) -> list[Step]:
    """The steps that were drafted and judged."""
    if trace.mode != "specreason":
        return []
    return [step for step in trace.steps if step.author == "draft" or step.rejected is not None]
