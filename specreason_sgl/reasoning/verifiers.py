"""What judges a drafted step.

A verifier is called with a state of the base model's and a `Drafted` step, and returns a `Judgement`, or
just a number; more is better. The state is a fork made for this call, the chain of thought before the step in
it: write on it. Any function like this can be a verifier:

    def short(s, drafted):
        return -len(drafted.text)
"""

from __future__ import annotations

import math
import numbers
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.trace import End

if TYPE_CHECKING:  # `import sglang` takes seconds; settings can be made and checked without it
    from sglang.lang.interpreter import ProgramState

    from specreason_sgl.lang.endpoint import Endpoint
    from specreason_sgl.lang.score import TokenLogprob

# Stands right after the step, inside the base model's own turn: a turn of the user's would make templates of
# thinking models drop or close the thinking, and lose the cached prefix. Kept short, since it is computed
# anew for every step.
QUESTION = "\n\nStep score (0 wrong, 9 right): "
YES_NO = "\n\nIs the last step correct? Answer Yes or No:"
SAME = "\n\nThe same step in other words: {own}\n\nDo both versions mean the same? Answer Yes or No:"
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Drafted:
    """A drafted step, to be judged.

    Attributes:
        text: without the delimiter.
        tokens: of the draft model's.
        end: what ended it.
        logprobs: the draft model's own of its tokens; only where the verifier asks for them.
        delimiter: what follows it in the chain of thought; empty where something else ended it.
        own: the base model's own step at this place; only where the verifier asks for it.
    """

    text: str
    tokens: int
    end: End
    logprobs: tuple[TokenLogprob, ...] = ()
    delimiter: str = ""
    own: str = ""

    def own_tokens(self, tokens: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
        """Without those of the delimiter, nor a token of which both have a part, like ".\\n\\n"."""
        rest = self.delimiter
        while tokens and rest:
            last = tokens[-1].text
            if not last or not (rest.endswith(last) or last.endswith(rest)):
                break
            rest, tokens = rest[: max(len(rest) - len(last), 0)], tokens[:-1]
        return tokens


@dataclass(frozen=True)
class Judgement:
    """What a verifier says of a step.

    Attributes:
        value: what the threshold is compared with; more is better.
        probabilities: of each score token, where there are some.
        logprobs: the base model's of the step's tokens, where they were asked for.
        usage: the request's counts, as in `lang.score`.
    """

    value: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)


