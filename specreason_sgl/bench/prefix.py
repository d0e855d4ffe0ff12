"""Part `prefix`: the share of seen prompt tokens that the runtimes' radix caches served."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from specreason_sgl.bench.setup import QUESTIONS, Bench, always_drafting, make_table
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.repair import Rewrite
from specreason_sgl.reasoning.solve import solve

KEPT = 0.7  # share of the drafted steps


class RecordingEndpoint(Endpoint):
    """Keeps each request's token ids, before and after, and how many the cache served."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.record: list[tuple[list[int], list[int], int]] = []

    def _generate(self, sid, payload, *path):
        answer = super()._generate(sid, payload, *path)
        if isinstance(answer, dict) and payload.get("input_ids"):
            cached = answer["meta_info"]["cached_tokens"]
            self.record.append((payload["input_ids"], answer.get("output_ids", []), cached))
        return answer


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
    with (
        RecordingEndpoint(bench.draft.base_url, **options) as draft,
        RecordingEndpoint(bench.base.base_url, **options) as base,
    ):
        bench.flush_caches()
        trace = solve(QUESTIONS[0], draft=draft, base=base, config=config)
        figures: dict[str, Any] = {"steps": len(trace.steps), "rewritten": trace.rewritten}
        for side, endpoint in (("draft", draft), ("base", base)):
            share = prefix_share(endpoint.record)
            figures[side] = {
                "prompt": share.prompt,
                "seen": share.seen,
                "cached": share.cached,
                "share": share.share,
                "new": share.prompt - share.seen,
            }
    return figures


def prefix_share(record) -> PrefixShare:
    """What an ideal cache could have served is each prompt's longest common prefix with an earlier request
    (its prompt and what was generated on it)."""
    earlier: list[list[int]] = []
    prompt = seen = cached = 0
    for ids, generated, from_cache in record:
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
