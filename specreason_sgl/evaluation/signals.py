"""Signals of how good a step is, from the tokens of a text that a model has read in one prefill.

Higher is better in each of them. `BASE` are those of the base model's prefill, `DRAFT` those of the draft
model's; `CONTROLS` know nothing of the content, and a signal that is no better than them is none.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from specreason_sgl.lang.logprobs import TokenLogprob
from specreason_sgl.reasoning.repair import NUMERIC
from specreason_sgl.reasoning.verifier import Drafted
from specreason_sgl.reasoning.verifiers import VERIFIERS, Likelihood

TOP = 20  # first choices that are read of each token, for the entropy
LARGE = 3.0  # nats: regrets above it are counted

Tokens = Sequence[TokenLogprob]
Signal = Callable[[Tokens], float]


def entropy(token: TokenLogprob) -> float:
    """Entropy of the model's first choices at a token, in nats; what the others have is left out."""
    return -math.fsum(math.exp(choice.logprob) * choice.logprob for choice in token.first)


def margin(token: TokenLogprob) -> float:
    """Logprob of a token less that of the best other choice, in nats."""
    others = [choice.logprob for choice in token.first if choice.id != token.id]
    return token.logprob - others[0] if others else 0.0


def _highest(values: Iterable[float]) -> float:
    return max(values, default=0.0)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values) if values else 0.0


BASE: dict[str, Signal] = {
    "regret-max": lambda tokens: -_highest(token.regret for token in tokens),
    "regret-max-numeric": lambda tokens: (
        -_highest(token.regret for token in tokens if NUMERIC.search(token.text))
    ),
    "regrets-above-3": lambda tokens: -sum(token.regret > LARGE for token in tokens),
    "entropy-mean": lambda tokens: -_mean(map(entropy, tokens)),
    "entropy-max": lambda tokens: -_highest(map(entropy, tokens)),
}
DRAFT: dict[str, Signal] = {
    "draft-likelihood-mean": lambda tokens: _mean(token.logprob for token in tokens),
    "draft-likelihood-min": lambda tokens: min((token.logprob for token in tokens), default=0.0),
    "draft-margin-min": lambda tokens: min(map(margin, tokens), default=0.0),
}
CONTROLS: tuple[str, ...] = ("length", "position")


def names(questions: bool) -> tuple[str, ...]:
    """The names of all signals, those of the verifiers first.

    Args:
        questions: whether the verifiers that ask a question are among them.
    """
    verifiers = (name for name, verifier in VERIFIERS.items() if questions or is_read(verifier))
    return (*verifiers, *BASE, *DRAFT, *CONTROLS)


def is_read(verifier: object) -> bool:
    """Whether a verifier needs the prefill of the step alone."""
    return isinstance(verifier, Likelihood)


def signals(drafted: Drafted, position: int, base: Tokens, draft: Tokens) -> dict[str, float]:
    """The signals of a step that need no question.

    Args:
        drafted: the step.
        position: of the step in its solution, from 0.
        base, draft: its tokens as each model read them, the delimiter's included.
    """
    values = {
        name: verifier.read({"logprobs": base}, drafted).value
        for name, verifier in VERIFIERS.items()
        if is_read(verifier)
    }
    base, draft = drafted.without_delimiter(tuple(base)), drafted.without_delimiter(tuple(draft))
    values |= {name: signal(base) for name, signal in BASE.items()}
    values |= {name: signal(draft) for name, signal in DRAFT.items()}
    return values | {"length": -float(len(base)), "position": -float(position)}


def split_tokens(tokens: Tokens, parts: Sequence[str]) -> list[list[TokenLogprob]]:
    """The tokens of each part of a text: those that begin in it.

    Args:
        tokens: of the parts, joined; the first may begin before them.
        parts: the text's, none empty.
    """
    ends = list(itertools.accumulate(map(len, parts)))
    at = ends[-1] - sum(len(token.text) for token in tokens)
    groups: list[list[TokenLogprob]] = [[] for _ in parts]
    for token in tokens:
        groups[min(bisect.bisect_right(ends, at), len(parts) - 1)].append(token)
        at += len(token.text)
    return groups
