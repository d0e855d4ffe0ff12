"""Each fault at each phase of a run, on scripted servers behind proxies, and what becomes of the run."""

import contextlib
import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import sglang as sgl
import urllib3

from specreason_sgl import Correct, Endpoint, Rewrite, Trace
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.evaluation.records import read_run
from specreason_sgl.reasoning.trace import joined
from tests.faults import proxy
from tests.faults.proxy import Proxy
from tests.support.checks import what_was_decided, what_was_written
from tests.support.evaluation_runs import PROBLEMS
from tests.support.evaluation_runs import run as evaluate
from tests.support.pair import ENDS, LEAD, Pair, Seen, chance
from tests.support.scripted import ScriptedServer, answer, by_character, part_of, streamed
from tests.support.serving import CONFIG, serving
from tests.support.tokenizers import make_tokenizer
from tests.support.waiting import quick_retries, wait_until
from tests.support.writers import digit, number_of, replies_at, steps_of

STEPS = 3  # of a run; the second draft is rejected, or its number corrected to 7
WINDOW = 2  # tokens
SHORT = 2.0  # seconds until a request that hangs is given up
RETRY_FOR = 1.5  # seconds
DEADLINE = 30.0  # seconds; a cell that takes longer hangs
AT_ONCE = 8  # with more, a busy machine misses the short timeouts
FINE = {KEPT := "kept", SAVED := "saved", FAILED := "error"}
REPAIRS = {"rewrite": Rewrite(), "correct": Correct(window=WINDOW)}
BOTH = tuple(REPAIRS)
# The phases, and with which repairs they are tried. A request of `correct` is the draft model's after a
# correction; `window` breaks a draft's stream when a part of it has been read; `stream` is an answer that is
# streamed to `on_text`.
PHASES = {
    "draft": BOTH, "score": ("rewrite",), "read": BOTH, "rewrite": ("rewrite",), "correct": ("correct",),
    "window": ("correct",), "answer": BOTH, "stream": BOTH, "serve": BOTH, "eval": BOTH,
    "program": ("rewrite",),
}  # fmt: skip
AT_DRAFTS = ("draft", "correct", "window")
AT_JUDGEMENTS = ("score", "read")
AT_ANSWERS = ("answer", "stream", "serve")
STREAMED = ("stream", "serve")


@dataclass(frozen=True)
class Cell:
    """A fault at a phase, at one request or from there on for good."""

    fault: str
    phase: str
    forever: bool
    repair: str = "rewrite"

    @property
    def purpose(self) -> str:
        """Of the requests that are hit."""
        if self.phase in AT_DRAFTS:
            return "draft"
        if self.phase == "eval":
            return "score" if self.repair == "rewrite" else "read"
        return {"stream": "answer", "serve": "answer", "program": "rewrite"}.get(self.phase, self.phase)

    @property
    def streams(self) -> bool:
        """Whether the requests that are hit are answered by streams."""
        return self.phase in STREAMED or (self.phase in AT_DRAFTS and self.repair == "correct")

    def hits(self, seen: Seen) -> bool:
        if self.phase == "correct":
            return seen.turn.endswith("\n\ndraft 7")
        if self.phase == "window":  # not what is drafted ahead of the correction, and dropped at it
            return number_of(seen) > 2 and "draft 7 so" in seen.turn
        return seen.purpose != "read" or "\n\ndraft" in seen.turn  # of the second step on


def replies(status: int, body: bytes) -> Callable:
    """The server answers with this; in a stream, an answer's body is an event. What has begun as a stream
    has its status in its last event."""

    def spoil(rig: "Rig", cell: Cell, seen: Seen):
        event = body
        if status != 200 and cell.phase == "window":
            event = json.dumps(answer("", {"type": "abort", "message": "x", "status_code": status})).encode()
        if cell.streams and (status == 200 or cell.phase == "window"):
            return lambda handler: sends(handler, b"data: %s\n\ndata: [DONE]\n\n" % event)
        return status, body

    return spoil


def stops(rig: "Rig", cell: Cell, seen: Seen):
    """A token comes, and then no more. A stream that is asked for again has one more, until it is whole."""
    text = " " if seen.purpose != "draft" else written(seen)[0][:1]
    if not text:
        return None
    begun = json.dumps(part_of(answer(text, completion_tokens=1), text)).encode()
    if cell.streams and (seen.turn.endswith(LEAD) or cell.phase in ("draft", "correct")):
        return lambda handler: sends(handler, b"data: %s\n\n" % begun)
    return lambda handler: sends(handler, begun[:-1] if not cell.streams else b"")


