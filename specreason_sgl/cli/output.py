"""Standard output for results, standard error for progress and errors."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.status import Status
from rich.text import Text

from specreason_sgl.errors import ConfigError
from specreason_sgl.files import check_name

PIPE_WIDTH = 10_000  # a pipe has no width: nothing is cut or wrapped for it
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)


def fail(message: str, code: int) -> NoReturn:
    """Print one line and exit."""
    err.print(Text.assemble(("error: ", "bold red"), " ".join(message.split())), soft_wrap=True)
    sys.exit(code)


def written(*files: Path, note: str = "") -> None:
    out.print(f"written: {', '.join(map(str, files))}{note}", markup=False, soft_wrap=True)


def check_folder(file: Path | None) -> None:
    """Refuse a file in a folder that does not exist, before any work is done."""
    if file and not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent} to write to")


def check_record(file: Path) -> None:
    """Refuse a file that cannot be a record, before any work is done."""
    check_folder(file)
    check_name(file)


def status(text: str) -> Status:
    """A spinner on standard error."""
    return err.status(text)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function (what, done, total) that draws a bar on a terminal, and else prints each new topic once."""
    if not err.is_terminal:
        topics = set()

        def print_topic(what: str, done: int, total: int) -> None:
            topic = what.split(",")[0]
            if topic not in topics:
                topics.add(topic)
                err.print(topic, soft_wrap=True)

        yield print_topic
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total or None
        )
