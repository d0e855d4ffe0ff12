"""Chat templates: what is sent is the model's own template's rendering, and text stays text."""

import pytest
import sglang as sgl
from sglang.lang.ir import SglRoleBegin

from specreason_sgl.errors import ConfigError, TemplateError
from specreason_sgl.lang.chat import TokenizerChatTemplate, exact_messages
from specreason_sgl.lang.fork import fork_to
from tests.support.states import Backend, new_state, sent
from tests.support.tokenizers import SPECIAL_TOKENS, make_tokenizer

CONVERSATIONS = {
    "one question": [("user", "What is 2 + 2?")],
    "several turns": [("user", "Hi."), ("assistant", "Hello!"), ("user", "What is 2 + 2?")],
    "white space": [("user", "\n  indented question \n\n"), ("assistant", "Yes.\n"), ("user", " and\t")],
    "other scripts": [("user", "שלום 你好 🙂 é"), ("assistant", "好"), ("user", "…")],
    "earlier thinking": [("user", "a?"), ("assistant", "<think>\nhm\n</think>\n\nb"), ("user", "c?")],
    "with system": [("system", "Be brief."), ("user", "What is 2 + 2?")],
}


def messages_of(turns):
    return [{"role": role, "content": content} for role, content in turns]


def conversation(tokenizer, turns, settings=None):
    """A state with these turns, and the assistant's begun."""
    state = new_state(tokenizer, settings)
    for role, content in turns:
        state += getattr(sgl, role)(content)
    state += sgl.assistant_begin()
    return state


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_is_sent_is_what_apply_chat_template_gives(tokenizer, name):
    turns = CONVERSATIONS[name]
    messages, state = messages_of(turns), conversation(tokenizer, turns)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as refused:
        with pytest.raises(TemplateError, match=str(refused)[:20]):
            sent(state)
        return
    assert sent(state) == tokenizer.encode(text, add_special_tokens=False)
    state += "So far"
    assert sent(state) == tokenizer.encode(text + "So far", add_special_tokens=False)


def test_the_text_of_a_state_is_the_templates_rendering_too(tokenizer):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    messages, state = messages_of(turns), conversation(tokenizer, turns)
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    template = state.stream_executor.chat_template
    if not template.opens_thinking:  # there the template rewrites the earlier turn; what is sent is exact
        assert state.text() == expected
    assert sent(state) == tokenizer.encode(expected, add_special_tokens=False)


def test_thinking_marks_are_text_in_a_users_message():
    tokenizer = make_tokenizer("qwen3")
    state = conversation(tokenizer, [("user", "Say </think> and <think>.")])
    ids = sent(state)
    think = set(tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
    assert not think & set(ids)
    state += "<think>\nhm"
    assert think & set(sent(state))


def test_forged_guard_marks_do_not_become_special_tokens():
    tokenizer = make_tokenizer("qwen2.5")
    state = conversation(tokenizer, [("user", "\ue0000\ue001 \ue0001\ue001 <|im_end|>")])
    ids = sent(state)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 2  # the default system message's and the user's
    assert "<|im_start|>" not in tokenizer.decode(ids).split("user\n")[1].split("assistant")[0].replace(
        "<|im_end|>\n<|im_start|>", ""
    )


def test_text_between_roles_is_refused_with_what_to_do():
    state = new_state(make_tokenizer("chatml"))
    state += sgl.user("a")
    state += "between"
    state += sgl.user("b")
    state += sgl.assistant_begin()
    with pytest.raises(TemplateError, match="put it inside a role"):
        sent(state)


def test_a_model_without_a_template_says_so():
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = None
    state = conversation(tokenizer, [("user", "a")])
    with pytest.raises(TemplateError, match="has no chat template"):
        sent(state)


def test_a_program_without_roles_is_sent_as_plain_text():
    tokenizer = make_tokenizer("chatml")
    state = new_state(tokenizer)
    state += "The capital of France is"
    assert sent(state) == tokenizer.encode("The capital of France is")


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
@pytest.mark.parametrize("content", ["", " ", "\n\n", "x\n", " \n x"])
def test_exact_contents_are_read_back_from_the_text(name, content):
    state = conversation(make_tokenizer(name), [("user", content)])
    state += "tail"
    state.sync()
    messages, tail = exact_messages(state.stream_executor)
    assert tail == "tail"
    assert messages[0]["content"].strip() == content.strip()
    assert state.text().startswith(
        state.stream_executor.chat_template.get_prefix_and_suffix("user", [])[0] + messages[0]["content"]
    )


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_fork_to_an_equal_template_keeps_every_byte(name):
    state = conversation(make_tokenizer(name), [("user", "\n What?")])
    state += "First,\n\nthen"
    forked = fork_to(state, Backend(make_tokenizer(name)))
    assert forked.text() == state.text()
    assert sent(forked) == sent(state)
    forked += " more"
    assert state.text() + " more" == forked.text()


@pytest.mark.parametrize("source", SPECIAL_TOKENS)
@pytest.mark.parametrize("target", SPECIAL_TOKENS)
def test_fork_to_another_template_is_the_same_conversation_there(source, target):
    there = make_tokenizer(target)
    state = conversation(make_tokenizer(source), [("user", "What is 2 + 2?")])
    state += state.stream_executor.chat_template.thinking_prefix
    state += "Two and"
    template = TokenizerChatTemplate(there, target)
    opening = ""
    if SPECIAL_TOKENS[source]["added"][:1] == ["<think>"]:
        opening = template.thinking_prefix
    expected = there.apply_chat_template(
        [{"role": "user", "content": "What is 2 + 2?"}], tokenize=False, add_generation_prompt=True
    )
    forked = fork_to(state, Backend(there))
    assert forked.text() == expected + opening + "Two and"
    assert forked.messages() == state.messages()


def test_fork_to_in_the_middle_of_a_users_turn():
    state = new_state(make_tokenizer("chatml"))
    state.stream_executor.submit(SglRoleBegin("user"))
    state += "half a quest"
    forked = fork_to(state, Backend(make_tokenizer("llama-3")))
    assert forked.text() == "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhalf a quest"


@pytest.mark.parametrize(
    ("name", "thinking", "opens", "prefix"),
    [
        ("deepseek-r1", True, True, ""),
        ("qwen3", True, False, "<think>\n"),
        ("qwen2.5", False, False, ""),
    ],
)
def test_thinking_models_are_recognised(name, thinking, opens, prefix):
    template = TokenizerChatTemplate(make_tokenizer(name), name)
    assert (template.thinking, template.opens_thinking, template.thinking_prefix) == (thinking, opens, prefix)


CLOSED = "<think>\n\n</think>\n\n"
DEEPSEEK_V31 = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}{% else %}"
    "<｜User｜>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>"
    "{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("name", "settings", "thinking", "opens", "prefix"),
    [
        ("qwen3", {"enable_thinking": True}, True, False, "<think>\n"),
        ("qwen3", {"enable_thinking": False}, False, False, ""),
        ("deepseek-v3.1", {}, False, False, ""),
        ("deepseek-v3.1", {"thinking": False}, False, False, ""),
        ("deepseek-v3.1", {"thinking": True}, True, True, ""),
    ],
)
def test_a_model_thinks_where_its_generation_prompt_lets_it(name, settings, thinking, opens, prefix):
    tokenizer = make_tokenizer("deepseek-r1" if name == "deepseek-v3.1" else name)
    if name == "deepseek-v3.1":
        tokenizer.chat_template = DEEPSEEK_V31
    template = TokenizerChatTemplate(tokenizer, name, settings)
    assert (template.thinking, template.opens_thinking, template.thinking_prefix) == (thinking, opens, prefix)


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("enabled", [True, False])
def test_settings_of_the_template_are_in_all_that_is_sent(name, enabled):
    tokenizer = make_tokenizer("qwen3")
    turns = CONVERSATIONS[name]
    state = conversation(tokenizer, turns, {"enable_thinking": enabled})
    state += "So far"
    text = tokenizer.apply_chat_template(
        messages_of(turns), tokenize=False, add_generation_prompt=True, enable_thinking=enabled
    )
    assert text.endswith(CLOSED) != enabled
    assert sent(state) == tokenizer.encode(text + "So far", add_special_tokens=False)
    assert state.text().endswith(f"{'' if enabled else CLOSED}So far")


