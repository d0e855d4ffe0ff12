"""The runner: what it records, and that it continues an interrupted run."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from specreason_sgl import Endpoint
from specreason_sgl.errors import ConfigError, ServerError
from specreason_sgl.evaluation import evaluate as runner
from specreason_sgl.evaluation.calibrated import check_untouched
from specreason_sgl.evaluation.groups import prefills
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.provenance import Machine
from specreason_sgl.evaluation.records import Sample, read_run, run_head
from specreason_sgl.evaluation.report import Report
from specreason_sgl.evaluation.settings import expand
from specreason_sgl.evaluation.tasks import Runtimes
from specreason_sgl.evaluation.time_left import time_left
from specreason_sgl.files import Record
from tests.support.calibrations import CALIBRATION
from tests.support.evaluation_runs import KNOBS, PROBLEMS, answers, digit, run, timeless, write
from tests.support.pair import chance


@pytest.fixture(autouse=True)
def anew(request):
    if "pair" in request.fixturenames:
        request.getfixturevalue("pair").start_anew(write, digit, answers)


def test_each_problem_is_solved_with_each_setting_and_graded(pair, tmp_path):
    samples = run(pair, tmp_path / "x.jsonl", samples=2)
    assert len(samples) == len({sample.key for sample in samples}) == 4 * 4 * 2
    assert {sample.problem for sample in samples if sample.right} == {"p1"}
    assert {sample.trace.mode for sample in samples} == {"base", "draft", "specreason"}
    assert read_run(tmp_path / "x.jsonl")[1] == samples


def test_several_processes_write_the_same_file(pair, tmp_path):
    for processes in (1, 2):
        run(pair, tmp_path / f"{processes}.jsonl", concurrency=4, processes=processes, warm_up=True)
    assert timeless(tmp_path / "2.jsonl") == timeless(tmp_path / "1.jsonl")
    with pytest.raises(ConfigError, match="processes must be 1 with the mode reward, got 2"):
        run(pair, tmp_path / "x.jsonl", processes=2, reward=pair.base)


def test_one_at_a_time_every_sample_begins_with_empty_caches(pair, tmp_path):
    run(pair, tmp_path / "x.jsonl", modes=("base", "draft"), problems=PROBLEMS[:2])
    paths = [path.partition("?")[0] for path, _ in pair.base_server.requests]
    assert paths == ["/flush_cache", "/generate", "/generate", "/flush_cache"] * 2


def test_a_run_cut_short_has_the_same_problems_of_each_setting(pair, tmp_path):
    settings, done = ("base", "draft", "correct"), []
    record_add = Record.add

    def add(record, sample):
        record_add(record, sample)
        done.append((sample.problem, sample.setting))
        if len(done) == 7:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "add", add)
        with pytest.raises(KeyboardInterrupt):
            run(pair, tmp_path / "x.jsonl", modes=settings)
    assert done == [(f"p{i}", name) for i in range(3) for name in settings][:7]
    run(pair, tmp_path / "x.jsonl", modes=settings)
    order = [(sample.problem, sample.setting) for sample in read_run(tmp_path / "x.jsonl")[1]]
    assert order == [(f"p{i}", name) for i in range(4) for name in settings]


def test_more_at_a_time_are_of_one_setting(pair, tmp_path):
    running, together, lock = set(), set(), threading.Lock()
    both = threading.Barrier(2, timeout=60)

    def before(seen):
        if seen.purpose == "answer":
            with lock:
                running.add(seen.side)
            both.wait()  # two are in progress
            with lock:
                together.add(frozenset(running))
            both.wait()
            running.clear()
        return answers(seen)

    pair.before = before
    run(pair, tmp_path / "x.jsonl", modes=("base", "draft"), concurrency=2)
    assert together == {frozenset({"base"}), frozenset({"draft"})}


def test_a_file_cut_off_anywhere_is_completed_to_the_same(pair, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    two = {"modes": ("base", "correct")}
    run(pair, whole, **two)
    data = whole.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    rng = random.Random(1)
    for at in (0, 10, ends[0] - 1, ends[0], ends[0] + 1, ends[3] - 1, *rng.sample(range(len(data)), 4)):
        cut.write_bytes(data[:at])
        run(pair, cut, **two)
        assert timeless(cut) == timeless(whole)
        assert cut.read_bytes().startswith(data[: max(end for end in [0, *ends] if end <= at)])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"knobs": {"threshold": [6.0]}}, "settings"),
        ({"modes": ("base", "draft")}, "settings"),
        ({"problems": PROBLEMS[:3]}, "problems, problems_sha256, ids"),
        ({"problems": [*PROBLEMS[:3], Problem("p3", "Else?", "6")]}, "problems_sha256"),
        ({"samples": 2}, "samples"),
        ({"concurrency": 2}, "concurrency"),
    ],
)
def test_a_file_of_other_settings_is_refused_and_left_alone(pair, tmp_path, changes, named):
    file = tmp_path / "x.jsonl"
    run(pair, file, modes=("paper",))
    text = file.read_text()
    with pytest.raises(ConfigError, match=rf"other settings \({named}\)"):
        run(pair, file, **{"modes": ("paper",), **changes})
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("notes", "the line is not complete"),
        ("notes\n", "JSON is malformed"),
        ('{"kind": "else"}\n', "Invalid enum value 'else' - at `$.kind`"),
        ("{}\n", "Object missing required field"),
        ("[]\n", "Expected `object`, got `array`"),
        ("\n", "Input data was truncated"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(pair, tmp_path, text, says):
    file = tmp_path / "x.jsonl"
    file.write_text(text)
    expected = re.escape(f"{file}, line 1: this is not a record of specreason-sgl eval: {says}")
    with pytest.raises(ConfigError, match=expected):
        run(pair, file)
    with pytest.raises(ConfigError, match=expected):
        read_run(file)
    assert file.read_text() == text


def test_a_run_of_another_version_is_refused_and_left_alone(pair, tmp_path):
    file = tmp_path / "x.jsonl"
    run(pair, file, modes=("base",))
    head, *lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([json.dumps({**json.loads(head), "version": 7, "new": 1}) + "\n", *lines]))
    text, says = file.read_text(), r"x\.jsonl, line 1: this package reads version 3, got version 7$"
    with pytest.raises(ConfigError, match=says):
        run(pair, file, modes=("base",))
    with pytest.raises(ConfigError, match=says):
        read_run(file)
    assert file.read_text() == text


def test_a_sample_whose_trace_is_wrong_is_named_with_its_line_and_the_place(pair, tmp_path):
    file = tmp_path / "x.jsonl"
    run(pair, file, modes=("correct",))
    text = file.read_text()
    for old, new, says in (
        ('"author":"', '"author":"nobody-', r"value '.*' - at `\$\.trace\.steps\[0\]\.author`"),
        ('"eos","version":3', '"eos","version":7', r"7 - at `\$\.trace\.version`"),
    ):
        changed = text.replace(old, new, 1)
        assert changed != text
        file.write_text(changed)
        with pytest.raises(ConfigError, match=rf"line 2: .*{says}"):
            read_run(file)


def test_a_damaged_line_is_named(pair, tmp_path):
    file = tmp_path / "x.jsonl"
    run(pair, file, modes=("base",))
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:2], lines[2][:50] + "\n", *lines[3:]]))
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 3: this is not a record of specreason-sgl eval"):
        run(pair, file, modes=("base",))


def test_a_name_that_would_be_read_as_compressed_is_refused_before_anything_starts(
    pair, tmp_path, run_command
):
    out = tmp_path / "x.jsonl.gz"
    with pytest.raises(ConfigError, match=r"^out must be a name that does not end with \.gz, got .*x\.jsonl"):
        run(pair, out)
    for command in ("eval", "judges", "disagreements"):
        data = tmp_path / "problems.jsonl"
        data.write_text(
            '{"id": "p", "question": "q", "answer": "1", "problem": "q", "steps": ["s"], "label": -1}'
        )
        nobody = ["--draft-url", "http://127.0.0.1:9", "--base-url", "http://127.0.0.1:9"]
        done = run_command(command, "--data", str(data), "--out", str(out), *nobody)
        assert (done.returncode, "--out must be a name" in done.stderr) == (2, True), done.stderr
    assert not out.exists()


@pytest.mark.parametrize("number", ["samples", "concurrency", "processes"])
def test_none_at_a_time_is_refused(number):
    with pytest.raises(ConfigError, match=f"{number} must be at least 1, got 0"):
        runner.RunOptions(**{number: 0})


def test_two_cannot_write_the_same_file(pair, tmp_path):
    file = tmp_path / "x.jsonl"
    about = {"data": "x", "draft_model": "d", "base_model": "b", "samples": 1, "concurrency": 1, "seed": 0}
    with (
        Record(file, run_head([], [], **about), Sample),
        pytest.raises(ConfigError, match=r"another process is writing to .*x\.jsonl"),
    ):
        run(pair, file)


def test_a_failed_sample_is_recorded_left_alone_and_retried_when_asked(pair, tmp_path):
    file, broken = tmp_path / "x.jsonl", [True]

    def before(seen):
        if broken[0] and seen.side == "draft":
            return 400, b'{"error": {"message": "out of order"}}'
        return answers(seen)

    pair.before = before
    samples = run(pair, file, modes=("base", "draft"))
    failed = [sample for sample in samples if sample.error]
    assert {sample.setting for sample in failed} == {"draft"}
    assert len(failed) == 4
    assert all((s.right, s.trace) == (None, None) and "out of order" in s.error for s in failed)
    broken[0] = False
    assert run(pair, file, modes=("base", "draft")) == samples
    again = run(pair, file, modes=("base", "draft"), retry_failed=True)
    assert [sample.error for sample in again] == [None] * 8
    assert [sample for sample in again if sample.setting == "base"] == [
        sample for sample in samples if sample.setting == "base"
    ]
    assert read_run(file)[1] != samples
    assert sorted(sample.key for sample in read_run(file)[1]) == sorted(sample.key for sample in again)


def test_a_sample_that_went_on_without_the_draft_model_is_a_failed_one(pair, tmp_path):
    """The base model's answer would count for the pair's."""

    def before(seen):
        if seen.purpose == "draft" and seen.turn.count("\n\n") == 1:
            return 500, b'{"error": {"message": "out of order"}}'
        return answers(seen)

    pair.before = before
    (sample,) = run(pair, tmp_path / "x.jsonl", modes=("sequential",), problems=PROBLEMS[1:2])
    assert sample.right is None
    assert sample.error.startswith("ServerError: the draft runtime failed: ")
    assert sample.trace.steps[1].undrafted == "failure"


def test_an_answer_that_cannot_be_graded_is_a_failure_that_keeps_its_trace(pair, tmp_path, monkeypatch):
    def score(answer):
        raise ZeroDivisionError

    problem = Problem("p", "q", "1", score=score)
    (sample,) = run(pair, tmp_path / "x.jsonl", modes=("base",), problems=[problem])
    assert sample.right is None
    assert "scorer failed" in sample.error
    assert sample.trace.answer == "\\boxed{2}"


def test_a_runtime_that_is_gone_ends_the_run(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(pair.draft, "base_url", "http://127.0.0.1:9")

    def gone():
        raise ServerError("gone")

    monkeypatch.setattr(pair.draft, "flush_cache", gone)
    with pytest.raises(ServerError, match="gone"):
        run(pair, tmp_path / "x.jsonl")
    assert read_run(tmp_path / "x.jsonl")[1] == []


def test_the_papers_methods_run_on_the_same_servers_and_a_reward_model_judges(pair, tmp_path, scripted):
    meta = {"prompt_tokens": 5, "completion_tokens": 0}
    scripted.on_classify = lambda payload: {
        "embedding": [chance(payload["input_ids"]).random()],
        "meta_info": meta,
    }
    with Endpoint(scripted.url, timeout=20) as reward:
        samples = run(
            pair, tmp_path / "x.jsonl", modes=("paper", "correct", "reward"), problems=PROBLEMS[:1],
            knobs={"reward_threshold": [0.5]}, reward=reward,
        )  # fmt: skip
    assert [sample.error for sample in samples] == [None] * 3
    rewards = [step.score for step in samples[2].trace.steps if step.score is not None]
    assert len(rewards) == sum(path == "/classify" for path, _ in scripted.requests)
    assert {step.author for step in samples[2].trace.steps} == {"draft", "base"}
    assert all((step.score >= 0.5) is (step.author == "draft") for step in samples[2].trace.steps)


def test_corrections_and_prefills_of_a_run_are_reported(pair, tmp_path):
    other = pair.base.tokenizer.encode("7", add_special_tokens=False)[0]
    pair.first = lambda ids, at: other if chance(ids[: at + 1]).random() < 0.1 else None
    results = run(pair, tmp_path / "x.jsonl", modes=("base", "correct", "paper"))
    corrected = [sample.trace for sample in results if sample.setting == "correct"]
    rows = {row.setting: row for row in Report.read(tmp_path / "x.jsonl").rows}
    assert rows["correct"].prefills == np.mean([prefills(trace) for trace in corrected]) >= 1
    assert min(trace.corrections for trace in corrected) > 0
    assert rows["paper"].prefills > 0
    assert rows["base"].prefills == 0


FORKS = """
import json, os, sys
from specreason_sgl import cli
from specreason_sgl.evaluation import evaluate
import math_verify, transformers
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        cli.main(json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def command(tmp_path):
    """Runs command lines, each in a process of its own, forked from one that has imported everything."""
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": file, "text": True}
        with subprocess.Popen([sys.executable, "-c", FORKS], **pipes) as parent:

            def start(arguments):
                parent.stdin.write(json.dumps(arguments) + "\n")
                parent.stdin.flush()
                return int(parent.stdout.readline())

            def finish():
                """The exit status, past what the command printed."""
                for line in iter(parent.stdout.readline, ""):
                    if line.strip().removeprefix("-").isdigit():
                        return int(line)
                raise AssertionError(log.read_text())

            yield start, finish
            parent.stdin.close()


def command_line(pair, folder, problems=PROBLEMS):
    data = folder / "problems.jsonl"
    rows = [{"id": each.id, "question": each.question, "answer": each.answer} for each in problems]
    data.write_text("\n".join(map(json.dumps, rows)))
    urls = ["--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    small = ["--temperature", "0", "--token-budget", "40", "--answer-tokens", "16"]
    return ["eval", "--data", str(data), *urls, *small]


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(pair, tmp_path, command):
    start, finish = command
    modes = ["--modes", "base,draft,pipelined,correct", "--threshold", "3,6", "--window", "step"]
    fixed = [*command_line(pair, tmp_path), *modes]
    count, kill_at, pid = 0, None, 0
    lock, started = threading.Lock(), threading.Event()

    def before(seen):
        nonlocal count
        with lock:
            count += 1
            if count == kill_at:
                started.wait(60)
                os.kill(pid, signal.SIGKILL)
        return answers(seen)

    pair.before = before
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    start([*fixed, "--out", str(whole)])
    assert finish() == 0
    total, rng = count, random.Random(2)
    for _ in range(3):  # too few requests each time for all of it
        count, kill_at = 0, rng.randrange(total // 8, total // 3)
        started.clear()
        pid = start([*fixed, "--out", str(torn)])
        started.set()
        assert finish() == -signal.SIGKILL
    kill_at = None
    start([*fixed, "--out", str(torn)])
    assert finish() == 0
    assert timeless(torn) == timeless(whole)


def test_the_command_sweeps_the_knobs_of_the_correction(pair, tmp_path, run_command):
    out = tmp_path / "x.jsonl"
    sweep = ["--modes", "correct,paper", "--delta", "1,3", "--window", "16,step", "--confidence=-0.5"]
    done = run_command(*command_line(pair, tmp_path, PROBLEMS[:1]), *sweep, "--out", str(out))
    assert done.returncode == 0
    head, samples = read_run(out)
    assert {sample.setting for sample in samples} == set(head.settings)
    repairs = {name: config["repair"] for name, config in head.settings.items()}
    assert repairs.pop("paper")["kind"] == "Rewrite"
    assert {name: (repair["delta"], repair["window"]) for name, repair in repairs.items()} == {
        f"correct delta={delta} window={window or 'step'}": (delta, window)
        for delta in (1, 3)
        for window in (16, None)
    }
    assert head.settings["correct delta=1 window=16"]["confidence"] == -0.5


def test_the_command_starts_a_base_server_with_every_core_beside_a_pinned_pair(
    pair, tmp_path, run_command, monkeypatch, scripted
):
    draft, base, whole = (
        SimpleNamespace(url=server.url, api_key=None)
        for server in (pair.draft_server, pair.base_server, scripted)
    )
    scripted.on_generate = pair.base_server.on_generate
    started = SimpleNamespace(draft=draft, base=base)
    for name, running in (("launch_pair", started), ("launch_whole", whole)):
        monkeypatch.setattr(
            f"specreason_sgl.runtime.launch.{name}", lambda *_, to=running, **__: nullcontext(to)
        )
    out = tmp_path / "x.jsonl"
    data, small = command_line(pair, tmp_path, PROBLEMS[:2])[1:3], ["--token-budget", "40"]
    arguments = ["eval", *data, *small, "--modes", "base-whole", "--out", str(out)]
    assert "base-whole needs a base server" in run_command(*arguments).stderr
    done = run_command(*arguments, "--pin")
    assert done.returncode == 0
    assert [sample.trace.mode for sample in read_run(out)[1]] == ["base"] * 2
    assert "/generate" not in {path for path, _ in pair.base_server.requests}


def test_the_command_says_what_failed(pair, tmp_path, run_command):
    pair.before = lambda seen: (400, b'{"error": {"message": "out of order"}}')
    arguments = command_line(pair, tmp_path, PROBLEMS[:1])
    done = run_command(*arguments, "--modes", "base", "--out", str(tmp_path / "x.jsonl"))
    assert done.returncode == 1
    assert "1 of 1 samples failed" in done.stderr


def test_one_call_writes_a_run_and_goes_on_with_it(pair, tmp_path):
    out, settings = tmp_path / "x.jsonl", expand(("base", "pipelined"), KNOBS)
    how = Runtimes(pair.draft, pair.base), runner.RunOptions(samples=2)
    solved = runner.run_evaluation(PROBLEMS[:2], settings, out, *how, data="mine")
    head, samples = read_run(out)
    assert (samples, len(samples)) == (solved, 8)
    assert (head.data, head.samples, head.base_model) == ("mine", 2, "scripted")
    text = out.read_text()
    pair.seen.clear()
    assert runner.run_evaluation(PROBLEMS[:2], settings, out, *how, data="mine") == solved
    assert (out.read_text(), pair.seen) == (text, [])


def test_settings_take_turns_after_a_warm_up_and_the_second_sample_has_them_reversed(pair, tmp_path):
    out, settings = tmp_path / "x.jsonl", expand(("base", "mix"), KNOBS)
    run(pair, out, modes=("base", "mix"), problems=PROBLEMS[:2], samples=2)
    order = [(sample.number, sample.setting) for sample in read_run(out)[1]]
    assert order == [(0, name) for name in ("base", "mix")] * 2 + [(1, name) for name in ("mix", "base")] * 2
    mixed = {sample.problem: sample.trace.mode for sample in read_run(out)[1] if sample.setting == "mix"}
    assert mixed == {id: settings[1].model_alone(id) for id in ("p0", "p1")}
    pair.seen.clear()
    again = run(pair, tmp_path / "y.jsonl", modes=("base",), problems=PROBLEMS[:1], warm_up=True)
    assert (len(again), sum(seen.purpose == "answer" for seen in pair.seen)) == (1, 2)


def test_the_progress_bar_says_that_the_models_warm_up(pair, tmp_path, capsys):
    run(pair, tmp_path / "x.jsonl", modes=("base",), warm_up=True, progress_bar=True)
    before, warm, after = capsys.readouterr().err.partition("warming up")
    assert (warm, "right" in before) == ("warming up", False)
    assert "warming up" not in after.rpartition("\r")[2]


def test_samples_of_a_later_session_are_marked_and_another_machine_is_refused(pair, tmp_path, monkeypatch):
    out, settings = tmp_path / "x.jsonl", expand(("base",), KNOBS)
    how = Runtimes(pair.draft, pair.base), runner.RunOptions(warm_up=False)
    runner.run_evaluation(PROBLEMS[:2], settings, out, *how)
    head, *lines = out.read_text().splitlines(keepends=True)
    out.write_text(head + lines[0])
    runner.run_evaluation(PROBLEMS[:2], settings, out, *how)
    assert [sample.resumed is not None for sample in read_run(out)[1]] == [False, True]
    assert read_run(out)[0].provenance.versions["sglang"]
    monkeypatch.setattr(runner, "this_machine", lambda: Machine("another", 64, 512))
    with pytest.raises(ConfigError, match=r"other settings \(machine\)"):
        runner.run_evaluation(PROBLEMS[:2], settings, out, *how)


def made(problem, number, setting, seconds):
    """A sample that took so long, or failed (None)."""
    trace = None if seconds is None else SimpleNamespace(seconds=seconds)
    return Sample(problem, number, setting, "2", True, "ServerError: gone" if trace is None else None, trace)


def test_the_time_left_is_by_each_settings_mean_else_by_what_was_tried_else_by_the_others():
    settings = expand(("base", "draft", "correct"), KNOBS)
    recorded = [made("p0", 0, "base", 2.0), made("p0", 1, "base", 4.0), made("p1", 0, "base", None)]

    def left(**options):
        options = runner.RunOptions(samples=2, concurrency=4, **options)
        by_setting = time_left(10, settings, options, recorded, {"base": 99.0, "draft": 1.0})
        return {name: (each.samples, each.sample_seconds, each.seconds) for name, each in by_setting.items()}

    assert left() == {"base": (17, 3, 17 * 3 / 4), "draft": (20, 1, 5), "correct": (20, 2, 10)}
    assert left(retry_failed=True)["base"] == (18, 3, 18 * 3 / 4)


def test_problems_that_the_calibration_was_made_on_are_refused():
    made_on = msgspec.structs.replace(CALIBRATION, problem_hashes=(PROBLEMS[1].hash,))
    check_untouched(PROBLEMS[2:], {"mini": made_on})
    with pytest.raises(
        ConfigError, match=r"the calibration mini, which was made on 1 of them, the first p1;"
    ):
        check_untouched(PROBLEMS, {"mini": made_on})
