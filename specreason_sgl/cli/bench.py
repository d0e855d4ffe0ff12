"""`specreason-sgl bench`."""

import json
from pathlib import Path
from typing import Annotated

from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option, split
from specreason_sgl.cli.output import check_folder, out, status, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import KNOBS, TOKENS
from specreason_sgl.reasoning.repair import Correct

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
        from specreason_sgl.bench.parts import measure, tables
        from specreason_sgl.bench.setup import Bench, CorrectEvery
        from specreason_sgl.bench.setup import questions as built_in_questions

        if correct_every:
            correct = CorrectEvery(every=correct_every, window=correct.window)
        work = Bench(
            draft=draft,
            base=base,
            config=config,
            problems=questions or built_in_questions(limit),
            acceptances=acceptances,
            modes=chosen_modes,
            correct=correct,
            at_once=counts,
            on_stage=spinner.update,
        )
        figures = measure(wanted, work)
    for table in tables(figures):
        out.print(table, "")
    if result:
        result.write_text(json.dumps(figures, indent=1) + "\n")
        written(result)
