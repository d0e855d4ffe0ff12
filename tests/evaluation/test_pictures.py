"""What is in the pictures; how they look is for eyes."""

import dataclasses
import types

import numpy as np
import pytest

from specreason_sgl import get_calibration
from specreason_sgl.evaluation import pictures
from specreason_sgl.reasoning.display import rejected_drafts
from specreason_sgl.reasoning.trace import Call
from tests.serving.traces import make_alone, make_trace


def bars(axes):
    """Left, bottom, width, height of each."""
    return [(one.get_x(), one.get_y(), one.get_width(), one.get_height()) for one in axes.patches]


def overlap(one, other):
    return all(
        one[i] < other[i] + other[i + 2] - 2e-3 and other[i] < one[i] + one[i + 2] - 2e-3 for i in (0, 1)
    )


def test_every_request_is_in_the_timeline_and_none_hides_another():
    trace = make_trace()
    eager = Call("base", "rewrite", 0, 0, 9, 2.2, 1.5)  # while the base model judges
    trace = dataclasses.replace(trace, wasted=(*trace.wasted, eager))
    upper, lower = pictures.timeline(trace, make_alone()).axes
    calls = [*trace.calls, *trace.wasted]
    found = bars(upper)
    shown, made = ([(x, width) for x, _, width, _ in found], [(one.start, one.seconds) for one in calls])
    np.testing.assert_allclose(*(np.array(one)[np.lexsort(np.round(one, 3).T)] for one in (shown, made)))
    assert not [(a, b) for i, a in enumerate(found) for b in found[:i] if overlap(a, b)]
    assert len(bars(lower)) == 2
    assert upper.get_xlim() == lower.get_xlim() == (0, 14.65)
    assert [label.get_text() for label in upper.get_yticklabels()] == ["draft", "base"]


def test_grey_is_what_was_thrown_away():
    (axes,) = pictures.timeline(make_trace()).axes
    grey = [one.get_x() for one in axes.patches if one.get_facecolor()[:3] == (0xC9 / 255,) * 3]
    assert sorted(grey) == [2.8, 4.6, 5.2, 7.9]  # drafted ahead, the rejected draft of step 4, and two ahead


def test_the_time_of_a_rejected_draft_is_thrown_away_too():
    trace = make_trace()
    group = types.SimpleNamespace(name="both", traces=[trace])
    (axes,) = pictures.where_time_goes([group]).axes
    widths = {box.get_label(): box[0].get_width() for box in axes.containers}
    rejected = sum(call.seconds for call in rejected_drafts(trace))
    assert rejected > 0
    assert widths["thrown away"] == pytest.approx(rejected + sum(call.seconds for call in trace.wasted))


def test_the_calibrations_curve_is_the_share_of_steps_that_a_threshold_keeps():
    found = get_calibration("mini")
    _, right = pictures.calibration(found).axes
    curve = right.lines[0]
    at = int(np.argmin(np.abs(curve.get_xdata() - found.threshold)))
    assert abs(curve.get_ydata()[at] - 100 * found.keep) < 1


def test_a_notebook_shows_a_picture():
    assert pictures.timeline(make_trace())._repr_png_().startswith(b"\x89PNG")
