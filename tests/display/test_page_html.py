"""The page as text: self-contained, with traces embedded. `test_page.py` opens it in a browser."""

import json
import re

import pytest

from specreason_sgl.display.page import as_html, page
from tests.support.traces import make_alone, make_corrected, make_trace


def embedded(html):
    return re.search(r'<script type="application/json" id="traces">(.*?)</script>', html, re.DOTALL)[1]


def test_the_page_asks_nothing_outside():
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\((?!#|data:)", page())
    assert "default-src 'none'" in page()
    assert "innerHTML" not in page()


def test_the_page_has_the_traces_in_it():
    traces = [make_trace(), make_alone(), make_corrected()]
    assert json.loads(embedded(as_html(traces))) == [json.loads(trace.to_json()) for trace in traces]


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "\\1 \\g<0> \u2028 []"]
)
def test_a_text_cannot_end_the_element_it_is_in(text):
    html = as_html([make_trace(question=text, answer=text)])
    assert "<" not in embedded(html)
    assert json.loads(embedded(html))[0]["answer"] == text
    assert html.lower().count("<script") == page().lower().count("<script")


def test_numbers_that_json_does_not_have_are_left_out():
    html = as_html(
        [make_trace(config={"delimiter": "\n\n", "low": float("-inf"), "threshold": float("nan")})]
    )
    assert json.loads(embedded(html))[0]["config"] == {"delimiter": "\n\n", "low": None, "threshold": None}
