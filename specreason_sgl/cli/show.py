"""`specreason-sgl show`."""

from pathlib import Path
from typing import Annotated

import typer

from specreason_sgl.cli.options import option
from specreason_sgl.cli.output import check_folder, out, written
from specreason_sgl.display import page, terminal
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.trace_files import read_traces


def show(
    files: Annotated[
        list[Path], typer.Argument(metavar="TRACE_FILE", help="What `solve --json` printed; one or more.")
    ],
    html: Annotated[
        Path | None,
        option("Write one page of HTML to this file instead, to open in a browser.", front=True),
    ] = None,
    regret: Annotated[
        bool,
        option("Shade the tokens that are not the base model's first choice.", front=True),
    ] = False,
) -> None:
    """Show saved traces: steps, scores, what was corrected or rejected, and what each model did when."""
    if html and regret:
        raise ConfigError("--regret shades text in the terminal; the page of --html has a button for it")
    traces = [trace for file in files for trace in read_traces(file)]
    if not html:
        terminal.print_traces(out, traces, regret)
        return
    check_folder(html)
    try:
        html.write_text(page.as_html(traces), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{html} cannot be written: {error.strerror}") from None
    written(html)
