"""`specreason-sgl calibrate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from specreason_sgl.cli.options import PROBLEMS, Given, Models, Servers, Swept, knob_options, option
from specreason_sgl.cli.output import check_folder, out, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.evaluation.certify import Guarantee
from specreason_sgl.reasoning.plain import KNOBS

DELTAS = (0.5, 1.0, 2.0, 3.0, 5.0)
DEFAULTS = {"token_budget": 400, "answer_tokens": 64, "temperature": 0.0}
SWEPT = ("delta", "window", "threshold")
SHARED = ("verifier", "numeric_delta", "lookahead", "token_budget", "step_tokens", "answer_tokens",
          "temperature", "instruction", "template")  # fmt: skip

Sweeps = knob_options(
    Swept, [KNOBS[name] for name in SWEPT], defaults={"delta": ",".join(map("{:g}".format, DELTAS))}
)
Shared = knob_options(Given, [KNOBS[name] for name in SHARED], defaults=DEFAULTS)


@dataclass(frozen=True)
class Options:
    data: Annotated[
        str,
        option(
            f"Problems with answers: {PROBLEMS} They should not be those of a later evaluation.",
            front=True,
        ),
    ] = "gsm8k-train"
    loss: Annotated[
        float, option("A setting must lose fewer points of the base model's accuracy than this.", front=True)
    ] = 5.0
    confidence: Annotated[float, option("Confidence at which that must be shown.", front=True)] = 0.9
    limit: Annotated[
        int | None,
        option(
            "Use only the first N problems; default: as many as the loss and the confidence take.",
            front=True, min=1,
        ),
    ] = None  # fmt: skip
    offset: Annotated[int, option("Leave out the first N problems.", min=0)] = 0
    out: Annotated[Path, option("The calibration file to write.", front=True)] = Path("calibration.json")
    concurrency: Annotated[
        int, option("Problems at a time. Seconds are of this load; 1 measures latency.", front=True, min=1)
    ] = 16
    seed: Annotated[int, option("Of generated problems, and of the order of choices.")] = 0
    timeout: Annotated[float, option("Deadline of a sample, in seconds.", "Budget and sampling")] = 3600.0


def calibrate(options: Options, models: Models, servers: Servers, sweeps: Sweeps, shared: Shared) -> None:
    """Find the fastest setting of a pair that keeps the base model's accuracy.

    The base model alone and both models with each delta solve problems with known answers; --window takes
    several windows, --threshold thresholds of the paper's repair. Of the settings that are shown to lose
    fewer than --loss points, the fastest is chosen. Writes a calibration for `solve --calibration`, a picture
    of the curve (.png), and the run (.jsonl), for `report`. The same command continues an interrupted run.
    """
    from specreason_sgl.display import calibration as display
    from specreason_sgl.evaluation import RunOptions, Runtimes, load_data
    from specreason_sgl.evaluation import calibrate as work

    swept = {f"{name}s": values for name, values in sweeps.values().items()}
    grid = work.grid({**DEFAULTS, **shared.values()}, **{"deltas": DELTAS, **swept})
    guarantee = Guarantee(options.loss, options.confidence, len(grid.chains))
    limit = options.limit or guarantee.problems
    problems = load_data(options.data, limit, options.seed, offset=options.offset)
    check_folder(options.out)
    record, drawn = options.out.with_suffix(".jsonl"), options.out.with_suffix(".png")
    run = RunOptions(concurrency=options.concurrency, timeout=options.timeout, progress_bar=True)
    display.print_plan(out, guarantee, len(problems))
    with endpoints(models, servers, options.timeout) as (draft, base):
        if seconds := work.seconds_left(problems, grid, record, base, run):
            display.print_seconds_left(out, seconds)
        runtimes = Runtimes(draft, base, launch=servers.launch(models))
        calibration = work.calibrate(
            problems, grid, guarantee, record, runtimes, run, data=options.data, seed=options.seed
        )
    calibration.save(options.out)
    display.picture(calibration).savefig(drawn, dpi=120)
    display.print_calibration(out, calibration)
    written(options.out, drawn, record)
