"""Which settings keep the base model's accuracy: the p-values are valid, and so is what passes."""

import functools

import numpy as np
import pytest
from scipy.stats import multinomial

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.certify import DISCORDANT, POWER, Guarantee, p_value

LEVELS = (0.01, 0.05, 0.1, 0.2)


@functools.cache
def table(problems, loss):
    """Every result (lost, won, neither), and its p-value."""
    results = np.array(
        [(b, c, problems - b - c) for b in range(problems + 1) for c in range(problems + 1 - b)]
    )
    return results, np.array([p_value(b, c, problems, loss) for b, c, _ in results])


def chance(problems, loss, level, true_loss, discordant):
    """The probability of a p-value of at most `level`."""
    results, ps = table(problems, loss)
    parts = [(discordant + true_loss) / 2, (discordant - true_loss) / 2, 1 - discordant]
    return multinomial.pmf(results, problems, parts)[ps <= level].sum()


@pytest.mark.parametrize(("problems", "loss"), [(30, 0.1), (30, 0.05), (20, 0.3)])
@pytest.mark.parametrize("level", LEVELS)
def test_a_setting_that_loses_too_much_passes_no_more_often_than_the_level_says(problems, loss, level):
    chances = [
        chance(problems, loss, level, true_loss, discordant)
        for true_loss in (loss, loss + 0.05, loss + 0.2)
        for discordant in np.linspace(true_loss, 1, 150)
    ]
    assert max(chances) <= level


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_more_lost_or_less_won_makes_it_less_certain(loss):
    results, ps = table(20, loss)
    p = {(lost, won): value for (lost, won, _), value in zip(results.tolist(), ps, strict=True)}
    assert all(p[lost, won] <= p[lost + 1, won] + 1e-9 for lost, won in p if (lost + 1, won) in p)
    assert all(p[lost, won + 1] <= p[lost, won] + 1e-9 for lost, won in p if (lost, won + 1) in p)


def test_without_any_difference_it_is_the_rule_of_three():
    assert p_value(0, 0, 60, 0.05) == pytest.approx(0.95**60)


def test_among_chains_of_settings_that_lose_too_much_the_confidence_holds():
    guarantee, problems, rng = Guarantee(10, 0.9, chains=2), 60, np.random.default_rng(0)
    ps = functools.cache(lambda lost, won: p_value(lost, won, problems, 0.1))
    wrongly = 0
    for _ in range(400):
        draws = rng.multinomial(problems, [0.17, 0.07, 0.76], size=(2, 3))
        wrongly += any(any(guarantee.passes([ps(b, c) for b, c, _ in chain])) for chain in draws)
    assert wrongly / 400 <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 400)


def test_nothing_passes_after_the_first_that_fails():
    guarantee = Guarantee(5, 0.9)
    assert guarantee.passes([0.09, 0.01, 0.11, 0.0]) == [True, True, False, False]
    assert Guarantee(5, 0.9, chains=2).passes([0.04, 0.06]) == [True, False]


def test_the_planned_problems_are_enough_as_often_as_said():
    guarantee = Guarantee(12, 0.9)
    passing = chance(guarantee.problems, 0.12, guarantee.level, 0.0, DISCORDANT)
    assert passing == pytest.approx(POWER, abs=0.07)


@pytest.mark.parametrize("chains", [1, 3])
def test_what_a_number_of_problems_can_certify_takes_that_number(chains):
    attainable = Guarantee(5, 0.9, chains).attainable(200)
    assert Guarantee(attainable, 0.9, chains).problems in (200, 201)
    assert attainable > 5 > Guarantee(5, 0.9, chains).attainable(2000)


@pytest.mark.parametrize(("values", "says"), [((0, 0.9), "loss"), ((100, 0.9), "loss"), ((5, 1), "confid")])
def test_a_guarantee_out_of_range_is_refused(values, says):
    with pytest.raises(ConfigError, match=f"^{says}.* must be above 0 and below"):
        Guarantee(*values)
