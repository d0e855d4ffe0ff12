"""`Correct`: single tokens are corrected, with the same text for every window and a record of each."""

import itertools
import random
import threading

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from programs.correct import correct
from specreason_sgl import Cancel, Correct, Rewrite, SpecReasonConfig, Trace, solve
from specreason_sgl.errors import RequestAborted, ServerError
from specreason_sgl.lang.logprobs import Choice, TokenLogprob
from specreason_sgl.reasoning.pauses import USEFUL_TOKENS
from specreason_sgl.reasoning.repair import draw
from specreason_sgl.reasoning.verifiers import Likelihood, UtilityScore
from tests.support.checks import check_books_of_streams
from tests.support.pair import ENDS, aborted, chance, paired
from tests.support.scripted import answer, by_character, streamed
from tests.support.tokenizers import make_tokenizer
from tests.support.waiting import wait_until
from tests.support.writers import FAILS, steps_of

SOME = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
WORDS = ["So", "it", "is", "3.5", "in", "all.", "é", "🙂", "好的。", "\\boxed", "12+7=19", "\n", "x"]


def writer(seed, words=WORDS, encode=list):
    """Steps of some words; what is written depends on the turn alone.

    Args:
        encode: text to tokens; by default a character is one, as in a vocabulary of its own.
    """

    def write(side, turn, most):
        dice = chance(seed, side, turn)
        text = " ".join(dice.choice(words) for _ in range(dice.randrange(1, 9)))
        text = f" {text} {dice.randrange(999)}" if turn and not turn.endswith("\n\n") else text
        end = dice.choice(["delimiter"] * 9 + ["eos"])
        count = len(encode(f"{text}\n\n" if end == "delimiter" else text)) + (end == "eos")
        if count > most:
            text, end, count = text[:most], "length", most
            while len(encode(text)) > most:
                text = text[:-1]
        return text, end, count

    return write


def chooser(seed, endpoint, share=0.1, texts=(" so", "7", "\n", ".", "Yes", " a", "🙂")):
    """The base model's first choice: at a share of the positions it differs from the drafted token."""
    encode = endpoint.chat_template.encode_text
    choices = [encode(text)[0] for text in texts]
    choices += [encode("\n\n")[0], endpoint.tokenizer.eos_token_id]

    def first(ids, at):
        dice = chance(seed, "first", ids[: at + 1])
        other = chance(seed, "other", ids[:at]).choice(choices)
        return other if dice.random() < share and other != ids[at] else None

    return first


def no_digit(turn):
    raise AssertionError("no score is asked for")


def decided(trace):
    """The parts of a trace that do not depend on the window."""
    steps = [
        (step.text, step.author, step.end, step.tokens, step.draft_tokens, step.corrections, step.reading)
        for step in trace.steps
    ]
    return steps, trace.stop, trace.answer


@SOME
@example(seed=187052, share=0.4, patience=3)  # two pieces make the last delimiter together
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.03, 0.1, 0.4]), patience=st.integers(0, 3))
def test_every_window_and_lookahead_gives_the_same_text(pair, seed, share, patience):
    results = []
    for window, lookahead in ((None, 0), (1, 0), (4, 1), (16, 2), (None, 2)):
        pair.start_anew(writer(seed), no_digit, first=chooser(seed, pair.base, share))
        trace = pair.solve(
            repair=Correct(window=window), lookahead=lookahead, patience=patience, token_budget=150
        )
        results.append(decided(trace))
        check_books_of_streams(pair, trace)
        assert Trace.from_json(trace.to_json()) == trace
        (asked,) = [seen.turn for seen in pair.of("answer")]
        assert asked == trace.reasoning.removesuffix("\n\n") + "\n\nFinal answer:"
    assert results == [results[0]] * 5


