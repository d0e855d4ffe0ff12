"""How well each verifier judges a pair's steps, and the threshold for a wanted acceptance.

The draft model solves problems with known answers. Every step is judged by every built-in verifier; so is a
copy of each step of a right solution with one digit changed.
"""

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.evaluation.grading import is_right
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.acceptance import check_share
from specreason_sgl.reasoning.batch import run_batch
from specreason_sgl.reasoning.calibration import Calibration
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.solve import solve_alone
from specreason_sgl.reasoning.verifiers import (
    BUILT_IN,
    RESULT,
    Drafted,
    Likelihood,
    PaperScore,
    UtilityScore,
    YesNo,
)

KEPT_VALUES = 1001
RESAMPLES = 1000
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class JudgedSolution:
    """A solution of the draft model's, judged.

    Attributes:
        id: of the problem.
        right: whether its answer is.
        steps: each step's text.
        values: each step's, by verifier.
        corrupted: for some steps of a right solution, (position, text, values) of a copy with a wrong digit.
    """

    id: str
    right: bool
    steps: tuple[str, ...]
    values: tuple[dict[str, float], ...]
    corrupted: tuple[tuple[int, str, dict[str, float]], ...] = ()


def judge_problems(
    problems: Sequence[Problem],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    record: Path,
    concurrency: int = 16,
    progress_bar: bool = False,
    seed: int = 0,
) -> list[JudgedSolution]:
    """Have the draft model solve problems, and every built-in verifier judge its steps.

    Args:
        problems: with known answers.
        draft, base: the runtimes.
        config: prompt, budget and sampling; the rest is not used.
        record: a JSON Lines file that gets each solution when it is judged. What it has already is not done
            again, so that a run that was broken off goes on.
        concurrency: problems at a time.
        progress_bar: draw one on standard error.
        seed: of the corrupted digits.

    Raises:
        ConfigError: the record is of another pair or other settings.
        SpecReasonError: a runtime failed; what was judged before is in the record.
    """
    head = {
        "draft": draft.get_model_name(),
        "base": base.get_model_name(),
        "instruction": config.instruction,
        "token_budget": config.token_budget,
        "temperature": config.temperature,
        "seed": seed,
        "verifiers": list(BUILT_IN),
    }
    done = _read_record(record, head)
    todo = [problem for problem in problems if problem.id not in done]

    def work(problem: Problem) -> JudgedSolution:
        trace = solve_alone(problem.question, endpoint=draft, side="draft", config=config)
        right = is_right(trace.answer, problem.answer)
        steps = tuple(step.text for step in trace.steps if step.text.strip())
        rng = random.Random(f"{seed} {problem.id}")
        wrong = [corrupted(step, rng) for step in steps] if right else [None] * len(steps)
        state = _judge_steps.run(
            question=problem.question, steps=steps, wrong=wrong, config=config, backend=base
        )
        values, others = state["judged"]
        return JudgedSolution(problem.id, right, steps, values, others)

    with open(record, "a") as file:

        def keep(_: int, solution: JudgedSolution | SpecReasonError) -> None:
            if isinstance(solution, SpecReasonError):
                raise solution
            file.write(json.dumps(asdict(solution), ensure_ascii=False) + "\n")
            file.flush()
            done[solution.id] = solution

        run_batch(work, todo, [draft, base], concurrency, progress_bar, keep)
    return [done[problem.id] for problem in problems]


@sgl.function
def _judge_steps(s, question, steps, wrong, config):
    s += sgl.user(config.prompt(question))
    s += sgl.assistant_begin()
    s += s.stream_executor.chat_template.thinking_prefix
    values, others = [], []
    for i, step in enumerate(steps):
        values.append(_judge(s, step, config.delimiter))
        if wrong[i]:
            others.append((i, wrong[i], _judge(s, wrong[i], config.delimiter)))
        s += step + config.delimiter
    s["judged"] = tuple(values), tuple(others)


