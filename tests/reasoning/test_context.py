"""A chain of thought that fills a model's context ends in order, not by a server's error."""

import pytest

from specreason_sgl import Correct, Rewrite, SpecReasonConfig, solve_alone
from specreason_sgl.errors import ContextLengthExceeded
from specreason_sgl.reasoning.pauses import policy_of
from specreason_sgl.reasoning.verifiers import QUESTION, UtilityScore
from tests.support.checks import check_books, check_books_of_streams, what_was_decided
from tests.support.waiting import wait_until
from tests.support.writers import steps_of

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def tokens_of(pair, text: str) -> int:
    return len(pair.base.tokenizer.encode(text, add_special_tokens=False))


def endless(pair):
    """Steps that never end the thinking, cut at the requested number of tokens."""
    plain = steps_of(10_000)

    def write(side, turn, most):
        text, end, _ = plain(side, turn, most)
        ids = pair.base.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) > most:
            return pair.base.tokenizer.decode(ids[:most]), "length", most
        return text, end, len(ids)

    return write


@pytest.fixture
def contexts(pair, monkeypatch):
    """Gives the models contexts of a few tokens beyond the prompt; no request may exceed them."""
    pair.start_anew(steps_of(1), lambda turn: 9)
    pair.solve()
    prompt = len(pair.draft_server.generated()[0]["input_ids"])
    lengths = {}

    def set_to(**beyond):
        for side, tokens in beyond.items():
            lengths[side] = prompt + tokens
            monkeypatch.setattr(getattr(pair, side), "context_length", prompt + tokens)

    yield set_to
    for side, length in lengths.items():
        for request in getattr(pair, f"{side}_server").generated():
            most = request["sampling_params"]["max_new_tokens"]
            assert len(request["input_ids"]) < length
            assert len(request["input_ids"]) + most <= length


SETTINGS = {"token_budget": 10_000, "answer_tokens": 20, "step_tokens": 30}


@pytest.mark.parametrize("digit", [9, 0])
def test_the_thinking_ends_while_the_answer_has_room(pair, contexts, digit):
    contexts(base=300)
    decided = []
    for lookahead in (0, 1, 3):
        pair.start_anew(endless(pair), lambda turn: digit)
        trace = pair.solve(**SETTINGS, lookahead=lookahead)
        check_books(pair, trace)
        decided.append(what_was_decided(trace))
    assert (trace.stop, bool(trace.answer)) == ("context", True)
    assert decided == [decided[0]] * 3
    stopped = pair.solve(**SETTINGS, at_budget="stop")
    assert (stopped.stop, stopped.answer, stopped.answer_call) == ("context", "", None)
    written = tokens_of(pair, trace.reasoning)
    assert 300 - 20 - 32 - 30 <= written <= 300 - 20
    (answer,) = [
        request for request in pair.base_server.generated()
        if pair.base.tokenizer.decode(request["input_ids"]).endswith("Final answer:")
    ]  # fmt: skip
    assert answer["sampling_params"]["max_new_tokens"] == 20


