"""What judges a drafted step as a whole.

A `Verifier` works in two phases: `ask` writes on a fork of the base model's state and returns at once, so
that several steps are judged side by side; `read` makes a `Judgement` of the result. More is better. A plain
function of the fork and the drafted step will do, too:

    def short(s, drafted):
        return -len(drafted.text)
"""

from __future__ import annotations

import contextlib
import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from specreason_sgl.errors import ConfigError, SpecReasonError, VerifierError
from specreason_sgl.reasoning.trace import Call, End

if TYPE_CHECKING:  # `import sglang` takes seconds; settings can be made and checked without it
    from sglang.lang.interpreter import ProgramState

    from specreason_sgl.lang.endpoint import Endpoint
    from specreason_sgl.lang.logprobs import TokenLogprob

RESULT = "judgement"  # the name of what `ask` asks for
# Stands right after the step, inside the base model's own turn: a turn of the user's would make templates of
# thinking models drop or close the thinking, and lose the cached prefix. Kept short, since it is computed
# anew for every step.
QUESTION = "\n\nStep score (0 wrong, 9 right): "
YES_NO = "\n\nIs the last step correct? Answer Yes or No:"
PAPER_QUESTION = (
    "Rate the last step of the reasoning above with one digit from 0 to 9. Ask whether it is logically "
    "sound, whether it brings the solution closer, and whether it repeats what was there. 0 is a useless or "
    "wrong step, 9 a step that could not be better. Be strict. Answer with the digit only."
)
PAPER_ANSWER = "The quality score is: "
LEAST_OPENING = 8  # characters of a question; a draft that has fewer of them may well be innocent
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Drafted:
    """A drafted step, or a window of one, to be judged.

    Attributes:
        text: without the delimiter.
        tokens: of the draft model's.
        end: what ended the step; None where it goes on.
        delimiter: what follows it in the chain of thought; empty where something else ended it.
        logprobs: the draft model's own of its tokens, where they are needed.
        call: the request, with the last of what it wrote.
    """

    text: str
    tokens: int
    end: End | None
    delimiter: str = ""
    logprobs: tuple[float, ...] = ()
    call: Call | None = None

    @property
    def whole(self) -> str:
        """The text and the delimiter after it."""
        return self.text + self.delimiter

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
        mass: the probability of all score tokens together: small where the model would write none of them.
        tokens: of the step, as the base model read them, where they were asked for.
    """

    value: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    mass: float | None = None
    tokens: tuple[TokenLogprob, ...] = ()


class Verifier:
    """Base of the verifiers: a subclass defines `ask` and `read`.

    Attributes:
        bounds: the least and the greatest value, for checking a threshold.
        question: what stands after the step; a draft that writes its beginning itself is rejected unread.
    """

    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    question: str = ""

    def ask(self, s: ProgramState, drafted: Drafted) -> ProgramState:
        """Write on `s`, a fork with the chain of thought before the step, so that `RESULT` is asked for.

        Returns:
            The state that has the result: `s`, or one on another endpoint.
        """
        raise NotImplementedError

    def read(self, meta: Mapping[str, Any], drafted: Drafted) -> Judgement:
        """The judgement, from the meta information of `RESULT`."""
        raise NotImplementedError

    def judgement(self, s: ProgramState, drafted: Drafted) -> Judgement:
        """Wait for what was asked on `s`, and read it.

        Raises:
            SpecReasonError: the request failed; `VerifierError`: the verifier did.
        """
        meta = s.get_meta_info(RESULT)
        return _checked(self, lambda: self.read(meta, drafted))


class _Function(Verifier):
    """A user's function of the fork and the step."""

    def __init__(self, function: Callable[[ProgramState, Drafted], Judgement | float]):
        self.function = function

    def ask(self, s, drafted):
        return s

    def judgement(self, s, drafted):
        return _checked(self.function, lambda: self.function(s, drafted))


def as_verifier(verifier: Verifier | Callable) -> Verifier:
    """A verifier as it is, or one that calls a function."""
    return verifier if isinstance(verifier, Verifier) else _Function(verifier)


@contextlib.contextmanager
def verifier_errors(verifier: Any) -> Iterator[str]:
    """Whatever a verifier raises in here is one of the package's errors. Gives its name.

    Raises:
        VerifierError: it raised something else.
    """
    name = getattr(verifier, "__name__", type(verifier).__name__)
    try:
        yield name
    except SpecReasonError:
        raise
    except Exception as error:
        raise VerifierError(f"the verifier {name} failed: {type(error).__name__}: {error}") from error


def _checked(verifier: Any, work: Callable[[], Judgement | float]) -> Judgement:
    with verifier_errors(verifier) as name:
        result = work()
    result = result if isinstance(result, Judgement) else Judgement(result)
    if not isinstance(result.value, numbers.Real) or math.isnan(result.value):  # a NumPy scalar is one
        raise VerifierError(f"the verifier {name} must return a number or a Judgement, got {result.value!r}")
    return replace(result, value=float(result.value))


