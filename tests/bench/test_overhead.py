"""The part `overhead`, on servers that answer at once."""

import pytest

from specreason_sgl import SpecReasonConfig
from specreason_sgl.bench.overhead import measure


@pytest.mark.parametrize("repair", ["rewrite", "correct"])
def test_overhead_is_measured_on_servers_that_answer_at_once(zero, repair):
    config = SpecReasonConfig(token_budget=32 * 4)
    figures = measure(*zero, config, at_once=8, problems=12, repair=repair)
    assert (figures["problems"], figures["repair"]) == (12, repair)
    assert figures["steps"] >= 12
    assert figures["cpu_ms_per_step"] > 0
    assert 0 <= figures["uncovered"] < 1
