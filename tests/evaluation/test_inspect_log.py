"""Logs for inspect_ai: what they hold, and that its own program reads them."""

import json
import shutil
import subprocess

import pytest

from specreason_sgl.evaluation.groups import load
from specreason_sgl.evaluation.inspect_log import write_logs
from specreason_sgl.evaluation.settings import expand
from tests.support.evaluation_files import KNOBS, sample, trace, write

INSPECT = shutil.which("inspect")


@pytest.fixture
def logs(tmp_path):
    """By setting: base solves p0 and p1 and fails at p2; correct solves p0, p2 and p3, p1 wrongly."""
    samples = [
        sample(0, 0, "base", True, trace("base", 4)),
        sample(1, 0, "base", True, trace("base", 4)),
        sample(2, 0, "base", None, None),
        sample(0, 0, "correct", True, trace("correct", 2, "kc", wasted=7)),
        sample(1, 0, "correct", False, trace("correct", 2, "kr")),
        sample(2, 0, "correct", True, trace("correct", 2, "k")),
        sample(3, 0, "correct", True, trace("correct", 2, "k")),
    ]
    run = write(tmp_path / "run.jsonl", expand(("base", "correct"), KNOBS), samples, samples=1)
    write_logs(load([run]), tmp_path / "logs")
    return {path.name.split("_")[1]: path for path in (tmp_path / "logs").iterdir()}


def test_a_log_has_the_chain_with_its_writers_the_scores_usage_and_times(logs):
    log = json.loads(logs["correct"].read_text())
    assert (log["status"], log["eval"]["model"]) == ("success", "d + b")
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 3 / 4
    first, second, *_ = log["samples"]
    assert [message["content"] for message in first["messages"]] == ["q", "k", "c", "1"]
    assert [message["model"] for message in first["messages"][1:]] == ["d", "d + b", "b"]
    kept, corrected, answer = (message["metadata"] for message in first["messages"][1:])
    assert (kept["written by"], kept["score"]) == ("draft", 8.0)
    assert (corrected["written by"], corrected["corrections"]) == ("both", "[-x-]{+c+} 4.00")
    assert answer == {"written by": "base"}
    assert second["messages"][2]["metadata"]["rejected"] == "no"
    assert (first["target"], first["scores"]["right"]) == ("1", {"value": "C", "answer": "1"})
    assert second["scores"]["right"]["value"] == "I"
    assert first["total_time"] == 2
    assert first["model_usage"]["d"]["output_tokens"] == first["role_usage"]["draft"]["output_tokens"] == 15
    written = [sample["model_usage"]["d"]["output_tokens"] for sample in log["samples"]]
    assert log["stats"]["model_usage"]["d"]["output_tokens"] == sum(written)


def test_a_failed_sample_is_wrong_and_has_its_question_and_an_unfinished_run_says_so(logs):
    log = json.loads(logs["base"].read_text())
    assert (log["status"], log["results"]["completed_samples"]) == ("cancelled", 2)
    failed = log["samples"][2]
    assert (failed["input"], failed["error"]["message"]) == ("q", "ServerError: gone")
    assert failed["scores"]["right"]["value"] == "I"
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)


@pytest.mark.skipif(
    not INSPECT, reason="inspect missing on PATH: pip install inspect-ai, in an environment of its own"
)
def test_inspect_reads_the_logs(logs):
    def inspect(*arguments):
        command = [INSPECT, "log", *map(str, arguments)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    listed = inspect("list", "--json", "--log-dir", logs["base"].parent)
    assert {each["task"] for each in listed} == {"base", "correct"}
    assert inspect("dump", "--header-only", logs["base"])["results"]["total_samples"] == 4
    first = inspect("dump", logs["correct"])["samples"][0]
    assert first["output"]["completion"] == "1"
    assert first["role_usage"]["draft"]["output_tokens"] == 15
