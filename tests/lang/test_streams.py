"""Streams: what they show as it comes, and how they continue where a server broke off."""

from threading import get_ident

import pytest
import sglang as sgl

from specreason_sgl import Endpoint
from specreason_sgl.errors import ServerUnreachable
from specreason_sgl.lang.fork import fork_to
from tests.support.asking import ask
from tests.support.scripted import answer, by_character, part_of, streamed
from tests.support.waiting import ended


def test_streaming_gives_the_pieces(scripted, endpoint):
    pieces = ("Hel", "Hello ", "Hello é")
    scripted.on_generate = lambda payload: streamed(*map(answer, pieces))
    state = ask.run(backend=endpoint, stream=True)
    assert "".join(state.text_iter("a")) == "Hello é"
    assert scripted.generated()[0]["stream"] is True


def test_a_program_is_told_of_each_piece_in_its_own_thread(scripted, endpoint):
    told = []

    @sgl.function
    def watched(s):
        fork = fork_to(s, endpoint, stream=True, use_thread=False)
        endpoint.stream_every(
            fork, 2, lambda text, meta: told.append((text, meta["completion_tokens"], get_ident()))
        )
        fork += sgl.gen("a", max_tokens=4)

    texts = ("Hel", "Hello ", "Hello é")
    scripted.on_generate = lambda payload: streamed(
        *(answer(text, completion_tokens=len(text)) for text in texts)
    )
    watched.run(backend=endpoint, use_thread=False)
    assert told == [("Hel", 3, get_ident()), ("lo ", 6, get_ident()), ("é", 7, get_ident())]
    assert scripted.generated()[0]["sampling_params"]["stream_interval"] == 2


def test_a_stream_goes_on_where_it_broke_off(scripted, quick_retries):
    def begun(*texts):
        return [part_of(answer(text, completion_tokens=n), text) for n, text in enumerate(texts, 1)]

    sends = iter(
        [streamed(*begun("He", "Hel"), done=False), streamed(done=False), streamed(*begun("l", "lo"))]
    )
    scripted.on_generate = lambda payload: next(sends)
    with Endpoint(scripted.url, timeout=20) as endpoint:
        state = ask.run(backend=endpoint, stream=True)
        assert "".join(state.text_iter("a")) == state["a"] == "Hello"
        assert state.get_meta_info("a")["completion_tokens"] == 4
    first, second, third = scripted.generated()
    texts = [endpoint.tokenizer.decode(payload["input_ids"]) for payload in (first, third)]
    assert texts[1] == texts[0] + "Hel"
    assert [payload["sampling_params"]["max_new_tokens"] for payload in (first, second, third)] == [4, 2, 2]


def test_a_stream_that_says_that_the_server_is_busy_is_asked_for_again(scripted, quick_retries):
    reason = {"type": "abort", "message": "The request queue is full.", "status_code": 503, "err_type": None}
    scripted.on_generate = lambda payload: (
        streamed(answer("ok")) if len(scripted.generated()) > 4 else streamed(answer("", reason))
    )
    with Endpoint(scripted.url, timeout=20) as endpoint:
        assert ended(ask.run(backend=endpoint, stream=True))["a"] == "ok"
    assert len(scripted.generated()) == 5


def test_a_stream_that_breaks_off_after_its_last_event_is_whole(scripted, endpoint):
    whole = answer("Hello", completion_tokens=2)
    scripted.on_generate = lambda payload: streamed(part_of(whole, "Hel"), whole, done=False)
    assert ended(ask.run(backend=endpoint, stream=True))["a"] == "Hello"
    assert len(scripted.generated()) == 1


def test_a_constrained_stream_that_breaks_off_is_not_gone_on_with(scripted, endpoint):
    scripted.on_generate = lambda payload: streamed(part_of(answer("123"), "12"), done=False)
    state = ended(ask.run(backend=endpoint, stream=True, regex=r"\d{3}"))
    with pytest.raises(ServerUnreachable, match="broke off"):
        state["a"]
    assert len(scripted.generated()) == 1


def test_a_stream_that_breaks_off_is_an_error(scripted, endpoint):
    sent = [part_of(answer("Hel"), "Hel")]
    scripted.on_generate = lambda payload: streamed(*(sent.pop() for _ in sent[:1]), done=False)
    state = ask.run(backend=endpoint, stream=True)
    list(state.text_iter())
    with pytest.raises(ServerUnreachable, match="broke off"):
        state["a"]


def test_a_stream_holds_back_what_may_be_the_beginning_of_a_stop_text(scripted, chatml_folder):
    """SGLang cuts the stop text off at the end; what was told before must still be its beginning."""
    whole = answer("one\ntwo", {"type": "stop", "matched": "\n\n"})
    events = [*by_character(whole)[:-1], part_of(whole, "one\ntwo\n"), whole]
    scripted.on_generate = lambda payload: streamed(*events)

    @sgl.function
    def write(s):
        s += sgl.user("q")
        s += sgl.assistant_begin()
        s += sgl.gen("x", max_tokens=9, stop=["\n\n"])

    with Endpoint(scripted.url, timeout=20) as endpoint:
        state = write.run(backend=endpoint, stream=True)
        assert "".join(state.text_iter("x")).startswith("one\ntw")
        assert state["x"] == "one\ntwo"
