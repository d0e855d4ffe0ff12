"""The benchmark of judges, in the terminal and as a picture."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from specreason_sgl.display.parts import BASE_COLOUR, DRAFT_COLOUR
from specreason_sgl.display.pictures import Picture
from specreason_sgl.evaluation.judges import JudgedSolution, Row


def print_judges(console: Console, judged: Sequence[JudgedSolution], rows: Sequence[Row]) -> None:
    """Print what was judged, and how well each signal tells good from bad."""
    read = [solution for solution in judged if not solution.skipped]
    wrong = sum(solution.wrong is not None for solution in read)
    skipped = len(judged) - len(read)
    console.print(
        f"{len(read)} solutions, {wrong} with a wrong step"
        + (f"; {skipped} skipped, which do not fit into a context" if skipped else "")
        + ". Area under the ROC curve with 95 % intervals by problem; 0.5 is chance:"
    )
    table = Table("signal", "steps", "solutions", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(row.signal, row.steps.shown(), row.solutions.shown())
    console.print(table)


def picture(rows: Sequence[Row]) -> Picture:
    """Each signal's areas under the ROC curve, of steps and of solutions."""
    figure = Picture(figsize=(8, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    series = {"steps": ("right and first wrong steps", DRAFT_COLOUR, -0.15),
              "solutions": ("right and wrong solutions", BASE_COLOUR, 0.15)}  # fmt: skip
    for name, (label, color, shift) in series.items():
        estimates = [getattr(row, name) for row in rows]
        value, low, high = (
            np.array([getattr(estimate, bound) for estimate in estimates])
            for bound in ("value", "low", "high")
        )
        axes.errorbar(
            value, np.arange(len(rows)) + shift, xerr=[value - low, high - value], fmt="o", ms=4, lw=1,
            capsize=2, color=color, label=label,
        )  # fmt: skip
    axes.axvline(0.5, color="black", lw=1, ls=":", label="chance")
    axes.set_yticks(range(len(rows)), [row.signal for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("area under the ROC curve, 95 % intervals by problem")
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure
