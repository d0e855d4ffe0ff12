"""What follows from measured times: windows, and whether the draft model writes."""

import contextlib

import pytest

from specreason_sgl import Correct
from specreason_sgl.reasoning.load import MEASURE, MEASURE_ALL, REST, SETTLE, Level, Load
from specreason_sgl.reasoning.pauses import policy_of
from tests.support.writers import steps_of

ALL = ("drafting", "wide", "alone")
SECONDS = {"drafting": 0.02, "wide": 0.03, "alone": 0.04}


def live_through(level, seconds, periods, possible=ALL):
    """The states of the next periods, in which a token takes a run so long."""
    states = []
    for _ in range(periods):
        states.append(level.state)
        if level.settling > 0:
            level.record(level.settling, 1000.0, possible)  # not measured
        tokens = max(MEASURE_ALL, MEASURE * level.runs)
        level.record(tokens, seconds[level.state] * tokens, possible)
    return states


def test_each_state_is_tried_and_the_best_stays():
    level = Level(16)
    states = live_through(level, SECONDS, 6)
    assert states == ["drafting", "drafting", "wide", "drafting", "alone", "drafting"]
    assert level.best == "drafting"
    assert level.seconds == pytest.approx(SECONDS)


def test_the_fewer_runs_the_later_the_first_trial():
    rests = [live_through(Level(runs), SECONDS, 40).index("wide") for runs in (1, 4, 16, 64)]
    assert rests == [32, 8, 2, 2]


@pytest.mark.parametrize("best", ["wide", "alone"])
def test_another_state_that_is_faster_becomes_the_best(best):
    level = Level(16)
    live_through(level, SECONDS | {best: 0.01}, 8)
    assert (level.best, level.state) == (best, best)


def test_what_saves_less_than_the_margin_changes_nothing():
    level = Level(16)
    live_through(level, SECONDS | {"alone": 0.0195}, 20)
    assert level.best == "drafting"


def test_a_state_that_costs_more_is_tried_less_often():
    tried = live_through(Level(16), {"drafting": 0.02, "wide": 0.021, "alone": 0.04}, 300)
    assert tried.count("wide") > 10 * tried.count("alone")
    extra = tried.count("wide") * 0.05 + tried.count("alone") * 1.0
    assert extra < 0.03 * len(tried)


def test_a_best_state_that_becomes_slower_is_left_before_the_rest_of_the_others_is_over():
    level = Level(16)
    live_through(level, SECONDS | {"alone": 0.2}, 20)
    slower = SECONDS | {"drafting": 1.0, "alone": 0.2}
    assert "wide" in live_through(level, slower, 3)
    assert level.best == "wide"


def test_only_possible_states_are_tried():
    level = Level(16)
    assert set(live_through(level, SECONDS, 20, possible=("drafting",))) == {"drafting"}
    assert set(live_through(level, SECONDS, 20, possible=("drafting", "wide"))) == {"drafting", "wide"}


def test_a_trial_that_is_interrupted_goes_on_after_a_rest():
    level = Level(16)
    live_through(level, SECONDS, level.first_rest)
    assert level.state == "wide"
    level.record(level.settling, 1.0, ALL)
    level.record(16 * MEASURE - 1, 0.03 * 16 * MEASURE, ALL)
    level.enter()
    assert "wide" not in live_through(level, SECONDS, REST + 1)  # one of them is a trial of the other state
    assert level.state == "wide"
    level.record(level.settling, 1.0, ALL)
    level.record(1, 0.0, ALL)
    assert level.seconds["wide"] == pytest.approx(0.03)


class Loaded:
    """A `Load` whose clock stands still, and runs in flight whose tokens take a second each."""

    def __init__(self, runs=0):
        self.now = 0.0
        self.load = Load(lambda: self.now)
        self._runs = []
        self.begin(runs)

    def begin(self, runs):
        for _ in range(runs):
            self._runs.append(contextlib.ExitStack())
            self._runs[-1].enter_context(self.load.run())

    def end(self, runs):
        for _ in range(runs):
            self._runs.pop().close()

    def wait(self, seconds):
        self.now += seconds
        self.load.record(1, 1.0)


