"""SGLang on a plain CPU, through SGLang's own platform plugin interface.

Registered under the entry point group `sglang.srt.platforms`, so `sglang serve` picks it up by itself
(SGLang documentation, "Plugin System"). It steps aside where there is an accelerator, and where the user
chose SGLang's own CPU engine (`SGLANG_USE_CPU_ENGINE=1`), which needs a CPU build of sgl-kernel.

Written against sglang 0.5.23. Defaults for a small machine, and how to override each:

| default | why | override |
| --- | --- | --- |
| `--sleep-on-idle` | an idle scheduler spins a core at 100 % | `SPECREASON_SGL_SLEEP_ON_IDLE=0` |
| `--max-total-tokens 20480` | SGLang would size the KV cache to all of the memory | the flag itself |
| `--dtype float32` without AVX-512 | bfloat16 prefill is 6 times slower there | the flag itself |
| `OMP_WAIT_POLICY=PASSIVE` and the like | two runtimes fight by spin-waiting | the environment variables |
"""

import os

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

MAX_TOTAL_TOKENS = 20480
PASSIVE_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def activate() -> str | None:
    """SGLang's hook: the platform's dotted name, or None where this platform should not be used."""
    import torch

    if os.environ.get("SGLANG_USE_CPU_ENGINE", "0") == "1" or torch.accelerator.is_available():
        return None
    # OpenMP reads these when it loads. It has loaded here, but not yet in the scheduler, which is spawned.
    for name, value in PASSIVE_OPENMP.items():
        os.environ.setdefault(name, value)
    return f"{__name__}.PlainCpuPlatform"


def default_dtype() -> str:
    """`bfloat16` where the CPU multiplies it natively or by AVX-512, else `float32`."""
    import torch

    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


class PlainCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU with nothing but torch: native attention, no Triton, no graphs."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities(supports_triton=False, graph_capture=False)

    def get_device(self, device_id: int = 0) -> str:
        # SRTPlatform's contract. CpuDeviceMixin returns a torch.device, which argument resolution splits.
        return "cpu"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def is_pin_memory_available(self, device=None) -> bool:
        return False

    def apply_server_args_defaults(self, server_args) -> None:
        if os.environ.get("SPECREASON_SGL_SLEEP_ON_IDLE", "1") != "0":
            server_args.sleep_on_idle = True
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = MAX_TOTAL_TOKENS
        if server_args.dtype == "auto":
            server_args.dtype = default_dtype()
