"""The state of the two runtimes, for `/health`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import urllib3

from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.runtime.keep import Keeper
from specreason_sgl.serving.metrics import Metrics

PING = 5.0  # seconds

Health = Callable[[], tuple[bool, dict[str, Any]]]


def of(keeper: Keeper | None, draft: Endpoint, base: Endpoint, metrics: Metrics) -> Health:
    """The keeper's view of the runtimes it watches; runtimes without a keeper are asked."""
    if keeper is None:
        return lambda: _ask({"draft": draft, "base": base})
    for side in ("draft", "base"):
        metrics.restarts.labels(side).set_function(lambda side=side: keeper.snapshot()[side].restarts)

    def watched() -> tuple[bool, dict[str, Any]]:
        states = keeper.snapshot()
        is_well = all(state.state == "ready" for state in states.values())
        return is_well, {side: asdict(state) for side, state in states.items()}

    return watched


def _ask(endpoints: dict[str, Endpoint]) -> tuple[bool, dict[str, Any]]:
    states = {}
    for side, endpoint in endpoints.items():
        try:
            response = urllib3.request("GET", f"{endpoint.base_url}/health", retries=False, timeout=PING)
            states[side] = {"state": "ready" if response.status == 200 else f"status {response.status}"}
        except urllib3.exceptions.HTTPError:
            states[side] = {"state": "no answer"}
    return all(state["state"] == "ready" for state in states.values()), states
