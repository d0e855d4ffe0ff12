"""The part `identity`, on servers that answer at once."""

from specreason_sgl import SpecReasonConfig
from specreason_sgl.bench.identity import run
from specreason_sgl.bench.setup import Bench, CorrectEvery, questions


def test_identity_compares_all_that_a_run_decides(zero):
    draft, base = zero
    config = SpecReasonConfig(token_budget=32 * 4)
    settings = (
        {"repair": "rewrite", "lookahead": 2},
        {"repair": "rewrite", "first_base_steps": 1},
        {"repair": "correct", "window": "auto", "lookahead": 1},
        {"repair": "correct", "window": 16, "first_base_steps": 1},
    )
    correct = CorrectEvery(every=20)
    bench = Bench(draft=draft, base=base, config=config, problems=questions(2), correct=correct)
    rows = run(bench, settings)
    assert [row["same"] for row in rows] == [2, 0, 2, 0]
    assert [different["step"] for different in rows[1]["different"]] == [0, 0]
    assert rows[3]["different"][0]["expected"] != rows[3]["different"][0]["actual"]
