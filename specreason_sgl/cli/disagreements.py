"""`specreason-sgl disagreements`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from specreason_sgl.cli.options import PROBLEMS, Given, Models, Servers, knob_options, option
from specreason_sgl.cli.output import check_record, out, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import KNOBS

DEFAULTS = {"token_budget": 400, "answer_tokens": 32}

Knobs = knob_options(
    Given,
    [KNOBS[name] for name in ("token_budget", "answer_tokens", "instruction", "template")],
    defaults=DEFAULTS,
)


@dataclass(frozen=True)
class Options:
    data: Annotated[str, option(f"Problems: {PROBLEMS}", front=True)]
    limit: Annotated[int | None, option("Use only the first N problems.", front=True, min=1)] = None
    branches: Annotated[
        int,
        option(
            "Disagreements of each chain that are branched. Up to two continuations each, and little more "
            "than one where nearly all are.",
            front=True,
            min=1,
        ),
    ] = 4
    out: Annotated[Path, option("The record; the same command continues an interrupted run.", front=True)] = (
        Path("disagreements.jsonl")
    )
    seed: Annotated[int, option("Of the draw of disagreements.")] = 0
    concurrency: Annotated[
        int, option("Problems at a time; the continuations of each run at once.", min=1)
    ] = 4


def disagreements(options: Options, models: Models, servers: Servers, knobs: Knobs) -> None:
    """Measure which disagreements of the two models change the answer, and whether that can be learned.

    The draft model solves problems with known answers. At tokens that the base model regrets, the chain of
    thought goes on from the drafted token and from the base model's, and the answers are compared. Prints how
    well plain regret finds the harmful disagreements, and a logistic model of features of the same prefill,
    on problems that it was not fitted on.
    """
    from specreason_sgl.evaluation.problems import load_data

    problems = load_data(options.data, options.limit)
    check_record(options.out)
    with endpoints(models, servers, 3600.0) as (draft, base):
        from specreason_sgl.evaluation.disagreements import branch_problems

        branched = branch_problems(
            problems,
            draft=draft,
            base=base,
            config=SpecReasonConfig(**{"temperature": 0, **DEFAULTS, **knobs.values()}),
            record=options.out,
            data=Path(options.data).name,
            branches=options.branches,
            seed=options.seed,
            concurrency=options.concurrency,
            progress_bar=True,
        )
    from specreason_sgl.display.disagreements import print_figures
    from specreason_sgl.evaluation.learned import figures

    written(options.out)
    print_figures(out, figures(branched))
