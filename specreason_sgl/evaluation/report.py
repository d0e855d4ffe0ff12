"""Figures of evaluations: accuracy, latency, cost, and how settings compare, by problem."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specreason_sgl.evaluation import groups as counts
from specreason_sgl.evaluation.estimates import (
    LEAST,
    Estimate,
    Point,
    gap_to_line,
    mcnemar,
    mean,
    paired_difference,
    proportion,
    ratio,
)
from specreason_sgl.evaluation.groups import Group, alone, drafted, load, of_mode
from specreason_sgl.evaluation.settings import ALONE
from specreason_sgl.reasoning.trace import Trace

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Row:
    """The figures of one setting; seconds and counts are means over samples, accuracies are shares.

    Attributes:
        problems: that it has samples of; `samples` of them were graded, `failed` ended with an error, and
            `resumed` were made by a later session than the file's first; `wanted` is what there should be.
        right: accuracy, failures counted as wrong. Wilson's interval where each problem has one sample, else
            bootstrap over problems.
        right_common: on the problems that all settings have, without any failure; NaN where these are all.
        difference: accuracy minus base alone's, paired by problem; with one sample of each problem as of
            `estimates.paired_difference`.
        only_this, only_base: problems that only this setting, or only base alone, solves; with one sample
            of each problem.
        p: of McNemar's exact test on these.
        gap: accuracy above the mixing line (see `estimates.gap_to_line`).
        line: `measured` if `mix` was run, too, `drawn` if only the two models alone.
        seconds, p50, p95: of a sample, from the question to the answer.
        over_base, over_draft: how many times as long that model alone takes, on the problems that both
            solved; `over_whole`: base alone on the whole machine.
        draft_decoded, base_decoded: tokens generated, thrown away ones included.
        draft_read, base_read: prompt tokens computed; of `draft_prompt` and `base_prompt`, with those from
            the cache.
        tflop: 10^12 floating-point operations; NaN if a model's size is unknown.
        kept: drafted steps kept word for word.
        at_budget: chains that met the token budget; `stops`: chains by why they ended.
    """

    setting: str
    mode: str
    problems: int
    samples: int
    wanted: int
    failed: int
    resumed: int
    right: Estimate
    right_common: Estimate
    difference: Estimate
    only_this: float
    only_base: float
    p: float
    gap: Estimate
    line: str
    seconds: Estimate
    p50: float
    p95: float
    over_base: Estimate
    over_draft: Estimate
    over_whole: Estimate
    tokens: float
    draft_decoded: float
    base_decoded: float
    draft_read: float
    base_read: float
    draft_prompt: float
    base_prompt: float
    tflop: float
    thrown_away: float
    kept: Estimate
    corrections: float
    prefills: float
    at_budget: int
    stops: dict[str, int]


@dataclass(frozen=True)
class Report:
    """Runs and their figures: a table in a notebook; `display.pictures` draws `rows` and `groups`."""

    groups: tuple[Group, ...]
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, *paths: Path) -> "Report":
        """The report of files that `eval` wrote; raises as `load` does."""
        groups = load(paths)
        return cls(tuple(groups), tuple(figures(groups)))

    def to_frame(self, level: str = "sample") -> "pandas.DataFrame":
        """The runs as a table: a line for each `sample`, `step`, `call` or `token`; see `frames`."""
        from specreason_sgl.evaluation.frames import frame

        return frame(self.groups, level)


def figures(groups: Sequence[Group]) -> list[Row]:
    """One row per setting that has a finished sample."""
    return [_row(group, groups) for group in groups if group.samples]


def _row(group: Group, groups: Sequence[Group]) -> Row:
    traces, finished = group.traces, len(group.samples)

    def average(value: Callable[[Trace], float]) -> float:
        return float(np.mean([value(trace) for trace in traces]))

    times = [trace.seconds for trace in traces]
    kept = group.by_problem(lambda trace: sum(step.author == "draft" for step in drafted(trace)))
    drafts = group.by_problem(lambda trace: len(drafted(trace)))
    stops = Counter(trace.stop for trace in traces)
    return Row(
        setting=group.name,
        mode=group.mode,
        problems=len(group.right),
        samples=finished,
        wanted=group.wanted,
        failed=group.failed,
        resumed=sum(sample.resumed is not None for sample in (*group.samples, *group.failures)),
        right=_accuracy(group, list(group.right)),
        right_common=_on_common(group, groups),
        **_against_base(group, groups),
        **_against_line(group, groups),
        seconds=mean(list(group.seconds.values())),
        p50=float(np.percentile(times, 50)),
        p95=float(np.percentile(times, 95)),
        over_base=_speedup(group, "base", groups),
        over_draft=_speedup(group, "draft", groups),
        over_whole=_speedup(group, "base-whole", groups),
        tokens=average(lambda trace: trace.tokens),
        draft_decoded=average(lambda trace: counts.decoded(trace, "draft")),
        base_decoded=average(lambda trace: counts.decoded(trace, "base")),
        draft_read=average(lambda trace: counts.read(trace, "draft")),
        base_read=average(lambda trace: counts.read(trace, "base")),
        draft_prompt=average(lambda trace: counts.prompts(trace, "draft")),
        base_prompt=average(lambda trace: counts.prompts(trace, "base")),
        tflop=average(lambda trace: counts.flops(trace, group.run.parameters) / 1e12),
        thrown_away=average(lambda trace: trace.wasted_tokens),
        kept=ratio(list(kept.values()), list(drafts.values())),
        corrections=average(lambda trace: trace.corrections),
        prefills=average(counts.prefills),
        at_budget=stops["budget"],
        stops={str(stop): count for stop, count in stops.items()},
    )


def _accuracy(group: Group, problems: Sequence[str]) -> Estimate:
    right = [group.right[problem] for problem in problems]
    return proportion(int(sum(right)), len(right)) if group.is_single else mean(right)


def _on_common(group: Group, groups: Sequence[Group]) -> Estimate:
    """Accuracy where every setting has an answer to a problem; none if that is everywhere."""
    peers = [other for other in groups if other.run.head.problems_sha256 == group.run.head.problems_sha256]
    failed = {sample.problem for other in peers for sample in other.failures}
    shared = set.intersection(*(set(other.seconds) for other in peers)) - failed
    if all(set(other.right) == shared for other in peers):
        return Estimate()
    return _accuracy(group, sorted(shared))


def _against_base(group: Group, groups: Sequence[Group]) -> dict[str, Any]:
    base = alone(group, "base", groups)
    nothing = {"difference": Estimate(), "only_this": math.nan, "only_base": math.nan, "p": math.nan}
    if base is None:
        return nothing
    pairs = [(right, base.right[problem]) for problem, right in group.right.items() if problem in base.right]
    if not (group.is_single and base.is_single):
        return {**nothing, "difference": mean([right - other for right, other in pairs])}
    only_this, only_base = pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))
    difference = paired_difference(only_this, only_base, len(pairs))
    p = mcnemar(only_this, only_base) if len(pairs) >= LEAST else math.nan
    return {"difference": difference, "only_this": only_this, "only_base": only_base, "p": p}


def _against_line(group: Group, groups: Sequence[Group]) -> dict[str, Any]:
    draft, base = (alone(group, mode, groups) for mode in ("draft", "base"))
    if group.mode in ALONE or draft is None or base is None:
        return {"gap": Estimate(), "line": ""}
    mixed = of_mode(group, "mix", groups)
    line = [draft, base, *mixed]
    shared = [problem for problem in group.seconds if all(problem in other.seconds for other in line)]
    if not shared:
        return {"gap": Estimate(), "line": ""}
    this, *others = (_point(other, shared) for other in (group, *line))
    return {"gap": gap_to_line(this, others), "line": "measured" if mixed else "drawn"}


def _point(group: Group, problems: Sequence[str]) -> Point:
    seconds, right = (np.array([value[name] for name in problems]) for value in (group.seconds, group.right))
    return Point(seconds, right)


def _speedup(group: Group, mode: str, groups: Sequence[Group]) -> Estimate:
    """How many times as long a model alone takes."""
    other = alone(group, mode, groups)
    if other is None:
        return Estimate()
    shared = [problem for problem in group.seconds if problem in other.seconds]
    return ratio([other.seconds[name] for name in shared], [group.seconds[name] for name in shared])


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the figures in full precision, with intervals in columns of their own; empty where undefined."""
    lines = [_flat(row) for row in rows]
    names = dict.fromkeys(name for line in lines for name in line)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(names), restval=0)
        table.writeheader()
        table.writerows(lines)


def _flat(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in vars(row).items():
        if isinstance(value, Estimate):
            fields |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        elif isinstance(value, dict):
            fields |= {f"{name}_{key}": count for key, count in value.items()}
        else:
            fields[name] = value
    return {name: "" if value != value else value for name, value in fields.items()}
