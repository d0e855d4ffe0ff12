"""`specreason-sgl eval`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from specreason_sgl.cli.options import Models, Servers, Swept, knob_options, option, split
from specreason_sgl.cli.output import check_folder, fail, written
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.evaluation.problems import NAMES
from specreason_sgl.evaluation.settings import KNOBS, MODES, expand

Sweeps = knob_options(Swept, KNOBS.values())


def evaluate(
    models: Models,
    servers: Servers,
    sweeps: Sweeps,
    data: Annotated[
        str,
        option(
            f"Problems: {', '.join(NAMES)} (a task of reasoning-gym), or a JSON Lines file with question, "
            "answer and maybe id and choices.",
            front=True,
        ),
    ],
    result: Annotated[
        Path,
        option("The file of the run; the same command goes on where it was.", None, "--out", front=True),
    ] = Path("eval.jsonl"),
    modes: Annotated[
        str, option(f"What is compared: some of {', '.join(MODES)}; with commas.", front=True)
    ] = "base,draft,correct,pipelined",
    limit: Annotated[int | None, option("Evaluate only the first N problems.", front=True, min=1)] = None,
    samples: Annotated[int, option("Samples of each problem with each setting.", front=True, min=1)] = 1,
    concurrency: Annotated[
        int, option("Samples at a time; 1 measures latency.", front=True, min=1, max=1024)
    ] = 1,
    seed: Annotated[int, option("Of generated problems, and of the order of choices.")] = 0,
    retry_failed: Annotated[
        bool, option("Also do again the samples that failed.", None, "--retry-failed")
    ] = False,
    reward_url: Annotated[
        str, option("A reward model's SGLang server, for the mode reward.", "Models", metavar="URL")
    ] = "",
    timeout: Annotated[float, option("Deadline of a sample, in seconds.", "Budget and sampling")] = 3600.0,
) -> None:
    """Solve problems with known answers in several ways, side by side, and grade the answers.

    base and draft are one model alone. correct replaces single tokens, the default of `solve`. sequential and
    pipelined rewrite the steps that the calibrated verifier (or --verifier) rejects: one thing at a time, and
    overlapped. paper is SpecReason as published: its question, a static threshold, one thing at a time. In
    reward a reward model judges.

    Knobs take several values, with commas: each combination is evaluated. One sample at a time, the modes
    take turns on each problem. Each finished sample is a line of the file, of which `report` makes tables and
    pictures.
    """
    from specreason_sgl.evaluation.problems import load_data

    names = split("modes", modes, str, MODES)
    given = sweeps.values()
    check_folder(result)
    with ExitStack() as stack:
        reward = None
        if reward_url:
            from specreason_sgl.lang.endpoint import Endpoint

            reward = stack.enter_context(Endpoint(reward_url, models.runtime_key or None, timeout=timeout))
        settings = expand(names, given, pair=models.named, reward=reward)
        problems = load_data(data, limit, seed)
        draft, base = stack.enter_context(endpoints(models, servers, timeout))
        from specreason_sgl.evaluation import evaluate as work

        results = work.run_evaluation(
            problems,
            settings,
            result,
            draft=draft,
            base=base,
            data=data,
            samples=samples,
            concurrency=concurrency,
            seed=seed,
            reward=reward,
            timeout=timeout,
            retry_failed=retry_failed,
            progress_bar=True,
        )
    written(result, note=f", {len(results)} samples; specreason-sgl report {result}")
    if failed := [sample.error for sample in results if sample.error]:
        fail(
            f"{len(failed)} of {len(results)} samples failed, the first with {failed[0]}; the same command "
            "with --retry-failed does them again",
            1,
        )
