"""Failed states, and states that end: what SGLang's interpreter does not do itself."""

import subprocess
import sys
import threading

import pytest
import sglang as sgl
from sglang.lang.interpreter import ProgramState, StreamExecutor
from sglang.lang.ir import SglSamplingParams

from specreason_sgl import fork_to
from specreason_sgl.errors import ServerError
from tests.support.asking import run
from tests.support.scripted import answer
from tests.support.waiting import wait_until


def test_a_failure_keeps_earlier_results_and_sends_nothing_more(scripted, endpoint):
    replies = iter([answer("first"), *[(400, b"{}")] * 9])
    scripted.on_generate = lambda payload: next(replies)

    @sgl.function
    def three(s):
        s += sgl.user("q")
        s += sgl.assistant(sgl.gen("a") + sgl.gen("b") + sgl.gen("c"))

    state = three.run(backend=endpoint)
    with pytest.raises(ServerError):
        state["c"]
    assert state["a"] == "first"
    assert len(scripted.generated()) == 2


def test_a_failure_crosses_forks(scripted, endpoint):
    scripted.on_generate = lambda payload: (400, b"{}")

    @sgl.function
    def forking(s):
        s += sgl.user("q")
        s += sgl.assistant_begin()
        s += sgl.gen("a")
        forks = [*s.fork(2), fork_to(s, endpoint)]
        for fork in forks:
            fork += " and" + sgl.gen("b")
            with pytest.raises(ServerError):
                fork["b"]
        s["checked"] = True

    assert len(scripted.generated()) == 0
    state = forking.run(backend=endpoint)
    assert state.error() is not None
    assert len(scripted.generated()) == 1


FAILING_SCRIPT = """
import sys
import sglang as sgl
from specreason_sgl import Endpoint

@sgl.function
def failing(s):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    forks = s.fork(1)
    forks[0] += sgl.gen("a")
    print("asked", flush=True)
    sys.stdin.read(1)
    raise RuntimeError("boom")

failing.run(backend=Endpoint(sys.argv[1]))
"""


def test_a_script_whose_program_fails_ends_and_aborts(scripted):
    def end_when_aborted(payload):
        wait_until(lambda: scripted.aborted() == [payload["rid"]], 60)
        return answer("", {"type": "abort", "message": "Abort by client"})

    scripted.on_generate = end_when_aborted
    script = subprocess.Popen(
        [sys.executable, "-c", FAILING_SCRIPT, scripted.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert script.stdout.readline() == "asked\n"
    assert scripted.arrived.wait(60)
    _, errors = script.communicate("\n", timeout=60)
    assert script.returncode == 1
    assert "RuntimeError: boom" in errors
    assert len(scripted.aborted()) == 1


def test_a_state_can_be_collected_in_a_thread_that_has_the_endpoints_lock(scripted, endpoint):
    """An allocation under the lock can start the garbage collector, and that ends forgotten states."""
    state = run(endpoint)

    def collect():
        with endpoint.requests.lock:
            endpoint.end_program(state.stream_executor)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(threading, "_shutdown_locks_lock"), reason="Python 3.13 has no such lock")
def test_an_ended_state_can_be_collected_while_a_thread_starts(endpoint):
    """The garbage collector may run with the lock that `threading` takes at a thread's start."""
    states = [ProgramState(StreamExecutor(endpoint, {}, None, None, False))]
    ended = states[0].stream_executor.worker
    states[0].stream_executor.end()
    # Not `join`: it would note that the thread has ended.
    wait_until(lambda: ended.ident not in sys._current_frames())

    def collect():
        with threading._shutdown_locks_lock:
            states.clear()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_a_state_that_is_ended_twice_can_still_be_read(scripted, endpoint):
    scripted.on_generate = scripted.hang
    state = ProgramState(StreamExecutor(endpoint, {}, SglSamplingParams(), None, False))
    state += sgl.gen("a")
    assert scripted.arrived.wait(60)
    state.stream_executor.end()
    state.stream_executor.end()
    scripted.released.set()
    reader = threading.Thread(target=state.text, daemon=True)
    reader.start()
    reader.join(60)
    assert not reader.is_alive()
