"""The programs to copy, each on real runtimes."""

import math
import statistics
from dataclasses import replace

import pytest
import sglang as sgl
import urllib3

from programs.base_only import INSTRUCTION, base_only
from programs.candidates import QUESTION, candidates
from programs.draft_only import draft_only
from programs.lookahead import lookahead
from programs.reward_guided import reward_guided
from programs.self_eval_beam_search import QUESTION as YES_NO
from programs.self_eval_beam_search import self_eval_beam_search
from programs.specreason import specreason
from specreason_sgl import Endpoint, Rewrite, SpecReasonConfig, score, solve
from specreason_sgl.errors import RequestAborted
from specreason_sgl.lang.requests import RequestRecord
from specreason_sgl.verifiers import RewardModel
from tests.support.runtimes import flush_caches
from tests.support.waiting import wait_until

PROBLEM = "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?"
SHORT = {"token_budget": 36, "step_tokens": 12, "answer_tokens": 4}


@pytest.fixture(scope="module", autouse=True)
def started_early(request, pair, starting):
    """The servers of `more` load while the first of these tests run, if any of them needs it."""
    if any("more" in getattr(item, "fixturenames", ()) for item in request.session.items):
        starting(pair.draft.api_key)


@pytest.fixture(scope="module")
def plain(pair):
    """The steps and digits of programs/specreason.py at a threshold, from empty caches."""
    known = {}

    def run(threshold):
        if threshold not in known:
            with Endpoint(pair.draft) as draft, Endpoint(pair.base) as base:
                flush_caches(draft, base)
                state = specreason.run(
                    question=PROBLEM, draft=draft, threshold=threshold, backend=base, **SHORT
                )
                known[threshold] = state["steps"], state["digits"]
        return known[threshold]

    return run


def test_lookahead_changes_when_things_happen_and_not_what_is_written(draft, base, plain):
    steps, digits = plain(5)
    flush_caches(draft, base)
    state = lookahead.run(question=PROBLEM, draft=draft, threshold=5, backend=base, **SHORT)
    assert (state["steps"], state["digits"]) == (steps, digits)


def test_lookahead_drafts_the_next_step_while_the_base_model_scores(pair):
    drafted: list[RequestRecord] = []
    asked: list[RequestRecord] = []
    with (
        Endpoint(pair.draft, on_request=drafted.append) as draft,
        Endpoint(pair.base, on_request=asked.append) as base,
    ):
        state = lookahead.run(question=PROBLEM, draft=draft, threshold=0, backend=base, **SHORT)
        state.sync()
        scores = [request for request in asked if request.payload["sampling_params"]["max_new_tokens"] == 1]
        assert len(drafted) == len(scores) == len(state["steps"])
        begun = [request.sent_at for request in drafted]
        scored = [request.sent_at + request.seconds for request in scores]
        assert all(begin < end for begin, end in zip(begun[1:], scored[:-1], strict=True))


