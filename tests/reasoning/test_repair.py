"""A repair of one's own."""

from dataclasses import replace

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import knob, settings
from specreason_sgl.reasoning.plain import config_of
from specreason_sgl.reasoning.repair import REPAIRS, Correct, Repair, Rewrite, name_of
from tests.support.writers import steps_of


@settings
class KeepFirst(Repair):
    """Keep so many rejected steps, then rewrite."""

    steps: int = knob(default=1, help="Rejected steps that are kept.", unit="steps", ge=0)

    def apply(self, rejected):
        return rejected.accept() if len(rejected.chain.steps) < self.steps else rejected.rewrite()


def test_a_repair_decides_what_becomes_of_a_rejected_step(pair):
    pair.start_anew(steps_of(3), lambda turn: 0)  # every draft is rejected
    assert pair.solve(repair=KeepFirst(steps=2)).reasoning == "draft 1\n\ndraft 2\n\nbase 3"
    assert pair.solve(repair=Rewrite()).reasoning == "base 1\n\nbase 2\n\nbase 3"


def test_a_repair_says_whether_steps_are_judged_as_a_whole():
    assert SpecReasonConfig(repair=KeepFirst()).judge is not None
    assert SpecReasonConfig(repair=Correct()).judge is None
    assert SpecReasonConfig(repair=KeepFirst(steps=2)).as_dict()["repair"] == {
        "kind": "KeepFirst",
        "steps": 2,
    }


def test_a_repair_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"repair must be .*'correct'.*, got"):
        SpecReasonConfig(repair=object())


def test_a_servers_repair_stays_where_a_request_asks_for_no_other():
    server = SpecReasonConfig(repair=KeepFirst(steps=2), threshold=3)
    assert config_of({"threshold": 5}, defaults=server) == replace(server, threshold=5)
    assert config_of({"lookahead": 2}, defaults=server) == replace(server, lookahead=2)
    assert config_of({"delta": 1.0}, defaults=server).repair == Correct(delta=1.0)
    assert config_of({"repair": "rewrite"}, defaults=server).repair == Rewrite()


def test_repairs_are_named_by_their_kind(monkeypatch):
    class Stricter(Correct):
        pass

    class Strictest(Stricter):
        pass

    assert name_of(Stricter(delta=1)) == "correct"
    monkeypatch.setitem(REPAIRS, "stricter", Stricter())
    assert [name_of(repair) for repair in REPAIRS.values()] == list(REPAIRS)
    assert name_of(Strictest(delta=1)) == "stricter"
    assert config_of({"delta": 2.0}, defaults=SpecReasonConfig(repair=Stricter())).repair == Stricter(delta=2)
    assert name_of(KeepFirst()) == ""
