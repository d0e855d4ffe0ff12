"""Views of an evaluation's figures: table for the terminal, Markdown, HTML table, HTML page with pictures."""

import base64
import html
import json
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from specreason_sgl.display import pictures
from specreason_sgl.display.markdown import markdown_table
from specreason_sgl.evaluation.report import COLUMNS, NOTES, Group, Row, cells

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>specreason-sgl: report</title>
<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem }}
.wide {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: .85rem }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top }}
img {{ max-width: 100% }} p {{ max-width: 48rem }} pre {{ overflow-x: auto; font-size: .8rem }}
</style></head><body>
<h1>Evaluation</h1><p>{sources}</p>
<div class="wide">{table}</div>{notes}{pictures}
<h2>Settings</h2><details><summary>All settings in full</summary><pre>{settings}</pre></details>
</body></html>
"""


def table(rows: Sequence[Row]) -> Table:
    """The figures for the terminal."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, cells(row)))
    return drawn


def as_markdown(rows: Sequence[Row]) -> str:
    return markdown_table(COLUMNS, map(cells, rows))


def table_with_notes(rows: Sequence[Row]) -> str:
    """The figures as an HTML table, and under it what the columns mean."""
    return _html_table(rows) + _notes()


def as_html(rows: Sequence[Row], groups: Sequence[Group], sources: Sequence[str]) -> str:
    """The report with its pictures, as one self-contained HTML file.

    Args:
        sources: names of the files that it is of.
    """
    configs = {group.name: group.config for group in groups}
    return _PAGE.format(
        sources=html.escape(", ".join(sources)),
        table=_html_table(rows),
        notes=_notes(),
        pictures="".join(_section(section) for section in pictures.report_sections(rows, groups)),
        settings=html.escape(json.dumps(configs, indent=1, ensure_ascii=False)),
    )


def _section(section: pictures.Section) -> str:
    data = base64.b64encode(pictures.png(section.picture)).decode()
    image = f'<img alt="{section.title}" src="data:image/png;base64,{data}">'
    return f"<h2>{section.title}</h2><p>{section.note}</p>{image}"


def _html_table(rows: Sequence[Row]) -> str:
    return f"<table>{_line(COLUMNS, 'th')}{''.join(_line(cells(row), 'td') for row in rows)}</table>"


def _line(texts: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"


def _notes() -> str:
    return "".join(f"<p>{note}</p>" for note in NOTES)