class Verifier(Protocol):
    def __call__(self, s: ProgramState, drafted: Drafted) -> Judgement | float:
        """Judge a step, with `s` to write on."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    """A verifier that asks for one score token after the step."""

    with_logprobs: bool = False

    def __call__(self, s: ProgramState, drafted: Drafted) -> Judgement:
        self.ask(s, drafted)
        return self.read_from(s.get_meta_info("score"), drafted)

    def ask(self, s: ProgramState, drafted: Drafted) -> None:
        from specreason_sgl.lang.score import score

        span = None
        if self.with_logprobs:
            start = len(s.text())
            span = (start, start + len(drafted.text))
        answer = score("score", self.choices, getattr(self, "read", "greedy"), logprobs_of=span)
        s += drafted.text + self.question + answer

    def read_from(self, meta: Mapping[str, Any], drafted: Drafted) -> Judgement:
        return Judgement(self.value(meta), meta["probabilities"], meta.get("logprobs", ()), meta)


@dataclass(frozen=True, kw_only=True)
class UtilityScore(_Question):
    """The paper's verifier (SpecReason, section 4.1): a digit from 0 to 9, one token.

    Attributes:
        read: `greedy`, the most likely digit; `average`, the expectation over the digits.
        question: what the base model reads after the step.
        with_logprobs: also keep the logprobs of the step's tokens, from the same prefill.
    """

    read: Literal["greedy", "average"] = "greedy"
    question: str = QUESTION
    bounds = (0.0, 9.0)
    choices = tuple("0123456789")

    def __post_init__(self):
        if self.read not in ("greedy", "average"):
            raise ConfigError(f"read is 'greedy' or 'average', not {self.read!r}")

    def value(self, meta: Mapping[str, Any]) -> float:
        return meta["score"]


@dataclass(frozen=True, kw_only=True)
class YesNo(_Question):
    """The probability of "Yes", against "No", to a question about the step; one token.

    Attributes as those of `UtilityScore`.
    """

    question: str = YES_NO
    bounds = (0.0, 1.0)
    choices = (" Yes", " No")

    def value(self, meta: Mapping[str, Any]) -> float:
        return meta["probabilities"][" Yes"]


@dataclass(frozen=True, kw_only=True)
class SameMeaning:
    """Whether the drafted step means what the base model's own step does, as in Lookahead Reasoning (arXiv
    2506.19830); the base model is the judge, too. The value is the probability of "Yes".

    The base model writes its step first, beside those of drafts that wait, and it stands where the draft is
    rejected. So this saves time only by what it writes side by side.

    Attributes:
        question: what follows the drafted step; `{own}` is the base model's.
    """

    question: str = SAME
    bounds = (0.0, 1.0)
    wants_own_step = True

    def __call__(self, s: ProgramState, drafted: Drafted) -> Judgement:
        from specreason_sgl.lang.score import score

        if drafted.text.lower().split() == drafted.own.lower().split():
            return Judgement(1.0)
        s += drafted.text + self.question.replace("{own}", drafted.own) + score("score", YesNo.choices)
        meta = s.get_meta_info("score")
        return Judgement(meta["probabilities"][" Yes"], meta["probabilities"], usage=meta)


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """How likely the step's text is to the base model, from the prefill alone: no token is generated.

    Attributes:
        reduce: `mean` or `min` of the tokens' logprobs (natural logarithm).
        tokens: `all`, or only those with `digits` in them. A step without such a token gets 0.
        minus_draft: less the same figure of the draft model's own logprobs, which its generation returns.
    """

    reduce: Literal["mean", "min"] = "mean"
    tokens: Literal["all", "digits"] = "all"
    minus_draft: bool = False
    with_logprobs = True  # always

    def __post_init__(self):
        if self.reduce not in ("mean", "min"):
            raise ConfigError(f"a likelihood is reduced by 'mean' or 'min', not {self.reduce!r}")
        if self.tokens not in ("all", "digits"):
            raise ConfigError(f"a likelihood looks at 'all' tokens or 'digits', not {self.tokens!r}")

    @property
    def bounds(self) -> tuple[float, float]:
        return (-math.inf, math.inf if self.minus_draft else 0.0)

    @property
    def wants_draft_logprobs(self) -> bool:
        return self.minus_draft

    def __call__(self, s: ProgramState, drafted: Drafted) -> Judgement:
        self.ask(s, drafted)
        return self.read_from(s.get_meta_info("score"), drafted)

    def ask(self, s: ProgramState, drafted: Drafted) -> None:
        from specreason_sgl.lang.score import logprobs

        # With what follows: where ".\n\n" is one token, a model that means it finds a bare "." most unlikely.
        s += logprobs("score", drafted.text + drafted.delimiter)

    def read_from(self, meta: Mapping[str, Any], drafted: Drafted) -> Judgement:
        tokens = drafted.own_tokens(meta["logprobs"])
        value = self._reduced(tokens)
        if self.minus_draft:
            value -= self._reduced(drafted.own_tokens(drafted.logprobs))
        return Judgement(value, logprobs=tokens, usage=meta)

    def _reduced(self, tokens: Sequence[TokenLogprob]) -> float:
        found = [one.logprob for one in tokens if self.tokens == "all" or _DIGIT.search(one.text)]
        if not found:
            return 0.0
        return min(found) if self.reduce == "min" else math.fsum(found) / len(found)


@dataclass(frozen=True)
class Combined:
    """A weighted sum of several verifiers of this module. One question and any number of likelihoods are read
    from one request; each further question takes one more.

    Attributes:
        parts: (weight, verifier) pairs.
    """

    parts: tuple[tuple[float, Any], ...]

    bounds = (-math.inf, math.inf)
    with_logprobs = True  # always

    def __post_init__(self):
        if not self.parts or not all(isinstance(one, _Question | Likelihood) for _, one in self.parts):
            raise ConfigError("a combined verifier needs parts: UtilityScore, YesNo or Likelihood, weighted")

    @property
    def wants_draft_logprobs(self) -> bool:
        return any(getattr(one, "wants_draft_logprobs", False) for _, one in self.parts)

    def __call__(self, s: ProgramState, drafted: Drafted) -> Judgement:
        questions = [one for _, one in self.parts if isinstance(one, _Question)]
        askers = [replace(one, with_logprobs=True) for one in questions] or [self.parts[0][1]]
        forks = [s, *(s.fork(len(askers) - 1) if len(askers) > 1 else ())]
        s.stream_executor.backend.tie(s, forks[1:])
        for fork, one in zip(forks, askers, strict=True):
            one.ask(fork, drafted)
        metas = [fork.get_meta_info("score") for fork in forks]
        answers = iter(metas)
        value = math.fsum(
            weight * one.read_from(next(answers) if one in questions else metas[0], drafted).value
            for weight, one in self.parts
        )
        tokens = drafted.own_tokens(metas[0]["logprobs"])
        return Judgement(value, metas[0].get("probabilities", {}), tokens, metas[0])


@dataclass(frozen=True)
class RewardModel:
    """A process reward model on an SGLang server of its own (`sglang serve --is-embedding`), as in
    reward-guided speculative decoding (arXiv 2501.19324).

    The conversation up to and with the step goes to `/classify`, in the reward model's chat template. One
    number is taken as it is; of several, the probability of the last class.
    """

    endpoint: Endpoint
    bounds = (-math.inf, math.inf)

    def __call__(self, s: ProgramState, drafted: Drafted) -> Judgement:
        from specreason_sgl.lang.fork import fork_to
        from specreason_sgl.lang.score import softmax

        there = fork_to(s, self.endpoint)
        s.stream_executor.backend.tie(s, [there])
        values, usage = self.endpoint.classify(there, drafted.text)
        return Judgement(softmax(values)[-1] if len(values) > 1 else values[0], usage=usage)


def judgement(found: Judgement | float) -> Judgement:
    """What a verifier returned, checked.

    Raises:
        ConfigError: it is not a number.
    """
    found = found if isinstance(found, Judgement) else Judgement(found)
    if not isinstance(found.value, numbers.Real) or math.isnan(found.value):  # a NumPy scalar is one
        raise ConfigError(f"a verifier returns a number or a Judgement of one, not {found.value!r}")
    return replace(found, value=float(found.value))


def is_askable(text: str, verifier: Verifier) -> bool:
    """Whether a drafted step can be judged: it is not empty, and does not write the question that stands
    after it, which could make the base model take a score of the draft's for its own.

    What the base model reads ends every step with the delimiter, which no step contains. A step that writes
    the question's first words, in whatever letters look like them, is rejected unread.
    """
    parts = [one for _, one in getattr(verifier, "parts", ())] or [verifier]
    questions = [one.question for one in parts if isinstance(one, _Question | SameMeaning)]
    shown = _letters(text)
    return bool(text.strip()) and not any(_opening(one) in shown for one in questions)


def _opening(question: str) -> str:
    """The letters of a question's first words; of one that begins with few, all."""
    first = re.match(r"[\w\s]*", question.strip())[0]
    return _letters(first) if len(_letters(first)) >= 8 else _letters(question) or question


