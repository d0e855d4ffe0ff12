"""A tokenizer's own chat template, as SGLang's language wants it.

SGLang's language renders a conversation piece by piece, as it grows; Hugging Face's templates render it
whole. `TokenizerChatTemplate` does both: `get_prefix_and_suffix` gives the pieces that appear in `s.text()`,
and `encode` renders the whole conversation with `apply_chat_template` and gives the token ids that are sent.
What is sent is therefore always the template's own rendering, also where a template trims a message or
drops the thinking of earlier turns.

Special tokens inside a message stay text: in `encode` only what the template itself writes becomes a control
token.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sglang.lang.chat_template import ChatTemplate
from sglang.lang.interpreter import StreamExecutor

from specreason_sgl.errors import ConfigError, TemplateError
from specreason_sgl.lang.encoding import THINK_CLOSE, THINK_OPEN, GuardedEncoder
from specreason_sgl.lang.memory import Memory

KEPT = 16_000_000  # characters of renderings
CHANNEL = "<|channel|>"  # gpt-oss: thoughts and answers are messages of their own
SET_HERE = {"conversation", "messages", "chat_template", "tokenize", "add_generation_prompt"}
SET_HERE |= {"continue_final_message", "return_dict", "return_tensors", "return_assistant_tokens_mask"}
_SLOT = "\ue000content\ue001"  # private-use characters: no tokenizer has them as a token of its own
log = logging.getLogger(__name__)


class TokenizerChatTemplate(ChatTemplate):
    """The chat template of a Hugging Face tokenizer.

    Args:
        tokenizer: a `transformers.PreTrainedTokenizerFast`.
        name: shown in errors; the model's name.
        settings: keyword arguments for the template, such as `enable_thinking`. They are the same for
            everything that is rendered and cached here.

    Raises:
        ConfigError: the settings are not keyword arguments for the template.
    """

    def __init__(self, tokenizer, name: str, settings: Mapping[str, Any] | None = None):
        super().__init__(name=name, default_system_prompt=None, role_prefix_and_suffix={})
        self.tokenizer = tokenizer
        self.settings = _checked_settings(settings)
        self._source = self._get_source()
        for setting in self.settings:
            if self._source and not re.search(rf"\b{re.escape(setting)}\b", self._source):
                log.warning("the chat template of %s does not use the setting %r", name, setting)
        self._encoder = GuardedEncoder(tokenizer, self._source)
        self._rendered, self._heads = Memory(KEPT), Memory(KEPT)

    def __eq__(self, other) -> bool:
        return self is other

    __hash__ = object.__hash__

    def _get_source(self) -> str:
        try:
            return self.tokenizer.get_chat_template(tools=self.settings.get("tools")) or ""
        except ValueError:  # there is none
            return ""

    @cached_property
    def _generation_prompt(self) -> str:
        prefix, _ = self.get_prefix_and_suffix("assistant", [{"role": "user", "content": "x"}])
        return prefix.rstrip()

    @cached_property
    def _knows_thinking(self) -> bool:
        return THINK_CLOSE in self._source

    @cached_property
    def thinking(self) -> bool:
        """Whether the model thinks between `<think>` and `</think>`, with these settings.

        It does not where the generation prompt closes the thinking that the model would begin (Qwen3 with
        `enable_thinking=False`, DeepSeek-V3.1 unless `thinking=True`).
        """
        return self._knows_thinking and THINK_CLOSE not in self._generation_prompt.rpartition(THINK_OPEN)[2]

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the generation prompt itself ends with an open `<think>` (DeepSeek-R1, QwQ)."""
        return self._generation_prompt.endswith(THINK_OPEN)

    @cached_property
    def thinking_prefix(self) -> str:
        """What a thinking model writes first, where the generation prompt has not written it (Qwen3)."""
        return f"{THINK_OPEN}\n" if self.thinking and not self.opens_thinking else ""

    def render(self, messages: Sequence[dict], generation_prompt: bool = False) -> str:
        """The template's rendering of whole messages.

        Raises:
            TemplateError: there is no template that can be used, or it refuses the messages.
        """
        for message in messages:
            if not isinstance(message["content"], str):
                raise TemplateError(
                    f"the content of a message must be text, got {type(message['content']).__name__}; "
                    "images are not supported"
                )
        key = (generation_prompt, *((message["role"], message["content"]) for message in messages))
        if (rendered := self._rendered.get(key)) is None:
            rendered = self._render(messages, generation_prompt)
            self._rendered.put(key, rendered, len(rendered))
        return rendered

    def _render(self, messages: Sequence[dict], generation_prompt: bool) -> str:
        from jinja2 import TemplateError as JinjaError

        if not getattr(self.tokenizer, "chat_template", None):
            raise TemplateError(
                f"{self.name} has no chat template: use an instruct model, or a program without roles"
            )
        if CHANNEL in self._source:
            raise TemplateError(
                f"the chat template of {self.name} uses channels ({CHANNEL}), which are not supported: "
                "use another model, or a program without roles"
            )
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation_prompt, **self.settings
            )
        except (JinjaError, ValueError, TypeError, KeyError) as error:
            raise TemplateError(f"the chat template of {self.name} refuses the messages: {error}") from None

    def get_prefix_and_suffix(self, role: str, hist_messages: list[dict]) -> tuple[str, str]:
        """What stands before and after a message's content in `s.text()`; SGLang's interface.

        Where the template refuses the messages both are empty: the request that follows raises.
        """
        try:
            whole = self.render([*hist_messages, {"role": role, "content": _SLOT}])
            suffix = whole.rpartition(_SLOT)[2]
            return self._prefix(role, hist_messages), suffix
        except TemplateError:
            return "", ""

    def _prefix(self, role: str, before: list[dict]) -> str:
        def head(messages: list[dict]) -> str:
            if role == "assistant":
                return self.render(messages, generation_prompt=True)
            return self.render([*messages, {"role": role, "content": _SLOT}]).rpartition(_SLOT)[0]

        if not before:
            return head([])
        rendered, whole = self.render(before), head(before)
        if whole.startswith(rendered):
            return whole[len(rendered) :]
        # The template renders the last message differently once another follows: find what lies between them.
        last = {**before[-1], "content": _SLOT}
        _, suffix = self.get_prefix_and_suffix(last["role"], before[:-1])
        return head([*before[:-1], last]).rpartition(_SLOT)[2].removeprefix(suffix)

    def encode(self, s: StreamExecutor, extra: str = "", until: int | None = None) -> list[int]:
        """Token ids of a state's whole text, or of its text `until` a position, plus `extra` text after it.

        A text without roles is encoded as the server would (with the tokenizer's own special tokens).

        Args:
            s: the state's executor.
            extra: text that follows.
            until: a position in the state's text, within the unfinished turn.

        Returns:
            Token ids, one list.

        Raises:
            ConfigError: there is an image in it.
            TemplateError: the chat template cannot render it.
        """
        check_has_no_images(s)
        if not s.messages_ and s.cur_role is None:
            return self.tokenizer.encode(s.text_[:until] + extra)
        head, at = self._head(s)
        return self._encoder.encode_guarded(
            head + self._guard(s.text_[at:until] + extra, s.cur_role or "assistant")
        )

    def _head(self, s: StreamExecutor) -> tuple[str, int]:
        """The guarded rendering of what comes before the unfinished turn, and where that turn begins in the
        state's text. It is the same for all requests of a turn, so it is rendered once."""
        contents = tuple((message["role"], message["content"]) for message in s.messages_)
        at = len(s.text_) if s.cur_role is None else s.cur_role_begin_pos
        key = (s.text_[:at], s.cur_role, contents)
        if (head := self._heads.get(key)) is None:
            messages, tail = exact_messages(s)
            guarded = [{**m, "content": self._guard(m["content"], m["role"])} for m in messages]
            if s.cur_role is None:
                head = self.render(guarded) + self._guard(tail, "assistant")
            elif s.cur_role == "assistant":
                head = self.render(guarded, generation_prompt=True)
            else:
                prefix, _ = self.get_prefix_and_suffix(s.cur_role, guarded)
                head = (self.render(guarded) if guarded else "") + prefix
            self._heads.put(key, head, len(head))
        return head, at

    def encode_text(self, text: str) -> list[int]:
        """A text's token ids, without special tokens around it."""
        return self._encoder.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self._encoder.decode(ids)

    def text_of(self, id: int) -> str | None:
        """A token's text, if it is the same wherever the token stands."""
        return self._encoder.text_of(id)

    def single_tokens(self, text: str, choices: Sequence[str]) -> list[int]:
        """Each choice's one token id after a text; none where a choice is not one token there, or two choices
        are the same token."""
        return self._encoder.single_tokens(text, tuple(choices))

    @cached_property
    def end_of_turn(self) -> int:
        """The token with which the model ends its turn: the first that its template writes after a message
        of the assistant's, or else its tokenizer's end of text."""
        _, suffix = self.get_prefix_and_suffix("assistant", [{"role": "user", "content": "x"}])
        ids = self.encode_text(suffix)
        if ids and self.is_end(ids[0]):
            return ids[0]
        if self.tokenizer.eos_token_id is None:
            raise TemplateError(f"{self.name} has no token that ends a turn")
        return self.tokenizer.eos_token_id

    def is_end(self, id: int) -> bool:
        """Whether a token ends the model's turn: every special one does."""
        return id in self._special_ids

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset({*self.tokenizer.all_special_ids, *(id for id, token in added if token.special)})

    def _guard(self, content: str, role: str) -> str:
        """Content that cannot write control tokens, for a message or the unfinished turn.

        In a thinking model's own turn a `<think>` at its beginning, where the template has not written it,
        and the first `</think>` are what they seem.
        """
        keep = set()
        if role == "assistant" and self._knows_thinking:
            start = len(content) - len(content.lstrip())
            keep = {content.find(THINK_CLOSE)}
            if content.startswith(THINK_OPEN, start) and not self.opens_thinking:
                keep.add(start)
        return self._encoder.guard(content, keep)


