import subprocess
import sys
import time

import pytest

CLI = [sys.executable, "-m", "specreason_sgl.cli"]


def run(*arguments, **options):
    return subprocess.run([*CLI, *arguments], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["solve", ""], 2, "the question is empty"),
        (["solve", "-"], 2, "the question is empty"),
        (["solve", "q", "--threshold", "11"], 2, "threshold must be a number from 0 to 9, got 11.0"),
        (["solve", "q", "--threshold", "many"], 2, "Invalid value for '--threshold'"),
        (["solve", "q", "--verifier", "guess"], 2, "there is no verifier 'guess'; there are score, "),
        (["solve", "q", "--threshold", "5", "--keep", "0.5"], 2, "a threshold or a share to keep, not both"),
        (["solve", "q", "--keep", "0"], 2, "steps to keep must be above 0 and at most 1, got 0.0"),
        (["solve", "q", "--verifier", "yes-no"], 2, "the verifier yes-no needs a threshold"),
        (["solve", "q", "--calibration", "missing.json"], 2, "missing.json cannot be read: No such file"),
        (["solve", "q", "--calibration", "LICENSE"], 2, "LICENSE: this is not a calibration"),
        (["solve", "q", "--lookahead", "-1"], 2, "lookahead must be a whole number of at least 0, got -1"),
        (["solve", "q", "--repair", "mend"], 2, "repair must be 'correct' or 'rewrite', got 'mend'"),
        (["solve", "q", "--delta=-1"], 2, "delta must be a number of nats of at least 0, got -1.0"),
        (["solve", "q", "--numeric-delta", "nan"], 2, "numeric_delta must be a number of nats of at least 0"),
        (["solve", "q", "--window", "0"], 2, "window must be a whole number from 1, 'auto' or None, got 0"),
        (
            ["solve", "q", "--window", "all"],
            2,
            "--window must be a whole number, 'auto' or 'step', got 'all'",
        ),
        (["solve", "q", "--confidence", "1"], 2, "confidence must be a number of at most 0, got 1.0"),
        (["solve", "q", "--threshold", "5", "--delta", "1"], 2, "delta must come with repair 'correct'"),
        (["solve", "q", "--repair", "rewrite", "--window", "step"], 2, "window must come with repair"),
        (["solve", "q", "--at-budget", "panic"], 2, "at_budget must be 'answer' or 'stop', got 'panic'"),
        (["solve", "q", "--pair", "micro"], 2, "no pair is named 'micro'"),
        (["solve", "q", "--draft", "x"], 2, "give both --draft and --base"),
        (["solve", "q", "--base-url", "http://127.0.0.1:9"], 2, "give both --draft-url and --base-url"),
        (["solve", "q", "--draft-args", "'open"], 2, "flags for SGLang cannot be read"),
        (["solve", "q", "--draft-url", "here", "--base-url", "there"], 2, "is not a server's URL"),
        (
            ["solve", "q", "--draft-url", "http://127.0.0.1:9", "--base-url", "http://127.0.0.1:9"],
            1,
            "nobody answers at http://127.0.0.1:9",
        ),
        (["solve", "q", "--nonsense"], 2, "--nonsense"),
        (["models", "fetch", "micro"], 2, "no pair is named 'micro'"),
        (["models", "fetch", "nano", "--source", "moon"], 2, "auto, hub or packages"),
        (["doctor", "--pair", "micro"], 2, "no pair is named"),
        (["eval", "--data", "aime23"], 2, "data must be a file or one of aime24, "),
        (
            ["eval", "--data", "LICENSE", "--modes", "fast"],
            2,
            "--modes must be some of base, draft, correct, ",
        ),
        (
            ["eval", "--data", "LICENSE", "--threshold", "3,many"],
            2,
            "--threshold must be numbers with commas, got '3,many'",
        ),
        (
            ["eval", "--data", "LICENSE", "--verifier", "score", "--threshold", "3,11"],
            2,
            "threshold must be a number from 0 to 9",
        ),
        (["eval", "--data", "LICENSE", "--delta", "3,-1"], 2, "delta must be a number of nats of at least 0"),
        (["eval", "--data", "LICENSE", "--window", "16,all"], 2, "--window must be a whole number, "),
        (["eval", "--data", "LICENSE", "--window", "16,"], 2, "--window must be a whole number, "),
        (["bench", "--modes", "eager"], 2, "--modes must be some of base, draft, sequential, pipelined, "),
        (["bench", "--acceptance", "2"], 2, "--acceptance must be from 0 to 1, got 2.0"),
        (["bench", "--correct-every", "9", "--delta", "1"], 2, "--correct-every must come without --delta"),
        (["eval", "--data", "LICENSE", "--modes", "reward"], 2, "--reward-url"),
        (["eval", "--data", "LICENSE", "--out", "missing/x"], 2, "there is no folder missing"),
        (["report", "missing.jsonl"], 2, "missing.jsonl cannot be read: No such file"),
        (["report", "LICENSE"], 2, "LICENSE, line 1: this is not a record of specreason-sgl eval"),
    ],
)
def test_wrong_input_is_one_line_on_standard_error(arguments, code, says):
    done = run(*arguments, input="")
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("gone", ["--candidates", "--salvage", "--eager-rewrite"])
def test_options_of_what_is_gone_are_unknown(gone):
    done = run("solve", "q", gone, "1")
    assert done.returncode == 2
    assert f"No such option: {gone}" in done.stderr


def test_a_server_that_is_not_sglang_is_told_apart(scripted):
    scripted.model_info = {}
    done = run("solve", "q", "--draft-url", scripted.url, "--base-url", scripted.url)
    assert done.returncode == 1
    assert done.stderr == f"error: {scripted.url} is not an SGLang server: its /model_info names no model\n"


@pytest.mark.parametrize("command", [[], ["solve"], ["eval"], ["report"], ["models"], ["models", "fetch"]])
def test_help_says_what_each_command_does(command):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_help_does_not_wait_for_sglang():
    code = "import sys; sys.argv = ['x', '--help']\nfrom specreason_sgl.cli import app\n"
    code += "app(standalone_mode=False); assert 'sglang' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_models_list_names_every_pair_and_cuts_nothing_in_a_pipe(tmp_path):
    done = run("models", "list")
    assert done.returncode == 0
    for name in ("mini", "nano", "paper", "qwen3", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"):
        assert name in done.stdout


def test_models_path_of_what_is_not_here_says_how_to_get_it(tmp_path):
    import os

    env = {**os.environ, "SPECREASON_SGL_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)}
    done = run("models", "path", "nano", env=env)
    assert done.returncode == 2
    assert "specreason-sgl models fetch nano" in done.stderr


def test_doctor_stops_where_memory_is_short(monkeypatch):
    from specreason_sgl.runtime import doctor, machine, pairs

    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.setattr(machine, "available_memory", lambda: 10**6)
    verdicts = {one.topic: one.verdict for one in doctor.examine(pairs.get_pair("nano"))}
    assert verdicts["memory"] == "stop"
    assert verdicts["Python"] == verdicts["sglang"] == "ok"


def test_sigterm_ends_a_run_in_order(scripted):
    import signal

    scripted.on_generate = scripted.hang
    command = [*CLI, "solve", "q", "--draft-url", scripted.url, "--base-url", scripted.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert scripted.arrived.wait(60)
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not scripted.aborted() and time.monotonic() < deadline:
        scripted.released.wait(0.01)
    assert scripted.aborted() == [scripted.generated()[0]["rid"]]
    scripted.released.set()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in err
