"""Pictures of a run, of an evaluation and of a calibration, by matplotlib."""

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from specreason_sgl.evaluation.report import Group, Row, drafted, is_drafted
from specreason_sgl.evaluation.settings import MODES
from specreason_sgl.reasoning.calibration import Calibration
from specreason_sgl.reasoning.display import BASE, DRAFT, REJECTED, rejected_drafts
from specreason_sgl.reasoning.trace import Call, Trace

_MARKERS = "osD^vP*X<>"
_NOT_USED = "cut off or not needed"
_PARTS = {  # of a sample's time, by the purpose of its requests
    "draft": DRAFT,
    "score": "#e0b13a",
    "read": "#e0b13a",
    "rewrite": BASE,
    "reason": "#7d9fd1",
    "answer": "#9a6fb0",
    _NOT_USED: "#c9c9c9",
}
_BINS = 20
_TITLES = {"specreason": "draft and base together", "base": "base alone", "draft": "draft alone"}


class Picture(Figure):
    """A figure that a notebook shows, without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def all_of(rows: Sequence[Row], groups: Sequence[Group]) -> Iterator[tuple[str, str, Picture]]:
    """Title, explanation and picture, of those that there is something to show in."""
    yield "Accuracy against latency", "Bars are 95 % intervals. Up and left is better.", trade_off(rows)
    yield (
        "Where time goes",
        "Seconds of requests, a mean over samples; both models can be at work at once. The line is the time "
        "that passed. reason: a chain of thought that one model writes alone.",
        where_time_goes([one for one in groups if one.samples]),
    )
    speculative = [group for group in groups if any(map(drafted, group.traces))]
    scored = [
        group
        for group in speculative
        if any(step.score is not None for trace in group.traces for step in drafted(trace))
    ]
    if scored:
        yield (
            "Scores of drafted steps",
            "Each in its verifier's units; the line is the threshold.",
            scores(scored),
        )
    if speculative:
        yield (
            "Share of steps kept, by position",
            "Word for word, of the drafted steps at this place in the chain of thought; few samples are "
            "long, so the right end rests on few steps.",
            kept_by_position(speculative),
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


def timeline(*traces: Trace) -> Picture:
    """What each model did when, of one run or of several below each other on the same seconds. A number is
    that of the step that a request was made for."""
    lanes = [("draft", "base") if one.mode == "specreason" else (one.mode,) for one in traces]
    heights = [len(sides) for sides in lanes]
    figure = Picture(figsize=(9, 0.8 + 0.4 * len(traces) + 0.5 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(traces), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    seen: dict[str, Any] = {}
    end = max(trace.seconds for trace in traces)
    for trace, sides, axes in zip(traces, lanes, panels, strict=True):
        bars = _bars(trace)
        for place, side in enumerate(sides):
            mine = [one for one in bars if one[0].side == side]
            for call, part, number, low, height in _side_by_side(mine):
                box = axes.barh(
                    place - 0.4 + 0.8 * low, call.seconds, 0.8 * height, call.start, align="edge",
                    color=_PARTS[part], edgecolor="white", lw=0.5,
                )  # fmt: skip
                seen.setdefault(part, box)
                if number and call.seconds > 0.02 * end:
                    middle = (call.start + call.seconds / 2, place - 0.4 + 0.8 * (low + height / 2))
                    axes.annotate(str(number), middle, ha="center", va="center", fontsize=7)
        axes.set_yticks(range(len(sides)), sides)
        axes.set_ylim(len(sides) - 0.5, -0.5)
        axes.set_title(_TITLES[trace.mode], fontsize=9, loc="left")
    panels[-1].set_xlabel("seconds")
    panels[-1].set_xlim(0, end)
    parts = [part for part in _PARTS if part in seen]
    figure.legend([seen[one] for one in parts], parts, loc="outside right upper", fontsize=8)
    return figure


def _bars(trace: Trace) -> list[tuple[Call, str, int]]:
    """Each request, its part of the time, and the number of its step; 0 where there is none."""
    rejected = rejected_drafts(trace)
    bars = [(call, _NOT_USED, 0) for call in trace.wasted]
    bars += [(trace.answer_call, "answer", 0)] if trace.answer_call else []
    for number, step in enumerate(trace.steps, 1):
        for call in step.calls:
            part = _NOT_USED if call in rejected else call.purpose
            bars.append((call, part, 0 if call.purpose == "reason" else number))
    return sorted(bars, key=lambda one: one[0].start)


def _side_by_side(bars: Sequence[tuple[Call, str, int]]) -> list[tuple[Call, str, int, float, float]]:
    """Each with its place from 0 to 1 in the lane of its model and its height there, so that none hides
    another one that runs at the same time."""
    groups: list[list[tuple[tuple[Call, str, int], int]]] = []
    ends: list[float] = []  # of the last bar in each place of the group
    for bar in bars:
        start = bar[0].start + 1e-3  # the next one begins as one ends
        if not groups or start >= max(ends):
            groups.append([])
            ends = []
        place = next((i for i, one in enumerate(ends) if start >= one), len(ends))
        ends[place : place + 1] = [bar[0].start + bar[0].seconds]
        groups[-1].append((bar, place))
    found = []
    for group in groups:
        height = 1 / (1 + max(place for _, place in group))
        found += [(*bar, place * height, height) for bar, place in group]
    return found


def calibration(found: Calibration) -> Picture:
    """How well each verifier tells good from bad, and the share of steps that each threshold of the chosen
    one keeps."""
    figure = Picture(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [row["verifier"] for row in found.table]
    pairs = {"corrupted": ("steps, and copies with a wrong digit", DRAFT, -0.15),
             "solutions": ("right and wrong solutions", BASE, 0.15)}  # fmt: skip
    for key, (label, color, shift) in pairs.items():
        values, lows, highs = (
            np.array([row[key][one] for row in found.table]) for one in ("value", "low", "high")
        )
        left.errorbar(
            values, np.arange(len(names)) + shift, xerr=[values - lows, highs - values], fmt="o", ms=4, lw=1,
            capsize=2, color=color, label=label,
        )  # fmt: skip
    left.axvline(0.5, color="black", lw=1, ls=":", label="chance")
    left.set_yticks(range(len(names)), [f"{one} (chosen)" if one == found.verifier else one for one in names])
    left.tick_params(axis="y", labelsize=8)
    left.invert_yaxis()
    left.set(xlim=(-0.02, 1.02), xlabel="area under the ROC curve, 95 % intervals")
    left.grid(alpha=0.3, axis="x")
    values = np.array(found.values)
    right.plot(values, 100 * (1 - np.arange(len(values)) / len(values)), color=DRAFT)
    right.axvline(found.threshold, color="black", lw=1, label=f"threshold, keeps {found.keep:.0%}")
    right.set(xlabel=f"threshold of {found.verifier}", ylabel="drafted steps kept, %", ylim=(-4, 104))
    right.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def trade_off(rows: Sequence[Row]) -> Picture:
    figure = Picture(figsize=(9, 5), layout="constrained")
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


def where_time_goes(groups: Sequence[Group]) -> Picture:
    figure = Picture(figsize=(9, 1.4 + 0.4 * len(groups)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(groups))
    seconds = [[_seconds_by_part(trace) for trace in one.traces] for one in groups]
    for part, color in _PARTS.items():
        means = np.array([np.mean([one[part] for one in mine]) for mine in seconds])
        if means.any():
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


def _seconds_by_part(trace: Trace) -> Counter[str]:
    found: Counter[str] = Counter()
    for call, part, _ in _bars(trace):
        found[part] += call.seconds
    return found


def scores(groups: Sequence[Group]) -> Picture:
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = Picture(figsize=(3 * columns + 1, 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for group, axes in zip(groups, panels, strict=False):
        steps = [step for trace in group.traces for step in drafted(trace) if step.score is not None]
        both = [[s.score for s in steps if (s.author == "draft") is kept] for kept in (True, False)]
        axes.hist(both, _BINS, stacked=True, color=[DRAFT, REJECTED], label=["kept", "rejected"])
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
    figure = Picture(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    longest = max(len(trace.steps) for one in groups for trace in one.traces)
    bins = np.arange(0.5, longest + 1.5, max(1, math.ceil(longest / _BINS)))
    bins = np.append(bins, longest + 0.5) if bins[-1] < longest + 0.5 else bins
    for group, style in zip(groups, _styles(groups), strict=True):
        found = [
            (place, step.author == "draft")
            for trace in group.traces
            for place, step in enumerate(trace.steps, 1)
            if is_drafted(step)
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