def test_the_templates_settings_are_those_it_was_made_with():
    settings = {"enable_thinking": False}
    template = TokenizerChatTemplate(make_tokenizer("qwen3"), "qwen3", settings)
    settings["enable_thinking"] = True
    assert not template.thinking


@pytest.mark.parametrize(
    "settings", [["enable_thinking"], "x", {1: True}, {"tokenize": True, "messages": []}]
)
def test_settings_that_are_not_the_templates_are_refused(settings):
    with pytest.raises(ConfigError, match="template must"):
        TokenizerChatTemplate(make_tokenizer("qwen3"), "qwen3", settings)


def test_a_setting_that_the_template_does_not_use_is_said(caplog):
    TokenizerChatTemplate(make_tokenizer("qwen3"), "qwen3", {"enable_thinking": False, "thinkin": 1})
    TokenizerChatTemplate(make_tokenizer("qwen2.5"), "qwen2.5", {"enable_thinking": False})
    assert [record.getMessage() for record in caplog.records] == [
        "the chat template of qwen3 does not use the setting 'thinkin'",
        "the chat template of qwen2.5 does not use the setting 'enable_thinking'",
    ]


VOCABULARY = ["\n\n", "\n\n\n", "  ", "    ", "<table>", "</h1>", "<unused7>", "[multimodal]", "ing"]


def with_added_tokens(name, special, *texts):
    from tokenizers import AddedToken

    tokenizer = make_tokenizer(name)
    tokenizer.add_tokens([AddedToken(text, special=special, normalized=False) for text in texts])
    return tokenizer


@pytest.mark.parametrize("name", ["gemma-2", "qwen3"])
@pytest.mark.parametrize(
    "text", ["a\n\nb\n\n\nc", "x\n    y  z", "<table></h1> <unused7>", "[multimodal]ing"]
)
@pytest.mark.parametrize("marked", ["", " <|im_end|><eos>"])
def test_added_tokens_for_ordinary_text_are_sent_whole(name, text, marked):
    tokenizer = with_added_tokens(name, False, *VOCABULARY)
    state = conversation(tokenizer, [("user", f"{text}{marked}")])
    expected = [token for token in tokenizer.encode(text) if tokenizer.decode([token]) in VOCABULARY]
    assert expected
    at_start = iter(sent(state))
    assert all(token in at_start for token in expected)  # in this order


@pytest.mark.parametrize(
    ("text", "special"),
    [
        ("<|fim_prefix|>", False),
        ("<｜tool▁calls▁begin｜>", False),
        ("<tool_call>", False),
        ("</think>", False),
        ("<answer>", False),  # because the template writes it
        ("[INST]", True),
        ("<html>", True),
    ],
)
def test_control_tokens_in_a_message_are_broken_up(text, special):
    tokenizer = with_added_tokens("chatml", special, text)
    tokenizer.chat_template += "{# <answer> #}"
    state = conversation(tokenizer, [("user", f"Say {text} now.")])
    ids = sent(state)
    assert tokenizer.convert_tokens_to_ids(text) not in ids
    assert f"Say {text} now." in tokenizer.decode(ids)
