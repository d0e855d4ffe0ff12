"""A load test of `specreason-sgl serve` with real runtimes: is any request lost, does anything grow?

    python -m tests.soak                                    # or `make soak`
    python -m tests.soak --minutes 3 --clients 32

Starts `serve` with a pair and keeps `--clients` requests running for `--minutes`, half of them streams. Half
as many clients again overrun the queue, and a fifth of all requests is given up by their clients. The draft
runtime and later the base runtime are killed with SIGKILL, and `serve` restarts them. Each client checks that
it was sent the trace of its own question.

Reports that asked = answered + refused + cancelled + failed with a clear error; the server's memory and
processes, as medians of the first and last third of the load; and its threads, files and sockets while idle,
before and after. The exit status is 1 if a request was lost, a runtime is not ready at the end, or something
grew.
"""

import argparse
import contextlib
import itertools
import json
import math
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import urllib3
from tqdm import tqdm

from specreason_sgl import Trace
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.runtime.server import free_port

GOES_AWAY = 0.2  # share of requests that their clients give up
AFTER = (0.5, 20.0)  # seconds, after which they do
PAUSE = 1.0  # seconds that a client waits after anything but an answer
LONGEST = 300.0  # seconds, the server's deadline of a request
KILLS = {"draft": 0.35, "base": 0.5}  # when, as shares of the time
KNOBS = ["--temperature", "0", "--token-budget", "30", "--step-tokens", "15", "--answer-tokens", "8"]
FINE = ("answered", "refused", "cancelled", "failed")
LOG = Path("build/soak.log")


@dataclass(frozen=True)
class Sample:
    """What a server's process uses at a moment; memory in MB."""

    memory: float
    threads: int
    files: int
    sockets: int
    processes: int

    @classmethod
    def of(cls, server: psutil.Process) -> "Sample":
        with server.oneshot():
            return cls(
                server.memory_info().rss / 1e6, server.num_threads(), server.num_fds(),
                len(server.net_connections()), len(server.children(recursive=True)),
            )  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """A quantity at first and at last, and the most that it may be at last."""

    first: float
    last: float
    most: float

    @property
    def grows(self) -> bool:
        return self.last > self.most


class GaveUp(Exception):
    """The client stopped reading a stream."""


class Tally:
    """How many requests were begun, and how they ended."""

    def __init__(self):
        self.ends: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self.asked = 0
        self._marked = 0
        self._lock = threading.Lock()

    def begin(self) -> int:
        with self._lock:
            self.asked = next(self._numbers)
            return self.asked

    def end(self, how: str, error: str = "") -> None:
        with self._lock:
            self.ends[how] += 1
            if error:
                kind = re.sub(r"within [\d.]+ s", "in time", error.partition(" (tried ")[0])
                self.errors[kind[:150]] += 1

    def mark(self) -> None:
        """Restart the count of `answered_since`."""
        self._marked = self.ends["answered"]

    @property
    def answered_since(self) -> int:
        return self.ends["answered"] - self._marked

    @property
    def balances(self) -> bool:
        return self.asked == sum(self.ends[how] for how in FINE) == sum(self.ends.values())


def ask(client: openai.OpenAI, model: str, number: int, seed: int) -> tuple[str, str]:
    """Ask once; returns how it ended, and the error."""
    dice = random.Random(f"{seed} {number}")
    stream = dice.random() < 0.5
    leaves = dice.uniform(*AFTER) if dice.random() < GOES_AWAY else None
    question = f"Box {number} holds {number % 17 + 3} red and {number % 5 + 2} blue balls. How many in all?"
    request = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "extra_body": {"specreason": {"trace": True}},
        "timeout": leaves or LONGEST + 60,
    }
    receive = _receive_stream if stream else _receive_whole
    try:
        reasoning, answer, sent = receive(client, request, time.monotonic() + (leaves or math.inf))
        trace = Trace.from_json(json.dumps(sent))
    except GaveUp:
        return "cancelled", ""
    except openai.RateLimitError:
        return "refused", ""
    except (openai.APITimeoutError, httpx.TimeoutException) as error:
        return ("cancelled", "") if leaves else ("lost", f"no answer in time: {error}")
    except (openai.APIConnectionError, httpx.HTTPError) as error:
        return "lost", f"{type(error).__name__}: {error}"
    except openai.APIError as error:
        message = error.body.get("message") if isinstance(error.body, dict) else None
        clear = message and "something is wrong in this server" not in message
        return ("failed", message) if clear else ("lost", str(error))
    except (SpecReasonError, AttributeError, LookupError, TypeError) as error:  # what came is not an answer
        return "lost", f"{type(error).__name__}: {error}"
    if (trace.question, trace.reasoning, trace.answer) != (question, reasoning, answer):
        return "mixed up", f"the answer to {question!r} is of {trace.question!r}"
    return "answered", ""


