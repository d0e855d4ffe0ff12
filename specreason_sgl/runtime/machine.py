"""What this machine has: accelerator, memory, the type it computes in."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime.pairs import Model
from specreason_sgl.runtime.weights import weights_bytes

CPU_OVERHEAD = 1_500_000_000  # bytes a server needs on a CPU beside its weights: processes, KV cache
_BFLOAT16 = 2  # bytes


@dataclass(frozen=True)
class Gpu:
    """A CUDA GPU: its number among those that this process sees, its memory and what is free, in bytes."""

    index: int
    name: str
    total: int
    free: int


def gpus() -> list[Gpu]:
    """The CUDA GPUs that this process sees, as they are now; takes some seconds.

    Raises:
        LaunchError: the driver does not answer.
    """
    import torch

    if not torch.cuda.is_available():
        return []
    # In a process of its own: asking makes a CUDA context, which holds GPU memory until its process ends.
    done = subprocess.run([sys.executable, "-c", _LIST_GPUS], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise LaunchError(f"the GPUs' memory cannot be read: {last}")
    return [Gpu(*one) for one in json.loads(done.stdout)]


_LIST_GPUS = """
import json, torch
found = []
for i in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(i)
    found.append((i, torch.cuda.get_device_name(i), total, free))
print(json.dumps(found))
"""


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
