"""The OpenAI server in front of a scripted pair, on a port of its own: in this process, or `serve`."""

import contextlib
import re
import subprocess
import sys

from specreason_sgl import SpecReasonConfig
from specreason_sgl.serving import listen
from specreason_sgl.serving.app import Server, Settings
from specreason_sgl.serving.metrics import Metrics
from specreason_sgl.serving.service import Service
from tests.support.pair import Pair

SERVE = [sys.executable, "-m", "specreason_sgl.cli", "serve"]
KNOBS = ["--port", "0", "--served-model-name", "two", "--temperature", "0", "--token-budget", "60"]
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


@contextlib.contextmanager
def started(command):
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def serve_process(pair: Pair, *options: str):
    """`serve` in front of the pair, which has to print its address yet (`url_of`)."""
    urls = ["--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    with started([*SERVE, *urls, *KNOBS, *options]) as process:
        yield process


def url_of(process) -> str:
    """Where `serve` serves, once it does."""
    return re.search(r"at (http://127\.0\.0\.1:\d+)/v1", process.stdout.readline())[1]