@SOME
@example(seed=480, share=0.3)  # a correction completes a delimiter whose beginning is drafted
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.05, 0.3]))
def test_a_correction_is_where_the_trace_says(pair, seed, share):
    pair.start_anew(writer(seed), no_digit, first=chooser(seed, pair.base, share))
    trace = pair.solve(repair=Correct(window=4), token_budget=150)
    for step in trace.steps:
        for correction in step.corrections:
            assert step.text.startswith(correction.text, correction.at)
            assert correction.drafted or correction.at == len(step.text)
            assert correction.regret == 9.5
        for token in step.reading:
            inside = 0 <= token.at < len(step.text)
            assert not inside or step.text.startswith(token.text, token.at) or "\n\n" in token.text
        assert step.author != "draft" or not step.corrections


@SOME
@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.0, 0.3]),
    repair=st.sampled_from([4, None, "rewrite"]),
)
def test_who_watches_a_run_sees_the_draft_and_changes_nothing(pair, seed, share, repair):
    results, told = [], []
    for on_draft in (None, lambda *news: told.append(news)):
        first = chooser(seed, pair.base, share)
        pair.start_anew(writer(seed), lambda turn: 9 * (chance(seed, turn).random() >= share), first=first)
        how = Rewrite() if repair == "rewrite" else Correct(window=repair)
        trace = pair.solve(repair=how, token_budget=150, lookahead=1, on_draft=on_draft)
        results.append(decided(trace))
    assert results[0] == results[1]
    assert any(draft for draft, _ in told)
    unfinished = trace.steps[-1] if trace.steps[-1].end is None else None
    assert told[-1] == ("", unfinished)
    if not share and trace.stop != "budget":  # which may cut the last text
        assert [draft for draft, _ in told if draft not in f"{trace.reasoning}\n\n"] == []


@SOME
@given(seed=st.integers(0, 10**6))
def test_the_didactic_program_and_the_packages_agree(pair, seed):
    encode = pair.base.chat_template.encode_text
    write = writer(seed, ["So", "it", "is", "3.5", "all."], encode)
    first = chooser(seed, pair.base, texts=(" so", "7", "."))
    pair.start_anew(write, no_digit, first=first)
    limits = {"token_budget": 120, "step_tokens": 256}
    state = correct.run(question="q", draft=pair.draft, **limits, backend=pair.base)
    pair.start_anew(write, no_digit, first=first)
    config = SpecReasonConfig(repair=Correct(window=4), temperature=0, patience=0, **limits)
    trace = solve("q", draft=pair.draft, base=pair.base, config=config)
    if trace.stop != "repetition":  # the didactic program does not detect it
        assert state["chain"].removesuffix("\n\n") == trace.reasoning.removesuffix("\n\n")
        assert len(state["corrections"]) == trace.corrections


def scripted(pair, drafts, first, digit=no_digit, before=lambda request: None, **config):
    """Solve with a draft model that writes the text of `drafts` for each turn."""

    def write(side, turn, most):
        text, end = drafts[turn]
        return text, end, len(text.split())

    pair.start_anew(write, digit, before, first)
    return pair.solve(**{"repair": Correct(window=None), "token_budget": 1000, **config})


def replacing(pair, *pairs):
    """The base model would have written the second text of a pair instead of the token that the first ends
    with. The turn up to there is given whole."""
    tokenizer = pair.base.tokenizer
    ids_of = {turn: pair.base.chat_template.encode_text(text)[0] for turn, text in pairs}

    def first(ids, at):
        turn = tokenizer.decode(ids[: at + 1]).rpartition("<|im_start|>assistant\n")[2]
        return ids_of.get(turn)

    return first


def test_the_draft_continues_from_the_base_models_token(pair):
    drafts = {"": ("2 * 3 is 5", "delimiter"), "2 * 3 is 6": (" and more", "eos")}
    trace = scripted(pair, drafts, replacing(pair, ("2 * 3 is 5", "6")))
    (step,) = trace.steps
    assert (step.text, step.author, step.end) == ("2 * 3 is 6 and more", "both", "eos")
    (correction,) = step.corrections
    assert (correction.at, correction.drafted, correction.text) == (9, "5", "6")
    assert [request.turn for request in pair.of("draft")] == ["", "2 * 3 is 6"]
    assert not pair.of("rewrite")  # the base model decodes nothing


