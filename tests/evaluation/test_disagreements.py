"""Branches at disagreements, and what is learned from them."""

import json
import random

import numpy as np
import pytest

from specreason_sgl.errors import ConfigError, ServerError
from specreason_sgl.evaluation import disagreements as work
from specreason_sgl.evaluation.disagreements import Branched, Disagreement, branch_problems, spread
from specreason_sgl.evaluation.features import FEATURES, features
from specreason_sgl.evaluation.learned import figures, fit, needed
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.lang.logprobs import Choice, TokenLogprob
from specreason_sgl.reasoning.config import SpecReasonConfig
from tests.support.pair import ENDS, aborted, paired
from tests.support.scripted import answer
from tests.support.tokenizers import make_tokenizer
from tests.support.waiting import wait_until
from tests.support.writers import FAILS

PROBLEMS = [Problem(f"p{i}", f"What is 2 + 3, {'please ' * i}now?", "5") for i in range(8)]
CHAIN = "2 plus 3 is 9.\n\n9 it is, so 9."
BEFORE = ("2 plus 3 is ", "2 plus 3 is 9.\n\n", "2 plus 3 is 9.\n\n9 it is, so ")


def write(side, turn, most):
    return (CHAIN, "eos", 14) if side == "draft" else ("5.", "eos", 3)


def answers(seen):
    """Right is what comes to 5 at once, or at the end."""
    value = 5 if "is 5." in seen.turn or "so 5." in seen.turn else 9
    return answer(f"\\boxed{{{value}}}", ENDS["eos"]) if seen.purpose == "answer" else None


def disagrees(pair):
    """Where a model reads a 9, it would write 5."""
    vocabularies = [model.tokenizer.convert_tokens_to_ids for model in (pair.draft, pair.base)]
    return lambda ids, at: {to_id("9"): to_id("5") for to_id in vocabularies}.get(ids[at])


def branched(pair, folder, problems=PROBLEMS[:1], before=answers, budget=40, **options):
    pair.start_anew(write, None, before, disagrees(pair))
    return branch_problems(
        problems, draft=pair.draft, base=pair.base, record=folder / "record.jsonl",
        config=SpecReasonConfig(temperature=0, token_budget=budget), **options,
    )  # fmt: skip


def test_a_disagreement_is_harmful_where_only_the_base_models_token_leads_to_a_right_answer(pair, tmp_path):
    (problem,) = branched(pair, tmp_path)
    assert (problem.chain, problem.right, problem.count) == (CHAIN, False, 3)
    assert [(each.at, each.drafted, each.base) for each in problem.disagreements] == [
        (len(before), "9", "5") for before in BEFORE
    ]
    sides = [(each.base_right, each.drafted_right, each.harmful) for each in problem.disagreements]
    assert sides == [(True, False, True), (False, True, False), (True, False, True)]
    assert [each.features["step-start"] for each in problem.disagreements] == [0, 1, 0]
    assert {each.features["draft-logprob"] for each in problem.disagreements} == {
        -10
    }  # the scripted one of a 9


def test_without_a_chain_of_thought_there_is_nothing_to_branch(pair, tmp_path):
    (problem,) = branched(pair, tmp_path, budget=0)
    assert (problem.chain, problem.right, problem.disagreements) == ("", False, ())


def test_a_continuation_serves_both_disagreements_that_it_lies_between(pair, tmp_path):
    branched(pair, tmp_path)
    assert sorted(seen.turn for seen in pair.of("rewrite")) == sorted(BEFORE)
    whole = [seen.turn.partition("\n\nFinal")[0] for seen in pair.of("answer") if seen.side == "base"]
    assert sorted(whole) == sorted([CHAIN, *(f"{before}5." for before in BEFORE)])
    most = {sent["rid"]: sent["sampling_params"]["max_new_tokens"] for sent in pair.base_server.generated()}
    used = [most[seen.rid] + len(pair.base.tokenizer.encode(seen.turn)) for seen in pair.of("rewrite")]
    assert used == [40] * 3  # a continuation has what its beginning leaves of the budget


