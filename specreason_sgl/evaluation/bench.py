"""Measurements of a running pair, everything on the same prompts in one run.

Each part returns plain data; `specreason-sgl bench` prints it as tables and writes it as JSON.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sglang as sgl
from sglang.lang.choices import greedy_token_selection

from specreason_sgl.evaluation.report import prefills
from specreason_sgl.evaluation.zero_server import STEP_TOKENS, zero_servers
from specreason_sgl.lang.endpoint import Endpoint
from specreason_sgl.lang.score import score
from specreason_sgl.reasoning import verifiers
from specreason_sgl.reasoning.acceptance import FixedShare
from specreason_sgl.reasoning.batch import solve_batch
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.solve import solve, solve_alone
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
MODES = ("base", "draft", "sequential", "pipelined", "correct")  # besides: `rejected`
ONCE = ("base", "draft", "correct", "rejected")  # that do not depend on the acceptance
CORRECT = Correct()
IDENTITY = (
    {"repair": "rewrite", "lookahead": 1},
    {"repair": "rewrite", "lookahead": 2},
    {"repair": "rewrite", "lookahead": 4},
    {"repair": "correct", "window": None, "lookahead": 1},
    {"repair": "correct", "window": "auto", "lookahead": 1},
    {"repair": "correct", "window": 16, "lookahead": 0},
    {"repair": "correct", "window": 8, "lookahead": 2},
)
MEDIANS = ("seconds", "uncovered", "corrections", "prefills", "wasted_tokens")
OVERHEAD_STEP = 20  # tokens; 64 problems at once on a laptop have to come to an end
CORRECTED = 72  # tokens; `mini` takes 4 corrections for 290 drafted tokens at 3 nats
LONG = 3600.0  # seconds
_DIGITS = list("0123456789")
OnStage = Callable[[str], None]


def questions(n: int) -> list[str]:
    """The first `n` of the built-in questions; past their number, the same with another opening."""
    return [
        f"Problem {i + 1}. {QUESTIONS[i % len(QUESTIONS)]}" if i >= len(QUESTIONS) else QUESTIONS[i]
        for i in range(n)
    ]


def _always_drafting(config: SpecReasonConfig, **settings: Any) -> SpecReasonConfig:
    """Greedy, and without what would leave the base model alone for some steps."""
    return replace(config, temperature=0.0, patience=0, draft_timeout=LONG, **settings)


@dataclass(frozen=True, kw_only=True)
class CorrectEvery(Correct):
    """Cut about every n-th token whatever its regret: for measuring speed at a number of corrections that
    does not depend on the weights.

    Which tokens these are is as good as random, but the same whenever the same text is read. It is meant for
    random weights: where the base model's own first choice is the drafted token, nothing is replaced.

    Attributes:
        every: tokens from one cut to the next, a mean.
    """

    every: int

    def cut(self, tokens, temperature):
        dice = (random.Random(f"{token.id} {token.logprob}").random() for token in tokens)
        return next((i for i, share in enumerate(dice) if share * self.every < 1), None)


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
        longest = max((_common(ids, request) for request in earlier), default=0)
        prompt, seen, cached = prompt + len(ids), seen + longest, cached + min(from_cache, longest)
        earlier.append(ids + generated)
    return PrefixShare(prompt, seen, cached)


def _common(a: list[int], b: list[int]) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def measure_prefix(draft_url: str, base_url: str, config: SpecReasonConfig, **options) -> dict[str, Any]:
    """Of the prompt tokens that a runtime had seen before in a run, the share its cache served; by side."""
    config = _always_drafting(config, repair=Rewrite(), threshold=FixedShare(0.7), lookahead=0)
    with (
        RecordingEndpoint(draft_url, **options) as draft,
        RecordingEndpoint(base_url, **options) as base,
    ):
        draft.flush_cache(), base.flush_cache()
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


# Latency


def measure_latency(
    problems: Sequence[str],
    acceptances: Sequence[float],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    modes: Sequence[str] = MODES,
    correct: Correct = CORRECT,
    on_stage: OnStage = lambda _: None,
) -> dict[str, Any]:
    """Each problem in each mode, next to each other, from empty caches, at fixed acceptances.

    `sequential` and `pipelined` rewrite the steps that are not kept. `correct` replaces tokens, as its
    argument of that name says, at no acceptance. In `rejected` no drafted step is kept, and drafting pauses
    as it does by default.

    Returns:
        `runs`, one for each problem, acceptance and mode; and for each acceptance the medians, over problems,
        of the ratios that the modes have to each other and to their bounds (see `bound`).
    """
    config = _always_drafting(config)
    runs: list[dict[str, Any]] = []
    for number, question in enumerate(problems):
        known: dict[str, Trace] = {}
        for acceptance in acceptances:
            for mode in modes:
                on_stage(
                    f"latency: problem {number + 1} of {len(problems)}, keeping {acceptance:.0%}, {mode}"
                )
                if (trace := known.get(mode)) is None:
                    draft.flush_cache(), base.flush_cache()
                    settings = _mode_settings(mode, FixedShare(acceptance, seed=number), correct)
                    trace = _solve_in(mode, question, draft, base, replace(config, **settings))
                    if mode in ONCE:
                        known[mode] = trace
                runs.append(_row(number, acceptance, mode, trace))
    return {
        "runs": runs,
        "acceptances": [_compare(runs, acceptance) for acceptance in acceptances],
    }


def _mode_settings(mode: str, rule: FixedShare, correct: Correct) -> dict[str, Any]:
    if mode == "correct":
        return {"repair": correct}
    settings = {"repair": Rewrite(), "threshold": rule, "lookahead": 0 if mode == "sequential" else 1}
    if mode == "rejected":
        settings |= {"threshold": FixedShare(0), "patience": SpecReasonConfig.patience}
    return settings


def _solve_in(mode: str, question: str, draft: Endpoint, base: Endpoint, config: SpecReasonConfig) -> Trace:
    if mode in ("base", "draft"):
        endpoint = base if mode == "base" else draft
        return solve_alone(question, endpoint=endpoint, side=mode, config=config)
    return solve(question, draft=draft, base=base, config=config)


def _row(number: int, acceptance: float, mode: str, trace: Trace) -> dict[str, Any]:
    covered = _covered([*trace.calls, *trace.wasted], trace.seconds)
    return {
        "problem": number,
        "acceptance": acceptance,
        "mode": mode,
        "seconds": trace.seconds,
        "bound": None if mode == "correct" else bound(trace, 0 if mode == "sequential" else 1),
        "uncovered": 1 - covered / trace.seconds,
        "steps": len(trace.steps),
        "rewritten": trace.rewritten,
        "corrections": trace.corrections,
        "prefills": prefills(trace),
        "tokens": trace.tokens,
        "wasted_tokens": trace.wasted_tokens,
    }


def _compare(runs: list[dict[str, Any]], acceptance: float) -> dict[str, Any]:
    by_problem: dict[int, dict[str, dict]] = {}
    for run in runs:
        if run["acceptance"] == acceptance:
            by_problem.setdefault(run["problem"], {})[run["mode"]] = run
    compared: dict[str, Any] = {"acceptance": acceptance}
    for mode in by_problem[0]:
        rows = [modes[mode] for modes in by_problem.values()]

        def median(value: Callable[[dict], float], rows=rows) -> float:
            return statistics.median(map(value, rows))

        figures = {name: median(lambda row, name=name: row[name]) for name in MEDIANS}
        figures["tokens_per_second"] = median(lambda row: row["tokens"] / row["seconds"])
        if mode != "correct":
            figures["bound_ratio"] = median(lambda row: row["bound"] / row["seconds"])
        for other in ("base", "sequential"):
            if other != mode and other in by_problem[0]:
                ratios = [modes[mode]["seconds"] / modes[other]["seconds"] for modes in by_problem.values()]
                figures[f"to_{other}"] = statistics.median(ratios)
        compared[mode] = figures
    return compared


def bound(trace: Trace, lookahead: int) -> float:
    """The seconds that the necessary requests of a run that rewrites take, each as long as it took, and
    nothing between them.

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
        now += max(parts.get("score", 0.0), parts.get("read", 0.0))  # asked for side by side
        now += sum(parts.get(purpose, 0.0) for purpose in ("rewrite", "reason"))
        decided.append(now)
        if step.author != "draft":
            restarted, drafted = now, []
    return (decided[-1] if decided else 0.0) + (trace.answer_call.seconds if trace.answer_call else 0.0)


