"""What happens to a drafted text that the base model does not keep.

`Rewrite` is the paper's way: the step is thrown away and the base model writes it. `Correct` keeps what
stands before the first token that the base model regrets, puts the base model's own token there, and has the
draft model go on from it.
"""

import math
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from specreason_sgl.reasoning.knobs import JUDGE, SPECULATION, knob, settings

if TYPE_CHECKING:
    from specreason_sgl.lang.logprobs import Choice, TokenLogprob

AUTO, WHOLE_STEPS = "auto", "step"  # windows that are no number of tokens
ALTERNATIVES = 20  # first choices of the base model that its token is drawn from, where sampling
_NUMERIC = re.compile(r"[0-9+\-*/=<>^%×÷·]")


def _none_for_whole_steps(window: Any) -> Any:
    return None if window == WHOLE_STEPS else window


@settings
class Rewrite:
    """Throw a rejected step away and have the base model write it (SpecReason, arXiv 2504.07891, section 4).

    The end of a kept step is judged, too: an end of the thinking or of the turn that the base model regrets
    is taken out, and the thinking goes on.
    """

    end_delta: float = knob(
        3.0,
        "Take out an end of the thinking that the base model regrets by more nats than this, where steps are "
        "rewritten.",
        unit="nats",
        places=(),
        ge=0,
    )
    window: ClassVar[None] = None
    reads_tokens: ClassVar[bool] = False


@settings
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

    The text does not depend on `window`. A small window throws less away at a correction; a large one makes
    the base model read less often. It reads while the draft model writes on, earlier where the step ends, and
    more at once where it was busy. "auto": so many that reading takes half of the time that drafting does, as
    measured in the run; it grows with the load. None (or "step"): whole steps.
    """

    delta: float = knob(
        3.0,
        "Correct a drafted token that the base model regrets by more nats than this.",
        unit="nats",
        panel=JUDGE,
        front=True,
        scope="correcting",
        ge=0,
    )
    numeric_delta: float | None = knob(
        None,
        "The same for tokens with a digit or an operator; default: as delta.",
        unit="nats",
        panel=JUDGE,
        scope="correcting",
        ge=0,
    )
    window: Annotated[int | Literal["auto", "step"] | None, BeforeValidator(_none_for_whole_steps)] = knob(
        AUTO,
        "Drafted tokens after which the base model reads; auto: as many as reading keeps up with; step: "
        "whole steps.",
        unit="tokens",
        panel=SPECULATION,
        scope="correcting",
        ge=1,
    )
    reads_tokens: ClassVar[bool] = True

    @property
    def end_delta(self) -> float:
        return self.delta

    def cut(self, tokens: "Sequence[TokenLogprob]", temperature: float) -> int | None:
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


def draw(choices: "Sequence[Choice]", temperature: float, top_p: float, dice: random.Random) -> "Choice":
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
