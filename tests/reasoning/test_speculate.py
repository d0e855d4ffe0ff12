"""The algorithm against scripted servers that play both models."""

import threading

import pytest

from specreason_sgl import Cancel, Rewrite, SpecReasonConfig, Trace, solve, solve_alone, speculate
from specreason_sgl.errors import ConfigError, RequestAborted
from specreason_sgl.reasoning.verifiers import QUESTION
from tests.support.pair import ENDS, aborted, paired
from tests.support.scripted import answer, by_character, streamed
from tests.support.tokenizers import make_tokenizer
from tests.support.waiting import wait_until
from tests.support.writers import digit, steps_of

PLAIN = SpecReasonConfig(temperature=0)
THREE_STEPS = (steps_of(3), lambda turn: 9)


def test_good_steps_are_kept_and_bad_ones_rewritten(pair):
    pair.start_anew(steps_of(3), digit)
    steps = []
    trace = pair.solve(on_step=steps.append)
    assert trace.reasoning == "draft 1\n\nbase 2\n\ndraft 3"
    assert [(s.author, s.score, s.rejected) for s in trace.steps] == [
        ("draft", 9.0, None),
        ("base", 0.0, "draft 2"),
        ("draft", 9.0, None),
    ]
    assert (trace.stop, bool(trace.answer), steps) == ("end", True, list(trace.steps))
    assert [call.purpose for call in trace.calls] == [
        "draft", "score", "draft", "score", "rewrite", "draft", "score", "read", "answer",
    ]  # fmt: skip


def test_each_model_reads_the_chain_of_thought_so_far_and_no_rejected_step(pair):
    pair.start_anew(steps_of(3), digit)
    pair.solve()
    turns = [(request.purpose, request.turn) for request in pair.seen]
    turns[-3:-1] = sorted(turns[-3:-1])  # the score and the reading of the last step are in flight together
    chain = "draft 1\n\nbase 2\n\n"
    assert turns == [
        ("draft", ""),
        ("score", "draft 1" + QUESTION),
        ("draft", "draft 1\n\n"),
        ("score", "draft 1\n\ndraft 2" + QUESTION),
        ("rewrite", "draft 1\n\n"),
        ("draft", chain),
        ("read", chain + "draft 3<|im_end|>"),
        ("score", chain + "draft 3" + QUESTION),
        ("answer", chain + "draft 3\n\nFinal answer:"),
    ]


def test_an_empty_draft_is_rejected_without_a_score(pair):
    pair.start_anew(lambda side, turn, most: ("" if side == "draft" else "b", "eos", 3), None)
    trace = pair.solve()
    assert [(s.text, s.author, s.score, s.rejected) for s in trace.steps] == [("b", "base", None, "")]


@pytest.mark.parametrize("name", ["deepseek-r1", "qwen3"])
def test_a_thinking_models_thinking_is_opened_closed_and_answered(tmp_path, name):
    folder = str(tmp_path)
    make_tokenizer(name).save_pretrained(folder)
    with paired(folder, folder, lead="\n</think>\n\n") as pair:
        pair.start_anew(steps_of(2, "think"), lambda turn: 9)
        trace = pair.solve()
        prompts = [pair.base.tokenizer.decode(sent["input_ids"]) for sent in pair.draft_server.generated()]
    assert (trace.reasoning, trace.stop, bool(trace.answer)) == ("draft 1\n\ndraft 2", "end", True)
    assert [prompt.rpartition("<think>\n")[2] for prompt in prompts] == ["", "draft 1\n\n"]
    assert pair.of("answer")[0].turn == "draft 1\n\ndraft 2\n</think>\n\n"
    assert pair.draft_server.generated()[0]["sampling_params"]["stop"] == ["\n\n", "</think>"]


def test_a_run_can_turn_thinking_off(tmp_path):
    """The endpoints' templates do not change."""
    folder, closed = str(tmp_path), "<think>\n\n</think>"
    make_tokenizer("qwen3").save_pretrained(folder)
    with paired(folder, folder) as pair:
        for template, share in (({"enable_thinking": False}, 1), (None, 0)):
            pair.start_anew(*THREE_STEPS)
            trace = pair.solve(template=template)
            sent = [*pair.draft_server.generated(), *pair.base_server.generated()]
            prompts = [pair.base.tokenizer.decode(payload["input_ids"]) for payload in sent]
            assert sum(closed in prompt for prompt in prompts) == share * len(prompts)
            assert trace.config["template"] == template
            assert trace.answer
            pair.lead = "\n</think>\n\n"
        with pytest.raises(ConfigError, match="template must be a mapping"):
            pair.solve(template="no thinking")


def test_the_state_of_a_finished_run_can_be_read(pair):
    pair.start_anew(steps_of(1), lambda turn: 9)
    config = SpecReasonConfig(repair=Rewrite(), temperature=0)
    state = speculate.run(question="q", draft=pair.draft, config=config, backend=pair.base)
    answer = state["trace"].answer
    assert answer
    said = {"role": "assistant", "content": f"draft 1\n\nFinal answer: {answer} "}
    assert state.messages()[-1] == said


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_an_invalid_timeout_is_refused(pair, timeout):
    with pytest.raises(ConfigError, match="timeout"):
        pair.solve(timeout=timeout)


