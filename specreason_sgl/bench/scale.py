"""Part `scale`: how many problems at a time one client process carries, on servers at the pace of a GPU's."""

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from specreason_sgl.bench.servers import STEP_TOKENS, Pace, Servers, paced_servers
from specreason_sgl.bench.setup import Bench, CorrectEvery, always_drafting, make_table, questions
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.batch import solve_batch
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Repair, Rewrite
from specreason_sgl.reasoning.trace import Trace

PACES = {"draft": Pace(0.004, 0.004), "base": Pace(0.025, 0.020)}  # about those of 1.5B and 32B on H100s
STEPS = 20  # of a problem
KEPT = 0.8  # share of the drafted steps, where they are rewritten
CORRECT_EVERY = 72  # tokens; as in the part `overhead`
LEAST_PROBLEMS = 16  # of a measurement, where fewer are solved at a time
PIECES: dict[str, tuple[Repair, Any]] = {
    "steps, rewritten": (Rewrite(), FixedShare(KEPT)),
    "steps, corrected": (CorrectEvery(every=CORRECT_EVERY, window="step"), None),
}


def run(bench: Bench) -> list[dict[str, Any]]:
    """One row per kind of piece and number of problems at a time. Only the tokenizer is the bench's own."""
    rows = []
    tokenizer = bench.draft.tokenizer.name_or_path
    config = replace(bench.config, token_budget=STEPS * STEP_TOKENS, step_tokens=STEP_TOKENS, lookahead=0)
    with (
        paced_servers(tokenizer, PACES["draft"], PACES["base"]) as servers,
        Endpoint(servers.urls[0]) as draft,
        Endpoint(servers.urls[1]) as base,
    ):
        for pieces in PIECES:
            measure(servers, draft, base, config, pieces, 1, problems=1)  # warm-up: what is done once
            for n in bench.at_once:
                bench.on_stage(f"scale: {pieces}, {n} at a time")
                rows.append(measure(servers, draft, base, config, pieces, n))
    return rows


def measure(
    servers: Servers,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    pieces: str,
    at_once: int,
    problems: int | None = None,
) -> dict[str, Any]:
    """Solve problems, `at_once` of them at a time.

    Args:
        pieces: of `PIECES`.
        problems: their number; default: enough for a median.

    Returns:
        `to_ideal`: the median of a problem's time over what its requests take at the servers' pace;
        `cpu_ms_per_piece`: processor time of this process for each judged piece; `servers_cpu`, `client_cpu`:
        processors busy, of `os.cpu_count()`.
    """
    repair, threshold = PIECES[pieces]
    config = always_drafting(config, repair=repair, threshold=threshold)
    began, client, served = time.monotonic(), time.process_time(), servers.cpu_seconds()
    traces = solve_batch(
        questions(problems or max(at_once, LEAST_PROBLEMS)),
        draft=draft, base=base, config=config, concurrency=at_once,
    )  # fmt: skip
    seconds, client = time.monotonic() - began, time.process_time() - client
    for trace in traces:
        if not isinstance(trace, Trace):
            raise trace
    judged = sum(call.purpose in ("score", "read") for trace in traces for call in trace.calls)
    return {
        "pieces": pieces,
        "at_once": at_once,
        "problems": len(traces),
        "judged": judged,
        "to_ideal": statistics.median(trace.seconds / ideal(trace) for trace in traces),
        "cpu_ms_per_piece": 1000 * client / judged,
        "client_cpu": client / seconds,
        "servers_cpu": (servers.cpu_seconds() - served) / seconds,
    }


def ideal(trace: Trace) -> float:
    """Seconds of a run's requests, one after another, at the servers' pace."""
    return sum(PACES[call.side].seconds(call.completion_tokens) for call in trace.calls)


def tables(figures: Sequence[dict[str, Any]]) -> list[Table]:
    columns = ("pieces", "at a time", "problems", "time to ideal", "client ms per piece")
    busy = (f"client's cpu of {os.cpu_count()}", "servers' cpu")
    table = make_table("scale", *columns, *busy)
    for row in figures:
        counts = (str(row["at_once"]), str(row["problems"]))
        shares = (
            f"{row[name]:.2f}" for name in ("to_ideal", "cpu_ms_per_piece", "client_cpu", "servers_cpu")
        )
        table.add_row(row["pieces"], *counts, *shares)
    return [table]
