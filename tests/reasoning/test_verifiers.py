"""What verifiers ask of a scripted server, and what they make of its answers."""

import threading

import numpy as np
import pytest
import sglang as sgl

from specreason_sgl import Endpoint, SpecReasonConfig, solve_batch
from specreason_sgl.errors import ConfigError, DeadlineExceeded, ServerError
from specreason_sgl.lang.score import TokenLogprob
from specreason_sgl.reasoning.speculate import good_head
from specreason_sgl.reasoning.verifiers import (
    BUILT_IN,
    SAME,
    YES_NO,
    Combined,
    Drafted,
    Judgement,
    Likelihood,
    RewardModel,
    SameMeaning,
    UtilityScore,
    YesNo,
    get_verifier,
    judgement,
)
from tests.scripted import ScriptedServer, answer, wait_until

STEP = "Then 12 é are left"


@sgl.function
def judged(s, verifier, drafted, before="So\n\n"):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += before
    s["found"] = judgement(verifier(s.fork(1)[0], drafted))


class Judge:
    """Answers with a logprob of -i / 8 for the step's i-th token, and with the first choice at 3/4."""

    def __init__(self, server: ScriptedServer):
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
            for one, p in zip(ids, (0.75, 0.25), strict=True):
                entries = [
                    [0.0, token, self.endpoint.tokenizer.decode([token])]
                    for token in one[payload["logprob_start_len"] :]
                ]
                entries[-1][0] = float(np.log(p))
                replies.append(answer("", input_token_logprobs=entries, output_token_logprobs=[]))
            return replies
        if (start := payload.get("logprob_start_len")) is not None:
            at = next(i for i in range(len(ids)) if ids[i : i + len(self.step)] == self.step)
            values = {at + i: value for i, value in enumerate(self.logprobs())}
            entries = [[values.get(i, -77.0), ids[i], None] for i in range(start, len(ids))]
            entries[0][0] = None
            meta["input_token_logprobs"] = entries
        if "token_ids_logprob" in payload:
            n = len(payload["token_ids_logprob"])
            probabilities = [0.75] + [0.25 / (n - 1)] * (n - 1)
            meta["output_token_ids_logprobs"] = [
                [
                    [float(np.log(p)), token, None]
                    for p, token in zip(probabilities, payload["token_ids_logprob"], strict=True)
                ]
            ]
        return answer("", {"type": "length"}, **{"prompt_tokens": len(ids), **meta})

    def __call__(self, verifier, logprobs=(), text=STEP, delimiter=""):
        drafted = Drafted(text, 5, "delimiter", logprobs, delimiter)
        return judged.run(verifier=verifier, drafted=drafted, backend=self.endpoint)["found"]


@pytest.fixture
def judge(scripted):
    return Judge(scripted)


def test_a_likelihood_is_the_mean_or_the_worst_of_the_steps_own_tokens(judge):
    values = judge.logprobs()
    assert judge(Likelihood()).value == pytest.approx(sum(values) / len(values))
    assert judge(Likelihood(reduce="min")).value == values[-1]
    payload = judge.server.generated()[-1]
    assert payload["sampling_params"]["max_new_tokens"] == 0
    assert payload["input_ids"][-len(judge.step) :] == judge.step  # no question after it


def test_what_ended_a_step_is_not_judged(judge):
    own = tuple(TokenLogprob(text, -1.0) for text in ("So", " 12"))
    between, shared = TokenLogprob("\n\n", -9.0), TokenLogprob(".\n\n", -3.0)
    drafted = Drafted("So 12.", 3, "delimiter", delimiter="\n\n")
    assert drafted.own_tokens((*own, between)) == own
    assert drafted.own_tokens((*own, shared)) == own
    assert drafted.own_tokens((*own, TokenLogprob(".\n", -3.0), TokenLogprob("\n", -9.0))) == own
    assert drafted.own_tokens(own) == own
    assert Drafted("So 12.", 3, "eos").own_tokens((*own, between)) == (*own, between)
    judge(Likelihood(), delimiter="\n\n")
    asked = judge.endpoint.tokenizer.decode(judge.server.generated()[-1]["input_ids"])
    assert asked.endswith(STEP + "\n\n")
    judge(Likelihood())
    asked = judge.endpoint.tokenizer.decode(judge.server.generated()[-1]["input_ids"])
    assert asked.endswith(STEP)