def sends(handler, body: bytes) -> None:
    """All of an answer, or, where it is a stream that has begun, the rest of it."""
    if not getattr(handler, "has_begun", False):
        handler.send_response(200)
        handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def spoiled(how: Callable) -> Callable:
    def spoil(rig: "Rig", cell: Cell, seen: Seen) -> None:
        rig.proxies[seen.side].arm(seen.rid, how, midway=cell.phase == "window")

    return spoil


def refused(rig: "Rig", cell: Cell, seen: Seen) -> None:
    rig.proxies[seen.side].refuse(None if cell.forever else 0.03)


def midway(rig: "Rig", cell: Cell, seen: Seen) -> Callable:
    """A draft's stream that comes to its fault when the base model has been asked about a part of it."""
    text, end, tokens = written(seen)
    events = by_character(answer(text, ENDS[end], prompt_tokens=1, completion_tokens=tokens))
    half = len(text) * 3 // 4

    def send(handler) -> None:
        streamed(*events[:half], done=False)(handler)
        wait_until(lambda: any("7 so\n\ndraft" in read.turn for read in rig.pair.of("read")), 5)
        handler.has_begun = True
        rest = rig.hit_by(FAULTS[cell.fault], cell, seen)
        if rest is None:  # the proxy's faults spoil what comes
            body = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events[half:])
            sends(handler, body + b"data: [DONE]\n\n")
        else:
            rest(handler)

    return send


def written(seen: Seen) -> tuple[str, str, int]:
    """What a model writes where single tokens are corrected. Whoever goes on with a step writes its rest."""
    number, begun = number_of(seen), seen.turn.rpartition("\n\n")[2]
    author = next((side for side in ("draft", "base") if begun and side[:1] == begun[:1]), seen.side)
    step = f"{author} {begun[len(author) + 1 :][:1] or number} so"
    return step[len(begun) :], "eos" if number == STEPS else "delimiter", 3


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


CELLS = [
    Cell(fault, phase, forever, repair)
    for fault in FAULTS
    for phase, repairs in PHASES.items()
    for forever in (False, True)
    for repair in repairs
]


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
            side: stack.enter_context(contextlib.closing(Proxy(server.server.server_port)))
            for side, server in zip(("draft", "base"), servers, strict=True)
        }
        endpoints = [
            stack.enter_context(Endpoint(proxy.url, retry_for=RETRY_FOR)) for proxy in self.proxies.values()
        ]
        self.pair = Pair(*servers, *endpoints)
        self.hit = False  # whether the fault came
        self.kept = threading.Event()  # the first step, in a run that is to save it
        self._cell: Cell | None = None  # whose fault it is
        self._lock = threading.Lock()
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._two, self._seven = (self._token(digit) for digit in "27")
        self._urls: dict[str, str] = {}
        self.expected: dict[str, Trace] = {}
        for name, repair in REPAIRS.items():
            self.calm(name)
            self.expected[name] = self.pair.solve(repair=repair)

    def _token(self, text: str) -> int:
        (token,) = self.pair.base.tokenizer.encode(text, add_special_tokens=False)
        return token

    def _first(self, ids: list[int], at: int) -> int | None:
        """The base model's first choice instead of the drafted number 2."""
        before = self.pair.base.tokenizer.decode(ids[max(at - 8, 0) : at])
        return self._seven if ids[at] == self._two and before.endswith("\n\ndraft ") else None

    def calm(self, repair: str) -> None:
        """There is no fault, and none that is still to come."""
        with self._lock:
            self._cell = None
        self.set(repair, lambda seen: None)
        self.pair.draft.requests.timeout = self.pair.base.requests.timeout = 20.0
        for side in self.proxies:
            self.proxies[side].accept()

    def set(self, repair: str, before: Callable) -> None:
        if repair == "rewrite":
            self.pair.start_anew(steps_of(STEPS), digit, before)
        else:
            self.pair.start_anew(
                lambda side, turn, most: written(Seen(side, "", turn, "")), None, before, self._first
            )

    def spoil(self, cell: Cell) -> None:
        chosen = replies_at(cell.purpose, cell, float("inf") if cell.forever else 1)
        self.hit, self._cell = False, cell
        self.kept.clear()

        def before(seen: Seen):
            if not cell.hits(seen) or not chosen(seen):
                return None
            if cell.phase in AT_JUDGEMENTS:  # the first step's may be under way, too
                self.kept.wait(5)
            if cell.phase == "window":
                return midway(self, cell, seen)
            return self.hit_by(FAULTS[cell.fault], cell, seen)

        self.set(cell.repair, before)
        if cell.fault in HANGS:
            self.pair.base.requests.timeout = SHORT

    def hit_by(self, fault: Callable, cell: Cell, seen: Seen):
        """What the fault answers a request with. It comes too late where the cell is over: a busy machine
        may have kept the request waiting."""
        with self._lock:
            if self._cell is not cell:
                return None
            self.hit = True
            return fault(self, cell, seen)

    def errors(self) -> list[str]:
        """What the scripted servers raised."""
        return [*self.pair.draft_server.errors, *self.pair.base_server.errors]

    def url(self, repair: str) -> str:
        """Of the server in front of the pair, started when it is first needed."""
        if repair not in self._urls:
            config = replace(CONFIG, repair=REPAIRS[repair])
            self._urls[repair] = self._stack.enter_context(serving(self.pair, config=config))
        return self._urls[repair]

    def close(self) -> None:
        self._stack.close()


