"""The built-in questions, and corrections at a fixed rate."""

import pytest

from specreason_sgl.bench.setup import CorrectEvery, questions
from specreason_sgl.lang.logprobs import TokenLogprob


def test_questions_are_all_different():
    assert len(set(questions(64))) == 64


def cuts_of(repair: CorrectEvery, tokens: list[TokenLogprob]) -> list[int]:
    """Where the tokens are cut, reading on after each cut."""
    cuts, start = [], 0
    while (at := repair.cut(tokens[start:], 0.0)) is not None:
        cuts.append(start + at)
        start += at + 1
    return cuts


@pytest.mark.parametrize("every", [20, 50, 200])
def test_about_every_nth_token_is_cut_whatever_its_regret_and_however_it_is_read(every):
    tokens = [TokenLogprob("x", -i / 1000, i % 7) for i in range(20_000)]
    repair = CorrectEvery(every=every)
    cuts = cuts_of(repair, tokens)
    assert len(cuts) == pytest.approx(20_000 / every, rel=0.15)
    windows = [range(i, i + 16) for i in range(0, 20_000, 16)]
    first = [repair.cut(tokens[window.start : window.stop], 0.0) for window in windows]
    expected = [next((at - window.start for at in cuts if at in window), None) for window in windows]
    assert first == expected
