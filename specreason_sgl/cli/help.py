"""Help in panels, with nothing cut off; `--help-all` shows what `--help` leaves out."""

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP_ALL = "--help-all"


class Command(TyperCommand):
    """A command whose options are listed by panel, and whose flags have no `--no-...`."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **{**settings, "rich_markup_mode": None})
        for parameter in self.params:
            parameter.secondary_opts = []

    def format_options(self, ctx, formatter) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        left_out = 0
        for parameter in self.get_params(ctx):
            hidden = getattr(parameter, "hidden", False)
            if hidden and not ctx.meta.get(HELP_ALL):
                left_out += 1
                continue
            parameter.hidden = False
            if record := parameter.get_help_record(ctx):
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(
                    (_TYPE.sub(lambda match: _METAVARS.get(match[1], ""), record[0]), record[1])
                )
            parameter.hidden = hidden
        for panel in sorted(panels, key=_place):
            with formatter.section(typer.style(panel, bold=True)):
                formatter.write_dl(panels[panel], col_max=34)
        if left_out:
            formatter.write_paragraph()
            formatter.write_text(f"{left_out} more options: {ctx.command_path} {HELP_ALL}")


class Group(TyperGroup):
    """A group that lists its commands with the whole first sentence of their help."""

    def format_commands(self, ctx, formatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            first, _, _ = (command.help or "").partition("\n\n")
            rows.append((name, " ".join(first.split())))
        with formatter.section(typer.style("Commands", bold=True)):
            formatter.write_dl(rows)


def show_all(ctx: typer.Context, wanted: bool) -> None:
    """Print the help with every option, and exit."""
    if wanted:
        ctx.meta[HELP_ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit


_ORDER = (
    "Arguments", "Options", "Models", "Server", "Judge and repair", "Speculation", "Budget and sampling",
    "Servers", "Advanced",
)  # fmt: skip
_TYPE = re.compile(r"<(str|path|int|float)(?: range)?>| <list\[\w+\]>")
_METAVARS = {"str": "TEXT", "path": "PATH", "int": "N", "float": "X"}


def _place(panel: str) -> int:
    return _ORDER.index(panel) if panel in _ORDER else len(_ORDER)
