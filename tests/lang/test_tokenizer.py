"""The tokenizer and the chat template are the server's own."""

import json
import logging

import pytest
import sglang as sgl
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from specreason_sgl import Endpoint
from specreason_sgl.errors import ConfigError
from specreason_sgl.lang.tokenizer import PROBE, load_tokenizer, read_chat_template
from tests.support.asking import ask
from tests.support.tokenizers import byte_level, make_tokenizer

TEXT = " a b\n\ndef f(x):\n    return 12  # é 好 🙂\n"


@pytest.fixture
def byte_level_llama(tmp_path):
    """R1-Distill-Llama's kind: of bytes, declared as one that transformers 5 rebuilds as SentencePiece."""
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=byte_level(), **special)
    wrapped.chat_template = "{{ messages[0].content }}"
    wrapped.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "LlamaTokenizerFast"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return str(tmp_path)


@sgl.function
def complete(s):
    s += TEXT + sgl.gen("a", max_tokens=4)


def test_a_byte_level_tokenizer_that_says_llama_keeps_spaces_and_line_breaks(byte_level_llama):
    plain = AutoTokenizer.from_pretrained(byte_level_llama)
    assert plain.decode(plain.encode(TEXT)) != TEXT  # or this test is about nothing
    tokenizer = load_tokenizer(None, {"model_path": byte_level_llama}, {}, "the server")
    assert tokenizer.decode(tokenizer.encode(TEXT, add_special_tokens=False)) == TEXT


def test_a_program_without_roles_begins_with_the_token_that_the_server_would_add(scripted, byte_level_llama):
    scripted.model_info["tokenizer_path"] = byte_level_llama
    with Endpoint(scripted.url, timeout=20) as endpoint:
        complete.run(backend=endpoint).sync()
        (payload,) = scripted.generated()
        begin, *ids = payload["input_ids"]
        assert begin == endpoint.tokenizer.bos_token_id
        assert endpoint.tokenizer.decode(ids) == TEXT


def tokenize_with(scripted, tokenizer):
    scripted.plays["/tokenize"] = lambda payload: {"tokens": tokenizer.encode(payload["prompt"])}


def test_a_tokenizer_like_the_servers_is_taken(scripted, chatml_folder):
    tokenize_with(scripted, AutoTokenizer.from_pretrained(chatml_folder))
    Endpoint(scripted.url, timeout=20).close()
    assert ("/tokenize", {"prompt": PROBE}) in scripted.requests


def test_a_tokenizer_that_is_not_the_servers_is_refused_with_what_to_pass(scripted, byte_level_llama):
    tokenize_with(scripted, AutoTokenizer.from_pretrained(byte_level_llama))
    with pytest.raises(ConfigError, match=rf"{scripted.url}.*tokenizer=") as refused:
        Endpoint(scripted.url, timeout=20)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "reply", [(404, b"{}"), (500, b"no tokenizer"), {}, {"tokens": [[1]]}, {"tokens": []}, [1], (200, b"?")]
)
def test_a_server_that_does_not_say_how_it_encodes_is_taken(scripted, reply):
    scripted.plays["/tokenize"] = lambda payload: reply
    Endpoint(scripted.url, timeout=20).close()


def loaded_with(monkeypatch, *arguments, **settings):
    calls = []

    def get_tokenizer(name, **settings):
        calls.append((name, settings))
        return AutoTokenizer.from_pretrained(name)

    monkeypatch.setattr("sglang.srt.utils.hf_transformers_utils.get_tokenizer", get_tokenizer)
    load_tokenizer(*arguments, **settings)
    return calls[0]


def test_it_is_loaded_as_the_server_was_told_to(monkeypatch, chatml_folder):
    server_info = {"tokenizer_mode": "slow", "revision": "abc", "trust_remote_code": True}
    name, settings = loaded_with(monkeypatch, None, {"model_path": chatml_folder}, server_info, "url")
    assert (name, settings["tokenizer_mode"], settings["revision"]) == (chatml_folder, "slow", "abc")
    assert settings["trust_remote_code"] is False  # a server alone cannot have code run here


def test_a_tokenizer_that_was_passed_has_no_revision_of_the_servers(monkeypatch, chatml_folder):
    info = {"revision": "abc", "tokenizer_mode": "other"}
    name, settings = loaded_with(
        monkeypatch, chatml_folder, {"model_path": "other"}, info, "url", trust_remote_code=True
    )
    assert (name, settings) == (chatml_folder, {"trust_remote_code": True})


def test_a_slow_tokenizer_is_refused(monkeypatch):
    monkeypatch.setattr("sglang.srt.utils.hf_transformers_utils.get_tokenizer", lambda *_, **__: object())
    with pytest.raises(ConfigError, match=r"must be a fast one .* got object"):
        load_tokenizer("slow", {}, {}, "url")


@pytest.mark.parametrize("name", [5, ["a"], "", None])
def test_a_model_path_that_is_no_name_is_one_error(scripted, name):
    scripted.model_info = {"model_path": name}
    with pytest.raises(ConfigError, match=r"must name its model, got .*; pass tokenizer="):
        Endpoint(scripted.url, timeout=20)


@pytest.mark.parametrize("enabled", [True, False])
def test_an_endpoints_template_settings_reach_the_server(scripted, tmp_path, enabled):
    tokenizer = make_tokenizer("qwen3")
    tokenizer.save_pretrained(tmp_path)
    scripted.model_info["tokenizer_path"] = str(tmp_path)
    with Endpoint(scripted.url, timeout=20, template={"enable_thinking": enabled}) as endpoint:
        assert ask.run(backend=endpoint)["a"] == "ok"
    (payload,) = scripted.generated()
    assert tokenizer.decode(payload["input_ids"]).endswith("</think>\n\n") != enabled


OTHER = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}{% endfor %}[assistant]"


@pytest.mark.parametrize("kind", ["file", "text"])
def test_the_servers_own_chat_template_is_rendered(scripted, tmp_path, kind):
    file = tmp_path / "other.jinja"
    file.write_text(OTHER.replace("\n", "\\n") + "\n")  # SGLang reads \n in such a file as a line break
    scripted.server_info = {"chat_template": str(file) if kind == "file" else OTHER}
    with Endpoint(scripted.url, timeout=20) as endpoint:
        assert endpoint.chat_template.render([{"role": "user", "content": "q"}]) == "[user]\nq[assistant]"


@pytest.mark.parametrize("setting", ["chatml", "/none/here.jinja", "conversation.json", "notes.txt"])
def test_a_chat_template_that_cannot_be_used_is_said_once(scripted, tmp_path, caplog, setting, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text(OTHER)  # not a .jinja file: its text would be sent to the server
    scripted.server_info = {"chat_template": setting}
    with caplog.at_level(logging.WARNING), Endpoint(scripted.url, timeout=20) as endpoint:
        endpoint.chat_template.render([{"role": "user", "content": "q"}])
        rendered = endpoint.chat_template.render([{"role": "user", "content": "r"}])
    assert rendered.startswith("<|im_start|>")
    assert [record.getMessage() for record in caplog.records if setting in record.getMessage()] == [
        f"{scripted.url} was started with --chat-template {setting}, which is not a Jinja template that can "
        "be read here; the tokenizer's own chat template is used"
    ]


@pytest.mark.parametrize("setting", [None, "", 5, ["{{ x }}"]])
def test_a_server_without_a_chat_template_setting_says_nothing(setting, caplog):
    assert read_chat_template({"chat_template": setting}, "url") is None
    assert not caplog.records
