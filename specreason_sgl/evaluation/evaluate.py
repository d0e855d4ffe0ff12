"""Solve problems in several settings, grade the answers, and record each sample as soon as it is finished."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
from tqdm import tqdm

from specreason_sgl.errors import ServerError, SpecReasonError
from specreason_sgl.evaluation.grading import grade
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.settings import ALONE, Setting
from specreason_sgl.files import Head, Line, Record, read_record
from specreason_sgl.reasoning.trace import Side, Trace, model_name

Key = tuple[str, int, str]
"""Which sample: the problem's id, the sample's number, the setting's name."""


class Sample(Line, frozen=True, forbid_unknown_fields=True):
    """One problem, solved once with one setting.

    Attributes:
        problem: its id.
        number: which of the problem's samples, from 0.
        setting: its name.
        expected: the right answer.
        right: whether the answer is right; None where the sample failed.
        error: why it failed, or None. A failed sample is neither right nor wrong.
        trace: of the run; None where no answer came.
    """

    problem: str
    number: int
    setting: str
    expected: str
    right: bool | None
    error: str | None
    trace: Trace | None

    @property
    def key(self) -> Key:
        return self.problem, self.number, self.setting


class RunHead(Head, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a run's file: what its samples depend on.

    Attributes:
        data: where the problems come from.
        problems: their number.
        problems_sha256: of their ids, prompts and answers.
        samples: number of samples of each problem with each setting.
        concurrency: samples solved at once.
        seed: of generated problems.
        settings: each setting's mode and knobs, by its name.
    """

    kind: Literal["specreason-sgl eval"] = "specreason-sgl eval"
    version: Literal[2] = 2
    data: str
    problems: int
    problems_sha256: str
    draft_model: str
    base_model: str
    samples: int
    concurrency: int
    seed: int
    settings: dict[str, dict[str, Any]]


def run_head(problems: Sequence[Problem], settings: Sequence[Setting], **fields: Any) -> RunHead:
    """The head of a run; `fields` are what does not follow from its problems and settings."""
    texts = [(problem.id, problem.prompt, problem.answer) for problem in problems]
    return RunHead(
        problems=len(problems),
        problems_sha256=hashlib.sha256(msgspec.json.encode(texts)).hexdigest(),
        settings={setting.name: {"mode": setting.mode, **setting.config.as_dict()} for setting in settings},
        **fields,
    )


def read_run(path: Path) -> tuple[RunHead, list[Sample]]:
    """A run's head and its samples; of a sample that was retried, the last.

    Raises:
        ConfigError: the file cannot be read, or is not an evaluation's; names the line.
    """
    return read_record(path, RunHead, Sample)


@dataclass(frozen=True)
class _Task:
    problem: Problem
    number: int
    setting: Setting

    @property
    def key(self) -> Key:
        return self.problem.id, self.number, self.setting.name


def evaluate(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    record: Record[Sample],
    *,
    draft: Any,
    base: Any,
    reward: Any = None,
    samples: int = 1,
    concurrency: int = 1,
    timeout: float | None = None,
    retry_failed: bool = False,
    progress_bar: bool = False,
) -> list[Sample]:
    """Solve each problem `samples` times with each setting, skipping what the record has.

    With a concurrency of 1, the settings take turns on each problem, from empty caches, so that a run that is
    cut short has the same problems of each setting. Otherwise one setting follows the other, so that one's
    load does not count in another's times. A sample that fails is recorded as failed.

    Args:
        problems, settings: in this order.
        record: receives each sample as soon as it is finished.
        draft, base, reward: the runtimes (`Endpoint`). Their caches are emptied.
        samples: number of samples of each problem with each setting.
        concurrency: samples solved at once.
        timeout: of each sample, in seconds.
        retry_failed: also solve samples again that the record has as failed.
        progress_bar: draw one on standard error.

    Returns:
        All samples, those that the record had included.

    Raises:
        ServerError: a runtime failed between two samples. Finished samples are in the record.
    """
    from specreason_sgl.reasoning.batch import run_batch

    def is_done(key: Key) -> bool:
        return key in record.done and not (retry_failed and record.done[key].error)

    tasks = [
        _Task(problem, number, setting)
        for number in range(samples)
        for problem in problems
        for setting in settings
    ]
    todo = [task for task in tasks if not is_done(task.key)]
    endpoints = list(filter(None, (draft, base, reward)))
    solve_task = partial(_solve, draft=draft, base=base, timeout=timeout)
    with tqdm(total=len(tasks), initial=len(tasks) - len(todo), disable=not progress_bar) as bar:

        def keep(group: list[_Task], position: int, result: Trace | SpecReasonError) -> None:
            record.add(_sample(group[position], result))
            bar.set_postfix_str(_summary(record), refresh=False)
            bar.update()

        for group in _groups(todo, settings, concurrency):
            for endpoint in endpoints:
                endpoint.flush_cache()
            run_batch(solve_task, group, endpoints, concurrency, False, partial(keep, group))
    return [record.done[task.key] for task in tasks]


def _groups(todo: list[_Task], settings: Sequence[Setting], concurrency: int) -> Iterator[list[_Task]]:
    """What runs from the same empty caches."""
    if concurrency == 1:
        yield from ([task] for task in todo)
        return
    for setting in settings:
        if group := [task for task in todo if task.setting is setting]:
            yield group


def _solve(task: _Task, *, draft: Any, base: Any, timeout: float | None) -> Trace:
    from specreason_sgl.reasoning.solve import solve, solve_alone

    question, config, mode = task.problem.prompt, task.setting.config, task.setting.mode
    if mode in ALONE:
        side: Side = "base" if mode == "base" else "draft"
        endpoint = base if mode == "base" else draft
        return solve_alone(question, endpoint=endpoint, side=side, config=config, timeout=timeout)
    return solve(question, draft=draft, base=base, config=config, timeout=timeout)


def _sample(task: _Task, result: Trace | SpecReasonError) -> Sample:
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
    return Sample(*task.key, problem.answer, right, reason, trace)


def run_evaluation(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    out: Path,
    *,
    draft: Any,
    base: Any,
    data: str = "",
    samples: int = 1,
    concurrency: int = 1,
    seed: int = 0,
    **options: Any,
) -> list[Sample]:
    """`evaluate`, with its record in a file; the same call continues an interrupted run.

    Args:
        problems, settings, draft, base, samples, concurrency: as in `evaluate`, and so are further options.
        out: the file, for `Report.read`.
        data, seed: where the problems come from, for the file's head.

    Raises:
        ConfigError: the file is of other problems or settings, or cannot be written.
        ServerError: as in `evaluate`.
    """
    head = run_head(
        problems,
        settings,
        data=data,
        draft_model=model_name(draft.get_model_name()),
        base_model=model_name(base.get_model_name()),
        samples=samples,
        concurrency=concurrency,
        seed=seed,
    )
    options = {"draft": draft, "base": base, "samples": samples, "concurrency": concurrency, **options}
    with Record(out, head, Sample) as record:
        return evaluate(problems, settings, record, **options)


def _draft_failure(trace: Trace) -> ServerError | None:
    """The draft runtime's failure, where the base model finished the run without it: the answer is not one of
    both models."""
    failed = (step for step in trace.steps if step.undrafted in ("failure", "breaker"))
    step = next(failed, None)
    return ServerError(step.undrafted_reason) if step else None


def _summary(record: Record[Sample]) -> str:
    """Accuracy and speed so far, for the progress bar."""
    graded = [sample for sample in record.done.values() if sample.error is None]
    traces = [sample.trace for sample in graded if sample.trace]
    failed = len(record.done) - len(graded)
    text = f"{failed} failed" if failed else ""
    if traces:
        seconds = sum(trace.seconds for trace in traces)
        speed = sum(trace.tokens for trace in traces) / seconds if seconds else 0.0
        right = sum(bool(sample.right) for sample in graded) / len(graded)
        text = f"{right:.0%} right, {speed:.1f} tokens/s {text}"
    return text.strip()