def test_an_end_that_the_base_model_regrets_is_corrected(pair):
    drafts = {"": ("It is 4.", "eos"), "It is 4. a": ("nd so on", "eos")}
    encode = pair.base.chat_template.encode_text
    eos = pair.base.chat_template.end_of_turn

    def first(ids, at):
        ends_here = pair.base.tokenizer.decode(ids[:at]).endswith("It is 4.")
        return encode(" a")[0] if ids[at] == eos and ends_here else None

    trace = scripted(pair, drafts, first)
    assert trace.reasoning == "It is 4. and so on"
    assert trace.steps[0].corrections[0].drafted == "<|im_end|>"


@pytest.mark.parametrize(("choice", "end"), [("<|im_end|>", "eos"), ("\n", "delimiter")])
def test_the_base_model_can_end_the_turn_or_the_step(pair, choice, end):
    template = pair.base.chat_template
    token = template.encode_text("\n")[0] if choice == "\n" else template.end_of_turn
    head = "It is 4.\n" if choice == "\n" else "It is 4."
    drafts = {"": (f"{head}Wait", "delimiter"), "It is 4.\n\n": ("done", "eos")}

    def first(ids, at):
        return token if pair.base.tokenizer.decode(ids[:at]).endswith(head) else None

    trace = scripted(pair, drafts, first)
    assert (trace.steps[0].text, trace.steps[0].end) == ("It is 4.", end)
    assert trace.steps[0].corrections[0].drafted.startswith("W")


def test_the_base_model_completes_a_part_of_a_character(pair):
    piece = pair.base.chat_template.encode_text("🙂")[0]
    assert "\ufffd" in pair.base.chat_template.decode([piece])

    def first(ids, at):
        return piece if pair.base.tokenizer.decode(ids[: at + 1]).endswith("so good") else None

    def write(side, turn, most):
        if side == "base":
            assert most == 4
            return "🙂", "length", 4
        return ("so good", "delimiter", 2) if not turn else (" end", "eos", 1)

    pair.start_anew(write, no_digit, first=first)
    trace = pair.solve(repair=Correct(), token_budget=1000)
    (step,) = trace.steps
    (correction,) = step.corrections
    assert step.text == "so goo"[: correction.at] + "🙂 end"
    assert correction.text == "🙂"
    assert [call.purpose for call in trace.calls] == ["draft", "read", "rewrite", "draft", "read", "answer"]


def test_a_window_is_read_while_the_draft_model_writes_on(pair):
    """The stream is held back until the first window has been read."""
    read = threading.Event()

    def before(request):
        if request.purpose == "read":
            read.set()
        if request.purpose != "draft":
            return None
        events = by_character(answer("one two three four five six", ENDS["eos"], completion_tokens=6))
        place = next(i for i, event in enumerate(events) if event["text"].endswith("four"))
        sent = itertools.count(1)
        return streamed(*events, between=lambda: next(sent) == place and read.wait(20))

    pair.start_anew(lambda *_: ("", "eos", 0), no_digit, before)
    trace = pair.solve(repair=Correct(window=2), token_budget=1000)
    assert trace.reasoning == "one two three four five six"
    assert len(pair.of("read")) >= 2
    assert read.is_set()


def test_a_correction_aborts_the_draft(pair):
    first_turn = []

    def before(request):
        if request.purpose != "draft" or first_turn:
            return None
        first_turn.append(request.rid)
        events = by_character(answer("2 * 3 is 5 so we", ENDS["eos"], completion_tokens=7))[:-2]

        def send(handler):
            streamed(*events, done=False)(handler)
            wait_until(lambda: request.rid in pair.aborted())

        return send

    first = replacing(pair, ("2 * 3 is 5", "6"))
    pair.start_anew(lambda side, turn, most: (" and more", "eos", 2), no_digit, before, first)
    trace = pair.solve(repair=Correct(window=2), token_budget=1000, lookahead=1)
    assert trace.reasoning == "2 * 3 is 6 and more"
    assert first_turn[0] in pair.aborted()
    (cut,) = (call for call in trace.wasted if call.purpose == "draft")  # though nothing came after its abort
    assert 0 < cut.completion_tokens < 7


