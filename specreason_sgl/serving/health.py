"""The state of the two runtimes, for `/health`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import urllib3

from specreason_sgl.runtime.keep import ServerState

if TYPE_CHECKING:
    from specreason_sgl.lang.endpoint import Endpoint

PING = 5.0  # seconds

Status = Literal["starting", "ok", "degraded"]
States = dict[str, dict[str, Any]]


class Health:
    """Called, it gives the status of a server and what `/health` says with it."""

    def __init__(self):
        self._doing = "preparing"
        self._states: Callable[[], States] | None = None

    def __call__(self) -> tuple[Status, dict[str, Any]]:
        if self._states is None:
            return "starting", {"doing": self._doing}
        states = self._states()
        is_well = all(state["state"] == "ready" for state in states.values())
        return "ok" if is_well else "degraded", {"runtimes": states}

    def is_waiting(self, line: str) -> None:
        """The runtimes are starting; the line says what is waited for."""
        self._doing = line

    def report(self, states: Mapping[str, ServerState]) -> None:
        """Whoever keeps the runtimes says how they are now."""
        said = {side: asdict(state) for side, state in states.items()}
        self._states = lambda: said

    def ask(self, draft: "Endpoint", base: "Endpoint") -> None:
        """The runtimes are ready and nobody keeps them; from now on they are asked."""
        self._states = lambda: {"draft": _ask(draft), "base": _ask(base)}


def _ask(endpoint: "Endpoint") -> dict[str, Any]:
    try:
        response = urllib3.request("GET", f"{endpoint.base_url}/health", retries=False, timeout=PING)
    except urllib3.exceptions.HTTPError:
        return {"state": "no answer"}
    return {"state": "ready" if response.status == 200 else f"status {response.status}"}
