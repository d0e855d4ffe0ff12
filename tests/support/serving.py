"""The OpenAI server in front of a scripted pair, on a port of its own."""

import contextlib

from specreason_sgl import SpecReasonConfig
from specreason_sgl.serving import listen
from specreason_sgl.serving.app import Server, Settings
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.service import Service
from tests.support.pair import Pair

CONFIG = SpecReasonConfig(temperature=0, token_budget=60, instruction="")


@contextlib.contextmanager
def serving(pair: Pair, /, *, limits=None, is_open=True, **settings):
    """Serve the pair; yields the URL."""
    service = Service(Metrics(), **(limits or {}))
    if is_open:
        service.open(pair.draft, pair.base)
    server = Server(service, Settings(**{"name": "two", "config": CONFIG, **settings}))
    with listen.bind("127.0.0.1", 0) as sock, server.in_background(sock):
        yield listen.url(sock)
