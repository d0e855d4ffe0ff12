"""Every fault at every phase: an answer, or one clear error with nothing lost."""

import threading
from pathlib import Path

import pytest

from tests.faults import cells
from tests.faults.cells import FAULTS, FINE, PHASES, Cell, outcomes, table

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "faults.md"


@pytest.fixture(scope="module")
def whole():
    return dict(outcomes())


def test_nothing_is_lost_and_nothing_hangs(whole):
    assert {cell: outcome for cell, outcome in whole.items() if outcome not in FINE} == {}
    assert len(whole) == 2 * len(FAULTS) * sum(map(len, PHASES.values()))


def test_the_page_has_the_table(whole):
    assert table(whole) in PAGE.read_text()


def test_a_table_says_where_the_repairs_differ(whole):
    differing = {**whole, Cell("a hang", "answer", True, "correct"): "kept"}
    assert "| a hang | kept | saved |" in table(differing)
    assert "| saved / rewrite: saved, correct: kept |" in table(differing)


def test_what_is_lost_or_hangs_is_told(monkeypatch):
    monkeypatch.setattr(cells, "AT_ONCE", 1)
    monkeypatch.setattr(cells, "DEADLINE", 1.0)
    monkeypatch.setitem(cells.FAULTS, "none", lambda *_: threading.Event().wait(2) or None)
    monkeypatch.setitem(cells.RUNS, "serve", lambda rig, cell: rig.pair.solve() and "kept")
    monkeypatch.setitem(cells.RUNS, "eval", lambda rig, cell: 1 / 0)
    monkeypatch.setitem(cells.RUNS, "program", lambda rig, cell: "kept")
    told = dict(outcomes([Cell("none", phase, False) for phase in ("eval", "program", "serve")]))
    assert [*told.values()] == [
        "lost: ZeroDivisionError: division by zero", "lost: the fault was at no request", "hung",
    ]  # fmt: skip
