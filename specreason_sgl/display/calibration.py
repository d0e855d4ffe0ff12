"""A calibration in the terminal."""

from rich.console import Console
from rich.table import Table

from specreason_sgl.reasoning.calibration import Calibration

_TITLES = {  # of the figures of `evaluation.calibrate`
    "corrupted": "steps / wrong copies",
    "solutions": "right / wrong solutions",
    "paired": "above its own copy",
}


def print_calibration(console: Console, calibration: Calibration) -> None:
    """Print how well each verifier tells good from bad, and the chosen threshold."""
    counts = calibration.data
    console.print(
        f"{counts['problems']} problems, {counts['right']} of them right; {counts['steps']} drafted steps, "
        f"{counts['corrupted']} copies with a wrong digit. AUC on the held-out half of the problems, with "
        "95 % intervals:"
    )
    console.print(_table(calibration))
    console.print(
        f"{calibration.verifier}: a threshold of {calibration.threshold:.4g} keeps {calibration.keep:.0%} "
        "of the steps"
    )


def _table(calibration: Calibration) -> Table:
    table = Table("verifier", *_TITLES.values(), box=None, pad_edge=False, header_style="bold")
    for row in calibration.table:
        figures = (row[name] for name in _TITLES)
        cells = [f"{auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f})" for auc in figures]
        mark = "→ " if row["verifier"] == calibration.verifier else "  "
        table.add_row(mark + row["verifier"], *cells)
    return table
