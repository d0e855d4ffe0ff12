"""Prefill logprobs: how likely a text is to a model, and what the model itself would have written.

`logprobs` is the expression for programs. The rest converts between positions in a state's text and in its
tokens, and turns SGLang's `input_token_logprobs` and `input_top_logprobs` into tokens with their texts
(SGLang's native API, "/generate", `return_logprob`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sglang.lang.choices import ChoicesDecision
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSelect

from specreason_sgl.errors import ConfigError
from specreason_sgl.lang.answers import reading, usage
from specreason_sgl.lang.chat import TokenizerChatTemplate
from specreason_sgl.lang.encoding import UNFINISHED
from specreason_sgl.lang.methods import EndpointMethod

CONTEXT = 3  # tokens decoded before a token: some tokenizers drop a space at a text's beginning


class Choice(NamedTuple):
    """A token that the model might have written: its text, id and logprob (natural logarithm)."""

    text: str
    id: int
    logprob: float


class TokenLogprob(NamedTuple):
    """A token of a text that the model has read.

    Attributes:
        text: the token's. Of a character that takes several tokens, the last one has the whole text and the
            others none.
        logprob: natural logarithm of its probability, given all before it.
        id: in the model's vocabulary.
        first: the model's own first choices at this place, best first.
    """

    text: str
    logprob: float
    id: int = -1
    first: tuple[Choice, ...] = ()

    @property
    def regret(self) -> float:
        """Logprob of the model's first choice less this token's, in nats; 0: the same token, or a tie."""
        return max(self.first[0].logprob - self.logprob, 0.0) if self.first else 0.0


def logprobs(name: str, text: str, top: int = 1, end_of_turn: bool = False) -> SglSelect:
    """Append a text, and read how likely each of its tokens is: a select with one choice.

        s += logprobs("step", "So 3 pens cost 12 dollars.")
        for token in s.get_meta_info("step")["logprobs"]:
            print(token.text, token.logprob, token.first[0].text, token.regret)

    `s.get_meta_info(name)` holds `logprobs`, a tuple of `TokenLogprob`, and the request's counts as in
    `score`. One request, in which no token is generated. It needs an `Endpoint`. The tokens are the model's
    own: where the text before ends inside a token, that token is the first.

    Args:
        name: of the result.
        text: not empty, unless `end_of_turn`.
        top: number of the model's first choices to report for each token, at least 1.
        end_of_turn: also read how likely the turn's end is after the text; the last token then.

    Raises:
        ConfigError: the text is empty, or `top` below 1.
    """
    if not text and not end_of_turn:
        raise ConfigError("the text of logprobs must not be empty, unless end_of_turn is set")
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}")
    return SglSelect(name, [text], 0.0, TextLogprobs(top, end_of_turn))


@dataclass(frozen=True)
class TextLogprobs(EndpointMethod):
    """How `logprobs` asks."""

    top: int = 1
    end_of_turn: bool = False

    def ask(self, endpoint: Any, s: StreamExecutor, choices: list[str]) -> ChoicesDecision:
        (text,) = choices
        template = endpoint.chat_template
        ids = template.encode(s, text)
        start = token_position(template, s, ids, len(s.text_))
        if self.end_of_turn:
            ids = [*ids, template.end_of_turn]
        tokens, meta = ask_logprobs(endpoint, s, ids, Span(start, len(ids)), self.top)
        return ChoicesDecision(text, {"logprobs": tokens, **usage(meta)})

    def __call__(self, **_: Any) -> ChoicesDecision:
        raise ConfigError("logprobs works only on a specreason_sgl.Endpoint")


class Span(NamedTuple):
    """A part of a prompt, as token positions: `start` to `end`, exclusive; `start` at least 1."""

    start: int
    end: int

    def options(self, top: int = 1) -> dict[str, Any]:
        """What to add to a payload for the logprobs of the part, and `top` choices for each token."""
        return {"return_logprob": True, "logprob_start_len": self.start - 1, "top_logprobs_num": top}


def token_position(template: TokenizerChatTemplate, s: StreamExecutor, ids: list[int], position: int) -> int:
    """How many of a state's token ids stand for its text before a position in it; at least one.

    A token that reaches over the position is not counted.
    """
    before = template.encode(s, until=position)
    common = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), len(before))
    return max(min(common, len(ids)), 1)


def token_span(
    template: TokenizerChatTemplate, s: StreamExecutor, ids: list[int], part: tuple[int, int]
) -> Span:
    """The tokens that a part of a state's text has wholly, from its begin and end in the text."""
    return Span(*(token_position(template, s, ids, position) for position in part))


