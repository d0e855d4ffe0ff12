"""Real processes: a stand-in server that does what a test tells it over HTTP, under the real supervisor."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import psutil
import pytest
import urllib3

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import keep, server
from specreason_sgl.runtime.keep import Keeper, RestartPolicy, ServerState, hang_limit
from specreason_sgl.runtime.server import HOST, Server, ServerSpec, wait_healthy
from specreason_sgl.runtime.shares import Share
from tests.support.waiting import wait_until

# GET /health: 200; /exit: it ends; /hang: /health is not answered any more; /busy: /health says 503.
# Where its folder has a file `broken`, it ends at its start.
STAND_IN = """
import http.server, os, sys, threading
if os.path.exists(sys.argv[2] + "/broken"):
    raise ValueError("it is broken")
mood = "/health"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global mood
        if self.path == "/exit":
            print("RuntimeError: told to exit", flush=True)
            os._exit(3)
        if self.path != "/health":
            mood = self.path
        elif mood == "/hang":
            threading.Event().wait()
        self.send_response(503 if self.path == "/health" and mood == "/busy" else 200)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
QUICK = RestartPolicy(start=30, hang=30, check=0.05, first_wait=0.01, longest_wait=0.04, steady=30)


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECREASON_SGL_CACHE", str(tmp_path))
    monkeypatch.setattr(keep, "POLL", 0.01)
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    command = property(lambda self: [sys.executable, str(program), str(self.port), str(tmp_path)])
    monkeypatch.setattr(Server, "command", command)
    return tmp_path


@contextlib.contextmanager
def running(*roles, ready=True, **spec):
    servers = [Server(ServerSpec(role, "some/model", **spec)) for role in roles]
    try:
        if ready:
            wait_healthy(servers, 30)
        yield servers
    finally:
        for server in servers:
            server.stop()


def tell(server, path):
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        urllib3.request("GET", server.url + path, retries=False, timeout=10)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def tree(server):
    supervisor = psutil.Process(server.pid)
    return [supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))]


def recovered(keeper, role, restarts):
    state = keeper.snapshot()[role]
    return state.state == "ready" and state.restarts == restarts


def test_a_server_that_ends_is_started_again_on_its_port():
    with running("draft", "base") as (draft, base), Keeper([draft, base], QUICK) as keeper:
        before, other, since = tree(base), draft.pid, keeper.snapshot()["base"].since
        port = base.port
        tell(base, "/exit")
        wait_until(lambda: recovered(keeper, "base", 1), 30)
        state = keeper.snapshot()["base"]
        assert state.error == "ended with status 3: RuntimeError: told to exit"
        assert state.since > since
        assert (base.port, base.healthy()) == (port, True)
        assert all(gone(pid) for pid in before)
        assert keeper.snapshot()["draft"] == ServerState("ready", keeper.snapshot()["draft"].since)
        assert draft.pid == other


def test_a_killed_server_is_started_again():
    with running("base") as (base,), Keeper([base], QUICK) as keeper:
        supervisor, child = tree(base)
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: recovered(keeper, "base", 1), 30)
        assert keeper.snapshot()["base"].error.startswith("ended with status")
        assert gone(supervisor)


def test_a_server_that_hangs_is_ended_and_started_again(monkeypatch):
    monkeypatch.setattr(keep, "CHECK_TIMEOUT", 0.05)
    with running("base") as (base,), Keeper([base], replace(QUICK, hang=0.3)) as keeper:
        before = tree(base)
        tell(base, "/hang")
        wait_until(lambda: recovered(keeper, "base", 1), 30)
        assert keeper.snapshot()["base"].error == "did not answer /health for 0 s"
        assert all(gone(pid) for pid in before)


def test_a_server_that_is_busy_for_less_than_the_limit_is_left_alone(monkeypatch):
    answers = []
    real = Server.healthy
    monkeypatch.setattr(Server, "healthy", lambda self, t=5.0: answers.append(real(self, t)) or answers[-1])
    with running("base") as (base,), Keeper([base], QUICK) as keeper:
        pid = base.pid
        tell(base, "/busy")
        wait_until(lambda: answers[-3:] == [False] * 3)
        tell(base, "/well")
        wait_until(lambda: answers[-1])
        assert (base.pid, keeper.snapshot()["base"].restarts) == (pid, 0)


def test_a_server_that_does_not_become_ready_is_started_once_more(monkeypatch):
    with running("base") as (base,), Keeper([base], replace(QUICK, start=0.1)) as keeper:
        monkeypatch.setattr(Server, "healthy", lambda *_: False)
        tell(base, "/exit")
        wait_until(lambda: keeper.snapshot()["base"].restarts > 2, 30)
        state = keeper.snapshot()["base"]
        assert (state.state, state.error) == ("restarting", "was not ready after 0 s")


