"""`serve --workers`: several processes at one port, in front of a scripted pair."""

import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import urllib3

from specreason_sgl.serving.settings import Limits
from tests.support.runtimes import metric
from tests.support.serving import serve_process, url_of
from tests.support.waiting import wait_until
from tests.support.writers import steps_of

ASK = {"model": "two", "messages": [{"role": "user", "content": "q"}]}
CLIENTS = 24


@pytest.fixture
def process(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    with serve_process(pair, "--workers", "2", "--max-running-requests", "3") as process:
        yield process


def ask(url):
    """Ask over a connection of its own, which any worker may accept."""
    with urllib3.PoolManager(retries=False, timeout=60) as pool:
        return pool.request("POST", f"{url}/v1/chat/completions", json=ASK).status


def workers(process):
    """The processes that listen: children of the server that they are forked from."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any(connection.status == psutil.CONN_LISTEN for connection in child.net_connections())
    ]


def test_workers_share_the_slots_and_each_shows_the_metrics_of_all(pair, process):
    url, release = url_of(process), threading.Event()
    pair.before = lambda seen: release.wait(60) and None
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = [pool.submit(ask, url) for _ in range(CLIENTS)]
        wait_until(lambda: metric(url, "specreason_requests_waiting") == CLIENTS - 3)
        wait_until(lambda: len(pair.of("draft")) == 3)
        assert metric(url, "specreason_requests_running") == 3
        release.set()
        assert {reply.result() for reply in replies} == {200}
    wait_until(lambda: metric(url, "specreason_requests_running") == 0)
    for _ in range(8):  # whichever worker is asked
        with urllib3.PoolManager() as pool:
            lines = pool.request("GET", f"{url}/metrics").data.decode().splitlines()
        assert f'specreason_requests_total{{model="two",status="ok"}} {CLIENTS}.0' in lines
        assert sum(line.startswith("specreason_read_seconds{pid=") for line in lines) == 2


def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(process):
    url = url_of(process)
    assert ask(url) == 200
    killed, kept = workers(process)
    killed.send_signal(signal.SIGKILL)
    assert re.fullmatch(
        rf"worker process {killed.pid} ended with status -9; another one takes its place in 1 s\n",
        [process.stderr.readline(), process.stderr.readline()][-1],
    )
    with ThreadPoolExecutor(8) as pool:  # those whose worker is not there yet wait
        assert set(pool.map(ask, [url] * 8)) == {200}
    assert metric(url, "specreason_requests_total") == 9
    assert {worker.pid for worker in workers(process)} > {kept.pid}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_server_ends_its_workers_and_their_requests(pair, process, number):
    url = url_of(process)
    pair.before = lambda seen: wait_until(lambda: seen.rid in pair.aborted())
    started = psutil.Process(process.pid).children(recursive=True)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask, url)
        wait_until(lambda: pair.seen)
        os.kill(process.pid, number)
        process.wait(30)
        assert not psutil.wait_procs(started, 30)[1]
    wait_until(lambda: {seen.rid for seen in pair.of("draft")} <= pair.aborted())


@pytest.mark.parametrize(("running", "waiting", "workers"), [(64, 256, 4), (7, 2, 3), (3, 0, 3)])
def test_the_shares_of_the_limits_add_up(running, waiting, workers):
    shares = [Limits(running, waiting).share(number, workers) for number in range(workers)]
    assert sum(share.running for share in shares) == running
    assert sum(share.waiting for share in shares) == waiting
    assert all(share.running for share in shares)
