"""A server's metrics, for Prometheus."""

import math
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from specreason_sgl.reasoning.load import Load, State
from specreason_sgl.reasoning.trace import Trace

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
SCORES = (-16, -8, -4, -2, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9)  # logprobs, probabilities and digits


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "specreason_requests", "Requests answered.", ["model", "status"], registry=registry
        )
        self.running = Gauge("specreason_requests_running", "Requests that are running.", registry=registry)
        self.waiting = Gauge("specreason_requests_waiting", "Requests in the queue.", registry=registry)
        self.seconds = Histogram(
            "specreason_request_seconds", "From a request to the end of its answer.", ["model"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.first = Histogram(
            "specreason_time_to_first_token_seconds", "From a request to its first event.", ["model"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.steps = Counter("specreason_steps", "Steps of chains of thought.", ["author"], registry=registry)
        self.rejected = Counter("specreason_steps_rejected", "Drafted steps rejected.", registry=registry)
        self.corrections = Counter(
            "specreason_corrections", "Drafted tokens that the base model replaced.", registry=registry
        )
        self.undrafted = Counter(
            "specreason_steps_undrafted", "Steps without a draft.", registry=registry
        )  # fmt: skip
        self.scores = Histogram(
            "specreason_score",
            "Values that the verifier gave to drafted steps.",
            buckets=SCORES,
            registry=registry,
        )
        self.tokens = Counter(
            "specreason_tokens", "Tokens generated, by model.", ["side", "purpose"], registry=registry
        )
        self.wasted = Counter(
            "specreason_wasted_tokens", "Generated tokens that were thrown away.", registry=registry
        )
        self.prompt_tokens = Counter(
            "specreason_prompt_tokens", "Prompt tokens, by model and whether its cache had them.",
            ["side", "cached"], registry=registry,
        )  # fmt: skip
        self.restarts = Gauge(
            "specreason_runtime_restarts", "Restarts of the runtimes.", ["side"], registry=registry
        )

        self.drafting = Gauge(
            "specreason_drafting_state", "1 in the present state: drafting, wide (the base model reads whole "
            "steps), or alone (it writes alone where at_load allows it).", ["state"], registry=registry,
        )  # fmt: skip
        self.speedup = Gauge(
            "specreason_drafting_speedup", "Time of a token by the base model alone over that with drafting.",
            registry=registry,
        )  # fmt: skip
        self.token_seconds = Gauge(
            "specreason_token_seconds", "Seconds a token, of each model and of both together.", ["author"],
            registry=registry,
        )  # fmt: skip
        self.read_seconds = Gauge(
            "specreason_read_seconds", "Seconds that the base model takes to read a draft.", registry=registry
        )

    def watch(self, load: Load) -> None:
        """Show what the load's measured times say. What is not measured yet is NaN."""
        for state in get_args(State):
            self.drafting.labels(state).set_function(lambda state=state: load.state == state)
        rates = {"base": lambda: load.base.seconds, "both": lambda: load.speculating.seconds}
        for author, seconds in {"draft": lambda: load.draft_seconds, **rates}.items():
            self.token_seconds.labels(author).set_function(lambda seconds=seconds: seconds() or math.nan)
        self.speedup.set_function(lambda: load.speedup or math.nan)
        self.read_seconds.set_function(lambda: load.read_seconds or math.nan)

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
