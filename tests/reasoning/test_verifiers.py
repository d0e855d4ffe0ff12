"""The requests of verifiers to a scripted server, and what they read from its answers."""

import threading
import time

import numpy as np
import pytest
import sglang as sgl

from specreason_sgl import Endpoint, Rewrite, SpecReasonConfig, score, solve_batch
from specreason_sgl.errors import ConfigError, DeadlineExceeded, ServerError, VerifierError
from specreason_sgl.lang.logprobs import TokenLogprob
from specreason_sgl.reasoning.verifier import RESULT, Drafted, Judgement, Verifier, as_verifier
from specreason_sgl.reasoning.verifiers import (
    PAPER_ANSWER,
    PAPER_QUESTION,
    YES_NO,
    Likelihood,
    PaperScore,
    RewardModel,
    UtilityScore,
    YesNo,
)
from tests.support.checks import check_books
from tests.support.scripted import ScriptedServer, answer, reading
from tests.support.waiting import wait_until
from tests.support.writers import steps_of

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

STEP = "Then 12 é are left"
PAPER = SpecReasonConfig(repair=Rewrite())


@sgl.function
def judged(s, verifier, drafted, before="So\n\n"):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += before
    s["judgement"] = verifier.judgement(verifier.ask(s.fork(1)[0], drafted), drafted)


class Judge:
    """Answers with a logprob of -i / 8 for the step's i-th token, and with the first choice at 3/4 of `mass`,
    which all choices have together."""

    def __init__(self, server: ScriptedServer):
        self.mass = 1.0
        self.endpoint, self.server = Endpoint(server.url, timeout=20), server
        self.step = self.endpoint.tokenizer.encode(STEP, add_special_tokens=False)
        server.on_generate = self.reply

    def logprobs(self):
        return [-i / 8 for i in range(len(self.step))]

    def texts(self):
        return [self.endpoint.tokenizer.decode([i]) for i in self.step]

    def reply(self, payload):
        ids, meta = payload["input_ids"], {"completion_tokens": payload["sampling_params"]["max_new_tokens"]}
        if isinstance(ids[0], list):  # the sequences of a select, " Yes" first
            replies = []
            for sequence, p in zip(ids, (0.75, 0.25), strict=True):
                entries = [
                    [0.0, token, self.endpoint.tokenizer.decode([token])]
                    for token in sequence[payload["logprob_start_len"] :]
                ]
                entries[-1][0] = float(np.log(p))
                replies.append(answer("", input_token_logprobs=entries, output_token_logprobs=[]))
            return replies
        if "logprob_start_len" in payload:
            at = next(i for i in range(len(ids)) if ids[i : i + len(self.step)] == self.step)
            values = {at + i: value for i, value in enumerate(self.logprobs())}
            meta = {**reading(payload, lambda ids, at: values.get(at, -77.0)), **meta}
        if "token_ids_logprob" in payload:
            n = len(payload["token_ids_logprob"])
            probabilities = [0.75 * self.mass] + [0.25 * self.mass / (n - 1)] * (n - 1)
            meta["output_token_ids_logprobs"] = [
                [
                    [float(np.log(p)), token, None]
                    for p, token in zip(probabilities, payload["token_ids_logprob"], strict=True)
                ]
            ]
        return answer("", {"type": "length"}, **{"prompt_tokens": len(ids), **meta})

    def __call__(self, verifier, text=STEP, delimiter=""):
        drafted = Drafted(text, 5, "delimiter", delimiter)
        return judged.run(verifier=verifier, drafted=drafted, backend=self.endpoint)["judgement"]

    def prompts(self):
        return [self.endpoint.tokenizer.decode(payload["input_ids"]) for payload in self.server.generated()]


@pytest.fixture
def judge(scripted):
    return Judge(scripted)


