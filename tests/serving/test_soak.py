"""The soak's counting, on scripted servers: nothing is lost here, and a loss would be seen."""

import threading
from collections import Counter

import openai
import psutil
import pytest

from tests import soak
from tests.soak import Sample, Tally, ask, growth, left, load
from tests.support.scripted import ScriptedServer, hang_up
from tests.support.serving import serving
from tests.support.waiting import wait_until
from tests.support.writers import steps_of


def test_what_is_asked_is_answered_refused_cancelled_or_fails_clearly(pair, monkeypatch):
    monkeypatch.setattr(soak, "AFTER", (0.01, 0.1))
    monkeypatch.setattr(soak, "PAUSE", 0.02)
    wrong, ends = set(), Counter()

    def counted(*args):
        end = ask(*args)
        ends[end[0]] += 1
        return end

    def before(seen):
        threading.Event().wait(0.01)  # so that some have to wait
        return (400, b"{}") if seen.side in wrong else None

    def fails(side, *until):
        wrong.add(side)
        wait_until(lambda: all(ends[how] for how in until), seconds=120)

    monkeypatch.setattr(soak, "ask", counted)
    pair.start_anew(steps_of(3), lambda turn: 9, before)
    events = [
        (0.0, "the draft fails", lambda: fails("draft", "answered", "refused", "cancelled")),
        (0.0, "the base", lambda: fails("base", "failed")),
    ]
    with serving(pair, limits={"max_running": 4, "max_queue": 1}) as url:
        tally, samples = load(
            url, "two", psutil.Process(), seconds=1, clients=10, seed=1, events=events, quiet=True
        )
        assert left(url) == 0
    assert tally.balances
    assert all(tally.ends[how] > 0 for how in soak.FINE)
    assert not [error for error in tally.errors if "400" not in error]
    assert len(samples) >= len(events)
    assert growth(samples, samples[0], samples[-1], 10)["processes"].grows is False


def test_an_answer_that_does_not_come_is_lost(chatml_folder):
    broken = b'{"error": {"message": "something is wrong in this server; its log says more"}}'
    for reply in (hang_up, (200, b"{}"), (502, b"<html>"), (500, broken)):
        with ScriptedServer(chatml_folder) as server:
            server.plays["/v1/chat/completions"] = lambda payload, reply=reply: reply
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
            assert {ask(client, "two", number, 1)[0] for number in range(1, 9)} == {"lost"}


def test_an_answer_to_another_question_is_seen(pair, url):
    pair.start_anew(steps_of(3), lambda turn: 9)

    class Crossed(openai.OpenAI):
        def post(self, path, *, body, **options):
            body["messages"][0]["content"] = "What else?"
            return super().post(path, body=body, **options)

    client = Crossed(base_url=f"{url}/v1", api_key="none", max_retries=0)
    ends = {ask(client, "two", number, 1)[0] for number in range(1, 9)}
    assert ends - {"cancelled"} == {"mixed up"}


def test_a_tally_that_does_not_balance():
    tally = Tally()
    tally.begin(), tally.begin()
    tally.end("answered")
    assert not tally.balances
    tally.end("refused")
    assert tally.balances
    assert tally.answered_since == 1
    tally.mark()
    assert tally.answered_since == 0
    tally.begin()
    tally.end("lost", "why")
    assert not tally.balances


@pytest.mark.parametrize("name", Sample.__annotations__)
def test_what_grows_is_seen(name):
    steady = {"memory": 500.0, "threads": 20, "files": 40, "sockets": 30, "processes": 8}
    samples = [Sample(**{**steady, name: steady[name] * (1 + i / 30)}) for i in range(30)]
    after = Sample(**{**steady, name: steady[name] + 40})
    assert [what for what, change in growth(samples, samples[0], after, 4).items() if change.grows] == [name]
    samples = [Sample(**{**steady, name: steady[name] + i % 3}) for i in range(30)]
    after = Sample(**{**steady, name: steady[name] + 4})
    assert not any(change.grows for change in growth(samples, samples[0], after, 4).values())
