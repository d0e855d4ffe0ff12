"""What the terminal shows of traces."""

import io
import re

import pytest
from msgspec.structs import replace
from rich.console import Console

from specreason_sgl.display.terminal import print_trace, print_traces
from specreason_sgl.display.terminal_live import watching
from specreason_sgl.reasoning.trace import Correction, Step
from tests.support.traces import HEAD, make_alone, make_corrected, make_trace


def printed(*traces, regret=False, **options):
    console = Console(file=io.StringIO(), width=90, highlight=False, **options)
    print_traces(console, traces, regret)
    return console.file.getvalue()


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
    assert "draft  then base: the draft runtime failed\nCheck: 80 km/h" in text
    assert "regret" not in text
    steps = [replace(make_corrected().steps[1], score=4.0, undrafted="context")]
    assert "draft  score 4, 2 corrected, then base: the draft model's context is full\n" in printed(
        make_corrected(steps=tuple(steps))
    )


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
    corrected = printed(make_corrected())
    assert "D draft  r read  R rewrite  A answer  x cut off" in corrected
    assert re.search(r"^draft  D{12}x+", corrected, re.MULTILINE)  # 0.97 s of 6.8, in 83 columns


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
    step = Step(
        "\r[/red]",
        "both",
        "delimiter",
        2,
        corrections=(correction,),
        undrafted="failure",
        undrafted_detail="\x1b[2J[red]",
    )
    text = printed(make_corrected(steps=(step,)))
    assert "draft  1 corrected, then base: the draft runtime failed: ␛[2J[red]\n" in text
    assert "\n[-␛[2J[red]:smile:-]{+␍+}[/red]\n" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_a_run_without_steps_or_time_is_shown():
    empty = make_trace(steps=(), answer="", answer_call=None, seconds=0.0, wasted=(), stop="budget")
    assert "0 steps: 0 kept; 0 tokens in 0.0 s" in printed(empty, make_alone(seconds=0.0))
    print_trace(Console(file=io.StringIO(), width=5), make_trace())


def watched(**options):
    """What a console shows of a corrected step while it is written, and when it is finished."""
    console = Console(file=io.StringIO(), width=90, height=20, highlight=False, **options)
    step = make_corrected().steps[1]
    with watching(console) as callbacks:
        if "on_draft" in callbacks:
            callbacks["on_draft"]("\n\nLet us \x1b[2Jsee", None)
            callbacks["on_draft"](" km\n" * 60 + " last", replace(step, end=None))
            callbacks["on_draft"]("", Step("So 80", "base", None, 0))
            callbacks["on_text"]("answer", "80 ")
            callbacks["on_text"]("answer", "km/h")
        shown = console.file.getvalue()
        callbacks["on_step"](step)
    return shown, console.file.getvalue()


def test_a_draft_streams_in_a_terminal_with_its_corrections_in_line():
    shown, whole = watched(force_terminal=True, color_system="standard")
    assert "\x1b[32mLet us ␛[2Jsee" in shown
    assert "\x1b[32m last" in shown
    assert shown.count(" km\n") < 40  # no more than fits on the screen
    assert "\x1b[34mbase\x1b[0m  writing\nSo 80" in shown
    assert "answer\x1b[0m\n80 km/h" in shown
    assert "\x1b[9;31m 0\x1b[0m\x1b[1;34m 45\x1b[0m / 60" in whole


def test_a_pipe_gets_finished_steps_only():
    shown, whole = watched()
    assert shown == ""
    assert "draft  2 corrected\n" in whole
    assert "That is[- 0-]{+ 45+} / 60" in whole
