"""The figures of a report, from traces made by hand; and that the page is whole."""

import csv
import json
import math

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation import report
from specreason_sgl.evaluation.evaluate import Sample, run_head
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.settings import expand
from specreason_sgl.files import Record
from specreason_sgl.reasoning.trace import Call, Correction, Step, Trace
from tests import browser
from tests.evaluation.runs import KNOBS
from tests.test_cli import run as command

PROBLEMS = [Problem(f"p{i}", "q", "1") for i in range(4)]


def trace(mode, seconds, steps="kr", wasted=0):
    """`steps`: k, a kept step of 4 tokens, scored 8; r, one of 3 that was rewritten in 10, scored 2; c, one
    of 5, of which one was corrected."""

    def call(side, purpose, tokens, took=0.1):
        return Call(side, purpose, 0, 0, tokens, 0.0, took)

    if mode in ("base", "draft"):
        made = (Step("one", mode, "eos", 20, calls=(call(mode, "reason", 20, seconds - 1),)),)
        side = mode
    else:
        side, mode, kinds = "base", "specreason", []
        for kind in steps:
            score = call("base", "score", 1, 0.5)
            if kind == "c":
                fixed, calls = (
                    (Correction(0, "x", "c", 4.0, 0),),
                    (call("draft", "draft", 4), call("base", "read", 1)),
                )
                kinds.append(Step("c", "both", "delimiter", 5, 4, corrections=fixed, calls=calls))
            elif kind == "k":
                kinds.append(
                    Step("k", "draft", "delimiter", 4, 4, 8.0, calls=(call("draft", "draft", 4), score))
                )
            else:
                calls = (call("draft", "draft", 3), score, call("base", "rewrite", 10, 1.0))
                kinds.append(Step("r", "base", "delimiter", 10, 0, 2.0, {}, "no", calls=calls))
        made = tuple(kinds)
    ahead = (call("draft", "draft", wasted),) if wasted else ()
    end = call(side, "answer", 2, 1.0)
    return Trace(
        question="q", mode=mode, draft_model="d", base_model="b", config={}, steps=made, stop="end",
        answer="1", answer_call=end, seconds=seconds, wasted=ahead,
    )  # fmt: skip


def write(path, settings, made, **about):
    about = {"draft_model": "d", "base_model": "b", "samples": 2, "concurrency": 1, "seed": 0, **about}
    with Record(path, run_head(PROBLEMS, settings, data="x", **about), Sample) as record:
        for one in made:
            record.add(one)
    return path


def sample(problem, number, setting, right, made):
    error = None if right is not None else "ServerError: gone"
    return Sample(f"p{problem}", number, setting, "1", right, error, made)


@pytest.fixture
def run(tmp_path):
    """Base: 4 s a sample; pipelined: 2 s on p0, 1 s on p1; and p2, which base has not."""
    settings = expand(("base", "draft", "pipelined"), KNOBS)
    samples = [sample(p, n, "base", p == 0, trace("base", 4)) for p in (0, 1) for n in (0, 1)]
    samples += [sample(p, 0, "draft", False, trace("draft", 2)) for p in (0, 1)]
    samples += [
        sample(0, 0, "pipelined", True, trace("pipelined", 2, "kkk")),
        sample(0, 1, "pipelined", False, trace("pipelined", 2, "kr")),
        sample(1, 0, "pipelined", True, trace("pipelined", 1, "kr", wasted=7)),
        sample(1, 1, "pipelined", None, None),
        sample(2, 0, "pipelined", True, trace("pipelined", 100, "r")),
    ]
    return write(tmp_path / "run.jsonl", settings, samples)


def rows(*paths):
    return {row.setting: row for row in report.figures(report.load(paths))}


def test_accuracy_is_a_mean_over_problems_and_leaves_failures_out(run):
    found = rows(run)["pipelined"]
    assert found.right.value == pytest.approx((0.5 + 1 + 1) / 3)
    assert found.right.low <= found.right.value <= found.right.high
    assert (found.problems, found.samples, found.failed, found.wanted) == (3, 4, 1, 8)
    assert report.cells(found)[1] == "4, 1 failed, 3 to do"


def test_speedups_are_paired_by_problem(run):
    found = rows(run)
    assert found["pipelined"].over_base.value == pytest.approx((4 + 4) / (2 + 1))  # without p2
    assert found["pipelined"].over_base.low == pytest.approx(2)
    assert found["pipelined"].over_base.high == pytest.approx(4)
    assert found["pipelined"].over_draft.value == pytest.approx(4 / 3)
    assert found["draft"].over_base.value == 2
    assert math.isnan(found["base"].over_base.value)


def test_latency_tokens_and_steps_are_counted(run):
    found = rows(run)["pipelined"]
    assert found.seconds.value == pytest.approx((2 + 1 + 100) / 3)
    assert found.p50 == 2
    assert found.p95 == pytest.approx(2 + 98 * 0.85)
    # Of the traces kkk, kr, kr and r:
    assert found.draft_tokens == pytest.approx((12 + 7 + 7 + 7 + 3) / 4)
    assert found.base_tokens == pytest.approx((3 + 12 + 12 + 11 + 4 * 2) / 4)
    assert found.thrown_away == pytest.approx((0 + 3 + 3 + 7 + 3) / 4)
    assert found.tokens == pytest.approx((12 + 14 + 14 + 10 + 4 * 2) / 4)
    # The means over samples: of p0 2 kept and 0.5 rewritten, of p1 1 and 1, of p2 0 and 1.
    assert found.kept.value == pytest.approx(3 / 5.5)
    assert math.isnan(rows(run)["draft"].kept.value)


