"""What this machine offers: accelerators, memory, the number format its CPU is fast in."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import cgroups, hardware

BFLOAT16 = 2  # bytes
VISIBLE = "CUDA_VISIBLE_DEVICES"
HIP_VISIBLE = "HIP_VISIBLE_DEVICES"  # AMD's; wins over CUDA's, and counts within ROCR_VISIBLE_DEVICES
CPU_ENGINE = "SGLANG_USE_CPU_ENGINE"  # SGLang's own, which needs a CPU build of sgl-kernel
CPU_OVERHEAD = 3_500_000_000  # bytes of a server on a CPU beside its weights: three processes, KV cache


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA or AMD GPU: its index among those visible to this process, total and free memory in bytes."""

    index: int
    name: str
    total: int
    free: int


def gpus() -> list[Gpu]:
    """The GPUs visible to this process, with their free memory now; takes some seconds.

    CUDA shows a process one MIG device, however many `CUDA_VISIBLE_DEVICES` names: each is asked for alone.

    Raises:
        LaunchError: the driver does not answer.
    """
    import torch

    if not torch.cuda.is_available():
        return []
    views = [{VISIBLE: name} for name in visible_names()] if uses_mig() else [{}]
    with ThreadPoolExecutor() as pool:
        facts = [fact for facts_of_view in pool.map(_ask, views) for fact in facts_of_view]
    return [Gpu(index, *fact) for index, fact in enumerate(facts)]


def _ask(view: dict[str, str]) -> list[tuple[str, int, int]]:
    # In a separate process: asking creates a CUDA context, which holds GPU memory until its process ends.
    done = subprocess.run(
        [sys.executable, "-c", _LIST_GPUS],
        capture_output=True, text=True, check=False, env={**os.environ, **view},
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise LaunchError(f"the GPUs' memory cannot be read: {last}")
    return json.loads(done.stdout)


_LIST_GPUS = """
import json, torch
gpus = []
for i in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(i)
    gpus.append((torch.cuda.get_device_name(i), total, free))
print(json.dumps(gpus))
"""


def uses_mig() -> bool:
    """Whether this process is given parts of a GPU (NVIDIA's MIG), by name."""
    return any(name.startswith("MIG-") for name in visible_names())


def visible_names() -> list[str]:
    """What the environment calls the GPUs that this process may see: numbers or UUIDs; empty if unset."""
    named = (os.environ.get(HIP_VISIBLE) if is_rocm() else "") or os.environ.get(VISIBLE, "")
    return [name.strip() for name in named.split(",") if name.strip()]


def visibility(indices: Sequence[int]) -> dict[str, str]:
    """The environment variables that show a child process these GPUs of ours; empty for no indices."""
    if not indices:
        return {}
    names = visible_names()
    chosen = ",".join(names[i] if i < len(names) else str(i) for i in indices)
    return {name: chosen for name in ((HIP_VISIBLE, VISIBLE) if is_rocm() else (VISIBLE,))}


def is_rocm() -> bool:
    """Whether this PyTorch is AMD's."""
    import torch

    return torch.version.hip is not None


def has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def uses_cpu_platform() -> bool:
    """Whether SGLang will run on this package's CPU platform here."""
    if os.environ.get(CPU_ENGINE, "0") == "1" or has_accelerator():
        return False
    return not broken_gpu()


def broken_gpu() -> str:
    """Why this machine should not run on its CPU: the system has a GPU that PyTorch does not see; else empty.

    Not if the user hides the GPUs or wants the CPU: `SPECREASON_SGL_CPU=1`, an empty `CUDA_VISIBLE_DEVICES`.
    """
    import torch

    hidden = any(
        os.environ.get(name) in ("", "-1") for name in (VISIBLE, HIP_VISIBLE, "ROCR_VISIBLE_DEVICES")
    )
    wanted = any(os.environ.get(name, "0") == "1" for name in ("SPECREASON_SGL_CPU", CPU_ENGINE))
    if hidden or wanted or has_accelerator() or not (sign := hardware.gpu_sign()):
        return ""
    version = torch.version
    built = f"ROCm {version.hip}" if version.hip else f"CUDA {version.cuda}" if version.cuda else "no GPU"
    return (
        f"the system has {sign}, and PyTorch {torch.__version__} (built for {built}) sees no GPU: repair the "
        "driver or install PyTorch for this GPU, or set SPECREASON_SGL_CPU=1 to run on the CPU"
    )


def check_device() -> None:
    """Refuse to run on the CPU because a GPU is broken (see `broken_gpu`).

    Raises:
        LaunchError: says what shows the GPU, and what to do.
    """
    if broken := broken_gpu():
        raise LaunchError(broken)


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
