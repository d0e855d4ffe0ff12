"""`score`: a constrained select over score tokens, in one request of one token."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from sglang.lang.choices import ChoicesDecision, greedy_token_selection
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSelect

from specreason_sgl.errors import ConfigError
from specreason_sgl.lang.answers import reading, usage
from specreason_sgl.lang.logprobs import ask_logprobs, finite, token_span, tokens_of
from specreason_sgl.lang.methods import EndpointMethod

DIGITS = tuple("0123456789")
Read = Literal["greedy", "average"]


def score(
    name: str,
    choices: tuple[str, ...] = DIGITS,
    read: Read = "greedy",
    logprobs_of: tuple[int, int] | None = None,
) -> SglSelect:
    """The base model's score of what it has read, as an expression of SGLang's language.

        s += "How useful was that step, 0 to 9? " + score("score")
        if s.get_meta_info("score")["score"] >= 7: ...

    `s[name]` is the most likely choice. `s.get_meta_info(name)` holds

    - `score`: a float. `greedy`: the chosen one's number. `average`: the expectation over the choices'
      probabilities (SpecReason, arXiv 2504.07891, section 4.1). Choices that are not numbers count as
      their positions;
    - `probabilities`: of each choice, summing to 1 over the choices;
    - `mass`: how much of the model's probability lies on the choices, 0 to 1 (None after the fallback);
    - `logprobs`: where asked for, a tuple of `TokenLogprob` (see `logprobs`), from the same prefill;
    - `prompt_tokens`, `cached_tokens`, `completion_tokens` of the request.

    On an `Endpoint`, where each choice is one token, this is one request that generates one token. Elsewhere
    it is SGLang's `select` with `greedy_token_selection`, one sequence for each choice.

    Args:
        name: of the result.
        choices: at least two different texts.
        read: `greedy` or `average`.
        logprobs_of: begin and end of a part of `s.text()` whose token logprobs are wanted too.

    Raises:
        ConfigError: an argument is not valid.
    """
    if read not in ("greedy", "average"):
        raise ConfigError(f"read must be 'greedy' or 'average', got {read!r}")
    if len(set(choices)) != len(choices) or len(choices) < 2 or not all(choices):
        raise ConfigError(f"choices must be at least two different texts, none empty, got {choices!r}")
    return SglSelect(name, list(choices), 0.0, ScoreTokens(read, logprobs_of))


class ScoreTokens(EndpointMethod):
    """How `score` asks and decides: the choice with the highest logprob; see `score` for what it reports."""

    def __init__(self, read: Read, logprobs_of: tuple[int, int] | None = None):
        self.read = read
        self.logprobs_of = logprobs_of

    def ask(self, endpoint: Any, s: StreamExecutor, choices: list[str]) -> ChoicesDecision:
        if choice_ids := endpoint.chat_template.single_tokens(s.text_, choices):
            return self._ask_for_one_token(endpoint, s, choices, choice_ids)
        decision = endpoint.select_by_sequences(s, choices, self)
        if self.logprobs_of:
            ids = endpoint.chat_template.encode(s)
            span = token_span(endpoint.chat_template, s, ids, self.logprobs_of)
            decision.meta_info["logprobs"], _ = ask_logprobs(endpoint, s, ids, span)
        return decision

    def _ask_for_one_token(
        self, endpoint: Any, s: StreamExecutor, choices: list[str], choice_ids: list[int]
    ) -> ChoicesDecision:
        ids = endpoint.chat_template.encode(s)
        payload: dict[str, Any] = {
            "input_ids": ids,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "token_ids_logprob": choice_ids,
        }
        span = token_span(endpoint.chat_template, s, ids, self.logprobs_of) if self.logprobs_of else None
        if span:
            payload |= span.options()
        meta = endpoint.ask(s.sid, payload)["meta_info"]
        with reading(endpoint.base_url):
            logprobs = {token: logprob for logprob, token, *_ in meta["output_token_ids_logprobs"][0]}
            decision = self.decide(choices, [finite(logprobs[token]) for token in choice_ids], usage(meta))
        if span:
            decision.meta_info["logprobs"] = tokens_of(endpoint, ids, span, meta)
        return decision

    def decide(
        self, choices: list[str], logprobs: list[float], counts: dict[str, Any] | None = None
    ) -> ChoicesDecision:
        """The decision from each choice's logprob (natural logarithm), and the request's `counts`."""
        probabilities = softmax(logprobs)
        best = logprobs.index(max(logprobs))
        values = _values(choices)
        average = sum(p * v for p, v in zip(probabilities, values, strict=True))
        meta_info = {
            "score": values[best] if self.read == "greedy" else average,
            "probabilities": dict(zip(choices, probabilities, strict=True)),
            "mass": sum(math.exp(logprob) for logprob in logprobs) if counts is not None else None,
            **(counts or {}),
        }
        return ChoicesDecision(choices[best], meta_info)

    def __call__(
        self, *, choices: list[str], input_token_logprobs: list[list[Any]], **rest: Any
    ) -> ChoicesDecision:
        """SGLang's `select` calls this where a choice is more than one token."""
        decision = greedy_token_selection(
            choices=choices, input_token_logprobs=input_token_logprobs, **rest
        ).decision
        logprobs = [sum(token[0] for token in tokens if token[0]) for tokens in input_token_logprobs]
        result = self.decide(choices, logprobs)
        if self.read == "greedy":
            result.meta_info["score"] = _values(choices)[choices.index(decision)]
        return ChoicesDecision(decision, result.meta_info)


def softmax(values: Sequence[float]) -> list[float]:
    """Probabilities from logits or logprobs (natural logarithms)."""
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / sum(weights) for weight in weights]


def _values(choices: list[str]) -> list[float]:
    try:
        return [float(choice) for choice in choices]
    except ValueError:
        return [float(position) for position in range(len(choices))]
