"""Settings of a run: `SpecReasonConfig`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Rule, Threshold
from specreason_sgl.reasoning.repair import Correct, Repair, Rewrite
from specreason_sgl.reasoning.verifiers import UtilityScore, Verifier, as_verifier

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)
PAPER_THRESHOLD = 7.0
ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]  # with role and content
Question = str | Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class SpecReasonConfig:
    """The knobs of a run.

    By default single tokens are corrected (`repair=Correct()`). The paper's method is
    `SpecReasonConfig(repair=Rewrite(), threshold=7)` (SpecReason, arXiv 2504.07891, sections 4 and 5).

    Attributes:
        repair: what happens to a draft that is not kept: `Correct` single tokens, or `Rewrite` the step.
        verifier: what judges a drafted step as a whole (see `verifiers`). None: with `Correct` nothing, each
            token is judged; with `Rewrite` the paper's digit, `UtilityScore()`. With `Correct`, a step that
            passes a verifier is kept whole, and one that fails is corrected.
        threshold: a step is kept when its value is at least this; or a rule of `acceptance`. None: 7 for the
            paper's digit; any other verifier needs one.
        confidence: a draft whose tokens all have at least this logprob (natural logarithm, at most 0) under
            the draft model itself is kept unread, as in ConfSpec (arXiv 2602.18447). None: all are read.
        lookahead: steps that are drafted beyond the one that is being judged; 0 does one thing at a time.
        first_base_steps: number of steps at the start that the base model writes.
        patience: number of drafts that may be of no use beyond what the useful ones have paid for (two each);
            then drafting pauses, ever longer while the next draft is of no use either. 0: it never pauses.
        draft_timeout: seconds for one drafted step. A draft runtime that misses them, or fails, is left alone
            for some steps, which the base model writes, and then tried again.
        token_budget: tokens of the chain of thought.
        at_budget: what happens when they are used up: `answer` closes the thinking and answers, `stop` ends
            the run without an answer.
        step_tokens: most tokens of one step; a longer one is judged in parts.
        answer_tokens: most tokens of the final answer, which the base model writes.
        answer_stop: texts that end the final answer, and are no part of it.
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling, above 0 and at most 1.
        template: keyword arguments for both models' chat templates, such as `{"enable_thinking": False}` for
            Qwen3; None: those of the endpoints.
        delimiter: the text between steps.
        instruction: stands after the question, a blank line between; may be empty.

    Raises:
        ConfigError: a value is out of its range.
    """

    repair: Repair = field(default_factory=Correct)
    verifier: Any = None
    threshold: float | Rule | None = None
    confidence: float | None = None
    lookahead: int = 1
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
    template: Mapping[str, Any] | None = None
    delimiter: str = "\n\n"
    instruction: str = INSTRUCTION

    def __post_init__(self):
        self._check_judging()
        self._number("temperature", 0, 2)
        self._number("top_p", 0, 1, low_excluded=True)
        self._number("draft_timeout", 0, 86400, low_excluded=True)
        for name in ("first_base_steps", "lookahead", "patience"):
            self._count(name, 0)
        for name in ("token_budget", "step_tokens", "answer_tokens"):
            self._count(name, 1)
        if self.at_budget not in ("answer", "stop"):
            raise ConfigError(f"at_budget must be 'answer' or 'stop', got {self.at_budget!r}")
        if not isinstance(self.delimiter, str) or not self.delimiter:
            raise ConfigError(f"delimiter must be a text that is not empty, got {self.delimiter!r}")
        if not isinstance(self.answer_stop, tuple) or not all(
            isinstance(text, str) and text for text in self.answer_stop
        ):
            raise ConfigError(f"answer_stop must be a tuple of texts, none empty, got {self.answer_stop!r}")
        if self.template is not None and not isinstance(self.template, Mapping):
            raise ConfigError(f"template must be a mapping of names to values, got {self.template!r}")
        if not isinstance(self.instruction, str):
            raise ConfigError(f"instruction must be a text, got {self.instruction!r}")

    def _check_judging(self) -> None:
        if not isinstance(self.repair, Rewrite | Correct):
            raise ConfigError(f"repair must be a Rewrite or a Correct, got {self.repair!r}")
        if (
            self.verifier is not None
            and not isinstance(self.verifier, Verifier)
            and not callable(self.verifier)
        ):
            raise ConfigError(f"verifier must be a Verifier or a function, got {self.verifier!r}")
        if self.confidence is not None:
            self._number("confidence", -math.inf, 0)
        if callable(getattr(self.threshold, "keeps", None)):
            return
        if self.judge is None:
            if self.threshold is not None:
                raise ConfigError("threshold needs repair=Rewrite(), or a verifier before the correction")
        elif self.threshold is not None:
            self._number("threshold", *self.judge.bounds)
        elif not isinstance(self.judge, UtilityScore):
            raise ConfigError(f"threshold must be given with the verifier {self.verifier!r}")

    @property
    def judge(self) -> Verifier | None:
        """What judges a step as a whole; None where each token is judged instead."""
        if self.verifier is not None:
            return as_verifier(self.verifier)
        return UtilityScore() if isinstance(self.repair, Rewrite) else None

    @property
    def rule(self) -> Rule:
        """What decides whether a judged step is kept."""
        if callable(getattr(self.threshold, "keeps", None)):
            return self.threshold
        return Threshold(PAPER_THRESHOLD if self.threshold is None else self.threshold)

    @property
    def window(self) -> int | Literal["auto"] | None:
        """Drafted tokens after which the base model reads; None where it judges whole steps."""
        return self.repair.window if self.judge is None else None

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
        for message in question:
            if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                raise ConfigError(
                    f"a message must have a role ({', '.join(ROLES)}) and a text as content, got {message!r}"
                )
        if question[-1]["role"] != "user":
            raise ConfigError("the last message is the user's")
        if any(
            not _is_unicode(text)
            for text in (self.instruction, *(message["content"] for message in question))
        ):
            raise ConfigError("the question is no valid Unicode: it has half of a surrogate pair")
        last = question[-1]["content"]
        if not last.strip():
            raise ConfigError("the question is empty")
        text = f"{last}\n\n{self.instruction}" if self.instruction else last
        return [*question[:-1], {"role": "user", "content": text}]

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data. A verifier or rule is named, with its own settings."""
        values = {knob.name: getattr(self, knob.name) for knob in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items()}

    def _number(self, name: str, low: float, high: float, low_excluded: bool = False) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(f"{name} must be a number{_range(low, high)}, got {value!r}")
        if low_excluded and value == low:
            raise ConfigError(f"{name} must be above {low:g}, got {value!r}")

    def _count(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f"{name} must be a whole number of at least {low}, got {value!r}")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _range(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    return f" of at most {high:g}" if math.isinf(low) else f" from {low:g} to {high:g}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        settings = {knob.name: _plain(getattr(value, knob.name)) for knob in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **settings}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "base_url", None) or getattr(value, "__name__", None) or type(value).__name__