def _covered(calls: Sequence[Call], end: float) -> float:
    """Seconds of a run in which a request was in flight."""
    total = at = 0.0
    for call in sorted(calls, key=lambda call: call.start):
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
    correct: Correct = CORRECT,
    on_stage: OnStage = lambda _: None,
) -> list[dict[str, Any]]:
    """Whether overlapping changes anything: each problem one thing at a time, then with each of `settings`,
    greedy, from empty caches. Rewriting keeps seven of ten drafted steps; `correct` says how tokens are
    corrected, a whole step at a time in what the others are compared with.

    Returns:
        For each of `settings` how many problems had the same steps, scores, decisions and answer (corrected:
        the same texts and answer); and of the others where they part. What is computed together can change
        an engine's last bits, and so flip a near tie.
    """
    config = _always_drafting(config)
    rows = [{"settings": row, "problems": len(problems), "same": 0, "different": []} for row in settings]
    for number, question in enumerate(problems):

        def decisions(setting: dict[str, Any], number=number, question=question) -> list[tuple]:
            draft.flush_cache(), base.flush_cache()
            run_config = replace(config, **_identity_settings(setting, number, correct))
            return _decided(solve(question, draft=draft, base=base, config=run_config))

        expected: dict[str, list[tuple]] = {}
        for row in rows:
            setting = row["settings"]
            on_stage(f"identity: problem {number + 1} of {len(problems)}, {setting}")
            if (repair := setting["repair"]) not in expected:
                expected[repair] = decisions({"repair": repair})
            different = _difference(expected[repair], decisions(setting))
            if different is None:
                row["same"] += 1
            else:
                row["different"].append({"problem": number, **different})
    return rows


