"""What this machine offers: accelerators, memory, the number format its CPU is fast in."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import psutil

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import cgroups

BFLOAT16 = 2  # bytes
CPU_OVERHEAD = 1_500_000_000  # bytes that a server on a CPU needs beside its weights: processes, KV cache


@dataclass(frozen=True)
class Gpu:
    """A CUDA GPU: its index among those visible to this process, its total and free memory in bytes."""

    index: int
    name: str
    total: int
    free: int


def gpus() -> list[Gpu]:
    """The CUDA GPUs visible to this process, with their free memory now; takes some seconds.

    Raises:
        LaunchError: the driver does not answer.
    """
    import torch

    if not torch.cuda.is_available():
        return []
    # In a separate process: asking creates a CUDA context, which holds GPU memory until its process ends.
    done = subprocess.run([sys.executable, "-c", _LIST_GPUS], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise LaunchError(f"the GPUs' memory cannot be read: {last}")
    return [Gpu(*facts) for facts in json.loads(done.stdout)]


_LIST_GPUS = """
import json, torch
gpus = []
for i in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(i)
    gpus.append((i, torch.cuda.get_device_name(i), total, free))
print(json.dumps(gpus))
"""


def has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def uses_cpu_platform() -> bool:
    """Whether SGLang will run on this package's CPU platform here."""
    return os.environ.get("SGLANG_USE_CPU_ENGINE", "0") != "1" and not has_accelerator()


def uses_int8_weights() -> bool:
    """Whether the CPU platform uses int8 weights by default: it does if bfloat16 lacks AVX-512."""
    import torch

    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def cpu_memory_needed(weights: int) -> int:
    """Bytes of memory that a server with these weights (bytes) needs on this CPU; 0 if the weights are 0."""
    return weights + CPU_OVERHEAD if weights else 0


def available_memory() -> int:
    """Bytes of memory available to new processes, within the limits of a container."""
    return int(min(psutil.virtual_memory().available, cgroups.memory_left()))
