"""SGLang on a plain CPU, through SGLang's own platform plugin interface.

Registered under the entry point group `sglang.srt.platforms`, so `sglang serve` picks it up by itself
(SGLang documentation, "Plugin System"). It steps aside where there is an accelerator, and where the user
chose SGLang's own CPU engine (`SGLANG_USE_CPU_ENGINE=1`), which needs a CPU build of sgl-kernel.

Written against sglang 0.5.23. Defaults for a small machine, and how to override each:

| default | why | override |
| --- | --- | --- |
| `--sleep-on-idle` | an idle scheduler spins a core at 100 % | `SPECREASON_SGL_SLEEP_ON_IDLE=0` |
| `--max-total-tokens 20480` | SGLang would size the KV cache to all of the memory | the flag itself |
| float32 attention | `torch_native` is slow (see `cpu_attention.py`) | `--attention-backend torch_native` |
| int8 weights without AVX-512 | bfloat16 is slow there (see `cpu_int8.py`) | any `--dtype` |
| `OMP_WAIT_POLICY=PASSIVE` and the like | two runtimes fight by spin-waiting | the environment variables |
"""

import logging
import os

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

from specreason_sgl.runtime.machine import uses_cpu_platform, uses_int8_weights

logger = logging.getLogger(__name__)

ATTENTION = "cpu_float32"
MAX_TOTAL_TOKENS = 20480
INT8_WEIGHTS = "SPECREASON_SGL_INT8_WEIGHTS"  # from the server's process, which parses, to the scheduler's
PASSIVE_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def activate() -> str | None:
    """SGLang's hook: the platform's dotted name, or None where this platform should not be used."""
    if not uses_cpu_platform():
        return None
    # OpenMP reads these when it loads. It has loaded here, but not yet in the scheduler, which is spawned.
    for name, value in PASSIVE_OPENMP.items():
        os.environ.setdefault(name, value)
    return f"{__name__}.PlainCpuPlatform"


class PlainCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU with nothing but torch: no Triton, no graphs."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities(supports_triton=False, graph_capture=False)

    def get_device(self, device_id: int = 0) -> str:
        # SRTPlatform's contract. CpuDeviceMixin returns a torch.device, which argument resolution splits.
        return "cpu"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def init_backend(self) -> None:
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        from specreason_sgl.runtime.cpu_attention import Float32Attention

        register_attention_backend(ATTENTION)(Float32Attention)

    def get_dispatch_key_name(self) -> str:
        return "native"

    def is_pin_memory_available(self, device=None) -> bool:
        return False

    def apply_server_args_defaults(self, server_args) -> None:
        if os.environ.get("SPECREASON_SGL_SLEEP_ON_IDLE", "1") != "0":
            server_args.sleep_on_idle = True
        # SGLang has filled this in for any x86, to fall back to `torch_native` later. It allocates pages of
        # several tokens with Triton for all others.
        if server_args.attention_backend == "intel_amx" and (server_args.page_size or 1) == 1:
            server_args.attention_backend = ATTENTION
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = MAX_TOTAL_TOKENS
        if server_args.dtype == "auto" and uses_int8_weights():
            server_args.dtype = "bfloat16"
            os.environ[INT8_WEIGHTS] = "1"

    def post_load_model(self, model) -> None:
        if os.environ.get(INT8_WEIGHTS) == "1":
            from specreason_sgl.runtime.cpu_int8 import quantize_linears

            logger.info("int8 weights in %d linear layers", quantize_linears(model))
