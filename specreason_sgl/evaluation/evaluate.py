"""Solve problems in several settings, grade the answers, and record each sample as soon as it is finished."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.evaluation.problems import Problem
from specreason_sgl.evaluation.provenance import Provenance, provenance, this_machine
from specreason_sgl.evaluation.records import Sample, run_head
from specreason_sgl.evaluation.settings import Setting
from specreason_sgl.evaluation.tasks import Runtimes, Task, make_sample, solve_task
from specreason_sgl.files import Record
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.batch import check_at_least_1, run_batch
from specreason_sgl.reasoning.trace import Trace, model_name
from specreason_sgl.reasoning.workers import Workers

BLOCKS = 4  # a setting's turn at more than one sample at a time is so many times as many samples
WARM_UP = {"token_budget": 48, "answer_tokens": 8}

OnDone = Callable[[Task, Trace | SpecReasonError], None]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run goes on.

    Attributes:
        samples: number of samples of each problem with each setting.
        concurrency: samples solved at once.
        processes: number of processes that share them, as in `solve_batch`; this one grades and records.
        timeout: of each sample, in seconds; None: none.
        retry_failed: also solve samples again that the record has as failed.
        warm_up: first solve the beginning of the first problems with each setting, which is not recorded.
        progress_bar: draw one on standard error.

    Raises:
        ConfigError: a number is below 1.
    """

    samples: int = 1
    concurrency: int = 1
    processes: int = 1
    timeout: float | None = None
    retry_failed: bool = False
    warm_up: bool = True
    progress_bar: bool = False

    def __post_init__(self) -> None:
        check_at_least_1(samples=self.samples, concurrency=self.concurrency, processes=self.processes)

    def is_done(self, sample: Sample | None) -> bool:
        """Whether the record's sample, if it has one, is left as it is."""
        return sample is not None and not (self.retry_failed and sample.error)


def run_evaluation(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    out: Path,
    runtimes: Runtimes,
    options: RunOptions = RunOptions(),
    *,
    data: str = "",
    seed: int = 0,
) -> list[Sample]:
    """Solve each problem with each setting, and grade and record each sample as soon as it is finished.

    The settings take turns, from empty caches, after a warm-up. A sample that fails is recorded as failed.
    The same call continues an interrupted run.

    Args:
        problems, settings: in this order.
        out: the file, for `Report.read`.
        runtimes: where problems are solved.
        options: how the run goes on.
        data, seed: where the problems come from, for the file's head.

    Returns:
        All samples, those that the file had included.

    Raises:
        ConfigError: the file is of other problems, settings, machine or launch, or cannot be written; a
            setting needs a runtime that is missing; or there are several processes and a reward model.
        ServerError: a runtime failed between two samples. Finished samples are in the file.
    """
    if runtimes.whole is None and any(setting.mode == "base-whole" for setting in settings):
        raise ConfigError("the mode base-whole needs a base server that has the whole machine, got none")
    session = provenance(runtimes.endpoints)
    head = run_head(
        problems,
        settings,
        data,
        draft_model=model_name(runtimes.draft.get_model_name()),
        base_model=model_name(runtimes.base.get_model_name()),
        samples=options.samples,
        concurrency=options.concurrency,
        seed=seed,
        machine=this_machine(),
        launch=runtimes.launch,
        provenance=session,
    )
    with Record(out, head, Sample) as record:
        resumed = None if record.head is head else session
        return evaluate(problems, settings, record, runtimes, options, resumed)