def test_a_likelihood_of_digits_looks_at_these_alone(judge):
    at = [i for i, text in enumerate(judge.texts()) if any(c.isdigit() for c in text)]
    assert len(at) == 2
    found = [judge.logprobs()[i] for i in at]
    assert judge(Likelihood(tokens="digits")).value == pytest.approx(sum(found) / 2)
    assert judge(Likelihood(tokens="digits", reduce="min")).value == min(found)


def test_a_step_without_digits_is_not_judged_by_them(judge):
    judge.step = judge.endpoint.tokenizer.encode("None", add_special_tokens=False)
    assert judge(Likelihood(tokens="digits"), text="None").value == 0.0


def test_the_drafts_own_likelihood_is_taken_off(judge):
    own = (TokenLogprob("Then", -1.0), TokenLogprob(" 1", -3.0))
    mean = judge(Likelihood()).value
    assert judge(Likelihood(minus_draft=True), own).value == pytest.approx(mean + 2.0)
    assert judge(Likelihood(minus_draft=True, tokens="digits"), own).value == pytest.approx(
        judge(Likelihood(tokens="digits")).value + 3.0
    )
    assert Likelihood(minus_draft=True).wants_draft_logprobs
    assert not Likelihood().wants_draft_logprobs


def test_yes_or_no_is_the_probability_of_yes(judge):
    found = judge(YesNo())
    assert found.value == pytest.approx(0.75)
    assert found.probabilities == pytest.approx({" Yes": 0.75, " No": 0.25})
    assert judge.endpoint.tokenizer.decode(judge.server.generated()[0]["input_ids"]).endswith(STEP + YES_NO)


def test_a_choice_of_several_tokens_leaves_the_logprobs_of_the_step(judge):
    """It is asked for by SGLang's own select, whose requests do not have them."""
    assert len(judge.endpoint.tokenizer.encode(" Yes", add_special_tokens=False)) > 1
    found = judge(Combined(((1.0, YesNo()), (1.0, Likelihood()))))
    assert [one.logprob for one in found.logprobs] == judge.logprobs()
    assert found.value == pytest.approx(0.75 + judge(Likelihood()).value)


def test_the_digit_keeps_the_steps_logprobs_where_they_are_wanted(judge):
    found = judge(UtilityScore(with_logprobs=True))
    assert found.value == 0.0
    assert [one.logprob for one in found.logprobs] == judge.logprobs()
    assert [one.text for one in found.logprobs] == judge.texts()
    assert judge(UtilityScore()).logprobs == ()
    assert "logprob_start_len" not in judge.server.generated()[1]


def test_one_question_and_likelihoods_are_one_request(judge):
    verifier = Combined(
        ((2.0, Likelihood()), (10.0, UtilityScore(read="average")), (-1.0, Likelihood(reduce="min")))
    )
    parts = [judge(one).value for _, one in verifier.parts]
    before = len(judge.server.generated())
    found = judge(verifier)
    assert found.value == pytest.approx(2 * parts[0] + 10 * parts[1] - parts[2])
    assert len(judge.server.generated()) == before + 1
    assert [one.logprob for one in found.logprobs] == judge.logprobs()


def test_two_questions_are_two_requests_after_the_same_text(judge):
    second = UtilityScore(question="\n\nHow clear, 0 to 9? ", read="average")
    verifier = Combined(((1.0, UtilityScore(read="average")), (10.0, second)))
    found = judge(verifier)
    scores = [p for p in judge.server.generated() if "token_ids_logprob" in p]
    texts = {judge.endpoint.tokenizer.decode(p["input_ids"]).partition("So\n\n")[2] for p in scores}
    assert texts == {STEP + UtilityScore().question, STEP + second.question}
    assert found.value == pytest.approx(11 * judge(second).value)


def test_likelihoods_alone_are_one_request_without_a_token(judge):
    found = judge(Combined(((1.0, Likelihood()), (1.0, Likelihood(reduce="min")))))
    assert found.value == pytest.approx(judge(Likelihood()).value + judge(Likelihood(reduce="min")).value)
    assert len(judge.server.generated()) == 3


@pytest.mark.parametrize("parts", [(), ((1.0, len),), ((1.0, RewardModel(None)),)])
def test_what_cannot_be_combined_is_refused(parts):
    with pytest.raises(ConfigError, match="needs parts"):
        Combined(parts)


@pytest.mark.parametrize("value", [3, 2.5, np.float32(2.5), np.int64(3), float("inf"), Judgement(1)])
def test_any_number_is_a_judgement(value):
    found = judgement(value)
    assert type(found.value) is float
    assert found.value == (value.value if isinstance(value, Judgement) else value)


