"""The tables of figures are those of the published runs."""

import pytest

from docs import figures


@pytest.mark.parametrize("name", figures.TEXTS)
def test_the_tables_are_those_of_the_runs(name):
    text = (figures.ROOT / name).read_text(encoding="utf-8")
    assert figures.TABLE.search(text)
    assert text == figures.filled(text), "make figures"
