"""`specreason-sgl calibrate`."""

from pathlib import Path
from typing import Annotated

from rich.table import Table

from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option
from specreason_sgl.cli.output import check_folder, err, out, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.reasoning.acceptance import check_share
from specreason_sgl.reasoning.calibration import Calibration
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.display import model_name
from specreason_sgl.reasoning.plain import KNOBS

DEFAULTS = {"token_budget": 400, "answer_tokens": 64}

Knobs = knob_options(
    Given,
    [KNOBS[name] for name in ("token_budget", "step_tokens", "answer_tokens", "instruction", "template")],
    defaults=DEFAULTS,
)


def calibrate(
    models: Models,
    servers: Servers,
    knobs: Knobs,
    data: Annotated[
        Path, option("Problems with answers: JSON Lines with question, answer and maybe id.", front=True)
    ],
    limit: Annotated[int, option("Use only the first N problems.", front=True, min=1)] = 60,
    keep: Annotated[
        float, option("Share of drafted steps that the threshold should keep.", front=True)
    ] = 0.8,
    result: Annotated[Path, option("The calibration file to write.", None, "--out", front=True)] = Path(
        "calibration.json"
    ),
    concurrency: Annotated[int, option("Problems at a time.", min=1)] = 16,
) -> None:
    """Measure which verifier judges a pair's steps best, and choose its threshold.

    The draft model solves problems with known answers. Every verifier judges its steps, and copies of good
    steps with a wrong digit. Writes a calibration for `solve --calibration`, a picture beside it (.png),
    and what was judged (.jsonl), from which an interrupted run continues.
    """
    from specreason_sgl.evaluation.problems import load_problems

    config = SpecReasonConfig(**{"temperature": 0, **DEFAULTS, **knobs.values()})
    check_share(keep)
    problems = load_problems(data, limit)
    check_folder(result)
    with endpoints(models, servers, 3600.0) as (draft, base):
        from specreason_sgl.evaluation import calibrate as work

        judged = work.judge_problems(
            problems,
            draft=draft,
            base=base,
            config=config,
            record=result.with_suffix(".jsonl"),
            concurrency=concurrency,
            progress_bar=err.is_terminal,
        )
        calibration = work.calibrate(
            judged,
            draft_model=model_name(draft.get_model_name()),
            base_model=model_name(base.get_model_name()),
            keep=keep,
            source=data.name,
        )
    calibration.save(result)
    work.draw(judged, calibration, result.with_suffix(".png"))
    _show(calibration)
    written(result, result.with_suffix(".png"))


def _show(calibration: Calibration) -> None:
    counts = calibration.data
    out.print(
        f"{counts['problems']} problems, {counts['right']} of them right; {counts['steps']} drafted steps, "
        f"{counts['corrupted']} copies with a wrong digit. AUC on the half that was not chosen on, "
        "with its 95 % interval:"
    )
    titles = {
        "corrupted": "steps / wrong copies",
        "solutions": "right / wrong solutions",
        "paired": "above its own copy",
    }
    table = Table("verifier", *titles.values(), box=None, pad_edge=False, header_style="bold")
    for row in calibration.table:
        cells = [f"{c['value']:.2f} ({c['low']:.2f} to {c['high']:.2f})" for c in map(row.get, titles)]
        table.add_row(("→ " if row["verifier"] == calibration.verifier else "  ") + row["verifier"], *cells)
    out.print(table)
    out.print(
        f"{calibration.verifier}: a threshold of {calibration.threshold:.4g} keeps {calibration.keep:.0%} "
        "of the steps"
    )
