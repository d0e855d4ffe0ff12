"""The tables of all parts, from figures made by hand."""

import io

import pytest
from rich.console import Console

from specreason_sgl import SpecReasonConfig
from specreason_sgl.bench.parts import PARTS, measure, tables
from specreason_sgl.bench.setup import Bench

BASE = {"seconds": 8.0, "tokens_per_second": 4.0, "wasted_tokens": 0, "corrections": 0, "prefills": 0}
FIGURES = {
    "overhead": [
        {"servers": "real", "repair": "rewrite", "at_once": 16, "problems": 16, "steps": 48,
         "cpu_ms_per_step": 1.5, "uncovered": 0.0123},
    ],
    "identity": [{"settings": {"repair": "correct", "window": None}, "problems": 3, "same": 2}],
    "latency": {
        "acceptances": [
            {"acceptance": share, "base": {**BASE, "bound_ratio": 0.99},
             "correct": {**BASE, "seconds": 5.0, "to_base": 0.625, "corrections": 7}}
            for share in (0.8, 0.95)
        ],
    },
    "prefix": {
        side: {"prompt": 90, "seen": 50, "cached": 49, "share": 0.98, "new": 40} for side in ("draft", "base")
    },
    "score": {"score_seconds": 0.5, "select_seconds": 1.0, "token_seconds": 0.25, "score_to_select": 0.5,
              "score_to_token": 2.0},
}  # fmt: skip


def printed(figures):
    console = Console(file=io.StringIO(), width=200)
    for table in tables(figures):
        console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_the_parts_are_in_order():
    titles = [table.title.partition(" ")[0] for table in tables(FIGURES)]
    assert titles == ["score", "prefix", "latency,", "latency,", "identity", "overhead"]


def test_each_part_has_its_table():
    lines = printed(FIGURES)
    for row in (
        "SGLang's select 1.000 0.50 of it",
        "decoding a token 0.250 2.00 of it",
        "draft 90 50 49 98.0% 40",
        "base 8.0 4.0 0.990 0 0 0",
        "correct 5.0 4.0 0.62 0 7 0",
        "repair=correct, window=step 2 3",
        "real rewrite 16 16 48 1.50 1.23%",
    ):
        assert row.split() in lines


def test_a_table_for_each_acceptance_of_the_latency():
    titles = [line for line in printed({"latency": FIGURES["latency"]}) if line[0] == "latency,"]
    assert [line[2] for line in titles] == ["80%", "95%"]


@pytest.mark.parametrize("names", [["latency"], ["identity", "latency"]])
def test_only_the_parts_that_are_asked_for_are_measured(zero, names):
    draft, base = zero
    stages = []
    config = SpecReasonConfig(token_budget=64)
    bench = Bench(
        draft=draft, base=base, config=config, problems=["q"], acceptances=[1.0], modes=["base"],
        on_stage=stages.append,
    )  # fmt: skip
    figures = measure(names, bench)
    assert list(figures) == ["draft", "base", "config", *(name for name in PARTS if name in names)]
    assert figures["config"]["repair"]["kind"] == "Correct"
    assert {stage.partition(":")[0] for stage in stages} == set(names)
