"""Part `scale`: how many problems at a time client processes carry, on servers at the pace of a GPU's."""

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from specreason_sgl.bench.servers import STEP_TOKENS, Pace, Servers
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
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Repair, Rewrite
from specreason_sgl.reasoning.trace import Trace

PACES = {"draft": Pace(0.004, 0.004), "base": Pace(0.025, 0.020)}  # about those of 1.5B and 32B on H100s
STEPS = 20  # of a problem
LEAST_PROBLEMS = 16  # of a measurement, where fewer are solved at a time
PIECES: dict[str, tuple[Repair, Any]] = {
    "steps, rewritten": (Rewrite(), FixedShare(KEPT)),
    "steps, corrected": (CorrectEvery(every=CORRECT_EVERY, window="step"), None),
    "windows of 24": (CorrectEvery(every=CORRECT_EVERY, window=24), None),
    "windows of 16": (CorrectEvery(every=CORRECT_EVERY, window=16), None),
    "windows of 8": (CorrectEvery(every=CORRECT_EVERY, window=8), None),
}
HOST_CORES = 16  # of the host for which it is computed what it carries


def run(bench: Bench) -> list[dict[str, Any]]:
    """One row per kind of piece, number of processes and number of problems at a time. Only the tokenizer is
    the bench's own."""
    rows = []
    tokenizer = bench.draft.tokenizer.name_or_path
    config = replace(bench.config, token_budget=STEPS * STEP_TOKENS, step_tokens=STEP_TOKENS, lookahead=0)
    with paced_pair(tokenizer, **PACES) as (servers, draft, base):
        for pieces, processes in itertools.product(PIECES, bench.processes):
            measure(servers, draft, base, config, pieces, 1, processes, problems=1)  # warm-up
            for n in bench.at_once:
                bench.on_stage(f"scale: {pieces}, {n} at a time, processes: {processes}")
                rows.append(measure(servers, draft, base, config, pieces, n, processes))
    return rows


def measure(
    servers: Servers,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    pieces: str,
    at_once: int,
    processes: int = 1,
    problems: int | None = None,
) -> dict[str, Any]:
    """Solve problems, `at_once` of them at a time.

    Args:
        pieces: of `PIECES`.
        processes: that share the problems.
        problems: their number; default: enough for a median.

    Returns:
        `to_ideal`: the median of a problem's time over what its requests take at the servers' pace, one after
        another; None for windows, which are read while the next one is written. `seconds`: the median of its
        time. `cpu_ms_per_piece`: the client's processor time for each judged piece; `servers_cpu`,
        `client_cpu`: processors busy, of `os.cpu_count()`; `host_pieces`: pieces a second for which the
        processor time of `HOST_CORES` cores is enough, in as many processes (computed, not measured). The
        client's are None with several processes, whose start would count.
    """
    repair, threshold = PIECES[pieces]
    config = always_drafting(config, repair=repair, threshold=threshold)
    began, served = time.monotonic(), servers.cpu_seconds()
    traces, cpu_seconds = solve_all(
        draft, base, config, problems or max(at_once, LEAST_PROBLEMS), at_once, processes
    )
    seconds, served = time.monotonic() - began, servers.cpu_seconds() - served
    judged = sum(call.purpose in ("score", "read") for trace in traces for call in trace.calls)
    in_turns = not isinstance(repair.window, int)
    client = {
        "cpu_ms_per_piece": 1000 * cpu_seconds / judged,
        "client_cpu": cpu_seconds / seconds,
        "host_pieces": HOST_CORES * judged / cpu_seconds,
    }
    return {
        "pieces": pieces,
        "at_once": at_once,
        "processes": processes,
        "problems": len(traces),
        "judged": judged,
        "to_ideal": statistics.median(trace.seconds / ideal(trace) for trace in traces) if in_turns else None,
        "seconds": statistics.median(trace.seconds for trace in traces),
        "servers_cpu": served / seconds,
        **(client if processes == 1 else dict.fromkeys(client)),
    }


def ideal(trace: Trace) -> float:
    """Seconds of a run's requests, one after another, at the servers' pace."""
    return sum(PACES[call.side].seconds(call.completion_tokens) for call in trace.calls)


def tables(figures: Sequence[dict[str, Any]]) -> list[Table]:
    columns = (
        "pieces", "at a time", "processes", "problems", "seconds", "time to ideal", "client ms per piece",
    )  # fmt: skip
    busy = (f"client's cpu of {os.cpu_count()}", "servers' cpu", f"{HOST_CORES} cores: pieces/s")
    table = make_table("scale", *columns, *busy)
    for row in figures:
        shares = ("seconds", "to_ideal", "cpu_ms_per_piece", "client_cpu", "servers_cpu")
        texts = ("" if row[name] is None else f"{row[name]:.2f}" for name in shares)
        counts = (str(row[name]) for name in ("at_once", "processes", "problems"))
        table.add_row(
            row["pieces"], *counts, *texts, "" if row["host_pieces"] is None else f"{row['host_pieces']:,.0f}"
        )
    return [table]
