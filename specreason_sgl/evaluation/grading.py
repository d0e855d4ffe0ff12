"""Whether an answer is right."""

import logging
import re

_BOXED = re.compile(r"\\boxed\s*\{")


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer means what is expected, by `math_verify`.

    Args:
        answer: a final answer, with or without words, `\\boxed{...}` or units around it.
        expected: for example `18` or `\\frac{14}{3}`.
    """
    from math_verify import parse, verify

    # Timeouts are off: math_verify's use signals, which work in a program's main thread only. It warns of it.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold = parse(f"${expected}$", parsing_timeout=None)
    boxed = answer if _BOXED.search(answer) else f"{answer}\n\\boxed{{{answer}}}"
    return verify(gold, parse(boxed, parsing_timeout=None), timeout_seconds=None)
