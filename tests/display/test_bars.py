"""How much of each draft was kept."""

import pytest
from msgspec.structs import replace

from specreason_sgl.display.bars import bars
from specreason_sgl.display.page import WEB
from specreason_sgl.reasoning.trace_files import read_traces
from tests.support.traces import make_alone, make_corrected, make_trace


def drafts(trace):
    """Of each draft, in order: its step, its tokens, and those of them that were kept."""
    of_drafts = [bar for bar in bars(trace) if bar.call.purpose == "draft"]
    tokens = [bar.call.completion_tokens for bar in of_drafts]
    return [(bar.step, n, round(bar.kept * n)) for bar, n in zip(of_drafts, tokens, strict=True)]


def test_a_draft_that_was_cut_is_kept_up_to_its_correction():
    whole = [(1, 9, 9)]
    cut = [(2, 22, 14), (2, 6, 4)]
    assert drafts(make_corrected())[:4] == [*whole, *cut, (2, 4, 4)]
    assert drafts(make_corrected())[4:] == [(3, 18, 15), (4, 9, 9), (4, 1, 1), (5, 4, 4)]


def test_a_recorded_run_kept_as_many_tokens_as_it_says():
    example, _ = read_traces(WEB / "example.jsonl")
    of_step_2 = [(2, 13, 12), (0, 5, 0), (2, 19, 19)]  # nothing of what was drafted ahead of the correction
    of_step_5 = [(0, 7, 0), (5, 20, 10), (5, 18, 10), (5, 16, 4), (5, 29, 23), (0, 2, 0), (5, 5, 5)]
    assert drafts(example) == [(1, 32, 32), *of_step_2, (3, 47, 47), (4, 48, 48), *of_step_5, (6, 23, 23)]
    assert sum(kept for *_, kept in drafts(example)) == sum(step.draft_tokens for step in example.steps)


def test_neither_steps_of_the_base_model_nor_drafts_ahead_hide_where_a_draft_began():
    def moved(calls):
        return tuple(replace(call, prompt_tokens=call.prompt_tokens + 40) for call in calls)

    first, *others = make_corrected().steps
    written = replace(make_trace().steps[0], tokens=40)
    others = [replace(step, calls=moved(step.calls)) for step in others]
    draft, read = moved(make_corrected().wasted)
    draft = replace(draft, completion_tokens=15)
    ahead = replace(draft, start=1.29, prompt_tokens=draft.prompt_tokens + 15, completion_tokens=4)
    trace = make_corrected(steps=(first, written, *others), wasted=(draft, ahead, read))
    assert [kept for *_, kept in drafts(trace)] == [9, 14, 0, 4, 4, 15, 9, 1, 4]
    begun_by_base = make_corrected(steps=(written, *make_corrected().steps[1:]))
    assert [kept for *_, kept in drafts(begun_by_base)] == [14, 4, 4, 15, 9, 1, 4]


@pytest.mark.parametrize("tokens", [24, 35])  # the base model's count, which may be of another vocabulary
def test_rejected_drafts_and_those_beyond_them_were_not_kept(tokens):
    steps = [replace(step, tokens=tokens) if step.tokens == 24 else step for step in make_trace().steps]
    rejected, ahead = [(3, 20, 0), (4, 19, 0)], [(0, 17, 0), (0, 13, 0), (0, 4, 0)]
    assert sorted(drafts(make_trace(steps=tuple(steps)))) == sorted(
        [(2, 32, 32), (5, 11, 11), *rejected, *ahead]
    )


@pytest.mark.parametrize("trace", [make_trace(), make_corrected(), make_alone()])
def test_the_parts_of_a_request_are_its_time(trace):
    assert len(bars(trace)) == len(trace.calls) + len(trace.wasted)
    for bar in bars(trace):
        assert bar.parts[0].start == bar.call.start
        assert sum(part.seconds for part in bar.parts) == pytest.approx(bar.call.seconds)
        assert sum(part.seconds for part in bar.parts if part.used) == pytest.approx(
            bar.kept * bar.call.seconds
        )
