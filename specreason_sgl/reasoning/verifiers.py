"""The verifiers that come with the package, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.verifier import RESULT, Drafted, Judgement, Verifier

if TYPE_CHECKING:  # importing sglang takes seconds, and settings do not need it
    from sglang.lang.interpreter import ProgramState

    from specreason_sgl.lang.endpoint import Endpoint
    from specreason_sgl.lang.logprobs import TokenLogprob

# Follows the step inside the base model's own turn: with a user turn, templates of thinking models would drop
# or close the thinking and lose the cached prefix. Short, because it is computed again for every step.
QUESTION = "\n\nStep score (0 wrong, 9 right): "
YES_NO = "\n\nIs the last step correct? Answer Yes or No:"
PAPER_QUESTION = (
    "Rate the last step of the reasoning above with one digit from 0 to 9. Ask whether it is logically "
    "sound, whether it brings the solution closer, and whether it repeats what was there. 0 is a useless or "
    "wrong step, 9 a step that could not be better. Be strict. Answer with the digit only."
)
PAPER_ANSWER = "The quality score is: "
DIGIT = re.compile(r"\d")


@dataclass(frozen=True, kw_only=True)
class _ScoreToken(Verifier):
    """A verifier that asks for one score token after the step."""

    with_logprobs: bool = False
    choices: ClassVar[tuple[str, ...]] = ()

    def ask(self, s: ProgramState, drafted: Drafted) -> ProgramState:
        from specreason_sgl.lang.score import score

        span = None
        if self.with_logprobs:
            start = len(s.text())
            span = (start, start + len(drafted.text))
        s += drafted.text + self.question
        s += score(RESULT, self.choices, getattr(self, "read_as", "greedy"), logprobs_of=span)
        return s

    def read(self, meta: Mapping[str, Any], drafted: Drafted) -> Judgement:
        tokens = meta.get("logprobs", ())
        return Judgement(self.value(meta), dict(meta["probabilities"]), meta["mass"], tokens)

    def value(self, meta: Mapping[str, Any]) -> float:
        """The judgement's value, from the meta information of `score`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class UtilityScore(_ScoreToken):
    """The paper's score: a digit from 0 to 9, one token (SpecReason, arXiv 2504.07891, section 4.1).

    A short question in the base model's own turn asks for it, so that the cached prefix can be used.

    Attributes:
        read_as: `greedy`, the most likely digit; `average`, the expectation over the digits.
        question: the text that the base model reads after the step.
        least_mass: the value is 0 if the digits together have less than this probability: the model would
            write something else, which scores 0 in the authors' script, too.
        with_logprobs: also keep the logprobs of the step's tokens, from the same prefill.
    """

    read_as: Literal["greedy", "average"] = "greedy"
    question: str = QUESTION
    least_mass: float = 0.1
    bounds = (0.0, 9.0)
    default_threshold = 7.0
    choices = tuple("0123456789")

    def __post_init__(self) -> None:
        if self.read_as not in ("greedy", "average"):
            raise ConfigError(f"read_as must be 'greedy' or 'average', got {self.read_as!r}")

    def value(self, meta: Mapping[str, Any]) -> float:
        mass = meta["mass"]
        return 0.0 if mass is not None and mass < self.least_mass else meta["score"]

    def average(self, meta: Mapping[str, Any]) -> float:
        """The value as the expectation over the digits, from a request that was read in either way."""
        expectation = sum(float(digit) * p for digit, p in meta["probabilities"].items())
        return self.value({**meta, "score": expectation})


@dataclass(frozen=True, kw_only=True)
class PaperScore(UtilityScore):
    """The paper's score as its authors ask for it: in a user turn after the step, with a given beginning of
    the answer.

    With templates that drop the thinking of earlier turns, the cached prefix cannot be used.

    Attributes:
        answer: the beginning of the base model's answer. The others are those of `UtilityScore`.
    """

    question: str = PAPER_QUESTION
    answer: str = PAPER_ANSWER

    def ask(self, s: ProgramState, drafted: Drafted) -> ProgramState:
        import sglang as sgl

        from specreason_sgl.lang.score import score

        s += drafted.text
        s += sgl.assistant_end()
        s += sgl.user(self.question)
        s += sgl.assistant_begin()
        s += self.answer + score(RESULT, self.choices, self.read_as)
        return s


