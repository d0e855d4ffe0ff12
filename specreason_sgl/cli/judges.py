"""`specreason-sgl judges`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option
from specreason_sgl.cli.output import check_record, out, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import KNOBS

Knobs = knob_options(Given, [KNOBS[name] for name in ("instruction", "template")])


@dataclass(frozen=True)
class Options:
    data: Annotated[
        Path,
        option(
            "Labelled solutions in ProcessBench's format: JSON Lines with id, problem, steps and label (or "
            "first_error), the index of the first wrong step, -1 for none.",
            front=True,
        ),
    ]
    limit: Annotated[int | None, option("Use only the first N solutions.", front=True, min=1)] = None
    out: Annotated[Path, option("The record; the same command continues an interrupted run.", front=True)] = (
        Path("judges.jsonl")
    )
    prefill_only: Annotated[
        bool, option("Leave out the verifiers that ask a question: three short requests a step.", front=True)
    ] = False
    concurrency: Annotated[int, option("Solutions at a time.", min=1)] = 4


def judges(options: Options, models: Models, servers: Servers, knobs: Knobs) -> None:
    """Measure how well verifiers and other signals find the first wrong step of real solutions.

    Both models read each solution in one prefill; nothing is generated but the verifiers' digits. Prints the
    areas under the ROC curve and draws them beside the record (.png).
    """
    from specreason_sgl.evaluation import judges as work

    solutions = work.load_solutions(options.data, options.limit)
    check_record(options.out)
    with endpoints(models, servers, 3600.0) as (draft, base):
        judged = work.judge_solutions(
            solutions,
            draft=draft,
            base=base,
            config=SpecReasonConfig(**knobs.values()),
            record=options.out,
            data=options.data.name,
            questions=not options.prefill_only,
            concurrency=options.concurrency,
            progress_bar=True,
        )
    from specreason_sgl.display.judges import picture, print_judges

    rows = work.figures(judged)
    print_judges(out, judged, rows)
    drawn = options.out.with_suffix(".png")
    picture(rows).savefig(drawn, dpi=120)
    written(options.out, drawn)
