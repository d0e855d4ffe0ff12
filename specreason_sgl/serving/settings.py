"""How a server behaves, and how much it takes on: `Settings`, `Limits`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specreason_sgl.reasoning.config import SpecReasonConfig

if TYPE_CHECKING:  # a worker must not import prometheus_client before it has named its folder
    from specreason_sgl.serving.service import Mode


def _is_well() -> tuple[str, dict[str, Any]]:
    return "ok", {}


@dataclass(frozen=True)
class Limits:
    """How much a server takes on.

    Attributes:
        running, waiting: choices that may run at once, and that may wait.
        timeout: seconds for a request, from its arrival.
    """

    running: int = 64
    waiting: int = 256
    timeout: float = 600.0

    def share(self, number: int, workers: int) -> "Limits":
        """Of one worker, counted from 0. The shares add up to the whole."""
        running, waiting = (
            total // workers + (number < total % workers) for total in (self.running, self.waiting)
        )
        return Limits(running, waiting, self.timeout)


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        name: of the pair; `NAME-base` and `NAME-draft` are the models alone.
        config: the settings of a request that asks for no others.
        pair: the named pair, whose calibration a request for `rewrite` gets.
        api_key: required on all paths but `/`, `/health` and `/metrics`; None: no key.
        hosts: the host names that requests may use; empty: any. On a loopback address they keep out pages of
            other sites (DNS rebinding).
        max_body: bytes of a request.
        ignore_unsupported: answer a request with parameters that are not supported as if it had none of them,
            with a warning header.
        health: the status, `ok` if all is well, and what else `/health` says.
    """

    name: str
    config: SpecReasonConfig
    pair: str | None = None
    api_key: str | None = None
    hosts: tuple[str, ...] = ()
    max_body: int = 2 * 2**20
    ignore_unsupported: bool = False
    health: Callable[[], tuple[str, dict[str, Any]]] = _is_well

    @property
    def modes(self) -> "dict[str, Mode]":
        """What each model name asks for."""
        return {self.name: "specreason", f"{self.name}-base": "base", f"{self.name}-draft": "draft"}
