"""`specreason-sgl calibrate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option
from specreason_sgl.cli.output import check_folder, err, out, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.display.calibration import print_calibration
from specreason_sgl.reasoning.acceptance import check_share
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import KNOBS
from specreason_sgl.reasoning.trace import model_name

DEFAULTS = {"token_budget": 400, "answer_tokens": 64}

Knobs = knob_options(
    Given,
    [KNOBS[name] for name in ("token_budget", "step_tokens", "answer_tokens", "instruction", "template")],
    defaults=DEFAULTS,
)


@dataclass(frozen=True)
class Options:
    data: Annotated[
        Path, option("Problems with answers: JSON Lines with question, answer and maybe id.", front=True)
    ]
    limit: Annotated[int, option("Use only the first N problems.", front=True, min=1)] = 60
    keep: Annotated[float, option("Share of drafted steps that the threshold should keep.", front=True)] = 0.8
    out: Annotated[Path, option("The calibration file to write.", front=True)] = Path("calibration.json")
    concurrency: Annotated[int, option("Problems at a time.", min=1)] = 16

    def __post_init__(self):
        check_share(self.keep)


def calibrate(options: Options, models: Models, servers: Servers, knobs: Knobs) -> None:
    """Measure which verifier judges a pair's steps best, and choose its threshold.

    The draft model solves problems with known answers. Every verifier judges its steps, and copies of good
    steps with a wrong digit. Writes a calibration for `solve --calibration`, a picture beside it (.png),
    and what was judged (.jsonl), from which an interrupted run continues.
    """
    from specreason_sgl.evaluation.problems import load_problems

    config = SpecReasonConfig(**{"temperature": 0, **DEFAULTS, **knobs.values()})
    problems = load_problems(options.data, options.limit)
    check_folder(options.out)
    record, picture = options.out.with_suffix(".jsonl"), options.out.with_suffix(".png")
    with endpoints(models, servers, 3600.0) as (draft, base):
        from specreason_sgl.display import pictures
        from specreason_sgl.evaluation import calibrate as work

        judged = work.judge_problems(
            problems,
            draft=draft,
            base=base,
            config=config,
            record=record,
            concurrency=options.concurrency,
            progress_bar=err.is_terminal,
        )
        calibration = work.calibrate(
            judged,
            draft_model=model_name(draft.get_model_name()),
            base_model=model_name(base.get_model_name()),
            keep=options.keep,
            source=options.data.name,
        )
    calibration.save(options.out)
    drawn = pictures.histograms(work.values_by_kind(judged, calibration.verifier), calibration)
    drawn.savefig(picture, dpi=120)
    print_calibration(out, calibration)
    written(options.out, picture)
