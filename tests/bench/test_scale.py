"""The part `scale`, and servers that keep a pace."""

import time

import pytest

from specreason_sgl import Endpoint, SpecReasonConfig, solve
from specreason_sgl.bench import scale
from specreason_sgl.bench.servers import STEP_TOKENS, Pace
from specreason_sgl.bench.setup import paced_pair
from specreason_sgl.reasoning.repair import Correct

QUICK = Pace(0.002, 0.001)


@pytest.fixture(scope="module")
def paced(chatml_folder):
    with paced_pair(chatml_folder, QUICK, QUICK) as running:
        yield running


@pytest.mark.parametrize("pieces", scale.PIECES)
def test_a_problem_takes_at_least_what_its_requests_take(paced, pieces, monkeypatch):
    monkeypatch.setattr(scale, "PACES", {"draft": QUICK, "base": QUICK})
    config = SpecReasonConfig(token_budget=4 * STEP_TOKENS, step_tokens=STEP_TOKENS, lookahead=0)
    servers, before = paced[0], time.process_time()
    row = scale.measure(*paced, config, pieces, at_once=4, problems=6)
    assert (row["problems"], row["at_once"], row["pieces"]) == (6, 4, pieces)
    assert row["judged"] >= 6 * 4 if "rewritten" in pieces else row["judged"] >= 6
    assert row["to_ideal"] is None if "windows" in pieces else row["to_ideal"] >= 1
    assert 0 < row["cpu_ms_per_piece"] * row["judged"] / 1000 <= time.process_time() - before
    assert 0 <= row["servers_cpu"] < 2 * len(servers.urls)
    assert servers.cpu_seconds() > 0  # for their start, at least: the clock ticks every 10 ms
    assert row["host_pieces"] == pytest.approx(16 * 1000 / row["cpu_ms_per_piece"])
    assert [len(table.rows) for table in scale.tables([row])] == [1]


def test_several_processes_share_the_problems(paced):
    config = SpecReasonConfig(token_budget=2 * STEP_TOKENS, step_tokens=STEP_TOKENS, lookahead=0)
    row = scale.measure(*paced, config, "steps, rewritten", at_once=4, processes=2, problems=4)
    assert (row["processes"], row["problems"], row["cpu_ms_per_piece"]) == (2, 4, None)
    assert [len(table.rows) for table in scale.tables([row])] == [1]


def test_a_stream_comes_a_window_at_a_time(paced):
    _, draft, base = paced
    taken = []
    with Endpoint(draft.base_url, on_request=taken.append) as watched:
        config = SpecReasonConfig(repair=Correct(window=8), token_budget=STEP_TOKENS, temperature=0)
        solve("q", draft=watched, base=base, config=config)
    assert {record.payload["sampling_params"]["stream_interval"] for record in taken} == {8}
    assert all(record.payload["stream"] for record in taken)
