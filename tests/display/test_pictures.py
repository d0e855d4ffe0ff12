"""What is in the pictures; how they look is for eyes."""

import dataclasses
import types

import numpy as np
import pytest
from msgspec.structs import replace

from specreason_sgl.display import pictures
from specreason_sgl.evaluation.report import Report
from specreason_sgl.reasoning.trace import Call
from tests.support.evaluation_files import write_run
from tests.support.traces import make_alone, make_corrected, make_trace


def bars(axes):
    """Left, bottom, width, height of each."""
    return [(bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()) for bar in axes.patches]


def overlap(bar, other):
    return all(
        bar[i] < other[i] + other[i + 2] - 2e-3 and other[i] < bar[i] + bar[i + 2] - 2e-3 for i in (0, 1)
    )


def test_every_request_is_in_the_timeline_and_none_hides_another():
    trace = make_trace()
    eager = Call("base", "rewrite", 0, 0, 9, 2.2, 1.5)  # while the base model judges
    trace = replace(trace, wasted=(*trace.wasted, eager))
    upper, lower = pictures.timeline(trace, make_alone()).axes
    calls = [*trace.calls, *trace.wasted]
    drawn = bars(upper)
    times = [(x, width) for x, _, width, _ in drawn], [(call.start, call.seconds) for call in calls]
    np.testing.assert_allclose(*(np.array(pairs)[np.lexsort(np.round(pairs, 3).T)] for pairs in times))
    assert not [(a, b) for i, a in enumerate(drawn) for b in drawn[:i] if overlap(a, b)]
    assert len(bars(lower)) == 2
    assert upper.get_xlim() == lower.get_xlim() == (0, 14.65)
    assert [label.get_text() for label in upper.get_yticklabels()] == ["draft", "base"]
    assert [axes.get_title("left") for axes in (upper, lower)] == [
        "steps rewritten: 9.8 s",
        "base alone: 14.7 s",
    ]


def test_grey_is_what_was_cut_off_or_not_needed():
    (axes,) = pictures.timeline(make_trace()).axes
    grey = [bar.get_x() for bar in axes.patches if bar.get_facecolor()[:3] == (0xC9 / 255,) * 3]
    assert sorted(grey) == [
        2.2,
        2.8,
        4.6,
        5.2,
        7.9,
    ]  # the rejected drafts at 2.2 and 4.6, the others drafted ahead


def test_only_the_rest_of_a_draft_that_was_cut_is_grey():
    (axes,) = pictures.timeline(make_corrected()).axes
    grey = [bar for bar in axes.patches if bar.get_facecolor()[:3] == (0xC9 / 255,) * 3]
    starts = [bar.get_x() for bar in grey]
    np.testing.assert_allclose(
        sorted(starts), [0.4 + 0.9 * 14 / 22, 1.3 + 0.3 * 4 / 6, 2.7, 2.3 + 0.9 * 15 / 18]
    )


def test_readings_have_the_colour_of_scores():
    figure = pictures.timeline(make_corrected())
    assert figure.axes[0].get_title("left").startswith("corrected, delta ")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["draft", "read", "rewrite", "answer", "cut off or not needed"]
    amber = [
        bar.get_x()
        for bar in figure.axes[0].patches
        if bar.get_facecolor()[:3] == (0xE0 / 255, 0xB1 / 255, 0x3A / 255)
    ]
    assert sorted(amber) == [0.4, 0.9, 1.6, 2.3, 3.2, 4.0, 4.5]


def test_a_rejected_draft_is_not_needed():
    trace = make_trace()
    (axes,) = pictures.where_time_goes([group_of(trace)]).axes
    widths = {box.get_label(): box[0].get_width() for box in axes.containers}
    rewritten = [step for step in trace.steps if step.rejected]
    rejected = sum(call.seconds for step in rewritten for call in step.calls if call.side == "draft")
    assert rejected > 0
    assert widths["cut off or not needed"] == pytest.approx(
        rejected + sum(call.seconds for call in trace.wasted)
    )


def group_of(*traces):
    return types.SimpleNamespace(name="both", mode="specreason", config={}, samples=traces, traces=traces)


def test_steps_that_were_corrected_are_not_kept():
    (axes,) = pictures.kept_by_position([group_of(make_corrected())]).axes
    assert list(axes.lines[0].get_ydata()) == [100, 0, 0, 0, 0]


def test_a_notebook_shows_a_picture():
    assert pictures.timeline(make_trace())._repr_png_().startswith(b"\x89PNG")


def test_the_trade_off_has_a_line_between_the_models_alone_through_their_mixes(tmp_path):
    base, draft, pipelined = Report.read(write_run(tmp_path / "run.jsonl")).rows
    mix = dataclasses.replace(pipelined, mode="mix")
    for rows, stops in (
        ((base, draft, pipelined), (draft, base)),
        ((base, pipelined), ()),
        ((base, mix, draft), (draft, base, mix)),
    ):
        [axes] = pictures.trade_off(rows).axes
        dashed = [line.get_xydata() for line in axes.get_lines() if line.get_linestyle() == "--"]
        points = [(row.seconds.value, 100 * row.right.value) for row in stops]
        assert [point for ends in dashed for point in map(tuple, ends)] == points