def _receive_stream(client: openai.OpenAI, request: dict, until: float) -> tuple[str, str, dict]:
    """The chain of thought, the answer and the trace; raises GaveUp if the client stops early."""
    chunks = []
    with client.chat.completions.create(**request, stream=True) as stream:
        for chunk in stream:
            chunks.append(chunk)
            if time.monotonic() > until:
                raise GaveUp
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    answer = "".join(delta.content or "" for delta in deltas)
    return reasoning, answer, chunks[-1].specreason["trace"]


def _receive_whole(client: openai.OpenAI, request: dict, until: float) -> tuple[str, str, dict]:
    reply = client.chat.completions.create(**request)  # its own timeout gives up
    message = reply.choices[0].message
    return message.reasoning_content, message.content, reply.specreason["traces"][0]


def load(
    url: str,
    model: str,
    server: psutil.Process,
    *,
    seconds: float,
    clients: int,
    seed: int,
    events: Sequence[tuple[float, str, Callable[[], None]]],
    samples: int = 120,
    quiet: bool = False,
) -> tuple[Tally, list[Sample]]:
    """Let clients ask one question after another for a while.

    Args:
        url: of the API.
        server: its process.
        seconds: how long.
        events: at which share of the time what happens.
        samples: how many to take.
    """
    tally, stop = Tally(), threading.Event()
    client = openai.OpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0,
        http_client=httpx.Client(limits=httpx.Limits(max_connections=None)),
    )  # fmt: skip

    def work() -> None:
        while not stop.is_set():
            end = ask(client, model, tally.begin(), seed)
            tally.end(*end)
            if end[0] != "answered":
                stop.wait(PAUSE)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        taken = _watch(server, tally, seconds, events, samples, quiet)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        client.close()
    return tally, taken


def _watch(
    server: psutil.Process,
    tally: Tally,
    seconds: float,
    events: Sequence[tuple[float, str, Callable[[], None]]],
    samples: int,
    quiet: bool,
) -> list[Sample]:
    """Take samples and let the events happen, until the time is over and every event has happened."""
    taken, began = [], time.monotonic()
    waiting = sorted(events, key=lambda event: event[0])
    with tqdm(total=round(seconds), unit="s", desc="soak", disable=quiet) as bar:
        while (now := time.monotonic() - began) < seconds or waiting:
            if waiting and now >= waiting[0][0] * seconds:
                _, what, happens = waiting.pop(0)
                bar.write(f"{now:.0f} s: {what}", file=sys.stderr)
                happens()
                tally.mark()
            taken.append(Sample.of(server))
            bar.set_postfix_str(", ".join(f"{n} {how}" for how, n in tally.ends.items()), refresh=False)
            bar.update(round(now) - bar.n)
            time.sleep(seconds / samples)
        bar.set_description("waiting for the last answers")
    return taken