def _letters(text: str) -> str:
    """A text as a reader sees it: without case, accents, spaces and signs, look-alikes as Latin letters."""
    plain = unicodedata.normalize("NFKD", text).casefold().translate(_LOOK_ALIKES)
    return "".join(one for one in unicodedata.normalize("NFKD", plain) if one.isalnum())


# What passes for a Latin letter; NFKD knows those that are wide, bold or in circles.
_LOOK_ALIKES = {
    ord(one): letter
    for letter, alike in {
        "a": "аαɑ", "c": "сϲᴄ", "d": "ԁ", "e": "еεєᴇ", "g": "ɡց", "h": "һ", "i": "іιıɩɪ1!|", "j": "јϳ",
        "k": "кκ", "l": "ʟ", "n": "ո", "o": "оοօσᴏ0", "p": "рρᴘ", "q": "ԛ", "r": "гʀ", "s": "ѕꜱ5$",
        "t": "тτտᴛ", "u": "υսᴜ", "v": "νѵᴠ", "w": "ԝωᴡ", "x": "хχ", "y": "у",
    }.items()
    for one in alike
}  # fmt: skip

BUILT_IN: dict[str, Verifier] = {
    "score": UtilityScore(),
    "score-average": UtilityScore(read="average"),
    "yes-no": YesNo(),
    **{
        "-".join(["likelihood", reduce, *["digits"] * (tokens == "digits"), *["minus-draft"] * minus]): (
            Likelihood(reduce=reduce, tokens=tokens, minus_draft=minus)
        )
        for reduce in ("mean", "min")
        for tokens in ("all", "digits")
        for minus in (False, True)
    },
}


def get_verifier(name: str) -> Verifier:
    """A built-in verifier by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in BUILT_IN:
        raise ConfigError(f"there is no verifier {name!r}; there are {', '.join(BUILT_IN)}")
    return BUILT_IN[name]