@pytest.mark.parametrize("value", [None, "7", float("nan"), Judgement(float("nan")), np.float32("nan"), [1]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ConfigError, match="returns a number"):
        judgement(value)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_verifier_is_found_by_its_name(name):
    assert get_verifier(name) == BUILT_IN[name]
    SpecReasonConfig(verifier=get_verifier(name), threshold=0)


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


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_verifier_that_finds_no_number_fails_the_run(pair, lookahead):
    pair.start_anew(lambda side, turn, most: (f"{turn.count('x')}x", "delimiter", 3), None)
    with pytest.raises(ConfigError, match="returns a number"):
        pair.solve(verifier=lambda s, drafted: float("nan"), threshold=0, lookahead=lookahead)
    assert pair.draft.in_flight() == 0


def test_the_draft_models_logprobs_are_asked_for_where_they_are_wanted(pair):
    pair.start_anew(lambda side, turn, most: (f"{turn.count('x')}x", "eos", 3), None)
    pair.solve(verifier=Likelihood(minus_draft=True), threshold=-100)
    (payload,) = pair.draft_server.generated()
    assert (payload["return_logprob"], payload["return_text_in_logprobs"]) == (True, True)
    pair.start_anew(pair.write, lambda turn: 9)
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


def test_a_reward_model_that_fails_is_one_clear_error(pair, reward):
    reward.on_classify = lambda payload: (400, b'{"error": {"message": "not an embedding model"}}')
    pair.start_anew(lambda side, turn, most: ("A", "eos", 3), None)
    with pytest.raises(ServerError, match="not an embedding model"):
        pair.solve(verifier=RewardModel(reward.endpoint), threshold=0)


def test_a_reward_model_has_the_runs_deadline_and_is_aborted_with_it(pair, reward):
    ended = []

    def hang(payload):
        wait_until(lambda: payload["rid"] in reward.aborted(), 5)
        ended.append(payload["rid"])
        return classified(1.0)

    reward.on_classify = hang
    pair.start_anew(lambda side, turn, most: ("A", "eos", 3), None)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        pair.solve(verifier=RewardModel(reward.endpoint), threshold=0, timeout=0.3)
    wait_until(lambda: ended == reward.aborted()[:1] != [])
    assert reward.endpoint.in_flight() == 0


def test_each_question_of_a_verifier_has_the_runs_deadline(pair):
    """The second is asked on a fork that the verifier makes itself."""

    ended = []

    def before(seen):
        if seen.purpose == "score" and seen.turn.endswith("Second? "):
            wait_until(lambda: seen.rid in pair.aborted(), 5)
            ended.append(seen.rid)

    questions = (1.0, UtilityScore()), (1.0, UtilityScore(question="\n\nSecond? "))
    pair.start_anew(lambda side, turn, most: ("A", "eos", 3), lambda turn: 9, before)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
        pair.solve(verifier=Combined(questions), threshold=0, timeout=0.5)
    wait_until(lambda: len(ended) == 1)
    assert pair.base.in_flight() == 0


# What is kept of a rejected step.


def tokens(*pieces):
    """Pieces of text; one that begins with "!" is unlikely."""
    return [TokenLogprob(one.removeprefix("!"), -9.0 if one.startswith("!") else -0.5) for one in pieces]


@pytest.mark.parametrize(
    ("pieces", "head", "count"),
    [
        (["One", ".", " Two", "! is"], "One.", 2),
        (["One", ".", "! Two", ". Three"], "One.", 2),
        (["One", "!.", " Two"], "", 0),  # the full stop itself is unlikely
        (["!One", ". Two"], "", 0),
        (["So", " 3", ".", "5", " is", "! it"], "", 0),  # "3.5" is no end of a sentence
        (["1", ".", " ", "!One"], "", 0),  # nor is "1."
        (["1", ".", " Take", " it", ".", "! Then"], "1. Take it.", 5),
        (["Really", "?", " Yes", "!", " and", "!so"], "Really? Yes!", 4),
        (["One", ".\n", "Two", "!x"], "One.", 2),
        (["One", "\n", "Two", "!x"], "One", 1),
        (["One. Tw", "!o"], "One.", 1),  # a token that goes on after the sentence
        (["好的", "。", "再", "!来"], "好的。", 2),
        (["One", "."], "", 0),  # no token is unlikely
        ([], "", 0),
        (["One", ".", " Two", "."], "", 0),
    ],
)
def test_the_sentences_before_the_first_unlikely_token_are_kept(pieces, head, count):
    text = "".join(one.removeprefix("!") if one != "!" else "!" for one in pieces)
    found = [TokenLogprob("!", -0.5) if one == "!" else tokens(one)[0] for one in pieces]
    assert good_head(text, found, -5.0) == (head, count)


def split(likely: bool):
    """A step with a character that two tokens share, as its tokens are decoded one by one."""
    last = " late." if likely else "! late."
    return "One. So 🙂 is. Too late.", tokens(
        "One", ".", " So", " \ufffd", "\ufffd", " is", ".", " Too", last
    )


def test_a_character_that_tokens_share_ends_what_can_be_kept():
    text, found = split(likely=False)
    assert good_head(text, found, -5.0) == ("One.", 2)


def test_a_character_that_tokens_share_is_not_unlikely():
    text, found = split(likely=True)
    assert good_head(text, found, -5.0) == ("", 0)


# Batches.


def one_step(side, turn, most):
    return "A", "eos", 3


def test_a_batch_gives_its_results_in_order_and_a_failure_leaves_the_others(pair, capfd):
    pair.start_anew(one_step, lambda turn: 9)
    play, seen = pair.base_server.on_generate, {}

    def reply(payload):
        if "bad" in pair.draft.tokenizer.decode(payload["input_ids"]):
            return 400, b'{"error": {"message": "boom"}}'
        return play(payload)

    pair.base_server.on_generate = reply
    questions = ["one", "bad", "two", "", "three"]
    try:
        results = solve_batch(
            questions,
            draft=pair.draft,
            base=pair.base,
            num_threads=2,
            on_done=seen.__setitem__,
            progress_bar=True,
        )
    finally:
        pair.base_server.on_generate = play
    assert [getattr(one, "question", type(one)) for one in results] == [
        "one",
        ServerError,
        "two",
        ConfigError,
        "three",
    ]
    assert seen == dict(enumerate(results))
    assert "5/5" in capfd.readouterr().err


def test_a_batch_of_nothing_and_of_no_threads(pair):
    assert solve_batch([], draft=pair.draft, base=pair.base) == []
    with pytest.raises(ConfigError, match="num_threads"):
        solve_batch(["q"], draft=pair.draft, base=pair.base, num_threads=0)


def test_a_batch_that_is_interrupted_aborts_what_runs_and_ends(pair):
    """Two at a time: one is done, one in flight, two have not begun."""
    in_flight = threading.Event()

    def before(seen):
        if len(pair.of("draft")) > 1 and seen.purpose == "draft":
            in_flight.set()
            wait_until(lambda: seen.rid in pair.aborted())

    def interrupt(position, result):
        assert in_flight.wait(10)
        raise KeyboardInterrupt

    pair.start_anew(one_step, lambda turn: 9, before)
    with pytest.raises(KeyboardInterrupt):
        solve_batch(["a", "b", "c", "d"], draft=pair.draft, base=pair.base, num_threads=1, on_done=interrupt)
    assert pair.draft.in_flight() == pair.base.in_flight() == 0
    assert len(pair.of("draft")) < 4


def test_the_timeout_of_a_batch_is_each_problems(pair):
    hang = threading.Event()

    def before(seen):
        if seen.purpose == "draft" and not hang.is_set():
            hang.set()
            wait_until(lambda: seen.rid in pair.aborted())

    pair.start_anew(one_step, lambda turn: 9, before)
    results = solve_batch(["a", "b"], draft=pair.draft, base=pair.base, num_threads=1, timeout=1.5)
    assert isinstance(results[0], DeadlineExceeded)
    assert results[1].answer


def test_the_same_meaning_is_asked_of_both_versions(judge):
    drafted = Drafted(STEP, 5, "delimiter", own="Hence 12 remain")
    found = judged.run(verifier=SameMeaning(), drafted=drafted, backend=judge.endpoint)["found"]
    assert found.value == pytest.approx(0.75)
    asked = judge.endpoint.tokenizer.decode(judge.server.generated()[0]["input_ids"])
    assert asked.endswith(STEP + SAME.replace("{own}", "Hence 12 remain"))


def test_equal_versions_need_no_question(judge):
    drafted = Drafted(STEP, 5, "delimiter", own=f" {STEP.upper()}\n")
    found = judged.run(verifier=SameMeaning(), drafted=drafted, backend=judge.endpoint)["found"]
    assert found.value == 1.0
    assert judge.server.generated() == []
