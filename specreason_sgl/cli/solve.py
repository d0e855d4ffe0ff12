"""`specreason-sgl solve`."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from specreason_sgl.cli.options import Given, Models, Remote, Servers, knob_options, option
from specreason_sgl.cli.output import err, out, status
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.display import terminal
from specreason_sgl.display.terminal_live import watching
from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.reasoning.config import Question, SpecReasonConfig
from specreason_sgl.reasoning.plain import KNOBS, config_of
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.reasoning.trace_files import read_traces

Knobs = knob_options(Given, KNOBS.values())


@dataclass(frozen=True)
class Options:
    question: Annotated[str, typer.Argument(help="The problem; - reads it from standard input.")] = ""
    timeout: Annotated[float, option("Deadline of a run, in seconds.", "Budget and sampling")] = 3600.0
    resume: Annotated[
        Path | None, option("Go on with a run that failed, from the file that its error names.", front=True)
    ] = None
    compare: Annotated[bool, option("Also run the base model alone.", front=True)] = False
    json: Annotated[
        bool,
        option("Print the trace (a line of JSON per run) instead of the steps.", front=True),
    ] = False


def solve(options: Options, models: Models, remote: Remote, servers: Servers, knobs: Knobs) -> None:
    """Solve one problem with a draft and a base model, showing the steps as they come.

    Starts the two servers and stops them at the end, unless --draft-url and --base-url name running ones, or
    --server names a running `serve`.
    """
    if remote.server and (options.resume or options.compare):
        raise ConfigError("--server must come without --resume and --compare")
    if options.question and options.resume:
        raise ConfigError("give a problem or --resume, not both: the file has the problem")
    given, timeout = knobs.values(), options.timeout
    config = config_of(given, pair=models.named)
    question: Question = sys.stdin.read().strip() if options.question == "-" else options.question
    earlier = _resumed(options.resume, config) if options.resume else None
    if earlier:
        question = _question_of(earlier)
    config.messages(question)  # checks it
    watched = nullcontext[dict[str, Any]]({}) if options.json else watching(out)
    if remote.server:
        from specreason_sgl.serving.client import ask

        asked = [{"role": "user", "content": str(question)}]
        with watched as callbacks:
            trace = ask(remote.server, asked, given, remote.api_key, timeout=timeout, **callbacks)
        _show(trace, options.json)
        return
    with endpoints(models, servers, timeout) as (draft, base):
        from specreason_sgl.reasoning import solve as solving

        with _saving(), watched as callbacks:
            trace = solving.solve(
                question, draft=draft, base=base, config=config, timeout=timeout, resume=earlier,
                **callbacks,
            )  # fmt: skip
        _show(trace, options.json)
        if options.compare:
            with status("the base model alone"):
                alone = solving.solve_alone(question, endpoint=base, config=config, timeout=timeout)
            _show(alone, options.json)
            if not options.json:
                terminal.print_comparison(out, trace, alone)


def _show(trace: Trace, json: bool) -> None:
    if json:
        print(trace.to_json(), flush=True)
    else:
        terminal.print_result(out, trace)


def _question_of(trace: Trace) -> Question:
    asked = {"role": "user", "content": trace.question}
    return [*trace.earlier, asked] if trace.earlier else trace.question


def _resumed(file: Path, config: SpecReasonConfig) -> Trace:
    """The trace to resume from; prints the settings that have changed since."""
    trace, *others = read_traces(file)
    if others or not trace.resumable:
        raise ConfigError(f"{file} is not the trace of one run that failed: there is nothing to go on with")
    now = config.as_dict()
    for name in now:
        if now[name] != (before := trace.config.get(name, now[name])):
            err.print(f"{name} was {before}, and is {now[name]} now", markup=False, soft_wrap=True)
    return trace


@contextmanager
def _saving() -> Iterator[None]:
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