def _identity_settings(setting: dict[str, Any], number: int, correct: Correct) -> dict[str, Any]:
    others = {name: value for name, value in setting.items() if name not in ("repair", "window")}
    if setting["repair"] == "rewrite":
        judging = {"repair": Rewrite(), "threshold": FixedShare(0.7, seed=number)}
    else:
        judging = {"repair": replace(correct, window=setting.get("window"))}
    return {**judging, "lookahead": 0, **others}


def _decided(trace: Trace) -> list[tuple]:
    """What must not depend on how a run was overlapped. Where a correction is noted does: a window's last
    token may be another one than the whole step has there."""
    if trace.config["repair"]["kind"] == "Rewrite":
        steps = [(s.text, s.end, s.author, s.score, s.rejected, s.tokens) for s in trace.steps]
    else:
        steps = [(s.text, s.end) for s in trace.steps]
    return [*steps, (trace.stop, trace.answer)]


def _difference(expected: list[tuple], actual: list[tuple]) -> dict[str, Any] | None:
    """Where two runs part, or None."""
    if expected == actual:
        return None
    pairs = zip(expected, actual, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(actual)))
    return {"step": at, "expected": expected[at : at + 1], "actual": actual[at : at + 1]}


# Overhead


def measure_overhead(
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    at_once: int,
    problems: int | None = None,
    repair: str = "rewrite",
) -> dict[str, Any]:
    """What this package itself costs, with some problems at once: where four of five drafted steps are kept
    and the rest rewritten, or where about every `CORRECTED`-th token is corrected.

    Returns:
        `cpu_ms_per_step`: processor time of this process; `uncovered`: the median share of a problem's time
        in which none of its requests was in flight.
    """
    rewriting = {"repair": Rewrite(), "threshold": FixedShare(0.8)}
    correcting = {"repair": CorrectEvery(every=CORRECTED)}
    config = _always_drafting(config, **(rewriting if repair == "rewrite" else correcting))
    before = time.process_time()
    traces = solve_batch(
        questions(problems or at_once), draft=draft, base=base, config=config, concurrency=at_once
    )
    spent = time.process_time() - before
    for trace in traces:
        if not isinstance(trace, Trace):
            raise trace
    steps = sum(len(trace.steps) for trace in traces)
    return {
        "repair": repair,
        "at_once": at_once,
        "problems": len(traces),
        "steps": steps,
        "cpu_ms_per_step": 1000 * spent / steps,
        "uncovered": statistics.median(
            1 - _covered([*trace.calls, *trace.wasted], trace.seconds) / trace.seconds for trace in traces
        ),
        "seconds": max(trace.seconds for trace in traces),
    }


