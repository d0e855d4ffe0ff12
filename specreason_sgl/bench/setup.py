"""What the parts of a bench share: the pair, its settings, the questions, and corrections at a fixed rate."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from rich.table import Table

from specreason_sgl.bench import DEFAULT_MODES
from specreason_sgl.bench.servers import Pace, Servers, paced_servers
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.batch import solve_batch
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import knob, settings
from specreason_sgl.reasoning.repair import Correct
from specreason_sgl.reasoning.trace import Trace

QUESTIONS = (
    "A shop sells pens at 3 dollars. Tom buys 4 pens and pays with a 20 dollar note. What is his change?",
    "A train leaves at 14:20 and arrives at 17:05. It stops for 25 minutes. How long does it move?",
    "Anna reads 12 pages a day. Her book has 300 pages; 60 are read. How many more days does she need?",
    "A rectangle is 8 cm long and 5 cm wide. Its length grows by 25 %. By how much does its area grow?",
    "Three workers paint a fence in 8 hours. How long do four workers need, at the same pace?",
    "A bag has 5 red and 7 blue marbles. Two are drawn without looking. How likely are both red?",
    "A car uses 6 litres for 100 km. Petrol costs 1.80 a litre. What does a trip of 250 km cost?",
    "The sum of three consecutive numbers is 72. What is the largest of them?",
)
NO_DRAFT_TIMEOUT = 3600.0  # seconds
KEPT = 0.8  # share of the drafted steps, where they are rewritten under load
CORRECT_EVERY = 72  # tokens, under load; `mini` takes 4 corrections for 290 drafted tokens at 3 nats


def questions(n: int) -> list[str]:
    """The first `n` built-in questions; beyond their number, the same with another opening."""
    return [
        f"Problem {i + 1}. {QUESTIONS[i % len(QUESTIONS)]}" if i >= len(QUESTIONS) else QUESTIONS[i]
        for i in range(n)
    ]


@settings
class CorrectEvery(Correct):
    """Cut about every n-th token whatever its regret: for measuring speed at a number of corrections that
    does not depend on the weights.

    Which tokens these are is as good as random, but the same whenever the same text is read. It is meant for
    random weights: where the base model's own first choice is the drafted token, nothing is replaced.
    """

    every: int = knob(
        default=72, help="Mean number of tokens from one cut to the next.", unit="tokens", places=(), ge=1
    )

    def cut(self, tokens, temperature):
        draws = (crc32(f"{token.id} {token.logprob}".encode()) / 2**32 for token in tokens)
        return next((i for i, draw in enumerate(draws) if draw * self.every < 1), None)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the parts measure.

    Attributes:
        draft, base: the runtimes. Their caches are emptied.
        config: budgets; decoding is greedy.
        problems: questions for the latency and the identity.
        acceptances: shares of drafted steps that the latency keeps.
        modes: of the latency.
        correct: how tokens are corrected, in the latency's mode of that name and in the identity.
        at_once: numbers of concurrent problems for the overhead and the scale.
        processes: numbers of processes that share them, for the scale.
        on_stage: called with a line that says what is being measured.
    """

    draft: Endpoint
    base: Endpoint
    config: SpecReasonConfig
    problems: Sequence[str] = QUESTIONS[:3]
    acceptances: Sequence[float] = (0.8, 0.95)
    modes: Sequence[str] = DEFAULT_MODES
    correct: Correct = field(default_factory=Correct)
    at_once: Sequence[int] = (1, 16, 64)
    processes: Sequence[int] = (1,)
    on_stage: Callable[[str], None] = lambda _: None

    def flush_caches(self) -> None:
        self.draft.flush_cache()
        self.base.flush_cache()


def always_drafting(config: SpecReasonConfig, **settings: Any) -> SpecReasonConfig:
    """The settings with greedy decoding, and without pauses of the draft model."""
    return replace(config, temperature=0.0, patience=0, draft_timeout=NO_DRAFT_TIMEOUT, **settings)


def solve_all(
    draft: Endpoint, base: Endpoint, config: SpecReasonConfig, problems: int, at_once: int, processes: int = 1
) -> tuple[list[Trace], float]:
    """The traces of some problems, and the processor time of this process for them, in seconds.

    Raises:
        SpecReasonError: a problem failed.
    """
    before = time.process_time()
    results = solve_batch(
        questions(problems),
        draft=draft,
        base=base,
        config=config,
        concurrency=at_once,
        processes=processes,
    )
    cpu_seconds = time.process_time() - before
    traces = []
    for result in results:
        if not isinstance(result, Trace):
            raise result
        traces.append(result)
    return traces, cpu_seconds


@contextlib.contextmanager
def paced_pair(tokenizer: str, draft: Pace, base: Pace) -> Iterator[tuple[Servers, Endpoint, Endpoint]]:
    """Two servers that keep a pace, and an endpoint for each."""
    with (
        paced_servers(tokenizer, draft, base) as servers,
        Endpoint(servers.urls[0]) as draft_endpoint,
        Endpoint(servers.urls[1]) as base_endpoint,
    ):
        yield servers, draft_endpoint, base_endpoint


def make_table(title: str, *columns: str) -> Table:
    """An empty table in the style of all parts."""
    return Table(*columns, title=title, title_justify="left", box=None, header_style="bold")
