"""Whether two servers fit on their GPUs, and how they split the memory of those that both use.

In sglang 0.5.23 (`_profile_available_bytes`) `--mem-fraction-static` is a fraction of the memory that is free
when the server starts, before it loads anything; weights and KV cache together get that much.
So a server that shares a GPU is planned in bytes, its fraction is recomputed at each start, and the second
server starts once the first is healthy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import machine
from specreason_sgl.runtime.machine import Gpu
from specreason_sgl.runtime.placement import Indices, Wish, numbers
from specreason_sgl.runtime.sizes import Load

MEMORY_FLAG = "--mem-fraction-static"
FRACTION = "mem_fraction_static"  # its name among parsed flags
SMALLER = ("quantization", "cpu_offload_gb")  # flags with which weights take less of a GPU than their files
# What a server needs beside weights and KV cache: CUDA context, activations, CUDA graphs. An estimate with a
# margin, which grows with the GPU because SGLang gives larger GPUs larger prefill chunks and batches.
RESERVE = 2_000_000_000  # bytes
RESERVE_SHARE = 0.05  # of the GPU's memory
MIN_TOKENS = 16_384  # a smaller KV cache is not worth starting with
MIN_KV_CACHE = 1_000_000_000  # bytes; if a model's size per token is unknown


@dataclass(frozen=True)
class Share:
    """What one server takes of each of its GPUs, in bytes."""

    weights: int
    kv_cache: int
    reserve: int


@dataclass(frozen=True)
class Placed:
    """A server with its GPUs, and what it loads in all."""

    wish: Wish
    gpus: Indices
    load: Load

    @property
    def per_gpu(self) -> Load:
        return self.load.over(self.wish.split)

    @property
    def has_fraction(self) -> bool:
        return FRACTION in self.wish.flags

    @property
    def least_kv_cache(self) -> int:
        return MIN_TOKENS * self.per_gpu.kv_per_token or MIN_KV_CACHE


def share(draft: Placed, base: Placed, available: Sequence[Gpu]) -> tuple[Share | None, Share | None]:
    """The shares of (draft, base) of GPUs that both use; None where SGLang's default or a user's flag holds.

    What weights and reserves leave free goes to the KV caches, split so that both servers hold the same
    number of tokens: both models of a pair read the same text.

    Raises:
        LaunchError: a model does not fit. Says how many GB are needed and how many are free.
    """
    if not set(draft.gpus) & set(base.gpus):
        for server in (draft, base):
            if server.gpus and not any(name in server.wish.flags for name in (FRACTION, *SMALLER)):
                _need_room([server], available)
        return None, None
    if draft.has_fraction and base.has_fraction:
        return None, None
    both, (gpus, free) = (draft, base), _need_room([draft, base], available)
    parts = [server.per_gpu.kv_per_token for server in both]
    if not all(parts):
        parts = [server.per_gpu.weights for server in both]
    reserve = _reserve(gpus)
    spare = free - sum(server.per_gpu.weights for server in both) - 2 * reserve
    return tuple(
        None
        if server.has_fraction
        else Share(server.per_gpu.weights, int(spare * part / sum(parts)), reserve)
        for server, part in zip(both, parts, strict=True)
    )


def memory_flags(share: Share, indices: Sequence[int]) -> list[str]:
    """The flags that give a server its share of the memory that is free on its GPUs now.

    Raises:
        LaunchError: its weights no longer fit.
    """
    free = min(gpu.free for gpu in _chosen(indices, machine.gpus()))
    static = min(share.weights + share.kv_cache, free - share.reserve)
    if static <= share.weights:
        raise LaunchError(
            f"the model needs more than {(share.weights + share.reserve) / 1e9:.1f} GB of GPU "
            f"{numbers(indices)} and {free / 1e9:.1f} GB are free"
        )
    return [MEMORY_FLAG, f"{static / free:.4f}"]


def _need_room(servers: Sequence[Placed], available: Sequence[Gpu]) -> tuple[list[Gpu], int]:
    """The servers' GPUs, and the bytes free on the fullest of them."""
    indices = sorted({index for server in servers for index in server.gpus})
    gpus = _chosen(indices, available)
    free, weights = min(gpu.free for gpu in gpus), [server.per_gpu.weights for server in servers]
    kv_caches = [server.least_kv_cache for server in servers]
    if 0 in weights:
        if len(servers) == 1:
            return gpus, free  # SGLang will tell
        raise LaunchError(
            f"the size of a model is unknown (no *.safetensors in its folder): give {MEMORY_FLAG} for both"
        )
    reserves = len(servers) * _reserve(gpus)
    if free < (needed := sum(weights) + sum(kv_caches) + reserves):
        each = "each of " if len(indices) > 1 else ""
        raise LaunchError(
            f"{needed / 1e9:.1f} GB of {each}GPU {numbers(indices)} are needed for {_roles(servers)} "
            f"(weights {_sum(weights)}, KV cache {_sum(kv_caches)}, reserve {reserves / 1e9:.1f}) and "
            f"{free / 1e9:.1f} GB are free: use more GPUs (--base-gpus) or a smaller pair"
        )
    return gpus, free


def _roles(servers: Sequence[Placed]) -> str:
    return " and ".join(f"the {server.wish.role} model" for server in servers)


def _sum(sizes: Sequence[int]) -> str:
    return " + ".join(f"{size / 1e9:.1f}" for size in sizes)


def _reserve(gpus: Sequence[Gpu]) -> int:
    return RESERVE + int(RESERVE_SHARE * max(gpu.total for gpu in gpus))


def _chosen(indices: Sequence[int], gpus: Sequence[Gpu]) -> list[Gpu]:
    chosen = [gpu for gpu in gpus if gpu.index in indices]
    if len(chosen) < len(indices):
        raise LaunchError(f"GPU {numbers(indices)} cannot be found")
    return chosen
