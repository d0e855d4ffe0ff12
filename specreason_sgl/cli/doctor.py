"""`specreason-sgl doctor`."""

from typing import Annotated

from rich.table import Table
from rich.text import Text

from specreason_sgl.cli.options import option
from specreason_sgl.cli.output import fail, out, status
from specreason_sgl.runtime import models

MARKS = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "stop": "[red]✗[/]"}


def doctor(
    pair: Annotated[str, option(f"A named pair: {', '.join(models.PAIRS)}.", front=True)] = "mini",
) -> None:
    """Say what is there and what would stop a run of a pair; exits with 1 if something would."""
    from specreason_sgl.runtime.doctor import examine

    with status("looking around"):
        findings = examine(models.get_pair(pair))
    table = Table.grid(padding=(0, 1))
    for finding in findings:
        table.add_row(MARKS[finding.verdict], f"[bold]{finding.topic}[/]", Text(finding.text))
    out.print(table)
    if stops := [finding.topic for finding in findings if finding.verdict == "stop"]:
        fail(f"a run of {pair} would be stopped by: {', '.join(stops)}", 1)
    out.print(f"A run of {pair} can start.")
