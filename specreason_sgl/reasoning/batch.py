"""Many problems at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

from tqdm import tqdm

from specreason_sgl.errors import ConfigError, SpecReasonError
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.solve import solve, solve_alone
from specreason_sgl.reasoning.trace import Side, Trace


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
) -> list["Trace | SpecReasonError"]:
    """Solve many problems at once.

    Args:
        questions: the problems.
        draft, base, config, timeout: as in `solve`; the timeout is of each problem.
        concurrency: problems at a time.
        progress_bar: draw one on standard error.
        on_done: called with a problem's position and its result as soon as it is there.

    Returns:
        For each question, in order, its trace, or the error it failed with; the rest continue.

    Raises:
        ConfigError: `concurrency` is below 1.
    """
    return run_batch(
        lambda question: solve(question, draft=draft, base=base, config=config, timeout=timeout),
        questions, [draft, base], concurrency, progress_bar, on_done,
    )  # fmt: skip


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


def run_batch(work, items, endpoints, concurrency, progress_bar, on_done=None) -> list:
    """`work` on each item, `concurrency` at a time; results and errors as in `solve_batch`.

    Where it is broken off, by Ctrl-C or an exception in `on_done`, the endpoints' requests are aborted.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency must be at least 1, got {concurrency}")

    def attempt(item):
        try:
            return work(item)
        except SpecReasonError as error:
            return error

    results: list = [None] * len(items)
    pool = ThreadPoolExecutor(concurrency)
    places = {pool.submit(attempt, item): i for i, item in enumerate(items)}
    try:
        for future in tqdm(as_completed(places), total=len(places), disable=not progress_bar):
            results[places[future]] = future.result()
            if on_done:
                on_done(places[future], future.result())
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        begun = [future for future in places if not future.cancelled()]  # `wait` waits for these for ever
        while wait(begun, 0.1).not_done:  # a program that was between two requests sends one more
            for endpoint in endpoints:
                endpoint.abort()
        raise
    pool.shutdown()
    return results
