"""A benchmark of judges on natural steps: solutions whose first wrong step people have labelled.

The data has the format of ProcessBench (arXiv 2412.06559). Both models read each solution in one prefill,
which gives nearly all signals (see `signals`); the verifiers that ask a question take a short request for
each step. No step is generated.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import sglang as sgl
from sglang.lang.interpreter import ProgramState

from specreason_sgl import files
from specreason_sgl.errors import ConfigError, ContextLengthExceeded
from specreason_sgl.evaluation.auc import auc
from specreason_sgl.evaluation.bootstrap import interval
from specreason_sgl.evaluation.estimates import Estimate
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.recorded import PairHead, work_recorded
from specreason_sgl.evaluation.signals import TOP, is_read, names, signals, split_tokens
from specreason_sgl.files import Line
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.fork import fork_to
from specreason_sgl.lang.logprobs import logprobs
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.verifier import RESULT, Drafted
from specreason_sgl.reasoning.verifiers import VERIFIERS, UtilityScore

RESAMPLES = 1000
_READ = "solution"


class Solution(msgspec.Struct, frozen=True):
    """A solution with its label: a line of the data, whose other fields are not used.

    Attributes:
        problem: the question.
        steps: their texts, in order.
        label: index of the first wrong step; -1: none. `first_error` is the same.
    """

    id: str
    problem: str
    steps: Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)]
    label: int | None = None
    first_error: int | None = None

    @property
    def wrong(self) -> int | None:
        """Index of the first wrong step, or None."""
        label = self.first_error if self.label is None else self.label
        return None if label == -1 else label


def load_solutions(path: Path, limit: int | None = None) -> list[Solution]:
    """Read labelled solutions from JSON Lines.

    Raises:
        ConfigError: the file cannot be read or has no solutions, or a line is not a solution; names the line.
    """
    ids: set[str] = set()

    def checked(solution: Solution, _: int) -> Solution:
        label = solution.first_error if solution.label is None else solution.label
        if label is None or not -1 <= label < len(solution.steps):
            raise ConfigError(f"label must be -1 or the index of a step, got {label}")
        if solution.id in ids:
            raise ConfigError(f"two solutions have the id {solution.id!r}")
        ids.add(solution.id)
        return solution

    solutions = files.read_lines(path, Solution, "a labelled solution", checked)
    if not solutions:
        raise ConfigError(f"{path} has no solutions")
    return solutions[:limit]


class JudgedSolution(Line, frozen=True, forbid_unknown_fields=True):
    """A solution, judged.

    Attributes:
        id: of the solution.
        problem: hash of the question (`Problem.hash`); intervals are by problem.
        wrong: index of the first wrong step, or None.
        values: each step's signals, by name; empty if the solution was skipped.
        skipped: why, or None: it does not fit into a model's context.
    """

    id: str
    problem: str
    wrong: int | None
    values: tuple[dict[str, float], ...]
    skipped: str | None = None

    @property
    def key(self) -> str:
        return self.id


class JudgesHead(PairHead, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a record: what the judged solutions depend on."""

    kind: Literal["specreason-sgl judges"] = "specreason-sgl judges"
    version: Literal[1] = 1
    signals: tuple[str, ...]


def read_judged(path: Path) -> list[JudgedSolution]:
    """The solutions of a record. Raises `ConfigError` if the file is none."""
    return files.read_record(path, JudgesHead, JudgedSolution)[1]


def judge_solutions(
    solutions: Sequence[Solution],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    record: Path,
    data: str = "",
    questions: bool = True,
    concurrency: int = 4,
    progress_bar: bool = False,
) -> list[JudgedSolution]:
    """Have both models read labelled solutions, and every built-in verifier judge their steps.

    Args:
        solutions: with different ids.
        draft, base: the runtimes.
        config: the prompt; its other settings are not used.
        record: a JSON Lines file that receives each solution as soon as it is judged. Solutions that it has
            are not judged again: the same call continues an interrupted run.
        data: where the solutions come from, for the record.
        questions: whether verifiers that ask a question judge, too.
        concurrency: solutions judged at once.
        progress_bar: draw one on standard error.

    Raises:
        ConfigError: the record is of another pair or other settings.
        SpecReasonError: a runtime failed; what was judged before is in the record.
    """
    head = JudgesHead.of(draft, base, config, data=data, signals=names(questions))
    draft, base = draft.with_template(config.template), base.with_template(config.template)

    def judge(solution: Solution) -> JudgedSolution:
        problem = Problem(solution.id, solution.problem, "").hash
        try:
            values = _judge.run(
                solution=solution, config=config, draft=draft, questions=questions, backend=base
            )["values"]
        except ContextLengthExceeded as error:
            return JudgedSolution(solution.id, problem, solution.wrong, (), str(error))
        return JudgedSolution(solution.id, problem, solution.wrong, values)

    return work_recorded(
        judge, solutions, record, head, JudgedSolution,
        endpoints=[draft, base], concurrency=concurrency, progress_bar=progress_bar,
    )  # fmt: skip