@dataclass(frozen=True, kw_only=True)
class _Question(Verifier):
    """A verifier that asks for one score token after the step."""

    with_logprobs: bool = False
    choices: ClassVar[tuple[str, ...]] = ()

    def ask(self, s, drafted):
        from specreason_sgl.lang.score import score

        span = None
        if self.with_logprobs:
            start = len(s.text())
            span = (start, start + len(drafted.text))
        s += drafted.text + self.question
        s += score(RESULT, self.choices, getattr(self, "read_as", "greedy"), logprobs_of=span)
        return s

    def read(self, meta, drafted):
        tokens = meta.get("logprobs", ())
        return Judgement(self.value(meta), dict(meta["probabilities"]), meta["mass"], tokens)

    def value(self, meta: Mapping[str, Any]) -> float:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class UtilityScore(_Question):
    """The paper's digit from 0 to 9, one token (SpecReason, arXiv 2504.07891, section 4.1), asked for by a
    short question in the base model's own turn, which keeps its cached prefix.

    Attributes:
        read_as: `greedy`, the most likely digit; `average`, the expectation over the digits.
        question: what the base model reads after the step.
        least_mass: the value is 0 where the digits together have less than this probability: the model would
            then write something else, as in the authors' script, where that scores 0.
        with_logprobs: also keep the logprobs of the step's tokens, from the same prefill.
    """

    read_as: Literal["greedy", "average"] = "greedy"
    question: str = QUESTION
    least_mass: float = 0.1
    bounds = (0.0, 9.0)
    choices = tuple("0123456789")

    def __post_init__(self):
        if self.read_as not in ("greedy", "average"):
            raise ConfigError(f"read_as must be 'greedy' or 'average', got {self.read_as!r}")

    def value(self, meta):
        mass = meta["mass"]
        return 0.0 if mass is not None and mass < self.least_mass else meta["score"]


@dataclass(frozen=True, kw_only=True)
class PaperScore(UtilityScore):
    """The paper's digit as its authors ask for it: in a turn of the user's after the step, the beginning of
    the answer given. Templates that drop the thinking of earlier turns lose the cached prefix here.

    Attributes as those of `UtilityScore`, and:
        answer: how the base model's answer begins.
    """

    question: str = PAPER_QUESTION
    answer: str = PAPER_ANSWER

    def ask(self, s, drafted):
        import sglang as sgl

        from specreason_sgl.lang.score import score

        s += drafted.text
        s += sgl.assistant_end()
        s += sgl.user(self.question)
        s += sgl.assistant_begin()
        s += self.answer + score(RESULT, self.choices, self.read_as)
        return s


@dataclass(frozen=True, kw_only=True)
class YesNo(_Question):
    """The probability of "Yes", against "No", to a question about the step; one token.

    Attributes as those of `UtilityScore`.
    """

    question: str = YES_NO
    bounds = (0.0, 1.0)
    choices = (" Yes", " No")

    def value(self, meta):
        return meta["probabilities"][" Yes"]


@dataclass(frozen=True, kw_only=True)
class Likelihood(Verifier):
    """How likely the step's text is to the base model, from the prefill alone: no token is generated.

    Attributes:
        reduce: `mean` or `min` of the tokens' logprobs (natural logarithm).
        tokens: `all`, or only those with `digits` in them. A step without such a token gets 0.
    """

    reduce: Literal["mean", "min"] = "mean"
    tokens: Literal["all", "digits"] = "all"
    bounds = (-math.inf, 0.0)

    def __post_init__(self):
        if self.reduce not in ("mean", "min"):
            raise ConfigError(f"reduce must be 'mean' or 'min', got {self.reduce!r}")
        if self.tokens not in ("all", "digits"):
            raise ConfigError(f"tokens must be 'all' or 'digits', got {self.tokens!r}")

    def ask(self, s, drafted):
        from specreason_sgl.lang.logprobs import logprobs

        # With what follows: where ".\n\n" is one token, a model that means it finds a bare "." most unlikely.
        s += logprobs(RESULT, drafted.whole)
        return s

    def read(self, meta, drafted):
        return Judgement(self._reduced(drafted.own_tokens(meta["logprobs"])), tokens=meta["logprobs"])

    def _reduced(self, tokens: Sequence[TokenLogprob]) -> float:
        values = [token.logprob for token in tokens if self.tokens == "all" or _DIGIT.search(token.text)]
        if not values:
            return 0.0
        return min(values) if self.reduce == "min" else math.fsum(values) / len(values)


@dataclass(frozen=True)
class RewardModel(Verifier):
    """A process reward model on an SGLang server of its own (`sglang serve --is-embedding`), as in
    reward-guided speculative decoding (arXiv 2501.19324).

    The conversation up to and with the step goes to `/classify`, in the reward model's chat template. One
    number is taken as it is; of several, the probability of the last class.
    """

    endpoint: Endpoint

    def ask(self, s, drafted):
        from specreason_sgl.lang.classify import classify
        from specreason_sgl.lang.fork import fork_to

        there = fork_to(s, self.endpoint)
        s.stream_executor.backend.tie(s, [there])
        there += drafted.text + classify(RESULT)
        return there

    def read(self, meta, drafted):
        from specreason_sgl.lang.score import softmax

        values = meta["values"]
        return Judgement(softmax(values)[-1] if len(values) > 1 else values[0])


def is_askable(text: str, verifier: Verifier | Callable) -> bool:
    """Whether a drafted step can be judged: it is not empty, and does not write the question that stands
    after it, which could make the base model take a score of the draft's for its own.

    What the base model reads ends every step with the delimiter, which no step contains. A step that has the
    question's first words is rejected unread; a question of few characters is not looked for.
    """
    opening = _opening(as_verifier(verifier).question)
    written = " ".join(text.casefold().split())
    return bool(text.strip()) and not (len(opening) >= LEAST_OPENING and opening in written)


def _opening(question: str) -> str:
    """A question's first words; of one that begins with few, all."""
    question = " ".join(question.casefold().split())
    first = re.match(r"[\w ]*", question)[0].strip()
    return first if len(first) >= LEAST_OPENING else question


BUILT_IN: dict[str, Verifier] = {
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
    """A built-in verifier by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in BUILT_IN:
        raise ConfigError(f"there is no verifier {name!r}; there are {', '.join(BUILT_IN)}")
    return BUILT_IN[name]