def token(text, regret, id=1, other=2):
    return TokenLogprob(text, -1.0 - regret, id, (Choice("o", id if not regret else other, -1.0),))


def test_the_first_token_above_its_delta_is_cut():
    tokens = [token("So", 2.0), token(" 12", 1.5), token("=", 0.0), token(" it", 4.0)]
    assert Correct(delta=3, numeric_delta=None).cut(tokens, 0) == 3
    assert Correct(delta=3).cut(tokens, 0) == 1
    assert Correct(delta=1, numeric_delta=9).cut(tokens, 0) == 0
    assert Correct(delta=5, numeric_delta=None).cut(tokens, 0) is None
    assert Correct(delta=3).cut(tokens, 0.5) == 0  # regrets are taken at the temperature


def test_at_delta_0_a_tie_is_the_base_models():
    tie = TokenLogprob("a", -1.0, 1, (Choice("b", 2, -1.0),))
    assert Correct(delta=0).cut([tie], 0) == 0
    assert Correct(delta=0.1).cut([tie], 0) is None


def test_the_base_models_token_is_drawn_after_temperature_and_what_cuts_the_choices():
    choices = [Choice("a", 1, -0.5), Choice("b", 2, -1.5), Choice("c", 3, -4.0)]
    dice = random.Random(0)
    assert draw(choices, 0, 1.0, dice) == choices[0]
    drawn = [draw(choices, 1.0, 1.0, dice).text for _ in range(4000)]
    assert drawn.count("a") / drawn.count("b") == pytest.approx(2.718, rel=0.15)
    assert {draw(choices, 1.0, 0.5, dice).text for _ in range(100)} == {"a"}
    assert {draw(choices, 1.0, 0.9, dice).text for _ in range(200)} == {"a", "b"}
    assert {draw(choices, 1.0, 1.0, dice, top_k=2).text for _ in range(200)} == {"a", "b"}
    assert {draw(choices, 1.0, 1.0, dice, min_p=0.5).text for _ in range(200)} == {"a"}
    cold = [draw(choices, 0.25, 1.0, dice).text for _ in range(1000)]
    assert cold.count("b") < 50


def test_a_step_that_passes_a_verifier_is_kept_whole_and_one_that_fails_is_corrected(pair):
    drafts = {"": ("2 * 3 is 5", "delimiter"), "2 * 3 is 5\n\n": ("4 * 3 is 9", "eos"),
              "2 * 3 is 5\n\n4 * 3 is 1": ("2", "eos")}  # fmt: skip
    first = replacing(pair, ("2 * 3 is 5", "6"), ("2 * 3 is 5\n\n4 * 3 is 9", "1"))

    trace = scripted(
        pair, drafts, first, lambda turn: 0 if turn.endswith("9") else 9,
        repair=Correct(), verifier=UtilityScore(), threshold=5,
    )  # fmt: skip
    assert trace.reasoning == "2 * 3 is 5\n\n4 * 3 is 12"
    assert [step.score for step in trace.steps] == [9.0, 9.0]  # of the last part of a step
    assert [len(step.corrections) for step in trace.steps] == [0, 1]


def test_a_verifier_that_has_read_the_tokens_is_not_asked_twice(pair):
    drafts = {"": ("2 * 3 is 5", "delimiter"), "2 * 3 is 6": ("", "eos")}
    first = replacing(pair, ("2 * 3 is 5", "6"))
    trace = scripted(pair, drafts, first, repair=Correct(), verifier=Likelihood(reduce="min"), threshold=-9.9)
    assert trace.reasoning == "2 * 3 is 6"
    assert [call.purpose for call in trace.steps[0].calls][:2] == ["draft", "score"]


