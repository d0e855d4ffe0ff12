"""Figures and their intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specreason_sgl.evaluation.estimates import LEAST, paired_difference


def test_a_paired_difference_has_the_interval_of_the_score_test():
    # From the formula of Tango 1998 (equations 6 and 8), solved by bisection.
    assert shown(1, 1, 30) == (0.0, -14.0, 14.0)
    assert shown(0, 3, 30) == (-10.0, -25.6, 2.5)
    assert shown(23, 27, 236) == (-1.7, -7.7, 4.3)


def shown(*counts):
    estimate = paired_difference(*counts)
    return tuple(round(100 * each, 1) for each in (estimate.value, estimate.low, estimate.high))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(LEAST, 120))
def test_an_interval_of_a_difference_leaves_0_out_where_mcnemars_statistic_does(this, other, more):
    n = max(this + other, more)
    estimate, swapped = paired_difference(this, other, n), paired_difference(other, this, n)
    assert -1 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert (estimate.low, estimate.high) == pytest.approx((-swapped.high, -swapped.low), abs=1e-9)
    if this + other:
        is_far = abs(this - other) / math.sqrt(this + other) > 1.959964
        assert (estimate.low > 0 or estimate.high < 0) == is_far


def test_without_a_problem_there_is_no_difference_and_with_few_no_interval():
    assert math.isnan(paired_difference(0, 0, 0).value)
    few = paired_difference(3, 1, LEAST - 1)
    assert few.value == pytest.approx(2 / 19)
    assert math.isnan(few.low)
