"""`specreason-sgl serve`."""

import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option
from specreason_sgl.cli.output import err, out
from specreason_sgl.cli.runtimes import started
from specreason_sgl.cli.signals import end_on
from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.plain import KNOBS, config_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from socket import socket

    from specreason_sgl.runtime.keep import Keeper
    from specreason_sgl.serving.front import Front
    from specreason_sgl.serving.settings import Limits, Settings
    from specreason_sgl.serving.workers import Workers

STARTED_AGAIN = 180.0  # seconds that a request waits for a runtime that is started again
# Constrained JSON without free white space, of which a small model can write any number of tokens.
COMPACT_JSON = "--constrained-json-disable-any-whitespace"
REPORT = 0.5  # seconds between two looks at how the runtimes are
SERVER = "Server"

Knobs = knob_options(Given, KNOBS.values())


@dataclass(frozen=True)
class Options:
    host: Annotated[str, option("Address to bind to.", SERVER, front=True)] = "127.0.0.1"
    port: Annotated[
        int, option("Port to listen at; 0: a free one.", SERVER, front=True, min=0, max=65535)
    ] = 8000
    api_key: Annotated[
        str, option("Key that clients must send.", SERVER, envvar="SPECREASON_SGL_API_KEY", front=True)
    ] = ""
    without_key: Annotated[bool, option("Serve other machines without a key.", SERVER)] = False
    allowed_host: Annotated[
        list[str],
        option(
            "Further host name that requests may use: a proxy's, or host.docker.internal.",
            SERVER,
            metavar="NAME",
        ),
    ] = ()
    ignore_unsupported: Annotated[
        bool, option("Ignore parameters that are not supported, with a warning header.", SERVER)
    ] = False
    served_model_name: Annotated[
        str, option("Model name for clients; default: the pair's.", SERVER, front=True, metavar="NAME")
    ] = ""
    max_running_requests: Annotated[int, option("Requests that run at once.", SERVER, min=1, max=1024)] = 64
    max_queued_requests: Annotated[int, option("Requests that may wait.", SERVER, min=0)] = 256
    workers: Annotated[
        int, option("Processes that share the requests; each uses at most one core.", SERVER, min=1, max=64)
    ] = 1
    timeout: Annotated[float, option("Deadline of a request, in seconds.", SERVER)] = 600.0

    def __post_init__(self):
        if self.workers > self.max_running_requests:
            raise ConfigError(
                f"workers must be at most max_running_requests ({self.max_running_requests}), "
                f"got {self.workers}", "workers",
            )  # fmt: skip
        if not self.timeout > 0:
            raise ConfigError(f"timeout must be a positive number of seconds, got {self.timeout}", "timeout")


def serve(options: Options, models: Models, servers: Servers, knobs: Knobs) -> None:
    """Serve a pair behind OpenAI's API, with a page to watch the two models think.

    Starts the two runtimes and keeps them running, unless --draft-url and --base-url name running ones.
    It listens at once; requests that come before the runtimes are ready get status 503.
    NAME asks for the pair, NAME-base and NAME-draft for one model alone. What a request does not say is as
    set here.
    """
    from specreason_sgl.serving import listen
    from specreason_sgl.serving.settings import Limits, Settings

    config = config_of(knobs.values(), pair=models.named)
    listen.check_exposure(options.host, options.api_key, options.without_key)
    arguments = servers.arguments(COMPACT_JSON)
    settings = Settings(
        name=options.served_model_name or models.named or "pair",
        config=config,
        pair=models.named,
        api_key=options.api_key or None,
        hosts=listen.host_names(options.host, options.allowed_host),
        ignore_unsupported=options.ignore_unsupported,
    )
    limits = Limits(options.max_running_requests, options.max_queued_requests, options.timeout)
    sockets = listen.bind_shared(options.host, options.port, options.workers)  # before what takes seconds
    with sockets[0]:
        end_on(signal.SIGINT, signal.SIGTERM)
        url = listen.url(sockets[0])
        with ExitStack() as runtimes, _front(sockets, settings, limits) as front:
            err.print(f"listening at {url}/", soft_wrap=True)
            keeper = _open(front, runtimes, models, arguments, options.timeout)
            out.print(f"serving {', '.join(settings.modes)} at {url}/v1, a page at {url}/")
            while not front.has_ended(within=REPORT):
                if keeper:
                    front.report(keeper.snapshot())


def _front(
    sockets: "list[socket]", settings: "Settings", limits: "Limits"
) -> "AbstractContextManager[Front | Workers]":
    if len(sockets) > 1:
        from specreason_sgl.serving.workers import Workers

        return Workers(sockets, settings, limits).serving()
    from specreason_sgl.serving.front import Front
    from specreason_sgl.serving.metrics import Metrics

    return Front(settings, limits, Metrics()).serving(sockets[0])


def _open(
    front: "Front | Workers", runtimes: ExitStack, models: Models, arguments: dict[str, Any], timeout: float
) -> "Keeper | None":
    """Start the runtimes, or find those at the URLs, and let the front take requests. Returns who keeps them
    running, if they were started."""
    keeper, servers = None, (models.draft_url, models.base_url)
    if not models.draft_url:
        from specreason_sgl.runtime.keep import Keeper

        pair = runtimes.enter_context(started(models.spec(), arguments, front.is_waiting))
        keeper = runtimes.enter_context(Keeper([pair.draft, pair.base]))
        servers = pair.draft, pair.base
    from specreason_sgl.lang.endpoint import Endpoint

    draft, base = (
        runtimes.enter_context(
            Endpoint(server, models.runtime_key or None, timeout=timeout, retry_for=STARTED_AGAIN)
        )
        for server in servers
    )
    front.open(draft, base, keeper.snapshot() if keeper else None)
    return keeper
