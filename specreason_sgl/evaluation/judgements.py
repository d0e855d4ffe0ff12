"""What the base model said of drafts, apart by whether the answer came out right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specreason_sgl.evaluation.groups import Group, drafted
from specreason_sgl.reasoning.trace import Trace

LARGE = 1.0  # nats


@dataclass(frozen=True)
class Judgement:
    """Of the chains of a setting with right answers, or with wrong ones; NaN where nothing was judged.

    Attributes:
        score: median over drafted steps; `lowest_score`: median over chains of their lowest.
        regret: mean over tokens read, in nats; `large`: the share above `LARGE`; `highest`: median over
            chains of their highest.
        corrections: per 100 tokens.
    """

    setting: str
    right: bool
    chains: int
    score: float
    lowest_score: float
    regret: float
    large: float
    highest: float
    corrections: float


def judgements(groups: Sequence[Group]) -> list[Judgement]:
    """Of each setting whose drafts were judged: right answers, then wrong ones."""
    judged = [group for group in groups if any(map(_is_judged, group.traces))]
    return [_judgement(group, right) for group in judged for right in (True, False)]


def _judgement(group: Group, right: bool) -> Judgement:
    traces = [sample.trace for sample in group.samples if sample.right is right and sample.trace]
    scores, regrets = [_scores(trace) for trace in traces], [_regrets(trace) for trace in traces]
    every = np.concatenate([*regrets, []])
    tokens = sum(trace.tokens for trace in traces)
    return Judgement(
        setting=group.name,
        right=right,
        chains=len(traces),
        score=_median(np.concatenate([*scores, []])),
        lowest_score=_median([values.min() for values in scores if len(values)]),
        regret=float(every.mean()) if len(every) else math.nan,
        large=float((every > LARGE).mean()) if len(every) else math.nan,
        highest=_median([values.max() for values in regrets if len(values)]),
        corrections=100 * sum(trace.corrections for trace in traces) / tokens if tokens else math.nan,
    )


def _is_judged(trace: Trace) -> bool:
    return bool(len(_scores(trace)) or len(_regrets(trace)))


def _scores(trace: Trace) -> np.ndarray:
    return np.array([step.score for step in drafted(trace) if step.score is not None])


def _regrets(trace: Trace) -> np.ndarray:
    """Of the tokens read, without those that the base model gives no probability at all."""
    values = np.array([token.regret for step in trace.steps for token in step.reading], float)
    return values[np.isfinite(values)]


def _median(values: Sequence[float] | np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan
