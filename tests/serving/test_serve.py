"""`specreason-sgl serve` as a process, in front of a scripted pair."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import urllib3

from specreason_sgl import SpecReasonConfig
from specreason_sgl.errors import LaunchError
from specreason_sgl.reasoning.repair import REPAIRS
from specreason_sgl.serving import listen
from specreason_sgl.serving.app import Server
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.service import Service
from specreason_sgl.serving.settings import Settings
from tests.support.serving import KNOBS, serve_process, started, url_of
from tests.support.waiting import wait_until
from tests.support.writers import steps_of

ASK = {"model": "two", "messages": [{"role": "user", "content": "q"}]}

# `serve` with a pair whose start takes until there is a line to read.
STARTING = """
import contextlib, sys
from types import SimpleNamespace
from specreason_sgl.cli.program import main
from specreason_sgl.runtime import launch
from specreason_sgl.runtime.server import ServerSpec

def server(role, url):
    well = {"ready": True, "ended": lambda: "", "healthy": lambda *_: True}
    return SimpleNamespace(spec=ServerSpec(role, "some/model"), url=url, api_key=None, **well)

@contextlib.contextmanager
def launch_pair(spec, *, status, **_):
    status("waiting for the base server, 1 s")
    sys.stdin.readline()
    yield launch.Pair(server("draft", draft), server("base", base))

draft, base = sys.argv[1:3]
launch.launch_pair = launch_pair
main(["serve", *sys.argv[3:]])
"""


@pytest.fixture
def process(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    with serve_process(pair) as process:
        yield process


@pytest.fixture(params=[1, 2])
def starting(pair, request):
    pair.start_anew(steps_of(3), lambda turn: 9)
    options = [pair.draft_server.url, pair.base_server.url, *KNOBS, "--workers", str(request.param)]
    with started([sys.executable, "-c", STARTING, *options]) as process:
        yield process


def ask(url):
    return urllib3.request("POST", f"{url}/v1/chat/completions", json=ASK, timeout=60, retries=False)


def test_it_listens_before_the_runtimes_are_ready(starting, run_command):
    url = starting.stderr.readline().removeprefix("listening at ").strip().rstrip("/")
    reply = ask(url)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    said = {"status": "starting", "doing": "waiting for the base server, 1 s"}
    wait_until(lambda: urllib3.request("GET", f"{url}/health").json() == said)
    second = run_command("serve", "--port", url.rpartition(":")[2])
    assert second.returncode == 1
    assert re.fullmatch(r"error: cannot listen at 127\.0\.0\.1, port \d+: .* in use\n", second.stderr)

    starting.stdin.write("go on\n")
    starting.stdin.flush()
    assert url_of(starting) == url
    assert ask(url).status == 200
    health = urllib3.request("GET", f"{url}/health").json()
    assert (health["status"], health["runtimes"]["base"]["restarts"]) == ("ok", 0)


def test_it_can_be_stopped_while_the_runtimes_start(starting):
    starting.stderr.readline()
    starting.stderr.readline()  # what it waits for
    starting.send_signal(signal.SIGTERM)
    assert starting.wait(20) == 128 + signal.SIGTERM


def test_a_second_signal_ends_it_although_a_runtime_hangs(pair, process):
    url, released = url_of(process), threading.Event()
    pair.start_anew(steps_of(3), lambda turn: 9, before=lambda seen: released.wait(60) and None)
    pair.draft_server.on_abort = pair.base_server.on_abort = lambda payload: released.wait(60) and {}
    try:
        threading.Thread(target=answers, args=(url, "/v1/chat/completions", ASK), daemon=True).start()
        wait_until(lambda: pair.seen)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not answers(url))
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
    finally:
        released.set()


def answers(url, path="/health", body=None):
    try:
        return urllib3.request("POST" if body else "GET", url + path, json=body, retries=False).status
    except urllib3.exceptions.HTTPError:
        return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(pair, process, number):
    url = url_of(process)
    reply = ask(url).json()
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


def test_two_cannot_have_a_port_although_neither_serves_yet():
    with listen.bind("127.0.0.1", 0) as first, pytest.raises(LaunchError, match="in use"):
        listen.bind("127.0.0.1", first.getsockname()[1])


def test_it_has_imported_all_it_needs_when_its_block_begins():
    server = Server(Service(Metrics()), Settings("two", SpecReasonConfig()))
    with listen.bind("127.0.0.1", 0) as sock, server.in_background(sock):
        assert server.started


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
    done = refused(*arguments, "--port", "0")
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert says in error


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
    for kind, name in (("Chat", "messages"), ("Completion", "prompt"), ("Responses", "input")):
        asked = schema["components"]["schemas"][f"{kind}Request"]["properties"][name]
        assert 1 in (asked.get("minItems"), asked.get("minLength"))  # an empty one is refused
    asked = schema["components"]["schemas"]["ChatRequest"]["properties"]
    count, null = asked["n"]["anyOf"]
    assert (count["minimum"], count["maximum"], null) == (1, 8, {"type": "null"})
    assert asked["model"]["enum"] == ["two", "two-base", "two-draft"]
    assert [*schema["paths"]["/metrics"]["get"]["responses"]["200"]["content"]] == ["text/plain"]