def growth(samples: Sequence[Sample], before: Sample, after: Sample, clients: int) -> dict[str, Growth]:
    """How much each quantity grew.

    Memory and processes are medians of the first and last third of the load. The others vary with what is
    asked, so they are compared while idle. The server may keep a thread per client, and as many connections
    per client as it had requests at once: a draft, a score, a rewrite, an abort.
    """
    third = max(len(samples) // 3, 1)
    changes = {}
    for name, kept in (("memory", 0), ("threads", 1), ("files", 4), ("sockets", 4), ("processes", 0)):
        if kept:
            first, last = getattr(before, name), getattr(after, name)
            most = first + kept * clients + 16
        else:
            values = [getattr(sample, name) for sample in samples]
            first, last = statistics.median(values[:third]), statistics.median(values[-third:])
            most = first * 1.05 + 20 if name == "memory" else first
        changes[name] = Growth(first, last, most)
    return changes


def settled(server: psutil.Process) -> Sample:
    """A sample once the number of threads has not changed for a second, or after a minute."""
    sample = Sample.of(server)
    for _ in range(60):
        time.sleep(1)
        earlier, sample = sample, Sample.of(server)
        if sample.threads == earlier.threads:
            break
    return sample


def left(url: str) -> float:
    """How many requests the server still has after all clients are done; waits up to 10 s for 0."""
    names = ("specreason_requests_running", "specreason_requests_waiting")
    for _ in range(100):
        lines = urllib3.request("GET", f"{url}/metrics").data.decode().splitlines()
        count = sum(float(line.split()[1]) for line in lines if line.startswith(names))
        if not count:
            break
        time.sleep(0.1)
    return count


def report(tally: Tally, grown: dict[str, Growth], unfinished: float) -> bool:
    """Print the tables; returns whether all is well."""
    for how, count in tally.errors.most_common(8):
        print(f"{count:6d} times: {how}")
    sums = " + ".join(f"{tally.ends[how]} {how}" for how in FINE)
    bad = "".join(f", {n} {how}" for how, n in tally.ends.items() if how not in FINE)
    print(f"\n{tally.asked} asked = {sums}{bad}: {'balances' if tally.balances else 'DOES NOT BALANCE'}")
    print(f"{tally.answered_since} of the answers came after the last kill")
    print(f"{unfinished:.0f} left in the server\n")
    print(f"{'server':<10} {'at first':>12} {'at last':>12} {'at most':>12}")
    for name, change in grown.items():
        mark = "  GROWS" if change.grows else ""
        print(f"{name:<10} {change.first:12.0f} {change.last:12.0f} {change.most:12.0f}{mark}")
    well = tally.balances and tally.answered_since > 0
    return well and not unfinished and not any(change.grows for change in grown.values())


@contextlib.contextmanager
def served(pair: str, clients: int) -> Iterator[tuple[str, psutil.Process, dict[str, int]]]:
    """`specreason-sgl serve` with its runtimes: the URL, its process, and the runtimes' ports by side."""
    ports = {side: free_port() for side in KILLS}
    command = [sys.executable, "-m", "specreason_sgl.cli", "serve", "--pair", pair, "--port", "0", *KNOBS]
    command += [part for side, port in ports.items() for part in (f"--{side}-port", str(port))]
    command += [
        "--max-running-requests",
        str(clients),
        "--max-queued-requests",
        str(clients // 4),
        "--timeout",
        str(LONGEST),
    ]
    LOG.parent.mkdir(exist_ok=True)
    print(f"starting {pair}; what the server says goes to {LOG}", file=sys.stderr)
    with open(LOG, "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    server = psutil.Process(process.pid)
    try:
        ready = re.search(r"at (http://127\.0\.0\.1:\d+)/v1", process.stdout.readline())
        if not ready:
            sys.exit(f"the server did not start: {LOG.read_text().strip()[-300:]}")
        yield ready[1], server, ports
    finally:
        tree = server.children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait()
        _, alive = psutil.wait_procs(tree, timeout=15)
        if alive:
            sys.exit(f"{len(alive)} processes are left of the server")


def kill(server: psutil.Process, port: int) -> None:
    """Kill the runtime at a port, as the kernel does when memory is short; its supervisor survives."""
    (supervisor,) = [child for child in server.children() if str(port) in child.cmdline()]
    for process in supervisor.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=15, help="how long clients ask (15)")
    parser.add_argument("--clients", type=int, default=64, help="requests that run at a time (64)")
    parser.add_argument("--pair", default="nano", help="the pair to serve (nano)")
    parser.add_argument("--seed", type=int, default=1, help="of which clients go away when (1)")
    options = parser.parse_args()
    with served(options.pair, options.clients) as (url, server, ports):
        events = [
            (at, f"SIGKILL to the {side} runtime", lambda port=ports[side]: kill(server, port))
            for side, at in KILLS.items()
        ]
        before = settled(server)
        tally, samples = load(
            url, options.pair, server, seconds=60 * options.minutes, clients=options.clients * 3 // 2,
            seed=options.seed, events=events,
        )  # fmt: skip
        runtimes = urllib3.request("GET", f"{url}/health").json()["runtimes"]
        unfinished = left(url)
        well = report(tally, growth(samples, before, settled(server), options.clients), unfinished)
        for side, runtime in runtimes.items():
            print(f"{side}: {runtime['state']}, restarted {runtime['restarts']} times")
            well = well and runtime["state"] == "ready" and runtime["restarts"] >= 1
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
