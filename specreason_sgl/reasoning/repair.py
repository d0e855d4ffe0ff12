"""How a drafted text is repaired that the base model does not keep.

`Rewrite` is the paper's method: the step is discarded and the base model writes it. `Correct` keeps the text
before the first token that the base model regrets, puts the base model's own token there, and the draft model
continues from it. A new repair is a class here, of its own or one that extends another, and its name in
`REPAIRS`.
"""

import math
import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BeforeValidator

from specreason_sgl.reasoning.knobs import EVERYWHERE, JUDGE, SPECULATION, knob, settings

if TYPE_CHECKING:
    from specreason_sgl.lang.logprobs import Choice, TokenLogprob
    from specreason_sgl.reasoning.chain import Chain
    from specreason_sgl.reasoning.trace import Step

AUTO, WHOLE_STEPS = "auto", "step"  # windows that are not a number of tokens
ALTERNATIVES = 20  # with a temperature, the base model's token is drawn from this many first choices
OPERATORS = r"+\-*/=<>^%×÷·"  # within brackets of an expression
NUMERIC = re.compile(f"[0-9{OPERATORS}]")


def _none_for_whole_steps(window: Any) -> Any:
    return None if window == WHOLE_STEPS else window


class Rejected(Protocol):
    """A drafted text that did not pass, and what can be made of it. It is a step, or a part of one."""

    @property
    def chain(self) -> "Chain":
        """What is kept so far; `chain.open_step` is the part of this step, with its corrections, or None."""

    def rewrite(self) -> "Step":
        """The base model's step in its place; where a part of the step is kept, the rest of the step."""

    def correct(self, how: "Repair") -> "Step":
        """The text up to where `how.cut` first cuts it, and the base model's token there; the draft model
        goes on from it."""

    def accept(self) -> "Step":
        """The text as it is, within the token budget."""


class Repair:
    """Base of the repairs: a subclass is made by `settings` and defines `apply`. Runs share a repair, which
    is immutable; what it has to know of a run is in `Rejected`.

    Attributes:
        does: what it does, in the help of the knob `repair`.
        reads_tokens: whether the base model reads a draft token by token where there is no verifier; if not,
            the paper's digit judges it.
        window: see `Correct`; None: whole steps.
        end_delta: see `Rewrite`.
    """

    does: ClassVar[str]
    reads_tokens: ClassVar[bool] = False
    window: int | Literal["auto", "step"] | None = None
    end_delta: float = 3.0

    def cut(self, tokens: "Sequence[TokenLogprob]", temperature: float) -> int | None:
        """The position of the first token that is not kept, or None where all of them are."""
        return None

    def apply(self, rejected: Rejected) -> "Step":
        """What stands in the place of a draft that did not pass."""
        raise NotImplementedError


@settings
class Rewrite(Repair):
    """Discard a rejected step and have the base model write it (SpecReason, arXiv 2504.07891, section 4).

    The end of a kept step is judged, too: where the draft model ended the thinking or the turn and the base
    model regrets it, the thinking continues.
    """

    does: ClassVar[str] = "replaces the whole step"
    end_delta: float = knob(
        default=3.0,
        help="With rewrite: continue the thinking after an end that the base model regrets by more nats than "
        "this.",
        unit="nats",
        places=(),
        ge=0,
    )

    def apply(self, rejected: Rejected) -> "Step":
        return rejected.rewrite()


