"""The measurements of RESULTS.md, a part at a time: `make results PART=primary`.

The primary figure, named before it was measured: `correct delta=1`, the default, with windows of automatic
size, against base alone, on numbers 295 to 530 of GSM8K's test set (ids gsm8k-294 to gsm8k-529; nothing was
chosen on them), 16 at a time, greedy, 400 tokens of reasoning: the paired difference of accuracy with its
interval, and how many times as fast. All other figures are secondary. That numbers are the base model's own
(`numeric_delta`) was chosen on numbers 231 to 294.

A part first solves one problem in each setting, says how long the part will take, and then runs it. The same
command continues an interrupted part.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from specreason_sgl import Endpoint
from specreason_sgl.display.report_answer import answer
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.evaluation import (
    Problem,
    Report,
    RunOptions,
    Runtimes,
    Setting,
    expand,
    load_data,
    run_evaluation,
)
from specreason_sgl.evaluation.calibrated import calibrations, check_untouched
from specreason_sgl.evaluation.records import Sample, read_run
from specreason_sgl.evaluation.time_left import time_left
from specreason_sgl.runtime import launch
from specreason_sgl.runtime.pairs import get_pair

PRIMARY = "correct delta=1"
GREEDY = {"temperature": [0.0], "answer_tokens": [32]}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {  # each setting's mode and knobs
    "base": ("base", {}),
    "base-whole": ("base-whole", {}),
    "draft": ("draft", {}),
    **{f"mix share={share:g}": ("mix", {"share": [share]}) for share in (0.25, 0.5, 0.75)},
    **{
        f"correct delta={delta:g}": ("correct", {"delta": [delta], "window": ["auto"]})
        for delta in (0.5, 1.0, 3.0)
    },
    "correct delta=1 numeric_delta=1": (
        "correct",
        {"delta": [1.0], "numeric_delta": [1.0], "window": ["auto"]},
    ),
    "paper": ("paper", {}),
    "short question": ("sequential", {"verifier": ["score"]}),
    "likelihood": ("pipelined", {}),  # judged by the pair's calibration
}
TIMEOUT = 3600.0  # seconds, of a sample
SLOWER = {1: 1.0, 4: 1.1, 16: 2.2, 64: 9.0}  # times as long as alone, by samples at a time; 64: a guess


@dataclass(frozen=True)
class Part:
    """What is run together.

    Attributes:
        settings: of `SETTINGS`, in this order.
        data: `gsm8k` or `math500`.
        numbers: of the problems in GSM8K's test set, or in MATH500, from 0.
        concurrency: samples at a time.
        token_budget: tokens of reasoning.
    """

    settings: tuple[str, ...]
    numbers: range
    concurrency: int = 16
    data: str = "gsm8k"
    token_budget: int = 400
    pair: str = "mini"


STUDY = range(294, 530)  # numbers 295 to 530
PARTS = {
    "primary": Part(("base", PRIMARY), STUDY),
    "line": Part(("draft", "mix share=0.5"), STUDY),
    "others": Part(("paper", "likelihood", "correct delta=3", "correct delta=1 numeric_delta=1"), STUDY),
    "rest": Part(
        (
            "base", "draft", "base-whole", "mix share=0.25", "mix share=0.5", "mix share=0.75", PRIMARY,
            "correct delta=0.5", "short question",
        ),
        STUDY[:60],
    ),
    "latency": Part(
        ("base", "base-whole", "draft", PRIMARY, "correct delta=3", "paper"), STUDY[:40], concurrency=1
    ),
    "load": Part(("base", "draft", "mix share=0.5", PRIMARY), STUDY[:30], concurrency=4),
    "load-64": Part(("base", PRIMARY), STUDY[:64], concurrency=64),
    "math": Part(
        ("base", "draft", PRIMARY, "correct delta=3", "paper"), range(50), data="math500", token_budget=800
    ),
    "nano": Part(("base", "draft", PRIMARY, "correct delta=3"), STUDY[:100], pair="nano"),
}  # fmt: skip


def settings_of(part: Part) -> list[Setting]:
    """The part's settings by the names of `SETTINGS`."""
    common = {**GREEDY, "token_budget": [part.token_budget]}
    made = []
    for name in part.settings:
        mode, knobs = SETTINGS[name]
        calibrated = part.pair if mode == "pipelined" else None  # no other setting depends on a calibration
        (setting,) = expand([mode], {**common, **knobs}, pair=calibrated)
        made.append(replace(setting, name=name))
    return made