def test_a_likelihood_is_the_mean_or_the_minimum_of_the_steps_tokens(judge):
    values = judge.logprobs()
    judgement = judge(Likelihood())
    assert judgement.value == pytest.approx(sum(values) / len(values))
    assert [(token.id, token.logprob) for token in judgement.tokens] == list(
        zip(judge.step, values, strict=True)
    )
    assert judge(Likelihood(reduce="min")).value == values[-1]
    payload = judge.server.generated()[-1]
    assert payload["sampling_params"]["max_new_tokens"] == 0
    assert payload["input_ids"][-len(judge.step) :] == judge.step  # no question after it


def test_what_ended_a_step_is_not_judged(judge):
    words = tuple(TokenLogprob(text, -1.0) for text in ("So", " 12"))
    between, shared = TokenLogprob("\n\n", -9.0), TokenLogprob(".\n\n", -3.0)
    drafted = Drafted("So 12.", 3, "delimiter", "\n\n")
    assert drafted.without_delimiter((*words, between)) == words
    assert drafted.without_delimiter((*words, shared)) == words
    assert drafted.without_delimiter((*words, TokenLogprob(".\n", -3.0), TokenLogprob("\n", -9.0))) == words
    assert drafted.without_delimiter(words) == words
    assert Drafted("So 12.", 3, "eos").without_delimiter((*words, between)) == (*words, between)
    judge(Likelihood(), delimiter="\n\n")
    assert judge.prompts()[-1].endswith(STEP + "\n\n")
    judge(Likelihood())
    assert judge.prompts()[-1].endswith(STEP)


def test_a_likelihood_of_digits_ignores_other_tokens(judge):
    at = [i for i, text in enumerate(judge.texts()) if any(c.isdigit() for c in text)]
    assert len(at) == 2
    values = [judge.logprobs()[i] for i in at]
    assert judge(Likelihood(tokens="digits")).value == pytest.approx(sum(values) / 2)
    assert judge(Likelihood(tokens="digits", reduce="min")).value == min(values)


def test_a_step_without_digits_is_not_judged_by_them(judge):
    judge.step = judge.endpoint.tokenizer.encode("None", add_special_tokens=False)
    assert judge(Likelihood(tokens="digits"), text="None").value == 0.0


def test_yes_or_no_is_the_probability_of_yes(judge):
    judgement = judge(YesNo())
    assert judgement.value == pytest.approx(0.75)
    assert judgement.probabilities == pytest.approx({" Yes": 0.75, " No": 0.25})
    assert judge.prompts()[0].endswith(STEP + YES_NO)


def test_choices_of_several_tokens_still_give_the_steps_logprobs(judge):
    """SGLang's own select asks for such choices; its requests have no logprobs of the step."""
    assert len(judge.endpoint.tokenizer.encode(" Yes", add_special_tokens=False)) > 1
    judgement = judge(YesNo(with_logprobs=True))
    assert [token.logprob for token in judgement.tokens] == judge.logprobs()
    assert judgement.value == pytest.approx(0.75)
    assert judge(YesNo()).tokens == ()


def test_the_digit_keeps_the_steps_logprobs_on_request(judge):
    judgement = judge(UtilityScore(with_logprobs=True))
    assert judgement.value == 0.0
    assert [token.logprob for token in judgement.tokens] == judge.logprobs()
    assert "".join(token.text for token in judgement.tokens) == STEP
    assert [token.id for token in judgement.tokens] == judge.step
    assert judge(UtilityScore()).tokens == ()
    assert "logprob_start_len" not in judge.server.generated()[1]


def test_a_digit_that_the_base_model_would_not_write_counts_as_zero(judge):
    """Other words have a probability of 0.8, and then of 0.95."""
    verifier = UtilityScore(read_as="average")
    judge.mass = 0.2
    sure = judge(verifier)
    assert (sure.value, sure.mass) == (pytest.approx(0.25 / 9 * 45), pytest.approx(0.2))
    judge.mass = 0.05
    assert (judge(verifier).value, judge(verifier).mass) == (0.0, pytest.approx(0.05))
    assert judge(UtilityScore(read_as="average", least_mass=0.04)).value == pytest.approx(sure.value)


@pytest.mark.parametrize("verifier", [UtilityScore, PaperScore])
def test_an_unknown_way_to_read_digits_is_refused(verifier):
    with pytest.raises(ConfigError, match="read_as must be"):
        verifier(read_as="median")


