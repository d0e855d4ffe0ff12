"""Servers as processes: supervised, reported when they fail, gone with their program."""

import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from specreason_sgl.errors import ConfigError, LaunchError
from specreason_sgl.runtime import launch, machine, supervise
from specreason_sgl.runtime.pairs import get_pair
from specreason_sgl.runtime.server import HOST, Server, ServerSpec, wait_healthy
from tests.support.waiting import wait_until

TREE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


STAND_IN = """
import os, pathlib, sys

def main():
    seen = pathlib.Path("/proc/self/cmdline").read_text()
    print(sys.argv[2], "of-the-launch" in seen, "of-the-launch" in os.environ.values())
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECREASON_SGL_CACHE", str(tmp_path))
    return tmp_path


def supervised(code, *arguments):
    """Run Python code under a supervisor; `arguments` replace the supervisor's file."""
    supervisor = arguments or (supervise.__file__,)
    command = [sys.executable, "-I", "-S", *supervisor, sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_end_of_the_parent_ends_the_whole_tree():
    process = supervised(TREE)
    grandchild = int(process.stdout.readline())
    (child,) = psutil.Process(process.pid).children()
    process.stdin.close()
    process.wait(60)
    assert gone(child.pid)
    assert gone(grandchild)


def test_a_tree_that_ignores_sigterm_is_killed():
    impatient = f"""if True:
        import sys
        sys.path.insert(0, {str(Path(supervise.__file__).parent)!r})
        import supervise
        supervise.GRACE = 0.3
        sys.exit(supervise.main(sys.argv[1:]))
    """
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TREE
    process = supervised(stubborn, "-c", impatient)
    grandchild = int(process.stdout.readline())
    (child,) = psutil.Process(process.pid).children()
    process.stdin.close()
    process.wait(15)
    assert gone(child.pid)
    assert gone(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_the_server_dies_with_a_killed_supervisor():
    process = supervised(TREE)
    process.stdout.readline()
    (child,) = psutil.Process(process.pid).children()
    grandchildren = child.children()
    process.kill()
    process.wait()
    wait_until(lambda: gone(child.pid))
    for grandchild in grandchildren:
        grandchild.kill()


def test_a_server_that_ends_by_itself_is_reported_and_leaves_no_child_behind():
    process = supervised(TREE.replace("time.sleep(600)\n", "sys.exit(7)\n"))
    grandchild = int(process.stdout.readline())
    assert process.wait(15) == 7
    assert gone(grandchild)


@pytest.mark.parametrize("forks", [False, True])
def test_sigkill_of_the_program_ends_its_servers(forks):
    code = f"""
        import os, threading
        from specreason_sgl.runtime.server import Server, ServerSpec
        Server.command = property(lambda self: [{sys.executable!r}, "-c", {TREE!r}])
        server = Server(ServerSpec("draft", "x"))
        child = os.fork() if {forks} else 0
        if child or not {forks}:
            print(server.pid, child, flush=True)
        threading.Event().wait()
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    supervisor, forked = map(int, program.stdout.readline().split())
    supervisor = psutil.Process(supervisor)
    wait_until(lambda: len(supervisor.children(recursive=True)) == 2)
    tree = [supervisor, *supervisor.children(recursive=True)]
    program.send_signal(signal.SIGKILL)
    program.wait()
    try:
        wait_until(lambda: all(gone(process.pid) for process in tree), seconds=15)
    finally:
        if forked:
            os.kill(forked, signal.SIGKILL)  # fails if it was gone, and with it the test's point


def test_a_server_that_dies_names_its_log_and_its_last_error(tmp_path, monkeypatch):
    code = "print('fine so far'); raise ValueError('no such model')"
    monkeypatch.setattr(Server, "command", property(lambda self: [sys.executable, "-c", code]))
    server = Server(ServerSpec("base", "some/model"))
    with pytest.raises(LaunchError) as raised:
        wait_healthy([server], 30)
    assert "the base server (some/model) ended with status 1" in str(raised.value)
    assert "ValueError: no such model" in str(raised.value)
    assert str(server.log_path) in str(raised.value)


def test_a_server_that_is_never_ready_is_given_up(monkeypatch):
    monkeypatch.setattr(
        Server, "command", property(lambda self: [sys.executable, "-c", "import time; time.sleep(600)"])
    )
    server = Server(ServerSpec("base", "some/model"))
    try:
        with pytest.raises(LaunchError, match="not ready after 0 s"):
            wait_healthy([server], 0.1)
    finally:
        server.stop()
    assert gone(server.pid)


def test_a_taken_port_is_said_before_anything_starts():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {port} for the draft server is taken"):
            Server(ServerSpec("draft", "some/model", port=port))


def test_a_failed_launch_leaves_the_log_of_the_running_server_alone(cache, monkeypatch):
    says = [sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(600)"]
    monkeypatch.setattr(Server, "command", property(lambda self: says))
    server = Server(ServerSpec("base", "some/model"))
    try:
        wait_until(lambda: server.last_error() == "hello")
        with socket.create_server((HOST, server.port)), pytest.raises(LaunchError, match="is taken"):
            Server(ServerSpec("base", "some/model", port=server.port))
        assert server.last_error() == "hello"
        assert server.log_path.stat().st_mode & 0o777 == 0o600
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ((), "of-the-launch"),
        (("--api-key", "mine"), "mine"),
        (("--tokenizer-worker-num", "2"), None),
        (("--tokenizer-worker-num=1",), "of-the-launch"),
        (("--grpc-port", "9000"), None),
    ],
)
def test_sglang_gets_the_key_and_nobody_sees_it(cache, monkeypatch, args, key):
    package = cache / "sglang" / "cli"
    package.mkdir(parents=True)
    (cache / "sglang" / "__init__.py").write_text("")
    (package / "main.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(cache))
    server = Server(ServerSpec("base", "some/model", args=args), "of-the-launch")
    server.process.wait(30)
    assert server.api_key == key
    first = f"--api-key={key}" if key else "--model-path"
    assert server.last_error() == f"{first} False False"


def test_each_launch_has_a_key_of_its_own(cache, monkeypatch):
    monkeypatch.setattr(Server, "command", property(lambda self: [sys.executable, "-c", ""]))
    monkeypatch.setattr(launch, "wait_healthy", lambda *_: None)
    keys = []
    for _ in range(2):
        with launch._running([[ServerSpec("draft", "m"), ServerSpec("base", "m")]], 30, print) as servers:
            keys.append({server.api_key for server in servers.values()})
    assert [len(key) for key in keys] == [1, 1]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_overwrites_a_line_of_a_terminal_and_stays_out_of_a_pipe(monkeypatch, terminal):
    class Output(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stdout", output := Output())
    launch.print_progress("download", 1, 2)
    launch.print_progress("ready")
    lines = [line.strip() for line in output.getvalue().split("\r") if line]
    assert lines == (["download, 50%", "ready"] if terminal else [])


def test_too_little_memory_is_said_before_anything_starts(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    monkeypatch.setattr(machine, "available_memory", lambda: 1_000_000)
    with pytest.raises(LaunchError, match=r"needs about 7\.0 GB of memory and 0\.0 GB are available"):
        launch.check_memory([tmp_path, tmp_path])


def test_a_base_server_beside_the_pair_may_use_every_core_where_its_memory_is_free(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    monkeypatch.setattr(launch, "fetch", lambda model, _: tmp_path / ("" if "1.5B" in model.name else "0.5B"))
    monkeypatch.setattr(Server, "command", property(lambda self: [sys.executable, "-c", ""]))
    monkeypatch.setattr(launch, "wait_healthy", lambda *_: None)
    monkeypatch.setattr(machine, "available_memory", lambda: 4_000_000_000)
    with launch.launch_whole(get_pair("mini"), base_args=("--dtype", "float32")) as server:
        assert (server.spec.model_path, server.spec.cpus) == (str(tmp_path), ())
        assert server.spec.args == ("--dtype", "float32")
    monkeypatch.setattr(machine, "available_memory", lambda: 1_000_000_000)
    with pytest.raises(LaunchError, match=r"1\.0 GB are available"), launch.launch_whole(get_pair("mini")):
        pass
    monkeypatch.setattr(machine, "has_accelerator", lambda: True)
    with pytest.raises(ConfigError, match="where there are GPUs"), launch.launch_whole(get_pair("mini")):
        pass


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ServerSpec("base", "m"), ["--model-path", "m", "--host", "127.0.0.1", "--port", "1234"]),
        (
            ServerSpec("base", "m", args=("--speculative-algorithm", "NGRAM")),
            ["--speculative-algorithm", "NGRAM"],
        ),
    ],
)
def test_the_command_is_sglangs_own(spec, expected):
    command = spec.command(1234)
    assert command[3] == "serve"
    assert any(command[i : i + len(expected)] == expected for i in range(len(command)))
