"""Judging steps with every verifier, and choosing thresholds from it."""

import json
import random

import msgspec
import pytest
from msgspec.structs import replace

from specreason_sgl.display.pictures import histograms, png
from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation import calibrate as work
from specreason_sgl.evaluation.calibrate import (
    JudgedHead,
    JudgedSolution,
    calibrate,
    corrupted,
    values_by_kind,
)
from specreason_sgl.evaluation.problems import load_problems
from specreason_sgl.files import Record
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import Calibration
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.verifier import as_verifier
from specreason_sgl.reasoning.verifiers import BUILT_IN
from tests.support.evaluation_runs import PROBLEMS, answers, write


def solutions(n: int = 40, best: str = "likelihood-min") -> list[JudgedSolution]:
    """Half of them right. The best verifier tells right from wrong; the others say the same of all."""
    rng = random.Random(0)
    made = []
    for i in range(n):
        right = i % 4 < 2

        def values(good: bool) -> dict[str, float]:
            return {name: (rng.gauss(3.0 * good, 1.0) if name == best else 1.0) for name in BUILT_IN}

        steps = ("one is 1", "two is 2")
        wrong = tuple((k, step + "9", values(False)) for k, step in enumerate(steps)) if right else ()
        made.append(JudgedSolution(str(i), right, steps, (values(right), values(right)), wrong))
    return made


def made_of(judged, keep=0.8) -> Calibration:
    return calibrate(judged, draft_model="d", base_model="b", keep=keep, source="test")


def test_the_verifier_that_tells_right_from_wrong_is_chosen():
    calibration = made_of(solutions())
    assert calibration.verifier == "likelihood-min"
    rows = {row["verifier"]: row for row in calibration.table}
    assert list(rows) == list(BUILT_IN)
    assert rows["likelihood-min"]["corrupted"]["value"] > 0.9
    assert rows["score"]["corrupted"]["value"] == 0.5
    figure = rows["likelihood-min"]["solutions"]
    assert figure["low"] <= figure["value"] <= figure["high"]


@pytest.mark.parametrize("keep", [0.25, 0.8, 1.0])
def test_the_threshold_keeps_the_wanted_share(keep):
    judged = solutions(200)
    calibration = made_of(judged, keep)
    values = [step[calibration.verifier] for solution in judged for step in solution.values]
    assert sum(value >= calibration.threshold for value in values) / len(values) == pytest.approx(
        keep, abs=0.01
    )
    rule = calibration.settings(keep)["threshold"]
    assert isinstance(rule, Quantile)
    assert sum(rule.keeps(value, []) for value in values) / len(values) == pytest.approx(keep, abs=0.02)


def judged(pair, folder, problems=PROBLEMS[:2]):
    config = SpecReasonConfig(temperature=0.0, token_budget=100, answer_tokens=8)
    record = folder / "record.jsonl"
    return work.judge_problems(problems, draft=pair.draft, base=pair.base, config=config, record=record)


def test_a_verifier_that_is_added_is_measured_too(pair, tmp_path, monkeypatch):
    pair.start_anew(write, lambda turn: 6, answers)
    monkeypatch.setitem(work.BUILT_IN, "length", as_verifier(lambda s, drafted: len(drafted.text)))
    (solution,) = judged(pair, tmp_path, PROBLEMS[:1])
    assert [values["length"] for values in solution.values] == [len(step) for step in solution.steps]


def test_every_built_in_verifier_judges_every_step_and_a_record_goes_on(pair, tmp_path, monkeypatch):
    pair.start_anew(write, lambda turn: 3 if turn.startswith("The quality score is: ") else 6, answers)
    first = judged(pair, tmp_path)
    assert [solution.right for solution in first] == [False, True]  # the answer is always 2
    assert [bool(solution.corrupted) for solution in first] == [False, True]
    for solution in first:
        judgements = [*solution.values, *(values for _, _, values in solution.corrupted)]
        assert len(solution.values) == len(solution.steps) > 0
        assert all(set(values) == set(BUILT_IN) for values in judgements)
        assert {(values["score"], values["score-paper"]) for values in judgements} == {(6, 3)}
        assert all(
            5.9 < values["score-average"] < 6.1 and values["likelihood-min"] < 0 for values in judgements
        )
    asked = len(pair.seen)
    assert judged(pair, tmp_path) == first
    assert len(pair.seen) == asked
    record = tmp_path / "record.jsonl"
    text = record.read_text()
    record.write_text(text + '{"id": "cut o')
    assert judged(pair, tmp_path) == first
    assert (record.read_text(), len(pair.seen)) == (text, asked)
    with Record(record, make_head(pair), JudgedSolution), pytest.raises(ConfigError, match="another process"):
        judged(pair, tmp_path)
    monkeypatch.setattr(work, "BUILT_IN", {"score": BUILT_IN["score"]})
    with pytest.raises(ConfigError, match="other settings"):
        judged(pair, tmp_path)


