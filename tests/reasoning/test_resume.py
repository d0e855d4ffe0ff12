"""A run that the base model's runtime failed can be resumed. `tests.faults` has each fault at each phase."""

import json
import re
from pathlib import Path
from threading import Timer

import pytest
from msgspec.structs import replace

from specreason_sgl import Cancel, Correct, Trace, cli
from specreason_sgl.errors import ConfigError, DeadlineExceeded, RequestAborted, ServerError
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.verifiers import UtilityScore
from tests.support.checks import check_books_of_streams, what_was_decided, what_was_written
from tests.support.pair import aborted
from tests.support.waiting import wait_until
from tests.support.writers import FAILS, digit, number_of, replies_at, steps_of

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("phase", ["score", "rewrite", "answer"])
def test_a_failed_run_can_be_resumed(pair, phase, lookahead):
    pair.start_anew(steps_of(4), digit)
    expected = pair.solve()
    pair.start_anew(steps_of(4), digit, replies_at(phase, FAILS))
    with pytest.raises(ServerError, match="boom") as raised:
        pair.solve(lookahead=lookahead)
    partial = raised.value.trace
    assert partial.stop == "failed"
    assert Trace.from_json(partial.to_json()) == partial
    done = len(partial.steps)
    assert done == (4 if phase == "answer" else 1)
    pair.start_anew(steps_of(4), digit)
    trace = pair.solve(lookahead=lookahead, resume=Trace.from_json(partial.to_json()))
    assert what_was_decided(trace) == what_was_decided(expected)
    assert trace.steps[:done] == partial.steps
    assert trace.seconds >= partial.seconds
    assert all(call.start >= partial.seconds for step in trace.steps[done:] for call in step.calls)
    assert not [request for request in pair.of("draft") if number_of(request) <= done]


def corrected_steps(pair, last: int, wrong: int = 2):
    """The arguments of `start_anew`: each step says who began it and its number, but for the base model the
    wrong one has the number 7. Whoever goes on with a step writes the same."""
    two, seven = (pair.base.tokenizer.encode(digit, add_special_tokens=False)[0] for digit in f"{wrong}7")

    def write(side, turn, most):
        number, begun = turn.count("\n\n") + 1, turn.rpartition("\n\n")[2]
        step = f"{side} {number} is good"
        text = step.removeprefix(begun) if step.startswith(begun) else " and so on"
        return text, "eos" if number == last else "delimiter", 6

    def first(ids, at):
        before = pair.base.tokenizer.decode(ids[max(at - 8, 0) : at])
        return seven if ids[at] == two and before.endswith("draft ") else None

    return write, digit, lambda request: None, first


MIDWAY = {
    "the reading of a step": lambda request: request.purpose == "read" and "draft 2" in request.turn,
    "the reading after a correction": lambda request: request.purpose == "read" and "7 and" in request.turn,
    "the answer": lambda request: request.purpose == "answer",
}


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("where", MIDWAY)
def test_a_failed_run_with_corrections_can_be_resumed(pair, where, lookahead, window):
    config = {"repair": Correct(window=window), "lookahead": lookahead}
    write, digit, calm, first = corrected_steps(pair, 4)
    pair.start_anew(write, digit, calm, first)
    expected = pair.solve(**config)
    assert expected.reasoning.split("\n\n")[1:3] == ["draft 7 and so on", "draft 3 is good"]
    pair.start_anew(write, digit, lambda request: FAILS if MIDWAY[where](request) else None, first)
    with pytest.raises(ServerError, match="boom") as raised:
        pair.solve(**config)
    partial = Trace.from_json(raised.value.trace.to_json())
    assert partial == raised.value.trace
    if where == "the reading after a correction":
        assert partial.steps[1].text.startswith("draft 7")
        assert partial.steps[1].end is None
    pair.start_anew(write, digit, calm, first)
    told = []
    trace = pair.solve(**config, resume=partial, on_step=told.append)
    assert what_was_written(trace) == what_was_written(expected)
    assert trace.answer == expected.answer
    assert told == list(trace.steps[sum(step.end is not None for step in partial.steps) :])
    if partial.steps[-1].end is None:  # the draft model continues within the step
        assert pair.of("draft")[0].turn == partial.reasoning
        assert (
            trace.steps[len(partial.steps) - 1].calls[: len(partial.steps[-1].calls)]
            == partial.steps[-1].calls
        )
    assert not [request for request in pair.of("draft") if number_of(request) < len(partial.steps)]


