"""Part `latency`: problems in each mode next to each other, at fixed acceptances."""

import statistics
from dataclasses import replace
from typing import Any

from rich.table import Table

from specreason_sgl.bench.setup import Bench, always_drafting, make_table
from specreason_sgl.bench.times import bound, uncovered
from specreason_sgl.evaluation.groups import prefills
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.solve import solve, solve_alone
from specreason_sgl.reasoning.trace import Trace

ONCE = ("base", "draft", "correct", "rejected")  # modes that do not depend on the acceptance
MEDIANS = ("seconds", "uncovered", "corrections", "prefills", "wasted_tokens")


def run(bench: Bench) -> dict[str, Any]:
    """Each problem in each mode and at each acceptance, from empty caches.

    `sequential` and `pipelined` rewrite the steps that are not kept. `correct` replaces tokens as
    `bench.correct` says, at no acceptance. In `rejected` no drafted step is kept, and drafting pauses as it
    does by default.

    Returns:
        `runs`, one per problem, acceptance and mode; and for each of the `acceptances` the medians, over
        problems, of the ratios that the modes have to each other and to their bounds.
    """
    runs: list[dict[str, Any]] = []
    for number, question in enumerate(bench.problems):
        measured: dict[str, Trace] = {}  # by mode, of those of `ONCE`
        for acceptance in bench.acceptances:
            for mode in bench.modes:
                place = f"problem {number + 1} of {len(bench.problems)}"
                bench.on_stage(f"latency: {place}, keeping {acceptance:.0%}, {mode}")
                trace = measured.get(mode) or _solve(bench, mode, question, FixedShare(acceptance, number))
                if mode in ONCE:
                    measured[mode] = trace
                runs.append(_row(number, acceptance, mode, trace))
    return {
        "runs": runs,
        "acceptances": [_compare(runs, acceptance) for acceptance in bench.acceptances],
    }


def _solve(bench: Bench, mode: str, question: str, rule: FixedShare) -> Trace:
    bench.flush_caches()
    config = always_drafting(bench.config)
    if mode in ("base", "draft"):
        endpoint = bench.base if mode == "base" else bench.draft
        return solve_alone(question, endpoint=endpoint, side=mode, config=config)
    config = replace(config, **_settings(mode, rule, bench.correct))
    return solve(question, draft=bench.draft, base=bench.base, config=config)


def _settings(mode: str, rule: FixedShare, correct: Correct) -> dict[str, Any]:
    if mode == "correct":
        return {"repair": correct}
    settings = {"repair": Rewrite(), "threshold": rule, "lookahead": 0 if mode == "sequential" else 1}
    if mode == "rejected":
        settings |= {"threshold": FixedShare(0), "patience": SpecReasonConfig.patience}
    return settings


def _row(number: int, acceptance: float, mode: str, trace: Trace) -> dict[str, Any]:
    return {
        "problem": number,
        "acceptance": acceptance,
        "mode": mode,
        "seconds": trace.seconds,
        "bound": None if mode == "correct" else bound(trace, 0 if mode == "sequential" else 1),
        "uncovered": uncovered(trace),
        "steps": len(trace.steps),
        "rewritten": trace.rewritten,
        "corrections": trace.corrections,
        "prefills": prefills(trace),
        "tokens": trace.tokens,
        "wasted_tokens": trace.wasted_tokens,
    }


def _compare(runs: list[dict[str, Any]], acceptance: float) -> dict[str, Any]:
    """The medians of each mode over the problems, at one acceptance."""
    by_mode: dict[str, list[dict[str, Any]]] = {}  # in the order of the problems
    for row in runs:
        if row["acceptance"] == acceptance:
            by_mode.setdefault(row["mode"], []).append(row)
    compared: dict[str, Any] = {"acceptance": acceptance}
    for mode, rows in by_mode.items():
        figures = {name: statistics.median(row[name] for row in rows) for name in MEDIANS}
        figures["tokens_per_second"] = statistics.median(row["tokens"] / row["seconds"] for row in rows)
        if mode != "correct":
            figures["bound_ratio"] = statistics.median(row["bound"] / row["seconds"] for row in rows)
        for other in ("base", "sequential"):
            if other != mode and other in by_mode:
                pairs = zip(rows, by_mode[other], strict=True)
                figures[f"to_{other}"] = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
        compared[mode] = figures
    return compared


def tables(figures: dict[str, Any]) -> list[Table]:
    """One table per acceptance."""
    return [_table(compared) for compared in figures["acceptances"]]


def _table(compared: dict[str, Any]) -> Table:
    columns = ("mode", "seconds", "tokens/s", "to base", "to sequential", "bound", "thrown away",
               "corrections", "prefills")  # fmt: skip
    kept = f"{compared['acceptance']:.0%}"
    table = make_table(
        f"latency, keeping {kept} of the drafted steps in modes that rewrite (medians)", *columns
    )
    for mode, row in compared.items():
        if mode != "acceptance":
            ratios = (f"{row[name]:.2f}" if name in row else "" for name in ("to_base", "to_sequential"))
            bound_ratio = f"{row['bound_ratio']:.3f}" if row.get("bound_ratio") else ""
            counts = (f"{row[name]:.0f}" for name in ("wasted_tokens", "corrections", "prefills"))
            speed = f"{row['tokens_per_second']:.1f}"
            table.add_row(mode, f"{row['seconds']:.1f}", speed, *ratios, bound_ratio, *counts)
    return table
