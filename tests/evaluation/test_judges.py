"""The benchmark of judges on labelled solutions."""

import json
import math
import random

import pytest

from specreason_sgl.display.judges import picture
from specreason_sgl.display.pictures import png
from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation import judges
from specreason_sgl.evaluation.auc import auc
from specreason_sgl.evaluation.judges import (
    JudgedSolution,
    Solution,
    figures,
    judge_solutions,
    load_solutions,
)
from specreason_sgl.evaluation.signals import entropy, margin, names, signals, split_tokens
from specreason_sgl.lang.logprobs import Choice, TokenLogprob
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.verifier import Drafted, as_verifier
from specreason_sgl.reasoning.verifiers import PAPER_ANSWER, VERIFIERS, YES_NO

STEPS = ("First 2 + 2 = 4.", "Then 4 * 3 = 13.", "So it is 13.")
SOLUTIONS = [Solution("a", "q", STEPS, label=1), Solution("b", "r", STEPS[:2], first_error=-1)]


def token(text, logprob=-1.0, *first, id=0):
    return TokenLogprob(text, logprob, id, tuple(Choice(t, i, p) for t, i, p in first))


def digit(turn):
    return 3 if turn.startswith(PAPER_ANSWER) else 0 if turn.endswith(YES_NO) else 6


def judged(pair, folder, solutions=SOLUTIONS, **options):
    return judge_solutions(
        solutions, draft=pair.draft, base=pair.base, config=SpecReasonConfig(),
        record=folder / "judges.jsonl", **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [([2, 3], [0, 1], 1.0), ([0, 1], [2, 3], 0.0), ([1], [1], 0.5), ([1, 2, 3], [2, 0], 0.75)],
)
def test_auc_is_how_often_the_better_one_is_above(better, worse, expected):
    assert auc(better, worse) == expected
    assert math.isnan(auc([], worse))


def test_tokens_belong_to_the_step_in_which_they_begin():
    tokens = [token(text) for text in ("\nA", " one", ".\n\n", "B", "", "\n", "\nC")]
    groups = split_tokens(tokens, ["A one.\n\n", "B\n\n", "C"])
    assert [[each.text for each in group] for group in groups] == [
        ["\nA", " one", ".\n\n"], ["B", "", "\n", "\nC"], [],
    ]  # fmt: skip


def test_signals_are_of_the_steps_own_tokens():
    base = [
        token("4", -4.0, ("5", 1, -0.5), ("4", 0, -4.0)),
        token(" apples", -9.0, (" pears", 2, -1.0)),
        token("\n\n", -50.0, ("x", 3, -0.1)),
    ]
    draft = [
        token("4", -0.1, ("4", 0, -0.1), ("5", 1, -3.1)),
        token(" apples", -2.0, (" figs", 5, -1.0), id=4),
    ]
    values = signals(Drafted("4 apples", 2, "delimiter", "\n\n"), 2, base, draft)
    assert set(values) == set(names(questions=False))
    assert (values["regret-max"], values["regret-max-numeric"], values["regrets-above-3"]) == (-8, -3.5, -2)
    assert (values["likelihood-min"], values["likelihood-min-digits"]) == (-9, -4)
    assert (values["draft-likelihood-mean"], values["draft-margin-min"]) == (-1.05, -1.0)
    assert (values["length"], values["position"]) == (-2, -2)
    assert entropy(base[0]) == pytest.approx(0.5 * math.exp(-0.5) + 4 * math.exp(-4))
    assert margin(draft[0]) == pytest.approx(3.0)


def test_both_models_read_a_solution_once_and_a_record_goes_on(pair, tmp_path, monkeypatch):
    pair.start_anew(None, digit)
    first = judged(pair, tmp_path)
    assert [(each.id, each.wrong, len(each.values)) for each in first] == [("a", 1, 3), ("b", None, 2)]
    assert all(set(values) == set(names(questions=True)) for each in first for values in each.values)
    assert {(values["score"], values["score-paper"]) for each in first for values in each.values} == {(6, 3)}
    assert all(5.9 < values["score-average"] < 6.1 and values["yes-no"] > 0.9 for values in first[0].values)
    assert [sorted(each.side for each in pair.of("read")), len(pair.of("score"))] == [
        ["base", "base", "draft", "draft"], 3 * 5,
    ]  # fmt: skip
    assert {each.turn for each in pair.of("read")} == {"\n\n".join(each.steps) for each in SOLUTIONS}
    record, asked = tmp_path / "judges.jsonl", len(pair.seen)
    text = record.read_text()
    record.write_text(text + '{"id": "cut o')
    assert judged(pair, tmp_path) == first
    assert (record.read_text(), len(pair.seen)) == (text, asked)
    with pytest.raises(ConfigError, match=r"other settings \(signals\)"):
        judged(pair, tmp_path, questions=False)
    monkeypatch.setitem(judges.VERIFIERS, "length", as_verifier(lambda s, drafted: len(drafted.text)))
    (tmp_path / "judges.jsonl").unlink()
    (added, _) = judged(pair, tmp_path)
    assert [values["length"] for values in added.values] == [len(step) for step in STEPS]


