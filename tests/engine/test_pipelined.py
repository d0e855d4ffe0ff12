"""Drafting ahead on real runtimes."""

from dataclasses import replace

import pytest
import sglang as sgl

from specreason_sgl import Endpoint, Rewrite, SpecReasonConfig, logprobs, score, solve
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.verifier import Drafted, Judgement
from specreason_sgl.reasoning.verifiers import VERIFIERS, PaperScore, YesNo
from tests.support.runtimes import flush_caches
from tests.support.ties import assert_near_tie
from tests.support.waiting import wait_until

QUESTION = "A shop has 17 boxes with 12 pens each. It sells 50 pens. How many pens are left?"


def running(endpoint: Endpoint) -> int:
    loads = endpoint._http.json("GET", "/v1/loads")["loads"]
    return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)


def drafted(step):
    return step.text if step.author == "draft" else step.rejected


def test_two_steps_ahead_write_the_same_steps(pair, draft, base):
    """As far as the engine gives the same tokens: what is computed together changes the last bits of the
    logits, and the text from a near tie on."""
    config = SpecReasonConfig(
        repair=Rewrite(), threshold=FixedShare(0.6),
        temperature=0, token_budget=60, step_tokens=20, answer_tokens=8,
    )  # fmt: skip

    def run(lookahead):
        flush_caches(draft, base)
        trace = solve(QUESTION, draft=draft, base=base, config=replace(config, lookahead=lookahead))
        # An aborted request ends at the next token, not later.
        wait_until(lambda: running(draft) == running(base) == 0, 3)
        return trace

    expected = run(0)
    assert not expected.wasted
    trace = run(2)
    print([call.completion_tokens for call in trace.wasted], trace.rewritten)
    before = ""
    for step, expected_step in zip(trace.steps, expected.steps, strict=False):
        if drafted(step) != drafted(expected_step):
            assert_near_tie(draft, config, QUESTION, before, drafted(step), drafted(expected_step))
            return
        if step.text != expected_step.text:
            assert_near_tie(base, config, QUESTION, before, step.text, expected_step.text)
            return
        assert (step.author, step.end) == (expected_step.author, expected_step.end)
        before += step.text + config.delimiter
    assert (trace.stop, len(trace.steps)) == (expected.stop, len(expected.steps))
    if trace.answer != expected.answer:
        lead = before.removesuffix(config.delimiter) + "\n\nFinal answer:"
        assert_near_tie(base, config, QUESTION, lead, " " + trace.answer, " " + expected.answer)


@sgl.function
def reading(s, before, expression):
    s += sgl.user("What is 3 times 4?")
    s += sgl.assistant_begin()
    s += before
    start = len(s.text())
    s += expression(start)


@pytest.mark.parametrize("text", ["3 times 4 is 12.", "Das heißt é 🙂 好的 12"])
def test_logprobs_are_the_servers_own_of_the_whole_prompt(base, text):
    state = reading.run(before="So:\n\n", expression=lambda start: logprobs("x", text), backend=base)
    tokens = state.get_meta_info("x")["logprobs"]
    ids = base.chat_template.encode(state.stream_executor)
    payload = {
        "input_ids": ids,
        "sampling_params": {"max_new_tokens": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    direct = base._http.json("POST", "/generate", payload)["meta_info"]
    text_ids = base.tokenizer.encode(text, add_special_tokens=False)
    entries = direct["input_token_logprobs"][-len(text_ids) :]
    assert [token for _, token, *_ in entries] == text_ids
    # The direct request computes the whole prompt, the other one the end of it: equal up to rounding.
    assert [token.logprob for token in tokens] == pytest.approx([p for p, *_ in entries], abs=0.15)

    scored = reading.run(
        before="So:\n\n",
        expression=lambda start: text + "\n\nScore: " + score("x", logprobs_of=(start, start + len(text))),
        backend=base,
    ).get_meta_info("x")["logprobs"]
    # ".\n\n" is one token, which is not the step's alone.
    assert len(scored) == len(text_ids) - text.endswith(".")
    assert [token.logprob for token in scored] == pytest.approx(
        [token.logprob for token in tokens[: len(scored)]], abs=0.15
    )
    drafted = Drafted(text, len(text_ids), "delimiter", delimiter="\n\n")
    ended = reading.run(before="So:\n\n", expression=lambda start: logprobs("x", text + "\n\n"), backend=base)
    tokens = drafted.without_delimiter(ended.get_meta_info("x")["logprobs"])
    assert [token.text for token in tokens] == [token.text for token in scored]


@sgl.function
def judged(s, verifier, drafted, before=""):
    s += sgl.user("What is 3 times 4?")
    s += sgl.assistant_begin()
    s += before
    s["found"] = verifier.judgement(verifier.ask(s.fork(1)[0], drafted), drafted)


@pytest.mark.parametrize("name", VERIFIERS)
def test_each_verifier_judges_a_step(base, name):
    judgements: dict[str, Judgement] = {}
    for text in ("3 times 4 is 12.", "3 times 4 is 9998."):
        drafted = Drafted(text, 8, "delimiter")
        judgements[text] = judged.run(verifier=VERIFIERS[name], drafted=drafted, backend=base)["found"]
    right, wrong = judgements.values()
    low, high = VERIFIERS[name].bounds
    assert all(low <= judgement.value <= high for judgement in judgements.values())
    if name in ("likelihood-mean", "likelihood-min", "likelihood-mean-digits", "likelihood-min-digits"):
        assert right.value > wrong.value
    if isinstance(VERIFIERS[name], YesNo):
        assert set(right.probabilities) == {" Yes", " No"}
    if isinstance(VERIFIERS[name], PaperScore):
        assert right.mass > 0.5  # after such a beginning the model writes a digit
