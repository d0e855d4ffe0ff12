"""What this machine has: accelerator, memory, the type it computes in."""

import os
from pathlib import Path

import psutil

from specreason_sgl.runtime.models import Model, weights_bytes

CPU_OVERHEAD = 1_500_000_000  # bytes a server needs on a CPU beside its weights: processes, KV cache
_BFLOAT16 = 2  # bytes


def has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def uses_cpu_platform() -> bool:
    """Whether this package's CPU platform is the one that SGLang will run on here."""
    return os.environ.get("SGLANG_USE_CPU_ENGINE", "0") != "1" and not has_accelerator()


def uses_int8_weights() -> bool:
    """Whether the CPU platform serves int8 weights by default: where bfloat16 has no AVX-512 to run on."""
    import torch

    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def cpu_memory_needed(model: Model, folder: Path | None) -> int:
    """Bytes of memory that a server for this model needs on this CPU; 0 where the size is not known."""
    weights = weights_bytes(folder) if folder else model.parameters * _BFLOAT16
    return weights + CPU_OVERHEAD if weights else 0


def available_memory() -> int:
    """Bytes of memory that new processes can have."""
    return psutil.virtual_memory().available
