"""What the API and the metrics count of a run."""

from specreason_sgl.reasoning.load import Level, Load
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.replies import usage
from tests.support.traces import make_corrected, make_trace


def test_usage_has_each_model_s_tokens_and_what_came_of_the_drafts():
    assert usage(60, [make_corrected(), make_trace()]) == {
        "prompt_tokens": 60,
        "completion_tokens": 82 + 112,
        "total_tokens": 60 + 82 + 112,
        "completion_tokens_details": {"reasoning_tokens": 69 + 99},
        "specreason": {
            "draft_tokens": 73 + 116,
            "base_tokens": 18 + 73,
            "wasted_tokens": 13 + 73,
            "steps_kept": 1 + 2,
            "corrections": 4,
            "steps_rewritten": 2,
        },
    }


def test_metrics_count_corrections_and_readings():
    metrics = Metrics()
    metrics.count(make_corrected())
    metrics.count(make_trace())
    lines = metrics.text().decode().splitlines()
    assert "specreason_corrections_total 4.0" in lines
    assert 'specreason_steps_total{author="both"} 4.0' in lines
    assert 'specreason_tokens_total{purpose="read",side="base"} 0.0' in lines
    assert "specreason_wasted_tokens_total 86.0" in lines


def test_metrics_say_whether_drafting_pays_and_by_what_times():
    metrics, load = Metrics(), Load()
    metrics.watch(load)
    load.drafted(10, 0.05)
    load.level = Level(16, best="wide")
    load.level.seconds = {"wide": 0.02, "alone": 0.03}
    lines = metrics.text().decode().splitlines()
    assert {
        'specreason_drafting_state{state="wide"} 1.0',
        'specreason_drafting_state{state="drafting"} 0.0',
        "specreason_drafting_level 16.0",
        "specreason_drafting_speedup 1.5",
        'specreason_token_seconds{state="wide"} 0.02',
        'specreason_token_seconds{state="drafting"} NaN',
        "specreason_draft_seconds 0.005",
        "specreason_read_seconds NaN",
    } <= set(lines)
