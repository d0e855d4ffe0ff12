"""Each fault at each phase of a run, on scripted servers behind proxies, and what becomes of the run."""

import contextlib
import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import sglang as sgl
import urllib3

from specreason_sgl import Endpoint, Trace
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.evaluation.evaluate import read_run
from specreason_sgl.lang import endpoint as endpoint_module
from tests.conftest import make_tokenizer
from tests.evaluation.runs import PROBLEMS
from tests.evaluation.runs import run as evaluate
from tests.faults import proxy
from tests.faults.proxy import Proxy
from tests.reasoning.pair import LEAD, Pair, Seen, chance
from tests.reasoning.test_degrade import steps_of
from tests.reasoning.test_pipelined import what_was_decided
from tests.reasoning.test_resume import at, digit
from tests.scripted import ScriptedServer, answer, part_of
from tests.serving.conftest import serving

STEPS = 3  # of a run; the second draft is rejected
SHORT = 2.0  # seconds until a request that hangs is given up
RETRY_FOR = 1.5  # seconds
DEADLINE = 30.0  # seconds; a cell that takes longer hangs
AT_ONCE = 8
FINE = {KEPT := "kept", SAVED := "saved", FAILED := "error"}
# What a fault at each of these is put at. A run of `solve` streams its answer in the second to last.
PHASES = {
    "draft": "draft", "score": "score", "rewrite": "rewrite", "answer": "answer", "stream": "answer",
    "serve": "answer", "eval": "score", "program": "rewrite",
}  # fmt: skip
STREAMED = ("stream", "serve")


def replies(status: int, body: bytes) -> Callable:
    """The server answers with this; in a stream, an answer's body is an event."""

    def spoil(rig: "Rig", cell: "Cell", seen: Seen):
        if cell.phase in STREAMED and status == 200:
            return lambda handler: sends(handler, b"data: %s\n\ndata: [DONE]\n\n" % body)
        return status, body

    return spoil


def stops(rig: "Rig", cell: "Cell", seen: Seen):
    """A token comes, and then no more."""
    begun = json.dumps(part_of(answer(" ", completion_tokens=1), " ")).encode()
    if cell.phase in STREAMED and seen.turn.endswith(LEAD):
        return lambda handler: sends(handler, b"data: %s\n\n" % begun)
    return lambda handler: sends(handler, begun[:-1] if cell.phase not in STREAMED else b"")


