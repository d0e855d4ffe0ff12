import io
import json
import re

import pytest
from msgspec.structs import replace
from rich.console import Console

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.trace import Correction, Step
from specreason_sgl.serving.show import as_html, page, print_trace, print_traces, read_traces
from tests.serving.traces import HEAD, make_alone, make_corrected, make_trace


def printed(*traces, regret=False, **options):
    console = Console(file=io.StringIO(), width=90, highlight=False, **options)
    print_traces(console, traces, regret)
    return console.file.getvalue()


def embedded(html):
    return re.search(r'<script type="application/json" id="traces">(.*?)</script>', html, re.DOTALL)[1]


def test_the_page_asks_nothing_outside():
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\((?!#|data:)", page())
    assert "default-src 'none'" in page()
    assert "innerHTML" not in page()


def test_the_page_has_the_traces_in_it():
    traces = [make_trace(), make_alone(), make_corrected()]
    assert json.loads(embedded(as_html(traces))) == [json.loads(one.to_json()) for one in traces]


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


def test_one_trace_or_a_line_each_are_read(tmp_path):
    one, two = make_corrected(answer="\u2028 and \x85 are no line ends here"), make_alone()
    file = tmp_path / "traces.jsonl"
    file.write_text(f"{one.to_json()}\n\n{two.to_json()}\n", encoding="utf-8")
    assert read_traces(file) == [one, two]
    file.write_text(json.dumps(json.loads(one.to_json()), indent=2), encoding="utf-8")
    assert read_traces(file) == [one]


def changed(**fields):
    return json.dumps({**json.loads(make_trace().to_json()), **fields})


def with_step(**fields):
    first, *others = json.loads(make_corrected().to_json())["steps"]
    return changed(steps=[{**first, **fields}, *others])


def correction(**fields):
    return {"at": 0, "drafted": "a", "text": "b", "regret": 4.0, "kept": 0, **fields}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no trace"),
        ("\n \n", "has no trace"),
        ("nonsense", "line 1: this is not a trace"),
        ("[1,\n2]", "line 1: this is not a trace"),
        (make_trace().to_json() + "\n{}\n", "line 2: this is not a trace"),
        (changed(version=1), "line 1: this package reads version 2, got version 1"),
        (changed(stop="[red]"), "line 1: this is not a trace"),
        (changed(mode="both"), "line 1: this is not a trace"),
        (changed(question=3), "line 1: this is not a trace"),
        (changed(seconds="long"), "line 1: this is not a trace"),
        (changed(config={}), "line 1: this is not a trace"),
        (with_step(corrections=None), "line 1: this is not a trace"),
        (with_step(corrections=[{"at": 0}]), "line 1: this is not a trace"),
        (with_step(corrections=[correction(at="0")]), "line 1: this is not a trace"),
        (with_step(corrections=[correction(at=-1)]), "line 1: this is not a trace"),
        (with_step(corrections=[correction(at=99)]), "line 1: this is not a trace"),
        (with_step(corrections=[correction(drafted=None)]), "line 1: this is not a trace"),
        (with_step(corrections=[correction(regret="high")]), "line 1: this is not a trace"),
        (with_step(reading=[[0, "a", -1.0, "b"]]), "line 1: this is not a trace"),
        (with_step(reading=[[0.5, "a", -1.0, "b", 1.0]]), "line 1: this is not a trace"),
        (with_step(draft_tokens="all"), "line 1: this is not a trace"),
        (with_step(head=0), "line 1: this is not a trace"),
        (b"\xff\xfe", "not a trace"),
    ],
)
def test_what_is_not_a_trace_is_refused_with_its_line(tmp_path, content, says):
    file = tmp_path / "t.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=says):
        read_traces(file)


def test_the_terminal_shows_who_wrote_each_step_and_what_was_rejected():
    text = printed(make_trace())
    assert "base   wrote it\nWe look for a speed" in text
    assert "draft  score 8, kept\nThe distance is 60 km" in text
    assert f"draft  score 4, rejected\n{HEAD} That is 0.45 hours." in text
    assert f"base   rewrote it\n{HEAD} That is 45 / 60" in text
    assert "base   rewrote it\nSo the speed is \\( 60 / 0.75 = 80 \\) km/h." in text
    assert "answer (the chain of thought has it)\nThe train goes 80 km/h: \\boxed{80}" in text
    assert "5 steps: 2 kept, 2 rewritten; 112 tokens in 9.8 s (11.5 tokens/s), 73 more thrown away" in text