def evaluate(
    problems: Sequence[Problem],
    settings: Sequence[Setting],
    record: Record[Sample],
    runtimes: Runtimes,
    options: RunOptions = RunOptions(),
    resumed: Provenance | None = None,
) -> list[Sample]:
    """`run_evaluation` with an open record, skipping what it has.

    Args:
        record: receives each sample as soon as it is finished.
        resumed: of this session, where it is not the record's first; its samples are marked with it.

    Raises:
        ServerError: as in `run_evaluation`.
        ConfigError: there are several processes and a reward model.
    """
    turns = list(_turns(problems, settings, options))
    todo = [[task for task in turn if not options.is_done(record.done.get(task.key))] for turn in turns]
    total, left = (sum(map(len, each)) for each in (turns, todo))
    bar = tqdm(total=total, initial=total - left, disable=not options.progress_bar)

    def keep(task: Task, result: Trace | SpecReasonError) -> None:
        record.add(make_sample(task, result, resumed))
        bar.set_postfix_str(_summary(list(record.done.values())), refresh=False)
        bar.update()

    with bar, _solver(runtimes, options) as solve_turn:
        if options.warm_up:
            bar.set_postfix_str("warming up")
            for tasks in _beginnings(todo, problems[: options.concurrency]):
                solve_turn(tasks, lambda task, result: None)
            bar.set_postfix_str("")
        for tasks in filter(None, todo):
            solve_turn(tasks, keep)
    return [record.done[task.key] for turn in turns for task in turn]


def _turns(
    problems: Sequence[Problem], settings: Sequence[Setting], options: RunOptions
) -> Iterator[list[Task]]:
    """What each setting solves from the same empty caches, in order.

    The settings take turns so that none has another hour of the machine than the others, and a run that is
    cut short has the same problems of each: on each problem at a concurrency of 1, else on each `BLOCKS` *
    `concurrency` problems. Every second sample of the problems has the settings in reverse order.
    """
    size = 1 if options.concurrency == 1 else BLOCKS * options.concurrency
    for number in range(options.samples):
        for start in range(0, len(problems), size):
            for setting in settings[:: -1 if number % 2 else 1]:
                yield [Task(problem, number, setting) for problem in problems[start : start + size]]


def _beginnings(todo: list[list[Task]], problems: Sequence[Problem]) -> Iterator[list[Task]]:
    """The beginning of some problems, with each setting that has something to do."""
    settings = {task.setting.name: task.setting for tasks in todo for task in tasks}
    for setting in settings.values():
        short = {name: min(getattr(setting.config, name), most) for name, most in WARM_UP.items()}
        brief = replace(setting, config=replace(setting.config, **short))
        yield [Task(problem, 0, brief) for problem in problems]


@contextmanager
def _solver(runtimes: Runtimes, options: RunOptions) -> Iterator[Callable[[list[Task], OnDone], None]]:
    """What solves a turn's tasks from empty caches, in this process or in others."""
    endpoints = list(runtimes.endpoints.values())
    work: Callable[..., Trace] = partial(solve_task, runtimes=runtimes, timeout=options.timeout)
    aborted: Sequence[Endpoint | Workers] = endpoints
    with ExitStack() as stack:
        if options.processes > 1:
            if runtimes.reward:  # it is in the settings of each task, which would connect to it anew
                raise ConfigError(
                    f"processes must be 1 with the mode reward, got {options.processes}", "processes"
                )
            work = stack.enter_context(Workers(work, options.processes, options.concurrency))
            aborted = [work]

        def solve_turn(tasks: list[Task], on_done: OnDone) -> None:
            for endpoint in endpoints:
                endpoint.flush_cache()
            run_batch(
                work, tasks, aborted, options.concurrency, progress_bar=False,
                on_done=lambda position, result: on_done(tasks[position], result),
            )  # fmt: skip

        yield solve_turn


def _summary(samples: Sequence[Sample]) -> str:
    """Accuracy and speed so far, for the progress bar."""
    graded = [sample for sample in samples if sample.error is None]
    traces = [sample.trace for sample in graded if sample.trace]
    failed = len(samples) - len(graded)
    text = f"{failed} failed" if failed else ""
    if traces:
        seconds = sum(trace.seconds for trace in traces)
        speed = sum(trace.tokens for trace in traces) / seconds if seconds else 0.0
        right = sum(bool(sample.right) for sample in graded) / len(graded)
        text = f"{right:.0%} right, {speed:.1f} tokens/s {text}"
    return text.strip()
