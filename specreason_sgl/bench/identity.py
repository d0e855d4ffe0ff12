"""Part `identity`: whether working ahead changes anything that a run decides."""

from dataclasses import replace
from typing import Any

from rich.table import Table

from specreason_sgl.bench.setup import Bench, always_drafting, make_table
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.repair import WHOLE_STEPS, Correct, Rewrite
from specreason_sgl.reasoning.solve import solve
from specreason_sgl.reasoning.trace import Trace

KEPT = 0.7  # share of the drafted steps, where they are rewritten
SETTINGS = (
    {"repair": "rewrite", "lookahead": 1},
    {"repair": "rewrite", "lookahead": 2},
    {"repair": "rewrite", "lookahead": 4},
    {"repair": "correct", "window": None, "lookahead": 1},
    {"repair": "correct", "window": "auto", "lookahead": 1},
    {"repair": "correct", "window": 16, "lookahead": 0},
    {"repair": "correct", "window": 8, "lookahead": 2},
)


def run(bench: Bench, settings: tuple[dict[str, Any], ...] = SETTINGS) -> list[dict[str, Any]]:
    """Each problem sequentially and in whole steps, then with each of `settings`; greedy, from empty caches.

    Returns:
        For each of `settings` how many problems had the same steps, scores, decisions and answer (corrected:
        the same texts and answer); and where the others part. Batching can change an engine's last bits, and
        so flip a near tie.
    """
    rows = [
        {"settings": setting, "problems": len(bench.problems), "same": 0, "different": []}
        for setting in settings
    ]
    for number in range(len(bench.problems)):
        expected: dict[str, list[tuple]] = {}  # by repair
        for row in rows:
            setting = row["settings"]
            bench.on_stage(f"identity: problem {number + 1} of {len(bench.problems)}, {setting}")
            if (repair := setting["repair"]) not in expected:
                expected[repair] = _decisions(bench, number, {"repair": repair})
            different = _difference(expected[repair], _decisions(bench, number, setting))
            if different is None:
                row["same"] += 1
            else:
                row["different"].append({"problem": number, **different})
    return rows


def _decisions(bench: Bench, number: int, setting: dict[str, Any]) -> list[tuple]:
    bench.flush_caches()
    config = replace(always_drafting(bench.config), **_config_of(setting, number, bench.correct))
    return _decided(solve(bench.problems[number], draft=bench.draft, base=bench.base, config=config))


def _config_of(setting: dict[str, Any], number: int, correct: Correct) -> dict[str, Any]:
    others = {name: value for name, value in setting.items() if name not in ("repair", "window")}
    if setting["repair"] == "rewrite":
        repair = {"repair": Rewrite(), "threshold": FixedShare(KEPT, seed=number)}
    else:
        repair = {"repair": replace(correct, window=setting.get("window"))}
    return {**repair, "lookahead": 0, **others}


def _decided(trace: Trace) -> list[tuple]:
    """What must not depend on how a run was overlapped. Where a correction is noted does: the last token of a
    window may differ from the token that the whole step has there."""
    if trace.config["repair"]["kind"] == "Rewrite":
        steps = [(s.text, s.end, s.author, s.score, s.rejected, s.tokens) for s in trace.steps]
    else:
        steps = [(s.text, s.end) for s in trace.steps]
    return [*steps, (trace.stop, trace.answer)]


def _difference(expected: list[tuple], actual: list[tuple]) -> dict[str, Any] | None:
    """Where two runs part, or None."""
    if expected == actual:
        return None
    pairs = zip(expected, actual, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(actual)))
    return {"step": at, "expected": expected[at : at + 1], "actual": actual[at : at + 1]}


def tables(figures: list[dict[str, Any]]) -> list[Table]:
    table = make_table("identity with one thing at a time", "settings", "the same", "of")
    for row in figures:
        settings = {name: WHOLE_STEPS if value is None else value for name, value in row["settings"].items()}
        name = ", ".join(f"{key}={value}" for key, value in settings.items())
        table.add_row(name, str(row["same"]), str(row["problems"]))
    return [table]
