"""Odd and deep JSON to the server is one refusal in OpenAI's format."""

import json

import pytest
import urllib3

from tests.support.writers import steps_of

ASK = {"model": "two", "messages": [{"role": "user", "content": "q"}]}


def asking(**more) -> bytes:
    return json.dumps({**ASK, **more}).encode()


DEEP = b"[" * 50_000 + b"]" * 50_000
BODIES = {
    "nothing": b"",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "deep inside": asking(specreason={"trace": 0}).replace(b"0", DEEP),
    "deep content": asking(messages=[{"role": "user", "content": 0}]).replace(b"0", DEEP),
    "a number without end": asking(seed=0).replace(b"0", b"9" * 10_000),
    "infinity": asking(temperature=0).replace(b"0", b"1e999"),
    "not a number": asking(temperature=0).replace(b"0", b"NaN"),
    "a knob that is not a number": asking(specreason={"threshold": 0}).replace(b"0", b"NaN"),
    "bytes": b"\xff\xfe\x00\x01",
    "half a surrogate pair": asking(messages=[{"role": "user", "content": "\ud800"}]),
    "half a pair in a role": asking(messages=[{"role": "\ud800", "content": "q"}]),
    "half a pair in a name": asking(**{"\ud800": 1}),
    "a null in the model": asking(model="two\x00"),
    "nulls": asking(messages=None),
    "an object for a text": asking(messages=[{"role": "user", "content": {"text": "q"}}]),
    "a list of lists": asking(messages=[[["user", "q"]]]),
    "a boolean for a number": asking(max_tokens=True),
    "a text for a number": asking(max_tokens="100"),
    "too many messages": asking(messages=ASK["messages"] * 1001),
    "an infinite delta": asking(specreason={"delta": 0}).replace(b"0", b"1e999"),
    "a delta that is not a number": asking(specreason={"delta": 0}).replace(b"0", b"NaN"),
    "a patience below 0": asking(specreason={"patience": -1}),
    "no time for a draft": asking(specreason={"draft_timeout": 0}),
}


def post(url, body):
    headers = {"Content-Type": "application/json"}
    return urllib3.request("POST", f"{url}/v1/chat/completions", body=body, headers=headers, timeout=30)


@pytest.mark.parametrize("body", BODIES)
def test_it_is_refused(pair, url, body):
    pair.start_anew(steps_of(3), lambda turn: 9)
    response = post(url, BODIES[body])
    assert response.status in (400, 404)
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert len(response.data) < 2000
    assert not pair.seen
    assert post(url, asking()).status == 200  # and the server is well


@pytest.mark.parametrize("text", ["\u202eab", "e" + "\u0301" * 1000, "\x00\x01", "<|im_end|>", "🙂" * 5_000])
def test_odd_texts_are_answered(pair, url, text):
    pair.start_anew(steps_of(3), lambda turn: 9)
    assert post(url, asking(messages=[{"role": "user", "content": text}])).status == 200


def test_the_knobs_of_faults_can_be_asked_for(pair, url):
    pair.start_anew(
        lambda side, turn, most: (f"{side} {turn.count(chr(10))}", "delimiter", 3), lambda turn: 0
    )
    knobs = {"trace": True, "repair": "rewrite", "patience": 1, "draft_timeout": 5.5, "lookahead": 0}
    (trace,) = post(url, asking(specreason=knobs)).json()["specreason"]["traces"]
    assert (trace["config"]["patience"], trace["config"]["draft_timeout"]) == (1, 5.5)
    assert [step["undrafted"] for step in trace["steps"][:3]] == [None, *["rejections"] * 2]
    counted = urllib3.request("GET", f"{url}/metrics").data.decode()
    assert "specreason_steps_undrafted_total " in counted
    assert "specreason_steps_undrafted_total 0.0" not in counted