def test_the_papers_question_is_a_user_turn(judge):
    judgement = judge(PaperScore())
    (prompt,) = judge.prompts()
    assert prompt.endswith(
        f"<|im_start|>assistant\nSo\n\n{STEP}<|im_end|>\n<|im_start|>user\n{PAPER_QUESTION}<|im_end|>\n"
        f"<|im_start|>assistant\n{PAPER_ANSWER}"
    )
    assert judgement.value == 0.0
    assert judgement.probabilities["0"] == pytest.approx(0.75)
    judge(PaperScore(question="How good?", answer="It is "))
    assert judge.prompts()[1].endswith("user\nHow good?<|im_end|>\n<|im_start|>assistant\nIt is ")


def value_of(result) -> float:
    """The judgement that a verifier's result becomes."""
    return as_verifier(lambda s, drafted: result).judgement(None, Drafted(STEP, 5, "delimiter")).value


@pytest.mark.parametrize("value", [3, 2.5, np.float32(2.5), np.int64(3), float("inf"), Judgement(1)])
def test_any_number_is_a_judgement(value):
    assert type(value_of(value)) is float
    assert value_of(value) == (value.value if isinstance(value, Judgement) else value)


@pytest.mark.parametrize("value", [None, "7", float("nan"), Judgement(float("nan")), np.float32("nan"), [1]])
def test_a_result_that_is_not_a_number_is_refused(value):
    with pytest.raises(VerifierError, match="must return a number"):
        value_of(value)


# In a whole run.


def test_a_function_can_be_the_verifier(pair):
    pair.start_anew(lambda side, turn, most: (f"{side}{turn.count('x')}x", "eos", 3), None)
    heard = []

    def short(s, drafted):
        heard.append((s.text().rpartition("assistant\n")[2], drafted.text, drafted.tokens, drafted.end))
        return -len(drafted.text)

    trace = pair.solve(verifier=short, threshold=-7)
    assert trace.steps[0].score == -7.0
    assert heard == [("", "draft0x", 3, "eos")]
    assert not pair.of("score")
    assert pair.solve(verifier=short, threshold=-6).steps[0].author == "base"


def no_number(s, drafted):
    return float("nan")


def raises(s, drafted):
    raise KeyError("my key")


class AskRaises(Verifier):
    def ask(self, s, drafted):
        raise KeyError("my key")


class ReadRaises(UtilityScore):
    def read(self, meta, drafted):
        raise KeyError("my key")


class ReadsText(UtilityScore):
    def read(self, meta, drafted):
        return "seven"


BROKEN = {
    "no_number": (no_number, "no_number must return a number or a Judgement, got nan"),
    "raises": (raises, "the verifier raises failed: KeyError: 'my key'"),
    "AskRaises": (AskRaises(), "the verifier AskRaises failed: KeyError: 'my key'"),
    "ReadRaises": (ReadRaises(), "the verifier ReadRaises failed: KeyError: 'my key'"),
    "ReadsText": (ReadsText(), "the verifier ReadsText must return a number or a Judgement, got 'seven'"),
}


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("name", BROKEN)
def test_a_verifier_that_fails_is_one_clear_error(pair, name, lookahead):
    verifier, says = BROKEN[name]
    pair.start_anew(lambda side, turn, most: (f"{turn.count('x')}x", "delimiter", 3), lambda turn: 9)
    with pytest.raises(VerifierError) as raised:
        pair.solve(verifier=verifier, threshold=0, lookahead=lookahead)
    assert says in str(raised.value)
    assert raised.value.trace.stop == "failed"
    wait_until(lambda: pair.draft.in_flight() == pair.base.in_flight() == 0)


