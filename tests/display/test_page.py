"""The page in a headless browser, against a server that says what the test tells it to."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable

import msgspec
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from msgspec.structs import replace
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from specreason_sgl import Correct, Rewrite, SpecReasonConfig
from specreason_sgl.display.bars import bars
from specreason_sgl.display.page import as_html, page
from specreason_sgl.display.parts import SHADES, spans
from specreason_sgl.reasoning.trace import Call, Correction, ReadToken, Step
from specreason_sgl.reasoning.trace_files import read_traces
from specreason_sgl.verifiers import UtilityScore
from tests.support import browser
from tests.support.traces import QUESTION, make_alone, make_corrected, make_trace
from tests.support.waiting import wait_until

pytestmark = browser.needed
PAIR = "mini"


def chunk(delta=None, finish=None, **extension):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice], **extension}


def chunks_of(trace):
    """What the server sends for a trace."""
    yield chunk({"role": "assistant", "content": ""})
    delimiter = trace.config["delimiter"]
    for i, step in enumerate(trace.steps):
        text = (delimiter if i else "") + step.text
        if trace.mode == "specreason":
            data = msgspec.to_builtins(step)
            yield chunk({"reasoning_content": text}, specreason={"step": data})
        else:
            yield from (chunk({"reasoning_content": piece}) for piece in (text[:3], text[3:]))
    for word in trace.answer.split(" "):
        yield chunk({"content": word if trace.answer.startswith(word) else f" {word}"})
    yield chunk(finish="stop")
    yield {"object": "chat.completion.chunk", "choices": [], "usage": {"total_tokens": 3}}
    yield chunk(specreason={"trace": json.loads(trace.to_json())})


def sse(chunks, done=True):
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in chunks]
    return "".join(lines + ["data: [DONE]\n\n"] * done).encode()


class Server:
    """Answers with the trace that it was last told. Or `on_chat(body)` gives the bytes to send, one piece
    after the other; an event among them holds the rest back until it is set. A response is sent as it is."""

    def __init__(self):
        self.says(make_trace())
        self.key = None
        self.html = as_html([])  # without the example
        self.health = {"status": "ok"}
        self.asked: list[dict] = []
        self.aborted = threading.Event()
        self.gate = threading.Event()
        app = FastAPI()

        @app.get("/")
        def index():
            return HTMLResponse(self.html)

        @app.get("/health")
        def health():
            return JSONResponse(self.health, 200 if self.health["status"] == "ok" else 503)

        @app.get("/v1/models")
        def models(request: Request):
            if refusal := self._refusal(request):
                return refusal
            names = (PAIR, f"{PAIR}-base", f"{PAIR}-draft")
            return {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}

        @app.post("/v1/chat/completions")
        async def chat(request: Request):
            if refusal := self._refusal(request):
                return refusal
            body = await request.json()
            self.asked.append(body)
            pieces = self.on_chat(body)
            if isinstance(pieces, JSONResponse):
                return pieces
            return StreamingResponse(self._send(pieces), media_type="text/event-stream")

        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def says(self, trace):
        self.on_chat: Callable = lambda body: [sse(chunks_of(trace))]

    def says_in_parts(self, trace, first):
        """So many chunks, and the rest when the gate is open."""
        chunks = list(chunks_of(trace))
        self.on_chat = lambda body: [sse(chunks[:first], done=False), self.gate, sse(chunks[first:])]

    def _refusal(self, request):
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            error = {"message": "this is not the API key", "type": "invalid_request_error", "code": None}
            return JSONResponse({"error": error}, 401)
        return None

    async def _send(self, pieces):
        try:
            for piece in pieces:
                if isinstance(piece, bytes):
                    yield piece
                else:
                    await asyncio.to_thread(piece.wait, 30)
        except asyncio.CancelledError:
            self.aborted.set()
            raise

    def close(self):
        self.gate.set()
        self._server.should_exit = True
        self._thread.join(60)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.started(tmp_path_factory.mktemp("downloads")) as driver:
        yield driver


@pytest.fixture
def view(chromium, server):
    with browser.watched(chromium, server) as view:
        yield view


def test_a_question_is_asked_by_keyboard_and_its_steps_are_seen_in_order(view, server):
    view.open()
    while view.focused() != "question":
        view.press(Keys.TAB)
    view.press(*QUESTION, Keys.ENTER)
    view.wait_for("#status", "Done: the chain of thought has it")
    assert server.asked == [
        {
            "model": PAIR,
            "messages": [{"role": "user", "content": QUESTION}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "specreason": {"trace": True, "drafts": True},
        }
    ]
    assert view.text("#asked") == QUESTION
    assert view.texts("#steps .number") == ["1", "2", "3", "4", "5"]
    by = [[node.text for node in step.find_elements(By.CSS_SELECTOR, ".by")] for step in view.all(".step")]
    assert by == [["base"], ["draft"], ["base"], ["base"], ["draft"]]
    scores = [text.split("Prob")[0].split("9:")[0] for text in view.texts("#steps .score")]
    assert [text.split("score")[1].lstrip(": ")[0] for text in scores] == ["8", "4", "2", "9"]
    steps = make_trace().steps
    shown = view.texts("#steps .step > .text")
    assert shown == [step.text for step in steps]
    assert view.text("#answer") == make_trace().answer


def opened(view, server, *traces):
    server.html = as_html(traces)
    view.open(server.url)
    view.wait_for("#answer", traces[0].answer)


def test_a_correction_stands_in_its_step_with_the_drafted_token_struck_out(view, server):
    server.says(make_corrected())
    view.open().ask_and_wait()
    steps = make_corrected().steps
    shown = view.texts("#steps .step > .text")
    assert shown == ["".join(span.text for span in spans(step)) for step in steps]
    assert shown[1].endswith("That is 0 45 / 60 = <i>&amp; 0.75 hours.")
    assert view.texts(".text del") == [" 0", " <i>&amp;", " because", "⏎"]
    assert view.texts(".text ins") == [" 45", " 0", "⏎", " km/h"]
    titles = [node.get_attribute("title") for node in view.all(".text del")]
    assert titles[0] == "drafted; regret 4.21 nats"
    assert "line-through" in view.first(".text del").value_of_css_property("text-decoration")
    meta = [text.replace("draft", "draft ", 1) for text in view.texts(".step .meta")]
    assert [text.partition(" ")[2] for text in meta] == [
        "kept9 tokens",
        "2 corrected24 tokens",
        "1 corrected16 tokens",
        "1 corrected11 tokens",
        "then base: the draft runtime failed9 tokens",
    ]
    assert not view.seen("#reveal")


def test_formulas_are_set_with_their_corrections_in_them(view, server):
    text = "It is\n\\[ 4 + 12 + 60 = 76 \\]\nand \\(x\\), $5 and $6, \\(\\wrong\\)."
    correction = Correction(text.index("76"), "8", "7", 4.2, 3)
    step = replace(make_corrected().steps[1], text=text, corrections=(correction,), reading=())
    opened(view, server, make_corrected(steps=(step,)))
    assert view.all(".step .math .struck")[0].text == "8"
    assert view.all(".step .math .fixed")[0].text == "7"
    assert len(view.all(".step .math")) == 2  # KaTeX refuses the last; sums of money are none
    assert view.text(".step > .text") == text
    assert view.text("#plain") == "80"


def test_a_draft_streams_until_it_is_judged(view, server):
    steps = make_corrected().steps
    begun = msgspec.to_builtins(replace(steps[1], end=None))
    first, *others = chunks_of(make_corrected())
    news = [{"draft": "We div"}, {"draft": "We divide", "open_step": None}]
    late = [{"draft": " so", "open_step": begun}]
    rewritten = {"draft": "", "open_step": msgspec.to_builtins(Step("So 80", "base", None, 0))}
    server.on_chat = lambda body: [
        sse([first, *(chunk(specreason=piece) for piece in news)], done=False), server.gate,
        sse([others[0], *(chunk(specreason=piece) for piece in late)], done=False), second,
        sse([chunk(specreason=rewritten)], done=False), third, sse(others[1:]),
    ]  # fmt: skip
    second, third = threading.Event(), threading.Event()
    view.open().ask()
    view.wait_for(".live .ahead", "We divide")
    server.gate.set()
    view.wait_for(".live .ahead", " so")
    assert view.texts(".live del") == [" 0", " <i>&amp;"]
    assert (view.text(".live .number"), view.text(".live .by")) == ("2", "draft")
    second.set()
    view.wait_for(".live .text", "So 80")
    assert view.text(".live .by") == "base"
    third.set()
    view.wait_for("#status", "Done")
    assert view.all(".live") == []


def test_two_saved_runs_are_raced_at_their_recorded_pace(view, tmp_path):
    def lanes_at(seconds):
        view.driver.execute_script(
            "const clock = document.getElementById('clock'); clock.value = arguments[0];"
            "clock.dispatchEvent(new Event('input'))",
            seconds,
        )
        return view.texts(".lane .flow"), view.texts(".lane .end b")

    file = tmp_path / "page.html"
    file.write_text(as_html([make_corrected(), make_alone()]), encoding="utf-8")
    view.open(file.as_uri())
    assert view.text("#headline") == ("2.1 times faster than the base model alone; 4 tokens of 69 corrected.")
    (ours, alone), ends = lanes_at(1.0)
    assert ours.startswith("We divide the distance by the time.")
    assert " 0" not in ours
    assert alone == "The"
    assert ends == []
    (ours, _), _ = lanes_at(1.5)
    assert "That is 0" in ours
    assert "45 /" not in ours
    (ours, _), ends = lanes_at(8)
    assert "That is 0 45 / 60" in ours
    assert ends == ["80"]
    (ours, _), _ = lanes_at(0.2)
    assert "because" not in ours
    view.driver.get(f"{file.as_uri()}#run=2&race=20")
    view.driver.refresh()
    wait_until(lambda: view.texts(".lane .end b") == ["80", "80 km/h"])
    assert view.text("#play") == "Replay"


def test_a_link_holds_the_whole_trace(view, server):
    view.open().ask_and_wait()
    view.first("#link").click()
    wait_until(lambda: "#trace=" in view.driver.current_url)
    link = view.driver.current_url
    view.driver.get("about:blank")
    view.open(link)
    view.wait_for("#answer", make_trace().answer)
    assert len(view.all(".step")) == 5
    view.driver.get("about:blank")
    view.open(link[:-40])
    view.wait_for("#error", "The link is damaged")


def test_the_served_page_begins_with_an_example_that_makes_way(view, server):
    server.html = page()
    view.open()
    assert view.text("#plain") == "76"
    assert view.text("#agreement") == "✓ the base model alone answers the same"
    assert view.text("#headline") == "1.9 times faster than the base model alone; 6 tokens of 239 corrected."
    assert view.seen("#note")
    view.first("#question").clear()
    view.ask()
    view.wait_for("#answer", make_trace().answer)
    view.wait_for("#status", "Done")
    assert not view.seen("#note")
    assert not view.seen("#chooser")


def test_another_delta_recolours_what_was_judged(view, server):
    def at(delta):
        script = "const slider = document.getElementById('what-if'); slider.value = arguments[0];"
        view.driver.execute_script(script + "slider.dispatchEvent(new Event('input'))", delta)
        return len(view.all(".over")), len(view.all("del.under")), view.text("#what-if-says")

    lax = Correct(delta=3.0, numeric_delta=None)
    opened(view, server, make_corrected(config=SpecReasonConfig(repair=lax).as_dict()))
    view.first("#regret").click()
    assert view.text("#delta-said") == "3.0 nats"
    assert at(1)[:2] == (4, 0)
    over, under, says = at(6)
    assert (over, under) == (0, 3)
    assert says.startswith("1 correction would stay, 3 would not be made, 0 more tokens would be corrected")
    opened(view, server, make_corrected())
    assert at(1)[:2] == (5, 0)  # one is a number, whose delta stays 0


def test_the_timeline_zooms_where_the_pointer_is_and_is_saved(view, server):
    opened(view, server, make_corrected())
    width = "return document.querySelector('#timeline svg').getBoundingClientRect().width"
    before = view.driver.execute_script(width)
    wheel = """const event = new WheelEvent("wheel", {deltaY: -400, ctrlKey: arguments[0], cancelable: true});
        return document.getElementById("timeline").dispatchEvent(event)"""
    assert view.driver.execute_script(wheel, False)  # the page scrolls on
    assert view.driver.execute_script(width) == before
    assert not view.driver.execute_script(wheel, True)
    assert view.driver.execute_script(width) > 2 * before
    view.first("#picture").click()
    assert view.downloaded("timeline.png").read_bytes().startswith(b"\x89PNG")


def test_the_steps_are_said_with_their_corrections(view, server):
    server.says_in_parts(make_corrected(), 3)
    view.open().ask()
    view.wait_for("#status", "Step 2: draft, 2 corrected")
    wait_until(lambda: view.texts("#totals dt")[:2] == ["steps kept", "corrected"])
    assert view.seen("#regret")
    server.gate.set()
    view.wait_for("#status", "Done: the token budget is used up")


def test_what_is_selected_of_a_step_is_its_text(view, server):
    opened(view, server, make_corrected())
    script = """getSelection().selectAllChildren(arguments[0]);
        const event = new ClipboardEvent("copy", {clipboardData: new DataTransfer(), bubbles: true});
        document.dispatchEvent(event);
        return event.clipboardData.getData("text/plain") || getSelection().toString()"""
    for step, text in zip(view.all(".step > .text"), make_corrected().steps, strict=True):
        assert view.driver.execute_script(script, step) == text.text


def test_regrets_are_shaded_on_demand_by_keyboard(view, server):
    def shaded():
        script = """return [...document.querySelectorAll(".text [class^=regret]")]
            .filter((node) => getComputedStyle(node).backgroundColor !== "rgba(0, 0, 0, 0)")
            .map((node) => [node.textContent, node.classList[0]])"""
        return view.driver.execute_script(script)

    opened(view, server, make_corrected())
    assert shaded() == []
    assert view.first("#regret").get_attribute("aria-pressed") == "false"
    assert not view.seen("#shades")
    view.first("#regret").send_keys(Keys.ENTER)
    parts = [span for step in make_corrected().steps for span in spans(step) if span.shade]
    assert shaded() == [[span.text, f"regret-{span.shade}"] for span in parts]
    titles = [node.get_attribute("title") for node in view.all(".text [class^=regret]")]
    assert titles == [span.detail for span in parts]
    assert view.first("#regret").get_attribute("aria-pressed") == "true"
    assert view.texts("#shades span") == list(SHADES)
    assert view.seen("#shades")
    view.first("#regret").send_keys(Keys.ENTER)
    assert shaded() == []
    assert not view.seen("#shades")


def test_where_nothing_was_read_there_is_nothing_to_shade(view, server):
    opened(view, server, make_trace(), make_corrected())
    assert not view.seen("#regret")
    view.first("#runs").send_keys("2")
    wait_until(lambda: view.seen("#regret"))
    view.first("#regret").click()
    view.first("#runs").send_keys("1")
    wait_until(lambda: not view.seen("#regret"))
    assert not view.seen("#shades")


def test_a_regret_without_bound_is_shown(view, server):
    step = make_corrected().steps[1]
    infinite = [replace(token, regret=float("inf")) if token.regret else token for token in step.reading]
    infinite.append(ReadToken(-3, "\n\n🚆", -9.0, "", float("inf")))  # it begins in the step before
    correction = replace(step.corrections[0], regret=float("inf"))
    changed = replace(step, reading=tuple(infinite), corrections=(correction,))
    opened(view, server, make_corrected(steps=(changed,)))
    assert {node.get_attribute("class") for node in view.all(".text [class^=regret]")} == {"regret-4"}
    assert view.first(".text del").get_attribute("title") == "drafted; regret Infinity nats"


def test_steps_and_the_answer_are_shown_as_they_come(view, server):
    first, second = threading.Event(), threading.Event()
    chunks = list(chunks_of(make_trace()))
    server.on_chat = lambda body: [
        sse(chunks[:3], done=False), first, sse(chunks[3:8], done=False), second, sse(chunks[8:]),
    ]  # fmt: skip
    view.open().ask()
    wait_until(lambda: len(view.all(".step")) == 2)
    assert view.text("#status") == "Step 2: draft, kept, score 8"
    assert len(view.all("#timeline .bar")) == 3
    assert view.first("#stop").is_displayed()
    assert not view.first("#go").is_displayed()
    assert not view.first("#save").is_enabled()
    first.set()
    wait_until(lambda: view.text("#answer") == "The train")
    assert view.text("#status") == "Answering"
    second.set()
    view.wait_for("#status", "Done")
    assert view.text("#answer") == make_trace().answer
    assert view.first("#go").is_displayed()


SMALL_CHUNKS = """
const real = window.fetch;
window.fetch = async (...options) => {
  const response = await real(...options);
  const cut = new TransformStream({transform(chunk, out) {
    for (let i = 0; i < chunk.length; i++) out.enqueue(chunk.slice(i, i + 1));
  }});
  return new Response(response.body.pipeThrough(cut), response);
};
"""


def test_a_stream_cut_anywhere_is_read_all_the_same(view, server):
    server.on_chat = lambda body: [sse(chunks_of(make_trace())).replace(b"\n", b"\r\n")]
    view.open()
    view.driver.execute_script(SMALL_CHUNKS)
    view.ask_and_wait()
    assert view.texts(".step > .text") == [step.text for step in make_trace().steps]
    assert view.text("#answer") == make_trace().answer


def test_rejected_drafts_are_shown_on_demand(view):
    view.open().ask_and_wait()
    assert not view.seen("del")
    view.first(".step summary").click()
    assert [node.is_displayed() for node in view.all("del")] == [True, False]
    view.first("#reveal").send_keys(Keys.SPACE)
    wait_until(lambda: all(node.is_displayed() for node in view.all("del")))
    assert view.texts("del") == [step.rejected for step in make_trace().steps if step.rejected]
    assert "line-through" in view.first("del").value_of_css_property("text-decoration")


def test_the_timeline_has_a_bar_for_each_request(view):
    view.open().ask_and_wait()
    trace = make_trace()
    titles = view.texts("#timeline .bar title")
    assert len(titles) == len(trace.calls) + len(trace.wasted)
    assert sum(title.endswith("cut off or not needed") for title in titles) == len(trace.wasted)
    assert sum(title.endswith("rejected") for title in titles) == 2
    assert len(view.all("#timeline .bar.lost")) == 5
    assert view.texts("#timeline .name") == ["draft", "base"]
    assert view.texts("#legend li") == [
        "draft",
        "score",
        "rewrite",
        "answer",
        "hatched: cut off or not needed",
    ]
    assert "8 s" in view.texts("#timeline text")
    view.first("#requests summary").click()
    wait_until(lambda: len(view.all("#requests tr")) == len(titles) + 1)


def test_readings_are_in_the_timeline(view, server):
    opened(view, server, make_corrected())
    assert view.texts("#legend li") == [
        "draft",
        "read",
        "rewrite",
        "answer",
        "hatched: cut off or not needed",
    ]
    fills = {node.get_attribute("fill") for node in view.all("#timeline .bar.read:not(.lost) rect")}
    assert fills == {"var(--base-light)"}


@pytest.mark.parametrize("make", [make_trace, make_corrected])
def test_a_draft_that_was_cut_is_hatched_beyond_its_correction(view, server, make):
    trace = make()
    opened(view, server, trace)
    requests = view.driver.execute_script(
        "return requestsOf(shown).map((r) => [r.start, r.side, r.step ?? 0, r.kept])"
    )
    expected = [[bar.call.start, bar.call.side, bar.step, pytest.approx(bar.kept)] for bar in bars(trace)]
    assert sorted(requests) == sorted(expected)
    parts = [part for bar in bars(trace) for part in bar.parts]
    assert len(view.all("#timeline .bar")) == len(parts)
    assert len(view.all("#timeline .bar.lost")) == sum(not part.used for part in parts)
    titles = view.texts("#timeline .bar.lost title")
    assert any("14 of 22 tokens kept" in title for title in titles) == (make is make_corrected)


@pytest.mark.parametrize("make", [make_trace, make_corrected])
def test_totals_are_the_trace_s(view, server, make):
    trace = make()
    opened(view, server, trace)
    names, values = view.texts("#totals dt"), view.texts("#totals dd")
    shown = dict(zip(names, values, strict=True))
    everything = [*trace.calls, *trace.wasted]
    by = {side: sum(c.completion_tokens for c in everything if c.side == side) for side in ("draft", "base")}
    counts = {"corrected": "3 4 tokens"} if trace.corrections else {"rewritten": str(trace.rewritten)}
    assert shown == {
        "steps kept": f"{trace.kept} of 5",
        **counts,
        "seconds": "9.8 11.5 tok/s" if trace.rewritten else "6.9 11.9 tok/s",
        "draft tokens": str(by["draft"]),
        "base tokens": str(by["base"]),
        "thrown away": f"{trace.wasted_tokens} tokens",
    }


def test_what_the_base_model_wrote_after_a_cut_draft_is_not_thrown_away(view, server):
    step = make_corrected().steps[2]
    calls = (*step.calls, Call("base", "rewrite", 150, 120, 3, 3.0, 0.2))
    continued = replace(step, tokens=18, draft_tokens=15, calls=calls)
    trace = make_corrected(steps=(*make_corrected().steps[:2], continued))
    opened(view, server, trace)
    shown = dict(zip(view.texts("#totals dt"), view.texts("#totals dd"), strict=True))
    kept = sum(step.draft_tokens for step in trace.steps)
    drafted = sum(call.completion_tokens for call in (*trace.calls, *trace.wasted) if call.purpose == "draft")
    assert shown["thrown away"] == f"{drafted - kept} tokens" == f"{trace.wasted_tokens} tokens"


def test_only_settings_that_were_changed_are_sent(view, server):
    view.open()
    view.first("#repair").send_keys("rewrite")
    for name, value in (
        ("threshold", "5.5"),
        ("lookahead", "0"),
        ("token-budget", "300"),
        ("temperature", "0"),
    ):
        view.first(f"#{name}").send_keys(value)
    view.ask_and_wait()
    assert server.asked[-1]["temperature"] == 0
    extension = {
        "trace": True,
        "drafts": True,
        "repair": "rewrite",
        "threshold": 5.5,
        "lookahead": 0,
        "token_budget": 300,
    }
    assert server.asked[-1]["specreason"] == extension
    server.says(make_alone())
    view.first("#model").send_keys(f"{PAIR}-base")
    for name in ("repair", "delta", "threshold", "lookahead"):
        assert not view.first(f"#{name}").is_enabled()
    view.ask()
    wait_until(lambda: len(server.asked) == 2)
    assert server.asked[-1]["model"] == f"{PAIR}-base"
    assert server.asked[-1]["specreason"] == {"trace": True, "token_budget": 300}
    view.wait_for("#status", "Done: the thinking ended")


def test_only_the_number_of_the_repair_in_use_is_shown_and_sent(view, server):
    def shown():
        return [name for name in ("delta", "threshold") if view.seen(f"#{name}")]

    view.open()
    assert shown() == ["delta"]
    view.first("#delta").send_keys("1")
    view.ask_and_wait()  # with the name of the repair: without it, a server may take another
    assert server.asked[-1]["specreason"] == {"trace": True, "drafts": True, "repair": "correct", "delta": 1}
    view.first("#repair").send_keys("rewrite")
    assert shown() == ["threshold"]
    view.first("#threshold").send_keys("5")
    for number, repair in (
        (2, {"repair": "rewrite", "threshold": 5}),
        (3, {"repair": "correct", "delta": 1}),
    ):
        view.first("#repair").send_keys(repair["repair"])
        view.ask(" again")
        wait_until(lambda: len(server.asked) == number)  # noqa: B023
        assert server.asked[-1]["specreason"] == {"trace": True, "drafts": True, **repair}
        view.wait_for("#status", "Done")
    assert shown() == ["delta"]


JUDGED = SpecReasonConfig(repair=Rewrite(), verifier=UtilityScore(), threshold=7)


@pytest.mark.parametrize(
    ("trace", "field", "default"),
    [(make_corrected(), "delta", "3"), (make_trace(config=JUDGED.as_dict()), "threshold", "7")],
)
def test_the_first_run_tells_the_servers_repair_and_its_number(view, server, trace, field, default):
    server.says(trace)
    view.open()
    assert view.first("#repair").get_attribute("value") == ""
    view.ask_and_wait()
    assert [name for name in ("delta", "threshold") if view.seen(f"#{name}")] == [field]
    assert view.first(f"#{field}").get_attribute("placeholder") == default
    assert view.first("#lookahead").get_attribute("placeholder") == "1"
    view.first(f"#{field}").send_keys("4")
    view.ask(" again")
    wait_until(lambda: len(server.asked) == 2)
    repair = "correct" if field == "delta" else "rewrite"
    assert server.asked[-1]["specreason"] == {"trace": True, "drafts": True, "repair": repair, field: 4}
    view.wait_for("#status", "Done")


def test_a_model_alone_is_shown_while_it_writes(view, server):
    server.says_in_parts(make_alone(), 5)
    view.open()
    view.first("#model").send_keys(f"{PAIR}-base")
    view.ask()
    begun = "\n\n".join(make_alone().reasoning.split("\n\n")[:2])
    wait_until(lambda: view.text("#steps") == begun)
    server.gate.set()
    view.wait_for("#status", "Done")
    assert len(view.all(".step.base")) == 3
    assert len(view.all("#timeline .bar")) == 2


def test_the_base_model_alone_is_run_for_comparison(view, server):
    view.open()
    view.first("#temperature").send_keys("0")
    view.first("#repair").send_keys("rewrite")
    view.first("#threshold").send_keys("5")
    view.ask_and_wait()
    server.says(make_alone())
    wait_until(lambda: view.seen("#go"))
    view.first("#alone").click()
    view.wait_for("#headline", "1.5 times faster")
    asked = server.asked[-1]
    assert (asked["model"], asked["temperature"], asked["specreason"]) == (f"{PAIR}-base", 0, {"trace": True})
    assert asked["messages"] == [{"role": "user", "content": QUESTION}]
    assert view.texts("#race b") == ["9.75 s", "14.7 s"]
    assert not view.seen("#alone")
    assert view.text("#answer") == make_trace().answer
    view.first("#runs").send_keys("2")
    view.wait_for("#answer", "80 km/h")
    assert view.texts("#race b") == ["9.75 s", "14.7 s"]


BEGUN = list(chunks_of(make_trace()))[:3]


def refusal(status, message):
    return lambda body: JSONResponse({"error": {"message": message, "type": "t", "code": None}}, status)


@pytest.mark.parametrize(
    ("play", "says", "steps"),
    [
        (refusal(400, "the threshold is <b>wrong</b>"), "the threshold is <b>wrong</b>", 0),
        (lambda body: JSONResponse("what?", 502), "The server answered with status 502.", 0),
        (lambda body: [sse([*BEGUN, {"error": {"message": "too late"}}])], "too late", 2),
        (lambda body: [sse(BEGUN, done=False)], "The connection to the server broke before the end.", 2),
    ],
)
def test_an_error_is_said_and_the_steps_that_are_there_stay(view, server, play, says, steps):
    view.failures_meant = True
    server.on_chat = play
    view.open().ask()
    view.wait_for("#error", says)
    assert view.text("#error") == says
    assert view.first("#error").get_attribute("role") == "alert"
    view.wait_for("#status", "Failed.")
    assert len(view.all(".step")) == steps
    wait_until(lambda: view.first("#go").is_displayed())
    server.says(make_trace())
    view.press(Keys.CONTROL, Keys.ENTER)
    view.wait_for("#status", "Done")
    assert not view.seen("#error")


def test_a_server_that_is_gone_is_told(view, server):
    view.failures_meant = True
    view.open().ask_and_wait()
    server.close()
    view.ask(" again")
    view.wait_for("#error", "The server cannot be reached")
    view.first("#runs").send_keys("1")
    view.wait_for("#answer", make_trace().answer)


def test_a_page_that_comes_before_the_models_says_so(view, server):
    view.failures_meant = True
    server.health = {"status": "starting", "doing": "waiting for the base server, 3 s"}
    view.open()
    view.wait_for("#starting", "The models are starting: waiting for the base server, 3 s")
    assert view.seen("#starting")
    server.health = {"status": "ok"}
    wait_until(lambda: not view.seen("#starting"))


def test_a_server_with_a_key_asks_for_it(view, server):
    view.failures_meant = True
    server.key = "secret"
    view.open()
    wait_until(lambda: view.seen("#key"))
    view.ask()
    view.wait_for("#error", "this is not the API key")
    wait_until(lambda: view.focused() == "key")
    view.press("secret", Keys.ENTER)
    view.wait_for("#status", "Done")
    assert view.driver.execute_script("return localStorage.length + sessionStorage.length") == 0
    assert "secret" not in view.driver.current_url


def test_the_base_model_alone_can_be_stopped(view, server):
    view.open().ask_and_wait()
    server.on_chat = lambda body: [server.gate]
    wait_until(lambda: view.text("#alone") == "Run the base model alone")
    view.first("#alone").click()
    wait_until(lambda: view.text("#alone") == "Stop")
    assert view.text("#alone-status") == "Running"
    view.first("#alone").click()
    view.wait_for("#alone-status", "Stopped after")
    assert server.aborted.wait(60)
    assert view.text("#race") == ""
    assert view.text("#status") == "Done: the chain of thought has it"
    server.says(make_alone())
    wait_until(lambda: view.text("#alone") == "Run the base model alone")
    view.first("#alone").click()
    view.wait_for("#headline", "1.5 times faster")


@pytest.mark.parametrize("by", ["button", "keyboard"])
def test_stop_aborts_the_request(view, server, by):
    server.says_in_parts(make_trace(), 3)
    view.open().ask()
    wait_until(lambda: len(view.all(".step")) == 2)
    if by == "button":
        view.first("#stop").click()
    else:
        view.press(Keys.ESCAPE)
    view.wait_for("#status", "Stopped after")
    assert server.aborted.wait(60)
    assert not view.seen("#error")
    assert len(view.all(".step")) == 2
    assert view.first("#go").is_displayed()


def test_the_focus_is_not_lost_with_a_button(view, server):
    server.on_chat = lambda body: [server.gate, sse(chunks_of(make_trace()))]
    view.open()
    view.first("#question").send_keys(QUESTION)
    view.first("#go").send_keys(Keys.ENTER)
    wait_until(lambda: view.focused() == "stop")
    view.press(Keys.ENTER)
    wait_until(lambda: view.focused() == "go")


def test_shift_and_enter_begin_a_new_line(view, server):
    view.open()
    view.first("#question").send_keys("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two")
    assert view.first("#question").get_attribute("value") == "one\ntwo"
    assert server.asked == []


def test_a_saved_trace_is_opened_and_saved_again(view, tmp_path):
    file = tmp_path / "trace.json"
    file.write_text(make_corrected().to_json(), encoding="utf-8")
    view.open()
    view.first("#file").send_keys(str(file))
    view.wait_for("#answer", make_corrected().answer)
    assert len(view.all(".step")) == 5
    assert not view.seen("#chooser")
    assert not view.seen("#compare")
    view.first("#save").click()
    assert read_traces(view.downloaded("trace-specreason.json")) == [make_corrected()]


def test_several_traces_in_a_file_can_be_chosen_from(view, tmp_path):
    file = tmp_path / "traces.jsonl"
    other = make_trace(question="Another \u2028 one?", answer="other")
    file.write_text("\n".join(run.to_json() for run in (make_trace(), make_alone(), other)), encoding="utf-8")
    view.open()
    view.first("#file").send_keys(str(file))
    wait_until(lambda: len(view.all("#runs option")) == 3)
    view.wait_for("#headline", "1.5 times faster")
    view.first("#runs").send_keys("3")
    view.wait_for("#answer", "other")
    assert not view.seen("#compare")


def test_a_trace_is_opened_by_dropping_it(view):
    view.open()
    view.driver.execute_script(
        """const data = new DataTransfer();
        data.items.add(new File([arguments[0]], "dropped.json"));
        const options = {dataTransfer: data, bubbles: true, cancelable: true};
        for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, options));
        """,
        make_trace().to_json(),
    )
    view.wait_for("#answer", make_trace().answer)
    assert not view.all("body.drop")


def broken(**fields):
    trace = json.loads(make_corrected().to_json())
    trace["steps"][1].update(fields)
    return json.dumps(trace)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "trace.json is empty: it has no trace."),
        ("hello", "trace.json is not a trace of specreason-sgl."),
        ("null", "trace.json is not a trace of specreason-sgl."),
        ("[1, 2]", "trace.json is not a trace of specreason-sgl."),
        (make_trace(version=2).to_json(), "trace.json has version 2; this page reads version 3."),
        (
            f"{make_trace().to_json()}\n{make_trace(version=2).to_json()}",
            "trace.json, line 2, has version 2; this page reads version 3.",
        ),
        (make_trace(seconds="1").to_json(), "trace.json is not a trace of specreason-sgl."),
        (make_trace(steps=({"text": "a"},)).to_json(), "trace.json is not a trace of specreason-sgl."),
        (broken(corrections=None), "trace.json is not a trace of specreason-sgl."),
        (
            broken(corrections=[{"at": -1, "drafted": "", "text": ""}]),
            "trace.json is not a trace of specreason-sgl.",
        ),
        (broken(reading=[[0, "a"]]), "trace.json is not a trace of specreason-sgl."),
        (broken(undrafted="why"), "trace.json is not a trace of specreason-sgl."),
        (make_trace().to_json() + "\n{}", "trace.json, line 2, is not a trace of specreason-sgl."),
    ],
)
def test_a_file_that_is_no_trace_is_refused(view, tmp_path, content, says):
    file = tmp_path / "trace.json"
    file.write_text(content)
    view.open()
    view.first("#file").send_keys(str(file))
    view.wait_for("#error", says)
    assert view.text("#error") == says
    assert not view.seen("#run")


EVIL = "</script><img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


def evil_trace():
    steps = [replace(step, text=EVIL) for step in make_trace().steps]
    steps[3] = replace(steps[3], rejected=EVIL, probabilities={EVIL: 0.5, "<b>": 0.5})
    reading = (ReadToken(9, EVIL, -5.0, EVIL, 4.0),)
    corrections = (Correction(0, EVIL, EVIL[:9], 5.0, 0),)
    steps[4] = replace(
        steps[4],
        author="both",
        corrections=corrections,
        reading=reading,
        undrafted="failure",
        undrafted_detail=EVIL,
    )
    return make_trace(
        question=EVIL, steps=tuple(steps), answer=EVIL, draft_model=EVIL, config={"delimiter": EVIL}
    )


@pytest.mark.parametrize("way", ["asked", "embedded"])
def test_markup_in_a_model_s_text_stays_text(view, server, way):
    if way == "asked":
        server.says(evil_trace())
        view.open().ask_and_wait()
    else:
        server.html = as_html([evil_trace(), make_trace()])
        view.open(server.url)
    view.wait_for("#answer", EVIL)
    assert view.texts("#steps .step > .text")[0] == EVIL
    assert view.texts("#steps .step > .text")[4] == EVIL + EVIL
    assert view.text(".text .regret-3") == EVIL[9:]
    assert view.text("#asked") == EVIL
    assert view.all("img") == []
    assert view.driver.title == "specreason"


def test_a_page_with_traces_needs_no_server(view, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(as_html([make_trace(), make_alone()]), encoding="utf-8")
    view.open(file.as_uri())
    view.wait_for("#answer", make_trace().answer)
    assert not view.seen("#ask")
    assert not view.seen("#alone")
    assert view.text("#headline").startswith(
        "1.5 times faster than the base model alone; 2 steps of 5 rewritten"
    )
    assert view.seen("#chooser")
    asked = view.requests()
    assert file.as_uri() in asked
    assert [url for url in asked if url.startswith("http")] == []


def test_a_phone_scrolls_in_one_direction_only(view, server):
    long = "x" * 400
    steps = [replace(step, text=step.text + long) for step in make_trace().steps]
    corrected = replace(make_corrected().steps[2].corrections[0], drafted=long)
    steps += [replace(make_corrected().steps[2], corrections=(corrected,))]
    server.says(make_trace(steps=tuple(steps), answer=long))
    view.emulate(360)
    view.open().ask_and_wait()
    server.says(make_alone(answer=long))
    wait_until(lambda: view.seen("#go"))
    view.first("#alone").click()
    view.wait_for("#race", "146 tokens")
    view.first("#regret").click()
    for node in view.all("details"):
        view.driver.execute_script("arguments[0].open = true", node)
    wait_until(lambda: len(view.all("#requests tr")) > 1)
    wider = """return [...document.querySelectorAll("main *:not(.scroll *, #timeline *, option)")]
        .filter((node) => node.getBoundingClientRect().right > innerWidth + 0.5)
        .map((node) => node.outerHTML)"""
    assert view.driver.execute_script(wider) == []
    assert view.driver.execute_script("return document.documentElement.scrollWidth") <= 360


CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgb = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
};
const light = (colour) => [...rgb(colour)].slice(0, 3).map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((total, c, i) => total + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const rect = node.matches(".bar") && node.querySelector("rect");
    const colour = rect ? getComputedStyle(rect).fill : getComputedStyle(node).backgroundColor;
    if (rgb(colour)[3] === 255) return colour;
  }
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const contrasts = [];
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  const text = walker.currentNode.data.trim();
  if (!text || !node.checkVisibility() || node.closest("script, title, option")) continue;
  const style = getComputedStyle(node);
  const both = [light(node.closest("svg") ? style.fill : style.color), light(behind(node))];
  contrasts.push([(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), text]);
}
return contrasts;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(view, server, scheme):
    steps = (*make_trace().steps, *make_corrected().steps)
    server.says(make_trace(steps=steps))
    view.emulate(scheme=scheme)
    view.open()
    contrasts = view.driver.execute_script(CONTRASTS)
    view.ask_and_wait()
    view.first("#regret").click()
    view.driver.execute_script("for (const node of document.querySelectorAll('details')) node.open = true")
    wait_until(lambda: len(view.all("#requests tr")) > 1)
    contrasts += view.driver.execute_script(CONTRASTS)
    assert len(contrasts) > 80
    assert [contrast for contrast in contrasts if contrast[0] < 4.5] == []


def test_everything_that_takes_input_has_a_name(view, server):
    server.says(make_corrected())
    view.open().ask_and_wait()
    controls = view.all("input, select, textarea, button, summary")
    controls = [control for control in controls if control.is_displayed()]
    assert len(controls) > 10
    assert [control.get_attribute("outerHTML") for control in controls if not control.accessible_name] == []


def test_the_tab_key_leads_through_the_whole_page_and_out(view, server):
    steps = (*make_trace().steps, *make_corrected().steps)
    server.says(make_trace(steps=steps))
    view.open().ask_and_wait()
    view.first("#question").click()
    ids = []
    for _ in range(40):
        view.press(Keys.TAB)
        ids.append(view.focused())
        if ids[-1] == "save":
            break
    stops = ["go", "model", "alone", "reveal", "regret", "timeline", "save"]
    assert [stop for stop in ids if stop in stops] == stops