def _overheads(
    draft: Endpoint, base: Endpoint, config: SpecReasonConfig, at_once: Sequence[int], on_stage: OnStage
) -> list[dict[str, Any]]:
    """The overhead with real servers, rewriting; and with servers that answer at once, with both repairs."""
    short = replace(config, token_budget=3 * OVERHEAD_STEP, step_tokens=OVERHEAD_STEP, answer_tokens=8)
    rows = []
    for n in at_once:
        on_stage(f"overhead: {n} at once")
        rows.append({"servers": "real", **measure_overhead(draft, base, short if n > 1 else config, n)})
    tokenizer = draft.tokenizer.name_or_path
    with zero_servers(tokenizer) as urls, Endpoint(urls[0]) as zero_draft, Endpoint(urls[1]) as zero_base:
        long = replace(config, token_budget=20 * STEP_TOKENS, step_tokens=STEP_TOKENS)
        measure_overhead(zero_draft, zero_base, long, 1)  # what is done once
        for repair in ("rewrite", "correct"):
            for n in at_once:
                on_stage(f"overhead: {n} at once, zero latency, {repair}")
                figures = measure_overhead(zero_draft, zero_base, long, n, repair=repair)
                rows.append({"servers": "zero latency", **figures})
    return rows


def measure(
    parts: Sequence[str],
    *,
    draft: Endpoint,
    base: Endpoint,
    config: SpecReasonConfig,
    problems: Sequence[str],
    acceptances: Sequence[float],
    modes: Sequence[str] = MODES,
    correct: Correct = CORRECT,
    at_once: Sequence[int] = (1, 16, 64),
    on_stage: OnStage = lambda _: None,
) -> dict[str, Any]:
    """Some or all parts, one after another, in one dictionary that can be written as JSON.

    Args:
        parts: of `score`, `prefix`, `latency`, `identity`, `overhead`.
        draft, base: the runtimes. Their caches are emptied.
        config: budgets; decoding is greedy.
        problems: of the latency and the identity; acceptances, modes: of the latency.
        correct: how tokens are corrected, in the latency's mode of that name and in the identity.
        at_once: problems at a time, for the overhead; short ones.
        on_stage: told in a line what is being measured.
    """
    figures: dict[str, Any] = {
        "draft": draft.get_model_name(),
        "base": base.get_model_name(),
        "config": replace(config, repair=correct).as_dict(),
    }
    common = {"draft": draft, "base": base, "config": config, "correct": correct, "on_stage": on_stage}
    if "score" in parts:
        on_stage("score")
        figures["score"] = measure_score(base)
    if "prefix" in parts:
        on_stage("prefix")
        figures["prefix"] = measure_prefix(draft.base_url, base.base_url, config, api_key=base.api_key)
    if "latency" in parts:
        figures["latency"] = measure_latency(problems, acceptances, modes=modes, **common)
    if "identity" in parts:
        figures["identity"] = measure_identity(problems, **common)
    if "overhead" in parts:
        figures["overhead"] = _overheads(draft, base, config, at_once, on_stage)
    return figures
