"""Where and with what samples were made: machine, versions, commit, servers."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import psutil

from specreason_sgl.errors import ServerError
from specreason_sgl.reasoning.trace import model_name
from specreason_sgl.runtime import machine, sizes
from specreason_sgl.runtime.pairs import get_model

PACKAGES = ("specreason-sgl", "sglang", "torch", "transformers", "flashinfer-python", "math-verify")
SERVER_ARGUMENTS = (  # of the hundreds that SGLang reports: those that change texts or times
    "attention_backend", "chunked_prefill_size", "context_length", "cpu_offload_gb", "device",
    "disable_cuda_graph", "disable_overlap_schedule", "disable_radix_cache", "dp_size", "dtype",
    "kv_cache_dtype", "load_format", "max_running_requests", "mem_fraction_static", "model_path",
    "page_size", "pp_size", "quantization", "random_seed", "revision", "sampling_backend",
    "schedule_policy", "sleep_on_idle", "speculative_algorithm", "speculative_draft_model_path",
    "speculative_num_draft_tokens", "speculative_num_steps", "tp_size", "version",
)  # fmt: skip


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine, as far as it decides times.

    Attributes:
        processor: its model.
        cores: that this process may use.
        memory_gb: in all, in GB.
        gpus: their names.
    """

    processor: str
    cores: int
    memory_gb: int
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.cores} cores of {self.processor}, {self.memory_gb} GB{gpus}"


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of one session of a run.

    Attributes:
        started: when, in UTC.
        versions: of Python and the packages that texts and times depend on.
        commit: of this package, with "-dirty" if files were changed; None if it is not a checkout.
        servers: SGLang's own report of its arguments, by the model's part in the run; empty where there is
            none.
        parameters: of the models, by their part in the run, where known.
    """

    started: str
    versions: dict[str, str]
    commit: str | None
    servers: dict[str, dict[str, Any]]
    parameters: dict[str, int]


def this_machine() -> Machine:
    """The machine of this process. Raises `LaunchError` if its GPU's driver does not answer."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9),
        gpus=tuple(gpu.name for gpu in machine.gpus()),
    )


def provenance(endpoints: Mapping[str, Any]) -> Provenance:
    """Of a session that begins now, with the endpoints by their part in the run."""
    names = {side: endpoint.get_model_name() for side, endpoint in endpoints.items()}
    return Provenance(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **_versions()},
        commit=_commit(),
        servers={side: _arguments(endpoint) for side, endpoint in endpoints.items()},
        parameters={side: count for side, name in names.items() if (count := parameters(name))},
    )


def parameters(model: str) -> int:
    """Parameters of a model, by its declaration in `pairs` or its folder's config.json; 0 if unknown."""
    declared = get_model(model).parameters or get_model(model_name(model)).parameters
    return declared or sizes.parameters(Path(model))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not a repository around an installation
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _arguments(endpoint: Any) -> dict[str, Any]:
    try:
        told = endpoint.get_server_info()
    except ServerError:
        return {}
    return {name: told[name] for name in SERVER_ARGUMENTS if told.get(name) is not None}
