"""One sample: a problem that is solved with one setting, and graded."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from specreason_sgl.errors import ServerError, SpecReasonError
from specreason_sgl.evaluation.grading import grade
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.provenance import Provenance
from specreason_sgl.evaluation.records import Key, Sample
from specreason_sgl.evaluation.settings import Setting
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.run import Cancel
from specreason_sgl.reasoning.solve import solve, solve_alone
from specreason_sgl.reasoning.trace import Side, Trace


@dataclass(frozen=True)
class Runtimes:
    """The runtimes of an evaluation. Their caches are emptied.

    Attributes:
        draft, base: the pair.
        whole: another runtime of the base model, with the whole machine, for the mode `base-whole`.
        reward: the reward model's, for the mode `reward`.
        launch: how they were started, for the file's head; None if they were already running.
    """

    draft: Endpoint
    base: Endpoint
    _: KW_ONLY
    whole: Endpoint | None = None
    reward: Endpoint | None = None
    launch: dict[str, Any] | None = None

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Those that there are, by their part in the evaluation."""
        named = {"draft": self.draft, "base": self.base, "whole": self.whole, "reward": self.reward}
        return {name: endpoint for name, endpoint in named.items() if endpoint is not None}


@dataclass(frozen=True)
class Task:
    """A sample that is to be made: the problem's `number`-th with a setting, from 0."""

    problem: Problem
    number: int
    setting: Setting

    @property
    def key(self) -> Key:
        return self.problem.id, self.number, self.setting.name


def solve_task(
    task: Task, *, runtimes: Runtimes, timeout: float | None, cancel: Cancel | None = None
) -> Trace:
    """Solve the problem with the setting; errors as in `solve`.

    Args:
        timeout: in seconds; None: none.
        cancel: ends it when called.
    """
    question, config = task.problem.prompt, task.setting.config
    if model := task.setting.model_alone(task.problem.id):
        side: Side = "draft" if model == "draft" else "base"
        endpoint = runtimes.endpoints[model]
        return solve_alone(
            question, endpoint=endpoint, side=side, config=config, timeout=timeout, cancel=cancel
        )
    return solve(
        question, draft=runtimes.draft, base=runtimes.base, config=config, timeout=timeout, cancel=cancel
    )


def make_sample(task: Task, result: Trace | SpecReasonError, resumed: Provenance | None) -> Sample:
    """The sample with its grade, or with the error that it failed with."""
    problem, trace, right = task.problem, None, None
    error: SpecReasonError | None
    if isinstance(result, SpecReasonError):
        error = result
    else:
        trace, error = result, _draft_failure(result)
    if trace and not error:
        try:
            right = grade(problem, trace.answer)
        except SpecReasonError as failure:
            error = failure
    reason = f"{type(error).__name__}: {error}" if error else None
    return Sample(*task.key, problem.answer, right, reason, trace, resumed)


def _draft_failure(trace: Trace) -> ServerError | None:
    """The draft runtime's failure, where the base model finished the run without it: the answer is not one of
    both models."""
    failed = (step for step in trace.steps if step.undrafted in ("failure", "breaker"))
    step = next(failed, None)
    return ServerError(step.undrafted_reason) if step else None