def test_the_base_model_continues_within_a_corrected_step(pair):
    """The draft runtime fails after the correction, and then the base runtime; the run is resumed."""
    config = {"repair": Correct(window=2)}
    write, digit, calm, first = corrected_steps(pair, 3)

    def draft_fails(request):
        return FAILS if request.purpose == "draft" and request.turn.endswith("7") else None

    pair.start_anew(write, digit, draft_fails, first)
    trace = pair.solve(**config)
    assert trace.reasoning == "draft 1 is good\n\ndraft 7 and so on\n\nbase 3 is good"
    assert (trace.steps[1].author, trace.steps[1].calls[-1].purpose) == ("both", "rewrite")
    assert trace.steps[1].undrafted == "failure"
    check_books_of_streams(pair, trace)
    pair.start_anew(
        write, digit, lambda request: FAILS if request.purpose == "rewrite" else draft_fails(request), first
    )
    with pytest.raises(ServerError) as raised:
        pair.solve(**config)
    assert raised.value.trace.steps[1].text == "draft 7"
    pair.start_anew(write, digit, calm, first)
    trace = pair.solve(**config, resume=raised.value.trace)
    assert trace.reasoning == "draft 1 is good\n\ndraft 7 and so on\n\ndraft 3 is good"


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_rule_knows_the_scores_of_a_step_that_was_corrected_before_the_failure(pair, lookahead):
    """The second step is rejected and corrected, and its continuation is judged, too."""
    config = {
        "repair": Correct(), "verifier": UtilityScore(), "threshold": FixedShare(0.6, 1),
        "patience": 0, "lookahead": lookahead,
    }  # fmt: skip
    write, _, calm, _ = corrected_steps(pair, 7)

    def always(ids, at):  # each number in a drafted step is wrong
        text = pair.base.tokenizer.decode(ids[max(at - 8, 0) : at + 1])
        return ids[at] - 1 if text[:-1].endswith("draft ") and text[-1].isdigit() else None

    def fails_at(number, part):
        return lambda request: (
            FAILS
            if request.purpose == "score" and number_of(request) == number and part in request.turn
            else None
        )

    pair.start_anew(write, lambda turn: 9, calm, always)
    expected = pair.solve(**config)
    assert expected.corrections
    failed = 0
    for number in range(2, 8):
        for part in (f"draft {number} is good", "and so on"):
            pair.start_anew(write, lambda turn: 9, fails_at(number, part), always)
            try:
                trace = pair.solve(**config)
            except ServerError as error:
                failed += 1
                pair.start_anew(write, lambda turn: 9, calm, always)
                trace = pair.solve(**config, resume=error.trace)
            assert what_was_written(trace) == what_was_written(expected)
    assert failed > 6


def test_every_error_that_ends_a_run_has_its_trace(pair):
    def hanging(request):
        if request.purpose == "draft" and number_of(request) == 2:
            wait_until(lambda: request.rid in pair.aborted())
            return aborted()
        return None

    def interrupted(step):
        raise KeyboardInterrupt

    cancel = Cancel()
    for before, error, arguments in (
        (hanging, DeadlineExceeded, {"timeout": 1.0}),
        (hanging, RequestAborted, {"cancel": cancel, "on_step": lambda step: Timer(0.1, cancel).start()}),
        (lambda request: None, KeyboardInterrupt, {"on_step": interrupted}),
    ):
        pair.start_anew(steps_of(4), digit, before)
        with pytest.raises(error) as raised:
            pair.solve(**arguments)
        assert [step.text for step in raised.value.trace.steps] == ["draft 1"]


def test_only_a_failed_run_of_the_same_question_can_be_resumed(pair):
    pair.start_anew(steps_of(3), digit)
    whole = pair.solve()
    with pytest.raises(ConfigError, match="must be of a failed run of two models, got"):
        pair.solve(resume=whole)
    pair.start_anew(steps_of(3), digit, replies_at("answer", FAILS))
    with pytest.raises(ServerError) as raised:
        pair.solve()
    with pytest.raises(ConfigError, match=r"must have the delimiter .* got"):
        pair.solve(resume=raised.value.trace, delimiter="\n")
    with pytest.raises(ConfigError, match="another question"):
        pair.solve(resume=replace(raised.value.trace, question="other"))


@pytest.fixture
def command_line(pair, capsys, monkeypatch, tmp_path):
    """`solve` in this process; returns the exit status and the output."""
    monkeypatch.chdir(tmp_path)
    urls = ["--draft-url", pair.draft.base_url, "--base-url", pair.base.base_url]
    sampling = ["--temperature", "0", "--token-budget", "60", "--verifier", "score", "--instruction", ""]

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["solve", *arguments, *urls, *sampling])
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


def test_the_command_line_saves_the_trace_and_resumes_from_it(pair, command_line):
    pair.start_anew(steps_of(4), digit, replies_at("rewrite", FAILS))
    code, _, said = command_line("How many?")
    assert code == 1
    saying = r"error: .*boom \(tried 3 times .*\); 1 steps are saved: specreason-sgl solve --resume (\S+)\n"
    match = re.fullmatch(saying, said)
    saved = Path(match[1])
    assert Trace.from_json(saved.read_text()).question == "How many?"
    pair.start_anew(steps_of(4), digit)
    code, out, said = command_line("--resume", str(saved), "--json")
    assert (code, said) == (0, "")
    assert Trace.from_json(out).reasoning == "draft 1\n\nbase 2\n\ndraft 3\n\ndraft 4"
    code, _, said = command_line("--resume", str(saved), "--patience", "0")
    assert (code, said) == (0, "patience was 3, and is 0 now\n")


def test_the_command_line_says_why_a_file_cannot_be_resumed(pair, command_line, tmp_path):
    pair.start_anew(steps_of(2), digit)
    _, out, _ = command_line("q", "--json")
    whole = tmp_path / "whole.json"
    whole.write_text(out)
    odd = tmp_path / "odd.json"
    odd.write_text("[" * 100_000)
    for arguments, says in (
        (["--resume", str(whole)], "whole.json is not the trace of one run that failed"),
        (["q", "--resume", str(whole)], "give a problem or --resume, not both"),
        (["--resume", str(tmp_path / "none")], "none cannot be read"),
        (["--resume", str(odd)], "odd.json, line 1: this is not a trace"),
        ([], "the question is empty"),
    ):
        code, _, said = command_line(*arguments)
        assert (code, len(said.splitlines())) == (2, 1)
        assert says in said


def test_a_trace_is_saved_elsewhere_if_the_folder_is_read_only(pair, command_line, tmp_path, monkeypatch):
    real = Path.write_text

    def write_text(self, *arguments, **options):
        if self.parent == tmp_path:
            raise PermissionError
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    pair.start_anew(steps_of(4), digit, replies_at("rewrite", FAILS))
    _, _, said = command_line("q")
    saved = Path(said.rpartition(" ")[2].strip())
    assert saved.parent != tmp_path
    assert json.loads(saved.read_text())["stop"] == "failed"
    saved.unlink()
