"""`specreason-sgl report`."""

from pathlib import Path
from typing import Annotated

import typer

from specreason_sgl.cli.options import option
from specreason_sgl.cli.output import check_folder, err, out


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Files of `eval`; their settings are compared.")
    ],
    markdown: Annotated[bool, option("Print the table as Markdown.", front=True)] = False,
    csv: Annotated[Path | None, option("Also write the figures in full to this file.", front=True)] = None,
    html: Annotated[
        Path | None, option("Also write tables and pictures as one page to this file.", front=True)
    ] = None,
) -> None:
    """Accuracy, latency, tokens, share of steps kept and speedups of evaluations, with 95 % intervals."""
    from specreason_sgl.display import report as views
    from specreason_sgl.evaluation import report as work

    for file in filter(None, (csv, html)):
        check_folder(file)
    groups = work.load(runs)
    rows = work.figures(groups)
    if markdown:
        print(views.as_markdown(rows))
    else:
        out.print(views.table(rows), "", *work.NOTES, sep="\n")
    if csv:
        work.write_csv(rows, csv)
    if html:
        html.write_text(views.as_html(rows, groups, list(map(str, runs))), encoding="utf-8")
    for file in filter(None, (csv, html)):
        err.print(f"written: {file}", soft_wrap=True)
