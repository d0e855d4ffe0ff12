"""Starting and stopping a pair: a draft and a base SGLang server.

with launch_pair(get_pair("mini")) as pair:
    draft, base = Endpoint(pair.draft), Endpoint(pair.base)
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime.decode import DRAFT_MODEL, check_decode, decode_args
from specreason_sgl.runtime.flags import check_flags, flag_value
from specreason_sgl.runtime.machine import available_memory, cpu_memory_needed, uses_cpu_platform
from specreason_sgl.runtime.packaged import Progress
from specreason_sgl.runtime.pairs import PairSpec
from specreason_sgl.runtime.placement import MEMORY_FLAG, place, share_gpus
from specreason_sgl.runtime.server import Server, ServerSpec, StatusCallback, wait_healthy
from specreason_sgl.runtime.weights import fetch, weights_bytes

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
        draft_args, base_args: flags for SGLang, passed through unchanged; they override this package's.
        draft_port, base_port: 0 picks a free port.
        draft_gpus, base_gpus: CUDA device numbers; several mean tensor parallel. If neither is given and
            there are two GPUs, each model gets one.
        colocate: put both models on the same GPUs (the named ones, else the first) and split the memory.
        decode: token-level speculative decoding on the base server (see `decode.decode_args`).
        pin: give each server its own half of the cores that this process may use.
        timeout: seconds until both servers must be healthy.
        status: called with one line that says what is being waited for.
        progress: called with the state of a download (see `packaged.Progress`).

    Raises:
        ConfigError: no such GPU or SGLang flag, or an impossible placement or decoding.
        WeightsError: weights are unavailable.
        LaunchError: a port is taken, memory is short, or a server died or was not ready in time.
    """
    gpus = place(draft_gpus, base_gpus, colocate)
    check_decode(decode, base_args)
    check_flags("--draft-args", draft_args)
    check_flags("--base-args", base_args)
    cpus = split_cores() if pin else ((), ())
    draft_path, base_path = (str(fetch(model, progress)) for model in (spec.draft, spec.base))
    base_args = (*decode_args(decode, draft_path, base_path, base_args), *base_args)
    draft = ServerSpec("draft", draft_path, draft_port, gpus[0], tuple(draft_args), cpus[0])
    base = ServerSpec("base", base_path, base_port, gpus[1], base_args, cpus[1])
    if colocate:
        draft, base = _with_shares(draft, base)
    if uses_cpu_platform():
        check_memory([Path(draft_path), Path(base_path)])
    # The second server's share is a part of what the first one left free, so it starts after that one.
    groups = [[base], [draft]] if colocate else [[draft, base]]
    with _running(groups, timeout, status) as servers:
        yield Pair(servers["draft"], servers["base"])


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
    """A `status` and `progress` for `launch_pair` that overwrites one line of standard output."""
    share = f", {done / total:.0%}" if total else ""
    print(f"\r{what + share:<70}", end="", flush=True)


def check_memory(folders: Sequence[Path]) -> None:
    """Refuse to start more models on this CPU than its memory holds.

    Args:
        folders: the models' folders.

    Raises:
        LaunchError: memory is short. Says how many GB are needed and how many are available.
    """
    needed = sum(cpu_memory_needed(weights_bytes(folder)) for folder in folders)
    available = available_memory()
    if available < needed:
        raise LaunchError(
            f"the two servers need about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
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


def _with_shares(draft: ServerSpec, base: ServerSpec) -> tuple[ServerSpec, ServerSpec]:
    """The two with their shares of the GPUs that both are on; a fraction set by the user is left alone."""
    has_fraction = [flag_value(spec.args, [MEMORY_FLAG]) is not None for spec in (draft, base)]
    if all(has_fraction):
        return draft, base
    folders = [[Path(draft.model_path)], [Path(base.model_path)]]
    if proposer := flag_value(base.args, DRAFT_MODEL):
        folders[1].append(Path(proposer))
    shares = share_gpus(folders, base.gpus)
    return tuple(
        spec if is_set else replace(spec, share=share)
        for spec, is_set, share in zip((draft, base), has_fraction, shares, strict=True)
    )
