"""Grade answers: by `math_verify`, by the letter of a choice, or by reasoning-gym's scorer."""

import logging
import re
import threading
from typing import Any

from specreason_sgl.errors import SpecReasonError
from specreason_sgl.evaluation.problems import LETTERS, Problem

TIMEOUT = 10  # seconds, in the main thread
_BOXED = re.compile(r"\\boxed\s*\{")
_DRESS = re.compile(r"\\[a-zA-Z]+\s*\{|[\\(){}\[\]$*]")  # around a letter: \text{...}, brackets, stars


class GradingError(SpecReasonError):
    """An answer cannot be compared with the right answer."""


def grade(problem: Problem, answer: str) -> bool:
    """Whether an answer is right.

    Args:
        problem: its choices or scorer decide how it is graded.
        answer: a final answer, with or without words, `\\boxed{...}` or units around it.

    Raises:
        GradingError: the comparison takes more than `TIMEOUT` (in the main thread), or the scorer fails.
    """
    from latex2sympy2_extended.math_normalization import extract_boxed_content

    if problem.choices:
        return _letter(extract_boxed_content(answer), len(problem.choices)) == problem.answer
    if problem.score is None:
        return is_right(answer, problem.answer)
    try:
        return (
            problem.score(extract_boxed_content(answer).strip()) > 0.999
        )  # a partly right answer scores less
    except Exception as error:
        raise GradingError(f"reasoning-gym's scorer failed on {answer[:80]!r}: {error!r}") from None


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer is mathematically equal to the expected one, by `math_verify`.

    Args:
        answer: a final answer, with or without words, `\\boxed{...}` or units around it.
        expected: for example `18` or `\\frac{14}{3}`.

    Raises:
        GradingError: the comparison takes more than `TIMEOUT` (in the main thread).
    """
    from math_verify import parse
    from math_verify.errors import TimeoutException

    # math_verify's timeouts use signals, which only work in the main thread; without a timeout it warns.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    limit = TIMEOUT if threading.current_thread() is threading.main_thread() else None
    # "18 dollars" is read both as a sentence, with a number in it, and as a formula.
    readings = [answer] if _BOXED.search(answer) else [f"\\boxed{{{answer}}}", answer]
    try:
        gold = parse(f"${expected}$", parsing_timeout=limit)
        return any(_is_equal(gold, parse(reading, parsing_timeout=limit), limit) for reading in readings)
    except TimeoutException:
        raise GradingError(
            f"{answer[:80]!r} could not be compared with {expected} within {limit} s"
        ) from None


def _is_equal(gold: list[Any], answer: list[Any], limit: int | None) -> bool:
    """`verify`, whose timeouts must not count as "not equal": it only raises them together with all its other
    errors, so on one of those it is called again."""
    from math_verify import verify

    try:
        return verify(gold, answer, timeout_seconds=limit, raise_on_error=True)
    except Exception:
        return verify(gold, answer, timeout_seconds=limit)


def _letter(text: str, choices: int) -> str | None:
    from math_verify import StringExtractionConfig, parse

    config = StringExtractionConfig(strings=tuple(LETTERS[:choices]), lowercase=False)
    letters = parse(_DRESS.sub(" ", text), [config], parsing_timeout=None)
    return letters[0] if letters else None