def test_a_drafted_token_leads_to_the_next_disagreement_branched_or_not(pair, tmp_path):
    (problem,) = branched(pair, tmp_path, branches=1, seed=1)
    assert [each.at for each in problem.disagreements] == [len(BEFORE[0])]
    assert sorted(seen.turn for seen in pair.of("rewrite")) == sorted(BEFORE[:2])


def test_only_disagreements_above_the_least_regret_are_branched(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "REGRET", 9.5)  # the scripted regret
    (problem,) = branched(pair, tmp_path)
    assert (problem.count, problem.disagreements, pair.of("rewrite")) == (0, (), [])


def test_a_record_goes_on_and_a_failure_keeps_what_was_done(pair, tmp_path):
    def fail(seen):
        return FAILS if seen.purpose == "rewrite" and len(pair.of("rewrite")) > 4 else answers(seen)

    with pytest.raises(ServerError, match="boom"):
        branched(pair, tmp_path, PROBLEMS[:2], fail, concurrency=1)
    done = branched(pair, tmp_path, PROBLEMS[:2])
    assert [problem.id for problem in done] == ["p0", "p1"]
    assert len(pair.of("read")) == 2  # of the second problem, one by each model
    assert branched(pair, tmp_path, PROBLEMS[:2]) == done
    assert pair.seen == []
    with pytest.raises(ConfigError, match=r"other settings \(branches, seed\)"):
        branched(pair, tmp_path, seed=1, branches=2)


def test_a_failure_aborts_the_continuations_of_other_problems(pair, tmp_path):
    def before(seen):
        if seen is pair.seen[0]:
            wait_until(lambda: len(pair.of("rewrite")) == 3)
            return 400, b'{"error": {"message": "boom"}}'
        if seen.purpose == "rewrite":
            wait_until(lambda: seen.rid in pair.aborted())
            return aborted()
        return answers(seen)

    with pytest.raises(ServerError, match="boom"):
        branched(pair, tmp_path, PROBLEMS[:2], before, concurrency=2)


def test_two_vocabularies_meet_at_positions_of_the_text(chatml_folder, tmp_path):
    make_tokenizer("gemma-2").save_pretrained(tmp_path / "base")
    with paired(chatml_folder, str(tmp_path / "base")) as pair:
        (problem,) = branched(pair, tmp_path)
    assert [each.at for each in problem.disagreements] == [len(before) for before in BEFORE]
    assert {each.features["draft-logprob"] for each in problem.disagreements} == {-10}


def test_chosen_positions_are_spread_over_all():
    for seed in range(20):
        chosen = spread(range(100, 120), 4, random.Random(seed))
        assert [(each - 100) // 5 for each in chosen] == [0, 1, 2, 3]
    assert len({tuple(spread(range(20), 4, random.Random(seed))) for seed in range(20)}) > 10
    assert spread([3, 1], 4, random.Random(0)) == [3, 1]


@pytest.mark.parametrize(
    ("drafted", "base", "kinds"),
    [
        ("1", "3", ["digit"]),
        (" uses", " increases", ["word"]),
        (" =", " is", ["operator"]),
        ("\n\n", " So", []),
        ("2", " *", ["digit", "operator"]),
    ],
)
def test_features_tell_digits_operators_and_words_apart(drafted, base, kinds):
    read = TokenLogprob(drafted, -3.0, 1, (Choice(base, 2, -0.5), Choice(drafted, 1, -3.0)))
    by_draft = TokenLogprob(drafted, -0.2, 7, (Choice(drafted, 7, -0.2), Choice("x", 8, -1.7)))
    values = features(read, by_draft, begins_step=False)
    assert [name for name in ("digit", "operator", "word") if values[name]] == kinds
    assert (values["regret"], values["draft-logprob"]) == (2.5, -0.2)
    assert values["draft-margin"] == pytest.approx(1.5)
    assert values["base-probability"] == pytest.approx(np.exp(-0.5))


def test_the_fit_is_the_maximum_of_the_penalized_likelihood():
    dice = np.random.default_rng(0)
    x = dice.normal(3.0, 2.0, (5000, 2))
    y = dice.random(5000) < 1 / (1 + np.exp(-(x @ [1.0, -0.5] - 2.0)))
    model = fit(x, y, ridge=0.5)
    assert model.coefficients / model.deviations == pytest.approx([1.0, -0.5], abs=0.1)
    standard = (x - model.means) / model.deviations
    left = y - 1 / (1 + np.exp(-model.scores(x)))
    assert standard.T @ left == pytest.approx(0.5 * model.coefficients, abs=1e-6)
    assert left.sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(0.3, 0.2), (0.5, 0.8), (0.8, 1.0)])
