"""What happens to a drafted text that the base model does not keep.

`Rewrite` is the paper's way: the step is thrown away and the base model writes it. `Correct` keeps what
stands before the first token that the base model regrets, puts the base model's own token there, and has the
draft model go on from it.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from specreason_sgl.errors import ConfigError

if TYPE_CHECKING:
    from specreason_sgl.lang.logprobs import Choice, TokenLogprob

AUTO = "auto"  # a window that is chosen by measurement
ALTERNATIVES = 20  # first choices of the base model that its token is drawn from, where sampling
_NUMERIC = re.compile(r"[0-9+\-*/=<>^%×÷·]")


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """Throw a rejected step away and have the base model write it (SpecReason, arXiv 2504.07891, section 4).

    The end of a kept step is judged, too: an end of the thinking or of the turn that the base model regrets
    is taken out, and the thinking goes on.

    Attributes:
        end_delta: the most regret, in nats, of an end that is kept.

    Raises:
        ConfigError: a value is out of its range.
    """

    end_delta: float = 3.0
    window: ClassVar[None] = None
    reads_tokens: ClassVar[bool] = False

    def __post_init__(self):
        check_delta("end_delta", self.end_delta)


@dataclass(frozen=True, kw_only=True)
class Correct:
    """Replace single tokens of the draft by the base model's own.

    The base model reads the draft in one prefill, which gives each token's regret: the logprob of its own
    first choice less that of the drafted token. At the first token whose regret is above `delta` the draft is
    cut; the base model's token stands there, and the draft model goes on. The base model decodes nothing.

    `delta=0` under greedy decoding is the base model's own text; a large delta is the draft model's. With a
    temperature, regrets are taken at that temperature, and the base model's token is drawn from its 20 first
    choices after temperature and `top_p`. That is lossy: speculative sampling (arXiv 2211.17192) would keep
    the base model's distribution exactly, and needs the draft model's full distribution at each token, which
    two servers do not share.

    Attributes:
        delta: the most regret, in nats, of a drafted token that is kept.
        numeric_delta: the same for tokens with a digit or an operator in them; None: `delta`.
        window: drafted tokens after which the base model reads what is new, while the draft model writes on;
            it reads earlier where the step ends, and more where it was busy. A small window throws less away
            at a correction, a large one reads less often. "auto": so many that reading takes half of the time
            that drafting does, as measured in the run; it grows with the load. None: whole steps. The text
            does not depend on it.

    Raises:
        ConfigError: a value is out of its range.
    """

    delta: float = 3.0
    numeric_delta: float | None = None
    window: int | Literal["auto"] | None = AUTO
    reads_tokens: ClassVar[bool] = True

    def __post_init__(self):
        check_delta("delta", self.delta)
        if self.numeric_delta is not None:
            check_delta("numeric_delta", self.numeric_delta)
        if self.window not in (None, AUTO) and (not _is_int(self.window) or self.window < 1):
            raise ConfigError(f"window must be a whole number from 1, 'auto' or None, got {self.window!r}")

    @property
    def end_delta(self) -> float:
        return self.delta

    def cut(self, tokens: Sequence[TokenLogprob], temperature: float) -> int | None:
        """The position of the first token that is not kept, or None."""
        for i, token in enumerate(tokens):
            numeric = self.numeric_delta is not None and _NUMERIC.search(token.text)
            delta = self.numeric_delta if numeric else self.delta
            regret = token.regret / temperature if temperature else token.regret
            # At 0 a tie is decided as the base model decides it.
            if regret > delta or (delta == 0 and token.first and token.first[0].id != token.id):
                return i
        return None


Repair = Rewrite | Correct


def draw(choices: Sequence[Choice], temperature: float, top_p: float, dice: random.Random) -> Choice:
    """The base model's token among its first choices: the first under greedy decoding, else one drawn after
    temperature and `top_p`."""
    if not temperature:
        return choices[0]
    weights = [math.exp((choice.logprob - choices[0].logprob) / temperature) for choice in choices]
    total, before, nucleus = sum(weights), 0.0, 0
    for weight in weights:  # the fewest whose share reaches top_p
        nucleus += 1
        before += weight
        if before >= top_p * total:
            break
    return dice.choices(choices[:nucleus], weights[:nucleus])[0]


def check_delta(name: str, value: float) -> None:
    """Raise a `ConfigError` where this is no number of nats from 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or value < 0:
        raise ConfigError(f"{name} must be a number of nats of at least 0, got {value!r}")


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
