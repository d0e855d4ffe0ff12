import itertools
import math
import random

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import FixedShare, Quantile, Threshold
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Rewrite


def kept(rule, values):
    return [rule.keeps(value, values[:i]) for i, value in enumerate(values)]


def test_a_threshold_is_reached_or_passed():
    assert kept(Threshold(7), [6.9, 7, 7.1]) == [False, True, True]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8, 1])
@pytest.mark.parametrize("known", [True, False])
def test_a_quantile_keeps_its_share_of_values_like_the_known_ones(keep, known):
    dice = random.Random(1)
    rule = Quantile(keep, tuple(dice.gauss(0, 1) for _ in range(1001)) if known else ())
    decisions = kept(rule, [dice.gauss(0, 1) for _ in range(1000)])
    assert sum(decisions) / 1000 == pytest.approx(keep, abs=0.05)


def test_a_quantile_keeps_the_best():
    rule = Quantile(0.5, (3.0, 1.0, 4.0, 2.0))
    assert [rule.keeps(value, ()) for value in (0, 1.5, 3.5, 9)] == [False, False, True, True]


def test_a_quantile_keeps_the_first_step_and_looks_at_no_later_one():
    rule = Quantile(0.3)
    assert rule.keeps(-100, [])
    assert not rule.keeps(1, [2, 3, 4, 5])
    assert rule.keeps(6, [2, 3, 4, 5])


@pytest.mark.parametrize("rule", [Quantile(0.5), Quantile(0.5, (9.0,) * 20)])
def test_steps_that_are_all_equally_good_are_kept(rule):
    """Digits are often all nines, and none is worse than another."""
    assert all(kept(rule, [9.0] * 10))


@pytest.mark.parametrize("share", [0, 0.25, 0.6, 1])
@pytest.mark.parametrize("seed", range(4))
def test_a_fixed_share_is_kept_evenly_and_whatever_the_values(share, seed):
    rule = FixedShare(share, seed)
    decisions = kept(rule, [float(i % 7) for i in range(200)])
    assert sum(decisions) == pytest.approx(200 * share, abs=1)
    for i in range(0, 180, 20):
        assert sum(decisions[i : i + 20]) == pytest.approx(20 * share, abs=1)
    assert decisions == kept(rule, [0.0] * 200)


@pytest.mark.parametrize(
    ("rule", "value"),
    [(Quantile, 0), *itertools.product([Quantile, FixedShare], [-0.1, 1.1, math.nan, "half", True, None])],
)
def test_a_share_out_of_range_is_refused(rule, value):
    with pytest.raises(ConfigError, match="share of steps"):
        rule(value)


def test_the_settings_say_which_rule():
    config = SpecReasonConfig(repair=Rewrite(), threshold=Quantile(0.5, (2.0, 1.0)))
    assert config.as_dict()["threshold"] == {"kind": "Quantile", "keep": 0.5, "known": [1.0, 2.0]}
    assert SpecReasonConfig(repair=Rewrite(), threshold=3).rule == Threshold(3)