@sgl.function
def _judge(
    s: ProgramState, solution: Solution, config: SpecReasonConfig, draft: Endpoint, questions: bool
) -> None:
    s += sgl.user(config.prompt(solution.problem))
    s += sgl.assistant_begin()
    s += s.stream_executor.chat_template.thinking_prefix
    steps = [Drafted(text, 0, "delimiter", config.delimiter) for text in solution.steps[:-1]]
    steps.append(Drafted(solution.steps[-1], 0, "eos"))
    texts = [step.whole for step in steps]
    readers = s.fork(1)[0], fork_to(s, draft)
    for reader in readers:
        reader += logprobs(_READ, "".join(texts), TOP)
    readers[0].get_meta_info(_READ)  # the solution is in the base model's cache then, for the questions
    asked = []
    for step in steps:
        asked.append({name: verifier.ask(s.fork(1)[0], step) for name, verifier in _asking(questions)})
        s += step.whole
    base, drafted = (split_tokens(reader.get_meta_info(_READ)["logprobs"], texts) for reader in readers)
    s["values"] = tuple(
        signals(step, i, base[i], drafted[i]) | dict(_answers(asked[i], step)) for i, step in enumerate(steps)
    )


def _asking(questions: bool) -> Iterator[tuple[str, Any]]:
    """The verifiers that send requests of their own. The average of the digits comes with the digit."""
    if questions:
        for name, verifier in VERIFIERS.items():
            if not is_read(verifier) and name != "score-average":
                yield name, verifier


def _answers(asked: dict[str, ProgramState], step: Drafted) -> Iterator[tuple[str, float]]:
    for name, state in asked.items():
        verifier = VERIFIERS[name]
        yield name, verifier.judgement(state, step).value
        if name == "score":
            yield "score-average", UtilityScore().average(state.get_meta_info(RESULT))


class Row(NamedTuple):
    """How well a signal tells good from bad: areas under the ROC curve, 0.5 is chance.

    Attributes:
        steps: right steps against first wrong ones.
        solutions: solutions without a wrong step against those with one, by their lowest step.
    """

    signal: str
    steps: Estimate
    solutions: Estimate


def figures(judged: Sequence[JudgedSolution]) -> list[Row]:
    """Every signal's figures, with 95 % bootstrap intervals over problems.

    Steps after the first wrong one are not labelled: they count in their solution's lowest step only.

    Raises:
        ConfigError: there are too few solutions: it needs some with a wrong step, and some without.
    """
    judged = [solution for solution in judged if not solution.skipped]
    if len({solution.wrong is None for solution in judged}) < 2:
        raise ConfigError(
            f"{len(judged)} solutions are too few: it needs some with a wrong step, and some without"
        )
    numbers: dict[str, int] = {}
    problems = np.array([numbers.setdefault(solution.problem, len(numbers)) for solution in judged])
    rows = []
    for name in judged[0].values[0]:
        statistic = partial(_areas, judged, problems, name)
        values = statistic(np.ones(len(numbers)))
        low, high = interval(statistic, len(numbers), RESAMPLES)
        rows.append(Row(name, *(Estimate(*map(float, bounds)) for bounds in zip(values, low, high))))  # noqa: B905
    return rows


def _areas(
    judged: Sequence[JudgedSolution], problems: np.ndarray, name: str, times: np.ndarray
) -> np.ndarray:
    """Both figures of a signal, of shape (2,); or (2, samples), where `times`, of shape (samples, problems),
    is how often each bootstrap sample has each problem."""
    wrong = [solution.wrong for solution in judged]
    steps = [  # (solution, whether the step is right, value)
        (i, k != wrong[i], values[name])
        for i, solution in enumerate(judged)
        for k, values in enumerate(solution.values)
        if (last := wrong[i]) is None or k <= last
    ]
    wholes = [
        (i, wrong[i] is None, min(values[name] for values in solution.values))
        for i, solution in enumerate(judged)
    ]
    areas = []
    for labelled in (steps, wholes):
        of, good, values = (np.array(column) for column in zip(*labelled, strict=True))
        weights = times[..., problems[of]]
        areas.append(auc(values[good], values[~good], weights[..., good], weights[..., ~good]))
    return np.stack(areas)
