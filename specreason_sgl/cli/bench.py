"""`specreason-sgl bench`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from specreason_sgl.bench import DEFAULT_MODES, MODES, PARTS
from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option, split
from specreason_sgl.cli.output import check_folder, out, status, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import knobs_of
from specreason_sgl.reasoning.plain import KNOBS
from specreason_sgl.reasoning.repair import Correct

DEFAULTS = {"token_budget": 160, "step_tokens": 64, "answer_tokens": 32}
FIXED = ("repair", "threshold", "verifier", "keep", "calibration", "temperature", "top_p", "confidence")

Knobs = knob_options(Given, [knob for name, knob in KNOBS.items() if name not in FIXED], defaults=DEFAULTS)


@dataclass(frozen=True)
class Options:
    parts: Annotated[
        str, option(f"What to measure: some of {', '.join(PARTS)}; with commas.", front=True)
    ] = "score,prefix,latency,overhead"
    acceptance: Annotated[
        str,
        option("Shares of drafted steps that are kept, whatever their scores; with commas.", front=True),
    ] = "0.8,0.95"
    limit: Annotated[int, option("Number of problems for latency and identity.", front=True, min=1)] = 3
    data: Annotated[
        Path | None, option("Take them from this file (JSON Lines); default: built-in ones.", front=True)
    ] = None
    modes: Annotated[
        str, option(f"Modes of the latency: some of {', '.join(MODES)}; with commas.", front=True)
    ] = ",".join(DEFAULT_MODES)
    correct_every: Annotated[
        int | None,
        option(
            "Instead of --delta and --numeric-delta: correct about every N-th token, to time random weights.",
            min=1,
        ),
    ] = None
    concurrency: Annotated[
        str, option("Problems at a time for overhead and scale; with commas.", front=True)
    ] = "1,16,64"
    processes: Annotated[str, option("Client processes for scale; with commas.")] = "1"
    load_format: Annotated[
        str, option("SGLang's; dummy: random weights, to time shapes without weights.", "Servers")
    ] = ""
    out: Annotated[Path | None, option("Write the figures to this JSON file.", front=True)] = None


def bench(options: Options, models: Models, servers: Servers, knobs: Knobs) -> None:
    """Measure what speculative reasoning costs and gains on a pair, all on the same prompts in one run.

    Greedy decoding. In sequential, pipelined and rejected, steps that are not kept are rewritten; which ones
    is fixed by --acceptance, so the speed does not depend on how well the pair reasons. In correct it does,
    unless --correct-every fixes how many tokens are corrected.
    """
    wanted, work = split("parts", options.parts, str, PARTS), _parsed(options, knobs)
    check_folder(options.out)
    flags = ["--load-format", options.load_format] if options.load_format else []
    with endpoints(models, servers, 3600.0, *flags) as (draft, base), status("measuring") as spinner:
        from specreason_sgl.bench.parts import measure, tables
        from specreason_sgl.bench.setup import Bench

        figures = measure(wanted, Bench(draft=draft, base=base, on_stage=spinner.update, **work()))
    for table in tables(figures):
        out.print(table, "")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
        written(options.out)


def _parsed(options: Options, knobs: Knobs) -> Callable[[], dict[str, Any]]:
    """Check the options. The function that is returned makes arguments of a `Bench`, and imports SGLang."""
    from specreason_sgl.evaluation.problems import load_problems

    modes = split("modes", options.modes, str, MODES)
    at_once = split("concurrency", options.concurrency, int, range(1, 100_001))
    processes = split("processes", options.processes, int, range(1, 65))
    acceptances = split("acceptance", options.acceptance, float)
    if not all(0 <= share <= 1 for share in acceptances):
        raise ConfigError(f"acceptance must be from 0 to 1, got {options.acceptance}", "acceptance")
    given = {**DEFAULTS, **knobs.values()}
    tokens = {name: given.pop(name) for name in knobs_of(Correct) if name in given}
    if options.correct_every and tokens.keys() & {"delta", "numeric_delta"}:
        raise ConfigError("--correct-every must come without --delta and --numeric-delta")
    correct, config = Correct(**tokens), SpecReasonConfig(temperature=0, **given)
    problems = load_problems(options.data, options.limit) if options.data else []

    def arguments() -> dict[str, Any]:
        from specreason_sgl.bench.setup import CorrectEvery, questions

        every = options.correct_every
        return {
            "config": config,
            "problems": [problem.question for problem in problems] or questions(options.limit),
            "acceptances": acceptances,
            "modes": modes,
            "correct": CorrectEvery(every=every, window=correct.window) if every else correct,
            "at_once": at_once,
            "processes": processes,
        }

    return arguments
