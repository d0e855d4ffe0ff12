import contextlib
import threading

import pytest

from specreason_sgl import Endpoint, SpecReasonConfig
from specreason_sgl.serving import listen
from specreason_sgl.serving.app import Server, Settings
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.service import Service
from tests.reasoning.pair import Pair
from tests.scripted import ScriptedServer, wait_until

CONFIG = SpecReasonConfig(temperature=0, token_budget=60, instruction="")


@pytest.fixture(scope="module")
def pair(chatml_folder):
    with (
        ScriptedServer(chatml_folder) as draft_server,
        ScriptedServer(chatml_folder) as base_server,
        Endpoint(draft_server.url, timeout=20) as draft,
        Endpoint(base_server.url, timeout=20) as base,
    ):
        pair = Pair(draft_server, base_server, draft, base)
        pair.start_anew(three_steps, lambda turn: 9)
        yield pair


def three_steps(side, turn, most):
    number = turn.count("\n\n") + 1
    return f"{side} {number}", "eos" if number == 3 else "delimiter", 3


@contextlib.contextmanager
def serving(pair: Pair, /, *, limits=None, **settings):
    """The server in front of a scripted pair, on a port; gives its URL."""
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


@pytest.fixture(scope="module")
def url(pair):
    with serving(pair) as url:
        yield url
