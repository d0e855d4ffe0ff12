"""Part `prefix`: the share of seen prompt tokens that the runtimes' radix caches served."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from specreason_sgl.bench.setup import QUESTIONS, Bench, always_drafting, make_table
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.requests import RequestRecord
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.repair import Rewrite
from specreason_sgl.reasoning.solve import solve

KEPT = 0.7  # share of the drafted steps


Prompt = tuple[list[int], list[int], int]  # token ids, generated ones, and how many of the former were cached


@dataclass(frozen=True)
class PrefixShare:
    """Prompt tokens of one side: all, those that an earlier request had, and of these the cached."""

    prompt: int
    seen: int
    cached: int

    @property
    def share(self) -> float:
        return self.cached / self.seen


def run(bench: Bench) -> dict[str, Any]:
    """Solve one problem from empty caches, sequentially, and compare what the caches served with an ideal
    cache; by side."""
    bench.on_stage("prefix")
    config = always_drafting(bench.config, repair=Rewrite(), threshold=FixedShare(KEPT), lookahead=0)
    options = {"api_key": bench.base.api_key}
    requests: dict[str, list[RequestRecord]] = {"draft": [], "base": []}
    with (
        Endpoint(bench.draft.base_url, on_request=requests["draft"].append, **options) as draft,
        Endpoint(bench.base.base_url, on_request=requests["base"].append, **options) as base,
    ):
        bench.flush_caches()
        trace = solve(QUESTIONS[0], draft=draft, base=base, config=config)
        figures: dict[str, Any] = {"steps": len(trace.steps), "rewritten": trace.rewritten}
        for side, sent in requests.items():
            share = prefix_share(prompts_of(sent))
            figures[side] = {
                "prompt": share.prompt,
                "seen": share.seen,
                "cached": share.cached,
                "share": share.share,
                "new": share.prompt - share.seen,
            }
    return figures


def prompts_of(requests: Iterable[RequestRecord]) -> list[Prompt]:
    """The prompts of the answered requests."""
    return [
        (
            request.payload["input_ids"],
            request.answer.get("output_ids", []),
            request.answer["meta_info"]["cached_tokens"],
        )
        for request in requests
        if request.error is None and isinstance(request.answer, dict) and request.payload["input_ids"]
    ]


def prefix_share(prompts: Iterable[Prompt]) -> PrefixShare:
    """What an ideal cache could have served is each prompt's longest common prefix with an earlier request
    (its prompt and what was generated on it)."""
    earlier: list[list[int]] = []
    prompt = seen = cached = 0
    for ids, generated, from_cache in prompts:
        longest = max((_common(ids, request) for request in earlier), default=0)
        prompt, seen, cached = prompt + len(ids), seen + longest, cached + min(from_cache, longest)
        earlier.append(ids + generated)
    return PrefixShare(prompt, seen, cached)


def _common(a: list[int], b: list[int]) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def tables(figures: dict[str, Any]) -> list[Table]:
    columns = ("side", "prompt tokens", "seen before", "from the cache", "share", "new by nature")
    table = make_table("prefix", *columns)
    for side in ("draft", "base"):
        row = figures[side]
        counts = (str(row[name]) for name in ("prompt", "seen", "cached"))
        table.add_row(side, *counts, f"{row['share']:.1%}", str(row["new"]))
    return [table]
