"""Calibration and bench on real runtimes; what they say of `nano` does not matter here."""

import json
from dataclasses import replace

from specreason_sgl import SpecReasonConfig
from specreason_sgl.bench.parts import measure
from specreason_sgl.bench.setup import Bench
from specreason_sgl.evaluation import RunOptions, Runtimes
from specreason_sgl.evaluation.calibrate import calibrate, grid
from specreason_sgl.evaluation.certify import Guarantee
from specreason_sgl.evaluation.disagreements import REGRET, branch_problems
from specreason_sgl.evaluation.problems import Problem

PROBLEMS = [Problem("a", "What is 2 + 3?", "5"), Problem("b", "Name a colour.", "7")]
LONGER = Problem(
    "c", "A shop has 17 boxes with 12 pens each. It sells 50 pens. How many pens are left?", "154"
)
CONFIG = SpecReasonConfig(temperature=0.0, token_budget=40, step_tokens=20, answer_tokens=8)


def test_a_calibration_measures_its_settings_and_goes_on_where_it_was(tmp_path, draft, base):
    settings = grid({"token_budget": 20, "answer_tokens": 8, "temperature": 0.0}, deltas=(1, 3))
    record, guarantee = tmp_path / "record.jsonl", Guarantee(5, 0.9)
    where, how = Runtimes(draft, base), RunOptions(concurrency=2, warm_up=False)
    made = calibrate(PROBLEMS, settings, guarantee, record, where, how)
    assert [point.knobs["delta"] for point in made.curve] == [1, 3]
    assert made.chosen is None  # two problems show nothing
    assert all(point.seconds > 0 and point.prefills > 0 for point in made.curve)
    assert calibrate(PROBLEMS, settings, guarantee, record, where, how) == made


def test_disagreements_of_two_vocabularies_are_branched(tmp_path, draft, base):
    (problem,) = branch_problems(
        [LONGER], draft=draft, base=base, config=CONFIG, record=tmp_path / "record.jsonl"
    )
    assert 0 < len(problem.disagreements) == min(problem.count, 4)
    for disagreement in problem.disagreements:
        assert problem.chain[disagreement.at :].startswith(disagreement.drafted)
        assert disagreement.drafted != disagreement.base
        assert disagreement.features["regret"] > REGRET


def test_the_bench_measures_a_pair(draft, base):
    bench = Bench(
        draft=draft,
        base=base,
        config=replace(CONFIG, token_budget=20, step_tokens=10, answer_tokens=4),
        problems=["What is 2 + 3?"],
        acceptances=[0.5],
        modes=["base", "sequential", "pipelined", "correct"],
    )
    figures = measure(["prefix", "latency"], bench)
    assert json.loads(json.dumps(figures))["prefix"]["base"]["share"] > 0.9
    latency = figures["latency"]["acceptances"][0]
    assert latency.keys() == {"acceptance", "base", "sequential", "pipelined", "correct"}
    assert all(0 < latency[mode]["bound_ratio"] <= 1 for mode in ("base", "sequential"))