def test_the_states_are_starting_then_ready():
    with running("base", ready=False) as (base,):
        keeper = Keeper([base], QUICK)
        assert keeper.snapshot()["base"].state == "starting"
        with keeper:
            wait_until(lambda: keeper.snapshot()["base"].state == "ready", 30)
        assert keeper.snapshot()["base"].restarts == 0
        assert Keeper([base]).snapshot()["base"].state == "ready"


def waits(caplog):
    """The seconds before each attempt to start a server again, as the log says."""
    return [record.args[2] for record in caplog.records if "starting it again" in record.msg]


def test_the_waits_double_up_to_the_longest_and_start_over_after_a_steady_time(stand_in, caplog):
    policy = replace(QUICK, first_wait=0.02, longest_wait=0.08, steady=0)
    with running("base") as (base,), Keeper([base], policy) as keeper:
        (stand_in / "broken").write_text("")
        tell(base, "/exit")
        wait_until(lambda: len(waits(caplog)) >= 4, 30)
        assert keeper.snapshot()["base"].state == "restarting"
        assert keeper.snapshot()["base"].error == "ended with status 1: ValueError: it is broken"
        assert "the base server ended with status 1: ValueError: it is broken; starting" in caplog.text
        (stand_in / "broken").unlink()
        wait_until(lambda: keeper.snapshot()["base"].state == "ready", 30)
        assert waits(caplog)[:4] == [0.02, 0.04, 0.08, 0.08]
        failed = len(waits(caplog))
        tell(base, "/exit")
        wait_until(lambda: len(waits(caplog)) > failed, 30)
        assert waits(caplog)[failed:] == [0.02]
        wait_until(lambda: keeper.snapshot()["base"].state == "ready", 30)


def test_a_server_that_was_not_steady_waits_longer(caplog):
    policy = replace(QUICK, first_wait=0.02, longest_wait=1, steady=1000)
    with running("base") as (base,), Keeper([base], policy) as keeper:
        for restarts in (1, 2):
            tell(base, "/exit")
            wait_until(lambda restarts=restarts: recovered(keeper, "base", restarts), 30)
        assert waits(caplog) == [0.02, 0.04]


def test_a_port_that_somebody_took_meanwhile_is_told_and_waited_for(monkeypatch):
    with running("base") as (base,), Keeper([base], QUICK) as keeper:
        monkeypatch.setattr(server, "is_free", lambda port: False)
        tell(base, "/exit")
        says = f"port {base.port} for the base server is taken; choose another one"
        wait_until(lambda: keeper.snapshot()["base"].error == says, 30)
        assert keeper.snapshot()["base"].restarts == 0
        monkeypatch.setattr(server, "is_free", lambda port: True)
        wait_until(lambda: recovered(keeper, "base", 1), 30)


def test_a_failure_of_the_watch_is_logged_and_it_goes_on(stand_in, monkeypatch, caplog):
    failures = [RuntimeError("out of files")]
    real = Server.healthy

    def healthy(self, timeout=5.0):
        if failures:
            raise failures.pop()
        return real(self, timeout)

    with running("base") as (base,):
        monkeypatch.setattr(Server, "healthy", healthy)
        with Keeper([base], QUICK) as keeper:
            wait_until(lambda: "watching the base server failed" in caplog.text)
            assert (base.healthy(), keeper.snapshot()["base"].restarts) == (True, 0)
            shutil.rmtree(stand_in / "logs")
            tell(base, "/exit")
            wait_until(lambda: recovered(keeper, "base", 1), 30)
    assert "out of files" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_died_is_seen(monkeypatch):
    class Death(BaseException):
        pass

    def healthy(*_):
        raise Death

    with running("base") as (base,):
        monkeypatch.setattr(Server, "healthy", healthy)
        with Keeper([base], QUICK) as keeper:
            wait_until(lambda: keeper.snapshot()["base"].state == "unwatched")
        assert keeper.snapshot()["base"].state == "ready"  # after stop() nobody watches


def watching(role):
    return any(thread.name == f"keep-{role}" for thread in threading.enumerate())


def test_after_stop_nothing_is_started():
    with running("base") as (base,):
        keeper = Keeper([base], replace(QUICK, first_wait=0.5))
        keeper.start()
        tell(base, "/exit")
        wait_until(lambda: keeper.snapshot()["base"].state == "restarting", 30)
        keeper.stop()
        wait_until(lambda: not watching("base"))
        assert gone(base.pid)
        assert keeper.snapshot()["base"].restarts == 0


def test_stop_does_not_wait_for_the_next_restart():
    with running("base") as (base,):
        keeper = Keeper([base], replace(QUICK, first_wait=600, longest_wait=600))
        keeper.start()
        tell(base, "/exit")
        wait_until(lambda: keeper.snapshot()["base"].state == "restarting", 30)
        started = time.monotonic()
        keeper.stop()
        assert time.monotonic() - started < 5
        wait_until(lambda: not watching("base"))


