"""What follows from measured times: windows, and whether the draft model writes."""

import pytest

from specreason_sgl import Correct
from specreason_sgl.reasoning.load import ENOUGH, Load
from specreason_sgl.reasoning.pauses import policy_of
from specreason_sgl.reasoning.trace import Call, Step
from tests.support.writers import steps_of

DRAFTED = Step("a", "draft", "delimiter", ENOUGH // 4)
WRITTEN = Step("a", "base", "delimiter", ENOUGH // 4)


@pytest.fixture
def load():
    """The base model takes 20 ms a token."""
    load = Load()
    load.record(WRITTEN, 0.02 * WRITTEN.tokens)
    return load


def draft(load, seconds, pieces=4):
    """Pieces, enough for a verdict, whose tokens take so long each."""
    for _ in range(pieces):
        load.record(DRAFTED, seconds * DRAFTED.tokens)


def pause(load):
    """Steps that the base model writes alone before drafting is tried again."""
    steps = 0
    while not load.allows("base"):
        steps += 1
    return steps


def test_drafting_that_pays_goes_on(load):
    draft(load, 0.01, pieces=20)
    assert (load.state, load.speedup) == ("drafting", pytest.approx(2))
    assert load.allows("base")


def test_without_a_measurement_of_the_base_model_drafting_goes_on():
    load = Load()
    draft(load, 9.0, pieces=20)
    assert (load.state, load.speedup) == ("drafting", None)


def test_where_drafting_does_not_pay_the_base_model_reads_whole_steps_then_writes_alone(load):
    draft(load, 0.03, pieces=3)
    assert load.state == "drafting"  # not enough tokens yet
    draft(load, 0.03, pieces=1)
    assert (load.state, load.window("auto"), load.window(16)) == ("wide", None, 16)
    assert load.allows("base")  # wide is not judged yet
    draft(load, 0.03)
    assert load.allows("draft")
    assert load.state == "wide"  # a run that always drafts changes nothing
    assert not load.allows("base")
    assert load.state == "alone"


def test_wide_windows_that_pay_stay_for_a_pause(load):
    draft(load, 0.03)
    draft(load, 0.01)
    assert load.allows("base")
    assert load.state == "wide"
    draft(load, 0.01, pieces=60)
    assert load.state == "drafting"


def test_pauses_grow_until_drafting_pays_again(load):
    pauses = []
    for _ in range(3):
        draft(load, 0.03, pieces=8)
        pauses.append(pause(load))
        assert load.state == "drafting"
    assert pauses == sorted(pauses)
    assert pauses[2] > 3 * pauses[0]
    draft(load, 0.01)
    draft(load, 0.03, pieces=40)
    assert pause(load) <= pauses[0]


def test_the_base_model_is_also_measured_at_rewrites():
    load = Load()
    call = Call("base", "rewrite", 9, 0, 100, 0.0, 3.0)
    load.record(Step("a", "base", "delimiter", 100, rejected="b", calls=(call,)), 4.0)
    assert (load.base.seconds, load.speculating.seconds) == (0.03, 0.04)


@pytest.mark.parametrize(
    ("read", "window"), [(0.0, Load.FIRST), (0.001, Load.LEAST), (0.08, 16), (9.0, Load.MOST)]
)
def test_an_automatic_window_takes_twice_as_long_as_a_read(read, window):
    load = Load()
    load.read(read)
    load.drafted(10, 0.1)
    assert load.window("auto") == window


@pytest.mark.parametrize(("at_load", "who"), [("draft", "draft"), ("base", "base")])
def test_only_runs_that_allow_it_are_left_to_the_base_model(pair, at_load, who):
    pair.start_anew(steps_of(4), lambda turn: 9)
    load = policy_of(pair.draft).load
    load.wrote(ENOUGH, 1.0)
    draft(load, 9.0, pieces=8)
    trace = pair.solve(repair=Correct(), at_load=at_load)
    assert [step.author for step in trace.steps] == [who] * 4
    assert {step.undrafted for step in trace.steps} == {"load" if who == "base" else None}
