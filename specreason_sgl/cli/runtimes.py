"""The two runtimes that a command needs: those at the user's URLs, or started ones."""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from specreason_sgl.cli.options import Models, Servers
from specreason_sgl.cli.output import progress
from specreason_sgl.runtime.pairs import PairSpec

if TYPE_CHECKING:
    from specreason_sgl.lang.endpoint import Endpoint
    from specreason_sgl.runtime.launch import Pair
    from specreason_sgl.runtime.server import Server, StatusCallback

NOT_STARTED_AGAIN = 3.0  # seconds that a request waits for a runtime that nobody starts again


@contextmanager
def started(
    spec: PairSpec, arguments: dict[str, Any], told: "StatusCallback" = lambda _: None
) -> Iterator["Pair"]:
    """Start a pair, showing and telling what is waited for; its servers are stopped at the end."""
    from specreason_sgl.runtime.launch import launch_pair

    with ExitStack() as stack:
        with progress() as show:

            def tell(what: str, done: int, total: int) -> None:
                show(what, done, total)
                told(f"{what}, {done / total:.0%}" if total else what)

            def status(line: str) -> None:
                tell(line, 0, 0)
                importlib.import_module("specreason_sgl.reasoning.solve")  # seconds, while servers start

            pair = stack.enter_context(launch_pair(spec, status=status, progress=tell, **arguments))
        yield pair


@contextmanager
def started_whole(models: Models, servers: Servers) -> Iterator["Server"]:
    """Start another base server with every core, showing what is waited for; it is stopped at the end."""
    from specreason_sgl.runtime.launch import launch_whole

    arguments = {name: servers.arguments()[name] for name in ("base_args", "decode")}
    with ExitStack() as stack:
        with progress() as show:
            told = {"status": lambda line: show(line, 0, 0), "progress": show}
            server = stack.enter_context(launch_whole(models.spec(), **arguments, **told))
        yield server


@contextmanager
def endpoints(
    models: Models, servers: Servers, timeout: float, *flags: str
) -> Iterator[tuple["Endpoint", "Endpoint"]]:
    """The draft and the base endpoint, with a deadline of `timeout` seconds for each request."""
    arguments = servers.arguments(*flags)
    named, options = (models.draft_url, models.base_url), {"timeout": timeout}
    with ExitStack() as stack:
        if not models.draft_url:
            running = stack.enter_context(started(models.spec(), arguments))
            named, options["retry_for"] = (running.draft, running.base), NOT_STARTED_AGAIN
        from specreason_sgl.lang.endpoint import Endpoint

        draft, base = (
            stack.enter_context(Endpoint(server, models.runtime_key or None, **options)) for server in named
        )
        yield draft, base
