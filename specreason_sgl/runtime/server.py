"""One SGLang server as a child process: its command, its log, its health, its end.

A server is a `sglang serve` process under a small supervisor (`supervise.py`), which ends the server's whole
process group when this process ends, however it ends.
"""

import contextlib
import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import urllib3

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import machine, supervise
from specreason_sgl.runtime.flags import flag_value
from specreason_sgl.runtime.logs import last_error, new_log
from specreason_sgl.runtime.shares import Share, memory_flags

HOST = "127.0.0.1"
POLL = 0.25  # seconds between checks of servers that are starting
KEY = "_SPECREASON_SGL_KEY"  # environment variable
KEYLESS = ("--tokenizer-worker-num", "--grpc-port")  # more than 1, or any: SGLang (0.5.23) takes no key then
# SGLang takes a key from its arguments alone, which every user of the machine can read: it joins them inside.
SERVE = (
    f"import os, sys; from sglang.cli.main import main; key = os.environ.pop({KEY!r}, ''); "
    "sys.argv[2:2] = [f'--api-key={key}'] * bool(key); sys.exit(main())"
)

StatusCallback = Callable[[str], None]


@dataclass(frozen=True)
class ServerSpec:
    """A server to start.

    Attributes:
        role: `draft` or `base`; names the log file and appears in messages.
        model_path: a folder that SGLang can load, or a Hugging Face name.
        port: 0 picks a free one.
        gpus: indices of the GPUs that it sees; empty leaves the choice to SGLang.
        args: further flags for SGLang, passed through unchanged.
        cpus: the processor cores it may use; empty: all.
        share: how much memory to take on each GPU, if another server uses the same GPUs.
    """

    role: str
    model_path: str
    port: int = 0
    gpus: tuple[int, ...] = ()
    args: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    share: Share | None = None

    def command(self, port: int) -> list[str]:
        """The `sglang serve` command line, run by this environment's Python.

        A share becomes a fraction of the memory that is free now, so ask for the command right before
        starting it.
        """
        flags = ["--model-path", self.model_path, "--host", HOST, "--port", str(port)]
        if self.share:
            flags += memory_flags(self.share, self.gpus)
        return [sys.executable, "-c", SERVE, "serve", *flags, *self.args]

    def key(self, launch: str) -> str | None:
        """The user's `--api-key`, else the launch's; None where SGLang takes none with these flags."""
        is_keyless = any(flag_value(self.args, [flag]) not in (None, "1") for flag in KEYLESS)
        return flag_value(self.args, ["--api-key"]) or (None if is_keyless else launch)

    def environment(self) -> dict[str, str]:
        """This process's environment, with the server's GPUs made visible."""
        env = {**os.environ, **machine.visibility(self.gpus)}
        if self.share:  # a server that shares one of its GPUs finds less free there than on the others
            env.setdefault("SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK", "0")
        return env


class Server:
    """A running SGLang server, which an `Endpoint` can be made of.

    Args:
        launch_key: the API key, unless the flags say another; default: a new one.

    Attributes:
        url, port: where it answers.
        api_key: the key that requests must send; None: no key.
        log_path: the file with its output, new with each launch.
        process, pid: its supervisor's.
        ready: whether it has been healthy since its last start.
    """

    def __init__(self, spec: ServerSpec, launch_key: str = ""):
        self.spec = spec
        self.port = spec.port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.api_key = spec.key(launch_key or secrets.token_urlsafe())
        self.log_path = new_log(f"{spec.role}-{self.port}")
        self.start()

    @property
    def command(self) -> list[str]:
        """What is run (see `ServerSpec.command`)."""
        return self.spec.command(self.port)

    def start(self) -> None:
        """Start the process, always on the same port; its output is appended to the same log.

        Raises:
            LaunchError: the port is taken, or its share of a GPU is not free.
        """
        if not is_free(self.port):
            raise LaunchError(
                f"port {self.port} for the {self.spec.role} server is taken; choose another one"
            )
        command, log = self.command, str(self.log_path)
        self._start_line = shlex.join(command)
        supervise.append(log, f"{self._start_line}\n".encode())
        pinned = [f"--cpus={','.join(map(str, self.spec.cpus))}"] if self.spec.cpus else []
        self.ready = False
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervise.__file__, *pinned, f"--log={log}", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**self.spec.environment(), KEY: self.api_key or ""},
            start_new_session=True,
        )
        self.pid = self.process.pid

    def healthy(self, timeout: float = 5.0) -> bool:
        """Whether the server answers `/health` with 200 within `timeout` seconds."""
        try:
            response = urllib3.request("GET", f"{self.url}/health", retries=False, timeout=timeout)
        except urllib3.exceptions.HTTPError:
            return False
        healthy = response.status == 200
        self.ready = self.ready or healthy
        return healthy

    def ended(self) -> str:
        """How the process ended, with the last error in its log; empty while it runs."""
        status = self.process.poll()
        return "" if status is None else f"ended with status {status}: {self.last_error()}"

    def last_error(self) -> str:
        """The last line logged since the start that names an error, else the last line."""
        return last_error(self.log_path, self._start_line)

    def begin_stop(self) -> None:
        """Tell the server to end; returns at once."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def stop(self) -> None:
        """End the server and everything it started; returns when they are gone."""
        self.begin_stop()
        try:
            self.process.wait(supervise.GRACE + 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait_healthy(servers: Sequence[Server], timeout: float, status: StatusCallback = lambda _: None) -> None:
    """Return when every server answers.

    Args:
        timeout: in seconds, for all of them.
        status: called with one line that says what is being waited for.

    Raises:
        LaunchError: a server ended, or was not ready in time. Names its log file.
    """
    started = time.monotonic()
    waiting = list(servers)
    while waiting := [server for server in waiting if not _is_up(server)]:
        waited = time.monotonic() - started
        if waited > timeout:
            server = waiting[0]
            raise LaunchError(
                f"the {server.spec.role} server was not ready after {timeout:.0f} s (log: {server.log_path})"
            )
        roles = " and ".join(server.spec.role for server in waiting)
        status(f"waiting for the {roles} server, {waited:.0f} s")
        time.sleep(POLL)
    status("both servers are ready" if len(servers) > 1 else f"the {servers[0].spec.role} server is ready")


def _is_up(server: Server) -> bool:
    if reason := server.ended():
        raise LaunchError(
            f"the {server.spec.role} server ({server.spec.model_path}) {reason} (log: {server.log_path})"
        )
    return server.healthy()


def free_port() -> int:
    """A port on the loopback interface that is free now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


def is_free(port: int) -> bool:
    """Whether a port on the loopback interface is free now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
        return True
