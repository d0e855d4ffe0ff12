"""Solve problems in several settings, grade the answers, and record each sample as soon as it is finished."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from specreason_sgl.errors import ConfigError, ServerError, SpecReasonError
from specreason_sgl.evaluation.grading import grade
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.provenance import Provenance, provenance, this_machine
from specreason_sgl.evaluation.records import Key, Sample, run_head
from specreason_sgl.evaluation.settings import Setting
from specreason_sgl.files import Record
from specreason_sgl.reasoning.trace import Side, Trace, model_name

BLOCKS = 4  # a setting's turn at more than one sample at a time is so many times as many samples
WARM_UP = {"token_budget": 48, "answer_tokens": 8}


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
    whole: Any = None,
    samples: int = 1,
    concurrency: int = 1,
    processes: int = 1,
    timeout: float | None = None,
    retry_failed: bool = False,
    warm_up: bool = True,
    resumed: Provenance | None = None,
    progress_bar: bool = False,
) -> list[Sample]:
    """Solve each problem `samples` times with each setting, skipping what the record has.

    The settings take turns, from empty caches, so that none has another hour of the machine than the others,
    and a run that is cut short has the same problems of each: on each problem at a concurrency of 1, else on
    each `BLOCKS` * `concurrency` problems, one setting at a time. Every second sample of the problems has the
    settings in reverse order. A sample that fails is recorded as failed.

    Args:
        problems, settings: in this order.
        record: receives each sample as soon as it is finished.
        draft, base, reward: the runtimes (`Endpoint`). Their caches are emptied.
        whole: another runtime of the base model, with the whole machine, for the mode `base-whole`.
        samples: number of samples of each problem with each setting.
        concurrency: samples solved at once.
        processes: number of processes that share them, as in `solve_batch`; this one grades and records.
        timeout: of each sample, in seconds.
        retry_failed: also solve samples again that the record has as failed.
        warm_up: first solve the beginning of the first problems with each setting, which is not recorded.
        resumed: of this session, where it is not the record's first; its samples are marked with it.
        progress_bar: draw one on standard error.

    Returns:
        All samples, those that the record had included.

    Raises:
        ServerError: a runtime failed between two samples. Finished samples are in the record.
        ConfigError: there are several processes and a reward model.
    """
    from specreason_sgl.reasoning.batch import run_batch

    def is_done(key: Key) -> bool:
        return key in record.done and not (retry_failed and record.done[key].error)

    turns = list(_turns(problems, settings, samples, concurrency))
    todo = [[task for task in turn if not is_done(task.key)] for turn in turns]
    runtimes = {"draft": draft, "base": base, "reward": reward, "whole": whole}
    endpoints = [endpoint for endpoint in runtimes.values() if endpoint]
    solver = _solver(runtimes, endpoints, processes, concurrency, timeout=timeout)
    total = len(problems) * len(settings) * samples

    def solve_all(tasks: list[_Task], on_done: Any = None) -> None:
        for endpoint in endpoints:
            endpoint.flush_cache()
        run_batch(solve_task, tasks, aborted, concurrency, False, on_done)

    bar = tqdm(total=total, initial=total - sum(map(len, todo)), disable=not progress_bar)
    with bar, solver as (solve_task, aborted):

        def keep(tasks: list[_Task], position: int, result: Trace | SpecReasonError) -> None:
            record.add(_sample(tasks[position], result, resumed))
            bar.set_postfix_str(_summary(record), refresh=False)
            bar.update()

        if warm_up:
            for tasks in _beginnings(todo, problems[:concurrency]):
                solve_all(tasks)
        for tasks in filter(None, todo):
            solve_all(tasks, partial(keep, tasks))
    return [record.done[task.key] for turn in turns for task in turn]


def _turns(
    problems: Sequence[Problem], settings: Sequence[Setting], samples: int, concurrency: int
) -> Iterator[list[_Task]]:
    """What each setting solves from the same empty caches, in order."""
    size = 1 if concurrency == 1 else BLOCKS * concurrency
    for number in range(samples):
        for start in range(0, len(problems), size):
            for setting in settings[:: -1 if number % 2 else 1]:
                yield [_Task(problem, number, setting) for problem in problems[start : start + size]]


def _beginnings(todo: list[list[_Task]], problems: Sequence[Problem]) -> Iterator[list[_Task]]:
    """The beginning of some problems, with each setting that has something to do."""
    settings = {task.setting.name: task.setting for tasks in todo for task in tasks}
    for setting in settings.values():
        short = {name: min(getattr(setting.config, name), most) for name, most in WARM_UP.items()}
        brief = replace(setting, config=replace(setting.config, **short))
        yield [_Task(problem, 0, brief) for problem in problems]


@contextmanager
def _solver(
    runtimes: Mapping[str, Any], endpoints: list[Any], processes: int, threads: int, **options: Any
) -> Iterator[tuple[Callable[[_Task], Trace], list[Any]]]:
    """What solves a task, in this process or in others, and what aborts its requests."""
    from specreason_sgl.reasoning.workers import Workers

    solve_task = partial(_solve, runtimes=runtimes, **options)
    if processes == 1:
        yield solve_task, endpoints
        return
    if runtimes["reward"]:  # it is in the settings of each task, which would connect to it anew
        raise ConfigError(f"processes must be 1 with the mode reward, got {processes}", "processes")
    with Workers(solve_task, processes, threads) as workers:
        yield workers, [workers]


def _solve(task: _Task, *, runtimes: Mapping[str, Any], **options: Any) -> Trace:
    from specreason_sgl.reasoning.solve import solve, solve_alone

    question, config = task.problem.prompt, task.setting.config
    if model := task.setting.model_alone(task.problem.id):
        side: Side = "draft" if model == "draft" else "base"
        return solve_alone(question, endpoint=runtimes[model], side=side, config=config, **options)
    return solve(question, draft=runtimes["draft"], base=runtimes["base"], config=config, **options)


def _sample(task: _Task, result: Trace | SpecReasonError, resumed: Provenance | None) -> Sample:
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


def run_evaluation(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    out: Path,
    *,
    draft: Any,
    base: Any,
    whole: Any = None,
    data: str = "",
    samples: int = 1,
    concurrency: int = 1,
    seed: int = 0,
    launch: dict[str, Any] | None = None,
    **options: Any,
) -> list[Sample]:
    """`evaluate`, with its record in a file; the same call continues an interrupted run.

    Args:
        problems, settings, draft, base, whole, samples, concurrency: as in `evaluate`, and so are further
            options.
        out: the file, for `Report.read`.
        data, seed: where the problems come from, for the file's head.
        launch: how the servers were started, for the file's head; None if they were already running.

    Raises:
        ConfigError: the file is of other problems, settings, machine or launch, or cannot be written; or
            `base-whole` is among the settings without `whole`.
        ServerError: as in `evaluate`.
    """
    if whole is None and any(setting.mode == "base-whole" for setting in settings):
        raise ConfigError("the mode base-whole needs a base server that has the whole machine, got none")
    endpoints = {"draft": draft, "base": base} | ({"whole": whole} if whole else {})
    head = run_head(
        problems,
        settings,
        data,
        draft_model=model_name(draft.get_model_name()),
        base_model=model_name(base.get_model_name()),
        samples=samples,
        concurrency=concurrency,
        seed=seed,
        machine=this_machine(),
        launch=launch,
        provenance=(session := provenance(endpoints)),
    )
    options = {**endpoints, "samples": samples, "concurrency": concurrency, **options}
    with Record(out, head, Sample) as record:
        resumed = None if record.head is head else session
        return evaluate(problems, settings, record, resumed=resumed, **options)


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
