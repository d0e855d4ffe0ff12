"""When the thinking ends (SpecReason, arXiv 2504.07891, section 4)."""

import re
from collections.abc import Sequence
from typing import Any

from specreason_sgl.lang.chat import THINK_CLOSE
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import End, Step, Stop

_ANSWER = re.compile(
    r"\\boxed\s*\{[^{}\s]|^\W*(?:the )?(?:final )?answer\W*:\W*\w", re.IGNORECASE | re.MULTILINE
)


def why_stop(steps: Sequence[Step], config: SpecReasonConfig) -> Stop | None:
    """Why no further step is written, or None.

    `end`: the last step ended the turn or the thinking. `answer`: it holds `\\boxed{...}` or "Answer: ...".
    `repetition`: it says what the step before it said. `budget`: the tokens are used up.
    """
    if not steps:
        return None
    last = steps[-1]
    if last.end in ("eos", "think"):
        return "end"
    if _ANSWER.search(last.text):
        return "answer"
    if len(steps) > 1 and last.text.strip() == steps[-2].text.strip():
        return "repetition"
    if tokens_left(steps, config) <= 0:
        return "budget"
    return None


def tokens_left(steps: Sequence[Step], config: SpecReasonConfig) -> int:
    """How much of the token budget is left. A step counts one at least, whatever its server said."""
    return config.token_budget - sum(max(step.tokens, 1) for step in steps)


def how_ended(finish_reason: dict[str, Any] | None, thinking: bool) -> End:
    """What ended a step, from SGLang's `finish_reason`.

    Where no model of the pair is a `thinking` one, a `</think>` is a stray: it is left out, and ends no more
    than the step.
    """
    reason = finish_reason or {}
    if reason.get("type") == "length":
        return "length"
    matched = reason.get("matched")
    if matched == THINK_CLOSE and thinking:
        return "think"
    return "delimiter" if isinstance(matched, str) else "eos"
