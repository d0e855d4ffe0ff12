"""Starting and stopping a pair: a draft and a base SGLang server.

with launch_pair(get_pair("mini")) as pair:
    draft, base = Endpoint(pair.draft), Endpoint(pair.base)
"""

import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from specreason_sgl.errors import ConfigError, LaunchError
from specreason_sgl.runtime import machine
from specreason_sgl.runtime.decode import check_decode, decode_args, with_proposer
from specreason_sgl.runtime.folders import weights_bytes
from specreason_sgl.runtime.packaged import Progress
from specreason_sgl.runtime.pairs import PairSpec
from specreason_sgl.runtime.placement import Wish, parallel_flags, place
from specreason_sgl.runtime.server import Server, ServerSpec, StatusCallback, wait_healthy
from specreason_sgl.runtime.shares import Placed, share
from specreason_sgl.runtime.sizes import load_of
from specreason_sgl.runtime.weights import fetch

START_TIMEOUT = 600.0  # seconds


@dataclass(frozen=True)
class Pair:
    """A running draft and base server: make each an `Endpoint`, which sends the launch's API key."""

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
    decode: str | None = None,
    pin: bool = False,
    timeout: float = START_TIMEOUT,
    status: StatusCallback = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Iterator[Pair]:
    """Fetch a pair's weights, start its two servers, and stop them at the end of the block.

    Args:
        spec: which two models.
        draft_args, base_args: flags for SGLang, passed through unchanged; they override this package's.
        draft_port, base_port: 0 picks a free port.
        draft_gpus, base_gpus: indices of the GPUs that this process sees; several mean tensor parallel. By
            default each model gets one, or as many as its flags ask for, and shares them where there are not
            enough. Models that share a GPU split its memory.
        decode: token-level speculative decoding on the base server (see `decode.decode_args`).
        pin: give each server its own half of the cores that this process may use.
        timeout: seconds until both servers must be healthy.
        status: called with one line that says what is being waited for.
        progress: called with the state of a download (see `packaged.Progress`).

    Raises:
        ConfigError: no such GPU or SGLang flag, or an impossible placement or decoding.
        WeightsError: weights are unavailable.
        LaunchError: a port is taken, memory is short, PyTorch does not see this machine's GPU, or a server
            died or was not ready in time.
    """
    machine.check_device()
    draft = Wish.read("draft", draft_gpus, draft_args)
    base = Wish.read("base", base_gpus, base_args)
    check_decode(decode, base.flags)
    gpus = place(draft, base, available := machine.gpus())
    cpus = split_cores() if pin else ((), ())
    folders = [fetch(model, progress) for model in (spec.draft, spec.base)]
    paths = [str(folder) for folder in folders]
    base_args = (*decode_args(decode, *paths, base.flags), *base_args)
    loads = with_proposer(decode, base.flags, *map(load_of, folders))
    shares = share(Placed(draft, gpus[0], loads[0]), Placed(base, gpus[1], loads[1]), available)
    specs = [
        ServerSpec(wish.role, path, port, indices, (*parallel_flags(wish, indices), *args), *rest)
        for wish, path, port, indices, args, *rest in zip(
            (draft, base), paths, (draft_port, base_port), gpus, (draft_args, base_args), cpus, shares,
            strict=True,
        )
    ]  # fmt: skip
    if machine.uses_cpu_platform():
        check_memory(folders)
    # The second server's share is a part of what the first one left free, so it starts after that one.
    groups = [[specs[1]], [specs[0]]] if any(shares) else [specs]
    with _running(groups, timeout, status) as servers:
        yield Pair(servers["draft"], servers["base"])


@contextmanager
def launch_whole(
    spec: PairSpec,
    *,
    base_args: Sequence[str] = (),
    decode: str | None = None,
    timeout: float = START_TIMEOUT,
    status: StatusCallback = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Iterator[Server]:
    """Start another server of a pair's base model, on all cores, beside the pair on its halves of them.

    Arguments and errors as in `launch_pair`; it is a `ConfigError` where models run on GPUs.
    """
    if machine.has_accelerator():
        raise ConfigError(
            "a base server with the whole machine must be started by you where there are GPUs; name its URL"
        )
    folders = [fetch(model, progress) for model in (spec.draft, spec.base)]
    flags = Wish.read("base", (), base_args).flags
    args = (*decode_args(decode, *map(str, folders), flags), *base_args)
    if machine.uses_cpu_platform():
        check_memory(folders[1:])
    whole = ServerSpec("base-whole", str(folders[1]), args=args)
    with _running([[whole]], timeout, status) as servers:
        yield servers[whole.role]


@contextmanager
def _running(
    groups: Sequence[Sequence[ServerSpec]], timeout: float, status: StatusCallback
) -> Iterator[dict[str, Server]]:
    """Servers by role: each group starts when the one before is healthy; all stop at the end of the block."""
    servers: dict[str, Server] = {}
    key = secrets.token_urlsafe()  # others on this machine, and web pages, have no business with the servers
    deadline = time.monotonic() + timeout
    try:
        for group in groups:
            for spec in group:
                servers[spec.role] = Server(spec, key)
            wait_healthy([*servers.values()], deadline - time.monotonic(), status)
        yield servers
    finally:
        for server in servers.values():
            server.begin_stop()
        for server in servers.values():
            server.stop()


def print_progress(what: str, done: int = 0, total: int = 0) -> None:
    """A `status` and `progress` for `launch_pair` that overwrites one line of a terminal or a notebook.

    Where standard output goes to a file or a pipe, it prints nothing.
    """
    if not (sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel.")):
        return
    share = f", {done / total:.0%}" if total else ""
    print(f"\r{what + share:<70}", end="", flush=True)


def check_memory(folders: Sequence[Path]) -> None:
    """Refuse to start more models on this CPU than its free memory holds.

    Args:
        folders: the models' folders.

    Raises:
        LaunchError: memory is short. Says how many GB are needed and how many are available.
    """
    needed = sum(machine.cpu_memory_needed(weights_bytes(folder)) for folder in folders)
    available = machine.available_memory()
    if available < needed:
        raise LaunchError(
            f"starting needs about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available; close something, or choose a smaller pair"
        )


def split_cores() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two halves of the cores that this process may use.

    Raises:
        LaunchError: there is only one core, or this system cannot pin processes.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise LaunchError("this system cannot pin processes to cores")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise LaunchError("pinning needs at least two cores, one for each server")
    half = len(cores) // 2
    return tuple(cores[:half]), tuple(cores[half:])