@dataclass(frozen=True, kw_only=True)
class YesNo(_ScoreToken):
    """The probability of "Yes", as opposed to "No", as the answer to a question about the step; one token.

    Attributes:
        question, with_logprobs: as of `UtilityScore`.
    """

    question: str = YES_NO
    bounds = (0.0, 1.0)
    choices = (" Yes", " No")

    def value(self, meta: Mapping[str, Any]) -> float:
        return meta["probabilities"][" Yes"]


@dataclass(frozen=True, kw_only=True)
class Likelihood(Verifier):
    """How likely the step's text is to the base model: from the prefill, without generating a token.

    Attributes:
        reduce: `mean` or `min` of the tokens' logprobs (natural logarithm).
        tokens: `all`, or only tokens with `digits`. A step without such a token has the value 0.
    """

    reduce: Literal["mean", "min"] = "mean"
    tokens: Literal["all", "digits"] = "all"
    bounds = (-math.inf, 0.0)

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "min"):
            raise ConfigError(f"reduce must be 'mean' or 'min', got {self.reduce!r}")
        if self.tokens not in ("all", "digits"):
            raise ConfigError(f"tokens must be 'all' or 'digits', got {self.tokens!r}")

    def ask(self, s: ProgramState, drafted: Drafted) -> ProgramState:
        from specreason_sgl.lang.logprobs import logprobs

        # With the delimiter: a model whose token is ".\n\n" finds a bare "." very unlikely.
        s += logprobs(RESULT, drafted.whole)
        return s

    def read(self, meta: Mapping[str, Any], drafted: Drafted) -> Judgement:
        value = self._reduce(drafted.without_delimiter(meta["logprobs"]))
        return Judgement(value, tokens=meta["logprobs"])

    def _reduce(self, tokens: Sequence[TokenLogprob]) -> float:
        values = [token.logprob for token in tokens if self.tokens == "all" or DIGIT.search(token.text)]
        if not values:
            return 0.0
        return min(values) if self.reduce == "min" else math.fsum(values) / len(values)


@dataclass(frozen=True)
class RewardModel(Verifier):
    """A process reward model on its own SGLang server (`sglang serve --is-embedding`), as in reward-guided
    speculative decoding (arXiv 2501.19324).

    The conversation up to and including the step is sent to `/classify`, in the reward model's chat template.
    If the model returns one number, that is the value; if several, the probability of the last class is.

    Attributes:
        endpoint: the reward model's endpoint.
    """

    endpoint: Endpoint

    def ask(self, s: ProgramState, drafted: Drafted) -> ProgramState:
        from specreason_sgl.lang.classify import classify
        from specreason_sgl.lang.fork import fork_to

        fork = fork_to(s, self.endpoint)
        s.stream_executor.backend.tie(s, [fork])
        fork += drafted.text + classify(RESULT)
        return fork

    def read(self, meta: Mapping[str, Any], drafted: Drafted) -> Judgement:
        from specreason_sgl.lang.score import softmax

        values = meta["values"]
        return Judgement(softmax(values)[-1] if len(values) > 1 else values[0])


VERIFIERS: dict[str, Verifier] = {
    "score": UtilityScore(),
    "score-average": UtilityScore(read_as="average"),
    "score-paper": PaperScore(),
    "yes-no": YesNo(),
    "likelihood-mean": Likelihood(),
    "likelihood-mean-digits": Likelihood(tokens="digits"),
    "likelihood-min": Likelihood(reduce="min"),
    "likelihood-min-digits": Likelihood(reduce="min", tokens="digits"),
}


def get_verifier(name: str) -> Verifier:
    """Look up a built-in verifier.

    Raises:
        ConfigError: no built-in verifier has this name.
    """
    if name not in VERIFIERS:
        raise ConfigError(f"verifier must be one of {', '.join(VERIFIERS)}, got {name!r}")
    return VERIFIERS[name]
