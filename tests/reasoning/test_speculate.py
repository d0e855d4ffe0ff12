"""The algorithm against a scripted server that plays both models."""

import threading

import pytest

from specreason_sgl import Cancel, Endpoint, Rewrite, SpecReasonConfig, Trace, solve, solve_alone, speculate
from specreason_sgl.errors import ConfigError, DeadlineExceeded, RequestAborted, ServerError
from specreason_sgl.reasoning.verifiers import QUESTION
from tests.support.pair import aborted
from tests.support.scripted import ScriptedServer, answer, by_character, reading, streamed
from tests.support.tokenizers import make_tokenizer
from tests.support.waiting import wait_until

DELIMITER = {"type": "stop", "matched": "\n\n"}
END = {"type": "stop", "matched": 42}
PAPER = SpecReasonConfig(repair=Rewrite())


class Play:
    """Two scripted servers. They reply with `drafts`, `rewrites` and `scores` in order, then answer."""

    def __init__(self, draft: ScriptedServer, base: ScriptedServer, drafts, scores, rewrites=()):
        self.draft, self.base = Endpoint(draft.url, timeout=20), Endpoint(base.url, timeout=20)
        self.servers = (draft, base)
        self.drafts, self.scores, self.rewrites = iter(drafts), iter(scores), iter(rewrites)
        self.prompts: list[tuple[str, str]] = []
        self.lead = "Final answer:"
        draft.on_generate = lambda payload: self.write("draft", payload, self.drafts)
        base.on_generate = self.play_base

    def write(self, who, payload, texts):
        self.prompts.append((who, self.draft.tokenizer.decode(payload["input_ids"])))
        text, reason = (lambda step: step if isinstance(step, tuple) else (step, DELIMITER))(next(texts))
        return answer(text, reason)

    def play_base(self, payload):
        prompt = self.draft.tokenizer.decode(payload["input_ids"])
        if "token_ids_logprob" in payload:
            self.prompts.append(("score", prompt))
            digit = next(self.scores)
            pairs = [
                [0.0 if i == digit else -9.0, t, None] for i, t in enumerate(payload["token_ids_logprob"])
            ]
            return answer("x", {"type": "length"}, output_token_ids_logprobs=[pairs])
        if "logprob_start_len" in payload:
            self.prompts.append(("read", prompt))
            return answer("", **reading(payload))
        if prompt.endswith(self.lead):
            self.prompts.append(("answer", prompt))
            return answer(" 42 ", END)
        return self.write("rewrite", payload, self.rewrites)

    def solve(self, on_step=None, **config):
        config = SpecReasonConfig(**{"repair": Rewrite(), "temperature": 0, "lookahead": 0, **config})
        return solve("q", draft=self.draft, base=self.base, config=config, on_step=on_step)


@pytest.fixture
def play(chatml_folder):
    with ScriptedServer(chatml_folder) as draft, ScriptedServer(chatml_folder) as base:
        yield lambda *script: Play(draft, base, *script)


def test_good_steps_are_kept_and_bad_ones_rewritten(play):
    pair = play(["A", "B", ("C", END)], [9, 3, 7], ["b"])
    steps = []
    trace = pair.solve(on_step=steps.append)
    assert trace.reasoning == "A\n\nb\n\nC"
    assert [(s.author, s.score, s.rejected) for s in trace.steps] == [
        ("draft", 9.0, None),
        ("base", 3.0, "B"),
        ("draft", 7.0, None),
    ]
    assert (trace.stop, trace.answer, steps) == ("end", "42", list(trace.steps))
    assert [call.purpose for call in trace.calls] == [
        "draft", "score", "draft", "score", "rewrite", "draft", "score", "read", "answer",
    ]  # fmt: skip


def test_each_model_reads_the_chain_of_thought_so_far_and_no_rejected_step(play):
    pair = play(["A", "B", ("C", END)], [9, 3, 7], ["b"])
    pair.solve()
    ends = [(who, prompt.split("assistant\n")[-1]) for who, prompt in pair.prompts]
    ends[-3:-1] = sorted(ends[-3:-1])  # the score and the reading of the last step are in flight together
    assert ends == [
        ("draft", ""),
        ("score", "A" + QUESTION),
        ("draft", "A\n\n"),
        ("score", "A\n\nB" + QUESTION),
        ("rewrite", "A\n\n"),
        ("draft", "A\n\nb\n\n"),
        ("read", "A\n\nb\n\nC<|im_end|>"),
        ("score", "A\n\nb\n\nC" + QUESTION),
        ("answer", "A\n\nb\n\nC\n\nFinal answer:"),
    ]


def test_the_base_model_can_write_the_first_steps(play):
    trace = play([("C", END)], [9], ["a", "b"]).solve(first_base_steps=2)
    assert [step.author for step in trace.steps] == ["base", "base", "draft"]
    assert trace.steps[0].score is None
    assert trace.steps[0].rejected is None


def test_an_empty_draft_is_rejected_without_a_score(play):
    trace = play([("", END)], [], [("b", END)]).solve()
    assert [(s.text, s.author, s.score, s.rejected) for s in trace.steps] == [("b", "base", None, "")]
    assert trace.rewritten == 1


def test_a_score_at_the_threshold_is_kept(play):
    assert play([("A", END)], [5]).solve(threshold=5).kept == 1


def test_the_budget_ends_the_thinking_and_the_answer_is_written(play):
    pair = play(["A", "B", "C"], [9, 9, 9])
    trace = pair.solve(token_budget=6)  # the scripted server reports 3 tokens per step
    assert (len(trace.steps), trace.stop, trace.answer) == (2, "budget", "42")
    budgets = [p["sampling_params"]["max_new_tokens"] for p in pair.servers[0].generated()]
    assert budgets == [6, 3]


