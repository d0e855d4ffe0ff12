"""Measure how well each verifier judges a pair's steps, and which threshold keeps a given share of them.

The draft model solves problems with known answers. Every built-in verifier judges every step, and a copy of
each step of a right solution with one digit changed.
"""

import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.auc import auc
from specreason_sgl.evaluation.bootstrap import interval
from specreason_sgl.evaluation.grading import is_right
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.recorded import work_recorded
from specreason_sgl.files import Head, Line
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.acceptance import check_share
from specreason_sgl.reasoning.calibration import Calibration
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.solve import solve_alone
from specreason_sgl.reasoning.verifier import RESULT, Drafted
from specreason_sgl.reasoning.verifiers import BUILT_IN, Likelihood, UtilityScore

KEPT_VALUES = 1001
RESAMPLES = 1000
_NUMBER = re.compile(r"\d+")


class JudgedSolution(Line, frozen=True, forbid_unknown_fields=True):
    """A solution by the draft model, judged.

    Attributes:
        id: of the problem.
        right: whether its answer is right.
        steps: each step's text.
        values: each step's values, by verifier.
        corrupted: for some steps of a right solution, (position, text, values) of a copy with a wrong digit.
        hash: of the problem; empty in records from before.
    """

    id: str
    right: bool
    steps: tuple[str, ...]
    values: tuple[dict[str, float], ...]
    corrupted: tuple[tuple[int, str, dict[str, float]], ...] = ()
    hash: str = ""

    @property
    def key(self) -> str:
        return self.id


