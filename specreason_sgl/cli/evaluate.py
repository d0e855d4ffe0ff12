"""`specreason-sgl eval`."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from specreason_sgl.cli.options import MODELS, PROBLEMS, Models, Servers, Swept, knob_options, option, split
from specreason_sgl.cli.output import check_record, fail, written
from specreason_sgl.cli.runtimes import endpoints, started_whole
from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.calibrated import calibrations, check_untouched
from specreason_sgl.evaluation.settings import KNOBS, MODES, expand

if TYPE_CHECKING:
    from specreason_sgl.lang.endpoint import Endpoint
    from specreason_sgl.runtime.server import Server

Sweeps = knob_options(Swept, KNOBS.values())


@dataclass(frozen=True)
class Options:
    data: Annotated[str, option(f"Problems: {PROBLEMS}", front=True)]
    out: Annotated[
        Path, option("The file of the run; the same command continues an interrupted run.", front=True)
    ] = Path("eval.jsonl")
    modes: Annotated[
        str, option(f"What is compared: some of {', '.join(MODES)}; with commas.", front=True)
    ] = "base,draft,correct,pipelined"
    limit: Annotated[int | None, option("Evaluate only the first N problems.", front=True, min=1)] = None
    offset: Annotated[int, option("Leave out the first N problems.", front=True, min=0)] = 0
    ids: Annotated[
        str, option("Evaluate only the problems of these ids, with commas, instead.", metavar="ID,...")
    ] = ""
    samples: Annotated[int, option("Samples of each problem with each setting.", front=True, min=1)] = 1
    concurrency: Annotated[
        int, option("Samples at a time; 1 measures latency.", front=True, min=1, max=1024)
    ] = 1
    processes: Annotated[
        int, option("Processes that share the samples; each uses at most one core.", min=1, max=64)
    ] = 1
    seed: Annotated[int, option("Of generated problems, and of the order of choices.")] = 0
    retry_failed: Annotated[bool, option("Also do again the samples that failed.")] = False
    reward_url: Annotated[
        str, option("A reward model's SGLang server, for the mode reward.", MODELS, metavar="URL")
    ] = ""
    whole_url: Annotated[
        str,
        option(
            "A base server with the whole machine (every core or GPU), for the mode base-whole; with --pin "
            "one is started.",
            MODELS,
            metavar="URL",
        ),
    ] = ""
    timeout: Annotated[float, option("Deadline of a sample, in seconds.", "Budget and sampling")] = 3600.0


def evaluate(options: Options, models: Models, servers: Servers, sweeps: Sweeps) -> None:
    """Solve problems with known answers in several ways, side by side, and grade the answers.

    base and draft are one model alone. base-whole is the base model alone on another server, which has the
    whole machine. mix sends a share of the problems to the draft model alone, the others to base alone.
    correct replaces single tokens, the default of `solve`. sequential and pipelined rewrite the steps that
    the calibrated verifier (or --verifier) rejects: one thing at a time, and overlapped. paper is SpecReason
    as published: its question, a static threshold, one thing at a time. In reward a reward model judges.

    Knobs take several values, with commas: each combination is evaluated. The modes take turns. Each finished
    sample is a line of the file, of which `report` makes tables and pictures.
    """
    from specreason_sgl.evaluation.problems import load_data

    modes, given = split("modes", options.modes, str, MODES), sweeps.values()
    check_record(options.out)
    if starts_whole := "base-whole" in modes and not options.whole_url:
        _check_whole(models, servers)
    ids = options.ids.split(",") if options.ids else ()
    with ExitStack() as stack:

        def connect(server: "str | Server") -> "Endpoint | None":
            if not server:
                return None
            from specreason_sgl.lang.endpoint import Endpoint

            return stack.enter_context(Endpoint(server, models.runtime_key or None, timeout=options.timeout))

        reward, whole = connect(options.reward_url), connect(options.whole_url)
        settings = expand(modes, given, pair=models.named, reward=reward)
        problems = load_data(options.data, options.limit, options.seed, offset=options.offset, ids=ids)
        check_untouched(problems, calibrations(modes, given, models.named))
        draft, base = stack.enter_context(endpoints(models, servers, options.timeout))
        if starts_whole:
            whole = connect(stack.enter_context(started_whole(models, servers)))
        from specreason_sgl.evaluation import RunOptions, Runtimes, run_evaluation

        runtimes = Runtimes(draft, base, whole=whole, reward=reward, launch=servers.launch(models))
        run = RunOptions(
            samples=options.samples, concurrency=options.concurrency, processes=options.processes,
            timeout=options.timeout, retry_failed=options.retry_failed, progress_bar=True,
        )  # fmt: skip
        results = run_evaluation(
            problems, settings, options.out, runtimes, run, data=options.data, seed=options.seed
        )
    written(options.out, note=f", {len(results)} samples; specreason-sgl report {options.out}")
    if failed := [sample.error for sample in results if sample.error]:
        fail(
            f"{len(failed)} of {len(results)} samples failed, the first with {failed[0]}; the same command "
            "with --retry-failed does them again",
            1,
        )


def _check_whole(models: Models, servers: Servers) -> None:
    if models.draft_url or not servers.pin:
        raise ConfigError(
            "the mode base-whole needs a base server that has the whole machine: give its URL with "
            "--whole-url, or start the pair with --pin, which starts that server as well"
        )