def test_a_draft_that_is_sure_of_itself_is_kept_unread(pair):
    def write(side, turn, most):
        return f"{side} {turn.count('draft') + 1}", "eos" if "draft 2" in turn else "delimiter", 2

    pair.start_anew(write, no_digit, first=lambda ids, at: None)
    trace = pair.solve(repair=Correct(window=None), confidence=-0.6, token_budget=1000)
    assert [step.text for step in trace.steps] == ["draft 1", "draft 2", "draft 3"]
    # The scripted draft gives each text a logprob of -0.5; the end of the turn is read all the same.
    assert len(pair.of("read")) == 1
    pair.start_anew(write, no_digit)
    pair.solve(repair=Correct(window=None), confidence=-0.4, token_budget=1000)
    assert len(pair.of("read")) == 3


def test_drafting_pauses_after_useless_drafts(pair):
    """Each drafted token is wrong: after `patience` corrections the base model continues alone."""

    z = pair.base.chat_template.encode_text("z")[0]
    pair.start_anew(steps_of(4), no_digit, first=lambda ids, at: z if ids[at] != z else None)
    trace = pair.solve(repair=Correct(window=1), token_budget=1000)
    assert trace.corrections == 3
    assert trace.steps[0].text == "zzzbase 1"
    assert trace.steps[0].undrafted == "rejections"
    assert USEFUL_TOKENS > 1


def test_a_run_that_failed_in_the_middle_of_a_step_resumes_there(pair):
    drafts = {"": ("2 * 3 is 5", "delimiter"), "2 * 3 is 6": (" and more", "delimiter"),
              "2 * 3 is 6 and more\n\n": ("done", "eos")}  # fmt: skip
    first = replacing(pair, ("2 * 3 is 5", "6"))
    expected = scripted(pair, drafts, first)

    def fail(request):
        return FAILS if "and more" in request.turn else None

    with pytest.raises(ServerError, match="boom") as raised:
        scripted(pair, drafts, first, before=fail)
    partial = Trace.from_json(raised.value.trace.to_json())
    assert [(step.text, step.end) for step in partial.steps] == [("2 * 3 is 6", None)]
    trace = scripted(pair, drafts, first, resume=partial)
    assert decided(trace) == decided(expected)


@pytest.mark.parametrize("where", ["draft", "read"])
def test_a_run_is_cancelled_in_the_middle_of_a_step(pair, where):
    cancel = Cancel()

    def before(request):
        if request.purpose != where:
            return None
        threading.Thread(target=cancel).start()
        wait_until(lambda: request.rid in pair.aborted())
        return aborted()

    pair.start_anew(writer(1), no_digit, before)
    with pytest.raises(RequestAborted):
        pair.solve(repair=Correct(window=1), lookahead=1, cancel=cancel)
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)


@pytest.mark.parametrize(("draft_name", "base_name"), [("zephyr", "qwen2.5"), ("llama-3", "gemma-2")])
def test_two_vocabularies_write_one_text_whatever_the_window(tmp_path, draft_name, base_name):
    for name in (draft_name, base_name):
        make_tokenizer(name).save_pretrained(tmp_path / name)
    words = ["So", "it", "is", "3.5", "in", "all."]
    with paired(str(tmp_path / draft_name), str(tmp_path / base_name)) as pair:
        write = [writer(seed, words, pair.base.chat_template.encode_text) for seed in range(4)]
        for seed in range(4):
            texts = []
            for window in (None, 1, 5):
                pair.start_anew(write[seed], no_digit, first=chooser(seed, pair.base, 0.08, ("7", ".", "a")))
                trace = pair.solve(repair=Correct(window=window), token_budget=80, lookahead=1)
                texts.append([(step.text, step.corrections) for step in trace.steps])
            assert texts == [texts[0]] * 3
