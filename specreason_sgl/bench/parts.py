"""The parts of a bench, in order: measures those asked for, and draws their tables."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from rich.table import Table

from specreason_sgl.bench import PARTS as NAMES
from specreason_sgl.bench.setup import Bench

PARTS = {name: import_module(f"specreason_sgl.bench.{name}") for name in NAMES}


def measure(names: Sequence[str], bench: Bench) -> dict[str, Any]:
    """The figures of some parts, as one dictionary that can be written as JSON.

    Args:
        names: of `PARTS`.
    """
    figures: dict[str, Any] = {
        "draft": bench.draft.get_model_name(),
        "base": bench.base.get_model_name(),
        "config": replace(bench.config, repair=bench.correct).as_dict(),
    }
    for name, part in PARTS.items():
        if name in names:
            figures[name] = part.run(bench)
    return figures


def tables(figures: dict[str, Any]) -> Iterator[Table]:
    """The tables of what `measure` returned."""
    for name, part in PARTS.items():
        if name in figures:
            yield from part.tables(figures[name])
