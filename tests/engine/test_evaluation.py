"""Calibration and bench on real runtimes; what they say of `nano` does not matter here."""

import json

from specreason_sgl import SpecReasonConfig
from specreason_sgl.bench.parts import measure
from specreason_sgl.bench.setup import Bench
from specreason_sgl.evaluation.calibrate import judge_problems
from specreason_sgl.evaluation.disagreements import REGRET, branch_problems
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.reasoning.verifiers import BUILT_IN

PROBLEMS = [Problem("a", "What is 2 + 3?", "5"), Problem("b", "Name a colour.", "7")]
CONFIG = SpecReasonConfig(temperature=0.0, token_budget=40, step_tokens=20, answer_tokens=8)


def test_every_verifier_judges_every_step_and_a_run_goes_on_where_it_was(tmp_path, draft, base):
    record = tmp_path / "record.jsonl"
    first = judge_problems(PROBLEMS[:1], draft=draft, base=base, config=CONFIG, record=record)
    # What is in the record is taken as it is.
    lines = record.read_text().splitlines(keepends=True)
    changed = {**json.loads(lines[1]), "right": not first[0].right}
    record.write_text(lines[0] + json.dumps(changed) + "\n" + '{"id": "cut o')
    both = judge_problems(PROBLEMS, draft=draft, base=base, config=CONFIG, record=record)
    assert [judged.id for judged in both] == ["a", "b"]
    assert both[0].right is not first[0].right
    assert len(record.read_text().splitlines()) == 3
    for judged in both:
        assert len(judged.values) == len(judged.steps) > 0
        for values in judged.values:
            assert values.keys() == BUILT_IN.keys()
            assert 0 <= values["score-average"] <= 9
            assert 0 <= values["yes-no"] <= 1
            assert values["likelihood-min"] <= values["likelihood-mean"] < 0


def test_disagreements_of_two_vocabularies_are_branched(tmp_path, draft, base):
    (problem,) = branch_problems(
        PROBLEMS[:1], draft=draft, base=base, config=CONFIG, record=tmp_path / "record.jsonl"
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
        config=CONFIG,
        problems=["What is 2 + 3?"],
        acceptances=[0.5],
        modes=["base", "sequential", "pipelined", "correct"],
    )
    figures = measure(["prefix", "latency"], bench)
    assert json.loads(json.dumps(figures))["prefix"]["base"]["share"] > 0.9
    latency = figures["latency"]["acceptances"][0]
    assert latency.keys() == {"acceptance", "base", "sequential", "pipelined", "correct"}
    assert all(0 < latency[mode]["bound_ratio"] <= 1 for mode in ("base", "sequential"))