def outcome_of(rig: Rig, cell: Cell) -> str:
    """`kept`, `saved` or `error`; else what is wrong."""
    outcome = "hung"

    def work() -> None:
        nonlocal outcome
        try:
            rig.calm(cell.repair)
            rig.spoil(cell)
            what = RUNS.get(cell.phase, solves)(rig, cell)
            need(rig.hit, "the fault was at no request")
            outcome = what
        except Lost as why:
            outcome = f"lost: {why}"
        except BaseException as error:
            outcome = f"lost: {type(error).__name__}: {error}"
        if outcome not in FINE and (errors := rig.errors()):
            outcome += f" (the scripted servers raised {errors})"

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return outcome


def solves(rig: Rig, cell: Cell) -> str:
    settings = {
        "draft_timeout": SHORT if cell.fault in HANGS else 20.0,
        "lookahead": 1,
        "repair": REPAIRS[cell.repair],
        "on_step": lambda step: rig.kept.set(),
    }
    expected, pieces = rig.expected[cell.repair], []
    if cell.phase == "stream":
        settings["on_text"] = lambda kind, text: pieces.append(text)
    try:
        trace, what = rig.pair.solve(**settings), KEPT
    except SpecReasonError as error:
        check_clear(str(error), rig)
        need(cell.phase not in AT_DRAFTS, f"the draft is not needed, but {error}")
        saved = Trace.from_json(error.trace.to_json())
        check_saved(saved, expected, at_least=STEPS if cell.phase in AT_ANSWERS else 1)
        pieces.clear()
        rig.calm(cell.repair)
        trace, what = rig.pair.solve(**settings, resume=saved), SAVED
    if cell.phase in AT_DRAFTS:
        check_steps(trace)
    else:
        need(decided(cell, trace) == decided(cell, expected), "it is another run")
    need("".join(pieces).strip() in ("", trace.answer), f"what was streamed is {pieces}")
    need(bool(pieces) == (cell.phase == "stream"), "nothing was streamed")
    return what


def decided(cell: Cell, trace: Trace):
    """What a fault at the base model's requests must not change. The number of windows depends on time."""
    return what_was_decided(trace) if cell.repair == "rewrite" else (what_was_written(trace), trace.answer)


def check_saved(saved: Trace, expected: Trace, at_least: int) -> None:
    """A failed run's trace has the finished steps, and what it has begun is right as well."""
    finished = [step.text for step in saved.steps if step.end]
    need(finished == [step.text for step in expected.steps][: len(finished)], "the trace has other steps")
    need(len(finished) >= at_least, "the trace misses steps")
    need(expected.reasoning.startswith(saved.reasoning), "the trace has something else than the run")


def check_steps(trace: Trace) -> None:
    """Whoever wrote what: the steps are whole, and the answer is that of these steps."""
    for number, step in enumerate(trace.steps, 1):
        begins = {side: f"{side} {number}" for side in ("draft", "base")}
        if step.author == "both":  # the number was corrected, or the base model went on with the step
            texts = [f"draft {number} so", "draft 7 so"]
        else:
            texts = [begins[step.author], f"{begins[step.author]} so"]
        need(step.text in texts, f"step {number} is {step.text!r} by {step.author}")
    need(len(trace.steps) == STEPS, f"there are {len(trace.steps)} steps")
    need(trace.reasoning == joined(trace.steps, "\n\n"), "the chain of thought has other steps")
    answer = str(chance(f"{trace.reasoning}\n\n").randrange(99))
    need(trace.answer == answer, f"the answer is {trace.answer!r}")


