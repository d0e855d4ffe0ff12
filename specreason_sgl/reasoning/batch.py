"""`solve_batch` and `solve_alone_batch`: solve many problems concurrently."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from functools import partial
from typing import TypeVar

from tqdm import tqdm

from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.run import Cancel
from specreason_sgl.reasoning.solve import solve, solve_alone
from specreason_sgl.reasoning.trace import Side, Trace
from specreason_sgl.reasoning.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def solve_batch(
    questions: Sequence[str],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    concurrency: int = 64,
    progress_bar: bool = False,
    on_done: Callable[[int, "Trace | SpecReasonError"], None] | None = None,
    cancel: Cancel | None = None,
    processes: int = 1,
) -> list["Trace | SpecReasonError"]:
    """Solve many problems concurrently.

    Args:
        questions: the problems.
        draft, base, config, timeout: as in `solve`; the timeout applies to each problem.
        concurrency: maximum number of problems at once.
        progress_bar: whether to draw a progress bar on standard error.
        on_done: called with a problem's index and its result as soon as it is solved.
        cancel: ends all problems when called; those that are not solved return `RequestAborted`.
        processes: number of processes that share the problems, each with connections of its own; a process
            uses at most one processor core. With more than one, a script must start under
            `if __name__ == "__main__"`, verifiers and repairs must be functions and classes of a module, and
            the endpoints' `on_request` is not called.

    Returns:
        The trace of each problem, in order. A failure is returned in its place and the rest continue. So is
        `WorkerDied`, where the process of a problem died.

    Raises:
        ConfigError: `concurrency` or `processes` is below 1, or a setting cannot be sent to another process.
    """
    work = partial(solve, draft=draft, base=base, config=config, timeout=timeout)
    if processes == 1:
        return run_batch(
            partial(work, cancel=cancel), questions, [draft, base], concurrency, progress_bar, on_done
        )
    check_at_least_1(concurrency=concurrency, processes=processes)
    with Workers(work, processes, concurrency) as workers:
        if cancel:
            cancel.add(workers)
        return run_batch(workers, questions, [workers], concurrency, progress_bar, on_done)


def solve_alone_batch(
    questions: Sequence[str],
    *,
    endpoint: Endpoint,
    side: Side = "base",
    config: SpecReasonConfig | None = None,
    timeout: float | None = None,
    concurrency: int = 64,
    progress_bar: bool = False,
    on_done: Callable[[int, "Trace | SpecReasonError"], None] | None = None,
) -> list["Trace | SpecReasonError"]:
    """Solve many problems with one model; arguments and result as in `solve_batch`."""
    return run_batch(
        lambda question: solve_alone(question, endpoint=endpoint, side=side, config=config, timeout=timeout),
        questions, [endpoint], concurrency, progress_bar, on_done,
    )  # fmt: skip


def run_batch(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    endpoints: Sequence[Endpoint | Workers],
    concurrency: int,
    progress_bar: bool,
    on_done: Callable[[int, Result | SpecReasonError], None] | None = None,
) -> list[Result | SpecReasonError]:
    """Call `work` on each item; the other arguments, results and errors are as in `solve_batch`.

    On Ctrl-C or an exception in `on_done`, all requests of the endpoints are aborted.
    """
    check_at_least_1(concurrency=concurrency)

    def attempt(item: Item) -> Result | SpecReasonError:
        try:
            return work(item)
        except SpecReasonError as error:
            return error

    pool = ThreadPoolExecutor(concurrency)
    index_of = {pool.submit(attempt, item): index for index, item in enumerate(items)}
    try:
        for future in tqdm(as_completed(index_of), total=len(index_of), disable=not progress_bar):
            if on_done:
                on_done(index_of[future], future.result())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        started = [future for future in index_of if not future.cancelled()]
        while wait(started, 0.1).not_done:  # a program between two requests sends another one
            for endpoint in endpoints:
                endpoint.abort()
        raise
    pool.shutdown()
    return [future.result() for future in index_of]


def check_at_least_1(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number}")
