"""A server's metrics, for Prometheus."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from specreason_sgl.reasoning.load import Load, State
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.runtime.keep import ServerState

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
SCORES = (-16, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9)  # logprobs, probabilities and digits


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        folder: where the workers of the server share theirs; None: it has one process. In a worker,
            `PROMETHEUS_MULTIPROC_DIR` must have named the folder before prometheus_client was imported.
    """

    def __init__(self, folder: str | None = None):
        self._folder = folder
        self._load: Load | None = None
        self.registry = CollectorRegistry()
        counter, histogram, gauge = (
            partial(kind, registry=self.registry) for kind in (Counter, Histogram, Gauge)
        )
        self.requests = counter("specreason_requests", "Requests answered.", ["model", "status"])
        self.running = gauge(
            "specreason_requests_running", "Requests that are running.", multiprocess_mode="livesum"
        )
        self.waiting = gauge(
            "specreason_requests_waiting", "Requests in the queue.", multiprocess_mode="livesum"
        )
        self.seconds = histogram(
            "specreason_request_seconds", "From a request to the end of its answer.", ["model"],
            buckets=SECONDS,
        )  # fmt: skip
        self.first = histogram(
            "specreason_time_to_first_token_seconds", "From a request to its first event.", ["model"],
            buckets=SECONDS,
        )  # fmt: skip
        self.steps = counter("specreason_steps", "Steps of chains of thought.", ["author"])
        self.rejected = counter("specreason_steps_rejected", "Drafted steps rejected.")
        self.corrections = counter("specreason_corrections", "Drafted tokens that the base model replaced.")
        self.undrafted = counter("specreason_steps_undrafted", "Steps without a draft.")
        self.scores = histogram(
            "specreason_score", "Values that the verifier gave to drafted steps.", buckets=SCORES
        )
        self.tokens = counter("specreason_tokens", "Tokens generated, by model.", ["side", "purpose"])
        self.wasted = counter("specreason_wasted_tokens", "Generated tokens that were thrown away.")
        self.prompt_tokens = counter(
            "specreason_prompt_tokens", "Prompt tokens, by model and whether its cache had them.",
            ["side", "cached"],
        )  # fmt: skip
        self.restarts = gauge(
            "specreason_runtime_restarts", "Restarts of the runtimes.", ["side"], multiprocess_mode="livemax"
        )
        self._add_measured(partial(gauge, multiprocess_mode="liveall"))

    def _add_measured(self, gauge: Callable[..., Gauge]) -> None:
        """What each process has measured; with workers, each worker's own."""
        self.drafting = gauge(
            "specreason_drafting_state", "1 in the present state: drafting, wide (the base model reads whole "
            "steps), or alone (it writes alone where at_load allows it).", ["state"],
        )  # fmt: skip
        self.level = gauge(
            "specreason_drafting_level",
            "Runs in flight, as a power of 2, at which the speedup and the seconds a token are measured.",
        )
        self.speedup = gauge(
            "specreason_drafting_speedup", "Time of a token by the base model alone over that with drafting."
        )
        self.token_seconds = gauge(
            "specreason_token_seconds", "Seconds that a run takes for a token that it keeps, in each state.",
            ["state"],
        )  # fmt: skip
        self.draft_seconds = gauge(
            "specreason_draft_seconds", "Seconds a token that the draft model takes to write."
        )
        self.read_seconds = gauge(
            "specreason_read_seconds", "Seconds that the base model takes to read a draft."
        )

    def watch(self, load: Load) -> None:
        """Show what the load's measured times say. What is not measured yet is NaN."""
        self._load = load
        self._show_load()

    def report(self, states: Mapping[str, ServerState]) -> None:
        """Show how often each runtime was restarted."""
        for side, state in states.items():
            self.restarts.labels(side).set(state.restarts)

    def text(self) -> bytes:
        """All metrics in Prometheus's format. With workers, they are those of all: counts and requests are
        summed; what a worker has measured itself has its process id as a label."""
        self._show_load()
        if self._folder is None:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._folder)
        return generate_latest(registry)

    def count(self, trace: Trace) -> None:
        """Add a finished run."""
        for step in trace.steps:
            self.steps.labels(step.author).inc()
            self.rejected.inc(step.rejected is not None)
            self.undrafted.inc(step.undrafted is not None)
            if step.score is not None:
                self.scores.observe(step.score)
        self.corrections.inc(trace.corrections)
        self.wasted.inc(trace.wasted_tokens)
        for call in [*trace.calls, *trace.wasted]:
            self.tokens.labels(call.side, call.purpose).inc(call.completion_tokens)
            self.prompt_tokens.labels(call.side, "yes").inc(call.cached_tokens)
            self.prompt_tokens.labels(call.side, "no").inc(max(call.prompt_tokens - call.cached_tokens, 0))
        self._show_load()

    def _show_load(self) -> None:
        if (load := self._load) is None:
            return
        for state in get_args(State):
            self.drafting.labels(state).set(load.state == state)
            self.token_seconds.labels(state).set(load.level.seconds.get(state, math.nan))
        self.level.set(load.level.runs)
        self.speedup.set(load.speedup or math.nan)
        self.draft_seconds.set(load.draft_seconds or math.nan)
        self.read_seconds.set(load.read_seconds or math.nan)
