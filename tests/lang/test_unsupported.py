"""What a model or this package cannot do is one of its errors, raised where the program reads its result."""

import pytest
import sglang as sgl

from specreason_sgl import Endpoint, fork_to, logprobs, score
from specreason_sgl.errors import ConfigError, TemplateError
from tests.support.waiting import ended

PICTURE = b"not looked at"


@pytest.fixture
def without_template(endpoint):
    template = type(endpoint.chat_template)
    endpoint.tokenizer.chat_template = None
    endpoint.chat_template = template(endpoint.tokenizer, "bare")
    return endpoint


ENDINGS = {
    "gen": lambda: sgl.gen("x", max_tokens=4),
    "select": lambda: sgl.select("x", choices=["one", "two"]),
    "score": lambda: "this" + score("x"),
    "logprobs": lambda: logprobs("x", "this and that"),
}


@sgl.function
def with_roles(s, ending):
    s += sgl.user("q")
    s += sgl.assistant_begin()
    s += s.stream_executor.chat_template.thinking_prefix
    s += ENDINGS[ending]()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_model_without_a_chat_template(scripted, without_template, ending, stream):
    state = with_roles.run(ending, backend=without_template, stream=stream)
    with pytest.raises(TemplateError, match="bare has no chat template"):
        ended(state)["x"]
    assert not scripted.generated()


def test_a_model_without_a_chat_template_neither_thinks_nor_opens_thinking(without_template):
    template = without_template.chat_template
    assert (template.thinking, template.opens_thinking, template.thinking_prefix) == (False, False, "")


def test_a_fork_to_a_model_without_a_chat_template(chatml_folder, scripted, without_template):
    with Endpoint(scripted.url, timeout=20) as source:
        state = with_roles.run("gen", backend=source)
        forked = fork_to(state, without_template)
        forked += sgl.gen("y", max_tokens=4)
        with pytest.raises(TemplateError, match="bare has no chat template"):
            forked["y"]


@sgl.function
def forking(s):
    s += sgl.user("q")
    for fork in s.fork(2):
        fork += sgl.assistant(sgl.gen("x", max_tokens=4))
        s["x"] = fork["x"]


def test_forks_of_a_model_without_a_chat_template(without_template):
    with pytest.raises(TemplateError, match="bare has no chat template"):
        forking.run(backend=without_template)["x"]


def test_channels_are_refused(scripted, endpoint):
    endpoint.tokenizer.chat_template = "{% for m in messages %}<|channel|>final{{ m.content }}{% endfor %}"
    endpoint.chat_template = type(endpoint.chat_template)(endpoint.tokenizer, "gpt-oss")
    with pytest.raises(
        TemplateError, match=r"gpt-oss uses channels \(<\|channel\|>\), which are not supported"
    ):
        with_roles.run("gen", backend=endpoint)["x"]
    assert not scripted.generated()


@sgl.function
def picture_in_an_earlier_message(s, ending):
    s += sgl.user("What is it? " + sgl.image(PICTURE))
    s += sgl.assistant("A cat.")
    s += sgl.user("Sure?")
    s += sgl.assistant_begin()
    s += ENDINGS[ending]()


@sgl.function
def picture_in_this_message(s, ending):
    s += sgl.user_begin()
    s += sgl.image(PICTURE)
    s += ENDINGS[ending]()


@sgl.function
def picture_without_roles(s, ending):
    s += "What is it? " + sgl.image(PICTURE)
    s += ENDINGS[ending]()


PICTURES = [picture_in_an_earlier_message, picture_in_this_message, picture_without_roles]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("program", PICTURES, ids=lambda program: program.func.__name__)
def test_a_picture(scripted, endpoint, program, ending):
    with pytest.raises(ConfigError, match="images are not supported"):
        program.run(ending, backend=endpoint)["x"]
    assert not scripted.generated()


@pytest.mark.parametrize("read", ["room", "classify"])
def test_a_picture_in_what_is_measured(endpoint, read):
    @sgl.function
    def measure(s):
        s += sgl.user("What is it? " + sgl.image(PICTURE))
        endpoint.context_length = 40
        getattr(endpoint, read)(s)

    with pytest.raises(ConfigError, match="images are not supported"):
        measure.run(backend=endpoint)


@pytest.mark.parametrize("size", [1, 2])
def test_a_picture_crosses_a_fork(scripted, endpoint, size):
    @sgl.function
    def fork(s):
        s += sgl.user("What is it? " + sgl.image(PICTURE))
        fork = s.fork(size)[0]
        fork += sgl.assistant(sgl.gen("x", max_tokens=4))
        s["x"] = fork["x"]

    with pytest.raises(ConfigError, match="images are not supported"):
        fork.run(backend=endpoint)["x"]
    assert not scripted.generated()


@pytest.mark.parametrize("finished", [True, False])
def test_a_picture_is_not_forked_to_another_runtime(endpoint, finished):
    @sgl.function
    def forward(s):
        s += sgl.user_begin()
        s += sgl.image(PICTURE)
        if finished:
            s += sgl.user_end()
        fork_to(s, endpoint)

    with pytest.raises(ConfigError, match="images are not supported"):
        forward.run(backend=endpoint)


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": {"url": "x"}}], None])
def test_a_message_of_parts_is_not_rendered(endpoint, content):
    with pytest.raises(TemplateError, match=f"must be text, got {type(content).__name__}"):
        endpoint.chat_template.render([{"role": "user", "content": content}])