def test_a_corrected_step_is_drafted_and_not_kept(tmp_path):
    samples = [sample(p, 0, "pipelined", True, trace("pipelined", 2, "kcck" if p else "kc")) for p in (0, 1)]
    found = rows(write(tmp_path / "run.jsonl", expand(("pipelined",), KNOBS), samples))["pipelined"]
    assert found.kept.value == pytest.approx(3 / 6)
    assert found.corrections == pytest.approx(1.5)
    assert found.thrown_away == 0
    assert "1.5" in report.cells(found)


def test_scores_are_drawn_only_where_there_are_some(tmp_path):
    samples = [sample(0, 0, "pipelined", True, trace("pipelined", 2, "cc"))]
    groups = report.load([write(tmp_path / "run.jsonl", expand(("pipelined",), KNOBS), samples)])
    page = report.as_html(report.figures(groups), groups, ["x"])
    assert "Share of steps kept, by position" in page
    assert "Scores of drafted steps" not in page


def test_the_interval_covers_what_resampling_gives():
    found = report.ratio([1, 0] * 50, [1] * 100)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert math.isnan(report.ratio([1], [2]).low)


def test_runs_are_put_side_by_side_and_compared_where_they_can_be(run, tmp_path):
    settings = expand(("paper",), KNOBS)
    samples = [sample(0, 0, "paper", True, trace("paper", 2))]
    same = write(tmp_path / "same.jsonl", settings, samples, samples=1)
    other = write(tmp_path / "other.jsonl", settings, samples, base_model="another")
    longer = expand(("paper",), {**KNOBS, "token_budget": [80]})
    budget = write(tmp_path / "budget.jsonl", longer, samples)
    found = rows(run, same, other, budget)
    assert found["same: paper"].over_base.value == 2
    assert math.isnan(found["other: paper"].over_base.value)
    assert math.isnan(found["budget: paper"].over_base.value)


def test_a_run_is_compared_with_the_model_alone_of_its_own_file(tmp_path):
    settings = expand(("base", "pipelined"), KNOBS)
    files = []
    for name, times in (("fast", 1), ("slow", 10)):
        made = [sample(0, 0, "base", True, trace("base", 4 * times))]
        made += [sample(0, 0, "pipelined", True, trace("pipelined", 2 * times))]
        files.append(write(tmp_path / f"{name}.jsonl", settings, made))
    found = rows(*files)
    assert found["fast: pipelined"].over_base.value == found["slow: pipelined"].over_base.value == 2


def test_the_tables_have_every_setting(run, tmp_path):
    done = command("report", str(run), "--markdown", "--csv", str(tmp_path / "x.csv"))
    lines = done.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "| setting", "| ---", "| base", "| draft", "| pipelined",
    ]  # fmt: skip
    assert "| 2.67 (2.00–4.00) |" in lines[-1]
    with open(tmp_path / "x.csv") as file:
        found = {row["setting"]: row for row in csv.DictReader(file)}
    assert float(found["pipelined"]["over_base"]) == pytest.approx(8 / 3)
    assert found["base"]["over_base"] == ""
    assert float(found["pipelined"]["right_low"]) == pytest.approx(0.5)


def test_the_terminal_shows_the_table(run):
    done = command("report", str(run))
    assert "2.67 (2.00–4.00)" in done.stdout
    assert "4, 1 failed, 3 to do" in done.stdout


def test_a_run_without_a_finished_sample_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", expand(("base",), KNOBS), [sample(0, 0, "base", None, None)])
    with pytest.raises(ConfigError, match="no finished sample"):
        report.load([path])
    done = command("report", "LICENSE")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@browser.needed
def test_the_page_loads_nothing_and_shows_table_and_pictures(run, tmp_path):
    page = tmp_path / "report.html"
    groups = report.load([run])
    page.write_text(report.as_html(report.figures(groups), groups, ["<run>"]))
    with browser.started(tmp_path) as driver:
        driver.get(page.as_uri())
        heights = driver.execute_script("return [...document.images].map(one => one.naturalHeight)")
        cells = driver.execute_script("return [...document.querySelectorAll('td')].map(one => one.innerText)")
        title = driver.execute_script("return document.querySelector('p').innerText")
        assert driver.get_log("browser") == []
        sent = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert len(heights) == 4
    assert min(heights) > 100
    assert {"base", "draft", "pipelined", "2.67 (2.00–4.00)"} <= set(cells)
    assert title == "<run>"


def test_pictures_are_drawn_of_models_alone_too(tmp_path):
    path = write(
        tmp_path / "x.jsonl", expand(("base",), KNOBS), [sample(0, 0, "base", True, trace("base", 3))]
    )
    groups = report.load([path])
    assert report.as_html(report.figures(groups), groups, ["x"]).count("data:image/png") == 2


def test_a_notebook_shows_the_table_of_a_run(run):
    found = report.Report.read(run)
    assert list(found.rows) == report.figures(report.load([run]))
    shown = found._repr_mimebundle_(include=None, exclude=None)
    assert shown["text/plain"] == report.as_markdown(found.rows)
    for row in found.rows:
        assert f"<td>{row.setting}</td>" in shown["text/html"]
