"""What a notebook shows of a trace."""

import re
from html import unescape

from specreason_sgl.reasoning.display import as_table
from specreason_sgl.reasoning.trace import Step
from tests.serving.traces import make_alone, make_trace


def rows(html):
    """Of each step, its cells' texts."""
    found = re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)
    width = html.count("<th ")
    texts = [unescape(re.sub(r"<[^>]+>", "", one)) for one in found]
    return [texts[i : i + width] for i in range(0, len(texts), width)]


def test_a_row_says_who_wrote_a_step_its_score_and_what_was_rejected():
    trace = make_trace()
    table = rows(as_table(trace))
    assert [row[:4] for row in table] == [
        ["1", "base", "", "14"],
        ["2", "draft", "8", "32"],
        ["3", "draft, then base", "4", "24"],
        ["4", "base", "2", "18"],
        ["5", "draft", "9", "11"],
    ]
    for row, step in zip(table, trace.steps, strict=True):
        assert row[4] == (step.rejected or "") + step.text
    struck = re.findall(r"<del[^>]*>(.*?)</del>", as_table(trace))
    assert len(struck) == trace.rewritten == 2


def test_a_model_alone_has_no_scores():
    html = as_table(make_alone())
    assert ">score<" not in html
    assert [row[1] for row in rows(html)] == ["base"] * 3
    assert "base alone: 146 tokens in 14.7 s" in html


def test_texts_of_models_are_shown_as_they_are_and_are_no_html():
    text = "<b onclick='x'>&amp;</b> costs $5 or $6"
    html = as_table(
        make_trace(question=text, answer=text, steps=(Step(text, "base", "eos", 1, undrafted="<i"),))
    )
    assert "<b onclick" not in html
    assert html.count("&lt;b onclick=&#x27;x&#x27;&gt;&amp;amp;&lt;/b&gt; costs $5 or $6</pre>") == 3
    assert "<i>&lt;i</i>" in html


def test_a_notebook_is_shown_no_folder_of_the_machine():
    folder = "/srv/models/Qwen--Qwen2.5-Coder-1.5B-Instruct"
    shown = make_trace(base_model=folder)._repr_mimebundle_(include=None, exclude=None)
    assert shown.keys() == {"text/html", "text/plain"}
    assert "(draft draft-0.5b, base Qwen/Qwen2.5-Coder-1.5B-Instruct)" in shown["text/html"]
    assert "/srv" not in "".join(shown.values())
