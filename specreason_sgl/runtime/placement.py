"""Which GPUs each of a pair's servers gets, and how two servers share a GPU.

In sglang 0.5.23 (`_profile_available_bytes`) `--mem-fraction-static` is a fraction of the memory that is free
when the server starts, before it loads anything; weights and KV cache together get that much.
So a server that shares a GPU is planned in bytes, its fraction is recomputed at each start, and the second
server starts once the first is healthy.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specreason_sgl.errors import ConfigError, LaunchError
from specreason_sgl.runtime import machine
from specreason_sgl.runtime.machine import BFLOAT16, Gpu
from specreason_sgl.runtime.pairs import Model
from specreason_sgl.runtime.weights import weights_bytes

MEMORY_FLAG = "--mem-fraction-static"
# What a server needs beside weights and KV cache: CUDA context, activations, CUDA graphs. An estimate with a
# margin, which grows with the GPU because SGLang gives larger GPUs larger prefill chunks and batches.
RESERVE = 2_000_000_000  # bytes
RESERVE_SHARE = 0.05  # of the GPU's memory
MIN_TOKENS = 16_384  # a smaller KV cache is not worth starting with
MIN_KV_CACHE = 1_000_000_000  # bytes; if a model's size per token is unknown

Placement = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Share:
    """What one server takes of each of its GPUs, in bytes."""

    weights: int
    kv_cache: int
    reserve: int


def place(draft_gpus: Sequence[int], base_gpus: Sequence[int], colocate: bool) -> Placement:
    """GPUs of (draft, base) as requested; by default one each if there are two or more, else SGLang's choice.

    Raises:
        ConfigError: there is no such GPU, one is named twice, or both models are put on the same one without
            `colocate`.
    """
    draft, base = tuple(draft_gpus), tuple(base_gpus)
    if not (draft or base or colocate):
        return _apart()
    available = [gpu.index for gpu in machine.gpus()]
    if not available:
        raise ConfigError("--draft-gpus, --base-gpus and --colocate need a CUDA GPU, and there is none")
    for name, chosen in (("--draft-gpus", draft), ("--base-gpus", base)):
        if missing := sorted(set(chosen) - set(available)):
            raise ConfigError(f"{name}: there is no GPU {_numbers(missing)}; there are {_numbers(available)}")
        if len(set(chosen)) < len(chosen):
            raise ConfigError(f"{name} names a GPU twice: {_numbers(chosen)}")
    if colocate:
        if draft and base and draft != base:
            raise ConfigError(
                f"with --colocate both models must be on the same GPUs, got {_numbers(draft)} "
                f"and {_numbers(base)}"
            )
        both = base or draft or (available[0],)
        return both, both
    if shared := sorted(set(draft) & set(base)):
        raise ConfigError(
            f"GPU {_numbers(shared)} is given to both models: choose another, or add --colocate"
        )
    free = [index for index in available if index not in (*draft, *base)]
    if not (draft and base) and not free:
        first, second = ("draft", "base") if draft else ("base", "draft")
        raise ConfigError(f"the {first} takes every GPU and the {second} needs one: add --colocate")
    return draft or (free[0],), base or (free[0],)


def _apart() -> Placement:
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        return (1,), (0,)
    return (), ()


def share_gpus(loads: Sequence[Sequence[Path]], indices: Sequence[int]) -> list[Share]:
    """Split GPUs between servers, each of which is tensor parallel over all of them.

    What weights and reserves leave free goes to the KV caches, split so that every server holds the same
    number of tokens: both models of a pair read the same text.

    Args:
        loads: for each server, the folders of the models it loads.
        indices: the GPUs.

    Raises:
        LaunchError: they do not fit. Says how many GB are needed and how many are free.
    """
    gpus = _chosen(indices)
    weights = [sum(map(weights_bytes, folders)) // len(gpus) for folders in loads]
    if 0 in weights:
        raise LaunchError(
            f"the size of a model is unknown (no *.safetensors in its folder): give {MEMORY_FLAG} for both"
        )
    per_token = [[kv_bytes_per_token(folder) for folder in folders] for folders in loads]
    known = all(size for sizes in per_token for size in sizes)
    tokens = [sum(sizes) // len(gpus) for sizes in per_token] if known else weights
    least = [MIN_TOKENS * size if known else MIN_KV_CACHE for size in tokens]
    free = min(gpu.free for gpu in gpus)
    reserve = _reserve(gpus)
    needed = sum(weights) + sum(least) + len(loads) * reserve
    if free < needed:
        raise LaunchError(
            f"the two models need about {needed / 1e9:.1f} GB of GPU {_numbers(indices)} together (weights "
            f"{sum(weights) / 1e9:.1f} GB) and {free / 1e9:.1f} GB are free: use more GPUs, or a smaller pair"
        )
    spare = free - sum(weights) - len(loads) * reserve
    return [
        Share(weight, int(spare * size / sum(tokens)), reserve)
        for weight, size in zip(weights, tokens, strict=True)
    ]


def memory_flags(share: Share, indices: Sequence[int]) -> list[str]:
    """The flags that give a server its share of the memory that is free on its GPUs now.

    Raises:
        LaunchError: its weights no longer fit.
    """
    free = min(gpu.free for gpu in _chosen(indices))
    static = min(share.weights + share.kv_cache, free - share.reserve)
    if static <= share.weights:
        raise LaunchError(
            f"the model needs more than {(share.weights + share.reserve) / 1e9:.1f} GB of GPU "
            f"{_numbers(indices)} and {free / 1e9:.1f} GB are free"
        )
    return [MEMORY_FLAG, f"{static / free:.4f}"]


def memory_together(models: Sequence[Model], gpu: Gpu) -> int:
    """Least number of bytes that these models need to share a GPU, by their parameters; 0 if unknown."""
    if not all(model.parameters for model in models):
        return 0
    return sum(model.parameters * BFLOAT16 + MIN_KV_CACHE + _reserve([gpu]) for model in models)


def model_config(folder: Path) -> dict:
    """The language model's part of a model's config.json; empty if it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return config.get("text_config", config)


def kv_bytes_per_token(folder: Path) -> int:
    """Bytes of KV cache per token in bfloat16; 0 if config.json does not tell."""
    config = model_config(folder)
    if "kv_lora_rank" in config:  # latent attention: another layout
        return 0
    try:
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
        kv_heads = config.get("num_key_value_heads") or heads
        return 2 * config["num_hidden_layers"] * kv_heads * size * BFLOAT16
    except KeyError:
        return 0


def _reserve(gpus: Sequence[Gpu]) -> int:
    return RESERVE + int(RESERVE_SHARE * max(gpu.total for gpu in gpus))


def _chosen(indices: Sequence[int]) -> list[Gpu]:
    chosen = [gpu for gpu in machine.gpus() if gpu.index in indices]
    if len(chosen) < len(indices):
        raise LaunchError(f"GPU {_numbers(indices)} cannot be found")
    return chosen


def _numbers(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices))
