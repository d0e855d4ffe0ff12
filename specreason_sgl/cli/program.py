"""The program: its commands, and how errors end it."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Annotated

import typer

from specreason_sgl import __version__
from specreason_sgl.cli import (
    bench,
    calibrate,
    chat,
    disagreements,
    doctor,
    evaluate,
    judges,
    models,
    report,
    serve,
    show,
    solve,
)
from specreason_sgl.cli.help import Command, Group
from specreason_sgl.cli.options import command
from specreason_sgl.cli.output import err, fail, out
from specreason_sgl.cli.signals import end_on
from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.lazy import explained

COMMANDS: dict[str, Callable[..., None]] = {
    "solve": solve.solve,
    "chat": chat.chat,
    "show": show.show,
    "serve": serve.serve,
    "calibrate": calibrate.calibrate,
    "judges": judges.judges,
    "disagreements": disagreements.disagreements,
    "bench": bench.bench,
    "eval": evaluate.evaluate,
    "report": report.report,
    "doctor": doctor.doctor,
}
_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(
    cls=Group,
    help="Speculative reasoning for SGLang: a small model drafts the steps of a chain of thought, the base "
    "model reads them and corrects the tokens that it would not have written.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)
models_app = typer.Typer(cls=Group, help="Named pairs of models and their weights.", rich_markup_mode=None)
for name, function in COMMANDS.items():
    app.command(name, cls=Command)(command(function))
for name, function in {"list": models.show, "fetch": models.fetch, "path": models.path}.items():
    models_app.command(name, cls=Command)(command(function))
app.add_typer(models_app, name="models")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `specreason-sgl`. Exits with 2 for wrong input, 1 where a runtime failed.

    Args:
        argv: the command line without the program's name; None: the process's own.
    """
    end_on(signal.SIGTERM)
    try:
        with explained():
            code = app(args=None if argv is None else list(argv), standalone_mode=False)
    except ConfigError as error:
        fail(error.reworded(lambda knob: f"--{knob.replace('_', '-')}"), error.exit_code)
    except SpecReasonError as error:
        fail(str(error), error.exit_code)
    except typer.BadParameter.__base__ as error:  # click's UsageError, wherever typer keeps it
        fail(f"{error.format_message()} (see --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of the output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if code == 130:  # also how newer typer reports Ctrl-C
        err.print("interrupted; requests were aborted and servers that were started are stopped")
    sys.exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            sglang = metadata.version("sglang")
        except metadata.PackageNotFoundError:
            sglang = "not installed"
        out.print(f"specreason-sgl {__version__}, sglang {sglang}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    _help_without_command(ctx)


@models_app.callback(invoke_without_command=True)
def _help_without_command(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
