"""`specreason-sgl serve` as a process, in front of a scripted pair."""

import json
import re
import signal
import socket
import subprocess
import sys

import pytest
import urllib3

from specreason_sgl.reasoning.repair import REPAIRS
from tests.support.writers import steps_of

SERVE = [sys.executable, "-m", "specreason_sgl.cli", "serve"]


@pytest.fixture
def process(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    command = [*SERVE, "--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    command += ["--port", "0", "--served-model-name", "two", "--temperature", "0", "--token-budget", "60"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield running
    running.kill()
    running.communicate()


def url_of(process):
    return re.search(r"at (http://127\.0\.0\.1:\d+)/v1", process.stdout.readline())[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(pair, process, number):
    url = url_of(process)
    body = {"model": "two", "messages": [{"role": "user", "content": "q"}]}
    reply = urllib3.request("POST", f"{url}/v1/chat/completions", json=body, timeout=60).json()
    assert reply["choices"][0]["message"]["reasoning_content"] == "draft 1\n\ndraft 2\n\ndraft 3"
    assert urllib3.request("GET", f"{url}/health").json()["runtimes"] == {
        "draft": {"state": "ready"},
        "base": {"state": "ready"},
    }
    page = urllib3.request("GET", f"{url}/")
    assert page.status == 200
    assert "text/html" in page.headers["content-type"]

    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in err


@pytest.fixture
def refused(run_command, monkeypatch):
    """Runs `serve` in this process, where it must start no other."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    return lambda *arguments: run_command("serve", *arguments)


def test_a_taken_port_is_told_before_anything_is_started(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = refused("--pair", "mini", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: cannot listen at 127.0.0.1, port {port}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "give an --api-key"),
        (["--draft-gpus", "x"], "--draft-gpus must be whole numbers, with commas; got 'x'"),
        (["--repair", "rewrite", "--delta", "1"], "--delta must come with --repair correct, got rewrite"),
        (
            ["--window", "all"],
            "--window must be a whole number of at least 1, or 'auto' or 'step', got 'all'",
        ),
        (["--threshold", "11"], "threshold"),
        (["--timeout", "0"], "--timeout must be a positive number of seconds, got 0"),
        (["--draft-url", "http://127.0.0.1:9"], "--draft-url and --base-url must be given together"),
        (["--decode", "guess"], "--decode must be one of"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_started(refused, arguments, says):
    done = refused(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_description_of_the_api_names_what_it_takes(url):
    schema = urllib3.request("GET", f"{url}/openapi.json").json()
    assert "422" not in json.dumps(schema["paths"])
    knobs = schema["components"]["schemas"]["Extension"]["properties"]
    assert {"repair", "delta", "numeric_delta", "window", "confidence", "lookahead", "threshold"} <= set(
        knobs
    )
    assert not {"eager_rewrite", "candidates", "salvage"} & set(knobs)
    assert knobs["repair"]["anyOf"][0]["enum"] == list(REPAIRS)
    assert [kind.get("type") for kind in knobs["window"]["anyOf"]] == ["integer", "string", "null"]
    asked = schema["components"]["schemas"]["ChatRequest"]["properties"]
    assert asked["model"]["enum"] == ["two", "two-base", "two-draft"]
    assert [*schema["paths"]["/metrics"]["get"]["responses"]["200"]["content"]] == ["text/plain"]
