"""Settings of a run: `SpecReasonConfig`."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from specreason_sgl.errors import ConfigError

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)


@dataclass(frozen=True, kw_only=True)
class SpecReasonConfig:
    """The knobs of SpecReason (arXiv 2504.07891, sections 4 and 5).

    Attributes:
        threshold: a drafted step is kept when its score is at least this, 0 to 9.
        read: how a score is read: `greedy`, the most likely digit; `average`, the expectation over digits.
        first_base_steps: so many steps at the start are written by the base model.
        token_budget: tokens of the chain of thought; at its end the thinking is closed and answered.
        step_tokens: most tokens of one step.
        answer_tokens: most tokens of the final answer, which the base model writes.
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling, above 0 and at most 1.
        delimiter: the text between steps.
        instruction: stands after the question, a blank line between; may be empty.

    Raises:
        ConfigError: a value is out of its range.
    """

    threshold: float = 7.0
    read: Literal["greedy", "average"] = "greedy"
    first_base_steps: int = 0
    token_budget: int = 8192
    step_tokens: int = 512
    answer_tokens: int = 512
    temperature: float = 0.6
    top_p: float = 0.95
    delimiter: str = "\n\n"
    instruction: str = INSTRUCTION

    def __post_init__(self):
        self._number("threshold", 0, 9)
        self._number("temperature", 0, 2)
        self._number("top_p", 0, 1)
        if self.top_p == 0:
            raise ConfigError("top_p is above 0 and at most 1, not 0")
        self._count("first_base_steps", 0)
        for name in ("token_budget", "step_tokens", "answer_tokens"):
            self._count(name, 1)
        if self.read not in ("greedy", "average"):
            raise ConfigError(f"read is 'greedy' or 'average', not {self.read!r}")
        if not isinstance(self.delimiter, str) or not self.delimiter:
            raise ConfigError("the delimiter is a text that is not empty")
        if not isinstance(self.instruction, str):
            raise ConfigError("the instruction is a text")

    def prompt(self, question: str) -> str:
        """What the user's message says.

        Raises:
            ConfigError: the question is empty.
        """
        if not isinstance(question, str) or not question.strip():
            raise ConfigError("the question is empty")
        return f"{question}\n\n{self.instruction}" if self.instruction else question

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(f"{name} is a number from {low} to {high}, not {value!r}")

    def _count(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise ConfigError(f"{name} is a whole number of at least {low}, not {value!r}")
