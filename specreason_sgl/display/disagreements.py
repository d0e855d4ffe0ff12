"""Which disagreements matter, in the terminal."""

from rich.console import Console
from rich.table import Table

from specreason_sgl.evaluation.learned import CAUGHT, Figures

_PLAIN = {"box": None, "pad_edge": False, "header_style": "bold"}


def score_table(figures: Figures) -> tuple[list[str], list[list[str]]]:
    """How well each score finds the harmful disagreements: the heads of the columns, and the lines."""
    heads = ["score", "AUC", *(f"corrected to catch {share:.0%}, %" for share in CAUGHT)]
    lines = []
    for row in figures.rows:
        signed = row is figures.rows[-1]
        needed = (estimate.shown(1, 100, signed=signed) for estimate in row.needed)
        lines.append([row.score, row.auc.shown(signed=signed), *needed])
    return heads, lines


def print_figures(console: Console, figures: Figures) -> None:
    """Print what the branches say, how well both scores find the harmful ones, and the coefficients."""
    console.print(
        f"{figures.disagreements} disagreements of {figures.problems} problems, {figures.harmful} harmful: "
        "only the base model's token leads to a right answer. The other way round it is "
        f"{figures.lucky}, and as many of the harmful may be chance (McNemar p = {figures.p:.2g})."
    )
    heads, lines = score_table(figures)
    table = Table(*heads, **_PLAIN)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print("95 % intervals by problem; learned scores are of problems that were not learned from.")
    console.print(figures.verdict)
    coefficients = Table("feature", "coefficient per standard deviation", **_PLAIN)
    for name, value in figures.coefficients.items():
        coefficients.add_row(name, f"{value:+.2f}")
    console.print(coefficients)