def ask_logprobs(
    endpoint: Any, s: StreamExecutor, ids: list[int], span: Span, top: int = 1
) -> tuple[tuple[TokenLogprob, ...], dict[str, Any]]:
    """Read a part of a prompt in one request that generates nothing; also returns its `meta_info`."""
    sampling = {"max_new_tokens": 0, "temperature": 0}
    payload = {"input_ids": ids, "sampling_params": sampling, **span.options(top)}
    meta = endpoint.ask(s.sid, payload)["meta_info"]
    return tokens_of(endpoint, ids, span, meta), meta


def tokens_of(endpoint: Any, ids: list[int], span: Span, meta: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    """The tokens of a part of a prompt, from the `meta_info` of the answer to it.

    Raises:
        ServerFailed: the answer lacks a part.
    """
    template = endpoint.chat_template
    with reading(endpoint.base_url):
        return read_tokens(template.decode, ids, *span, meta, template.text_of)


def read_tokens(
    decode: Callable[[Sequence[int]], str],
    ids: Sequence[int],
    start: int,
    end: int,
    meta: dict[str, Any],
    text_of: Callable[[int], str | None] = lambda _: None,
) -> tuple[TokenLogprob, ...]:
    """The tokens `start` to `end` of a prompt, from the answer to it.

    Args:
        decode: token ids to text.
        ids: of the whole prompt.
        start, end: token positions. The prompt was sent with `logprob_start_len` one before `start`.
        meta: the answer's `meta_info`.
        text_of: the text of a token that has the same text everywhere; None for others, which are decoded
            after the tokens before them.

    Raises:
        LookupError, TypeError, ValueError: the answer lacks a part.
    """
    entries = meta["input_token_logprobs"][1 : 1 + end - start]  # the first is the token before `start`
    tops = meta["input_top_logprobs"][1 : 1 + end - start]
    if len(entries) != end - start or any(
        entry[1] != id for entry, id in zip(entries, ids[start:end], strict=True)
    ):
        raise ValueError("the logprobs are of other tokens")

    def text_at(at: int, token: int, begin: int) -> str:
        """The text of a token at a position, with that of the tokens from `begin` on, which are not whole
        characters without it."""
        if begin == at and (text := text_of(token)) is not None:
            return text
        context = ids[max(begin - CONTEXT, 0) : begin]
        return decode([*context, *ids[begin:at], token])[len(decode(context)) :]

    tokens, begin = [], start
    for at, ((logprob, id, *_), top) in enumerate(zip(entries, tops, strict=True), start):
        text = text_at(at, id, begin)
        first = tuple(
            Choice(text if other == id else text_at(at, other, begin), other, finite(value))
            for value, other, *_ in top
        )
        unfinished = text.endswith(UNFINISHED)
        tokens.append(TokenLogprob("" if unfinished else text, finite(logprob), id, first))
        begin = begin if unfinished else at + 1
    return tuple(tokens)


def finite(logprob: float) -> float:
    """The logprob itself.

    Raises:
        ValueError: it is infinite or not a number.
    """
    if not math.isfinite(logprob):
        raise ValueError(f"a logprob must be finite, got {logprob}")
    return logprob
