"""SGLang's own router between this package and two draft servers."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest
import urllib3

from specreason_sgl import Endpoint, Rewrite, SpecReasonConfig, solve
from specreason_sgl.errors import RequestAborted
from specreason_sgl.runtime.server import free_port
from tests.support.runtimes import QUESTIONS, metric, running
from tests.support.waiting import wait_until

PAPER = {"repair": Rewrite(), "threshold": 0, "temperature": 0}
CONFIG = SpecReasonConfig(**PAPER, token_budget=120, step_tokens=30, answer_tokens=16)
SERVED = "sglang:num_requests_total"


@pytest.fixture(scope="module")
def routed(pair, more):
    """The router's URL, and the draft servers behind it."""
    workers = [pair.draft, more.draft]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "sglang_router.launch_router", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--prometheus-port", str(free_port()), "--policy", "cache_aware"]
    command += ["--cb-failure-threshold", "1", "--health-check-interval-secs", "2"]
    command += ["--api-key", pair.draft.api_key]
    command += ["--worker-urls", *(worker.url for worker in workers)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_ready(url, pair.draft.api_key, len(workers)), 180)
        yield SimpleNamespace(url=url, api_key=pair.draft.api_key, workers=workers)
    finally:
        process.terminate()
        process.wait(30)


def is_ready(url: str, key: str, workers: int) -> bool:
    headers = {"Authorization": f"Bearer {key}"}
    try:
        reply = urllib3.request("GET", f"{url}/workers", headers=headers, retries=False, timeout=5)
        listed = reply.json()["workers"]
    except (urllib3.exceptions.HTTPError, ValueError):
        return False
    return sum(worker["is_healthy"] for worker in listed) == workers


@pytest.fixture
def drafts(routed):
    with Endpoint(routed, timeout=120) as endpoint:
        yield endpoint


def test_an_abort_reaches_the_server_behind_the_router(drafts, routed):
    import sglang as sgl

    @sgl.function
    def endless(s):
        s += sgl.user("Count.") + sgl.assistant(sgl.gen("out", max_tokens=2000, ignore_eos=True))

    state = endless.run(backend=drafts, temperature=0)
    wait_until(lambda: sum(running(worker.url) for worker in routed.workers) == 1, 60)
    assert drafts.abort(state) == 1
    with pytest.raises(RequestAborted):
        state["out"]
    wait_until(lambda: sum(running(worker.url) for worker in routed.workers) == 0)


def test_a_run_stays_on_the_draft_server_that_has_its_prefix(drafts, base, routed):
    before = [metric(worker.url, SERVED) for worker in routed.workers]
    trace = solve(QUESTIONS[0], draft=drafts, base=base, config=CONFIG)
    after = [metric(worker.url, SERVED) for worker in routed.workers]
    assert len(trace.steps) > 2
    assert sorted(b - a for a, b in zip(before, after, strict=True))[0] == 0
    drafted = [call for call in trace.calls if call.side == "draft"]
    assert all(
        call.cached_tokens >= 0.9 * earlier.prompt_tokens for earlier, call in itertools.pairwise(drafted)
    )


def test_a_draft_server_that_is_killed_is_not_missed(drafts, base, routed, more):
    """Last of those that use it: the server is gone afterwards."""
    config = SpecReasonConfig(**PAPER, token_budget=90, step_tokens=30, answer_tokens=16)
    # Too different for the router to send them all where the first one went.
    questions = [f"{f'The {name} count their steps. ' * 12}How many?" for name in ("cats", "owls", "elks")]
    with ThreadPoolExecutor(len(questions)) as threads:
        asking = [
            threads.submit(solve, question, draft=drafts, base=base, config=config) for question in questions
        ]
        wait_until(lambda: running(more.draft.url) > 0, 60)
        for child in psutil.Process(more.draft.pid).children(recursive=True):
            child.kill()
        traces = [solved.result() for solved in asking]
    assert all(trace.answer for trace in traces)
    assert {call.side for trace in traces for call in trace.calls} == {"draft", "base"}
