"""The OpenAI server in front of a scripted pair, on a port of its own."""

import contextlib
import threading

from specreason_sgl import SpecReasonConfig
from specreason_sgl.serving import listen
from specreason_sgl.serving.app import Server, Settings
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.service import Service
from tests.support.pair import Pair
from tests.support.waiting import wait_until

CONFIG = SpecReasonConfig(temperature=0, token_budget=60, instruction="")


@contextlib.contextmanager
def serving(pair: Pair, /, *, limits=None, **settings):
    """Serve the pair; yields the URL."""
    service = Service(pair.draft, pair.base, Metrics(), **(limits or {}))
    server = Server(service, Settings(**{"name": "two", "config": CONFIG, **settings}))
    with listen.bind("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield listen.url(sock)
        finally:
            server.should_exit = True
            thread.join()
