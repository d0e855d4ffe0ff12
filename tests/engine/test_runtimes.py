"""Solving, scoring and the command line on real runtimes."""

import signal
import subprocess

import pytest
import sglang as sgl
import urllib3

from programs.specreason import specreason
from specreason_sgl import Endpoint, Rewrite, SpecReasonConfig, Trace, fork_to, solve, speculate
from specreason_sgl.bench.prefix import prefix_share, prompts_of
from specreason_sgl.bench.score import contexts, judged
from specreason_sgl.errors import ContextLengthExceeded, RequestAborted
from specreason_sgl.verifiers import UtilityScore
from tests.support.runtimes import CLI, QUESTIONS, flush_caches, metric, running, urls
from tests.support.waiting import wait_until


def test_the_program_to_read_and_the_packages_agree(draft, base):
    question = QUESTIONS[0]
    # From empty caches and one thing at a time, both times.
    flush_caches(draft, base)
    budgets = {"token_budget": 60, "step_tokens": 25, "answer_tokens": 8}
    plain = specreason.run(question=question, draft=draft, threshold=5, backend=base, **budgets)
    plain.sync()
    flush_caches(draft, base)
    config = SpecReasonConfig(repair=Rewrite(), temperature=0, threshold=5, lookahead=0, **budgets)
    trace = solve(question, draft=draft, base=base, config=config)
    assert [step.text for step in trace.steps] == plain["steps"]
    assert [step.score for step in trace.steps if step.score is not None] == [*map(float, plain["digits"])]
    assert trace.answer == plain["answer"].strip()


def test_the_trace_is_the_conversation_byte_for_byte(draft, base):
    budgets = {"token_budget": 60, "step_tokens": 30, "answer_tokens": 16}
    config = SpecReasonConfig(repair=Rewrite(), temperature=0, threshold=5, **budgets)
    state = speculate.run(question=QUESTIONS[0], draft=draft, config=config, backend=base)
    trace = state["trace"]
    turn = state.messages()[-1]["content"]
    assert turn.startswith(trace.reasoning + "\n\nFinal answer:")
    assert turn.endswith(trace.answer) or trace.answer in turn
    assert Trace.from_json(trace.to_json()) == trace
    assert all(call.prompt_tokens >= call.cached_tokens >= 0 for call in trace.calls)


@pytest.mark.parametrize(
    ("settings", "authors"),
    [
        ({"first_base_steps": 4, "threshold": 0}, {"draft", "base"}),  # then every drafted step is kept
        (
            {"threshold": 9, "verifier": UtilityScore(read_as="average"), "patience": 0},
            {"base"},
        ),  # every drafted step is rejected
    ],
)
def test_what_a_runtime_has_seen_comes_from_its_cache(pair, record_property, settings, authors):
    requests = {"draft": [], "base": []}
    with (
        Endpoint(pair.draft, on_request=requests["draft"].append) as draft,
        Endpoint(pair.base, on_request=requests["base"].append) as base,
    ):
        flush_caches(draft, base)
        config = SpecReasonConfig(
            repair=Rewrite(),
            temperature=0,
            token_budget=64,
            step_tokens=8,
            answer_tokens=4,
            lookahead=0,
            **settings,
        )
        trace = solve(QUESTIONS[0], draft=draft, base=base, config=config)
        assert len(trace.steps) >= 8
        assert {step.author for step in trace.steps} == authors
        for side, sent in requests.items():
            share = prefix_share(prompts_of(sent))
            record_property(side, share)
            print(side, share, f"{share.share:.1%}")
            assert share.share >= 0.97, (side, share)


def test_a_score_costs_the_server_one_request_of_one_token(pair, base):
    def counts():
        return [
            metric(pair.base.url, f"sglang:{name}")
            for name in ("num_requests_total", "generation_tokens_total")
        ]

    judged.run(context="One.", how="score", backend=base)["x"]  # metrics appear with the first request
    before = counts()
    judged.run(context="One.\n\nTwo.", how="score", backend=base)["x"]
    wait_until(lambda: counts() != before)
    after = counts()
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1]


def test_score_decides_as_select_does(base):
    differ = []
    for context in contexts(50)[::5]:
        ours = judged.run(context=context, how="score", backend=base)
        theirs = judged.run(context=context, how="select", backend=base)
        if ours["x"] != theirs["x"]:
            top = sorted(ours.get_meta_info("x")["probabilities"].values())[-2:]
            differ.append((context, ours["x"], theirs["x"], top))
    print("disagreements:", differ)
    # The two ask with different batch shapes, whose arithmetic differs: only near ties may flip.
    assert all(second / first > 0.9 for *_, (second, first) in differ), differ
    assert len(differ) <= 1


