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
    primary: Annotated[
        str,
        option("The setting that the first sentence is on; by default the first of two models.", front=True),
    ] = "",
    problems: Annotated[bool, option("Also print which problems each setting solves.", front=True)] = False,
    markdown: Annotated[bool, option("Print Markdown.", front=True)] = False,
    csv: Annotated[Path | None, option("Also write the figures in full to this file.", front=True)] = None,
    html: Annotated[
        Path | None, option("Also write tables and pictures as one page to this file.", front=True)
    ] = None,
    parquet: Annotated[
        Path | None,
        option("Also write samples, steps, calls and tokens to Parquet files in this folder.", front=True),
    ] = None,
) -> None:
    """How much faster, at which difference of accuracy: a sentence, then tables with 95 % intervals."""
    from specreason_sgl.display import report as views
    from specreason_sgl.evaluation import report as work

    written = [file for file in (csv, html, parquet) if file]
    for file in written:
        check_folder(file)
    groups = work.load(runs)
    rows = work.figures(groups)
    if markdown:
        print(views.as_markdown(rows, groups, primary))
    else:
        out.print(views.as_text(rows, groups, primary))
    if problems:
        out.print(views.problems_text(groups))
    if csv:
        work.write_csv(rows, csv)
    if html:
        page = views.as_html(rows, groups, list(map(str, runs)), primary)
        html.write_text(page, encoding="utf-8")
    if parquet:
        from specreason_sgl.evaluation.frames import write_parquet

        write_parquet(groups, parquet)
    for file in written:
        err.print(f"written: {file}", soft_wrap=True)