def serves(rig: Rig, cell: Cell) -> str:
    url = rig.url(cell.repair)
    status, said = ask(url)
    right = (200, rig.expected[cell.repair].answer)
    if (status, said) == right:
        return KEPT
    need(isinstance(said, dict), f"the client got {said!r}")
    need(said.keys() == {"message", "type", "param", "code"}, f"the client got {said}")
    check_clear(said["message"], rig)
    rig.calm(cell.repair)
    need(ask(url) == right, "the server does not live on")
    return FAILED


def ask(url: str) -> tuple[int, str | dict]:
    """The status, and the streamed answer or the error."""
    body = {"model": "two", "messages": [{"role": "user", "content": "q"}], "stream": True}
    response = urllib3.request("POST", f"{url}/v1/chat/completions", json=body, timeout=DEADLINE)
    if response.status != 200:
        return response.status, response.json()["error"]
    lines = [line.removeprefix("data: ") for line in response.data.decode().split("\n\n") if line]
    need(lines[-1:] == ["[DONE]"], "the stream has no end")
    events = [json.loads(line) for line in lines[:-1]]
    if errors := [event["error"] for event in events if "error" in event]:
        return response.status, errors[0]
    return response.status, "".join(event["choices"][0]["delta"].get("content", "") for event in events)


def evaluates(rig: Rig, cell: Cell) -> str:
    file = rig.folder / f"{time.monotonic_ns()}.jsonl"
    modes = {"rewrite": ("sequential",), "correct": ("correct",)}
    options = {"modes": modes[cell.repair], "problems": PROBLEMS[:2]}
    try:
        samples = evaluate(rig.pair, file, **options)
        need(len(samples) == 2, "a sample is missing")
    except SpecReasonError as error:  # between two samples
        check_clear(str(error), rig)
        samples = read_run(file)[1]
    errors, what = [sample.error for sample in samples if sample.error], KEPT
    if errors:
        for error in errors:
            check_clear(error, rig)
        rig.calm(cell.repair)
        samples, what = evaluate(rig.pair, file, **options, retry_failed=True), FAILED
    expected = rig.expected[cell.repair].reasoning
    need([sample.trace.reasoning for sample in samples] == [expected] * 2, "it is another run")
    return what


@sgl.function
def program(s):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += "first\n\n" + sgl.gen("second", max_tokens=8, stop=["\n\n"])


def runs_a_program(rig: Rig, cell: Cell) -> str:
    try:
        what, text = KEPT, program.run(backend=rig.pair.base)["second"]
    except SpecReasonError as error:
        check_clear(str(error), rig)
        rig.calm(cell.repair)
        what, text = FAILED, program.run(backend=rig.pair.base)["second"]
    need(text == "base 2", f"the program got {text!r}")
    return what


RUNS = {"serve": serves, "eval": evaluates, "program": runs_a_program}


def check_clear(message: str, rig: Rig) -> None:
    need("\n" not in message and len(message) < 400, f"the error is not a line: {message}")
    need(any(proxy.url in message for proxy in rig.proxies.values()), f"the error names no server: {message}")


def outcomes(cells: list[Cell] = CELLS) -> Iterator[tuple[Cell, str]]:
    """What becomes of each, as it comes; some at a time."""
    rigs: queue.SimpleQueue[Rig] = queue.SimpleQueue()

    def work(cell: Cell) -> str:
        rig = rigs.get()
        outcome = outcome_of(rig, cell)
        rigs.put(rig if outcome in FINE else Rig(tokenizer))  # what went wrong may not spoil other cells
        return outcome

    with (
        quick_retries(),
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


def table(outcomes: dict[Cell, str]) -> str:
    """As Markdown: a fault at one request / for good, and the repairs apart where they differ."""
    lines = ["| | " + " | ".join(PHASES) + " |", "| --- " * (1 + len(PHASES)) + "|"]
    for fault in FAULTS:
        entries = [" / ".join(dict.fromkeys(_entry(outcomes, fault, phase))) for phase in PHASES]
        lines.append(f"| {fault} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _entry(outcomes: dict[Cell, str], fault: str, phase: str) -> Iterator[str]:
    for forever in (False, True):
        words = {repair: outcomes[Cell(fault, phase, forever, repair)] for repair in PHASES[phase]}
        if len(set(words.values())) == 1:
            yield next(iter(words.values()))
        else:
            yield ", ".join(f"{repair}: {word}" for repair, word in words.items())