def test_a_failed_request_of_a_verifier_is_the_servers_error(pair, reward):
    reward.on_classify = lambda payload: (400, b'{"error": {"message": "not an embedding model"}}')
    pair.start_anew(one_step, None, lambda request: (400, b"{}") if request.purpose == "score" else None)
    for verifier, said in (
        (UtilityScore(), pair.base.base_url),
        (asks_itself, pair.base.base_url),
        (RewardModel(reward.endpoint), "not an embedding model"),
    ):
        with pytest.raises(ServerError, match=said) as raised:
            pair.solve(verifier=verifier, threshold=0)
        assert not isinstance(raised.value, VerifierError)


def asks_itself(s, drafted):
    """A function that writes on its fork."""
    s += drafted.text + score("points")
    return s.get_meta_info("points")["score"]


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_function_can_ask_the_base_model(pair, lookahead):
    pair.start_anew(steps_of(3), lambda turn: 0 if turn.endswith("draft 2") else 8)
    trace = pair.solve(verifier=asks_itself, threshold=5, lookahead=lookahead)
    assert trace.reasoning == "draft 1\n\nbase 2\n\ndraft 3"
    assert [step.score for step in trace.steps] == [8.0, 0.0, 8.0]


def test_a_function_is_not_called_for_what_is_drafted_beyond_a_rejected_step(pair):
    judged = []

    def rejects_the_second(s, drafted):
        if drafted.text == "draft 1":  # later drafts exist when the second is judged
            wait_until(lambda: len(pair.of("draft")) == 3 and pair.draft.in_flight() == 0)
            time.sleep(0.05)
        judged.append(drafted.text)
        return float(drafted.text != "draft 2")

    pair.start_anew(steps_of(4), None)
    trace = pair.solve(verifier=rejects_the_second, threshold=1, lookahead=2)
    assert trace.reasoning == "draft 1\n\nbase 2\n\ndraft 3\n\ndraft 4"
    assert judged == ["draft 1", "draft 2", "draft 3", "draft 4"]
    assert "draft" in {call.purpose for call in trace.wasted}
    assert "score" not in {call.purpose for call in trace.wasted}
    check_books(pair, trace)


def test_a_user_can_write_a_verifier_of_two_phases(pair):
    """It can request anything on its fork."""

    class Short(Verifier):
        bounds = (-100.0, 0.0)
        question = "How long is that? "

        def ask(self, s, drafted):
            s += drafted.text + self.question + score(RESULT)
            return s

        def read(self, meta, drafted):
            return Judgement(-meta["score"], {"much": 0.5})

    pair.start_anew(one_step, lambda turn: 4 if turn == "AHow long is that? " else 9)
    (step,) = pair.solve(verifier=Short(), threshold=-5).steps
    assert (step.author, step.score, step.probabilities) == ("draft", -4.0, {"much": 0.5})
    with pytest.raises(ConfigError, match="threshold must be a number from -100 to 0"):
        pair.solve(verifier=Short(), threshold=1)


def test_the_draft_models_logprobs_are_requested_only_when_needed(pair):
    pair.start_anew(one_step, lambda turn: 9)
    pair.solve(confidence=-1.0)
    assert pair.draft_server.generated()[0]["return_logprob"] is True
    pair.start_anew(one_step, lambda turn: 9)
    pair.solve()
    assert "return_logprob" not in pair.draft_server.generated()[0]


# A reward model.


@pytest.fixture
def reward(chatml_folder):
    with ScriptedServer(chatml_folder) as server, Endpoint(server.url, timeout=20) as endpoint:
        server.on_classify = lambda payload: classified(3.5)
        server.endpoint = endpoint
        yield server


def classified(embedding):
    return {"embedding": embedding, "meta_info": {"prompt_tokens": 7, "cached_tokens": 0}}


@pytest.mark.parametrize(
    ("embedding", "value"),
    [(3.5, 3.5), ([3.5], 3.5), ([0.0, 0.0], 0.5), ([800.0, 0.0], 0.0), ([1.0, 1.0, 1.0 + np.log(2)], 0.5)],
)
def test_a_reward_model_reads_the_conversation_and_gives_its_value(pair, reward, embedding, value):
    reward.on_classify = lambda payload: classified(embedding)
    pair.start_anew(lambda side, turn, most: ("It is 4.", "eos", 3), None)
    trace = pair.solve(verifier=RewardModel(reward.endpoint), threshold=-5)
    assert trace.steps[0].score == pytest.approx(value)
    assert [(c.purpose, c.prompt_tokens) for c in trace.steps[0].calls][1] == ("score", 7)
    (payload,) = [payload for path, payload in reward.requests if path == "/classify"]
    text = reward.endpoint.tokenizer.decode(payload["input_ids"])
    assert text.endswith("<|im_start|>assistant\nIt is 4.")


