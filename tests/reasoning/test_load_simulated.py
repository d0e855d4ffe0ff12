"""What the policy under load comes to on simulated servers."""

import pytest

from tests.support.queueing import AT_ONCE, MACHINES, Simulation, rate_of


@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("machine", MACHINES)
def test_it_ends_in_the_fastest_state(machine, at_once):
    simulation = Simulation(machine)
    simulation.go(at_once, 8)
    rate = simulation.go(at_once, 16)
    best = max(rate_of(machine, state, at_once) for state in ("drafting", "wide", "alone"))
    assert rate > 0.93 * best


def test_it_comes_back_when_the_load_falls_and_knows_the_load_when_it_returns():
    simulation = Simulation("CPU")
    simulation.go(16, 8)
    assert simulation.load.level.best == "alone"
    simulation.go(1, 4)
    assert (simulation.load.level.runs, simulation.load.level.best) == (1, "drafting")
    simulation.go(16, 1)
    assert (simulation.load.level.runs, simulation.load.state) == (16, "alone")


def test_runs_that_always_draft_are_never_left_to_the_base_model():
    simulation = Simulation("CPU", at_load="draft")
    simulation.go(16, 12)
    assert set(simulation.load.level.seconds) == {"drafting", "wide"}
