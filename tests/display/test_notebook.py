"""What a notebook shows of a trace and of a report."""

import re
import subprocess
import sys
from html import unescape

from IPython.core.formatters import DisplayFormatter
from msgspec.structs import replace

from specreason_sgl.display.notebook import as_table, show_in
from specreason_sgl.display.parts import END, totals
from specreason_sgl.display.report import as_markdown
from specreason_sgl.evaluation.report import Report
from specreason_sgl.reasoning.trace import Correction, ReadToken, Step
from tests.support.evaluation_files import write_run
from tests.support.traces import CORRECTED_STEPS, make_alone, make_corrected, make_trace


def rows(html):
    """Of each step, its cells' texts."""
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html, re.DOTALL)
    width = html.count("<th ")
    texts = [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in cells]
    return [texts[i : i + width] for i in range(0, len(texts), width)]


def test_a_row_says_who_wrote_a_step_its_score_and_what_was_rejected():
    trace = make_trace()
    table = rows(as_table(trace))
    assert [row[:4] for row in table] == [
        ["1", "base", "", "14"],
        ["2", "draft", "8", "32"],
        ["3", "base", "4", "24"],
        ["4", "base", "2", "18"],
        ["5", "draft", "9", "11"],
    ]
    for row, step in zip(table, trace.steps, strict=True):
        assert row[4] == (step.rejected or "") + step.text
    struck = re.findall(r"<del[^>]*>(.*?)</del>", as_table(trace))
    assert len(struck) == trace.rewritten == 2


def test_a_correction_stands_in_its_step_with_the_drafted_token_struck_out():
    html = as_table(make_corrected())
    table = rows(html)
    assert [row[:3] for row in table] == [
        ["1", "draft", "9"],
        ["2", "draft, 2 corrected", "24"],
        ["3", "draft, 1 corrected", "16"],
        ["4", "draft, 1 corrected", "11"],
        ["5", "draft, then base", "9"],
    ]
    assert table[1][3].endswith("That is 0 45 / 60 = <i>&amp; 0.75 hours.")
    assert table[2][3] == f"{CORRECTED_STEPS[2].text} because{END}"
    assert table[3][3] == f"The answer is \\boxed{{80}}{END} km/h."
    struck = [unescape(text) for text in re.findall(r"<del[^>]*>(.*?)</del>", html)]
    assert struck == [" 0", " <i>&amp;", " because", END]
    assert re.findall(r"<ins[^>]*>(.*?)</ins>", html) == [" 45", " 0", END, " km/h"]
    assert 'title="drafted; regret 4.21 nats"' in html


def test_a_base_model_s_step_in_place_of_a_drafted_token_is_corrected():
    step = Step("So it is.", "base", "delimiter", 4, corrections=(Correction(0, "Hm", "So it is.", 4.0, 0),))
    assert rows(as_table(make_corrected(steps=(step,)))) == [["1", "draft, 1 corrected", "4", "HmSo it is."]]


def test_regrets_are_shaded_on_demand():
    trace = make_corrected()
    plain, shaded = as_table(trace), as_table(trace, regret=True)
    assert rows(plain) == rows(shaded)
    assert "first choice" not in plain
    assert "regret of the base model, in nats" not in plain
    tokens = [token for step in trace.steps for token in step.reading if token.regret and token.text]
    assert shaded.count("first choice") == len(tokens) + 1  # two tokens make up the emoji
    assert "regret of the base model, in nats" in shaded


def test_a_model_alone_has_no_scores():
    html = as_table(make_alone())
    assert ">score<" not in html
    assert [row[1] for row in rows(html)] == ["base"] * 3
    assert "base alone: 146 tokens in 14.7 s" in html


def test_texts_of_models_are_shown_as_they_are_and_are_no_html():
    text = "<b onclick='x'>&amp;</b> costs $5 or $6"
    html = as_table(
        make_trace(
            question=text,
            answer=text,
            steps=(Step(text, "base", "eos", 1, undrafted="failure", undrafted_detail="<i"),),
        )
    )
    assert "<b onclick" not in html
    assert html.count("&lt;b onclick=&#x27;x&#x27;&gt;&amp;amp;&lt;/b&gt; costs $5 or $6</pre>") == 3
    assert "<i>the draft runtime failed: &lt;i</i>" in html


def test_drafted_tokens_and_first_choices_are_no_html():
    correction = Correction(0, "<b onclick='x'>&amp;", "<i>", 4.0, 0)
    step = Step(
        "<i>", "both", "eos", 1, corrections=(correction,), reading=(ReadToken(1, "i>", -1, '"<b>', 1.0),)
    )
    other = replace(step, corrections=())
    html = as_table(make_corrected(steps=(step, other)), regret=True)
    assert "<b" not in html.replace("<b>question</b>", "").replace("<b>answer</b>", "")
    assert "<i>" not in html
    assert "&lt;b onclick=&#x27;x&#x27;&gt;&amp;amp;" in html
    assert "first choice: &quot;\\&quot;&lt;b&gt;&quot;" in html


def shown_by_ipython(value):
    formatter = DisplayFormatter()
    show_in(formatter)
    data, _ = formatter.format(value)
    return data


def test_a_notebook_is_shown_no_folder_of_the_machine():
    folder = "/srv/models/Qwen--Qwen2.5-Coder-1.5B-Instruct"
    shown = shown_by_ipython(make_trace(base_model=folder))
    assert shown.keys() == {"text/html", "text/plain"}
    assert "(draft draft-0.5b, base Qwen/Qwen2.5-Coder-1.5B-Instruct)" in shown["text/html"]
    assert "/srv" not in "".join(shown.values())


def test_a_notebook_shows_a_trace_as_a_table_and_in_one_line():
    trace = make_trace()
    assert shown_by_ipython(trace) == {"text/html": as_table(trace), "text/plain": totals(trace)}


def test_a_notebook_shows_the_table_of_a_run(tmp_path):
    report = Report.read(write_run(tmp_path / "run.jsonl"))
    shown = shown_by_ipython(report)
    assert shown["text/plain"] == as_markdown(report.rows, report.groups)
    for row in report.rows:
        assert f"<td>{row.setting}</td>" in shown["text/html"]
    assert "bootstrap" in shown["text/html"]


NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
from tests.support.traces import make_trace
data, _ = shell.display_formatter.format(make_trace())
assert data["text/html"].startswith("<p><b>question</b>"), data
assert "matplotlib" not in sys.modules and "sglang" not in sys.modules
"""


def test_importing_the_package_in_ipython_is_enough():
    subprocess.run([sys.executable, "-c", NOTEBOOK], check=True)


def test_without_ipython_the_package_does_not_load_the_views():
    code = "import sys, specreason_sgl; assert not {'IPython', 'specreason_sgl.display'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
