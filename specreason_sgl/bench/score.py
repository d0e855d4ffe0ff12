"""Part `score`: what asking for a score takes, against SGLang's `select` and the decoding of a token."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import sglang as sgl
from rich.table import Table
from sglang.lang.choices import greedy_token_selection

from specreason_sgl.bench.setup import QUESTIONS, Bench, make_table
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.score import score
from specreason_sgl.reasoning import verifiers

PROMPTS = 20
_DECODED = 9  # tokens of a decoding that is compared with one of 1 token
_DIGITS = list("0123456789")


def run(bench: Bench) -> dict[str, Any]:
    """Times on chains of thought of one to four steps. What stands before the last step is in the cache each
    time; the step and the question are not.

    Returns:
        `score_seconds`, `select_seconds` and `token_seconds` are medians; `same_decision` counts the prompts
        on which score and select gave the same digit.
    """
    bench.on_stage("score")
    seconds: dict[str, list[float]] = {"score": [], "select": [], "token": []}
    same_decision = 0
    for context in contexts(PROMPTS):
        digits = []
        for how in ("score", "select"):
            bench.base.flush_cache()
            judged.run(context=context.rpartition("\n\n")[0], how="score", backend=bench.base).sync()
            digits.append(_timed(seconds[how], lambda how=how, context=context: _digit(bench, context, how)))
        same_decision += digits[0] == digits[1]
        seconds["token"].append(_seconds_per_token(bench.base, context))
    pairs = list(zip(seconds["score"], seconds["select"], strict=True))
    medians = {how: statistics.median(times) for how, times in seconds.items()}
    return {
        "prompts": PROMPTS,
        "same_decision": same_decision,
        "score_seconds": medians["score"],
        "select_seconds": medians["select"],
        "token_seconds": medians["token"],
        "score_to_select": statistics.median(score / select for score, select in pairs),
        "score_to_token": medians["score"] / medians["token"],
    }


def _digit(bench: Bench, context: str, how: str) -> str:
    return judged.run(context=context, how=how, backend=bench.base)["x"]


def _seconds_per_token(base: Endpoint, context: str) -> float:
    seconds: list[float] = []
    for how in ("one token", "decode"):
        _timed(seconds, lambda how=how: judged.run(context=context, how=how, backend=base).sync())
    return (seconds[1] - seconds[0]) / (_DECODED - 1)


def _timed(seconds: list[float], action: Callable[[], Any]) -> Any:
    """The result of an action; appends the seconds that it took."""
    start = time.perf_counter()
    result = action()
    seconds.append(time.perf_counter() - start)
    return result


@sgl.function
def judged(s, context, how):
    s += sgl.user(QUESTIONS[0])
    s += sgl.assistant_begin()
    s += context
    if how == "decode":
        s += sgl.gen("x", max_tokens=_DECODED, temperature=0, ignore_eos=True)
    elif how == "one token":
        s += sgl.gen("x", max_tokens=1, temperature=0, ignore_eos=True)
    else:
        s += verifiers.QUESTION
        method = {"choices_method": greedy_token_selection}
        s += score("x") if how == "score" else sgl.select("x", _DIGITS, **method)


def contexts(n: int) -> list[str]:
    """Chains of thought, right and wrong, of one to four steps."""
    chains = []
    for i in range(n):
        pens, total = 3 + i % 5, (3 + i % 5) * 4 + (i % 3)
        steps = [f"There are {pens} dollars a pen.", f"So 4 pens cost {total} dollars.", "He pays with 20."]
        steps.append(f"The change is {20 - total}.")
        chains.append("\n\n".join(steps[: 1 + i % 4]))
    return chains


def tables(figures: dict[str, Any]) -> list[Table]:
    table = make_table("score", "", "median seconds", "score is")
    table.add_row("score", f"{figures['score_seconds']:.3f}", "")
    to_select, to_token = (f"{figures[name]:.2f} of it" for name in ("score_to_select", "score_to_token"))
    table.add_row("SGLang's select", f"{figures['select_seconds']:.3f}", to_select)
    table.add_row("decoding a token", f"{figures['token_seconds']:.3f}", to_token)
    return [table]
