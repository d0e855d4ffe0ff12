"""Two figures of a running pair: the cost of a score, and how much of the prompts the radix caches served.

    python programs/measure.py http://127.0.0.1:30001 http://127.0.0.1:30000

The first server drafts, the second is the base. Every figure comes from the servers' own counts
(`prompt_tokens`, `cached_tokens`) or from this program's clock.
"""

import statistics
import sys
import time
from dataclasses import dataclass

import sglang as sgl
from sglang.lang.choices import greedy_token_selection

from specreason_sgl import Endpoint, SpecReasonConfig, UtilityScore, score, solve
from specreason_sgl.reasoning import verifiers

QUESTION = (
    "A shop sells pens at 3 dollars. Tom buys 4 pens and pays with a 20 dollar note. What is his change?"
)
DIGITS = list("0123456789")


class RecordingEndpoint(Endpoint):
    """Keeps each request's token ids, before and after, and how many the cache served."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.record: list[tuple[list[int], list[int], int]] = []

    def _generate(self, sid, payload):
        answer = super()._generate(sid, payload)
        if isinstance(answer, dict):
            cached = answer["meta_info"]["cached_tokens"]
            self.record.append((payload["input_ids"], answer.get("output_ids", []), cached))
        return answer


@dataclass(frozen=True)
class PrefixShare:
    """Prompt tokens of one side: all, those an earlier request of the run had, of these the cached."""

    prompt: int
    seen: int
    cached: int

    @property
    def share(self) -> float:
        return self.cached / self.seen


def prefix_share(record) -> PrefixShare:
    """What an ideal cache could have served is each prompt's longest common prefix with an earlier request
    (its prompt and what was generated on it)."""
    earlier: list[list[int]] = []
    prompt = seen = cached = 0
    for ids, generated, from_cache in record:
        longest = max((_common(ids, one) for one in earlier), default=0)
        prompt, seen, cached = prompt + len(ids), seen + longest, cached + min(from_cache, longest)
        earlier.append(ids + generated)
    return PrefixShare(prompt, seen, cached)


def _common(a: list[int], b: list[int]) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


@sgl.function
def judged(s, context, how):
    s += sgl.user(QUESTION)
    s += sgl.assistant_begin()
    s += context + verifiers.QUESTION
    s += score("x") if how == "score" else sgl.select("x", DIGITS, choices_method=greedy_token_selection)


def score_against_select(base: Endpoint, contexts: list[str]) -> list[tuple[str, str, float, float]]:
    """For each context: the digit by `score` and by `select`, and the seconds each took."""
    rows = []
    for context in contexts:
        took = {}
        for how in ("score", "select"):
            base.flush_cache()
            judged.run(
                context=context.rpartition("\n\n")[0], how="score", backend=base
            ).sync()  # the CoT before
            start = time.perf_counter()
            took[how] = (judged.run(context=context, how=how, backend=base)["x"], time.perf_counter() - start)
        rows.append((took["score"][0], took["select"][0], took["score"][1], took["select"][1]))
    return rows


def contexts(n: int) -> list[str]:
    """Chains of thought, right and wrong, of one to four steps."""
    made = []
    for i in range(n):
        pens, total = 3 + i % 5, (3 + i % 5) * 4 + (i % 3)
        steps = [f"There are {pens} dollars a pen.", f"So 4 pens cost {total} dollars.", "He pays with 20."]
        steps.append(f"The change is {20 - total}.")
        made.append("\n\n".join(steps[: 1 + i % 4]))
    return made


def main(draft_url: str, base_url: str) -> None:
    with RecordingEndpoint(draft_url) as draft, RecordingEndpoint(base_url) as base:
        rows = score_against_select(base, contexts(20))
        scores, selects = ([row[i] for row in rows] for i in (2, 3))
        ratio = statistics.median(a / b for a, b in zip(scores, selects, strict=True))
        print(f"score   median {statistics.median(scores):.3f} s")
        print(f"select  median {statistics.median(selects):.3f} s, score/select {ratio:.2f}")
        draft.flush_cache(), base.flush_cache()
        draft.record.clear(), base.record.clear()
        config = SpecReasonConfig(
            temperature=0,
            threshold=6,
            verifier=UtilityScore(read="average"),
            token_budget=400,
            step_tokens=40,
        )
        trace = solve(QUESTION, draft=draft, base=base, config=config)
        print(f"{len(trace.steps)} steps, {trace.kept} kept, {trace.rewritten} rewritten")
        for side, endpoint in (("draft", draft), ("base", base)):
            one = prefix_share(endpoint.record)
            print(
                f"{side:6} {one.prompt} prompt tokens, {one.seen} seen before, {one.cached} of them cached "
                f"({one.share:.1%}); {one.prompt - one.seen} new by nature"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
