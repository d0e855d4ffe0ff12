"""The command line: wrong input, help, and an orderly end."""

import re
import signal
import subprocess
import sys

import pytest

from specreason_sgl.cli.program import COMMANDS
from tests.support.waiting import wait_until

CLI = [sys.executable, "-m", "specreason_sgl.cli"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["solve", ""], 2, "the question is empty"),
        (["solve", "-"], 2, "the question is empty"),
        (["solve", "q", "--threshold", "11"], 2, "--threshold must be a number from 0 to 9, got 11.0"),
        (["solve", "q", "--threshold", "many"], 2, "--threshold must be a number, got 'many'"),
        (["solve", "q", "--verifier", "guess"], 2, "--verifier must be one of 'score', "),
        (
            ["solve", "q", "--threshold", "5", "--keep", "0.5"],
            2,
            "--threshold and --keep must not be given together",
        ),
        (
            ["solve", "q", "--verifier", "yes-no"],
            2,
            "--threshold, --keep or --calibration must be given with the --verifier yes-no",
        ),
        (["solve", "q", "--calibration", "missing.json"], 2, "missing.json cannot be read: No such file"),
        (["solve", "q", "--calibration", "LICENSE"], 2, "LICENSE: this is not a calibration"),
        (
            ["solve", "q", "--window", "all"],
            2,
            "--window must be a whole number of at least 1, or 'auto' or 'step', got 'all'",
        ),
        (["solve", "q", "--threshold", "5", "--delta", "1"], 2, "--delta must come with --repair correct"),
        (["solve", "q", "--pair", "micro"], 2, "no pair is named 'micro'"),
        (["solve", "q", "--draft", "x"], 2, "--draft and --base must be given together"),
        (
            ["solve", "q", "--base-url", "http://127.0.0.1:9"],
            2,
            "--draft-url and --base-url must be given together",
        ),
        (["solve", "q", "--draft-args", "'open"], 2, "flags for SGLang cannot be read"),
        (["solve", "q", "--draft-url", "here", "--base-url", "there"], 2, "is not a server's URL"),
        (
            ["solve", "q", "--draft-url", "http://127.0.0.1:9", "--base-url", "http://127.0.0.1:9"],
            1,
            "nobody answers at http://127.0.0.1:9",
        ),
        (["solve", "q", "--nonsense"], 2, "--nonsense"),
        (["solve", "q", "--no-json"], 2, "No such option: --no-json"),
        (["models", "fetch", "micro"], 2, "models fetch takes a pair (mini, nano, paper, qwen3), a model's"),
        (["models", "path", "nosuch"], 2, "models path takes a pair (mini, nano, paper, qwen3), a model's"),
        (["models", "fetch", "nano", "--source", "moon"], 2, "auto, hub or packages"),
        (["doctor", "--pair", "micro"], 2, "no pair is named"),
        (["eval", "--data", "aime23"], 2, "data must be a file or one of aime24, "),
        (
            ["eval", "--data", "LICENSE", "--modes", "fast"],
            2,
            "--modes must be some of base, draft, base-whole, mix, correct, ",
        ),
        (
            ["eval", "--data", "LICENSE", "--threshold", "3,many"],
            2,
            "--threshold must be a number, got 'many'",
        ),
        (
            ["eval", "--data", "LICENSE", "--verifier", "score", "--threshold", "3,11"],
            2,
            "--threshold must be a number from 0 to 9",
        ),
        (
            ["eval", "--data", "LICENSE", "--window", "16,"],
            2,
            "--window must be a whole number of at least 1, ",
        ),
        (["bench", "--modes", "eager"], 2, "--modes must be some of base, draft, sequential, pipelined, "),
        (
            ["bench", "--concurrency", "0,3"],
            2,
            "--concurrency must be whole numbers from 1 to 100000, with comm",
        ),
        (["bench", "--acceptance", "2"], 2, "--acceptance must be from 0 to 1, got 2"),
        (["bench", "--correct-every", "9", "--delta", "1"], 2, "--correct-every must come without --delta"),
        (["eval", "--data", "LICENSE", "--modes", "reward"], 2, "--reward-url"),
        (["eval", "--data", "LICENSE", "--out", "missing/x"], 2, "there is no folder missing"),
        (["report", "missing.jsonl"], 2, "missing.jsonl cannot be read: No such file"),
        (["report", "LICENSE"], 2, "LICENSE, line 1: this is not a record of specreason-sgl eval"),
    ],
)
def test_wrong_input_is_one_line_on_standard_error(run_command, arguments, code, says):
    done = run_command(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("gone", ["--candidates", "--salvage", "--eager-rewrite"])
def test_options_of_what_is_gone_are_unknown(run_command, gone):
    done = run_command("solve", "q", gone, "1")
    assert done.returncode == 2
    assert f"No such option: {gone}" in done.stderr


def test_a_server_that_is_not_sglang_is_told_apart(run_command, scripted):
    scripted.model_info = {}
    done = run_command("solve", "q", "--draft-url", scripted.url, "--base-url", scripted.url)
    assert done.returncode == 1
    assert done.stderr == f"error: {scripted.url} is not an SGLang server: its /model_info names no model\n"


ALL = [[name] for name in (*COMMANDS, "models")] + [["models", name] for name in ("list", "fetch", "path")]


@pytest.mark.parametrize("command", [[], *ALL])
@pytest.mark.parametrize("flag", ["--help", "-h", "--help-all"])
def test_help_says_what_each_command_does_and_cuts_nothing(run_command, command, flag):
    if flag == "--help-all" and command in ([], ["models"]):
        return
    done = run_command(*command, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    assert not re.search(r"[a-z]\.\.\.$", done.stdout, re.MULTILINE)
    assert "<bool>" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_what_the_short_help_leaves_out_is_in_the_long_one(run_command):
    short, full = run_command("solve", "--help").stdout, run_command("solve", "--help-all").stdout
    for panel in ("Models", "Judge and repair", "Budget and sampling"):
        assert f"\n{panel}:\n" in short
    for panel in ("Speculation", "Servers", "Advanced"):
        assert f"\n{panel}:\n" in full
    assert "more options: " in short
    assert "--patience" not in short
    assert "--patience" in full


@pytest.mark.parametrize("arguments", [[], ["models"]])
def test_without_a_command_there_is_help_and_no_error(run_command, arguments):
    done = run_command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run_command(*arguments, "--help").stdout


def test_help_does_not_wait_for_sglang():
    code = "import sys; sys.argv = ['x', '--help']\nfrom specreason_sgl.cli import app\n"
    code += "app(standalone_mode=False); assert 'sglang' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_models_list_names_every_pair_and_cuts_nothing_in_a_pipe(run_command):
    done = run_command("models", "list")
    assert done.returncode == 0
    for name in ("mini", "nano", "paper", "qwen3", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"):
        assert name in done.stdout


def test_models_path_of_what_is_not_here_says_how_to_get_it(run_command, tmp_path, monkeypatch):
    monkeypatch.setenv("SPECREASON_SGL_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    done = run_command("models", "path", "nano")
    assert done.returncode == 2
    assert "specreason-sgl models fetch nano" in done.stderr


def test_doctor_stops_where_memory_is_short(monkeypatch):
    from specreason_sgl.runtime import doctor, machine, pairs
    from specreason_sgl.runtime.placement import Wish

    monkeypatch.setattr(machine, "has_accelerator", lambda: False)
    monkeypatch.setattr(machine, "available_memory", lambda: 10**6)
    findings = doctor.examine(pairs.get_pair("nano"), Wish("draft"), Wish("base"))
    verdicts = {finding.topic: finding.verdict for finding in findings}
    assert verdicts["memory"] == "stop"
    assert verdicts["Python"] == verdicts["sglang"] == "ok"


def test_sigterm_ends_a_run_in_order(scripted):
    scripted.on_generate = scripted.hang
    command = [*CLI, "solve", "q", "--draft-url", scripted.url, "--base-url", scripted.url]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert scripted.arrived.wait(60)
    process.send_signal(signal.SIGTERM)
    wait_until(scripted.aborted)
    assert set(scripted.aborted()) == {scripted.generated()[0]["rid"]}
    scripted.released.set()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in err
