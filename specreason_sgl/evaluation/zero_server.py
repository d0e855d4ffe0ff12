"""A server that speaks enough of SGLang's HTTP to run the algorithm on, and answers at once: what is left is
this package's own time. `python -m specreason_sgl.evaluation.zero_server TOKENIZER PORT`"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI, Request

from specreason_sgl.errors import LaunchError
from specreason_sgl.runtime import supervise
from specreason_sgl.runtime.launch import HOST, free_port

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
        length = len(payload["input_ids"])
        meta = {"prompt_tokens": length, "cached_tokens": 0, "completion_tokens": STEP_TOKENS}
        meta["finish_reason"] = {"type": "stop", "matched": "\n\n"}
        if ids := payload.get("token_ids_logprob"):
            meta["completion_tokens"] = 1
            meta["output_token_ids_logprobs"] = [[[-float(i), token, None] for i, token in enumerate(ids)]]
        # Each step says something else, or it would be a repetition.
        return {"text": f"{STEP} {length}", "output_ids": [], "meta_info": meta}

    @app.post("/flush_cache")
    @app.post("/abort_request")
    async def nothing():
        return {}

    return app


@contextlib.contextmanager
def zero_servers(tokenizer: str, n: int = 2) -> Iterator[list[str]]:
    """Start `n` of them, each in a process of its own; gives their URLs."""
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
