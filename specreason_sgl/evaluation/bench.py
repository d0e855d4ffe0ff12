"""Measurements of a running pair, everything on the same prompts in one run.

Each part returns plain data; `specreason-sgl bench` prints it as tables and writes it as JSON.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sglang as sgl
from sglang.lang.choices import greedy_token_selection

from specreason_sgl.evaluation.zero_server import STEP_TOKENS, zero_servers
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.score import score
from specreason_sgl.reasoning import verifiers
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.speculate import solve, solve_alone, solve_batch
from specreason_sgl.reasoning.trace import Call, Trace

QUESTIONS = (
    "A shop sells pens at 3 dollars. Tom buys 4 pens and pays with a 20 dollar note. What is his change?",
    "A train leaves at 14:20 and arrives at 17:05. It stops for 25 minutes. How long does it move?",
    "Anna reads 12 pages a day. Her book has 300 pages; 60 are read. How many more days does she need?",
    "A rectangle is 8 cm long and 5 cm wide. Its length grows by 25 %. By how much does its area grow?",
    "Three workers paint a fence in 8 hours. How long do four workers need, at the same pace?",
    "A bag has 5 red and 7 blue marbles. Two are drawn without looking. How likely are both red?",
    "A car uses 6 litres for 100 km. Petrol costs 1.80 a litre. What does a trip of 250 km cost?",
    "The sum of three consecutive numbers is 72. What is the largest of them?",
)
MODES = ("base", "draft", "sequential", "pipelined")  # besides: `eager`, `salvage`, `rejected`
IDENTITY = (
    {"lookahead": 1},
    {"lookahead": 2},
    {"lookahead": 4},
    {"lookahead": 0, "eager_rewrite": True},
    {"lookahead": 1, "eager_rewrite": True},
)
OVERHEAD_STEP = 20  # tokens; 64 problems at once on a laptop have to come to an end
LONG = 3600.0  # seconds
_DIGITS = list("0123456789")
OnStage = Callable[[str], None]


def questions(n: int) -> list[str]:
    """The first `n` of the built-in questions; past their number, the same with another opening."""
    return [
        f"Problem {i + 1}. {QUESTIONS[i % len(QUESTIONS)]}" if i >= len(QUESTIONS) else QUESTIONS[i]
        for i in range(n)
    ]


def _always_drafting(config: SpecReasonConfig) -> SpecReasonConfig:
    """Greedy, and without what would leave the base model alone for some steps."""
    return replace(config, temperature=0.0, patience=0, draft_timeout=LONG)


# Score


@sgl.function
def judged(s, context, how):
    s += sgl.user(QUESTIONS[0])
    s += sgl.assistant_begin()
    s += context
    if how == "decode":
        s += sgl.gen("x", max_tokens=9, temperature=0, ignore_eos=True)
    elif how == "one token":
        s += sgl.gen("x", max_tokens=1, temperature=0, ignore_eos=True)
    else:
        s += verifiers.QUESTION
        method = {"choices_method": greedy_token_selection}
        s += score("x") if how == "score" else sgl.select("x", _DIGITS, **method)


def measure_score(base: Endpoint, n: int = 20) -> dict[str, Any]:
    """A score's time on `n` chains of thought, against SGLang's own `select` and the decoding of a token.

    The chain of thought before the step is in the cache each time; the step and the question are not.
    """
    took: dict[str, list[float]] = {"score": [], "select": [], "decode": []}
    same = 0
    for context in contexts(n):
        decided = []
        for how in ("score", "select"):
            base.flush_cache()
            judged.run(context=context.rpartition("\n\n")[0], how="score", backend=base).sync()
            start = time.perf_counter()
            decided.append(judged.run(context=context, how=how, backend=base)["x"])
            took[how].append(time.perf_counter() - start)
        same += decided[0] == decided[1]
        seconds = []
        for how in ("one token", "decode"):
            start = time.perf_counter()
            judged.run(context=context, how=how, backend=base).sync()
            seconds.append(time.perf_counter() - start)
        took["decode"].append((seconds[1] - seconds[0]) / 8)
    pairs = list(zip(took["score"], took["select"], strict=True))
    medians = {how: statistics.median(times) for how, times in took.items()}
    return {
        "prompts": n,
        "same_decision": same,
        "score_seconds": medians["score"],
        "select_seconds": medians["select"],
        "token_seconds": medians["decode"],
        "score_to_select": statistics.median(a / b for a, b in pairs),
        "score_to_token": medians["score"] / medians["decode"],
    }


def contexts(n: int) -> list[str]:
    """Chains of thought, right and wrong, of one to four steps."""
    made = []
    for i in range(n):
        pens, total = 3 + i % 5, (3 + i % 5) * 4 + (i % 3)
        steps = [f"There are {pens} dollars a pen.", f"So 4 pens cost {total} dollars.", "He pays with 20."]
        steps.append(f"The change is {20 - total}.")
        made.append("\n\n".join(steps[: 1 + i % 4]))
    return made


# Prefix


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


def measure_prefix(draft_url: str, base_url: str, config: SpecReasonConfig, **options) -> dict[str, Any]:
    """Of the prompt tokens that a runtime had seen before in a run, the share its cache served; by side."""
    config = replace(_always_drafting(config), threshold=FixedShare(0.7), lookahead=0)
    with (
        RecordingEndpoint(draft_url, **options) as draft,
        RecordingEndpoint(base_url, **options) as base,
    ):
        draft.flush_cache(), base.flush_cache()
        trace = solve(QUESTIONS[0], draft=draft, base=base, config=config)
        found: dict[str, Any] = {"steps": len(trace.steps), "rewritten": trace.rewritten}
        for side, endpoint in (("draft", draft), ("base", base)):
            share = prefix_share(endpoint.record)
            found[side] = {
                "prompt": share.prompt,
                "seen": share.seen,
                "cached": share.cached,
                "share": share.share,
                "new": share.prompt - share.seen,
            }
    return found


# Latency


def measure_latency(
    problems: Sequence[str],
    acceptances: Sequence[float],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    modes: Sequence[str] = MODES,
    on_stage: OnStage = lambda _: None,
) -> dict[str, Any]:
    """Each problem in each mode, next to each other, from empty caches, at fixed acceptances. In the mode
    `rejected` no drafted step is kept, and drafting pauses as it does by default.

    Returns:
        `runs`, one for each problem, acceptance and mode; and for each acceptance the medians, over problems,
        of the ratios that the modes have to each other and to their bounds (see `bound`).
    """
    config = _always_drafting(config)
    runs: list[dict[str, Any]] = []
    for number, question in enumerate(problems):
        alone: dict[str, Trace] = {}
        for acceptance in acceptances:
            for mode in modes:
                on_stage(
                    f"latency: problem {number + 1} of {len(problems)}, keeping {acceptance:.0%}, {mode}"
                )
                if (trace := alone.get(mode)) is None:
                    draft.flush_cache(), base.flush_cache()
                    rule = FixedShare(acceptance, seed=number)
                    trace = _solve_in(mode, question, draft, base, replace(config, threshold=rule))
                    if mode in ("base", "draft", "rejected"):  # they do not depend on the acceptance
                        alone[mode] = trace
                runs.append(_row(number, acceptance, mode, trace))
    return {
        "runs": runs,
        "acceptances": [_compare(runs, acceptance) for acceptance in acceptances],
    }


def _solve_in(mode: str, question: str, draft: Endpoint, base: Endpoint, config: SpecReasonConfig) -> Trace:
    if mode in ("base", "draft"):
        endpoint = base if mode == "base" else draft
        return solve_alone(question, endpoint=endpoint, side=mode, config=config)
    settings: dict[str, Any] = {"lookahead": 0 if mode == "sequential" else 1}
    if mode == "eager":
        settings["eager_rewrite"] = True
    if mode == "salvage":
        settings["salvage"] = -3.0
    if mode == "rejected":
        settings |= {"threshold": FixedShare(0), "patience": SpecReasonConfig.patience}
    return solve(question, draft=draft, base=base, config=replace(config, **settings))


def _row(number: int, acceptance: float, mode: str, trace: Trace) -> dict[str, Any]:
    lookahead = 0 if mode == "sequential" else 1
    covered = _covered([*trace.calls, *trace.wasted], trace.seconds)
    return {
        "problem": number,
        "acceptance": acceptance,
        "mode": mode,
        "seconds": trace.seconds,
        "bound": bound(trace, lookahead),
        "uncovered": 1 - covered / trace.seconds,
        "steps": len(trace.steps),
        "rewritten": trace.rewritten,
        "tokens": trace.tokens,
        "wasted_tokens": trace.wasted_tokens,
    }


def _compare(runs: list[dict[str, Any]], acceptance: float) -> dict[str, Any]:
    mine = [run for run in runs if run["acceptance"] == acceptance]
    by_problem: dict[int, dict[str, dict]] = {}
    for run in mine:
        by_problem.setdefault(run["problem"], {})[run["mode"]] = run
    found: dict[str, Any] = {"acceptance": acceptance}
    for mode in dict.fromkeys(run["mode"] for run in mine):
        rows = [modes[mode] for modes in by_problem.values()]
        found[mode] = {
            "seconds": statistics.median(row["seconds"] for row in rows),
            "tokens_per_second": statistics.median(row["tokens"] / row["seconds"] for row in rows),
            "bound_ratio": statistics.median(row["bound"] / row["seconds"] for row in rows),
            "uncovered": statistics.median(row["uncovered"] for row in rows),
            "wasted_tokens": statistics.median(row["wasted_tokens"] for row in rows),
        }
        for other in ("base", "sequential"):
            if other != mode and other in by_problem[0]:
                ratios = [modes[mode]["seconds"] / modes[other]["seconds"] for modes in by_problem.values()]
                found[mode][f"to_{other}"] = statistics.median(ratios)
    return found


def bound(trace: Trace, lookahead: int) -> float:
    """The seconds that a run's necessary requests take, each as long as it took, and nothing between them.

    Sequential (`lookahead` 0): one after another. Otherwise drafts run beside scores and rewrites, as far
    ahead as `lookahead` allows. A mode of one model is sequential.
    """
    drafted: list[float] = []  # when each step's draft was there
    decided: list[float] = []  # when each step was
    restarted = 0.0
    for step in trace.steps:
        parts = {call.purpose: call.seconds for call in step.calls}
        now = decided[-1] if decided else 0.0
        if "draft" in parts:
            behind = len(decided) - 1 - lookahead
            free = max(restarted, decided[behind]) if behind >= 0 else restarted
            start = max(free, drafted[-1]) if drafted else free
            drafted.append(start + parts["draft"])
            now = max(drafted[-1], now)
        now += sum(parts.get(purpose, 0.0) for purpose in ("score", "rewrite", "reason"))
        decided.append(now)
        if step.author != "draft":
            restarted, drafted = now, []
    return (decided[-1] if decided else 0.0) + (trace.answer_call.seconds if trace.answer_call else 0.0)


def _covered(calls: Sequence[Call], end: float) -> float:
    """Seconds of a run in which a request was in flight."""
    total = at = 0.0
    for call in sorted(calls, key=lambda one: one.start):
        start, stop = max(call.start, at), min(call.start + call.seconds, end)
        if stop > start:
            total += stop - start
            at = stop
    return total


# Identity


def measure_identity(
    problems: Sequence[str],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    settings: Sequence[dict[str, Any]] = IDENTITY,
    on_stage: OnStage = lambda _: None,
) -> list[dict[str, Any]]:
    """Whether overlapping changes anything: each problem one thing at a time, then with each of `settings`,
    greedy, from empty caches, seven of ten drafted steps kept.

    Returns:
        For each of `settings` how many problems had the same steps, scores, decisions and answer; and of the
        others where they part. What is computed together can change an engine's last bits, and so flip a near
        tie.
    """
    config = _always_drafting(config)
    rows = [{"settings": one, "problems": len(problems), "same": 0, "different": []} for one in settings]
    for number, question in enumerate(problems):
        rule = FixedShare(0.7, seed=number)

        def run(one: dict[str, Any], question=question, rule=rule) -> list[tuple]:
            draft.flush_cache(), base.flush_cache()
            mine = replace(config, **{"threshold": rule, "lookahead": 0, **one})
            trace = solve(question, draft=draft, base=base, config=mine)
            steps = [(s.text, s.author, s.score, s.rejected, s.head, s.tokens, s.end) for s in trace.steps]
            return [*steps, (trace.stop, trace.answer)]

        on_stage(f"identity: problem {number + 1} of {len(problems)}, one thing at a time")
        expected = run({})
        for row in rows:
            on_stage(f"identity: problem {number + 1} of {len(problems)}, {row['settings']}")
            found = run(row["settings"])
            if found == expected:
                row["same"] += 1
            else:
                pairs = zip(expected, found, strict=False)
                at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))
                where = {"problem": number, "step": at}
                row["different"].append(
                    {**where, "expected": expected[at : at + 1], "found": found[at : at + 1]}
                )
    return rows


# Overhead


def measure_overhead(
    draft: Endpoint, base: Endpoint, config: SpecReasonConfig, at_once: int, problems: int | None = None
) -> dict[str, Any]:
    """What this package itself costs, with so many problems at once.

    Returns:
        `cpu_ms_per_step`: processor time of this process; `uncovered`: the median share of a problem's time
        in which none of its requests was in flight.
    """
    config = replace(_always_drafting(config), threshold=FixedShare(0.8))
    before = time.process_time()
    traces = solve_batch(
        questions(problems or at_once), draft=draft, base=base, config=config, num_threads=at_once
    )
    spent = time.process_time() - before
    for trace in traces:
        if not isinstance(trace, Trace):
            raise trace
    steps = sum(len(trace.steps) for trace in traces)
    return {
        "at_once": at_once,
        "problems": len(traces),
        "steps": steps,
        "cpu_ms_per_step": 1000 * spent / steps,
        "uncovered": statistics.median(
            1 - _covered([*trace.calls, *trace.wasted], trace.seconds) / trace.seconds for trace in traces
        ),
        "seconds": max(trace.seconds for trace in traces),
    }


def measure(
    parts: Sequence[str],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    problems: Sequence[str],
    acceptances: Sequence[float],
    modes: Sequence[str] = MODES,
    at_once: Sequence[int] = (1, 16, 64),
    on_stage: OnStage = lambda _: None,
) -> dict[str, Any]:
    """Some or all parts, one after another, in one dictionary that can be written as JSON.

    Args:
        parts: of `score`, `prefix`, `latency`, `identity`, `overhead`.
        draft, base: the runtimes. Their caches are emptied.
        config: budgets; decoding is greedy.
        problems: of the latency and the identity; acceptances, modes: of the latency.
        at_once: problems at a time, for the overhead; short ones.
        on_stage: told in a line what is being measured.
    """
    found: dict[str, Any] = {
        "draft": draft.get_model_name(),
        "base": base.get_model_name(),
        "config": config.as_dict(),
    }
    if "score" in parts:
        on_stage("score")
        found["score"] = measure_score(base)
    if "prefix" in parts:
        on_stage("prefix")
        found["prefix"] = measure_prefix(draft.base_url, base.base_url, config, api_key=base.api_key)
    if "latency" in parts:
        found["latency"] = measure_latency(
            problems, acceptances, draft=draft, base=base, config=config, modes=modes, on_stage=on_stage
        )
    if "identity" in parts:
        found["identity"] = measure_identity(
            problems, draft=draft, base=base, config=config, on_stage=on_stage
        )
    if "overhead" in parts:
        short = replace(config, token_budget=3 * OVERHEAD_STEP, step_tokens=OVERHEAD_STEP, answer_tokens=8)
        found["overhead"] = []
        for n in at_once:
            on_stage(f"overhead: {n} at once")
            one = measure_overhead(draft, base, short if n > 1 else config, n)
            found["overhead"].append({"servers": "real", **one})
        with (
            zero_servers(draft.tokenizer.name_or_path) as urls,
            Endpoint(urls[0]) as d,
            Endpoint(urls[1]) as b,
        ):
            long = replace(config, token_budget=20 * STEP_TOKENS, step_tokens=STEP_TOKENS)
            measure_overhead(d, b, long, 1)  # what is done once
            for n in at_once:
                on_stage(f"overhead: {n} at once, zero latency")
                found["overhead"].append({"servers": "zero latency", **measure_overhead(d, b, long, n)})
    return found
