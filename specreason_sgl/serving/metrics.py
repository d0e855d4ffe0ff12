"""A server's metrics, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
