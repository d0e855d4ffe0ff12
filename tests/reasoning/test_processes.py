"""`solve_batch` with several processes."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from msgspec.structs import replace

from specreason_sgl import Cancel, Endpoint, Rewrite, SpecReasonConfig, solve, solve_batch
from specreason_sgl.errors import ConfigError, RequestAborted, ServerError, WorkerDied
from specreason_sgl.reasoning.trace import Trace
from tests.support.waiting import wait_until
from tests.support.writers import steps_of

CONFIG = SpecReasonConfig(repair=Rewrite(), temperature=0, lookahead=0, token_budget=60)
QUESTIONS = [f"question {i}" for i in range(6)]


def batch(pair, questions=QUESTIONS, **options):
    options = {"config": CONFIG, "concurrency": 4, "processes": 2, **options}
    return solve_batch(questions, draft=pair.draft, base=pair.base, **options)


def workers() -> list[psutil.Process]:
    """The processes that solve problems: children of the server that they are forked from."""
    return [
        worker
        for server in psutil.Process().children()
        if "forkserver" in " ".join(server.cmdline())
        for worker in server.children()
    ]


def timeless(trace: Trace) -> Trace:
    steps = tuple(
        replace(step, calls=tuple(replace(call, start=0, seconds=0) for call in step.calls))
        for step in trace.steps
    )
    return replace(trace, steps=steps, seconds=0, answer_call=None)


def test_the_traces_are_those_of_one_process(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    done = {}
    traces = batch(pair, on_done=done.__setitem__)
    assert list(map(timeless, traces)) == [
        timeless(solve(question, draft=pair.draft, base=pair.base, config=CONFIG)) for question in QUESTIONS
    ]
    assert done == dict(enumerate(traces))
    assert not workers()


def test_each_process_has_connections_of_its_own(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    here = threading.Barrier(4)  # four at a time, in two processes
    pids = set()

    def before(request):
        if request.purpose == "draft" and not request.turn:
            here.wait(30)
            pids.update(worker.pid for worker in workers() if worker.net_connections())

    pair.before = before
    batch(pair, QUESTIONS[:4])
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_an_error_comes_in_its_place_with_its_trace(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    failed = threading.Lock()

    def before(request):
        is_first = request.purpose == "answer" and failed.acquire(blocking=False)
        return (400, b'{"error": {"message": "boom"}}') if is_first else None

    pair.before = before
    results = batch(pair, [*QUESTIONS, " "])
    (error,) = [result for result in results[:-1] if not isinstance(result, Trace)]
    assert isinstance(error, ServerError)
    assert error.trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3"
    assert isinstance(results[-1], ConfigError)


def test_a_worker_that_dies_costs_its_problems_alone(pair):
    """One at a time in each of two processes: the first that asks is killed, and its problem is lost."""
    killed = threading.Lock()

    def before(request):
        if request.purpose == "draft" and killed.acquire(blocking=False):
            wait_until(lambda: len(workers()) == 2)
            workers()[0].send_signal(signal.SIGKILL)

    pair.start_anew(steps_of(3), lambda turn: 9, before)
    results = batch(pair, concurrency=2)
    lost = [result for result in results if not isinstance(result, Trace)]
    assert len(lost) == 1
    assert isinstance(lost[0], WorkerDied)
    assert str(lost[0]).endswith("ended with status -9; solve this again")


@pytest.fixture
def held(pair):
    """Runs wait at their first draft, until they are aborted."""

    def before(request):
        if request.purpose == "draft":
            wait_until(lambda: request.rid in pair.aborted(), 30)

    pair.start_anew(steps_of(3), lambda turn: 9, before)
    return pair


def test_a_cancelled_batch_aborts_its_requests_in_all_processes(held):
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(batch, held, cancel=cancel)
        wait_until(lambda: len(held.of("draft")) == 4, 60)
        cancel()
        results = running.result()
    assert all(isinstance(result, RequestAborted) for result in results)
    assert {request.rid for request in held.of("draft")} <= held.aborted()
    assert not workers()


SCRIPT = """
import sys
from specreason_sgl import Endpoint, solve_batch
if __name__ == "__main__":
    draft, base = map(Endpoint, sys.argv[1:])
    solve_batch(list("abcd"), draft=draft, base=base, processes=2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_program_ends_the_processes_and_their_requests(held, tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), held.draft_server.url, held.base_server.url]
    # As in a terminal: a group of its own, which Ctrl-C reaches as a whole.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: len(held.of("draft")) == 4, 120)
        started = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        process.wait(60)
        assert not psutil.wait_procs(started, 30)[1]
        wait_until(lambda: {request.rid for request in held.of("draft")} <= held.aborted(), 30)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"processes": 0}, "processes must be at least 1, got 0"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        (
            {"config": SpecReasonConfig(verifier=lambda s, drafted: 1.0, threshold=0)},
            "must be functions and classes of a module",
        ),
    ],
)
def test_what_cannot_be_sent_to_another_process_is_refused(pair, options, says):
    with pytest.raises(ConfigError, match=says):
        batch(pair, **options)


def test_an_endpoint_that_was_pickled_is_another_one_of_the_same_server(pair):
    given = pair.base.with_sampling({"repetition_penalty": 1.5})
    with pickle.loads(pickle.dumps(given)) as endpoint:
        assert isinstance(endpoint, Endpoint)
        assert endpoint.base_url == given.base_url
        assert endpoint.requests is not given.requests
        assert endpoint._sampling == given._sampling