def test_alone_is_one_request_and_the_answer(play):
    pair = play([], [], [("A\n\nB", END)])
    trace = solve_alone("q", endpoint=pair.base, config=SpecReasonConfig(temperature=0))
    assert [step.text for step in trace.steps] == ["A", "B"]
    assert (trace.mode, trace.answer, trace.draft_model) == ("base", "42", None)
    assert [call.purpose for call in trace.calls] == ["reason", "answer"]


@pytest.mark.parametrize(("name", "opening"), [("deepseek-r1", "<think>\n"), ("qwen3", "<think>\n")])
def test_a_thinking_models_thinking_is_opened_closed_and_answered(tmp_path, name, opening):
    make_tokenizer(name).save_pretrained(tmp_path)
    think = {"type": "stop", "matched": "</think>"}
    with ScriptedServer(str(tmp_path)) as draft, ScriptedServer(str(tmp_path)) as base:
        pair = Play(draft, base, ["A", ("B", think)], [9, 9])
        pair.lead = "\n</think>\n\n"
        trace = pair.solve()
    assert (trace.reasoning, trace.stop, trace.answer) == ("A\n\nB", "end", "42")
    turns = [(who, prompt.rpartition(opening)[2]) for who, prompt in pair.prompts]
    assert turns[0] == ("draft", "")
    assert turns[2] == ("draft", "A\n\n")
    assert turns[-1] == ("answer", "A\n\nB\n</think>\n\n")
    assert draft.generated()[0]["sampling_params"]["stop"] == ["\n\n", "</think>"]


def test_a_run_can_turn_thinking_off(tmp_path):
    """The endpoints' templates do not change."""
    make_tokenizer("qwen3").save_pretrained(tmp_path)
    with ScriptedServer(str(tmp_path)) as draft, ScriptedServer(str(tmp_path)) as base:
        play = Play(draft, base, ["A", ("B", END), "A", ("B", END)], [9] * 4)
        trace = play.solve(template={"enable_thinking": False})
        assert (trace.reasoning, trace.answer) == ("A\n\nB", "42")
        assert trace.config["template"] == {"enable_thinking": False}
        assert all("<think>\n\n</think>" in prompt for _, prompt in play.prompts)
        asked = len(play.prompts)
        play.lead = "\n</think>\n\n"
        play.solve()
        assert not any("<think>\n\n</think>" in prompt for _, prompt in play.prompts[asked:])
        with pytest.raises(ConfigError, match="template must be a mapping"):
            play.solve(template="no thinking")


def test_the_state_of_a_finished_run_can_be_read(play):
    pair = play([("A", END)], [9])
    config = SpecReasonConfig(repair=Rewrite(), temperature=0)
    state = speculate.run(question="q", draft=pair.draft, config=config, backend=pair.base)
    assert state.messages()[-1] == {"role": "assistant", "content": "A\n\nFinal answer: 42 "}
    assert state["trace"].answer == "42"


def test_a_failing_runtime_is_one_clear_error(play):
    pair = play(["A"], [])
    pair.servers[1].on_generate = lambda payload: (500, b'{"error": {"message": "boom"}}')
    with pytest.raises(ServerError, match="boom") as raised:
        pair.solve()
    assert pair.servers[1].url in str(raised.value)
    assert pair.draft.in_flight() == pair.base.in_flight() == 0


def test_no_thread_is_left_after_success_or_failure(play):
    play([], [])  # starts connections and the thread that watches the main thread
    before = threading.active_count()
    play(["A", ("B", END)], [9, 9]).solve(lookahead=1)
    pair = play(["A"], [])
    pair.servers[1].on_generate = lambda payload: (500, b"{}")
    with pytest.raises(ServerError):
        pair.solve()
    wait_until(lambda: threading.active_count() <= before + 2)  # the servers' own connections


def test_a_run_that_is_late_ends_with_its_request_aborted(play):
    pair = play(["A"], [])
    pair.servers[1].on_generate = pair.servers[1].hang
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        solve("q", draft=pair.draft, base=pair.base, config=PAPER, timeout=0.3)
    wait_until(lambda: pair.servers[1].aborted() == [pair.servers[1].generated()[0]["rid"]])


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_an_invalid_timeout_is_refused(play, timeout):
    pair = play([], [])
    with pytest.raises(ConfigError, match="timeout"):
        solve("q", draft=pair.draft, base=pair.base, timeout=timeout)


def test_an_error_in_on_step_is_raised_and_ends_the_run(play):
    def broken(step):
        raise KeyError("mine")

    pair = play(["A"], [9])
    with pytest.raises(KeyError, match="mine"):
        pair.solve(on_step=broken)


def three_steps(side, turn, most):
    number = turn.count("\n\n") + 1
    return f"{side} {number}", "eos" if number == 3 else "delimiter", 3


THREE_STEPS = (three_steps, lambda turn: 9)


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
        events = by_character(answer(" 85 ", END, completion_tokens=2))
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

    trace = solve_alone("q", endpoint=pair.base, config=SpecReasonConfig(temperature=0), on_text=on_text)
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
    asked = len(pair.seen)
    with pytest.raises(RequestAborted):
        pair.solve(cancel=cancel)  # already called: nothing is sent
    assert len(pair.seen) == asked


def test_an_error_in_on_text_ends_the_run(pair):
    pair.start_anew(*THREE_STEPS)

    def broken(kind, text):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pair.solve(on_text=broken)
    wait_until(lambda: pair.base.in_flight() == 0)