def _judge(s: ProgramState, text: str, delimiter: str) -> dict[str, float]:
    """A step's value by each built-in verifier, in three requests: the score's has the average and the
    likelihoods, too."""
    drafted = Drafted(text, 0, "delimiter", delimiter)
    questions = {"score": UtilityScore(with_logprobs=True), "yes-no": YesNo(), "score-paper": PaperScore()}
    states, values = {}, {}
    for name, verifier in questions.items():  # one after the other: the first leaves the step in the cache
        states[name] = verifier.ask(s.fork(1)[0], drafted)
        values[name] = verifier.judgement(states[name], drafted).value
    meta = states["score"].get_meta_info(RESULT)
    average = sum(float(digit) * p for digit, p in meta["probabilities"].items())
    values["score-average"] = UtilityScore().value({**meta, "score": average})
    for name, verifier in BUILT_IN.items():
        if isinstance(verifier, Likelihood):
            values[name] = verifier.read(meta, drafted).value
    return values


def corrupted(text: str, rng: random.Random) -> str | None:
    """The text with one digit of one of its numbers changed, or None where it has none."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    number = rng.choice(numbers)
    at = rng.randrange(number.start(), number.end())
    digits = set("0123456789") - {text[at]}
    if at == number.start() and len(number[0]) > 1:
        digits.discard("0")
    return text[:at] + rng.choice(sorted(digits)) + text[at + 1 :]


def calibrate(
    judged: Sequence[JudgedSolution], *, draft_model: str, base_model: str, keep: float, source: str
) -> Calibration:
    """Choose the best verifier on one half of the problems, report all on the other half.

    Args:
        judged: what `judge_problems` returned.
        draft_model, base_model: their names.
        keep: the share of drafted steps that the threshold should keep, above 0 and at most 1.
        source: which problems these are; goes into the file.

    Returns:
        Its `table` has for each verifier the area under the ROC curve (AUC) with a 95 % bootstrap interval
        over problems, on the half that was not chosen on: `corrupted`, of steps against their copies with a
        wrong digit; `paired`, how often a step is ranked above its own copy; `solutions`, of right against
        wrong solutions by the mean of their steps' values.

    Raises:
        ConfigError: there are too few problems: each half needs a right and a wrong solution.
    """
    check_share(keep)
    halves = judged[::2], judged[1::2]
    for half in halves:
        if len({solution.right for solution in half}) < 2 or not any(s.corrupted for s in half):
            raise ConfigError(
                f"{len(judged)} problems are too few: each half of them needs solutions that are right, with "
                "a number in them, and solutions that are wrong"
            )
    chosen = max(BUILT_IN, key=lambda name: sum(_figures(halves[0], name)[:2]))
    table = []
    for name in BUILT_IN:
        figures = _figures(halves[1], name)
        low, high = _intervals(halves[1], name)
        row = {"verifier": name}
        for i, figure in enumerate(("corrupted", "solutions", "paired")):
            row[figure] = {"value": float(figures[i]), "low": float(low[i]), "high": float(high[i])}
        table.append(row)
    values = np.sort([step[chosen] for solution in judged for step in solution.values])
    picked = values[np.linspace(0, len(values) - 1, min(len(values), KEPT_VALUES)).round().astype(int)]
    return Calibration(
        draft_model=draft_model,
        base_model=base_model,
        verifier=chosen,
        keep=keep,
        threshold=float(values[min(int((1 - keep) * len(values)), len(values) - 1)]),
        values=tuple(map(float, picked)),
        table=tuple(table),
        data={
            "source": source,
            "problems": len(judged),
            "right": sum(solution.right for solution in judged),
            "steps": len(values),
            "corrupted": sum(len(solution.corrupted) for solution in judged),
        },
    )


def auc(better, worse, times_better=None, times_worse=None) -> np.ndarray:
    """How often one of `better` is above one of `worse`; ties count half. NaN where one is empty.

    Args:
        better, worse: numbers, of shapes (n,) and (m,).
        times_better, times_worse: how often each counts, of shapes (..., n) and (..., m); default: once.

    Returns:
        Of shape (...).
    """
    better, worse = np.asarray(better, float)[:, None], np.asarray(worse, float)
    times_better = np.ones(len(better)) if times_better is None else times_better
    times_worse = np.ones(len(worse)) if times_worse is None else times_worse
    above = (better > worse) + (better == worse) / 2
    return _share((times_better @ above) * times_worse, times_better.sum(-1) * times_worse.sum(-1))


def _share(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return parts.sum(-1) / whole


def _figures(judged: Sequence[JudgedSolution], name: str, times: np.ndarray | None = None) -> np.ndarray:
    """The three figures of `calibrate`, of shape (3,); or of shape (3, samples), where `times`, of shape
    (samples, problems), says how often each problem is in each sample."""
    times = np.ones(len(judged)) if times is None else times
    pairs = [
        (problem, solution.values[i][name], values[name])
        for problem, solution in enumerate(judged)
        for i, _, values in solution.corrupted
    ]
    of, clean, wrong = (np.array(column) for column in zip(*pairs, strict=True))
    means = np.array([_mean([step[name] for step in solution.values]) for solution in judged])
    right = np.array([solution.right for solution in judged])
    good, bad = (np.flatnonzero(which & ~np.isnan(means)) for which in (right, ~right))
    each = times[..., of]
    return np.stack(
        [
            auc(clean, wrong, each, each),
            auc(means[good], means[bad], times[..., good], times[..., bad]),
            _share(each * ((clean > wrong) + (clean == wrong) / 2), each.sum(-1)),
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan


def _intervals(judged: Sequence[JudgedSolution], name: str) -> np.ndarray:
    rng, n = np.random.default_rng(0), len(judged)
    times = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return np.nanpercentile(_figures(judged, name, times), [2.5, 97.5], axis=1)


def draw(judged: Sequence[JudgedSolution], calibration: Calibration, path: Path) -> None:
    """Histograms of the chosen verifier's values: steps and their wrong copies; right and wrong solutions."""
    from matplotlib.figure import Figure

    name = calibration.verifier
    clean = [s.values[i][name] for s in judged for i, _, _ in s.corrupted]
    wrong = [values[name] for s in judged for _, _, values in s.corrupted]
    of_right, of_wrong = (
        [v[name] for s in judged if s.right is right for v in s.values] for right in (True, False)
    )
    panels: list[dict[str, list[float]]] = [
        {"steps of right solutions": clean, "the same with a wrong digit": wrong},
        {"steps of right solutions": of_right, "steps of wrong solutions": of_wrong},
    ]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    bins = np.linspace(*np.percentile([*clean, *wrong, *of_right, *of_wrong], [1, 100]), 30)
    for axes, groups in zip(figure.subplots(1, 2), panels, strict=True):
        for label, values in groups.items():
            axes.hist(np.clip(values, bins[0], None), bins, density=True, alpha=0.55, label=label)
        label = f"threshold, keeps {calibration.keep:.0%}"
        axes.axvline(calibration.threshold, color="black", lw=1, label=label)
        axes.set_xlabel(name)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("density")
    figure.savefig(path, dpi=120)


def _read_record(path: Path, head: dict[str, Any]) -> dict[str, JudgedSolution]:
    """What an earlier run judged. A last line that was cut off is dropped."""
    if not path.exists() or not path.read_text():
        path.write_text(json.dumps(head) + "\n")
        return {}
    lines = path.read_text().splitlines(keepends=True)
    done, number = {}, 1
    try:
        if json.loads(lines[0]) != head:
            raise ConfigError(f"{path} is of another pair or other settings; name another file, or remove it")
        for line in lines[1:]:
            number += 1
            if not line.endswith("\n"):
                path.write_text("".join(lines[:-1]))
                break
            data = json.loads(line)
            done[data["id"]] = JudgedSolution(
                data["id"],
                data["right"],
                tuple(data["steps"]),
                tuple(data["values"]),
                tuple((i, text, values) for i, text, values in data["corrupted"]),
            )
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}, line {number}: this is not a record of a calibration") from None
    return done
