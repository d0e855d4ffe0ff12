"""Starting and stopping a draft and a base SGLang server.

    with launch_pair(get_pair("mini")) as pair:
        draft, base = Endpoint(pair.draft.url), Endpoint(pair.base.url)

Each server is a `sglang serve` process under a small supervisor (`supervise.py`), which ends the server's
whole process group when this process ends, however it ends.
"""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import supervise
from specreason_sgl.runtime.machine import available_memory, cpu_memory_needed, uses_cpu_platform
from specreason_sgl.runtime.models import Model, PairSpec, Progress, cache_dir, fetch

HOST = "127.0.0.1"
START_TIMEOUT = 600.0  # seconds

StatusCallback = Callable[[str], None]


@dataclass(frozen=True)
class ServerSpec:
    """One server to start.

    Attributes:
        role: `draft` or `base`; names the log file and appears in messages.
        model_path: a folder that SGLang can load, or a Hugging Face name.
        port: 0 picks a free one.
        gpus: CUDA device numbers, tensor parallel over all of them; empty leaves it to SGLang.
        args: further flags for SGLang, passed on as they are.
        cpus: the processor cores it may use; empty: all.
    """

    role: str
    model_path: str
    port: int = 0
    gpus: tuple[int, ...] = ()
    args: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()


class Server:
    """A running SGLang server: `url`, `log_path`, `pid` (of its supervisor) and `stop()`."""

    def __init__(self, spec: ServerSpec):
        self.spec = spec
        self.port = spec.port or free_port()
        if spec.port and not _is_free(spec.port):
            raise LaunchError(f"port {spec.port} for the {spec.role} server is taken; choose another one")
        self.url = f"http://{HOST}:{self.port}"
        logs = cache_dir() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log_path = logs / f"{spec.role}-{self.port}.log"
        with open(self.log_path, "w") as log:
            log.write(shlex.join(self.command) + "\n")
            log.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervise.__file__, *_pinned(spec.cpus), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def command(self) -> list[str]:
        """What is run: `sglang serve`, by this environment's Python."""
        flags = ["--model-path", self.spec.model_path, "--host", HOST, "--port", str(self.port)]
        if len(self.spec.gpus) > 1:
            flags += ["--tensor-parallel-size", str(len(self.spec.gpus))]
        serve = "import sys; from sglang.cli.main import main; sys.exit(main())"
        return [sys.executable, "-c", serve, "serve", *flags, *self.spec.args]

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ)
        if self.spec.gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.spec.gpus))
        return env

    def healthy(self) -> bool:
        """Whether the server answers `/health` with 200.

        Raises:
            LaunchError: its process has ended. Shows the log's last lines and names its file.
        """
        if self.process.poll() is not None:
            raise LaunchError(
                f"the {self.spec.role} server ({self.spec.model_path}) ended with status "
                f"{self.process.returncode}: {self.last_error()} (log: {self.log_path})"
            )
        try:
            return urllib3.request("GET", f"{self.url}/health", retries=False, timeout=5).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def last_error(self) -> str:
        """The log's last line that names an error, else its last line."""
        lines = [line.strip() for line in self.log_path.read_text(errors="replace").splitlines()]
        named = [line for line in lines if re.search(r"\w(Error|Exception)\b.*:|^error:| error: ", line)]
        return (named or [line for line in lines if line] or ["nothing in its log"])[-1]

    def stop(self) -> None:
        """End the server and everything it started; returns when they are gone."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(supervise.GRACE + 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Pair:
    """A running draft and base server."""

    draft: Server
    base: Server


@contextmanager
def launch_pair(
    spec: PairSpec,
    *,
    draft_args: Sequence[str] = (),
    base_args: Sequence[str] = (),
    draft_port: int = 0,
    base_port: int = 0,
    pin: bool = False,
    timeout: float = START_TIMEOUT,
    status: StatusCallback = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Iterator[Pair]:
    """Fetch a pair's weights, start its two servers, and stop them at the end of the block.

    Args:
        spec: which two models.
        draft_args, base_args: flags passed on to SGLang as they are.
        draft_port, base_port: 0 picks a free port.
        pin: give each server its own half of the cores this process may use.
        timeout: seconds until both servers must be healthy.
        status: told in a line what is being waited for.
        progress: told how far a download is (see `models.Progress`).

    Raises:
        WeightsError: weights cannot be had.
        LaunchError: a port is taken, memory is short, or a server died or was not ready in time.
    """
    gpus = place_gpus()
    cpus = _halves() if pin else ((), ())
    folders = [str(fetch(model, progress)) for model in (spec.draft, spec.base)]
    draft = ServerSpec("draft", folders[0], draft_port, gpus[0], tuple(draft_args), cpus[0])
    base = ServerSpec("base", folders[1], base_port, gpus[1], tuple(base_args), cpus[1])
    if uses_cpu_platform():
        _need_memory([Model(draft.model_path), Model(base.model_path)])
    servers: list[Server] = []
    try:
        for one in (draft, base):
            servers.append(Server(one))
        wait_healthy(servers, timeout, status)
        yield Pair(*servers)
    finally:
        for server in servers:
            with contextlib.suppress(OSError):
                server.process.stdin.close()  # both begin to stop before either is waited for
        for server in servers:
            server.stop()


def wait_healthy(servers: Sequence[Server], timeout: float, status: StatusCallback = lambda _: None) -> None:
    """Return when every server answers; raise `LaunchError` when one dies or the time is over."""
    started = time.monotonic()
    waiting = list(servers)
    while waiting:
        waiting = [server for server in waiting if not server.healthy()]
        waited = time.monotonic() - started
        if waiting and waited > timeout:
            server = waiting[0]
            raise LaunchError(
                f"the {server.spec.role} server was not ready after {timeout:.0f} s (log: {server.log_path})"
            )
        roles = " and ".join(server.spec.role for server in waiting)
        status(f"waiting for the {roles} server, {waited:.0f} s" if waiting else "both servers are ready")
        if waiting:
            time.sleep(0.25)


def place_gpus() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Devices of (draft, base): apart where there are two GPUs or more, else left to SGLang."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        return (1,), (0,)
    return (), ()


def _halves() -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not hasattr(os, "sched_getaffinity"):
        raise LaunchError("this system cannot pin processes to cores")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise LaunchError("pinning needs at least two cores, one for each server")
    half = len(cores) // 2
    return tuple(cores[:half]), tuple(cores[half:])


def _pinned(cpus: Sequence[int]) -> list[str]:
    return [f"--cpus={','.join(map(str, cpus))}"] if cpus else []


def _need_memory(models: list[Model]) -> None:
    needed = sum(cpu_memory_needed(model, Path(model.repo)) for model in models)
    available = available_memory()
    if available < needed:
        raise LaunchError(
            f"the two servers need about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available; close something, or choose a smaller pair"
        )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
        return True
