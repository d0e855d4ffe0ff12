"""What a notebook shows of a trace."""

import re
from html import unescape

import pytest
from msgspec.structs import replace

from specreason_sgl.reasoning.display import END, as_table, spans, totals
from specreason_sgl.reasoning.trace import Correction, ReadToken, Step
from tests.serving.traces import CORRECTED_STEPS, make_alone, make_corrected, make_trace


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


def test_what_is_not_struck_out_is_the_text_of_the_step():
    for step in (*make_trace().steps, *CORRECTED_STEPS):
        texts = [span.text for span in spans(step) if span.kind != "struck"]
        assert "".join(texts).removesuffix(END) == step.text


@pytest.mark.parametrize(
    ("text", "corrections", "shown"),
    [
        ("a b", [(1, "\n\n", " b.\n\n")], ["a", END * 2, " b"]),  # the delimiter is no part of the step
        ("ab", [(1, "x", "b"), (2, "y", "c"), (2, "z", "")], ["a", "x", "b", "y", END, "z", END]),
        ("ab", [(0, "x", "ab"), (1, "y", "b")], ["x", "ab", "y", END]),
    ],
)
def test_no_correction_shows_what_the_step_has_not(text, corrections, shown):
    fixed = tuple(Correction(at, drafted, put, 4.0, 1) for at, drafted, put in corrections)
    step = Step(text, "both", "delimiter", 3, corrections=fixed)
    assert [span.text for span in spans(step)] == shown


def test_a_base_model_s_step_in_place_of_a_drafted_token_is_corrected():
    step = Step("So it is.", "base", "delimiter", 4, corrections=(Correction(0, "Hm", "So it is.", 4.0, 0),))
    assert rows(as_table(make_corrected(steps=(step,)))) == [["1", "draft, 1 corrected", "4", "HmSo it is."]]


def test_a_token_that_begins_in_the_text_before_is_shaded_from_the_step_s_beginning():
    step = Step("So", "draft", "delimiter", 3, reading=(ReadToken(-1, "\nS", -1, "S", 0.5),))
    assert [(span.text, span.shade) for span in spans(step)] == [("S", 1), ("o", 0)]


@pytest.mark.parametrize(
    ("regret", "shade"), [(0.0, 0), (0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (4.5, 4), (float("inf"), 4)]
)
def test_a_shade_is_of_the_regret(regret, shade):
    step = Step("a b", "draft", "delimiter", 2, reading=(ReadToken(1, " b", -5.0, " c", regret),))
    before, token = spans(step)
    assert (before.text, before.shade) == ("a", 0)
    assert (token.text, token.shade) == (" b", shade)
    assert bool(token.detail) == bool(shade)


def test_a_shade_says_the_regret_and_the_first_choice():
    (span,) = spans(Step("a", "draft", "delimiter", 2, reading=(ReadToken(0, "a", -5.0, '"b\n', 4.5),)))
    assert span.detail == "regret 4.50 nats; the base model's first choice: " + r'"\"b\n"'


def test_a_character_of_several_tokens_has_the_highest_regret_of_them():
    reading = (
        ReadToken(0, "", -1, "", 5.0),
        ReadToken(0, "🚆", -1, "🚆", 0.0),
        ReadToken(2, "\n", -9, "", 9.0),
    )
    step = Step("🚆.", "draft", "delimiter", 3, reading=reading)
    assert [(span.text, span.shade) for span in spans(step)] == [("🚆", 4), (".", 0)]


def test_regrets_are_shaded_on_demand():
    trace = make_corrected()
    plain, shaded = as_table(trace), as_table(trace, regret=True)
    assert rows(plain) == rows(shaded)
    assert "first choice" not in plain
    assert "regret of the base model, in nats" not in plain
    tokens = [token for step in trace.steps for token in step.reading if token.regret and token.text]
    assert shaded.count("first choice") == len(tokens) + 1  # the first one is of an emoji of two tokens
    assert "regret of the base model, in nats" in shaded


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (
            make_trace(),
            "5 steps: 2 kept, 2 rewritten; 112 tokens in 9.8 s (11.5 tokens/s), 73 more thrown away",
        ),
        (
            make_corrected(),
            "5 steps: 1 kept, 3 corrected (4 tokens); 82 tokens in 6.9 s (11.9 tokens/s), 15 more",
        ),
        (
            make_trace(steps=(CORRECTED_STEPS[2], *make_trace().steps[2:])),
            "4 steps: 1 kept, 1 corrected (1 token), 2 rewritten; ",
        ),
        (make_trace(steps=CORRECTED_STEPS[:1]), "1 step: 1 kept; "),
        (make_alone(), "base alone: 146 tokens in 14.7 s (10.0 tokens/s)"),
    ],
)
def test_totals_say_what_there_is(trace, line):
    assert totals(trace).startswith(line)


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


def test_a_notebook_is_shown_no_folder_of_the_machine():
    folder = "/srv/models/Qwen--Qwen2.5-Coder-1.5B-Instruct"
    shown = make_trace(base_model=folder)._repr_mimebundle_(include=None, exclude=None)
    assert shown.keys() == {"text/html", "text/plain"}
    assert "(draft draft-0.5b, base Qwen/Qwen2.5-Coder-1.5B-Instruct)" in shown["text/html"]
    assert "/srv" not in "".join(shown.values())
