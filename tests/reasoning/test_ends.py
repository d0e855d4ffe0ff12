"""Drafts that end the thinking or the turn: the base model judges the end, too."""

import threading
import time

import pytest

from specreason_sgl import Correct, Rewrite
from specreason_sgl.errors import ServerError
from specreason_sgl.reasoning import run as run_module
from tests.support.checks import check_books
from tests.support.pair import aborted, paired
from tests.support.tokenizers import make_tokenizer
from tests.support.waiting import wait_until
from tests.support.writers import FAILS, steps_of

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

REGRET = 9.5  # nats, of a token that is not the base model's first choice on these servers


@pytest.fixture(scope="module")
def thinking_pair(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("qwen3"))
    make_tokenizer("qwen3").save_pretrained(folder)
    with paired(folder, folder, lead="\n</think>\n\n") as pair:
        yield pair


@pytest.fixture(params=["eos", "think"])
def ending(request):
    """A pair, and what its drafts end: the turn, or the thinking of a thinking model."""
    name = "thinking_pair" if request.param == "think" else "pair"
    return request.getfixturevalue(name), request.param


def early(end: str, last: int = 4):
    """The draft model ends at its second step, the base model at its last."""

    def write(side, turn, most):
        number = turn.count("\n\n") + 1
        ends = number == last or (number == 2 and side == "draft")
        return f"{side} {number}", end if ends else "delimiter", 3

    return write


def regretting(pair, end: str, steps=(2,)):
    """The base model would have written something else than the end of these steps."""
    mark = {"eos": "<|im_end|>", "think": "</think>"}[end]
    wanted = pair.base.tokenizer.encode("So", add_special_tokens=False)[0]

    def first(ids, at):
        if pair.base.tokenizer.decode(ids[at : at + 1]) != mark:
            return None
        turn = pair.base.tokenizer.decode(ids[:at]).rpartition("assistant\n")[2]
        return wanted if turn.count("\n\n") + 1 in steps else None

    return first


@pytest.mark.parametrize("lookahead", [0, 2])
def test_an_end_that_the_base_model_regrets_is_taken_out(ending, lookahead):
    pair, end = ending
    pair.start_anew(early(end), lambda turn: 9, first=regretting(pair, end))
    trace = pair.solve(lookahead=lookahead)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3\n\ndraft 4"
    assert [step.end for step in trace.steps] == ["delimiter"] * 3 + [end]
    assert (trace.stop, bool(trace.answer)) == ("end", True)
    assert [call.purpose for call in trace.steps[1].calls] == ["draft", "score", "read"]
    assert trace.steps[1].reading[-1].regret == REGRET
    assert trace.steps[1].reading[-1].at == len("draft 2")
    assert pair.of("draft")[2].turn == "draft 1\n\ndraft 2\n\n"  # what it continues from
    check_books(pair, trace)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_an_end_that_the_base_model_agrees_with_ends_the_thinking(ending, lookahead):
    pair, end = ending
    pair.start_anew(early(end), lambda turn: 9)
    trace = pair.solve(lookahead=lookahead)
    assert (trace.reasoning, trace.stop) == ("draft 1\n\ndraft 2", "end")
    assert [step.end for step in trace.steps] == ["delimiter", end]
    (read,) = pair.of("read")
    mark = {"eos": "<|im_end|>", "think": "</think>"}[end]
    assert read.turn == f"draft 1\n\ndraft 2{mark}"
    (answer,) = pair.of("answer")
    assert answer.turn == trace.reasoning + ("\n\nFinal answer:" if end == "eos" else "\n</think>\n\n")


@pytest.mark.parametrize(("end_delta", "steps"), [(REGRET - 0.1, 4), (REGRET + 0.1, 2), (1e9, 2)])
def test_the_regret_that_takes_an_end_out_is_a_setting(ending, end_delta, steps):
    pair, end = ending
    pair.start_anew(early(end), lambda turn: 9, first=regretting(pair, end))
    assert len(pair.solve(repair=Rewrite(end_delta=end_delta)).steps) == steps


def test_regret_of_an_earlier_token_does_not_take_the_end_out(pair):
    """The verifier judges the step."""
    pair.start_anew(early("eos"), lambda turn: 9, first=lambda ids, at: 0 if at < len(ids) - 1 else None)
    assert pair.solve().reasoning == "draft 1\n\ndraft 2"


