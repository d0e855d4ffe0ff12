"""The command line's client of a running server, and a conversation with it."""

import json

import pytest

from specreason_sgl import Trace
from specreason_sgl.errors import ConfigError, ServerError, ServerUnreachable, Unauthorized
from specreason_sgl.serving.client import ask
from tests.support.serving import serving

QUESTION = [{"role": "user", "content": "q"}]


pytestmark = pytest.mark.usefixtures("calm")


def test_the_steps_and_the_answer_come_as_the_server_sends_them(url):
    steps, parts = [], []
    trace = ask(url, QUESTION, {}, on_step=steps.append, on_text=lambda *news: parts.append(news))
    assert tuple(steps) == trace.steps
    assert ({part for part, _ in parts}, "".join(text for _, text in parts)) == ({"answer"}, trace.answer)
    assert trace.reasoning == "draft 1\n\ndraft 2\n\ndraft 3"


def test_drafts_come_with_the_step_that_they_continue(url):
    told = []
    trace = ask(url, QUESTION, {"repair": "correct"}, on_draft=lambda *news: told.append(news))
    assert any(draft.startswith("draft 1") for draft, _ in told)
    assert told[-1] == ("", None)
    assert {step and step.text for _, step in told} >= {None}
    assert trace.reasoning == ask(url, QUESTION, {"repair": "correct"}).reasoning


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_url_may_name_the_api_or_the_server(url, path):
    assert ask(url + path, QUESTION, {}).answer


def test_what_is_given_goes_before_the_servers_settings(pair, url):
    given = {"token_budget": 7, "temperature": 0.5, "template": {"enable_thinking": False}, "delta": 1.0}
    config = ask(url, QUESTION, given).config
    assert (config["token_budget"], config["temperature"]) == (7, 0.5)
    assert (config["template"], config["repair"]["delta"]) == ({"enable_thinking": False}, 1.0)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"lookahead": 99}, "specreason.lookahead must be a whole number from 0 to 16, got 99")],
)
def test_a_refusal_is_in_the_servers_words(url, given, says):
    with pytest.raises(ConfigError, match=says):
        ask(url, QUESTION, given)


def test_what_goes_wrong_is_one_of_the_packages_errors(pair, scripted):
    with pytest.raises(ServerUnreachable, match=r"nobody answers at http://127\.0\.0\.1:9"):
        ask("http://127.0.0.1:9", QUESTION, {})
    with serving(pair, api_key="secret") as url:
        with pytest.raises(Unauthorized, match="--api-key"):
            ask(url, QUESTION, {})
        assert ask(url, QUESTION, {}, "secret").answer
    with pytest.raises(ServerError, match="failed"):
        ask(scripted.url, QUESTION, {})


def test_solve_asks_a_running_server(run_command, url):
    done = run_command("solve", "q", "--server", url, "--json", "--token-budget", "9")
    assert (done.returncode, done.stderr) == (0, "")
    trace = Trace.from_json(done.stdout)
    assert (trace.question, trace.config["token_budget"]) == ("q", 9)
    shown = run_command("solve", "q", "--server", url, "--token-budget", "9")
    assert "draft 1" in shown.stdout
    assert trace.answer in shown.stdout


@pytest.mark.parametrize("option", [["--compare"], ["--resume", "x.json"]])
def test_what_needs_the_runtimes_cannot_be_asked_of_a_server(run_command, url, option):
    done = run_command("solve", "q", "--server", url, *option)
    assert done.stderr == "error: --server must come without --resume and --compare\n"


def test_a_conversation_remembers_what_was_said(run_command, pair, url):
    done = run_command("chat", "--server", url, "--quiet", input="q\n\nand then?\n")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    prompts = [pair.draft.tokenizer.decode(body["input_ids"]) for body in pair.draft_server.generated()]
    assert f"<|im_start|>assistant\n{first}<|im_end|>" in prompts[-1]
    assert "and then?" in prompts[-1]
    assert second


def test_a_conversation_with_a_pair_shows_the_steps_and_survives_an_error(run_command, pair):
    servers = ["--draft-url", pair.draft_server.url, "--base-url", pair.base_server.url]
    refused = json.dumps({"error": {"message": "no"}}).encode()
    failures = iter([(400, refused)])
    pair.before = lambda seen: next(failures, None) if seen.side == "base" else None
    done = run_command("chat", *servers, "--temperature", "0", input="bad\ngood\n")
    assert done.returncode == 0
    assert done.stderr.count("error: ") == 1
    assert "draft 2" in done.stdout