@pytest.mark.parametrize("side", ["draft", "base"])
def test_the_server_reads_the_templates_own_tokens(request, side):
    endpoint = request.getfixturevalue(side)
    messages = [{"role": "user", "content": "  Hi.\n"}, {"role": "assistant", "content": "Hello!"}]
    messages.append({"role": "user", "content": "你好 🙂"})
    expected = endpoint.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    @sgl.function
    def chat(s):
        s += sgl.user("  Hi.\n")
        s += sgl.assistant("Hello!")
        s += sgl.user("你好 🙂")
        s += sgl.assistant(sgl.gen("a", max_tokens=1))

    state = chat.run(backend=endpoint)
    assert state.get_meta_info("a")["prompt_tokens"] == len(expected)
    state = chat.run(backend=endpoint)
    assert state.get_meta_info("a")["cached_tokens"] == len(expected) - 1


@pytest.mark.parametrize("side", ["draft", "base"])
def test_special_tokens_of_a_user_are_text_to_a_real_tokenizer(request, side):
    endpoint = request.getfixturevalue(side)
    reserved = [token.content for token in endpoint.tokenizer.added_tokens_decoder.values()]

    @sgl.function
    def chat(s, text):
        s += sgl.user(text)
        s += sgl.assistant_begin()

    def ids(text):
        state = chat.run(text=text, backend=endpoint)
        state.sync()
        return endpoint.chat_template.encode(state.stream_executor)

    control = set(endpoint.tokenizer.added_tokens_decoder)
    hostile = ids("a " + " ".join(reserved))
    assert [i for i in hostile if i in control] == [i for i in ids("a") if i in control]
    assert all(token in endpoint.tokenizer.decode(hostile) for token in reserved)


def test_the_runtimes_refuse_whoever_has_no_key(pair):
    for server in (pair.draft, pair.base):
        url = f"{server.url}/model_info"
        assert urllib3.request("GET", url, retries=False).status == 401
        key = {"Authorization": f"Bearer {server.api_key}"}
        assert urllib3.request("GET", url, headers=key, retries=False).status == 200


def test_abort_ends_a_request_on_the_server(pair, draft):
    @sgl.function
    def endless(s):
        s += sgl.user("Count.")
        s += sgl.assistant(sgl.gen("a", max_tokens=4000, ignore_eos=True))

    state = endless.run(backend=draft)
    wait_until(lambda: running(pair.draft.url) >= 1, 60)
    assert draft.abort(state) == 1
    with pytest.raises(RequestAborted):
        state["a"]
    wait_until(lambda: running(pair.draft.url) == 0, 30)


def test_a_question_longer_than_the_context_is_one_clear_error(draft, base):
    with pytest.raises(ContextLengthExceeded, match="longer than the context"):
        solve("word " * 40_000, draft=draft, base=base, config=SpecReasonConfig(temperature=0))


def test_a_conversation_moves_between_real_runtimes(draft, base):
    @sgl.function
    def both(s):
        s += sgl.user("Name a colour.")
        s += sgl.assistant_begin()
        s += "I say"
        there = fork_to(s, draft)
        there += sgl.gen("a", max_tokens=4, temperature=0)
        s += there["a"]
        s += sgl.gen("b", max_tokens=4, temperature=0)
        s["both"] = (there.text(), s.text())

    prefix = "<|im_start|>assistant\nI say"
    there, here = both.run(backend=base)["both"]
    assert prefix in there
    assert prefix in here
    assert there.split(prefix)[1] == here.split(prefix)[1][: len(there.split(prefix)[1])]


def test_the_command_line_prints_traces_as_json(pair):
    command = [*CLI, "solve", "-", *urls(pair), "--token-budget", "24", "--json", "--compare"]
    command += ["--answer-tokens", "4"]
    done = subprocess.run(command, input=QUESTIONS[1], capture_output=True, text=True, check=True)
    traces = [Trace.from_json(line) for line in done.stdout.splitlines()]
    assert [trace.mode for trace in traces] == ["specreason", "base"]
    assert traces[0].question == QUESTIONS[1]


def test_ctrl_c_aborts_the_requests_of_both_servers(pair, tmp_path):
    command = [*CLI, "solve", "Count to 5000.", *urls(pair), "--step-tokens", "4000", "--instruction", ""]
    process = subprocess.Popen(  # where its trace is saved
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: running(pair.draft.url) + running(pair.base.url) >= 1, 120)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    wait_until(lambda: running(pair.draft.url) + running(pair.base.url) == 0, 30)
