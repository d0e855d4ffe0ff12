"""SGLang on a plain CPU, through SGLang's own platform plugin interface.

Registered under the entry point group `sglang.srt.platforms`, where `sglang serve` finds it (SGLang
documentation, "Plugin System"). Inactive if there is an accelerator, or if the user chose SGLang's own CPU
engine (`SGLANG_USE_CPU_ENGINE=1`), which needs a CPU build of sgl-kernel. Inactive, too, where the system has
a GPU that PyTorch does not see: a broken GPU should not pass unnoticed. `SPECREASON_SGL_CPU=1` activates it.

Tested with the versions of SGLang in `TESTED`. Its defaults suit a small machine; each can be overridden:

| default | why | override |
| --- | --- | --- |
| `--sleep-on-idle` | an idle scheduler spins a core at 100 % | `SPECREASON_SGL_SLEEP_ON_IDLE=0` |
| `--max-total-tokens 20480` | SGLang would give all memory to the KV cache | the flag itself |
| float32 attention | `torch_native` is slow (see `attention.py`) | `--attention-backend torch_native` |
| int8 weights without AVX-512 | bfloat16 is slow there (see `int8.py`) | any `--dtype` |
| `OMP_WAIT_POLICY=PASSIVE` and similar | two runtimes that spin starve each other | the variables |
"""

import logging
import os

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform
from sglang.version import __version__

from specreason_sgl.runtime.machine import broken_gpu, uses_cpu_platform, uses_int8_weights

logger = logging.getLogger(__name__)

TESTED = ("0.5.23",)
ATTENTION = "cpu_float32"
MAX_TOTAL_TOKENS = 20480
INT8_WEIGHTS = "SPECREASON_SGL_INT8_WEIGHTS"  # tells the scheduler process what the server process decided
PASSIVE_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def activate() -> str | None:
    """SGLang's hook: the platform's dotted name, or None if this platform should not be used."""
    if broken := broken_gpu():
        logger.error("no platform for this machine: %s", broken)
        return None
    if not uses_cpu_platform():
        return None
    if __version__ not in TESTED:
        logger.warning("this CPU platform is tested with SGLang %s, not %s", ", ".join(TESTED), __version__)
    # OpenMP reads these when it loads: too late for this process, in time for the scheduler it spawns.
    for name, value in PASSIVE_OPENMP.items():
        os.environ.setdefault(name, value)
    return f"{__name__}.PlainCpuPlatform"


class PlainCpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU that runs torch only: no Triton, no graphs."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    capabilities = PlatformCapabilities(supports_triton=False, graph_capture=False)

    def get_device(self, device_id: int = 0) -> str:
        # CpuDeviceMixin returns a torch.device, but SRTPlatform promises a string and SGLang splits it.
        return "cpu"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def init_backend(self) -> None:
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        from specreason_sgl.runtime.cpu.attention import Float32Attention

        register_attention_backend(ATTENTION)(Float32Attention)

    def get_dispatch_key_name(self) -> str:
        return "native"

    def is_pin_memory_available(self, device=None) -> bool:
        return False

    def apply_server_args_defaults(self, server_args) -> None:
        if os.environ.get("SPECREASON_SGL_SLEEP_ON_IDLE", "1") != "0":
            server_args.sleep_on_idle = True
        # SGLang presets intel_amx on every x86 and falls back to `torch_native` later. With pages of several
        # tokens it would allocate with Triton for any other backend.
        if server_args.attention_backend == "intel_amx" and (server_args.page_size or 1) == 1:
            server_args.attention_backend = ATTENTION
        if server_args.max_total_tokens is None:
            server_args.max_total_tokens = MAX_TOTAL_TOKENS
        if server_args.dtype == "auto" and uses_int8_weights():
            server_args.dtype = "bfloat16"
            os.environ[INT8_WEIGHTS] = "1"

    def post_load_model(self, model) -> None:
        if os.environ.get(INT8_WEIGHTS) == "1":
            from specreason_sgl.runtime.cpu.int8 import quantize_linears

            logger.info("int8 weights in %d linear layers", quantize_linears(model))