def test_the_first_runs_have_their_level_at_once():
    loaded = Loaded(16)
    loaded.wait(0)
    assert loaded.load.level.runs == 16


def test_a_level_follows_the_runs_in_flight_within_a_few_times_what_settles():
    loaded = Loaded(16)
    loaded.wait(0)
    loaded.end(15)
    loaded.wait(0.1 * SETTLE)
    assert loaded.load.level.runs == 16
    loaded.wait(4 * SETTLE)
    assert loaded.load.level.runs == 1


def test_runs_that_end_and_begin_at_one_moment_are_no_lower_load():
    loaded = Loaded(64)
    loaded.wait(0)
    level = loaded.load.level
    for _ in range(20):
        loaded.end(60)
        loaded.wait(0)
        loaded.begin(60)
        loaded.wait(SETTLE)
    assert loaded.load.level is level


def test_a_level_without_trials_begins_with_the_best_state_of_the_next_lower_one_that_has_some():
    loaded = Loaded(4)
    loaded.wait(0)
    live_through(loaded.load.level, SECONDS | {"alone": 0.01}, 12)
    loaded.begin(60)
    loaded.wait(9 * SETTLE)
    assert (loaded.load.level.runs, loaded.load.state) == (64, "alone")
    loaded.end(62)
    loaded.wait(9 * SETTLE)
    assert (loaded.load.level.runs, loaded.load.state) == (2, "drafting")
    live_through(loaded.load.level, SECONDS, 1)
    loaded.begin(6)
    loaded.wait(9 * SETTLE)
    assert (loaded.load.level.runs, loaded.load.state) == (8, "alone")


def test_the_speedup_is_of_the_faster_way_to_draft():
    load = Load(lambda: 0.0)
    load.level.seconds = {"drafting": 0.03, "wide": 0.02}
    assert load.speedup is None
    load.level.seconds["alone"] = 0.04
    assert load.speedup == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_counts_while_it_lasts(pair, fails):
    seen = []

    def on_step(step):
        seen.append(load.runs)
        if fails:
            raise RuntimeError

    pair.start_anew(steps_of(2), lambda turn: 9)
    load = policy_of(pair.draft).load
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        pair.solve(on_step=on_step)
    assert set(seen) == {1}
    assert load.runs == 0


def test_chains_and_answers_are_measured(pair):
    pair.start_anew(steps_of(3), lambda turn: 9)
    load = policy_of(pair.draft).load
    recorded = []
    load.record = lambda tokens, seconds: recorded.append((tokens, seconds))
    trace = pair.solve()
    assert sum(tokens for tokens, _ in recorded) == trace.tokens
    assert sum(seconds for _, seconds in recorded) <= trace.seconds


@pytest.mark.parametrize(
    ("read", "window"), [(0.0, Load.FIRST), (0.001, Load.LEAST), (0.08, 16), (9.0, Load.MOST)]
)
def test_an_automatic_window_takes_twice_as_long_as_a_read(read, window):
    load = Load()
    load.read(read)
    load.drafted(10, 0.1)
    assert (load.window("auto"), load.window(16), load.window(None)) == (window, 16, None)


def test_wide_windows_are_whole_steps_where_they_are_automatic():
    load = Load()
    load.level = Level(1, best="wide")
    assert (load.window("auto"), load.window(16)) == (None, 16)


@pytest.mark.parametrize(("at_load", "who"), [("draft", "draft"), ("base", "base")])
def test_only_runs_that_allow_it_are_left_to_the_base_model(pair, at_load, who):
    pair.start_anew(steps_of(4), lambda turn: 9)
    policy_of(pair.draft).load.level = Level(1, best="alone")
    trace = pair.solve(repair=Correct(), at_load=at_load)
    assert [step.author for step in trace.steps] == [who] * 4
    assert {step.undrafted for step in trace.steps} == {"load" if who == "base" else None}
