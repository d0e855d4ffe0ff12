"""Many clients of `specreason-sgl serve` at once, for a while: is each answered, with its own text?

    specreason-sgl serve --pair nano --port 8000 --temperature 0 --token-budget 60 --step-tokens 30 &
    python -m tests.load --model nano --seconds 180 --pid $!

Half of the clients stream. Each checks that what it was sent is the trace of its own question. With `--pid`,
the server's memory, threads and files are sampled. Prints one JSON object; ends with status 1 if anything was
lost or mixed up.
"""

import argparse
import itertools
import json
import statistics
import sys
import threading
import time
from collections import Counter

import openai
import psutil

from specreason_sgl import Trace

NUMBERS = itertools.count()


def ask(client: openai.OpenAI, model: str, stream: bool) -> str:
    """Ask once; gives how it ended."""
    number = next(NUMBERS)
    question = f"Box {number} holds {number % 17 + 3} red and {number % 5 + 2} blue balls. How many in all?"
    request = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "extra_body": {"specreason": {"trace": True}},
    }
    try:
        if stream:
            chunks = list(client.chat.completions.create(**request, stream=True))
            deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
            reasoning = "".join(getattr(one, "reasoning_content", None) or "" for one in deltas)
            answer = "".join(one.content or "" for one in deltas)
            sent = chunks[-1].specreason["trace"]
        else:
            reply = client.chat.completions.create(**request)
            reasoning = reply.choices[0].message.reasoning_content
            answer = reply.choices[0].message.content
            sent = reply.specreason["traces"][0]
    except openai.RateLimitError:
        return "refused"
    except openai.OpenAIError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return "lost"
    trace = Trace.from_json(json.dumps(sent))
    own = (trace.question, trace.reasoning, trace.answer) == (question, reasoning, answer)
    return "answered" if own else "mixed up"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--pid", type=int, help="the server's process")
    given = parser.parse_args()
    client = openai.OpenAI(base_url=f"{given.url}/v1", api_key="none", max_retries=0, timeout=600)
    ends, seconds, samples = Counter(), [], []
    stop = threading.Event()

    def work(index: int) -> None:
        while not stop.is_set():
            started = time.monotonic()
            end = ask(client, given.model, stream=index % 2 == 0)
            ends[end] += 1
            seconds.append(time.monotonic() - started)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(given.clients)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + given.seconds
    while (left := deadline - time.monotonic()) > 0:
        if given.pid:
            server = psutil.Process(given.pid)
            samples.append((server.memory_info().rss / 1e6, server.num_threads(), server.num_fds()))
        stop.wait(min(10, left))
    stop.set()
    for thread in threads:
        thread.join()
    found = {
        "asked": len(seconds),
        **ends,
        "median_seconds": round(statistics.median(seconds), 1),
        "longest_seconds": round(max(seconds), 1),
    }
    for name, values in zip(("memory_mb", "threads", "files"), zip(*samples, strict=True), strict=False):
        found[name] = [round(value) for value in values]
    print(json.dumps(found, indent=2))
    return 1 if ends["lost"] or ends["mixed up"] else 0


if __name__ == "__main__":
    sys.exit(main())
