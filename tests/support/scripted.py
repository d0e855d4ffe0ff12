"""A scripted HTTP server that speaks SGLang's protocol: answers, streams and faults on demand."""

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer(text: str, finish_reason: dict | None = None, **meta) -> dict:
    """SGLang's answer to /generate."""
    reason = finish_reason or {"type": "stop", "matched": "\n\n"}
    counts = {"prompt_tokens": 5, "cached_tokens": 0, "completion_tokens": 3}
    return {"text": text, "meta_info": {"finish_reason": reason, **counts, **meta}}


def reading(payload: dict, logprob=lambda ids, at: 0.0, first=lambda ids, at: None) -> dict:
    """The meta information of a prefill: the logprob and the first choice at each token.

    The first choice is the token itself, or else what `first` returns: then it has a logprob of -0.5 and the
    token one of -10.
    """
    ids, start = payload["input_ids"], payload["logprob_start_len"]
    tokens, tops = [[None, ids[start], None]], [None]
    for at in range(start + 1, len(ids)):
        choice = first(ids, at)
        tokens.append([logprob(ids, at) if choice is None else -10.0, ids[at], None])
        tops.append([[tokens[-1][0], ids[at], None] if choice is None else [-0.5, choice, None]])
    return {"completion_tokens": 0, "input_token_logprobs": tokens, "input_top_logprobs": tops}


def part_of(whole: dict, text: str) -> dict:
    """A stream's event with the text so far, before the last."""
    return {**whole, "text": text, "meta_info": {**whole["meta_info"], "finish_reason": None}}


def streamed(*events: dict | bytes, done: bool = True, between: Callable = lambda: None) -> Callable:
    """Stream these events, each with the text so far, as SGLang does; `between` runs after each. Without
    `done` the stream breaks off."""

    def send(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for event in events:
            data = event if isinstance(event, bytes) else json.dumps(event).encode()
            handler.wfile.write(b"data: " + data + b"\n\n")
            between()
        if done:
            handler.wfile.write(b"data: [DONE]\n\n")
        handler.close_connection = True

    return send


def hang_up(handler):
    """Close the connection without answering; for `ScriptedServer.on_generate`."""
    handler.close_connection = True
    handler.connection.close()


def half_an_answer(handler):
    """Break off after a part of the body; for `ScriptedServer.on_generate`."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"text": "ha')
    handler.close_connection = True


def by_character(whole: dict) -> list[dict]:
    """The events of an answer's stream, one per character; tokens are counted in proportion."""
    text, tokens = whole["text"], whole["meta_info"]["completion_tokens"]
    events = [part_of(whole, text[:end]) for end in range(1, len(text))]
    for end, event in enumerate(events, 1):
        event["meta_info"]["completion_tokens"] = max(tokens * end // len(text), 1)
    return [*events, whole]


class ScriptedServer:
    """A server whose answers a test chooses.

    `on_generate(payload)` returns a dict to answer with, a tuple of status and body, or a callable that gets
    the request handler. `on_classify`, `on_abort` and the values of `plays`, by path, do likewise. `requests`
    records (path, payload), `errors` what was raised while answering, which closes the connection. With an
    `api_key`, all requests must send it.
    """

    def __init__(self, tokenizer_folder: str):
        self.requests: list[tuple[str, dict]] = []
        self.errors: list[str] = []
        self.connections = 0
        self.on_generate: Callable = lambda payload: answer("ok")
        self.on_classify: Callable = lambda payload: (404, b"{}")
        self.on_abort: Callable = lambda payload: {}
        self.plays: dict[str, Callable] = {}
        self.model_info = {"model_path": "scripted", "tokenizer_path": tokenizer_folder}
        self.server_info: object = None
        self.arrived = threading.Event()
        self.released = threading.Event()
        self.waited_out = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes: with it, 40 ms a request

            def setup(self):
                outer.connections += 1
                super().setup()

            def do_GET(self):
                outer.requests.append((self.path, {}))
                if self.is_refused():
                    self.reply(401, b'{"error": "Unauthorized"}')
                elif self.path == "/model_info" and outer.model_info:
                    self.reply(200, json.dumps(outer.model_info).encode())
                elif self.path == "/server_info" and outer.server_info is not None:
                    self.reply(200, json.dumps(outer.server_info).encode())
                elif self.path == "/health":
                    self.reply(200, b"")
                else:
                    self.reply(404, b'{"detail": "Not Found"}')

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                payload = json.loads(body) if body else {}
                outer.requests.append((self.path, payload))
                plays = {
                    "/generate": outer.on_generate,
                    "/classify": outer.on_classify,
                    "/abort_request": outer.on_abort,
                    **outer.plays,
                }
                if self.is_refused():
                    return self.reply(401, b'{"error": "Unauthorized"}')
                if self.path not in plays:
                    return self.reply(200, b"{}")
                outer.arrived.set()
                result = plays[self.path](payload)
                if callable(result):
                    return result(self)
                if isinstance(result, tuple):
                    return self.reply(*result)
                return self.reply(200, json.dumps(result).encode())

            def is_refused(self) -> bool:
                return outer.api_key and self.headers["Authorization"] != f"Bearer {outer.api_key}"

            def reply(self, status: int, body: bytes):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                if not isinstance(error := sys.exception(), OSError):  # else a client that has gone
                    outer.errors.append(repr(error))

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.api_key: str | None = None

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def hang(self, payload: dict) -> dict:
        """An `on_generate` that answers once `released` is set, or after 30 s, and then sets `waited_out`."""
        if not self.released.wait(30):
            self.waited_out = True
        return answer("late", {"type": "abort", "message": "Abort by client"})

    def generated(self) -> list[dict]:
        return [payload for path, payload in self.requests if path == "/generate"]

    def aborted(self) -> list[str]:
        return [payload["rid"] for path, payload in list(self.requests) if path == "/abort_request"]
