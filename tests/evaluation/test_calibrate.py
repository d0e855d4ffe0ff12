"""Calibration: which settings are compared, which is chosen, and that a run goes on."""

import json
import random
from types import SimpleNamespace

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.calibrate import curve_of, fastest, grid
from specreason_sgl.evaluation.certify import Guarantee, p_value
from specreason_sgl.evaluation.estimates import Estimate
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.reasoning.calibration import Calibration
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.plain import config_of
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.verifiers import Likelihood
from tests.support.evaluation_runs import answers, digit, timeless, write

PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * (i % 2))) for i in range(8)]


def row(lost, won, problems, seconds):
    difference = Estimate((won - lost) / problems)
    return SimpleNamespace(
        only_base=float(lost), only_this=float(won), problems=problems, difference=difference,
        right=Estimate(0.5), seconds=Estimate(seconds), over_base=Estimate(9 / seconds), corrections=2.0,
        tokens=50.0, prefills=3.0,
    )  # fmt: skip


def test_the_grid_has_a_chain_for_each_window_and_one_for_the_papers_repair_the_strictest_first():
    common = {"temperature": 0.0, "verifier": "likelihood-min"}
    made = grid(common, deltas=(3, 1), windows=("step", 16), thresholds=(-6.0, -2.0))
    assert made.base.config == SpecReasonConfig(temperature=0.0, draft_timeout=3600.0)
    steps, sixteen, rewrites = ([setting.config for setting in chain] for chain in made.chains)
    assert [config.repair for config in steps] == [
        Correct(delta=1, window=None),
        Correct(delta=3, window=None),
    ]
    assert [config.repair for config in sixteen] == [Correct(delta=1, window=16), Correct(delta=3, window=16)]
    assert [(config.repair, config.threshold) for config in rewrites] == [(Rewrite(), -2), (Rewrite(), -6)]
    assert rewrites[0].verifier == Likelihood(reduce="min")
    assert len({setting.name for setting in made.settings}) == 7
    with pytest.raises(ConfigError, match="verifier must come with threshold"):
        grid({"verifier": "score"}, deltas=(1,))


def test_the_fastest_of_those_that_pass_is_chosen_and_never_one_that_failed():
    made, rng = grid({}, deltas=(1, 2, 3), thresholds=(5.0, 7.0)), random.Random(0)
    guarantee, chosen = Guarantee(10, 0.9, len(made.chains)), []
    for _ in range(40):
        rows = {
            setting.name: row(rng.randrange(12), rng.randrange(12), 80, rng.uniform(1, 9))
            for setting in made.settings
        }
        points = {point.setting: point for point in curve_of(rows, made, guarantee)}
        assert [point.knobs["repair"] for point in points.values()] == ["correct"] * 3 + ["rewrite"] * 2
        for name, point in points.items():
            assert point.p == p_value(rows[name].only_base, rows[name].only_this, 80, 0.1)
        for chain in made.chains:
            in_turn = [points[setting.name] for setting in chain]
            first = next((i for i, point in enumerate(in_turn) if point.p > guarantee.level), len(in_turn))
            assert [point.passes for point in in_turn] == [i < first for i in range(len(in_turn))]
        name = fastest(list(points.values()))
        chosen.append(name)
        passing = [point.seconds for point in points.values() if point.passes]
        assert (name is None) == (not passing)
        assert name is None or (points[name].passes and points[name].seconds == min(passing))
    assert None in chosen
    assert len(set(chosen)) > 3


@pytest.fixture
def command(pair, tmp_path, run_command):
    """Runs `calibrate` on the scripted pair, whose answer is always 2, with these options."""
    pair.start_anew(write, digit, answers)
    data = tmp_path / "problems.jsonl"
    rows = [{"id": each.id, "question": each.question, "answer": each.answer} for each in PROBLEMS]
    data.write_text("\n".join(map(json.dumps, rows)))
    urls = ["--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    small = ["--token-budget", "40", "--answer-tokens", "16", "--window", "step", "--lookahead", "0"]

    def work(*options):
        return run_command(
            "calibrate",
            "--data",
            str(data),
            "--out",
            str(tmp_path / "c.json"),
            *urls,
            *small,
            "--concurrency",
            "1",
            *options,
        )

    return work


def test_a_calibration_is_the_setting_of_later_runs_and_its_problems_are_refused(
    pair, tmp_path, command, run_command
):
    done = command("--loss", "30", "--delta", "3,1")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "c.json"
    made = Calibration.load(file)
    assert (made.problems, made.base_accuracy, made.common["token_budget"]) == (8, 0.5, 40)
    assert [point.knobs["delta"] for point in made.curve] == [1, 3]
    assert {(point.lost, point.won, round(point.p, 6)) for point in made.curve} == {(0, 0, round(0.7**8, 6))}
    choice = made.choice
    assert f"Chosen: {choice.setting}. At 90% confidence it loses less than 30 points" in done.stdout
    assert config_of({"calibration": str(file)}).repair == Correct(delta=choice.knobs["delta"], window=None)
    assert {path.name for path in tmp_path.iterdir()} == {"problems.jsonl", "c.json", "c.jsonl", "c.png"}
    data = str(tmp_path / "problems.jsonl")
    urls = ["--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    refused = run_command("eval", "--data", data, "--modes", "correct", "--calibration", str(file), *urls)
    assert (refused.returncode, "which was made on 8 of them" in refused.stderr) == (2, True), refused


def test_a_run_that_is_broken_off_goes_on_and_a_finished_one_gives_the_same_file(pair, tmp_path, command):
    record, file = tmp_path / "c.jsonl", tmp_path / "c.json"
    first = command("--delta", "1,3")
    assert "takes 271 problems" in first.stdout
    assert "8 problems, which can certify a loss below 29.1 points" in first.stdout
    assert "none is chosen" in first.stdout
    whole, text, samples = file.read_bytes(), record.read_bytes(), timeless(record)
    asked = len(pair.seen)
    assert command("--delta", "1,3").returncode == 0
    assert (file.read_bytes(), len(pair.seen)) == (whole, asked)
    record.write_bytes(text[: len(text) // 2])
    assert command("--delta", "1,3").returncode == 0
    assert timeless(record) == samples
    again, before = json.loads(file.read_text()), json.loads(whole)
    for made in (again, before):
        del made["base_seconds"]
        made["curve"] = [{**point, "seconds": 0, "over_base": 0} for point in made["curve"]]
    assert again == before


def test_samples_that_failed_leave_no_calibration_and_are_done_again(pair, tmp_path, command):
    broken = [True]

    def before(seen):
        if broken[0] and seen.purpose == "read":
            return 400, b'{"error": {"message": "out of order"}}'
        return answers(seen)

    pair.before = before
    done = command("--delta", "1")
    assert (done.returncode, "8 of 16 samples failed" in done.stderr) == (1, True), done
    assert not (tmp_path / "c.json").exists()
    broken[0] = False
    assert command("--delta", "1").returncode == 0
    assert (tmp_path / "c.json").exists()
