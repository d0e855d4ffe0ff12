"""Which GPUs each of a pair's servers gets.

By default the models are apart where there are two GPUs or more, and share one where there is one. A server
gets as many as its own flags ask for (`--tp 4`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from specreason_sgl.errors import ConfigError
from specreason_sgl.runtime.flags import parse_flags
from specreason_sgl.runtime.machine import Gpu, uses_mig

PARALLEL = ("tp_size", "pp_size", "dp_size")
Indices = tuple[int, ...]


@dataclass(frozen=True)
class Wish:
    """What a user asks for one server.

    Attributes:
        role: `draft` or `base`.
        gpus: indices of GPUs; empty leaves the choice to `place`.
        flags: SGLang's flags for it, as `flags.parse_flags` reads them.
    """

    role: str
    gpus: Indices = ()
    flags: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, role: str, gpus: Sequence[int], args: Sequence[str]) -> "Wish":
        """Of GPUs and of unparsed flags. Raises `ConfigError` for flags that SGLang refuses."""
        return cls(role, tuple(gpus), parse_flags(f"--{role}-args", args))

    @property
    def is_parallel(self) -> bool:
        """Whether the flags say over how many GPUs the model is spread."""
        return any(name in self.flags for name in PARALLEL)

    @property
    def count(self) -> int:
        """How many GPUs of this machine the server needs."""
        return max(1, self.split * self.flags.get("dp_size", 1) // self.flags.get("nnodes", 1))

    @property
    def split(self) -> int:
        """Over how many GPUs one copy of the model is split."""
        if self.is_parallel:
            return self.flags.get("tp_size", 1) * self.flags.get("pp_size", 1)
        return len(self.gpus) or 1


def place(draft: Wish, base: Wish, available: Sequence[Gpu]) -> tuple[Indices, Indices]:
    """The GPUs of (draft, base): as wished, else apart where there are enough, else shared.

    Without a GPU both are empty: the device is SGLang's choice.

    Raises:
        ConfigError: no such GPU, one named twice, or not as many as a server's flags ask for.
    """
    indices = [gpu.index for gpu in available]
    for wish in (draft, base):
        _check(wish, indices)
    if not indices:
        return (), ()
    base_gpus = base.gpus or _choose(base.count, indices, draft.gpus)
    return draft.gpus or _choose(draft.count, indices, base_gpus), base_gpus


def parallel_flags(wish: Wish, gpus: Indices) -> list[str]:
    """SGLang's flags that spread a server over its GPUs, unless the user's own do."""
    if len(gpus) < 2 or wish.is_parallel:
        return []
    return ["--tensor-parallel-size", str(len(gpus))]


def numbers(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))


def _check(wish: Wish, indices: Sequence[int]) -> None:
    option, flags = f"--{wish.role}-gpus", f"--{wish.role}-args"
    if not indices:
        if wish.gpus:
            raise ConfigError(f"{option} needs an NVIDIA or AMD GPU, and PyTorch sees none")
        return
    if missing := sorted(set(wish.gpus) - set(indices)):
        raise ConfigError(f"{option}: there is no GPU {numbers(missing)}; there are {numbers(indices)}")
    if len(set(wish.gpus)) < len(wish.gpus):
        raise ConfigError(f"{option} names a GPU twice: {numbers(wish.gpus)}")
    if "base_gpu_id" in wish.flags:
        raise ConfigError(f"{flags} must come without --base-gpu-id: name the GPUs by {option}")
    if wish.gpus and len(wish.gpus) != wish.count:
        raise ConfigError(f"{flags} ask for {wish.count} GPUs, and {option} names {numbers(wish.gpus)}")
    if wish.count > len(indices):
        raise ConfigError(f"{flags} ask for {wish.count} GPUs, and there are {len(indices)}")
    if wish.count > 1 and uses_mig():
        raise ConfigError(f"a model must fit on one MIG device, and {wish.role} asks for {wish.count}")


def _choose(count: int, indices: Sequence[int], taken: Collection[int]) -> Indices:
    free = [index for index in indices if index not in taken]
    return tuple((free if len(free) >= count else indices)[:count])
