"""Pages of the reference that follow from declarations: `make docs-tables` writes them.

python -m docs.tables
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from specreason_sgl.cli.help import HELP_ALL
from specreason_sgl.cli.program import app
from specreason_sgl.display.settings_page import settings_page
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving.parameters_page import parameters_page

FOLDER = Path(__file__).parent / "reference"
COMMANDS = """# Command line

`make docs-tables` writes this page: it is what `--help-all` of each command prints. `--help` shows the
dozen options that most people need. An error is one line on standard error, and the exit status is 2 for
wrong input, 1 where a runtime failed, 130 after Ctrl-C.
"""
WIDTH = 88  # characters
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def commands_page() -> str:
    """Every command with its arguments and options."""
    return "\n".join([COMMANDS, *_commands("specreason-sgl", typer.main.get_command(app))])


def trace_schema() -> str:
    """The JSON schema of a trace."""
    schema = json.loads(msgspec.json.encode(msgspec.json.schema(Trace)), object_hook=_dedent)
    return json.dumps(schema, indent=1) + "\n"


def _dedent(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a schema, its docstring without indentation, which msgspec keeps before 0.23."""
    if isinstance(text := part.get("description"), str):
        part["description"] = inspect.cleandoc(text)
    return part


def _commands(path: str, command) -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, part in command.commands.items():
            yield from _commands(f"{path} {name}", part)
        return
    with command.make_context(path, [], resilient_parsing=True, terminal_width=WIDTH) as context:
        context.meta[HELP_ALL] = True
        text = ANSI.sub("", context.get_help())
    yield f"## {path.partition(' ')[2]}\n\n```text\n{text.rstrip()}\n```\n"


PAGES = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "parameters.md": parameters_page,
    "trace.schema.json": trace_schema,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
