"""Settings of a run: `SpecReasonConfig`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Rule, Threshold
from specreason_sgl.reasoning.verifiers import UtilityScore

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)
ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]  # with role and content
Question = str | Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class SpecReasonConfig:
    """The knobs of SpecReason (arXiv 2504.07891, sections 4 and 5).

    Attributes:
        verifier: what judges a drafted step (see `verifiers`); default `UtilityScore()`, the paper's digit.
        threshold: a drafted step is kept when its value is at least this; or a rule of `acceptance`.
        lookahead: so many steps are drafted beyond the one that is being judged; 0 does one thing at a time.
        eager_rewrite: the base model begins to rewrite a step while it judges it.
        candidates: versions of a step that are drafted; the best is kept, if it passes.
        salvage: of a rejected step, keep the sentences before the first token whose logprob under the base
            model is below this (natural logarithm, below 0); the base model goes on from there. None: off.
        first_base_steps: so many steps at the start are written by the base model.
        patience: so many more steps may be rejected than what the kept ones have paid for (two each); then
            drafting pauses, ever longer while the next draft is rejected too. 0: it never pauses.
        draft_timeout: seconds for one drafted step. A draft runtime that misses them, or fails, is left alone
            for some steps, which the base model writes, and then tried again.
        token_budget: tokens of the chain of thought.
        at_budget: what happens when they are used up: `answer` closes the thinking and answers, `stop` ends
            the run without an answer.
        step_tokens: most tokens of one step.
        answer_tokens: most tokens of the final answer, which the base model writes.
        answer_stop: texts that end the final answer, and are no part of it.
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling, above 0 and at most 1.
        delimiter: the text between steps.
        instruction: stands after the question, a blank line between; may be empty.

    Raises:
        ConfigError: a value is out of its range.
    """

    verifier: Any = field(default_factory=UtilityScore)
    threshold: float | Rule = 7.0
    lookahead: int = 1
    eager_rewrite: bool = False
    candidates: int = 1
    salvage: float | None = None
    first_base_steps: int = 0
    patience: int = 3
    draft_timeout: float = 60.0
    token_budget: int = 8192
    at_budget: Literal["answer", "stop"] = "answer"
    step_tokens: int = 512
    answer_tokens: int = 512
    answer_stop: tuple[str, ...] = ()
    temperature: float = 0.6
    top_p: float = 0.95
    delimiter: str = "\n\n"
    instruction: str = INSTRUCTION

    def __post_init__(self):
        if not callable(self.verifier):
            raise ConfigError(f"a verifier is called with a state and a step; {self.verifier!r} cannot be")
        if not callable(getattr(self.threshold, "keeps", None)):
            self._number("threshold", *getattr(self.verifier, "bounds", (-math.inf, math.inf)))
        self._number("temperature", 0, 2)
        self._number("top_p", 0, 1)
        if self.top_p == 0:
            raise ConfigError("top_p is above 0 and at most 1, not 0")
        self._number("draft_timeout", 0, 86400)
        if self.draft_timeout == 0:
            raise ConfigError("draft_timeout is a number of seconds above 0, not 0")
        for name in ("first_base_steps", "lookahead", "patience"):
            self._count(name, 0)
        for name in ("token_budget", "step_tokens", "answer_tokens", "candidates"):
            self._count(name, 1)
        if not isinstance(self.eager_rewrite, bool):
            raise ConfigError(f"eager_rewrite is True or False, not {self.eager_rewrite!r}")
        if self.at_budget not in ("answer", "stop"):
            raise ConfigError(f"at_budget is 'answer' or 'stop', not {self.at_budget!r}")
        if self.salvage is not None:
            self._number("salvage", -math.inf, 0)
            if not hasattr(self.verifier, "with_logprobs"):
                raise ConfigError("salvage needs a verifier that reads the step's logprobs")
            if not self.verifier.with_logprobs:
                object.__setattr__(self, "verifier", dataclasses.replace(self.verifier, with_logprobs=True))
        if not isinstance(self.delimiter, str) or not self.delimiter:
            raise ConfigError("the delimiter is a text that is not empty")
        if not isinstance(self.answer_stop, tuple) or not all(
            isinstance(one, str) and one for one in self.answer_stop
        ):
            raise ConfigError(f"answer_stop is a tuple of texts, none empty, not {self.answer_stop!r}")
        if not isinstance(self.instruction, str):
            raise ConfigError("the instruction is a text")

    def prompt(self, question: str) -> str:
        """What the user's message says.

        Raises:
            ConfigError: the question is empty.
        """
        return self.messages(question)[-1]["content"]

    def messages(self, question: Question) -> list[Message]:
        """The conversation that the chain of thought answers, the instruction after its last message.

        Raises:
            ConfigError: the question is empty, or the messages are no conversation that ends with the user.
        """
        if isinstance(question, str):
            question = [{"role": "user", "content": question}]
        if not question:
            raise ConfigError("the question is empty")
        for one in question:
            if one.get("role") not in ROLES or not isinstance(one.get("content"), str):
                raise ConfigError(f"a message has a role ({', '.join(ROLES)}) and a text, unlike {one!r}")
        if question[-1]["role"] != "user":
            raise ConfigError("the last message is the user's")
        if any(not _is_unicode(text) for text in (self.instruction, *(one["content"] for one in question))):
            raise ConfigError("the question is no valid Unicode: it has half of a surrogate pair")
        last = question[-1]["content"]
        if not last.strip():
            raise ConfigError("the question is empty")
        text = f"{last}\n\n{self.instruction}" if self.instruction else last
        return [*question[:-1], {"role": "user", "content": text}]

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data. A verifier or rule is named, with its own settings."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items()}

    @property
    def rule(self) -> Rule:
        """What decides whether a step is kept."""
        return self.threshold if hasattr(self.threshold, "keeps") else Threshold(self.threshold)

    def _number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(f"{name} is a number{_range(low, high)}, not {value!r}")

    def _count(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f"{name} is a whole number of at least {low}, not {value!r}")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    return f" of at most {high:g}" if math.isinf(low) else f" from {low:g} to {high:g}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        settings = {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **settings}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "base_url", None) or getattr(value, "__name__", None) or type(value).__name__