class JudgedHead(Head, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a calibration's record: what the judged solutions depend on."""

    kind: Literal["specreason-sgl calibrate"] = "specreason-sgl calibrate"
    version: Literal[1] = 1
    draft: str
    base: str
    instruction: str
    token_budget: int
    temperature: float
    seed: int
    verifiers: tuple[str, ...]


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
        config: prompt, budget and sampling; its other settings are not used.
        record: a JSON Lines file that receives each solution as soon as it is judged. Solutions that it has
            are not judged again: the same call continues an interrupted run.
        concurrency: problems solved at once.
        progress_bar: draw one on standard error.
        seed: of the corrupted digits.

    Raises:
        ConfigError: the record is of another pair or other settings.
        SpecReasonError: a runtime failed; what was judged before is in the record.
    """
    head = JudgedHead(
        draft=draft.get_model_name(),
        base=base.get_model_name(),
        instruction=config.instruction,
        token_budget=config.token_budget,
        temperature=config.temperature,
        seed=seed,
        verifiers=tuple(BUILT_IN),
    )

    def judge(problem: Problem) -> JudgedSolution:
        return _judged(problem, draft, base, config, seed)

    return work_recorded(
        judge, problems, record, head, JudgedSolution,
        endpoints=[draft, base], concurrency=concurrency, progress_bar=progress_bar,
    )  # fmt: skip


def _judged(
    problem: Problem, draft: Endpoint, base: Endpoint, config: SpecReasonConfig, seed: int
) -> JudgedSolution:
    """The draft model's solution of a problem, with the base model's judgement of its steps."""
    trace = solve_alone(problem.question, endpoint=draft, side="draft", config=config)
    right = is_right(trace.answer, problem.answer)
    steps = tuple(step.text for step in trace.steps if step.text.strip())
    rng = random.Random(f"{seed} {problem.id}")
    wrong = [corrupted(step, rng) for step in steps] if right else [None] * len(steps)
    state = _judge_steps.run(question=problem.question, steps=steps, wrong=wrong, config=config, backend=base)
    values, corrupted_values = state["judged"]
    return JudgedSolution(problem.id, right, steps, values, corrupted_values, problem.hash)


@sgl.function
def _judge_steps(
    s: ProgramState,
    question: str,
    steps: Sequence[str],
    wrong: Sequence[str | None],
    config: SpecReasonConfig,
) -> None:
    s += sgl.user(config.prompt(question))
    s += sgl.assistant_begin()
    s += s.stream_executor.chat_template.thinking_prefix
    values, corrupted_values = [], []
    for i, step in enumerate(steps):
        values.append(_judge(s, step, config.delimiter))
        if copy := wrong[i]:
            corrupted_values.append((i, copy, _judge(s, copy, config.delimiter)))
        s += step + config.delimiter
    s["judged"] = tuple(values), tuple(corrupted_values)


def _judge(s: ProgramState, text: str, delimiter: str) -> dict[str, float]:
    """A step's value by each built-in verifier. The request of `score` also gives the average and the
    likelihoods; the other verifiers ask for themselves."""
    drafted = Drafted(text, 0, "delimiter", delimiter)
    score = UtilityScore(with_logprobs=True)
    asked = score.ask(s.fork(1)[0], drafted)
    values = {"score": score.judgement(asked, drafted).value}  # first: it puts the step into the cache
    meta = asked.get_meta_info(RESULT)
    values["score-average"] = score.average(meta)
    for name, verifier in BUILT_IN.items():
        if isinstance(verifier, Likelihood):
            values[name] = verifier.read(meta, drafted).value
        elif name not in values:
            values[name] = verifier.judgement(verifier.ask(s.fork(1)[0], drafted), drafted).value
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
        source: where the problems come from, for the file.

    Returns:
        A calibration whose `table` has for each verifier, measured on the half that did not choose, with 95 %
        bootstrap intervals over problems: `corrupted`, the area under the ROC curve (AUC) of steps against
        their copies with a wrong digit; `solutions`, the AUC of right against wrong solutions by the mean of
        their steps' values; `paired`, how often a step is ranked above its own copy.

    Raises:
        ConfigError: there are too few problems: each half needs a right and a wrong solution.
    """
    check_share(keep)
    halves = judged[::2], judged[1::2]
    for half in halves:
        right_and_wrong = {solution.right for solution in half if solution.steps}
        if len(right_and_wrong) < 2 or not any(solution.corrupted for solution in half):
            raise ConfigError(
                f"{len(judged)} problems are too few: each half of them needs a right solution with a number "
                "in it, and a wrong solution"
            )
    chosen = max(BUILT_IN, key=lambda name: sum(_figures(halves[0], name)[:2]))
    values = np.sort([step[chosen] for solution in judged for step in solution.values])
    picked = values[np.linspace(0, len(values) - 1, min(len(values), KEPT_VALUES)).round().astype(int)]
    return Calibration(
        draft_model=draft_model,
        base_model=base_model,
        verifier=chosen,
        keep=keep,
        threshold=float(values[min(int((1 - keep) * len(values)), len(values) - 1)]),
        values=tuple(map(float, picked)),
        table=tuple(_table_row(halves[1], name) for name in BUILT_IN),
        problem_hashes=tuple(solution.hash for solution in judged if solution.hash),
        data={
            "source": source,
            "problems": len(judged),
            "right": sum(solution.right for solution in judged),
            "steps": len(values),
            "corrupted": sum(len(solution.corrupted) for solution in judged),
        },
    )


def _table_row(judged: Sequence[JudgedSolution], name: str) -> dict[str, Any]:
    values = _figures(judged, name)
    low, high = interval(partial(_figures, judged, name), len(judged), RESAMPLES)
    return {
        "verifier": name,
        **{
            figure: {"value": float(values[i]), "low": float(low[i]), "high": float(high[i])}
            for i, figure in enumerate(("corrupted", "solutions", "paired"))
        },
    }


def _share(parts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return parts.sum(-1) / whole


def _figures(judged: Sequence[JudgedSolution], name: str, times: np.ndarray | None = None) -> np.ndarray:
    """`corrupted`, `solutions` and `paired` of `calibrate`, of shape (3,); or of shape (3, samples), where
    `times`, of shape (samples, problems), is how often each bootstrap sample has each problem."""
    times = np.ones(len(judged)) if times is None else times
    pairs = [
        (problem, solution.values[i][name], values[name])
        for problem, solution in enumerate(judged)
        for i, _, values in solution.corrupted
    ]
    problems, clean, wrong = (np.array(column) for column in zip(*pairs, strict=True))
    means = np.array([_mean([step[name] for step in solution.values]) for solution in judged])
    right = np.array([solution.right for solution in judged])
    good, bad = (np.flatnonzero(which & ~np.isnan(means)) for which in (right, ~right))
    pair_times = times[..., problems]
    return np.stack(
        [
            auc(clean, wrong, pair_times, pair_times),
            auc(means[good], means[bad], times[..., good], times[..., bad]),
            _share(pair_times * ((clean > wrong) + (clean == wrong) / 2), pair_times.sum(-1)),
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan


def values_by_kind(judged: Sequence[JudgedSolution], verifier: str) -> list[dict[str, list[float]]]:
    """A verifier's values of what it should tell apart: steps and their wrong copies, then steps of right and
    of wrong solutions; each with its label."""
    corrupted_steps = [
        (s.values[i][verifier], wrong[verifier]) for s in judged for i, _, wrong in s.corrupted
    ]
    right, wrong = (
        [values[verifier] for s in judged if s.right is kind for values in s.values] for kind in (True, False)
    )
    return [
        {
            "steps of right solutions": [clean for clean, _ in corrupted_steps],
            "the same with a wrong digit": [wrong for _, wrong in corrupted_steps],
        },
        {"steps of right solutions": right, "steps of wrong solutions": wrong},
    ]