@settings
class Correct(Repair):
    """Replace single tokens of the draft with the base model's own.

    The base model reads the draft in one prefill, which gives each token's regret: the logprob of the base
    model's first choice minus that of the drafted token. At the first token whose regret is above `delta` the
    draft is cut and the base model's token is put there; the draft model continues from it. The base model
    decodes nothing.

    For tokens with a digit or one of + - * / = < > ^ % `numeric_delta` is in the place of `delta`; None: the
    same as `delta`. By default, under greedy decoding, the base model's first choice stands there: a wrong
    number is wrong, where another word is mostly as good. These signs are also in Markdown's marks and in the
    ends of turns.

    Under greedy decoding, `delta=0` gives the base model's own text, and two large deltas the draft
    model's. With a temperature, regrets are taken at that temperature, and the base model's token is drawn
    from its first 20 choices after temperature, `top_k`, `top_p` and `min_p`. A drafted token that these
    would exclude is kept if its regret is at most its delta; a repetition penalty changes what the models
    write, but no regret. This is lossy: speculative sampling (arXiv 2211.17192) keeps the base model's
    distribution exactly, but needs the draft model's full distribution at each token, which two servers do
    not share.

    The default, 1, lost least of the base model's accuracy where it was tried (RESULTS.md); 2 and 3 were
    faster, and lost more.

    The text does not depend on `window`. With a small window a correction discards fewer drafted tokens; with
    a large one the base model reads less often. It reads while the draft model writes: earlier if the step
    ends, and more at once if the base model was busy. "auto" chooses the window such that reading takes half
    as long as drafting, as measured in the run; it grows under load. None (or "step") means whole steps.
    """

    does: ClassVar[str] = "replaces single tokens"
    delta: float = knob(
        default=1.0,
        help="Correct a drafted token that the base model regrets by more nats than this.",
        unit="nats",
        panel=JUDGE,
        front=True,
        places=EVERYWHERE,
        scope="correcting",
        ge=0,
    )
    numeric_delta: float | None = knob(
        default=0.0,
        help="The same for tokens with a digit or an operator; 0: the base model's own.",
        unit="nats",
        panel=JUDGE,
        scope="correcting",
        ge=0,
    )
    window: Annotated[int | Literal["auto", "step"] | None, BeforeValidator(_none_for_whole_steps)] = knob(
        default=AUTO,
        help="Number of drafted tokens after which the base model reads; auto: chosen so that reading keeps "
        "up with drafting; step: whole steps.",
        unit="tokens",
        panel=SPECULATION,
        scope="correcting",
        ge=1,
    )
    reads_tokens: ClassVar[bool] = True

    @property
    def end_delta(self) -> float:  # type: ignore[override]
        """As of `Rewrite`."""
        return self.delta

    def apply(self, rejected: Rejected) -> "Step":
        return rejected.correct(self)

    def cut(self, tokens: "Sequence[TokenLogprob]", temperature: float) -> int | None:
        for position, token in enumerate(tokens):
            delta = self.delta
            if self.numeric_delta is not None and NUMERIC.search(token.text):
                delta = self.numeric_delta
            regret = token.regret / temperature if temperature else token.regret
            is_tie_lost = delta == 0 and token.first and token.first[0].id != token.id
            if regret > delta or is_tie_lost:
                return position
        return None


REPAIRS: dict[str, Repair] = {"correct": Correct(), "rewrite": Rewrite()}  # by name; the first is the default
DEFAULT_REPAIR = next(iter(REPAIRS))
JUDGED_REPAIR = next(name for name, repair in REPAIRS.items() if not repair.reads_tokens)  # with a verifier


def name_of(repair: Repair) -> str:
    """The name under which a repair, or the class that it extends, can be chosen; empty if it has none."""
    names = {type(named): name for name, named in REPAIRS.items()}
    return next((names[kind] for kind in type(repair).__mro__ if kind in names), "")


def draw(
    choices: "Sequence[Choice]",
    temperature: float,
    top_p: float,
    rng: random.Random,
    top_k: int = -1,
    min_p: float = 0.0,
) -> "Choice":
    """Choose the base model's token among its first choices: the first one under greedy decoding, else at
    random after temperature, `top_k`, `top_p` and `min_p`."""
    if not temperature:
        return choices[0]
    if top_k > 0:
        choices = choices[:top_k]
    weights = [math.exp((choice.logprob - choices[0].logprob) / temperature) for choice in choices]
    weights = [weight for weight in weights if weight >= min_p]  # the first one's weight is 1
    total, mass, nucleus = sum(weights), 0.0, 0
    for weight in weights:
        nucleus += 1
        mass += weight
        if mass >= top_p * total:
            break
    return rng.choices(choices[:nucleus], weights[:nucleus])[0]
