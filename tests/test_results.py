"""programs/results.py: what is measured, and that a part is announced, run and continued."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from programs import results
from specreason_sgl import Correct
from specreason_sgl.evaluation.records import read_run
from specreason_sgl.runtime import launch
from tests.support.evaluation_runs import PROBLEMS, answers, digit, write


@pytest.fixture
def small(pair, monkeypatch):
    """The parts on four problems and 40 tokens, two at a time, on a scripted pair; the servers that start."""
    pair.start_anew(write, digit, answers)
    draft, base = (
        SimpleNamespace(url=server.url, api_key=None) for server in (pair.draft_server, pair.base_server)
    )
    started = []

    def launch_pair(spec, *, pin, **_):
        started.append((spec.name, pin))
        return nullcontext(launch.Pair(draft, base))

    def launch_whole(spec, **_):
        started.append("whole")
        return nullcontext(base)

    monkeypatch.setattr(launch, "launch_pair", launch_pair)
    monkeypatch.setattr(launch, "launch_whole", launch_whole)
    monkeypatch.setattr(results, "problems_of", lambda part, data: PROBLEMS)
    for name, part in results.PARTS.items():
        brief = replace(part, numbers=range(4), concurrency=min(part.concurrency, 2), token_budget=40)
        monkeypatch.setitem(results.PARTS, name, brief)
    monkeypatch.setitem(results.SLOWER, 2, 1.5)
    return started


def test_the_primary_part_is_the_one_that_was_named_before(tmp_path):
    part = results.PARTS["primary"]
    file = tmp_path / "gsm8k.jsonl"
    file.write_text(
        "\n".join(f'{{"id": "gsm8k-{i}", "question": "q{i}", "answer": "1"}}' for i in range(600))
    )
    problems = results.problems_of(part, str(file))
    assert [problem.question for problem in problems] == [f"q{i}" for i in range(294, 530)]
    assert (part.concurrency, part.pair) == (16, "mini")
    base, correct = results.settings_of(part)
    assert (base.mode, correct.mode, correct.name) == ("base", "correct", results.PRIMARY)
    for setting in (base, correct):
        assert (setting.config.temperature, setting.config.token_budget) == (0, 400)
    assert correct.config.repair == Correct(delta=1, numeric_delta=0, window="auto")


@pytest.mark.parametrize("name", results.PARTS)
def test_each_setting_of_a_part_is_of_its_name(name):
    part = results.PARTS[name]
    assert [setting.name for setting in results.settings_of(part)] == list(part.settings)


def test_a_part_says_how_long_it_takes_runs_and_is_continued_and_no_other_part_starts(
    small, tmp_path, capsys
):
    results.main(["primary", "--estimate", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "base: 4 samples of " in said
    assert "together about" in said
    assert [file.name for file in tmp_path.iterdir()] == ["primary.first.jsonl"]
    results.main(["primary", "--out", str(tmp_path)])
    assert "correct delta=1 is " in capsys.readouterr().out
    head, samples = read_run(tmp_path / "primary.jsonl")
    assert (len(samples), head.concurrency, head.launch) == (8, 2, {"pin": True})
    results.main(["primary", "--out", str(tmp_path)])
    assert "base: 0 samples" in capsys.readouterr().out
    assert read_run(tmp_path / "primary.jsonl")[1] == samples
    assert small == [("mini", True)] * 3


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(small, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "run_evaluation", interrupt)
    with pytest.raises(SystemExit) as ended:
        results.main(["primary", "--out", str(tmp_path)])
    assert ended.value.code == 130
    assert capsys.readouterr().out.endswith(
        f"interrupted; finished samples are in {tmp_path}, and the same command continues\n"
    )


def test_only_a_part_with_base_whole_starts_another_base_server(small, tmp_path, monkeypatch):
    brief = replace(results.PARTS["latency"], settings=("base-whole", "draft"))
    monkeypatch.setitem(results.PARTS, "latency", brief)
    results.main(["latency", "--out", str(tmp_path)])
    assert small == [("mini", True), "whole"]


def test_without_a_part_or_with_one_that_is_none_nothing_starts(small, capsys):
    results.main([])
    assert "primary: mini, numbers 1 to 4 of gsm8k" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        results.main(["primary", "seconds"])
    assert "a part must be one of primary, line" in capsys.readouterr().err
    assert small == []
