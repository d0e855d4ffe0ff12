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
from dataclasses import dataclass, replace
from pathlib import Path

import urllib3

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import supervise
from specreason_sgl.runtime.decode import DRAFT_MODEL, check_decode, decode_args, flag_value
from specreason_sgl.runtime.machine import available_memory, cpu_memory_needed, uses_cpu_platform
from specreason_sgl.runtime.packaged import Progress
from specreason_sgl.runtime.pairs import Model, PairSpec
from specreason_sgl.runtime.placement import MEMORY_FLAG, Share, memory_flags, place, share_gpus
from specreason_sgl.runtime.weights import cache_dir, fetch

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
        share: the memory it takes of each of its GPUs, where another server is on them, too.
    """

    role: str
    model_path: str
    port: int = 0
    gpus: tuple[int, ...] = ()
    args: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    share: Share | None = None


class Server:
    """A running SGLang server: `url`, `log_path`, `pid` (of its supervisor), `stop()`, and again `start()`.

    `ready` is whether it has been healthy since its start.
    """

    def __init__(self, spec: ServerSpec):
        self.spec = spec
        self.port = spec.port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        logs = cache_dir() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log_path = logs / f"{spec.role}-{self.port}.log"
        self.log_path.write_text("")
        self.start()

    def start(self) -> None:
        """Start its process, on the same port each time; the log goes on in the same file.

        Raises:
            LaunchError: the port is taken, or its share of a GPU is not free.
        """
        if not _is_free(self.port):
            raise LaunchError(
                f"port {self.port} for the {self.spec.role} server is taken; choose another one"
            )
        command = self.command
        self.ready = False
        with open(self.log_path, "a") as log:
            self._log_start = log.tell()
            log.write(shlex.join(command) + "\n")
            log.flush()
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervise.__file__, *_pinned(self.spec.cpus), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def command(self) -> list[str]:
        """What is run: `sglang serve`, by this environment's Python. A share is one of what is free now."""
        flags = ["--model-path", self.spec.model_path, "--host", HOST, "--port", str(self.port)]
        if len(self.spec.gpus) > 1:
            flags += ["--tensor-parallel-size", str(len(self.spec.gpus))]
        if self.spec.share:
            flags += memory_flags(self.spec.share, self.spec.gpus)
        serve = "import sys; from sglang.cli.main import main; sys.exit(main())"
        return [sys.executable, "-c", serve, "serve", *flags, *self.spec.args]

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ)
        if self.spec.gpus:
            # GPUs are numbered among those that this process sees, which may itself be confined to some.
            seen = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
            chosen = (seen[i] if i < len(seen) and seen[i] else str(i) for i in self.spec.gpus)
            env["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        return env

    def healthy(self, timeout: float = 5.0) -> bool:
        """Whether the server answers `/health` with 200 within `timeout` seconds.

        Raises:
            LaunchError: its process has ended. Shows the log's last lines and names its file.
        """
        if how := self.ended():
            raise LaunchError(
                f"the {self.spec.role} server ({self.spec.model_path}) {how} (log: {self.log_path})"
            )
        try:
            url = f"{self.url}/health"
            healthy = urllib3.request("GET", url, retries=False, timeout=timeout).status == 200
        except urllib3.exceptions.HTTPError:
            return False
        self.ready = self.ready or healthy
        return healthy

    def ended(self) -> str:
        """How its process ended, with its last error; empty while it runs."""
        status = self.process.poll()
        return "" if status is None else f"ended with status {status}: {self.last_error()}"

    def last_error(self) -> str:
        """The last line of its log, since its start, that names an error; else the last line."""
        with open(self.log_path, errors="replace") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log]
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
    draft_gpus: Sequence[int] = (),
    base_gpus: Sequence[int] = (),
    colocate: bool = False,
    decode: str | None = None,
    pin: bool = False,
    timeout: float = START_TIMEOUT,
    status: StatusCallback = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Iterator[Pair]:
    """Fetch a pair's weights, start its two servers, and stop them at the end of the block.

    Args:
        spec: which two models.
        draft_args, base_args: flags passed on to SGLang as they are; they win over this package's.
        draft_port, base_port: 0 picks a free port.
        draft_gpus, base_gpus: CUDA device numbers; several: tensor parallel over them. With neither, the
            models go to one GPU each where there are two.
        colocate: both models on the same GPUs (the named ones, else the first), which share their memory.
        decode: token-level speculative decoding on the base server (see `decode.decode_args`).
        pin: give each server its own half of the cores this process may use.
        timeout: seconds until both servers must be healthy.
        status: told in a line what is being waited for.
        progress: told how far a download is (see `packaged.Progress`).

    Raises:
        ConfigError: no such GPU, or a placement or decoding that cannot be.
        WeightsError: weights cannot be had.
        LaunchError: a port is taken, memory is short, or a server died or was not ready in time.
    """
    gpus = place(draft_gpus, base_gpus, colocate)
    check_decode(decode, base_args)
    cpus = _halves() if pin else ((), ())
    draft_path, base_path = (str(fetch(model, progress)) for model in (spec.draft, spec.base))
    base_args = (*decode_args(decode, draft_path, base_path, base_args), *base_args)
    draft = ServerSpec("draft", draft_path, draft_port, gpus[0], tuple(draft_args), cpus[0])
    base = ServerSpec("base", base_path, base_port, gpus[1], base_args, cpus[1])
    if colocate:
        draft, base = _with_shares(draft, base)
    if uses_cpu_platform():
        _need_memory([Model(draft.model_path), Model(base.model_path)])
    servers: dict[str, Server] = {}
    deadline = time.monotonic() + timeout
    try:
        # The second one's share is of what the first one left, so it waits for that.
        for group in ((base,), (draft,)) if colocate else ((draft, base),):
            for one in group:
                servers[one.role] = Server(one)
            wait_healthy([*servers.values()], deadline - time.monotonic(), status)
        yield Pair(servers["draft"], servers["base"])
    finally:
        for server in servers.values():
            with contextlib.suppress(OSError):
                server.process.stdin.close()  # both begin to stop before either is waited for
        for server in servers.values():
            server.stop()


def print_progress(what: str, done: int = 0, total: int = 0) -> None:
    """A `status` and a `progress` of `launch_pair`: one line of standard output, written over each time."""
    share = f", {done / total:.0%}" if total else ""
    print(f"\r{what + share:<70}", end="", flush=True)


def _with_shares(draft: ServerSpec, base: ServerSpec) -> tuple[ServerSpec, ServerSpec]:
    """The two with their shares of the GPUs they are both on; a user's own fraction is left alone."""
    own = [flag_value(spec.args, [MEMORY_FLAG]) is not None for spec in (draft, base)]
    if all(own):
        return draft, base
    folders = [[Path(draft.model_path)], [Path(base.model_path)]]
    if proposer := flag_value(base.args, DRAFT_MODEL):
        folders[1].append(Path(proposer))
    shares = share_gpus(folders, base.gpus)
    return tuple(
        spec if own else replace(spec, share=share)
        for spec, own, share in zip((draft, base), own, shares, strict=True)
    )


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
        ready = (
            "both servers are ready" if len(servers) > 1 else f"the {servers[0].spec.role} server is ready"
        )
        status(f"waiting for the {roles} server, {waited:.0f} s" if waiting else ready)
        if waiting:
            time.sleep(0.25)


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