def test_the_end_of_a_step_that_is_rejected_is_the_base_models(pair):
    pair.start_anew(early("eos"), lambda turn: 0 if turn.endswith("2") else 9, first=lambda ids, at: 0)
    trace = pair.solve(token_budget=9)
    assert [step.text for step in trace.steps] == ["draft 1", "base 2", "draft 3"]
    assert trace.stop == "budget"


def test_the_base_models_end_is_final(pair):
    """The base model writes the last step itself, so nothing is read."""
    pair.start_anew(early("eos", last=1), lambda turn: 9, first=regretting(pair, "eos", steps=(1,)))
    assert (pair.solve(first_base_steps=1).reasoning, pair.of("read")) == ("base 1", [])


def test_an_end_is_read_even_if_the_draft_model_is_sure(pair):
    pair.start_anew(early("eos"), lambda turn: 9, first=regretting(pair, "eos"))
    trace = pair.solve(confidence=-1.0)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3\n\ndraft 4"
    asked = [request.purpose for request in pair.seen if request.side == "base"]
    assert sorted(asked) == ["answer", "read", "read", "score", "score"]


def test_an_end_of_an_empty_step_is_read_and_taken_out(pair):
    """The draft model ends its turn at once. A verifier rejects an empty step."""

    def write(side, turn, most):
        number = turn.count("\n\n") + 1
        return ("", "eos", 1) if (side, number) == ("draft", 2) else (f"{side} {number}", "delimiter", 3)

    pair.start_anew(write, lambda turn: 9)
    assert [step.rejected for step in pair.solve(token_budget=6).steps] == [None, ""]
    assert not pair.of("read")
    pair.start_anew(write, None)
    assert pair.solve(repair=Correct(window=None)).reasoning == "draft 1\n\n"


@pytest.mark.parametrize("window", [None, 2])
def test_the_base_model_writes_the_step_for_an_empty_draft(pair, window):
    """A step of one token without text: there is nothing to read."""

    def write(side, turn, most):
        number = turn.count("\n\n") + 1
        if (side, number) == ("draft", 2):
            return "", "length", 1
        return f"{side} {number}", "eos" if number == 3 else "delimiter", 3

    pair.start_anew(write, None)
    trace = pair.solve(repair=Correct(window=window))
    assert trace.reasoning == "draft 1\n\nbase 2\n\ndraft 3"
    assert trace.steps[1].rejected == ""
    check_books(pair, trace)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_failed_reading_of_an_end_fails_the_run(pair, lookahead):
    """The base model's runtime is needed; the run can be resumed."""
    pair.start_anew(
        early("eos"), lambda turn: 9, lambda request: FAILS if request.purpose == "read" else None
    )
    with pytest.raises(ServerError, match="boom") as raised:
        pair.solve(lookahead=lookahead)
    assert [step.text for step in raised.value.trace.steps] == ["draft 1"]
    pair.start_anew(early("eos"), lambda turn: 9, first=regretting(pair, "eos"))
    trace = pair.solve(lookahead=lookahead, resume=raised.value.trace)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3\n\ndraft 4"


# How a run ends while the draft runtime hangs.


def test_a_draft_that_hangs_at_the_end_adds_no_time_to_the_run(pair, monkeypatch):
    """The server ignores the abort. The run waits for the token count, but not forever."""
    monkeypatch.setattr(run_module, "FINISHED_WAIT", 1.0)
    hung = threading.Event()

    def before(request):
        if request.purpose == "draft" and request.turn == "draft 1\n\n":
            hung.set()
            pair.draft_server.released.wait(30)
            return aborted()
        if request.purpose == "score":
            assert hung.wait(60)
        return None

    def write(side, turn, most):
        return ("\\boxed{4}", "delimiter", 3) if side == "base" else steps_of(9)(side, turn, most)

    pair.start_anew(write, lambda turn: 0, before)
    began = time.monotonic()
    try:
        trace = pair.solve(lookahead=1)
        elapsed = time.monotonic() - began
    finally:
        pair.draft_server.released.set()
    assert (trace.stop, bool(trace.answer)) == ("answer", True)
    assert 1.0 <= elapsed < 15.0
    assert trace.seconds <= elapsed - 0.9
    wait_until(lambda: pair.draft.in_flight() == 0)
    pair.draft_server.released.clear()