def test_after_stop_a_server_that_waited_for_its_turn_is_not_started(stand_in, monkeypatch):
    with running("draft", "base", share=Share(1, 1, 1)) as (draft, base):
        monkeypatch.setattr(Server, "healthy", lambda *_: False)  # the first to restart keeps its turn
        keeper = Keeper([draft, base], QUICK)
        keeper.start()
        tell(draft, "/exit")
        wait_until(lambda: keeper.snapshot()["draft"].restarts == 1, 30)
        tell(base, "/exit")
        wait_until(lambda: keeper.snapshot()["base"].state == "restarting", 30)
        threading.Event().wait(0.3)  # longer than the wait before a restart
        keeper.stop()
        wait_until(lambda: not watching("draft") and not watching("base"))
        assert keeper.snapshot()["base"].restarts == 0
        assert gone(base.pid)


def test_stop_does_not_wait_for_an_answer():
    with running("base") as (base,):
        keeper = Keeper([base], QUICK)
        keeper.start()
        tell(base, "/hang")
        started = time.monotonic()
        keeper.stop()
        assert time.monotonic() - started < 5
    wait_until(lambda: not watching("base"))  # its server has gone
    assert gone(base.pid)


def test_servers_that_share_a_gpu_are_started_one_after_the_other(monkeypatch):
    starting = []
    real_start = Server.start

    def start(self):
        others = (server for server in servers if server is not self)
        starting.append([server.spec.role for server in others if not server.ended() and not server.ready])
        real_start(self)

    with running("draft", "base", share=Share(1, 1, 1)) as servers:
        monkeypatch.setattr(Server, "start", start)
        with Keeper(servers, QUICK) as keeper:
            for server in servers:
                tell(server, "/exit")
            wait_until(lambda: all(recovered(keeper, role, 1) for role in ("draft", "base")), 30)
    assert starting == [[], []]


@pytest.mark.parametrize(
    ("args", "limit"),
    [((), 360), (("--watchdog-timeout", "1000"), 1060), (("--watchdog-timeout=10",), 360)],
)
def test_the_limit_is_above_sglangs_own(args, limit):
    assert hang_limit(args, RestartPolicy()) == limit


def test_a_server_gets_the_limit_of_its_flags(monkeypatch):
    monkeypatch.setattr(keep, "WATCHDOG_MARGIN", 0.0)
    args = ("--watchdog-timeout", "1")
    with running("base", args=args) as (base,), Keeper([base], replace(QUICK, hang=0.1)) as keeper:
        tell(base, "/busy")
        wait_until(lambda: recovered(keeper, "base", 1), 30)
        assert keeper.snapshot()["base"].error == "did not answer /health for 1 s"


def test_the_log_goes_on_and_an_error_is_of_the_last_start(stand_in):
    with running("base") as (base,):
        (stand_in / "broken").write_text("")
        tell(base, "/exit")
        wait_until(lambda: base.ended() != "", 30)
        base.start()
        wait_until(lambda: base.ended() != "", 30)
        assert base.ended() == "ended with status 1: ValueError: it is broken"
        assert "told to exit" in base.log_path.read_text()
        assert not base.healthy()
        with pytest.raises(LaunchError, match=r"the base server \(some/model\) ended with status 1"):
            wait_healthy([base], 30)
        (stand_in / "broken").unlink()
        base.start()
        wait_healthy([base], 30)
        assert "Error" not in base.last_error()


def test_sigkill_of_the_program_ends_a_server_that_was_started_again(stand_in):
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
    program = stand_in / "stand_in.py"
    code = f"""
        import threading
        from specreason_sgl.runtime.keep import Keeper, RestartPolicy
        from specreason_sgl.runtime.server import Server, ServerSpec, wait_healthy
        Server.command = property(
            lambda self: [{sys.executable!r}, {str(program)!r}, str(self.port), {str(stand_in)!r}]
        )
        server = Server(ServerSpec("base", "x", port={port}))
        wait_healthy([server], 60)
        keeper = Keeper([server], RestartPolicy(check=0.1, first_wait=0.01))
        keeper.start()
        print(server.pid, flush=True)
        input()
        while keeper.snapshot()["base"].restarts < 1 or not server.ready:
            threading.Event().wait(0.01)
        print(server.pid, flush=True)
        threading.Event().wait()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    first = int(process.stdout.readline())
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        urllib3.request("GET", f"http://{HOST}:{port}/exit", retries=False, timeout=10)
    process.stdin.write("\n")
    process.stdin.flush()
    second = psutil.Process(int(process.stdout.readline()))
    assert second.pid != first
    processes = [second, *second.children(recursive=True)]
    assert len(processes) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: all(gone(process.pid) for process in processes), 15)
