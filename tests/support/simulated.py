"""What `launch_pair` starts on machines that are not here: `python -m tests.support.simulated` is a table.

GPUs, weights and processes are made up, the rest is real: models are as large as `pairs` declares them, and a
server that is started only takes its memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from specreason_sgl.display.markdown import markdown_table
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.runtime import launch, machine
from specreason_sgl.runtime.machine import Gpu
from specreason_sgl.runtime.pairs import KNOWN_MODELS, PAIRS, PairSpec
from specreason_sgl.runtime.sizes import expected_load

TAKEN = 500_000_000  # bytes of a new GPU that are not free
VARIABLES = (machine.HIP_VISIBLE, machine.VISIBLE)


@dataclass(frozen=True)
class Machine:
    """GPUs of so many GiB, as the environment names them: `names` is the value of the platform's variable."""

    title: str
    count: int
    size: int
    names: str = ""
    rocm: bool = False

    def gpus(self) -> list[Gpu]:
        total = self.size * 2**30
        return [Gpu(i, self.title, total, total - TAKEN) for i in range(self.count)]


MIG = Machine("2 MIG devices of 40 GB", 2, 40, "MIG-a,MIG-b")
ONE_AMD = Machine("1 x 192 GB, AMD", 1, 192, rocm=True)
FOUR_AMD = Machine("4 of 8 x 192 GB, AMD", 4, 192, "4,5,6,7", rocm=True)


def nvidia(count: int, size: int) -> Machine:
    return Machine(f"{count} x {size} GB", count, size)


TP4 = {"base_args": ("--tp", "4")}
ALL4 = {"draft_gpus": (0, 1, 2, 3), "base_gpus": (0, 1, 2, 3)}
ROWS = (
    (nvidia(1, 24), {}),
    (nvidia(1, 80), {}),
    (nvidia(1, 141), {}),
    (nvidia(2, 24), {}),
    (nvidia(2, 80), {}),
    (nvidia(2, 80), {"base_args": ("--tp", "2")}),
    (nvidia(2, 80), TP4),
    (nvidia(4, 24), TP4),
    (nvidia(4, 24), ALL4),
    (nvidia(4, 80), {"base_gpus": (0, 1)}),
    (nvidia(8, 24), TP4),
    (nvidia(8, 80), {"base_args": ("--tp", "8")}),
    (nvidia(8, 80), {"base_args": ("--tp", "2", "--dp", "3")}),
    (MIG, {}),
    (MIG, {"base_gpus": (0, 1)}),
    (ONE_AMD, {}),
    (FOUR_AMD, {"base_args": ("--tp", "2")}),
)


def table() -> str:
    """What starts where, for the pairs for GPUs."""
    pairs = [PAIRS["paper"], PAIRS["qwen3"]]
    rows = [
        [gpus.title, _option(options), *(outcome(gpus, pair, options) for pair in pairs)]
        for gpus, options in ROWS
    ]
    return markdown_table(["GPUs", "options", *(pair.name for pair in pairs)], rows)


def outcome(gpus: Machine, pair: PairSpec, options: dict) -> str:
    """Where the two servers go, or why they are not started."""
    with _simulated(gpus) as started:
        try:
            with launch.launch_pair(pair, **options):
                pass
        except SpecReasonError as error:
            assert not started
            return f"refused: {str(error).partition(': use ')[0]}"
        base, draft = sorted(started, key=lambda spec: spec.role)
        places = ", ".join(f"{spec.role} on `{_seen(spec)}`" for spec in (base, draft))
    if not draft.share:
        return places
    tokens = draft.share.kv_cache * len(draft.gpus) // expected_load(pair.draft).kv_per_token
    return f"{places}; KV cache of {tokens // 1000:,},000 tokens each"


def _seen(spec) -> str:
    environment = spec.environment()
    name = next(name for name in VARIABLES if name in environment)
    return f"{name}={environment[name]}"


def _option(options: dict) -> str:
    texts = (
        f"`--{name.replace('_', '-')} {chr(34)}{' '.join(value)}{chr(34)}`"
        if name.endswith("args")
        else f"`--{name.replace('_', '-')} {','.join(map(str, value))}`"
        for name, value in options.items()
    )
    return " ".join(texts)


@contextmanager
def _simulated(simulated: Machine) -> Iterator[list]:
    started, gpus = [], simulated.gpus()

    class Server:
        """Takes its memory, and is gone at once."""

        def __init__(self, spec, _launch_key):
            spec.command(0)
            started.append(spec)
            for i in spec.gpus if spec.share else ():
                taken = spec.share.weights + spec.share.kv_cache + spec.share.reserve // 2
                gpus[i] = replace(gpus[i], free=gpus[i].free - taken)

        def stop(self):
            pass

        begin_stop = stop

    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        if simulated.names:
            patch.setenv(VARIABLES[0 if simulated.rocm else 1], simulated.names)
        patch.setattr("torch.version.hip", "6.4" if simulated.rocm else None)
        patch.setattr(machine, "gpus", lambda: list(gpus))
        patch.setattr(machine, "has_accelerator", lambda: True)
        patch.setattr(launch, "fetch", lambda model, progress: Path(model.repo))
        patch.setattr(launch, "load_of", lambda folder: expected_load(KNOWN_MODELS[str(folder)]))
        patch.setattr(launch, "Server", Server)
        patch.setattr(launch, "wait_healthy", lambda *_: None)
        yield started


if __name__ == "__main__":
    print(table())