class EndlessEndpoint(Endpoint):
    """What a state asks for after its first step does not end by itself."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked: set[str] = set()

    def generate(self, s, sampling_params):
        if s.sid in self.asked:
            endless = {"max_new_tokens": 4000, "stop": (), "ignore_eos": True}
            sampling_params = replace(sampling_params, **endless)
        self.asked.add(s.sid)
        return super().generate(s, sampling_params)


def test_lookahead_aborts_the_draft_that_follows_a_rejected_step(pair, base):
    drafted: list[RequestRecord] = []
    with EndlessEndpoint(pair.draft, on_request=drafted.append) as draft:
        settings = {"threshold": 10, "token_budget": 16, "step_tokens": 8, "answer_tokens": 4}
        state = lookahead.run(question=PROBLEM, draft=draft, backend=base, **settings)
        state.sync()
        wait_until(lambda: draft.in_flight() == 0)
        wait_until(lambda: any(isinstance(request.error, RequestAborted) for request in drafted))


@sgl.function
def judged(s, steps, question, how):
    s += sgl.user(f"{PROBLEM}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    s += "\n\n".join(steps) + question + how


def test_candidates_keeps_the_version_with_the_highest_score(draft, base):
    state = candidates.run(question=PROBLEM, draft=draft, versions=3, threshold=0, backend=base, **SHORT)
    chosen = {i: versions for i, versions in enumerate(state["judged"]) if versions}
    assert any(len({text for text, _ in versions}) > 1 for versions in chosen.values())
    for i, versions in chosen.items():  # where all three are empty, which chance may bring, base writes
        assert state["steps"][i] == max(versions, key=lambda version: version[1])[0]
    first = min(chosen)
    for text, value in chosen[first]:
        steps = [*state["steps"][:first], text]
        again = judged.run(steps=steps, question=QUESTION, how=score("x", read="average"), backend=base)
        assert again.get_meta_info("x")["score"] == pytest.approx(value, abs=0.5)


def test_candidates_has_the_base_model_write_where_no_version_passes(draft, base):
    settings = {"step_tokens": 12, "token_budget": 12, "answer_tokens": 4}
    flush_caches(draft, base)
    state = candidates.run(question=PROBLEM, draft=draft, versions=2, threshold=10, backend=base, **settings)
    (step,), (versions,) = state["steps"], state["judged"]
    alone = base_only.run(question=PROBLEM, token_budget=12, answer_tokens=1, backend=base)
    assert step == alone["reasoning"].split("\n\n")[0]
    assert step not in dict(versions)


WIDTH, SAMPLES, LAMBDA = 2, 3, 0.25


@pytest.fixture(scope="module")
def searched(pair):
    settings = {"width": WIDTH, "samples": SAMPLES, "lam": LAMBDA, "max_steps": 2, "step_tokens": 12}
    with Endpoint(pair.base) as base:
        state = self_eval_beam_search.run(question=PROBLEM, answer_tokens=4, backend=base, **settings)
        state.sync()
        yield state


def test_beam_search_keeps_the_chains_with_the_highest_accumulated_scores(searched):
    first, second = searched["rounds"]
    for value, steps in first + second:
        worth = sum(LAMBDA * logprob + (1 - LAMBDA) * math.log(max(c, 1e-9)) for _, logprob, c in steps)
        assert value == pytest.approx(worth)
        assert all(logprob < 0 and 0 <= c <= 1 for _, logprob, c in steps)
    kept = sorted(first, reverse=True)[:WIDTH]
    assert len(first) == SAMPLES
    assert {steps[:1] for _, steps in second} == {steps for _, steps in kept}
    assert (searched["value"], searched["steps"]) == max(second)
    assert "\n\n".join(text for text, *_ in searched["steps"]) in searched.text()


def test_beam_search_believes_a_step_as_much_as_the_model_does(base, searched):
    texts = [text for text, *_ in searched["steps"]]
    for i, (_, _, confidence) in enumerate(searched["steps"]):
        how = score("x", choices=(" Yes", " No"))
        again = judged.run(steps=texts[: i + 1], question=YES_NO, how=how, backend=base)
        assert again.get_meta_info("x")["probabilities"][" Yes"] == pytest.approx(confidence, abs=0.03)


def test_base_only_is_what_the_server_itself_writes(pair, base):
    flush_caches(base)
    state = base_only.run(question=PROBLEM, token_budget=30, answer_tokens=4, backend=base)
    text = state["reasoning"]
    flush_caches(base)
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": f"{PROBLEM}\n\n{INSTRUCTION}"}],
        "max_tokens": 30,
        "temperature": 0,
    }
    key = {"Authorization": f"Bearer {pair.base.api_key}"}
    url = f"{pair.base.url}/v1/chat/completions"
    answer = urllib3.request("POST", url, json=body, headers=key, timeout=120).json()
    assert text == answer["choices"][0]["message"]["content"]
    assert len(text) > 40


def test_draft_only_writes_the_steps_that_speculation_without_a_judge_keeps(draft, plain):
    steps, _ = plain(0)
    flush_caches(draft)
    state = draft_only.run(question=PROBLEM, backend=draft, **SHORT)
    assert state["steps"] == steps
    assert all(cached > 0.8 * prompt for cached, prompt in state["cached"][1:])


def test_reward_guided_keeps_the_steps_with_enough_reward_and_no_others(draft, base, more):
    budgets = {"token_budget": 45, "step_tokens": 15, "answer_tokens": 4}
    with Endpoint(more.reward) as reward:
        models = {"draft": draft, "reward": reward, "backend": base}
        flush_caches(draft, base)
        free = reward_guided.run(question=PROBLEM, threshold=-math.inf, **models, **budgets)
        assert free["steps"] == [text for text, _ in free["rewards"]]
        values = sorted({value for _, value in free["rewards"]})
        assert len(values) >= 2
        threshold = statistics.mean(values[:2])
        flush_caches(draft, base)
        state = reward_guided.run(question=PROBLEM, threshold=threshold, **models, **budgets)
        kept = [value >= threshold for _, value in state["rewards"]]
        assert set(kept) == {True, False}
        drafted = [text for text, _ in state["rewards"]]
        assert [
            kept_text == drafted_text for kept_text, drafted_text in zip(state["steps"], drafted, strict=True)
        ] == kept

        flush_caches(draft, base)
        judge = {"repair": Rewrite(), "verifier": RewardModel(reward), "threshold": threshold}
        config = SpecReasonConfig(**judge, temperature=0, lookahead=0, patience=0, **budgets)
        trace = solve(PROBLEM, draft=draft, base=base, config=config)
        assert [step.text for step in trace.steps] == state["steps"]
        assert [step.score for step in trace.steps] == [value for _, value in state["rewards"]]


def test_the_reward_is_that_of_the_conversation_in_the_reward_models_own_template(draft, base, more):
    with Endpoint(more.reward) as reward:
        state = reward_guided.run(
            question=PROBLEM, draft=draft, reward=reward, threshold=-math.inf, backend=base,
            **SHORT,
        )  # fmt: skip
        head = reward.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{PROBLEM}\n\n{INSTRUCTION}"}],
            add_generation_prompt=True,
            tokenize=False,
        )
        turn, end = state.messages()[-1]["content"], 0
        for step, (_, value) in zip(state["steps"], state["rewards"], strict=True):
            end = turn.index(step, end) + len(step)
            text = head + turn[:end]
            answer = reward._http.json("POST", "/classify", {"text": text})
            assert answer["embedding"] == [pytest.approx(value, rel=0.02)]
