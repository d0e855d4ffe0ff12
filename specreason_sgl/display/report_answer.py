"""What a report says first: how much faster, at which difference of accuracy, and what to be careful with."""

import math
from collections.abc import Sequence

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.estimates import LEAST, Estimate
from specreason_sgl.evaluation.groups import Group
from specreason_sgl.evaluation.report import Row
from specreason_sgl.evaluation.settings import ALONE


def answer(rows: Sequence[Row], primary: str = "") -> list[str]:
    """Sentences on one setting against base alone.

    Args:
        primary: the setting's name; default: the first that corrects, else the first of two models. So the
            order of the settings chooses it before the run.

    Raises:
        ConfigError: there is no such setting.
    """
    row = _primary(rows, primary)
    base = next((other for other in rows if other.mode == "base"), None)
    if row is base or math.isnan(row.over_base.value):
        return [f"{row.setting} has {_percent(row.right)} right in {row.seconds.shown(1)} seconds."]
    speed = row.over_base
    faster = f"{speed.value:.2f} times as fast as base alone{_interval(speed, 2)}"
    sentences = [f"{row.setting} is {faster}, with {_accuracy(row)}, on {row.problems} problems."]
    if not math.isnan(row.gap.value):
        points = f"{abs(100 * row.gap.value):.0f} points {'above' if row.gap.value >= 0 else 'below'}"
        sentences.append(
            f"This is {points}{_interval(row.gap, 0, 100)} what sending problems at random to the draft or "
            f"the base model alone reaches in the same time, as {row.line}."
        )
    if row.problems < LEAST:
        sentences.append(f"{row.problems} problems are too few for an interval, or for a conclusion.")
    return sentences


def cautions(rows: Sequence[Row], groups: Sequence[Group]) -> list[str]:
    """What a reader should know before believing the figures."""
    said = []
    heads = list({group.number: group.run.head for group in groups}.values())
    if len({head.machine for head in heads}) > 1:
        said.append("The files are of different machines: settings are compared within each only.")
    elif len(heads) > 1 and heads[0].machine is None:
        said.append("The files do not say their machines: settings are compared within each only.")
    missing = sum(row.wanted - row.samples - row.failed for row in rows)
    for count, what in (
        (missing, "are still to do"),
        (sum(row.failed for row in rows), "failed, and count as wrong"),
        (sum(row.resumed for row in rows), "were made in a later session than the file's first"),
    ):
        if count:
            said.append(f"{count} samples {what}.")
    return said


def _primary(rows: Sequence[Row], name: str) -> Row:
    if not name:
        together = [row for row in rows if row.mode not in ALONE]
        return min(together or rows, key=lambda row: row.mode != "correct")
    for row in rows:
        if row.setting == name:
            return row
    names = ", ".join(row.setting for row in rows)
    raise ConfigError(f"primary must be one of {names}; got {name!r}", "primary")


def _accuracy(row: Row) -> str:
    points = round(100 * row.difference.value)
    test = "" if math.isnan(row.p) else f"; McNemar p = {row.p:.2g}"
    interval = _interval(row.difference, 0, 100, test)
    if not points:
        return f"the same accuracy{interval}"
    return f"{abs(points)} points {'more' if points > 0 else 'less'} accuracy{interval}"


def _percent(estimate: Estimate) -> str:
    return f"{estimate.shown(0, 100)} %"


def _interval(estimate: Estimate, digits: int, times: int = 1, more: str = "") -> str:
    if math.isnan(estimate.low):
        return ""
    low, high = (f"{times * bound:.{digits}f}" for bound in (estimate.low, estimate.high))
    return f" (95 % interval {low} to {high}{more})"
