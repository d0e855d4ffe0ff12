"""The figures of a report, from traces made by hand."""

import csv
import gzip
import json
import math

import msgspec
import numpy as np
import pandas
import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation import report
from specreason_sgl.evaluation.estimates import Point, gap_to_line, mcnemar, proportion, ratio
from specreason_sgl.evaluation.projection import Speeds, project, token_level
from specreason_sgl.evaluation.provenance import Machine
from specreason_sgl.evaluation.records import read_run
from specreason_sgl.evaluation.settings import expand
from specreason_sgl.reasoning.trace import Correction, ReadToken, Step
from tests.support.evaluation_files import KNOBS, sample, trace, write, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run.jsonl")


def rows(*paths):
    return {row.setting: row for row in report.figures(report.load(paths))}


def test_accuracy_is_a_mean_over_problems_and_failures_are_wrong(run):
    figures = rows(run)["pipelined"]
    assert figures.right.value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert figures.difference.value == pytest.approx((0.5 - 1 + 0.5 - 0) / 2)
    assert (figures.problems, figures.samples, figures.failed, figures.wanted) == (3, 4, 1, 8)


def test_speedups_are_paired_by_problem(run):
    figures = rows(run)
    assert figures["pipelined"].over_base.value == pytest.approx((4 + 4) / (2 + 1))  # without p2
    assert math.isnan(figures["pipelined"].over_base.low)  # of two problems
    assert figures["pipelined"].over_draft.value == pytest.approx(4 / 3)
    assert figures["draft"].over_base.value == 2
    assert math.isnan(figures["base"].over_base.value)


def test_latency_tokens_and_steps_are_counted(run):
    figures = rows(run)["pipelined"]
    assert figures.seconds.value == pytest.approx((2 + 1 + 100) / 3)
    assert figures.p50 == 2
    assert figures.p95 == pytest.approx(2 + 98 * 0.85)
    # Of the traces kkk, kr, kr and r:
    assert figures.draft_decoded == pytest.approx((12 + 7 + 7 + 7 + 3) / 4)
    assert figures.base_decoded == pytest.approx((3 + 12 + 12 + 11 + 4 * 2) / 4)
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


def test_the_interval_covers_what_resampling_gives():
    estimate = ratio([1, 0] * 50, [1] * 100)
    assert estimate.value == 0.5
    assert estimate.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert estimate.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert math.isnan(ratio([1] * 19, [2] * 19).low)


def test_single_samples_have_wilsons_interval_and_few_have_none():
    all_right = proportion(20, 20)
    assert (all_right.low, all_right.high) == (pytest.approx(20 / (20 + 1.959964**2)), 1)
    assert math.isnan(proportion(19, 19).low)


def test_mcnemars_test_is_the_exact_one_of_the_problems_that_one_setting_solves():
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)
    assert mcnemar(0, 0) == 1


def test_the_mixing_line_is_the_best_that_random_routing_reaches_in_the_same_time():
    def point(seconds, right):
        return Point(np.full(40, float(seconds)), np.arange(40) < 40 * right)

    draft, base, mix = point(10, 0.25), point(30, 0.75), point(15, 0.5)

    def gap(*setting, line=(draft, base)):
        return gap_to_line(point(*setting), line).value

    assert gap(20, 0.75) == pytest.approx(0.75 - 0.5)
    assert gap(20, 0.75, line=(draft, base, mix)) == pytest.approx(0.75 - (0.5 + 0.25 / 3))
    assert gap(60, 0.5) == pytest.approx(-0.25)  # the router has no use for more time
    assert math.isnan(gap(5, 0.5))