def problems_of(part: Part, data: str) -> list[Problem]:
    """The part's problems, with the same ids wherever they come from.

    Args:
        data: the dataset's name, or a file of its problems: of GSM8K with the ids `gsm8k-N`, N their position
            in the test set; of MATH500 in its order.
    """
    if part.data == "gsm8k":
        mark = "/" if data == "gsm8k" else "-"
        chosen = load_data(data, ids=[f"gsm8k{mark}{number}" for number in part.numbers])
    else:
        chosen = load_data(data, len(part.numbers), offset=part.numbers.start)
    return [
        replace(problem, id=f"{part.data}-{number}")
        for number, problem in zip(part.numbers, chosen, strict=True)
    ]


@contextmanager
def servers(part: Part) -> Iterator[Runtimes]:
    """The pair, each model on its half of the cores; for `base-whole` another base server on all of them."""
    spec = get_pair(part.pair)
    told = {"status": launch.print_progress, "progress": launch.print_progress}
    with ExitStack() as stack:
        pair = stack.enter_context(launch.launch_pair(spec, pin=True, **told))
        running = {"draft": pair.draft, "base": pair.base}
        if "base-whole" in part.settings:
            running["whole"] = stack.enter_context(launch.launch_whole(spec, **told))
        connected = {
            side: stack.enter_context(Endpoint(server, timeout=TIMEOUT)) for side, server in running.items()
        }
        yield Runtimes(**connected, launch={"pin": True})


def measure(
    name: str,
    problems: Sequence[Problem],
    folder: Path,
    runtimes: Runtimes,
    *,
    data: str,
    retry_failed: bool = False,
    estimate_only: bool = False,
) -> None:
    """Say how long a part will take, and run it.

    Args:
        data: where the problems come from.
        retry_failed: also do again the samples that failed.
    """
    part = PARTS[name]
    settings, out = settings_of(part), folder / f"{name}.jsonl"
    options = RunOptions(
        concurrency=part.concurrency, timeout=TIMEOUT, retry_failed=retry_failed, progress_bar=True
    )
    alone = replace(options, concurrency=1, progress_bar=False)
    first = run_evaluation(problems[:1], settings, folder / f"{name}.first.jsonl", runtimes, alone, data=data)
    _say(estimate(part, settings, options, first, out))
    if estimate_only:
        return
    run_evaluation(problems, settings, out, runtimes, options, data=data)
    _say(" ".join(answer(Report.read(out).rows)))
    _say(f"specreason-sgl report {out}")


def estimate(
    part: Part, settings: Sequence[Setting], options: RunOptions, first: Sequence[Sample], out: Path
) -> str:
    """How long what is still to do will take.

    Args:
        first: a sample of each setting, solved one at a time; they count where the part has none yet.
        out: the part's file, which may exist.
    """
    slower = SLOWER[part.concurrency]
    tried = {each.setting: slower * (each.trace.seconds if each.trace else TIMEOUT) for each in first}
    recorded = read_run(out)[1] if out.exists() else []
    left = time_left(len(part.numbers), settings, options, recorded, tried)
    lines = [
        f"{name}: {each.samples} samples of {each.sample_seconds:.0f} s: {each.seconds / 60:.0f} minutes"
        for name, each in left.items()
    ]
    hours = sum(each.seconds for each in left.values()) / 3600
    return "\n".join([*lines, f"{part.concurrency} at a time, together about {hours:.1f} hours"])


def listing() -> str:
    """The parts, of which none is started."""
    lines = ["Name a part (PART=...):"]
    for name, part in PARTS.items():
        numbers = f"numbers {part.numbers[0] + 1} to {part.numbers[-1] + 1} of {part.data}"
        lines.append(
            f"{name}: {part.pair}, {numbers}, {part.concurrency} at a time: {', '.join(part.settings)}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="programs.results", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--gsm8k", default="gsm8k", help="a file of GSM8K's test set; default: from the hub")
    parser.add_argument("--math500", default="math500", help="a file of MATH500; default: from the hub")
    parser.add_argument("--out", type=Path, default=Path("build/results"), help="folder of the runs")
    parser.add_argument("--estimate", action="store_true", help="only say how long a part will take")
    parser.add_argument("--retry-failed", action="store_true", help="also do again the samples that failed")
    given = parser.parse_args(arguments)
    if not given.parts:
        print(listing())
        return
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"a part must be one of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        for name in given.parts:
            _run_part(name, given)
    except KeyboardInterrupt:
        _say(f"interrupted; finished samples are in {given.out}, and the same command continues")
        sys.exit(130)


def _run_part(name: str, given: argparse.Namespace) -> None:
    part = PARTS[name]
    data = getattr(given, part.data)
    problems = problems_of(part, data)
    check_untouched(problems, calibrations([SETTINGS[each][0] for each in part.settings], {}, part.pair))
    with servers(part) as runtimes:
        measure(
            name, problems, given.out, runtimes,
            data=data, retry_failed=given.retry_failed, estimate_only=given.estimate,
        )  # fmt: skip


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except SpecReasonError as error:
        sys.exit(f"error: {error}")
