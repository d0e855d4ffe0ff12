"""Views of an evaluation: the terminal, Markdown, an HTML page with pictures."""

import base64
import html
import json
from collections.abc import Iterable, Sequence

from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from specreason_sgl.display import pictures
from specreason_sgl.display.markdown import markdown_table
from specreason_sgl.display.report_answer import answer, cautions
from specreason_sgl.display.report_tables import Table, problems, tables
from specreason_sgl.evaluation.groups import Group
from specreason_sgl.evaluation.projection import Speeds
from specreason_sgl.evaluation.report import Row


def as_text(
    rows: Sequence[Row], groups: Sequence[Group], primary: str = "", speeds: Speeds | None = None
) -> RenderableType:
    """The report for the terminal: the answer, then tables, each with what its columns mean."""
    said = answer(rows, primary)
    parts: list[RenderableType] = [Text(said[0], style="bold")]
    parts += [Text(sentence) for sentence in said[1:]]
    parts += [Text(sentence, style="yellow") for sentence in cautions(rows, groups)]
    return Together(*parts, *map(_titled, tables(rows, groups, speeds)))


def problems_text(groups: Sequence[Group]) -> RenderableType:
    """Which problems each setting solves, for the terminal."""
    return _titled(problems(groups))


def as_markdown(
    rows: Sequence[Row], groups: Sequence[Group], primary: str = "", speeds: Speeds | None = None
) -> str:
    """The answer and the tables."""
    parts = [*answer(rows, primary), *cautions(rows, groups)]
    parts += [f"**{table.title}**\n\n{_markdown(table)}" for table in tables(rows, groups, speeds)]
    return "\n\n".join(parts)


def tables_html(
    rows: Sequence[Row], groups: Sequence[Group], primary: str = "", speeds: Speeds | None = None
) -> str:
    """The answer and the tables as HTML."""
    first, *others = (f"<p>{html.escape(sentence)}</p>" for sentence in answer(rows, primary))
    careful = (f'<p class="caution">{html.escape(sentence)}</p>' for sentence in cautions(rows, groups))
    lead = f'<div class="answer">{first}</div>{"".join((*others, *careful))}'
    return lead + "".join(map(_section, tables(rows, groups, speeds)))


def as_html(
    rows: Sequence[Row],
    groups: Sequence[Group],
    sources: Sequence[str],
    primary: str = "",
    speeds: Speeds | None = None,
) -> str:
    """The report with its pictures, as one self-contained HTML file.

    Args:
        sources: names of the files that it is of.
        primary: as in `report_answer.answer`.
        speeds: assumed ones, for a table of what the same requests would take.
    """
    configs = {group.name: group.config for group in groups}
    each = problems(groups)
    return _PAGE.format(
        sources=html.escape(", ".join(sources)),
        report=tables_html(rows, groups, primary, speeds),
        pictures="".join(_picture(section) for section in pictures.report_sections(rows, groups)),
        problems=_details(f"{len(each.lines)} problems by setting", _section(each)),
        settings=_details("All settings in full", f"<pre>{_json(configs)}</pre>"),
    )


def _titled(table: Table) -> RenderableType:
    notes = (Text(note, style="dim") for note in table.notes)
    return Together("", Text(table.title, style="bold"), _drawn(table), *notes)


def _drawn(table: Table) -> Drawn:
    drawn = Drawn(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for column in table.columns:
        drawn.add_column(column, overflow="fold")
    for line in table.lines:
        drawn.add_row(*map(Text, line))
    return drawn


def _markdown(table: Table) -> str:
    return markdown_table(table.columns, table.lines)


def _section(table: Table) -> str:
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    about = _details("What the columns mean", notes) if notes else ""
    head, lines = _line(table.columns, "th"), "".join(_line(line, "td") for line in table.lines)
    body = f'<div class="wide"><table><thead>{head}</thead><tbody>{lines}</tbody></table></div>'
    return f"<section><h2>{html.escape(table.title)}</h2>{body}{about}</section>"


def _line(texts: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"


def _picture(section: pictures.Section) -> str:
    data = base64.b64encode(pictures.png(section.picture)).decode()
    image = f'<img alt="{section.title}" src="data:image/png;base64,{data}">'
    return f"<section><h2>{section.title}</h2><p>{section.note}</p>{image}</section>"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def _json(document: object) -> str:
    return html.escape(json.dumps(document, indent=1, ensure_ascii=False))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>specreason-sgl: report</title>
<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; --ink: #23262b; --quiet: #6b7078; --line: #e4e6e9; --paper: #fff;
  --accent: #3b6fb6; --caution: #a15c00 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #dfe2e6; --quiet: #979da6; --line: #34383e;
  --paper: #17191c; --accent: #8db4e8; --caution: #e0a95b }} img {{ background: #fff; border-radius: 4px }} }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 3rem auto; padding: 0 1.25rem }}
header {{ color: var(--quiet); font-size: .85rem }}
.answer p {{ font-size: 1.45rem; line-height: 1.35; max-width: 46rem; margin: .4rem 0 1rem }}
p {{ max-width: 46rem; margin: .5rem 0 }} .caution {{ color: var(--caution) }}
h2 {{ font-size: 1rem; margin: 2.75rem 0 .6rem }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }}
th, td {{ padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top }}
th {{ color: var(--quiet); font-weight: 500 }} td:first-child {{ font-weight: 500 }}
details {{ margin: .6rem 0; color: var(--quiet); font-size: .85rem }} summary {{ cursor: pointer }}
img {{ max-width: 100% }} pre {{ overflow-x: auto; font-size: .8rem }}
</style></head><body>
<header>specreason-sgl report of {sources}</header>
{report}{pictures}
<section><h2>Everything else</h2>{problems}{settings}</section>
</body></html>
"""