def test_runs_are_put_side_by_side_and_compared_where_they_can_be(run, tmp_path):
    settings = expand(("paper",), KNOBS)
    samples = [sample(0, 0, "paper", True, trace("paper", 2))]
    same = write(tmp_path / "same.jsonl", settings, samples, samples=1)
    other = write(tmp_path / "other.jsonl", settings, samples, base_model="another")
    longer = expand(("paper",), {**KNOBS, "token_budget": [80]})
    budget = write(tmp_path / "budget.jsonl", longer, samples)
    figures = rows(run, same, other, budget)
    assert math.isnan(figures["same: paper"].over_base.value)  # their machines are unknown
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


def test_the_line_passes_through_a_mix_of_the_own_file_or_else_of_another(tmp_path):
    knobs, files = {**KNOBS, "share": [0.5]}, {}
    seconds = {"base": 8, "draft": 2, "pipelined": 6, "mix": 4}
    for name, modes in (("pair", ("base", "draft", "pipelined")), ("mix", ("mix",)), ("best", ("mix",))):
        settings = expand(modes, knobs)
        samples = [
            sample(p, 0, each.name, p == 0 or name == "best", trace("base", seconds[each.mode]))
            for each in settings
            for p in (0, 1)
        ]
        about = {"samples": 1, "machine": Machine("m", 2, 24)}
        files[name] = write(tmp_path / f"{name}.jsonl", settings, samples, **about)
    assert (rows(files["pair"])["pipelined"].line, rows(files["pair"])["pipelined"].gap.value) == ("drawn", 0)
    for other, gap in (("mix", 0), ("best", -0.5)):
        figures = rows(files["pair"], files[other])["pair: pipelined"]
        assert (figures.line, figures.gap.value) == ("measured", gap)


def test_counts_are_projected_to_assumed_speeds(run):
    speeds = Speeds(draft=1000, base=10_000, prefill=12_000)
    projected = {each.setting: each for each in project(report.load([run]), speeds)}
    base = 12 + 19 * 10 + 12 + 1 * 10  # a chain of 20 tokens, an answer of 2
    assert projected["base"].in_turns.value == projected["base"].overlapped.value == base
    # On p0 kkk, with three scores and an answer, and kr; on p1 kr, with 7 tokens thrown away.
    drafts = {"p0": (3 * 4 + (4 + 3)) / 2, "p1": 4 + 3 + 7}
    rewriting = 2 * 12 + (12 + 9 * 10) + 22
    bases = {"p0": (3 * 12 + 22 + rewriting) / 2, "p1": rewriting}
    figures = projected["pipelined"]
    assert figures.over_base_overlapped.value == pytest.approx(2 * base / sum(bases.values()))
    both = sum(bases.values()) + sum(drafts.values())
    assert figures.over_base_in_turns.value == pytest.approx(2 * base / both)
    assert figures.in_turns.value == pytest.approx((both + 3 + 12 + 12 + 9 * 10 + 22) / 3)  # r on p2


def test_token_level_speculation_is_computed_from_the_tokens_that_are_first_choices(tmp_path):
    places = range(2, 20, 4)  # of 20 tokens, where the base model's first choice is another one
    kept = tuple(ReadToken(at, "x", -1.0, "y", 0.5 if at in places else 0.0) for at in range(20))
    replaced = tuple(ReadToken(at, "x", -0.1, "x", 0.0) for at in range(20))
    corrections = tuple(Correction(at, "x", "c", 4.0, 0) for at in places)
    whole = trace("correct", 2, "c")
    steps = (
        (Step("x", "draft", "delimiter", 20, reading=kept),),
        (Step("x", "both", "delimiter", 20, corrections=corrections, reading=replaced),),
    )
    samples = [
        sample(problem, 0, "correct", True, msgspec.structs.replace(whole, steps=each))
        for problem, each in enumerate(steps)
    ]
    file = write(tmp_path / "run.jsonl", expand(("base", "correct"), KNOBS), samples)
    (figures,) = token_level(report.load([file]), Speeds(draft=1000, base=10_000, prefill=12_000))
    assert figures.agreed.value == 0.75
    # By 3: two drafted tokens are kept and one added, four times three and one, and then the last.
    answer = 12 + 10
    assert figures.window == 3
    assert figures.seconds.value == 12 + 6 * (3 + 12) + answer
    assert figures.over_base.value == (12 + 20 * 10 + answer) / figures.seconds.value


