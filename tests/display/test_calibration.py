"""What is shown of a calibration."""

import io

import msgspec
import pytest
from rich.console import Console

from specreason_sgl.display.calibration import picture, print_calibration, print_plan, print_seconds_left
from specreason_sgl.evaluation.certify import Guarantee
from tests.support.calibrations import CALIBRATION


def printed(show, *values):
    console = Console(file=io.StringIO(), width=200)
    show(console, *values)
    return console.file.getvalue().splitlines()


def test_the_terminal_shows_each_settings_figures_and_marks_the_chosen_one():
    first, _, *rows, last = printed(print_calibration, CALIBRATION)
    assert first.endswith("The base model alone: 51.0% right, 30.0 s.")
    assert [row.split()[:2] for row in rows] == [["→", "correct"], ["pipelined", "50.0"]]
    assert "-1.0 (-3.0 to +1.0)" in rows[0]
    assert [("yes" in row.split(), "no" in row.split()) for row in rows] == [(True, False), (False, True)]
    assert last.startswith("Chosen: correct. At 90% confidence it loses less than 5 points")
    assert last.endswith("It is 1.50 times as fast as the base model alone.")


def test_it_says_so_where_nothing_is_chosen_or_nothing_is_won():
    none = msgspec.structs.replace(CALIBRATION, chosen=None)
    assert printed(print_calibration, none)[-1].endswith("at 90% confidence: none is chosen.")
    slow = tuple(msgspec.structs.replace(point, over_base=0.8) for point in CALIBRATION.curve)
    slower = msgspec.structs.replace(CALIBRATION, curve=slow)
    assert printed(print_calibration, slower)[-1].endswith(
        "It takes 1.25 times as long as the base model alone: nothing is won."
    )


def test_the_plan_says_what_fewer_problems_can_certify():
    assert "takes 271 problems" in printed(print_plan, Guarantee(5, 0.9), 271)[0]
    assert len(printed(print_plan, Guarantee(5, 0.9), 271)) == 1
    assert "a loss below 5.8 points" in printed(print_plan, Guarantee(5, 0.9), 200)[1]


@pytest.mark.parametrize(("seconds", "says"), [(20, "1 min"), (59 * 60, "59 min"), (7300, "2 h 2 min")])
def test_times_are_in_hours_and_minutes(seconds, says):
    assert printed(print_seconds_left, seconds) == [f"about {says} left"]


def test_the_picture_has_each_setting_with_its_interval():
    differences, seconds, work = picture(CALIBRATION).axes
    labels = [label.get_text() for label in differences.get_yticklabels()]
    assert labels == ["correct (chosen)", "pipelined"]
    assert [-3.0, 1.0] in [list(line.get_xdata()) for line in differences.get_lines()]
    assert list(seconds.get_lines()[0].get_xdata()) == [20, 10]
    assert [list(line.get_xdata()) for line in work.get_lines()] == [[2.5, 2.5], [9, 9]]