def test_a_conversation_is_answered(pair):
    pair.start_anew(*THREE_STEPS)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a prime."},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "Another?"},
    ]
    config = SpecReasonConfig(repair=Rewrite(), temperature=0, instruction="Think.")
    for trace in (
        solve(messages, draft=pair.draft, base=pair.base, config=config),
        solve_alone(messages, endpoint=pair.base, config=config),
    ):
        assert (trace.question, list(trace.earlier)) == ("Another?", messages[:-1])
        assert Trace.from_json(trace.to_json()) == trace
    expected = pair.base.tokenizer.apply_chat_template(
        [*messages[:-1], {"role": "user", "content": "Another?\n\nThink."}],
        tokenize=False,
        add_generation_prompt=True,
    )
    for server in (pair.draft_server, pair.base_server):
        prompt = pair.base.tokenizer.decode(server.generated()[0]["input_ids"])
        assert prompt.startswith(expected)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": " "}],
        [{"role": "user"}],
        [{"role": "tool", "content": "x"}, {"role": "user", "content": "x"}],
    ],
)
def test_a_malformed_conversation_is_refused(pair, messages):
    with pytest.raises(ConfigError):
        solve(messages, draft=pair.draft, base=pair.base)


def test_the_answer_streams_as_it_is_written(pair):
    pieces = []

    def before(request):
        if request.purpose != "answer":
            return None
        # An answer that arrives only at the end would never get past its first character.
        events = by_character(answer(" 85 ", ENDS["eos"], completion_tokens=2))
        return streamed(*events, between=lambda: wait_until(lambda: pieces))

    pair.start_anew(*THREE_STEPS)
    plain = pair.solve()
    pair.start_anew(*THREE_STEPS, before)
    told = pair.solve(on_text=lambda kind, text: pieces.append((kind, text)))
    assert {kind for kind, _ in pieces} == {"answer"}
    assert "".join(text for _, text in pieces).strip() == told.answer == "85"
    assert told.reasoning == plain.reasoning
    assert told.answer_call.completion_tokens == 2
    assert told.answer_call.seconds > 0


def test_a_model_alone_streams_its_reasoning_too(pair):
    pair.start_anew(lambda *_: ("One.\n\nTwo.", "eos", 5), lambda turn: 9)
    pieces = {"reasoning": "", "answer": ""}

    def on_text(kind, text):
        wait_until(lambda: pair.base.in_flight() == 0)  # a slow reader misses nothing
        pieces[kind] += text

    trace = solve_alone("q", endpoint=pair.base, config=PLAIN, on_text=on_text)
    assert (trace.mode, trace.draft_model) == ("base", None)
    assert [call.purpose for call in trace.calls] == ["reason", "answer"]
    assert (pieces["reasoning"], pieces["answer"].strip()) == (trace.reasoning, trace.answer)
    assert [step.text for step in trace.steps] == ["One.", "Two."]


def test_texts_that_end_the_answer_are_sent_with_its_request(pair):
    pair.start_anew(*THREE_STEPS)
    pair.solve(answer_stop=("###",))
    stops = [request["sampling_params"].get("stop") or [] for request in pair.base_server.generated()]
    assert stops[-1] == ["###"]
    assert all("###" not in texts for texts in stops[:-1])


@pytest.mark.parametrize("where", ["draft", "score", "answer"])
@pytest.mark.parametrize("telling", [False, True])
def test_a_run_is_cancelled_from_another_thread(pair, where, telling):
    cancel = Cancel()

    def before(request):
        if request.purpose != where:
            return None
        threading.Thread(target=cancel).start()
        wait_until(lambda: request.rid in pair.aborted())
        return streamed(*by_character(aborted())) if telling and where == "answer" else aborted()

    pair.start_anew(*THREE_STEPS, before)
    on_text = (lambda kind, text: None) if telling else None
    with pytest.raises(RequestAborted):
        pair.solve(lookahead=1, cancel=cancel, on_text=on_text)
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)
    assert not pair.of("rewrite")  # the base model does not go on without the draft
    asked = len(pair.seen)
    with pytest.raises(RequestAborted):
        pair.solve(cancel=cancel)  # already called: nothing is sent
    assert len(pair.seen) == asked


def test_a_step_of_the_base_model_is_told_as_it_is_written(pair):
    texts = []

    def before(seen):
        whole = answer("base 2", ENDS["delimiter"])
        events = by_character(whole)[2], whole
        waits = streamed(*events, between=lambda: wait_until(lambda: texts))
        return waits if seen.purpose == "rewrite" else None

    def on_draft(draft, step):
        if step and step.author == "base":
            texts.append(draft + step.text)

    pair.start_anew(steps_of(3), digit, before)
    trace = pair.solve(on_draft=on_draft)
    assert (texts[0], texts[-1]) == ("bas", "base 2")
    assert [(step.text, step.author) for step in trace.steps][1] == ("base 2", "base")


def test_an_error_of_who_watches_aborts_what_the_base_model_writes(pair):
    def before(seen):
        part, *_, whole = by_character(answer("base 2", ENDS["delimiter"]))
        waits = streamed(part, whole, between=lambda: wait_until(lambda: seen.rid in pair.aborted()))
        return waits if seen.purpose == "rewrite" else None

    def broken(draft, step):
        if step:
            raise KeyError("mine")

    pair.start_anew(steps_of(3), digit, before)
    with pytest.raises(KeyError, match="mine"):
        pair.solve(on_draft=broken)
    wait_until(lambda: pair.base.in_flight() == 0)


def test_an_error_in_on_text_ends_the_run(pair):
    pair.start_anew(*THREE_STEPS)

    def broken(kind, text):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pair.solve(on_text=broken)
    wait_until(lambda: pair.base.in_flight() == 0)
