"""`specreason-sgl bench`."""

import json
from pathlib import Path
from typing import Annotated

from rich.table import Table

from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option, split
from specreason_sgl.cli.output import check_folder, out, status, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import KNOBS, TOKENS
from specreason_sgl.reasoning.repair import WHOLE_STEPS, Correct

PARTS = ("score", "prefix", "latency", "identity", "overhead")
MODES = ("base", "draft", "sequential", "pipelined", "correct", "rejected")
DEFAULTS = {"token_budget": 160, "step_tokens": 64, "answer_tokens": 32}
FIXED = ("repair", "threshold", "verifier", "keep", "calibration", "temperature", "top_p", "confidence")

Knobs = knob_options(Given, [knob for name, knob in KNOBS.items() if name not in FIXED], defaults=DEFAULTS)


def bench(
    models: Models,
    servers: Servers,
    knobs: Knobs,
    parts: Annotated[
        str, option(f"What to measure: some of {', '.join(PARTS)}; with commas.", front=True)
    ] = "score,prefix,latency,overhead",
    acceptance: Annotated[
        str,
        option("Shares of drafted steps that are kept, whatever their scores; with commas.", front=True),
    ] = "0.8,0.95",
    limit: Annotated[int, option("Number of problems for latency and identity.", front=True, min=1)] = 3,
    data: Annotated[
        Path | None, option("Take them from this file (JSON Lines); default: built-in ones.", front=True)
    ] = None,
    modes: Annotated[
        str, option(f"Modes of the latency: some of {', '.join(MODES)}; with commas.", front=True)
    ] = "base,draft,sequential,pipelined,correct",
    correct_every: Annotated[
        int | None,
        option("Instead of --delta: correct about every N-th token, to time random weights.", min=1),
    ] = None,
    concurrency: Annotated[
        str, option("Problems at a time for the overhead; with commas.", front=True)
    ] = "1,16,64",
    load_format: Annotated[
        str, option("SGLang's; dummy: random weights, to time shapes without weights.", "Servers")
    ] = "",
    result: Annotated[
        Path | None, option("Write the figures to this JSON file.", None, "--out", front=True)
    ] = None,
) -> None:
    """Measure what speculative reasoning costs and gains on a pair, all on the same prompts in one run.

    Greedy decoding. In sequential, pipelined and rejected, steps that are not kept are rewritten; which ones
    is fixed by --acceptance, so the speed does not depend on how well the pair reasons. In correct it does,
    unless --correct-every fixes how many tokens are corrected.
    """
    from specreason_sgl.evaluation.problems import load_problems

    wanted = split("parts", parts, str, PARTS)
    chosen_modes = split("modes", modes, str, MODES)
    counts = split("concurrency", concurrency, int, range(1, 100_001))
    acceptances = split("acceptance", acceptance, float)
    for share in acceptances:
        if not 0 <= share <= 1:
            raise ConfigError(f"acceptance must be from 0 to 1, got {share}", "acceptance")
    given = {**DEFAULTS, **knobs.values()}
    tokens = {name: given.pop(name) for name in TOKENS if name in given}
    if correct_every and tokens.keys() & {"delta", "numeric_delta"}:
        raise ConfigError("--correct-every must come without --delta and --numeric-delta")
    correct = Correct(**tokens)
    config = SpecReasonConfig(temperature=0, **given)
    questions = [problem.question for problem in load_problems(data, limit)] if data else None
    check_folder(result)
    flags = ["--load-format", load_format] if load_format else []
    with endpoints(models, servers, 3600.0, *flags) as (draft, base), status("measuring") as spinner:
        from specreason_sgl.evaluation import bench as work

        if correct_every:
            correct = work.CorrectEvery(every=correct_every, window=correct.window)
        figures = work.measure(
            wanted,
            draft=draft,
            base=base,
            config=config,
            problems=questions or work.questions(limit),
            acceptances=acceptances,
            modes=chosen_modes,
            correct=correct,
            at_once=counts,
            on_stage=spinner.update,
        )
    _show(figures)
    if result:
        result.write_text(json.dumps(figures, indent=1) + "\n")
        written(result)


def _show(figures: dict) -> None:
    if score := figures.get("score"):
        out.print(_score_table(score), "")
    if prefix := figures.get("prefix"):
        out.print(_prefix_table(prefix), "")
    if identity := figures.get("identity"):
        out.print(_identity_table(identity), "")
    if overhead := figures.get("overhead"):
        out.print(_overhead_table(overhead), "")
    for compared in figures.get("latency", {}).get("acceptances", []):
        out.print(_latency_table(compared), "")


def _bench_table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, header_style="bold")


def _score_table(score: dict) -> Table:
    table = _bench_table("score", "", "median seconds", "score is")
    table.add_row("score", f"{score['score_seconds']:.3f}", "")
    select, token = f"{score['score_to_select']:.2f} of it", f"{score['score_to_token']:.2f} of it"
    table.add_row("SGLang's select", f"{score['select_seconds']:.3f}", select)
    table.add_row("decoding a token", f"{score['token_seconds']:.3f}", token)
    return table


def _prefix_table(prefix: dict) -> Table:
    columns = ("side", "prompt tokens", "seen before", "from the cache", "share", "new by nature")
    table = _bench_table("prefix", *columns)
    for side in ("draft", "base"):
        row = prefix[side]
        counts = (str(row[name]) for name in ("prompt", "seen", "cached"))
        table.add_row(side, *counts, f"{row['share']:.1%}", str(row["new"]))
    return table


def _identity_table(rows: list[dict]) -> Table:
    table = _bench_table("identity with one thing at a time", "settings", "the same", "of")
    for row in rows:
        settings = {name: WHOLE_STEPS if value is None else value for name, value in row["settings"].items()}
        name = ", ".join(f"{key}={value}" for key, value in settings.items())
        table.add_row(name, str(row["same"]), str(row["problems"]))
    return table


def _overhead_table(rows: list[dict]) -> Table:
    columns = ("servers", "repair", "at once", "problems", "steps", "client ms a step", "uncovered")
    table = _bench_table("overhead", *columns)
    for row in rows:
        counts = (str(row[name]) for name in ("at_once", "problems", "steps"))
        shares = (f"{row['cpu_ms_per_step']:.2f}", f"{row['uncovered']:.2%}")
        table.add_row(row["servers"], row["repair"], *counts, *shares)
    return table


def _latency_table(compared: dict) -> Table:
    columns = ("mode", "seconds", "tokens/s", "to base", "to sequential", "bound", "thrown away",
               "corrections", "prefills")  # fmt: skip
    kept = f"{compared['acceptance']:.0%}"
    table = _bench_table(
        f"latency, keeping {kept} of the drafted steps where they are rewritten (medians)", *columns
    )
    for mode, row in compared.items():
        if mode != "acceptance":
            ratios = (f"{row[name]:.2f}" if name in row else "" for name in ("to_base", "to_sequential"))
            bound = f"{row['bound_ratio']:.3f}" if row.get("bound_ratio") else ""
            counts = (f"{row[name]:.0f}" for name in ("wasted_tokens", "corrections", "prefills"))
            speed = f"{row['tokens_per_second']:.1f}"
            table.add_row(mode, f"{row['seconds']:.1f}", speed, *ratios, bound, *counts)
    return table
