"""`SpecReason` and `AsyncSpecReason`."""

import asyncio
import threading

import pytest

from specreason_sgl import AsyncSpecReason, SpecReason, SpecReasonConfig, Step
from specreason_sgl.errors import ConfigError, ServerError, ServerUnreachable
from tests.support.waiting import wait_until
from tests.support.writers import steps_of

CONFIG = SpecReasonConfig(repair="rewrite", temperature=0, lookahead=0, token_budget=60)


def hold(pair, turn, released):
    """The draft server holds back requests after this part of the chain of thought."""

    def before(request):
        if request.purpose == "draft" and turn in request.turn:
            released.wait(30)

    pair.before = before


@pytest.fixture
def servers(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    return {"draft": pair.draft_server.url, "base": pair.base_server.url, "config": CONFIG}


def test_a_pair_solves_what_its_two_servers_solve(pair, servers):
    with SpecReason(**servers) as specreason:
        trace = specreason.solve("q")
        alone = specreason.alone("q", side="draft")
    assert (trace.reasoning, trace.mode) == ("draft 1\n\ndraft 2\n\ndraft 3", "specreason")
    assert alone.mode == "draft"
    assert trace.reasoning == pair.solve().reasoning


def test_endpoints_that_were_given_stay_open(pair, servers):
    with SpecReason(draft=pair.draft, base=pair.base, config=CONFIG) as specreason:
        assert specreason.draft is pair.draft
        specreason.solve("q")
    assert pair.solve().answer


def test_steps_are_available_as_they_are_finished(pair, servers):
    last = threading.Event()
    hold(pair, "draft 2", last)
    with SpecReason(**servers) as specreason:
        stream = specreason.stream("q")
        assert next(stream).text == "draft 1"
        assert stream.trace is None
        last.set()
        assert [step.text for step in stream] == ["draft 2", "draft 3"]
        assert stream.trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3"
        assert list(stream) == []


def test_a_stream_that_is_left_ends_its_run(pair, servers):
    held = threading.Event()
    hold(pair, "draft 1", held)
    with SpecReason(**servers) as specreason, specreason.stream("q") as stream:
        assert next(stream).text == "draft 1"
        wait_until(lambda: len(pair.of("draft")) == 2)
    wait_until(pair.aborted)
    held.set()
    assert list(stream) == []


def test_an_error_is_raised_where_the_steps_are_read(pair, servers):
    pair.before = lambda request: (400, b'{"error": {"message": "no"}}') if request.side == "base" else None
    with SpecReason(**servers) as specreason, pytest.raises(ServerError, match="no"):
        list(specreason.stream("q"))


def test_a_batch_gives_an_error_in_its_place(servers):
    with SpecReason(**servers) as specreason:
        good, bad = specreason.batch(["q", " "])
    assert good.answer
    assert isinstance(bad, ConfigError)


@pytest.mark.parametrize(
    "given", [{}, {"pair": "mini", "draft": "x", "base": "y"}, {"draft": "http://127.0.0.1:9"}]
)
def test_a_pair_is_a_name_or_two_servers(given):
    with pytest.raises(ConfigError, match="the name of a pair, or both draft and base"):
        SpecReason(**given)


def test_unreachable_servers_fail_on_entering():
    with pytest.raises(ServerUnreachable), SpecReason(draft="http://127.0.0.1:9", base="http://127.0.0.1:9"):
        pass


def test_the_same_for_asyncio(servers):
    async def work():
        async with AsyncSpecReason(**servers) as specreason:
            together, alone = await asyncio.gather(specreason.solve("q"), specreason.alone("q"))
            stream = specreason.stream("q")
            steps = [step async for step in stream]
            batch = await specreason.batch(["q", " ", "q"], concurrency=2)
            return together, alone, steps, stream.trace, batch

    together, alone, steps, trace, batch = asyncio.run(work())
    assert (together.mode, alone.mode) == ("specreason", "base")
    assert all(isinstance(step, Step) for step in steps)
    assert tuple(steps) == trace.steps
    assert [isinstance(result, ConfigError) for result in batch] == [False, True, False]


def test_a_batch_of_none_at_a_time_is_refused(servers):
    async def work():
        async with AsyncSpecReason(**servers) as specreason:
            await specreason.batch(["q"], concurrency=0)

    with pytest.raises(ConfigError, match="concurrency must be at least 1, got 0"):
        asyncio.run(work())


@pytest.mark.parametrize("ask", [lambda pair: pair.solve("q"), lambda pair: pair.batch(["q", "q"])])
def test_a_task_that_is_cancelled_ends_its_runs(pair, servers, ask):
    held, arrived = threading.Event(), threading.Event()

    def hold(request):
        arrived.set()
        held.wait(30)

    pair.before = hold

    async def work():
        async with AsyncSpecReason(**servers) as specreason:
            task = asyncio.create_task(ask(specreason))
            await asyncio.to_thread(arrived.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until, pair.aborted, 10)

    try:
        asyncio.run(work())
        assert pair.aborted()
    finally:
        held.set()