def test_the_corrections_that_are_needed_are_counted_with_ties(share, expected):
    scores, harmful = np.array([1.0, 5, 3, 3, 3]), np.array([True, True, False, True, False])
    assert needed(scores, harmful, share, np.ones(5)) == pytest.approx(expected)
    twice = np.array([[1, 1, 1, 1, 1], [0, 0, 4, 0, 0]])
    assert np.isnan(needed(scores, harmful, share, twice)).tolist() == [False, True]


def drawn(problems: int, of: str, seed: int = 0) -> list[Branched]:
    """Problems with four disagreements each, whose harm depends on one feature; an empty name: on none."""
    dice = np.random.default_rng(seed)
    made = []
    for i in range(problems):
        each = []
        for at in range(4):
            values = dict(zip(FEATURES, dice.normal(size=len(FEATURES)), strict=True))
            harmful = dice.random() < (1 / (1 + np.exp(-2 * values[of])) if of else 0.2)
            each.append(Disagreement(at, "a", "b", values, bool(at == 3 and not harmful), bool(harmful)))
        made.append(Branched(str(i), "", "", False, 4, tuple(each)))
    return made


def test_a_score_that_is_learned_from_what_matters_beats_regret_on_other_problems():
    result = figures(drawn(60, "entropy"))
    assert result.verdict.startswith("The learned score beats plain regret")
    assert max(result.coefficients, key=result.coefficients.get) == "entropy"
    plain, learned, difference = result.rows
    assert 0.7 < learned.auc.low < learned.auc.value < learned.auc.high < 1
    assert difference.auc.value == pytest.approx(learned.auc.value - plain.auc.value)
    assert all(less.high < 0 for less in difference.needed)  # fewer corrections
    assert 0 < result.lucky < result.harmful


@pytest.mark.parametrize("of", ["regret", ""])
def test_nothing_is_learned_where_there_is_nothing_else_to_learn(of):
    result = figures(drawn(60, of))
    assert result.verdict.startswith("The learned score does not beat plain regret")
    if not of:
        assert result.rows[1].auc.low < 0.5  # by the problems that it was fitted on, it would seem to know


@pytest.mark.parametrize("harmful", [True, False])
def test_too_few_problems_are_refused(harmful):
    same = Disagreement(0, "a", "b", dict.fromkeys(FEATURES, 1.0), False, not harmful)
    other = Disagreement(1, "a", "b", dict.fromkeys(FEATURES, 1.0), False, harmful)
    few = [Branched(str(i), "", "", False, 2, (same, other) if i < 4 else (same,)) for i in range(9)]
    with pytest.raises(
        ConfigError, match=rf"{'harmful' if harmful else 'harmless'} .* at least 5, got 4 of 9"
    ):
        figures(few)


def test_the_command_prints_figures_and_goes_on(pair, tmp_path, run_command):
    pair.start_anew(write, None, answers, disagrees(pair))
    data, out = tmp_path / "problems.jsonl", tmp_path / "out.jsonl"
    data.write_text("\n".join(json.dumps({"question": p.question, "answer": p.answer}) for p in PROBLEMS))
    urls = ["--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    words = ["disagreements", "--data", str(data), "--out", str(out), *urls]
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    assert "24 disagreements of 8 problems, 16 harmful" in done.stdout
    assert "plain regret" in done.stdout
    asked = len(pair.seen)
    assert run_command(*words).stdout == done.stdout
    assert len(pair.seen) == asked