def test_without_questions_nothing_else_is_asked(pair, tmp_path):
    pair.start_anew(None, digit)
    judged(pair, tmp_path, questions=False)
    assert len(pair.seen) == len(pair.of("read")) == 4


def test_a_solution_that_does_not_fit_is_skipped_and_counted(pair, tmp_path, monkeypatch):
    pair.start_anew(None, digit)
    monkeypatch.setattr(pair.draft, "context_length", 300)
    long, short = judged(pair, tmp_path, [Solution("c", "q", ("long " * 200,), label=0), *SOLUTIONS[1:]])
    assert "300" in long.skipped
    assert (long.values, short.skipped, len(short.values)) == ((), None, 2)


def test_a_runtimes_failure_ends_the_run_and_what_was_judged_is_kept(pair, tmp_path):
    fails = (400, b'{"error": {"message": "boom"}}')
    pair.start_anew(
        None, digit, lambda seen: fails if seen.turn.startswith("First 2 + 2 = 4.\n\nThen") else None
    )
    ok = Solution("c", "q", STEPS[1:], label=0)
    with pytest.raises(Exception, match="boom"):
        judged(pair, tmp_path, [ok, SOLUTIONS[0]], concurrency=1)
    pair.start_anew(None, digit)
    judged(pair, tmp_path, [ok])
    assert pair.seen == []


def drawn(good: float, n=60):
    """Solutions of three steps, every second with a wrong one; `good` is how far right steps lie above."""
    dice = random.Random(0)

    def made(i):
        wrong = 1 if i % 2 else None
        values = [{"told": dice.gauss(good * (k != wrong), 1), "same": 1.0} for k in range(3)]
        values[2]["told"] += 9 * bool(wrong)  # not labelled
        return JudgedSolution(str(i), f"q{i // 2}", wrong, tuple(values))

    return [made(i) for i in range(n)]


def test_a_signal_that_tells_right_from_wrong_has_a_high_area_and_one_that_does_not_one_half():
    skipped = JudgedSolution("x", "q", 0, (), "too long")
    told, same = figures([*drawn(3.0), skipped])
    assert 0.9 < told.steps.low < told.steps.value < told.steps.high <= 1
    assert told.solutions.value > 0.8
    assert {(e.value, e.low, e.high) for e in (same.steps, same.solutions)} == {(0.5, 0.5, 0.5)}
    chance, _ = figures(drawn(0.0, 400))  # what comes after the first wrong step does not count
    assert chance.steps.value == pytest.approx(0.5, abs=0.06)
    assert png(picture([told, same])).startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="too few"):
        figures([solution for solution in drawn(3.0) if solution.wrong])


def test_intervals_are_by_problem():
    """Copies of a problem's solutions add nothing."""
    once = drawn(1.0, 30)
    (row, _), (copied, _) = figures(once), figures(once * 4)
    assert copied.steps == row.steps


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: this is not a labelled solution"),
        ({"label": 3}, r"line 2: label must be -1 or the index of a step, got 3"),
        ({"label": None}, r"line 2: label must be .*, got None"),
        ({"steps": []}, "line 2: .* length >= 1"),
        ({"steps": ["a", ""]}, "line 2: .* length >= 1"),
        ({"id": "a"}, "line 2: two solutions have the id 'a'"),
    ],
)
def test_a_bad_line_of_solutions_is_named(tmp_path, line, says):
    good = {"id": "a", "problem": "q", "steps": STEPS, "label": -1, "generator": "x"}
    rows = [good, {**good, "id": "b", **line} if isinstance(line, dict) else line]
    path = tmp_path / "solutions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    with pytest.raises(ConfigError, match=says):
        load_solutions(path)


def test_the_command_prints_a_table_and_draws_a_picture(pair, tmp_path, run_command):
    pair.start_anew(None, digit)
    data, out = tmp_path / "solutions.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": each.id, "problem": each.problem, "steps": each.steps, "label": label}
            for each, label in zip(SOLUTIONS, (1, -1), strict=True)]  # fmt: skip
    data.write_text("\n".join(map(json.dumps, rows)))
    urls = ["--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    done = run_command("judges", "--data", str(data), "--out", str(out), *urls)
    assert done.returncode == 0, done.stderr
    assert "2 solutions, 1 with a wrong step" in done.stdout
    assert all(name in done.stdout for name in VERIFIERS)
    assert out.with_suffix(".png").exists()