@pytest.mark.parametrize("own", [True, False])
def test_a_verifiers_requests_have_the_runs_deadline_and_are_aborted_with_it(pair, reward, own):
    ended, aborted = [], (pair if own else reward).aborted

    def hang(rid):
        wait_until(lambda: rid in aborted())
        ended.append(rid)

    reward.on_classify = lambda payload: hang(payload["rid"]) or classified(1.0)
    pair.start_anew(one_step, None, lambda request: hang(request.rid) if request.purpose == "score" else None)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
        pair.solve(verifier=asks_itself if own else RewardModel(reward.endpoint), threshold=0, timeout=0.5)
    wait_until(lambda: len(ended) == 1)
    assert pair.base.in_flight() == reward.endpoint.in_flight() == 0


# Batches.


def one_step(side, turn, most):
    return "A", "eos", 3


def test_a_batch_returns_results_in_order_and_a_failure_in_its_place(pair, capfd):
    pair.start_anew(one_step, lambda turn: 9)
    play, results_by_index = pair.base_server.on_generate, {}

    def reply(payload):
        if "bad" in pair.draft.tokenizer.decode(payload["input_ids"]):
            return 400, b'{"error": {"message": "boom"}}'
        return play(payload)

    pair.base_server.on_generate = reply
    questions = ["one", "bad", "two", "", "three"]
    try:
        results = solve_batch(
            questions, draft=pair.draft, base=pair.base, config=PAPER, concurrency=2,
            on_done=results_by_index.__setitem__, progress_bar=True,
        )  # fmt: skip
    finally:
        pair.base_server.on_generate = play
    done = [getattr(result, "question", type(result)) for result in results]
    assert done == ["one", ServerError, "two", ConfigError, "three"]
    assert results[1].trace.question == "bad"
    assert results_by_index == dict(enumerate(results))
    assert "5/5" in capfd.readouterr().err


def test_a_batch_without_problems_or_without_concurrency(pair):
    assert solve_batch([], draft=pair.draft, base=pair.base) == []
    with pytest.raises(ConfigError, match="concurrency"):
        solve_batch(["q"], draft=pair.draft, base=pair.base, concurrency=0)


def test_a_batch_that_is_interrupted_aborts_what_runs_and_ends(pair):
    """Two at a time: one is finished, one in flight, two not started."""
    in_flight = threading.Event()

    def before(request):
        if len(pair.of("draft")) > 1 and request.purpose == "draft":
            in_flight.set()
            wait_until(lambda: request.rid in pair.aborted())

    def interrupt(position, result):
        assert in_flight.wait(60)
        raise KeyboardInterrupt

    pair.start_anew(one_step, lambda turn: 9, before)
    with pytest.raises(KeyboardInterrupt):
        solve_batch(
            ["a", "b", "c", "d"], draft=pair.draft, base=pair.base, config=PAPER, concurrency=1,
            on_done=interrupt,
        )  # fmt: skip
    assert pair.draft.in_flight() == pair.base.in_flight() == 0
    assert len(pair.of("draft")) < 4


def test_the_timeout_of_a_batch_applies_to_each_problem(pair):
    hang = threading.Event()

    def before(request):
        if request.purpose == "draft" and not hang.is_set():
            hang.set()
            wait_until(lambda: request.rid in pair.aborted())

    pair.start_anew(one_step, lambda turn: 9, before)
    results = solve_batch(
        ["a", "b"], draft=pair.draft, base=pair.base, config=PAPER, concurrency=1, timeout=2.5
    )
    assert isinstance(results[0], DeadlineExceeded)
    assert results[1].answer
