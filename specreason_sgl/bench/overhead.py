"""Part `overhead`: what this package itself costs, on the real servers and on servers that answer at once."""

import statistics
from dataclasses import replace
from typing import Any

from rich.table import Table

from specreason_sgl.bench.servers import STEP_TOKENS, Pace
from specreason_sgl.bench.setup import (
    CORRECT_EVERY,
    KEPT,
    Bench,
    CorrectEvery,
    always_drafting,
    make_table,
    paced_pair,
    solve_all,
)
from specreason_sgl.bench.times import uncovered
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Rewrite

REAL_STEP_TOKENS = 20  # short: 64 problems at once on a laptop have to come to an end


def run(bench: Bench) -> list[dict[str, Any]]:
    """One row per number of concurrent problems: on the real servers, where steps are rewritten; and on
    servers that answer at once, with both repairs."""
    short = replace(
        bench.config, token_budget=3 * REAL_STEP_TOKENS, step_tokens=REAL_STEP_TOKENS, answer_tokens=8
    )
    rows = []
    for n in bench.at_once:
        bench.on_stage(f"overhead: {n} at once")
        figures = measure(bench.draft, bench.base, short if n > 1 else bench.config, n)
        rows.append({"servers": "real", **figures})
    tokenizer = bench.draft.tokenizer.name_or_path
    with paced_pair(tokenizer, Pace(), Pace()) as (_, draft, base):
        long = replace(bench.config, token_budget=20 * STEP_TOKENS, step_tokens=STEP_TOKENS)
        measure(draft, base, long, 1)  # warm-up: what is done once
        for repair in ("rewrite", "correct"):
            for n in bench.at_once:
                bench.on_stage(f"overhead: {n} at once, zero latency, {repair}")
                figures = measure(draft, base, long, n, repair=repair)
                rows.append({"servers": "zero latency", **figures})
    return rows


def measure(
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    at_once: int,
    problems: int | None = None,
    repair: str = "rewrite",
) -> dict[str, Any]:
    """Solve problems concurrently where `KEPT` of the drafted steps are kept and the rest rewritten, or where
    about every `CORRECT_EVERY`-th token is corrected.

    Args:
        problems: their number; None: `at_once`.

    Returns:
        `cpu_ms_per_step`: processor time of this process; `uncovered`: the median share of a problem's time
        in which none of its requests was in flight.
    """
    rewriting = {"repair": Rewrite(), "threshold": FixedShare(KEPT)}
    correcting = {"repair": CorrectEvery(every=CORRECT_EVERY)}
    config = always_drafting(config, **(rewriting if repair == "rewrite" else correcting))
    traces, cpu_seconds = solve_all(draft, base, config, problems or at_once, at_once)
    steps = sum(len(trace.steps) for trace in traces)
    return {
        "repair": repair,
        "at_once": at_once,
        "problems": len(traces),
        "steps": steps,
        "cpu_ms_per_step": 1000 * cpu_seconds / steps,
        "uncovered": statistics.median(map(uncovered, traces)),
        "seconds": max(trace.seconds for trace in traces),
    }


def tables(figures: list[dict[str, Any]]) -> list[Table]:
    columns = ("servers", "repair", "at once", "problems", "steps", "client ms per step", "uncovered")
    table = make_table("overhead", *columns)
    for row in figures:
        counts = (str(row[name]) for name in ("at_once", "problems", "steps"))
        shares = (f"{row['cpu_ms_per_step']:.2f}", f"{row['uncovered']:.2%}")
        table.add_row(row["servers"], row["repair"], *counts, *shares)
    return [table]
