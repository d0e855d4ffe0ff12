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
    from specreason_sgl.serving.health import Health
    from specreason_sgl.serving.service import Service

STARTED_AGAIN = 180.0  # seconds that a request waits for a runtime that is started again
# Constrained JSON without free white space, of which a small model can write any number of tokens.
COMPACT_JSON = "--constrained-json-disable-any-whitespace"
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
    timeout: Annotated[float, option("Deadline of a request, in seconds.", SERVER)] = 600.0

    def __post_init__(self):
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

    config = config_of(knobs.values(), pair=models.named)
    listen.check_exposure(options.host, options.api_key, options.without_key)
    arguments = servers.arguments(COMPACT_JSON)
    with listen.bind(options.host, options.port) as sock:  # before what takes seconds
        end_on(signal.SIGINT, signal.SIGTERM)
        from specreason_sgl.serving.app import Server, until_done
        from specreason_sgl.serving.health import Health
        from specreason_sgl.serving.metrics import Metrics
        from specreason_sgl.serving.service import Service
        from specreason_sgl.serving.settings import Settings

        health, url = Health(), listen.url(sock)
        service = Service(
            Metrics(), max_running=options.max_running_requests,
            max_queue=options.max_queued_requests, timeout=options.timeout,
        )  # fmt: skip
        settings = Settings(
            name=options.served_model_name or models.named or "pair",
            config=config,
            pair=models.named,
            api_key=options.api_key or None,
            hosts=listen.host_names(options.host, options.allowed_host),
            ignore_unsupported=options.ignore_unsupported,
            health=health,
        )
        ready = f"serving {', '.join(settings.modes)} at {url}/v1, a page at {url}/"
        with ExitStack() as runtimes, Server(service, settings).in_background(sock) as running:
            err.print(f"listening at {url}/", soft_wrap=True)
            _open(service, health, runtimes, models, arguments)
            out.print(ready)
            until_done(running)
            running.result()


def _open(
    service: "Service", health: "Health", runtimes: ExitStack, models: Models, arguments: dict[str, Any]
) -> None:
    """Start the runtimes, or find those at the URLs, and let the service take requests."""
    keeper, servers = None, (models.draft_url, models.base_url)
    if not models.draft_url:
        from specreason_sgl.runtime.keep import Keeper

        pair = runtimes.enter_context(started(models.spec(), arguments, health.is_waiting))
        keeper = runtimes.enter_context(Keeper([pair.draft, pair.base]))
        servers = pair.draft, pair.base
    from specreason_sgl.lang.endpoint import Endpoint

    draft, base = (
        runtimes.enter_context(
            Endpoint(server, models.runtime_key or None, timeout=service.timeout, retry_for=STARTED_AGAIN)
        )
        for server in servers
    )
    service.open(draft, base)
    if keeper:
        health.watch(keeper, service.metrics)
    else:
        health.ask(draft, base)