def test_the_terminal_shows_a_correction_inside_its_step():
    text = printed(make_corrected())
    assert "draft  kept\nWe divide the distance by the time.\n" in text
    assert (
        f"draft  2 corrected\n{HEAD} That is[- 0-]{{+ 45+}} / 60 =[- <i>&amp;-]{{+ 0+}}.75 hours.\n" in text
    )
    assert "draft  1 corrected\nSo the speed is 60 / 0.75 = 80 km/h.[- because-]{+⏎+}\n" in text
    assert "draft  1 corrected\nThe answer is \\boxed{80}[-⏎-]{+ km/h+}.\n" in text
    assert "draft  then base: the draft model's runtime failed\nCheck: 80 km/h" in text
    assert "regret" not in text
    steps = [replace(make_corrected().steps[1], score=4.0, undrafted="failed")]
    assert "draft  score 4, 2 corrected, then base: failed\n" in printed(make_corrected(steps=tuple(steps)))


BACKGROUND = r"\x1b\[[0-9;]*;(?:4[0-7]|10[0-7]|48;5;[0-9]+|48;2;[0-9;]+)m"


@pytest.mark.parametrize("system", ["standard", "256", "truecolor"])
def test_a_terminal_with_colours_shows_corrections_and_regrets_by_them(system):
    colours = {"force_terminal": True, "color_system": system}
    text = printed(make_corrected(), **colours)
    assert "\x1b[9;31m 0\x1b[0m\x1b[1;34m 45\x1b[0m / 60" in text
    assert "[-" not in text
    assert not re.search(BACKGROUND, text)
    shaded = printed(make_corrected(), regret=True, **colours)
    assert re.search(rf"{BACKGROUND} minutes\x1b\[0m are", shaded)
    assert len(re.findall(BACKGROUND, shaded)) == 7 + 4  # tokens, and the legend
    assert "{+ 45+}" in printed(make_corrected(), no_color=True, **colours)


def test_regrets_are_marked_where_there_are_no_colours():
    text = printed(make_corrected(), regret=True)
    assert "{~We~1} divide the{~ distance~3} by the time." in text
    assert "{~🚆~1} 45{~ minutes~4} are 3/4 of an hour.{~ That~2} is[- 0-]{+ 45+}{~ /~1} 60" in text
    assert "regret of the base model, in nats: {~up to 1~1} {~to 2~2} {~to 4~3} {~above 4~4}" in text
    assert "it has no regrets to show" in printed(make_trace(), regret=True)


def test_the_terminal_shows_what_each_model_did_when():
    lines = printed(make_trace()).splitlines()
    draft, base = (
        next(line for line in lines if re.match(rf"{side}   ?[·A-Z]", line)) for side in ("draft", "base")
    )
    assert re.fullmatch(r"draft  ·+D+x+·+x+·+D+x+·+", draft)
    assert re.fullmatch(r"base   R+·+S+R+·+S+R+·+S+A+", base)
    assert len(draft) == len(base) == 90
    assert "D draft  S score  R rewrite  A answer  x cut off or not needed  · idle" in "\n".join(lines)
    assert "D draft  r read  R rewrite  A answer  x cut off" in printed(make_corrected())


def test_a_run_beside_the_base_model_alone_is_compared():
    text = printed(make_trace(), make_alone())
    assert "base alone\nThe speed is distance over time.\n\n45 minutes" in text
    assert "146 tokens in 14.7 s" in text
    assert text.splitlines()[-1] == "base alone took 1.50 times as long"
    assert "times as long" not in printed(make_trace(), make_alone(question="another"))


def test_a_model_cannot_control_the_terminal():
    steps = make_trace().steps
    text = printed(make_trace(steps=steps[:2], question="\x1b[2J[red]x[/red]", answer="a\x9b2Jb\r"))
    assert "␛[2J[red]x[/red]" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    correction = Correction(0, "\x1b[2J[red]:smile:", "\r", 4.0, 0)
    step = Step("\r[/red]", "both", "delimiter", 2, corrections=(correction,), undrafted="\x1b[2J[red]")
    text = printed(make_corrected(steps=(step,)))
    assert "draft  1 corrected, then base: ␛[2J[red]\n[-␛[2J[red]:smile:-]{+␍+}[/red]\n" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_a_run_without_steps_or_time_is_shown():
    empty = make_trace(steps=(), answer="", answer_call=None, seconds=0.0, wasted=(), stop="budget")
    assert "0 steps: 0 kept; 0 tokens in 0.0 s" in printed(empty, make_alone(seconds=0.0))
    print_trace(Console(file=io.StringIO(), width=5), make_trace())