def exact_messages(s: StreamExecutor) -> tuple[list[dict], str]:
    """A state's finished messages with their exact contents, and the text that follows them.

    The interpreter strips the leading white space of a message; it is read back from the state's text.

    Raises:
        ConfigError: there is an image in them.
        TemplateError: the text has something between roles.
    """
    check_has_no_images(s)
    text, at = s.text_, 0
    messages: list[dict] = []
    for message in s.messages_:
        prefix, suffix = s.chat_template.get_prefix_and_suffix(message["role"], messages)
        start, stripped = at + len(prefix), message["content"]
        spaces = len(text) - start - len(text[start:].lstrip())
        for n in range(spaces, -1, -1):
            content = text[start : start + n] + stripped
            if text.startswith(f"{prefix}{content}{suffix}", at):
                break
        else:
            raise TemplateError(
                f"there is text between roles, which the chat template of {s.chat_template.name} cannot "
                "render; put it inside a role"
            )
        at = start + len(content) + len(suffix)
        messages.append({"role": message["role"], "content": content})
    return messages, text[at if s.cur_role is None else s.cur_role_begin_pos :]


def check_has_no_images(s: StreamExecutor) -> None:
    """Raises ConfigError if there is an image in the conversation."""
    if s.images_ or not all(isinstance(message["content"], str) for message in s.messages_):
        raise ConfigError("images are not supported: prompts are sent as token ids")


def _checked_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    if settings is None:
        return {}
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ConfigError(f"template must be keyword arguments of the chat template, got {settings!r}")
    if names := sorted(SET_HERE.intersection(settings)):
        raise ConfigError(f"template must not set {', '.join(names)}: the renderer does")
    return dict(settings)
