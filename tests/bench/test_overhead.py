"""The part `overhead`, on servers that answer at once."""

import threading
import time

import pytest

from specreason_sgl import SpecReasonConfig
from specreason_sgl.bench.overhead import measure
from tests.support.writers import steps_of


@pytest.mark.parametrize("repair", ["rewrite", "correct"])
def test_overhead_is_measured_on_servers_that_answer_at_once(zero, repair):
    config = SpecReasonConfig(token_budget=32 * 4)
    before, began = time.process_time(), time.monotonic()
    figures = measure(*zero, config, at_once=8, problems=12, repair=repair)
    assert (figures["problems"], figures["at_once"], figures["repair"]) == (12, 8, repair)
    uncut = 12 * 4  # a cut step goes on with a second draft, which uses the budget up
    assert figures["steps"] == uncut if repair == "rewrite" else 12 <= figures["steps"] < uncut
    whole = figures["cpu_ms_per_step"] * figures["steps"] / 1000
    assert 0 < whole <= time.process_time() - before
    assert 0 < figures["seconds"] <= time.monotonic() - began
    assert 0 < figures["uncovered"] < 1


def test_problems_are_solved_at_once(pair):
    both = threading.Barrier(2, timeout=20)

    def before(seen):
        if seen.purpose == "answer":
            both.wait()

    pair.start_anew(steps_of(2), lambda turn: 9, before)
    measure(pair.draft, pair.base, SpecReasonConfig(token_budget=20), at_once=2)
    assert not both.broken