def make_head(pair):
    """The head of the record of a calibration with the default settings."""
    return JudgedHead(
        draft=pair.draft.get_model_name(), base=pair.base.get_model_name(), seed=0, token_budget=100,
        instruction=SpecReasonConfig().instruction, temperature=0.0, verifiers=tuple(BUILT_IN),
    )  # fmt: skip


SOLUTION = {"id": "p0", "right": True, "steps": ["a"], "values": [{"score": 1}], "corrupted": []}


@pytest.mark.parametrize(
    ("changes", "line", "says"),
    [
        ({"kind": "specreason-sgl eval"}, {}, "line 1: this is not a record of specreason-sgl calibrate: "),
        ({"version": 7}, {}, "line 1: this package reads version 1, got version 7$"),
        ({}, {"right": "yes"}, r"line 2: .* Expected `bool`, got `str` - at `\$\.right`"),
        ({}, {"corrupted": [[0, "b"]]}, r"line 2: .* Expected `array` of length 3 - at `\$\.corrupted\[0\]`"),
    ],
)
def test_a_record_of_something_else_is_refused_and_left_alone(pair, tmp_path, changes, line, says):
    record = tmp_path / "record.jsonl"
    head = {**msgspec.to_builtins(make_head(pair)), **changes}
    record.write_text(f"{json.dumps(head)}\n{json.dumps({**SOLUTION, **line})}\n")
    text = record.read_text()
    with pytest.raises(ConfigError, match=says) as raised:
        Record(record, make_head(pair), JudgedSolution)
    assert str(raised.value).startswith(f"{record}, line ")
    assert record.read_text() == text


@pytest.mark.parametrize(
    "judged",  # the mean value of a solution without steps does not exist
    [[s if s.right else replace(s, steps=(), values=()) for s in solutions()], solutions(2)],
)
def test_too_few_problems_are_refused(judged):
    with pytest.raises(ConfigError, match="too few"):
        made_of(judged)


def test_values_are_told_apart_by_what_they_are_of():
    judged = solutions()
    best = made_of(judged).verifier
    steps, whole = values_by_kind(judged, best)
    assert steps == {
        "steps of right solutions": [s.values[i][best] for s in judged for i, _, _ in s.corrupted],
        "the same with a wrong digit": [values[best] for s in judged for _, _, values in s.corrupted],
    }
    assert {label: len(values) for label, values in whole.items()} == {
        "steps of right solutions": 40,
        "steps of wrong solutions": 40,
    }
    assert min(steps["steps of right solutions"]) < max(steps["the same with a wrong digit"])  # they overlap
    picture = histograms([steps, whole], made_of(judged))
    assert [axes.get_xlabel() for axes in picture.axes] == [best, best]
    assert png(picture).startswith(b"\x89PNG")


def test_a_corrupted_step_differs_in_one_digit_and_no_number_begins_with_a_new_zero():
    rng = random.Random(1)
    for text in ("So 48 / 2 = 24 clips.", "1", "x = 10.5 and 700"):
        for _ in range(50):
            wrong = corrupted(text, rng)
            different = [(a, b) for a, b in zip(text, wrong, strict=True) if a != b]
            assert len(different) == 1
            assert all(digit.isdigit() for digit in different[0])
            assert not any(word[0] == "0" and len(word) > 1 for word in wrong.split() if word[0].isdigit())
    assert corrupted("no number here", rng) is None


def test_problems_are_read_and_a_bad_line_is_named(tmp_path):
    file = tmp_path / "problems.jsonl"
    good = json.dumps({"question": "q", "answer": 3})
    file.write_text(f"{good}\n\n{good}\n")
    assert [(problem.id, problem.answer) for problem in load_problems(file)] == [("1", "3"), ("3", "3")]
    assert len(load_problems(file, 1)) == 1
    for bad, says in (
        ("{", "this is not a problem: Input data was truncated"),
        ('{"question": "q"}', "Object missing required field `answer`"),
        ("[1]", "Expected `object`, got `array`"),
        ('{"question": " ", "answer": "1"}', "question must not be empty"),
        ('{"question": "q", "answer": null}', r"Expected .*, got `null` - at `\$\.answer`"),
        ('{"question": "q", "answer": "1", "choices": "ab"}', r"Expected .*, got `str` - at `\$\.choices`"),
    ):
        file.write_text(f"{good}\n{bad}\n")
        with pytest.raises(ConfigError, match=f"line 2: .*{says}"):
            load_problems(file)
    file.write_text("")
    with pytest.raises(ConfigError, match="no problems"):
        load_problems(file)