def sends(handler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def spoiled(how: Callable) -> Callable:
    def spoil(rig: "Rig", cell: "Cell", seen: Seen) -> None:
        rig.proxies[seen.side].arm(seen.rid, how)

    return spoil


def refused(rig: "Rig", cell: "Cell", seen: Seen) -> None:
    rig.proxies[seen.side].refuse(None if cell.forever else 0.03)


HALF = json.dumps(answer("half of it")).encode()[:40]
FAULTS: dict[str, Callable] = {
    "the server is gone": refused,
    "the connection is reset": spoiled(proxy.resets),
    "cut in mid-answer": spoiled(proxy.cuts),
    "garbled bytes": spoiled(proxy.garbles),
    "a delay": spoiled(proxy.delays),
    "a slow drip": spoiled(proxy.drips),
    "a hang": spoiled(proxy.hangs),
    "a stall in mid-answer": spoiled(proxy.stalls),
    "status 429": replies(429, b""),
    "status 500": replies(500, b'{"error": {"message": "boom"}}'),
    "status 503": replies(503, b"busy"),
    "half an answer": replies(200, HALF),
    "stops after a token": stops,
    "not JSON": replies(200, b"<html>"),
    "missing fields": replies(200, b'{"text": "x"}'),
    "an error with status 200": replies(200, b'{"error": {"message": "boom"}}'),
    "an empty body": replies(200, b""),
}
HANGS = ("a hang", "a stall in mid-answer")


@dataclass(frozen=True)
class Cell:
    """A fault at a phase, at one request or from there on for good."""

    fault: str
    phase: str
    forever: bool


CELLS = [Cell(fault, phase, forever) for fault in FAULTS for phase in PHASES for forever in (False, True)]


class Lost(AssertionError):
    """Something that was paid for is gone, or an error is not clear."""


def need(condition: bool, why: str) -> None:
    if not condition:
        raise Lost(why)


class Rig:
    """A scripted pair behind proxies, for one cell after another."""

    def __init__(self, tokenizer: str):
        self._stack = stack = contextlib.ExitStack()
        servers = [stack.enter_context(ScriptedServer(tokenizer)) for _ in range(2)]
        self.proxies = {
            side: stack.enter_context(contextlib.closing(Proxy(one.server.server_port)))
            for side, one in zip(("draft", "base"), servers, strict=True)
        }
        ends = [stack.enter_context(Endpoint(one.url, retry_for=RETRY_FOR)) for one in self.proxies.values()]
        self.pair = Pair(*servers, *ends)
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._url = ""
        self.calm()
        self.expected = self.pair.solve()

    def calm(self) -> None:
        """There is no fault."""
        self.set(lambda seen: None)
        self.pair.draft.timeout = self.pair.base.timeout = 20.0
        for one in self.proxies.values():
            one.accept()

    def set(self, before: Callable) -> None:
        self.pair.start_anew(steps_of(STEPS), digit, before)

    def spoil(self, cell: Cell) -> None:
        fault = FAULTS[cell.fault]
        chosen = at(PHASES[cell.phase], cell, float("inf") if cell.forever else 1)
        self.hit = False

        def before(seen: Seen):
            if not chosen(seen):
                return None
            self.hit = True
            return fault(self, cell, seen)

        self.set(before)
        if cell.fault in HANGS:
            self.pair.base.timeout = SHORT

    def url(self) -> str:
        """Of the server in front of the pair, started when it is first needed."""
        self._url = self._url or self._stack.enter_context(serving(self.pair))
        return self._url

    def close(self) -> None:
        self._stack.close()


def outcome(rig: Rig, cell: Cell) -> str:
    """`kept`, `saved` or `error`; else what is wrong."""
    found = ["hung"]

    def work() -> None:
        try:
            rig.calm()
            rig.spoil(cell)
            what = RUNS.get(cell.phase, solves)(rig, cell)
            need(rig.hit, "the fault was at no request")
            found[0] = what
        except Lost as why:
            found[0] = f"lost: {why}"
        except BaseException as error:
            found[0] = f"lost: {type(error).__name__}: {error}"

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return found[0]


def solves(rig: Rig, cell: Cell) -> str:
    settings = {"draft_timeout": SHORT if cell.fault in HANGS else 20.0, "lookahead": 1}
    expected, pieces = rig.expected, []
    if cell.phase == "stream":
        settings["on_text"] = lambda kind, text: pieces.append(text)
    try:
        trace = rig.pair.solve(**settings)
    except SpecReasonError as error:
        check_clear(str(error), rig)
        need(cell.phase != "draft", f"the draft is not needed, but {error}")
        steps = expected.steps[: STEPS if PHASES[cell.phase] == "answer" else 1]
        saved = Trace.from_json(error.trace.to_json())
        need([one.text for one in saved.steps] == [one.text for one in steps], "the trace misses steps")
        pieces.clear()
        rig.calm()
        trace, found = rig.pair.solve(**settings, resume=saved), SAVED
    else:
        found = KEPT
    if cell.phase == "draft":
        texts = [f"{step.author} {number}" for number, step in enumerate(trace.steps, 1)]
        need([step.text for step in trace.steps] == texts and len(texts) == STEPS, f"steps are {texts}")
        right = str(chance(f"{trace.reasoning}\n\n").randrange(99))
        need(trace.answer == right, f"the answer is {trace.answer!r}")
    else:
        need(what_was_decided(trace) == what_was_decided(expected), "it is another run")
    need("".join(pieces).strip() in ("", trace.answer), f"what was streamed is {pieces}")
    need(bool(pieces) == (cell.phase == "stream"), "nothing was streamed")
    return found


def serves(rig: Rig, cell: Cell) -> str:
    url = rig.url()
    status, said = ask(url)
    right = (200, rig.expected.answer)
    if (status, said) == right:
        return KEPT
    need(isinstance(said, dict), f"the client got {said!r}")
    need(said.keys() == {"message", "type", "param", "code"}, f"the client got {said}")
    check_clear(said["message"], rig)
    rig.calm()
    need(ask(url) == right, "the server does not live on")
    return FAILED


def ask(url: str) -> tuple[int, str | dict]:
    """The status, and the streamed answer or the error."""
    body = {"model": "two", "messages": [{"role": "user", "content": "q"}], "stream": True}
    response = urllib3.request("POST", f"{url}/v1/chat/completions", json=body, timeout=DEADLINE)
    if response.status != 200:
        return response.status, response.json()["error"]
    lines = [line.removeprefix("data: ") for line in response.data.decode().split("\n\n")]
    need(lines[-2:] == ["[DONE]", ""], "the stream has no end")
    events = [json.loads(line) for line in lines[:-2]]
    if errors := [event["error"] for event in events if "error" in event]:
        return response.status, errors[0]
    return response.status, "".join(event["choices"][0]["delta"].get("content", "") for event in events)


def evaluates(rig: Rig, cell: Cell) -> str:
    file = rig.folder / f"{time.monotonic_ns()}.jsonl"
    options = {"modes": ("specreason",), "problems": PROBLEMS[:2]}
    try:
        samples = evaluate(rig.pair, file, **options)
        need(len(samples) == 2, "a sample is missing")
    except SpecReasonError as error:  # between two samples
        check_clear(str(error), rig)
        samples = read_run(file)[1]
    errors = [one.error for one in samples if one.error]
    if not errors:
        found = KEPT
    else:
        for error in errors:
            check_clear(error, rig)
        rig.calm()
        samples, found = evaluate(rig.pair, file, **options, retry_failed=True), FAILED
    need([one.trace.reasoning for one in samples] == [rig.expected.reasoning] * 2, "it is another run")
    return found


@sgl.function
def program(s):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += "first\n\n" + sgl.gen("second", max_tokens=8, stop=["\n\n"])


def runs_a_program(rig: Rig, cell: Cell) -> str:
    try:
        found, text = KEPT, program.run(backend=rig.pair.base)["second"]
    except SpecReasonError as error:
        check_clear(str(error), rig)
        rig.calm()
        found, text = FAILED, program.run(backend=rig.pair.base)["second"]
    need(text == "base 2", f"the program got {text!r}")
    return found


RUNS = {"serve": serves, "eval": evaluates, "program": runs_a_program}


def check_clear(message: str, rig: Rig) -> None:
    need("\n" not in message and len(message) < 400, f"the error is not a line: {message}")
    need(any(one.url in message for one in rig.proxies.values()), f"the error names no server: {message}")


def outcomes(cells: list[Cell] = CELLS) -> Iterator[tuple[Cell, str]]:
    """What becomes of each, as it comes; some at a time."""
    rigs: queue.SimpleQueue[Rig] = queue.SimpleQueue()

    def work(cell: Cell) -> str:
        rig = rigs.get()
        found = outcome(rig, cell)
        rigs.put(rig if found != "hung" else Rig(tokenizer))
        return found

    with (
        patch.object(endpoint_module, "FIRST_WAIT", 0.001),
        tempfile.TemporaryDirectory() as tokenizer,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        make_tokenizer("qwen2.5").save_pretrained(tokenizer)
        for rig in pool.map(Rig, [tokenizer] * AT_ONCE):
            rigs.put(rig)
        asked = {pool.submit(work, cell): cell for cell in cells}
        for future in as_completed(asked):
            yield asked[future], future.result()
        list(pool.map(Rig.close, [rigs.get() for _ in range(AT_ONCE)]))


def table(found: dict[Cell, str]) -> str:
    """As Markdown: a fault at one request / for good."""
    lines = ["| | " + " | ".join(PHASES) + " |", "| --- " * (1 + len(PHASES)) + "|"]
    for fault in FAULTS:
        pairs = [[found[Cell(fault, phase, forever)] for forever in (False, True)] for phase in PHASES]
        lines.append(f"| {fault} | " + " | ".join(" / ".join(dict.fromkeys(pair)) for pair in pairs) + " |")
    return "\n".join(lines)
