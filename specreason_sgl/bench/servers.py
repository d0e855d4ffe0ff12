"""Servers that speak enough of SGLang's HTTP to run the algorithm on.

Zero latency: it answers at once, so that what is left is this package's own time. A process each:
`python -m specreason_sgl.bench.servers TOKENIZER PORT`
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import supervise
from specreason_sgl.runtime.server import HOST, free_port

STEP = "The number of clips in May is 48 / 2 = 24, so together there are 48 + 24 of them by the end of May."
STEP_TOKENS = 32


def make_app(tokenizer: str) -> FastAPI:
    app = FastAPI()

    @app.get("/model_info")
    async def model_info():
        return {"model_path": "zero-latency", "tokenizer_path": tokenizer}

    @app.post("/generate")
    async def generate(request: Request):
        payload = await request.json()
        answer = _answer(payload)
        if not payload.get("stream"):
            return answer
        events = (f"data: {event}\n\n" for event in (json.dumps(answer), "[DONE]"))
        return StreamingResponse(events, media_type="text/event-stream")

    @app.post("/flush_cache")
    @app.post("/abort_request")
    async def do_nothing():
        return {}

    return app


def _answer(payload: dict[str, Any]) -> dict[str, Any]:
    ids = payload["input_ids"]
    limit = payload["sampling_params"].get("max_new_tokens", STEP_TOKENS)
    meta = {"prompt_tokens": len(ids), "cached_tokens": 0, "completion_tokens": min(STEP_TOKENS, limit)}
    meta["finish_reason"] = {"type": "stop", "matched": "\n\n"}
    if choices := payload.get("token_ids_logprob"):
        meta["output_token_ids_logprobs"] = [[[-float(i), token, None] for i, token in enumerate(choices)]]
    if "logprob_start_len" in payload:
        meta |= _reading(ids, payload["logprob_start_len"])
    # Each step differs from the others, or it would be a repetition.
    return {"text": f"{STEP} {len(ids)}", "output_ids": [], "meta_info": meta}


def _reading(ids: list[int], start: int) -> dict[str, Any]:
    """Logprobs without regret, although the model's first choice is always to repeat the token before."""
    tokens, firsts = [], []
    for i in range(start, len(ids)):
        logprob = -(i % 97) / 100
        tokens.append([logprob, ids[i], None])
        firsts.append([[logprob, ids[i - 1] if i > start + 1 else ids[i], None]])
    return {"input_token_logprobs": tokens, "input_top_logprobs": firsts}


@contextlib.contextmanager
def zero_servers(tokenizer: str, n: int = 2) -> Iterator[list[str]]:
    """Start `n` zero-latency servers, each in a process of its own; yields their URLs."""
    supervised = [sys.executable, "-I", "-S", supervise.__file__]
    ports = [free_port() for _ in range(n)]
    servers = [
        subprocess.Popen(
            [*supervised, sys.executable, "-m", __name__, tokenizer, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for port in ports
    ]
    try:
        for server in servers:
            if server.stdout.readline() != "ready\n":
                raise LaunchError("the zero-latency server did not start")
        yield [f"http://{HOST}:{port}" for port in ports]
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


class _Server(uvicorn.Server):
    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        print("ready", flush=True)


if __name__ == "__main__":
    app = make_app(sys.argv[1])
    _Server(uvicorn.Config(app, host=HOST, port=int(sys.argv[2]), log_level="error")).run()
