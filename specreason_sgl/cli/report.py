"""`specreason-sgl report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specreason_sgl.cli.options import option, split
from specreason_sgl.cli.output import check_folder, err, out
from specreason_sgl.errors import ConfigError

if TYPE_CHECKING:
    from specreason_sgl.evaluation.projection import Speeds


@dataclass(frozen=True)
class Options:
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Files of `eval`; their settings are compared.")
    ]
    primary: Annotated[
        str,
        option("The setting that the first sentence is on; by default the first of two models.", front=True),
    ] = ""
    problems: Annotated[bool, option("Also print which problems each setting solves.", front=True)] = False
    markdown: Annotated[bool, option("Print Markdown.", front=True)] = False
    csv: Annotated[Path | None, option("Also write the figures in full to this file.", front=True)] = None
    assume: Annotated[
        str,
        option(
            "Also project the run to assumed speeds: milliseconds of a draft token, of a base token and of a "
            "base prefill; 4,20,25 is about 1.5B and 32B on H100s.",
            metavar="MS,MS,MS",
        ),
    ] = ""
    html: Annotated[
        Path | None, option("Also write tables and pictures as one page to this file.", front=True)
    ] = None
    parquet: Annotated[
        Path | None,
        option("Also write samples, steps, calls and tokens to Parquet files in this folder.", front=True),
    ] = None
    without_texts: Annotated[
        Path | None,
        option(
            "Also write the runs to this folder, compressed, without texts, to publish and for `report`.",
            metavar="FOLDER",
        ),
    ] = None
    inspect: Annotated[
        Path | None,
        option("Also write a log of each setting for inspect_ai's viewer to this folder.", metavar="FOLDER"),
    ] = None

    @property
    def files(self) -> list[Path]:
        """What is written."""
        return [
            path for path in (self.csv, self.html, self.parquet, self.without_texts, self.inspect) if path
        ]


def report(options: Options) -> None:
    """How much faster, at which difference of accuracy: a sentence, then tables with 95 % intervals."""
    from specreason_sgl.display import report as views
    from specreason_sgl.evaluation import report as work

    speeds = _speeds(options.assume) if options.assume else None
    for path in options.files:
        check_folder(path)
    groups = work.load(options.runs)
    rows = work.figures(groups)
    if options.markdown:
        print(views.as_markdown(rows, groups, options.primary, speeds))
    else:
        out.print(views.as_text(rows, groups, options.primary, speeds))
    if options.problems:
        out.print(views.problems_text(groups))
    if options.csv:
        work.write_csv(rows, options.csv)
    if options.html:
        page = views.as_html(rows, groups, list(map(str, options.runs)), options.primary, speeds)
        options.html.write_text(page, encoding="utf-8")
    if options.parquet:
        from specreason_sgl.evaluation.frames import write_parquet

        write_parquet(groups, options.parquet)
    if options.without_texts:
        from specreason_sgl.evaluation.publish import write_without_texts

        for run in options.runs:
            write_without_texts(run, options.without_texts)
    if options.inspect:
        from specreason_sgl.evaluation.inspect_log import write_logs

        write_logs(groups, options.inspect)
    for path in options.files:
        err.print(f"written: {path}", soft_wrap=True)


def _speeds(text: str) -> "Speeds":
    from specreason_sgl.evaluation.projection import Speeds

    speeds = split("assume", text, float)
    if len(speeds) != 3:
        raise ConfigError(f"assume must be three numbers, with commas; got {text!r}", "assume")
    return Speeds(*speeds)