WORDS = "Undergraduates misunderstand thermodynamics"


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("repair", [Rewrite(), Correct(window=None), Correct(window=2)], ids=str)
def test_a_step_cut_in_the_middle_of_a_word_continues_there(pair, repair, lookahead):
    """In the trace, and in what each model reads. The draft model has longer tokens than the base model."""

    def write(side, turn, most):
        number, begun = turn.count("\n\n") + 1, turn.rpartition("\n\n")[2]
        rest = f"{WORDS} {number}."[len(begun) :]
        if len(rest) > 3 * most:
            return rest[: 3 * most], "length", most
        return rest, "eos" if number == 2 else "delimiter", -(-len(rest) // 3)

    pair.start_anew(write, lambda turn: 9)
    trace = pair.solve(repair=repair, lookahead=lookahead, step_tokens=4, token_budget=500)
    assert trace.reasoning == f"{WORDS} 1.\n\n{WORDS} 2."
    ends = [step.end for step in trace.steps]
    assert ends.count("length") >= 4
    assert [end for end in ends if end != "length"] == ["delimiter", "eos"]
    assert all(step.tokens <= 4 for step in trace.steps)
    asked = [request.turn.removesuffix("<|im_end|>").removesuffix(QUESTION) for request in pair.seen]
    chain = f"{trace.reasoning}\n\nFinal answer:"
    assert asked[-1] == chain
    assert all(chain.startswith(turn) for turn in asked)
    (check_books if repair == Rewrite() else check_books_of_streams)(pair, trace)


def test_a_correction_at_the_last_token_of_a_step_ends_it(pair):
    two, seven = (pair.base.tokenizer.encode(digit, add_special_tokens=False)[0] for digit in "27")

    def write(side, turn, most):
        return ("draft 2", "length", 6) if not turn else (" and so on.", "eos", 6)

    pair.start_anew(write, None, first=lambda ids, at: seven if ids[at] == two else None)
    trace = pair.solve(repair=Correct(window=None), step_tokens=tokens_of(pair, "draft 2"))
    assert (trace.steps[0].text, trace.steps[0].end) == ("draft 7", "length")
    assert trace.steps[0].tokens == tokens_of(pair, "draft 7")
    assert trace.reasoning == "draft 7 and so on."


@pytest.mark.parametrize("lookahead", [0, 2])
def test_the_base_model_continues_after_the_end_of_the_drafts_context(pair, contexts, lookahead):
    contexts(draft=150)
    pair.start_anew(steps_of(40), lambda turn: 9)
    trace = pair.solve(**SETTINGS, lookahead=lookahead)
    authors = [step.author for step in trace.steps]
    change = authors.index("base")
    assert set(authors[:change]) == {"draft"}
    assert set(authors[change:]) == {"base"}
    assert {step.undrafted for step in trace.steps[change:]} == {"context"}
    assert len(authors) == 40
    assert policy_of(pair.draft).breaker.ask() == "closed"  # the runtime has not failed


@pytest.mark.parametrize("repair", [Rewrite(), Correct(window=None)], ids=str)
def test_a_draft_that_leaves_no_room_for_the_answer_is_rejected_unread(pair, contexts, repair):
    contexts(base=120)
    long = "x1 " * 27
    assert 120 - 20 - 32 < tokens_of(pair, long) < 120 - tokens_of(pair, QUESTION)  # the question would fit
    pair.start_anew(
        lambda side, turn, most: (long, "eos", 10) if side == "draft" else ("base", "eos", 3), lambda turn: 9
    )
    trace = pair.solve(**SETTINGS, repair=repair)
    steps = [(step.text, step.author, step.score, step.rejected) for step in trace.steps]
    assert steps == [("base", "base", None, long)]
    assert {seen.purpose for seen in pair.seen} == {"draft", "rewrite", "answer"}


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("lookahead", [0, 2])
def test_corrected_thinking_ends_while_the_answer_has_room(pair, contexts, window, lookahead):
    contexts(base=300)
    pair.start_anew(endless(pair), None)
    trace = pair.solve(**SETTINGS, repair=Correct(window=window), lookahead=lookahead)
    check_books_of_streams(pair, trace)
    assert (trace.stop, bool(trace.answer)) == ("context", True)
    assert 300 - 20 - 32 - 30 <= tokens_of(pair, trace.reasoning) <= 300 - 20


def test_a_question_about_a_step_that_does_not_fit_leaves_the_step_to_the_base_model(pair, contexts):
    """There is room for the step and for an answer, but not for the question after the step."""
    drafted, question = "x1 " * 20, "\n\nHow good is that step? " * 10
    beyond = tokens_of(pair, drafted) + 40
    assert tokens_of(pair, drafted + question) > beyond
    contexts(base=beyond)

    def write(side, turn, most):
        return (drafted if side == "draft" else "base"), "eos", 3

    pair.start_anew(write, lambda turn: 9)
    verifier = UtilityScore(question=question)
    trace = pair.solve(**{**SETTINGS, "answer_tokens": 1, "step_tokens": 60}, verifier=verifier)
    assert [(step.text, step.score, step.rejected) for step in trace.steps] == [("base", None, drafted)]
    check_books(pair, trace)


def test_a_text_whose_judgement_failed_is_not_read_further(pair, contexts):
    """The end of the thinking is read beside the verifier's question, which has no room."""
    contexts(base=tokens_of(pair, "x1 " * 20) + 40)

    class Late(UtilityScore):
        def judgement(self, s, drafted):
            wait_until(lambda: pair.of("read"))
            return super().judgement(s, drafted)

    def write(side, turn, most):
        return ("x1 " * 20 if side == "draft" else "base"), "eos", 3

    def before(seen):
        if seen.purpose == "read":
            wait_until(lambda: seen.rid in pair.aborted())

    pair.start_anew(write, lambda turn: 9, before)
    verifier = Late(question="\n\nHow good is that step? " * 10)
    trace = pair.solve(**{**SETTINGS, "answer_tokens": 1, "step_tokens": 60}, verifier=verifier)
    assert {read.rid for read in pair.of("read")} <= pair.aborted()
    assert [(step.text, step.author) for step in trace.steps] == [("base", "base")]
    check_books(pair, trace)


def test_a_model_alone_leaves_room_for_its_answer(pair, contexts):
    contexts(base=200)
    pair.start_anew(lambda side, turn, most: ("Some text.", "length", most), lambda turn: 9)
    config = SpecReasonConfig(temperature=0, **SETTINGS)
    trace = solve_alone("q", endpoint=pair.base, config=config)
    assert (trace.stop, bool(trace.answer)) == ("context", True)
    first, second = pair.base_server.generated()
    assert first["sampling_params"]["max_new_tokens"] == 200 - 20 - 32
    assert second["sampling_params"]["max_new_tokens"] == 20


def test_a_question_that_does_not_fit_is_one_error(pair, contexts):
    contexts(base=0)
    pair.start_anew(steps_of(3), lambda turn: 9)
    with pytest.raises(ContextLengthExceeded, match="longer than the context"):
        pair.solve()
    assert not pair.base_server.generated()


def test_a_small_context_is_shared_with_the_answer(pair, contexts):
    contexts(base=40)
    pair.start_anew(endless(pair), lambda turn: 9)
    trace = pair.solve(**{**SETTINGS, "answer_tokens": 500})
    assert trace.steps
    assert trace.answer