@pytest.mark.parametrize(
    ("assumed", "says"),
    [
        ("4,20", "--assume must be three numbers, with commas; got '4,20'"),
        ("4,x,25", "--assume must be numbers, with commas; got '4,x,25'"),
        ("4,20,0", "prefill must be a number of milliseconds above 0, got 0"),
    ],
)
def test_assumed_speeds_are_three_numbers_above_0(run, run_command, assumed, says):
    done = run_command("report", str(run), "--assume", assumed)
    assert (done.returncode, done.stderr) == (2, f"error: {says}\n")


def test_the_command_says_the_answer_first_and_writes_figures_and_frames(run, tmp_path, run_command):
    files = ["--csv", str(tmp_path / "x.csv"), "--parquet", str(tmp_path / "frames")]
    done = run_command("report", str(run), *files, "--assume", "4,20,25")
    assert "At assumed speeds" in done.stdout
    assert done.stdout.startswith("pipelined is 2.67 times as fast as base alone, with ")
    assert "4, 1 failed, 3 to do" in done.stdout
    with open(tmp_path / "x.csv") as file:
        figures = {row["setting"]: row for row in csv.DictReader(file)}
    assert float(figures["pipelined"]["over_base"]) == pytest.approx(8 / 3)
    assert figures["base"]["over_base"] == ""
    frames = {file.stem: pandas.read_parquet(file) for file in (tmp_path / "frames").iterdir()}
    assert {name: len(frames[name]) for name in ("sample", "step")} == {"sample": 11, "step": 14}
    calls = frames["call"].query("setting == 'pipelined' and not used")
    assert list(calls.completion_tokens) == [7]


def test_a_run_without_texts_has_the_same_report_and_no_text_or_path(tmp_path, run_command):
    settings = expand(("base", "pipelined"), KNOBS)
    traces = {"base": trace("base", 4), "pipelined": trace("pipelined", 2, "krc", wasted=7)}
    run = write(
        tmp_path / "run.jsonl",
        settings,
        [
            sample(0, 0, name, True, msgspec.structs.replace(made, base_model="/models/org--b"))
            for name, made in traces.items()
        ]
        + [sample(1, 0, "base", None, None)],
    )
    publish = ("report", str(run), "--without-texts", str(tmp_path / "bare"))
    done, again = run_command(*publish), run_command(*publish)
    bare = tmp_path / "bare" / f"{run.name}.gz"
    assert (done.returncode, again.returncode) == (0, 2)
    assert f"{bare} is already there" in again.stderr
    reported = run_command("report", str(bare))
    assert reported.stdout.split() == done.stdout.replace("ServerError: gone", "ServerError").split()
    texts = {text for sample in read_run(run)[1] for text in texts_of(sample)}
    content = gzip.decompress(bare.read_bytes()).decode()
    assert {text for text in texts if json.dumps(text) in content} == set()
    assert '"/' not in content
    bare.write_bytes(bare.read_bytes()[:-9])
    assert f"{bare} cannot be read: " in run_command("report", str(bare)).stderr


def texts_of(sample):
    """What a sample says in words: the problem's, its answer's and the models'."""
    yield sample.expected
    if sample.trace:
        yield from (sample.trace.question, sample.trace.answer)
        yield from (text for step in sample.trace.steps for text in (step.text, step.rejected) if text)


def test_a_run_without_a_finished_sample_is_refused(tmp_path, run_command):
    path = write(tmp_path / "x.jsonl", expand(("base",), KNOBS), [sample(0, 0, "base", None, None)])
    with pytest.raises(ConfigError, match="no finished sample"):
        report.load([path])
    done = run_command("report", "LICENSE")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
