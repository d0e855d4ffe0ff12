"""How the two runtimes are, for `/health`."""

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
    """Of runtimes that a keeper watches, what it has seen; others are asked."""
    if keeper is None:
        return lambda: _asked({"draft": draft, "base": base})
    for side in ("draft", "base"):
        metrics.restarts.labels(side).set_function(lambda side=side: keeper.snapshot()[side].restarts)

    def watched() -> tuple[bool, dict[str, Any]]:
        found = keeper.snapshot()
        fine = all(one.state == "ready" for one in found.values())
        return fine, {side: asdict(one) for side, one in found.items()}

    return watched


def _asked(endpoints: dict[str, Endpoint]) -> tuple[bool, dict[str, Any]]:
    found = {}
    for side, endpoint in endpoints.items():
        try:
            response = urllib3.request("GET", f"{endpoint.base_url}/health", retries=False, timeout=PING)
            found[side] = {"state": "ready" if response.status == 200 else f"status {response.status}"}
        except urllib3.exceptions.HTTPError:
            found[side] = {"state": "no answer"}
    return all(one["state"] == "ready" for one in found.values()), found
