"""`specreason-sgl doctor`."""

from rich.table import Table
from rich.text import Text

from specreason_sgl.cli.options import Models, Servers
from specreason_sgl.cli.output import fail, out, status

MARKS = {"ok": "[green]✓[/]", "note": "[yellow]•[/]", "stop": "[red]✗[/]"}


def doctor(models: Models, servers: Servers) -> None:
    """Say what is there and what would stop a run of a pair; exits with 1 if something would."""
    from specreason_sgl.runtime.doctor import examine
    from specreason_sgl.runtime.placement import Wish

    pair, given = models.spec(), servers.arguments()
    with status("looking around"):
        draft, base = (
            Wish.read(side, given[f"{side}_gpus"], given[f"{side}_args"]) for side in ("draft", "base")
        )
        findings = examine(pair, draft, base)
    table = Table.grid(padding=(0, 1))
    for finding in findings:
        table.add_row(MARKS[finding.verdict], f"[bold]{finding.topic}[/]", Text(finding.text))
    out.print(table)
    if stops := [finding.topic for finding in findings if finding.verdict == "stop"]:
        fail(f"a run of {pair.name} would be stopped by: {', '.join(stops)}", 1)
    out.print(f"A run of {pair.name} can start.")
