"""A calibration, in the terminal and as a picture."""

from rich.console import Console
from rich.table import Table

from specreason_sgl.display.parts import BASE_COLOUR, DRAFT_COLOUR, REGRET_COLOUR, REJECTED_COLOUR
from specreason_sgl.display.pictures import Picture
from specreason_sgl.evaluation.certify import DISCORDANT, POWER, Guarantee
from specreason_sgl.reasoning.calibration import Calibration, Point


def print_plan(console: Console, guarantee: Guarantee, problems: int) -> None:
    """Print how many problems the guarantee takes, and what those that there are can certify."""
    console.print(
        f"To show at {guarantee.confidence:.0%} confidence that a setting loses less than {guarantee.loss:g} "
        f"points of the base model's accuracy takes {guarantee.problems} problems, if the two disagree on "
        f"{DISCORDANT:.0%} of them and nothing is lost (it then passes {POWER:.0%} of the time).",
        soft_wrap=True,
    )
    if problems < guarantee.problems:
        loss = guarantee.attainable(problems)
        console.print(
            f"These are {problems} problems, which can certify a loss below {loss:.1f} points.",
            soft_wrap=True,
        )


def print_seconds_left(console: Console, seconds: float) -> None:
    """Print about how long the run takes."""
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    console.print(f"about {hours} h {minutes} min left" if hours else f"about {minutes} min left")


def print_calibration(console: Console, calibration: Calibration) -> None:
    """Print the curve and the chosen setting, or that there is none."""
    console.print(
        f"{calibration.problems} problems, {calibration.concurrency} at a time. The base model alone: "
        f"{calibration.base_accuracy:.1%} right, {calibration.base_seconds:.1f} s.",
        soft_wrap=True,
    )
    console.print(_table(calibration))
    console.print(conclusion(calibration), soft_wrap=True)


def conclusion(calibration: Calibration) -> str:
    """What a calibration says, in a sentence."""
    kept = f"less than {calibration.loss:g} points of the base model's accuracy"
    choice = calibration.choice
    if choice is None:
        return (
            f"No setting was shown to lose {kept} at {calibration.confidence:.0%} confidence: none is chosen."
        )
    speed = f"is {choice.over_base:.2f} times as fast as the base model alone."
    if choice.over_base < 1:
        speed = f"takes {1 / choice.over_base:.2f} times as long as the base model alone: nothing is won."
    return f"Chosen: {choice.setting}. At {calibration.confidence:.0%} confidence it loses {kept}. It {speed}"


def _table(calibration: Calibration) -> Table:
    titles = ("setting", "accuracy, %", "against base, points", "lost / won", "p", "passes", "seconds",
              "over base", "corrections in 100 tokens", "prefills")  # fmt: skip
    table = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for point in calibration.curve:
        table.add_row(
            ("→ " if point.setting == calibration.chosen else "  ") + point.setting,
            f"{100 * point.accuracy:.1f}",
            _difference(point),
            f"{point.lost} / {point.won}",
            f"{point.p:.3f}",
            "yes" if point.passes else "no",
            f"{point.seconds:.1f}",
            f"{point.over_base:.2f}",
            f"{point.corrections:.1f}",
            f"{point.prefills:.1f}",
        )
    return table


def _difference(point: Point) -> str:
    value = f"{100 * point.difference:+.1f}"
    if point.low is None or point.high is None:
        return value
    return f"{value} ({100 * point.low:+.1f} to {100 * point.high:+.1f})"


def picture(calibration: Calibration) -> Picture:
    """The curve, by setting: accuracy against the base model's, seconds, and what is corrected and read."""
    curve = calibration.curve
    figure = Picture(figsize=(10, 1.6 + 0.35 * len(curve)), layout="constrained")
    differences, seconds, work = figure.subplots(1, 3, sharey=True, width_ratios=(3, 2, 2))
    for place, point in enumerate(curve):
        colour = DRAFT_COLOUR if point.passes else REJECTED_COLOUR
        differences.plot(100 * point.difference, place, "o", ms=4, color=colour)
        if point.low is not None and point.high is not None:
            differences.plot([100 * point.low, 100 * point.high], [place, place], lw=1, color=colour)
    differences.axvline(0, color=BASE_COLOUR, lw=1, label="base model alone")
    differences.axvline(-calibration.loss, color="black", lw=1, ls=":", label="the loss to rule out")
    differences.set_xlabel("accuracy against base, points\n(95 % intervals; green passes)")
    seconds.plot([point.seconds for point in curve], range(len(curve)), "o", ms=4, color="black")
    seconds.axvline(calibration.base_seconds, color=BASE_COLOUR, lw=1)
    seconds.set_xlabel("seconds")
    for name, label, colour in (
        ("corrections", "corrections in 100 tokens", REGRET_COLOUR),
        ("prefills", "prefills", "grey"),
    ):
        values = [getattr(point, name) for point in curve]
        work.plot(values, range(len(curve)), "o", ms=4, color=colour, label=label)
    for axes in (seconds, work):
        axes.set_xlim(left=0)
    labels = [
        f"{point.setting} (chosen)" if point.setting == calibration.chosen else point.setting
        for point in curve
    ]
    differences.set_yticks(range(len(curve)), labels, fontsize=8)
    differences.invert_yaxis()
    for axes in figure.axes:
        axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure
