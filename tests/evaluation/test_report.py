"""The figures of a report, from traces made by hand."""

import csv
import math

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation import report
from specreason_sgl.evaluation.settings import expand
from tests.support.evaluation_files import KNOBS, sample, trace, write, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run.jsonl")


def rows(*paths):
    return {row.setting: row for row in report.figures(report.load(paths))}


def test_accuracy_is_a_mean_over_problems_and_leaves_failures_out(run):
    figures = rows(run)["pipelined"]
    assert figures.right.value == pytest.approx((0.5 + 1 + 1) / 3)
    assert figures.right.low <= figures.right.value <= figures.right.high
    assert (figures.problems, figures.samples, figures.failed, figures.wanted) == (3, 4, 1, 8)
    assert report.cells(figures)[1] == "4, 1 failed, 3 to do"


def test_speedups_are_paired_by_problem(run):
    figures = rows(run)
    assert figures["pipelined"].over_base.value == pytest.approx((4 + 4) / (2 + 1))  # without p2
    assert figures["pipelined"].over_base.low == pytest.approx(2)
    assert figures["pipelined"].over_base.high == pytest.approx(4)
    assert figures["pipelined"].over_draft.value == pytest.approx(4 / 3)
    assert figures["draft"].over_base.value == 2
    assert math.isnan(figures["base"].over_base.value)


def test_latency_tokens_and_steps_are_counted(run):
    figures = rows(run)["pipelined"]
    assert figures.seconds.value == pytest.approx((2 + 1 + 100) / 3)
    assert figures.p50 == 2
    assert figures.p95 == pytest.approx(2 + 98 * 0.85)
    # Of the traces kkk, kr, kr and r:
    assert figures.draft_tokens == pytest.approx((12 + 7 + 7 + 7 + 3) / 4)
    assert figures.base_tokens == pytest.approx((3 + 12 + 12 + 11 + 4 * 2) / 4)
    assert figures.thrown_away == pytest.approx((0 + 3 + 3 + 7 + 3) / 4)
    assert figures.tokens == pytest.approx((12 + 14 + 14 + 10 + 4 * 2) / 4)
    # The means over samples: of p0 2 kept and 0.5 rewritten, of p1 1 and 1, of p2 0 and 1.
    assert figures.kept.value == pytest.approx(3 / 5.5)
    assert math.isnan(rows(run)["draft"].kept.value)


def test_a_corrected_step_is_drafted_and_not_kept(tmp_path):
    samples = [sample(p, 0, "pipelined", True, trace("pipelined", 2, "kcck" if p else "kc")) for p in (0, 1)]
    figures = rows(write(tmp_path / "run.jsonl", expand(("pipelined",), KNOBS), samples))["pipelined"]
    assert figures.kept.value == pytest.approx(3 / 6)
    assert figures.corrections == pytest.approx(1.5)
    assert figures.thrown_away == 0
    assert "1.5" in report.cells(figures)


def test_the_interval_covers_what_resampling_gives():
    estimate = report.ratio([1, 0] * 50, [1] * 100)
    assert estimate.value == 0.5
    assert estimate.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert estimate.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert math.isnan(report.ratio([1], [2]).low)


def test_runs_are_put_side_by_side_and_compared_where_they_can_be(run, tmp_path):
    settings = expand(("paper",), KNOBS)
    samples = [sample(0, 0, "paper", True, trace("paper", 2))]
    same = write(tmp_path / "same.jsonl", settings, samples, samples=1)
    other = write(tmp_path / "other.jsonl", settings, samples, base_model="another")
    longer = expand(("paper",), {**KNOBS, "token_budget": [80]})
    budget = write(tmp_path / "budget.jsonl", longer, samples)
    figures = rows(run, same, other, budget)
    assert figures["same: paper"].over_base.value == 2
    assert math.isnan(figures["other: paper"].over_base.value)
    assert math.isnan(figures["budget: paper"].over_base.value)


def test_a_run_is_compared_with_the_model_alone_of_its_own_file(tmp_path):
    settings = expand(("base", "pipelined"), KNOBS)
    files = []
    for name, times in (("fast", 1), ("slow", 10)):
        samples = [sample(0, 0, "base", True, trace("base", 4 * times))]
        samples += [sample(0, 0, "pipelined", True, trace("pipelined", 2 * times))]
        files.append(write(tmp_path / f"{name}.jsonl", settings, samples))
    figures = rows(*files)
    assert figures["fast: pipelined"].over_base.value == figures["slow: pipelined"].over_base.value == 2


def test_the_tables_have_every_setting(run, tmp_path, run_command):
    done = run_command("report", str(run), "--markdown", "--csv", str(tmp_path / "x.csv"))
    lines = done.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "| setting", "| ---", "| base", "| draft", "| pipelined",
    ]  # fmt: skip
    assert "| 2.67 (2.00–4.00) |" in lines[-1]
    with open(tmp_path / "x.csv") as file:
        figures = {row["setting"]: row for row in csv.DictReader(file)}
    assert float(figures["pipelined"]["over_base"]) == pytest.approx(8 / 3)
    assert figures["base"]["over_base"] == ""
    assert float(figures["pipelined"]["right_low"]) == pytest.approx(0.5)


def test_the_terminal_shows_the_table(run, run_command):
    done = run_command("report", str(run))
    assert "2.67 (2.00–4.00)" in done.stdout
    assert "4, 1 failed, 3 to do" in done.stdout


def test_a_run_without_a_finished_sample_is_refused(tmp_path, run_command):
    path = write(tmp_path / "x.jsonl", expand(("base",), KNOBS), [sample(0, 0, "base", None, None)])
    with pytest.raises(ConfigError, match="no finished sample"):
        report.load([path])
    done = run_command("report", "LICENSE")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
