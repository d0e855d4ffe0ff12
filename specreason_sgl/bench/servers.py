"""Servers that speak enough of SGLang's HTTP to run the algorithm on, and keep a pace.

At no latency what is left of a run's time is this package's own. At the pace of a GPU's models they show what
one client process carries. A process each: `python -m specreason_sgl.bench.servers TOKENIZER PORT PACE`
"""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec
import psutil
import uvicorn

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import supervise
from specreason_sgl.runtime.server import HOST, free_port

STEP = "In May she sold half of them, so together there are 48 + 24 = 72 clips."
STEP_TOKENS = 32  # a few more than the text above has
CONTEXT = 32768  # tokens
JSON, EVENTS = (b"content-type", b"application/json"), (b"content-type", b"text/event-stream")


class Pace(msgspec.Struct, frozen=True):
    """How long a server takes: for reading a prompt, and for each token that it writes, in seconds."""

    prefill: float = 0.0
    token: float = 0.0

    def seconds(self, tokens: int) -> float:
        """Of a request that writes so many tokens."""
        return self.prefill + tokens * self.token


class PacedServer:
    """An ASGI application: SGLang's native API, as far as this package asks for it.

    Args:
        tokenizer: the folder that the server names as its model's.
        pace: how long it takes.
    """

    def __init__(self, tokenizer: str, pace: Pace):
        self._model = {"model_path": "paced", "tokenizer_path": tokenizer}
        self._pace = pace
        self._aborted: set[str] = set()

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        payload = msgspec.json.decode(body) if body else {}
        if scope["path"] == "/generate":
            await self._generate(payload, send)
        elif scope["path"] == "/model_info":
            await _respond(send, self._model)
        elif scope["path"] == "/server_info":
            await _respond(send, {"max_req_input_len": CONTEXT})
        else:
            self._aborted.add(payload.get("rid", ""))
            await _respond(send, {})

    async def _generate(self, payload: dict[str, Any], send: Callable) -> None:
        if payload.get("stream"):
            await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
            async for answer in self._written(payload):
                event = b"data: " + msgspec.json.encode(answer) + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        else:
            answer = _answer(payload)
            await self._wait(self._pace.seconds(answer["meta_info"]["completion_tokens"]))
            await _respond(send, answer)

    async def _written(self, payload: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream: as many tokens at a time as the payload's `stream_interval` says."""
        whole = _answer(payload)
        text, meta = whole["text"], whole["meta_info"]
        tokens = meta["completion_tokens"]
        interval = payload["sampling_params"].get("stream_interval") or 1
        if not self._pace.token:
            interval = tokens
        await self._wait(self._pace.prefill)
        for written in range(interval, tokens, interval):
            await self._wait(interval * self._pace.token)
            if payload["rid"] in self._aborted:
                break
            part = text[: len(text) * written // tokens]
            yield {
                **whole,
                "text": part,
                "meta_info": {**meta, "completion_tokens": written, "finish_reason": None},
            }
        else:
            await self._wait(((tokens - 1) % interval + 1) * self._pace.token)
            yield whole

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds)


def _answer(payload: dict[str, Any]) -> dict[str, Any]:
    ids = payload["input_ids"]
    limit = payload["sampling_params"].get("max_new_tokens", STEP_TOKENS)
    meta = {"prompt_tokens": len(ids), "cached_tokens": 0, "completion_tokens": min(STEP_TOKENS, limit)}
    meta["finish_reason"] = {"type": "stop", "matched": "\n\n"}
    if choices := payload.get("token_ids_logprob"):
        meta["output_token_ids_logprobs"] = [[[-float(i), token, None] for i, token in enumerate(choices)]]
    if "logprob_start_len" in payload:
        meta |= _reading(ids, payload["logprob_start_len"])
    # Each step differs from the others: it would be a repetition, and no text is new to the client twice.
    words = STEP.split()
    random.Random(sum(ids)).shuffle(words)
    return {"text": f"{len(ids)}. {' '.join(words)}", "output_ids": [], "meta_info": meta}


def _reading(ids: list[int], start: int) -> dict[str, Any]:
    """Logprobs without regret, although the model's first choice is always to repeat the token before."""
    tokens, firsts = [], []
    for i in range(start, len(ids)):
        logprob = -(i % 97) / 100
        tokens.append([logprob, ids[i], None])
        firsts.append([[logprob, ids[i - 1] if i > start + 1 else ids[i], None]])
    return {"input_token_logprobs": tokens, "input_top_logprobs": firsts}


async def _respond(send: Callable, answer: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [JSON]})
    await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})


class Servers:
    """Paced servers that run.

    Attributes:
        urls: of each.
    """

    def __init__(self, ports: Sequence[int], processes: Sequence[subprocess.Popen]):
        self.urls = [f"http://{HOST}:{port}" for port in ports]
        self._processes = [psutil.Process(process.pid) for process in processes]

    def cpu_seconds(self) -> float:
        """Processor time of all of them so far."""
        started = [child for process in self._processes for child in process.children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in (*self._processes, *started))


@contextlib.contextmanager
def paced_servers(tokenizer: str, *paces: Pace) -> Iterator[Servers]:
    """Start a server for each pace, each in a process of its own."""
    supervised = [sys.executable, "-I", "-S", supervise.__file__]
    ports = [free_port() for _ in paces]
    settings = [
        (tokenizer, str(port), msgspec.json.encode(pace)) for port, pace in zip(ports, paces, strict=True)
    ]
    processes = [
        subprocess.Popen(
            [*supervised, sys.executable, "-m", __name__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for arguments in settings
    ]
    try:
        for process in processes:
            if process.stdout.readline() != "ready\n":
                raise LaunchError("the paced server did not start")
        yield Servers(ports, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


class _Server(uvicorn.Server):
    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        print("ready", flush=True)


if __name__ == "__main__":
    folder, port, pace = sys.argv[1:]
    app = PacedServer(folder, msgspec.json.decode(pace, type=Pace))
    _Server(uvicorn.Config(app, host=HOST, port=int(port), log_level="error", backlog=4096)).run()
