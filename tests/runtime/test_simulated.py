"""The table of docs/guides/placement.md: what starts where on machines that are not here."""

from pathlib import Path

import pytest

from specreason_sgl.runtime.pairs import PAIRS
from tests.support.simulated import FOUR_AMD, MIG, nvidia, outcome, table

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "placement.md"


def test_the_page_says_what_the_code_does():
    assert PAGE.read_text().endswith(f"\n\n{table()}\n"), "python -m tests.support.simulated"


@pytest.mark.parametrize(
    ("gpus", "options", "starts"),
    [
        (
            nvidia(1, 24),
            {},
            "base on `CUDA_VISIBLE_DEVICES=0`, draft on `CUDA_VISIBLE_DEVICES=0`; KV cache of ",
        ),
        (nvidia(2, 24), {}, "base on `CUDA_VISIBLE_DEVICES=0`, draft on `CUDA_VISIBLE_DEVICES=1`"),
        (MIG, {}, "base on `CUDA_VISIBLE_DEVICES=MIG-a`, draft on `CUDA_VISIBLE_DEVICES=MIG-b`"),
        (FOUR_AMD, {}, "base on `HIP_VISIBLE_DEVICES=4`, draft on `HIP_VISIBLE_DEVICES=5`"),
    ],
)
def test_a_small_pair_starts_everywhere(gpus, options, starts):
    assert outcome(gpus, PAIRS["mini"], options).startswith(starts)
