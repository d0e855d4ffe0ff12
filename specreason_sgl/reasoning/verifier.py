"""`Verifier`: what judges a drafted step as a whole.

A `Verifier` works in two phases: `ask` writes on a fork of the base model's state and returns at once, so
that several steps are judged side by side; `read` turns the result into a `Judgement`. Higher values are
better. A function of the fork and the drafted step is a verifier, too:

    def short(s, drafted):
        return -len(drafted.text)
"""

from __future__ import annotations

import contextlib
import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from specreason_sgl.errors import SpecReasonError, VerifierError
from specreason_sgl.reasoning.trace import Call, End

if TYPE_CHECKING:  # importing sglang takes seconds, and settings do not need it
    from sglang.lang.interpreter import ProgramState

    from specreason_sgl.lang.logprobs import TokenLogprob

RESULT = "judgement"  # the variable that holds the result of `ask`
LEAST_OPENING = 8  # characters; a shorter opening of a question can be in a draft by chance


@dataclass(frozen=True)
class Drafted:
    """A drafted step, or a part of one, to be judged.

    Attributes:
        text: the text, without the delimiter.
        tokens: number of the draft model's tokens.
        end: what ended the step; None if it is not finished.
        delimiter: the delimiter if it ended the step, else empty.
        logprobs: the draft model's own logprobs of its tokens; empty if they were not requested.
        call: the request, with the last part of what it wrote.
    """

    text: str
    tokens: int
    end: End | None
    delimiter: str = ""
    logprobs: tuple[float, ...] = ()
    call: Call | None = None

    @property
    def whole(self) -> str:
        """The text and its delimiter."""
        return self.text + self.delimiter

    def without_delimiter(self, tokens: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
        """The tokens without those of the delimiter. A token that the text shares with the delimiter, like
        ".\\n\\n", is left out, too."""
        rest = self.delimiter
        while tokens and rest:
            last = tokens[-1].text
            if not last or not (rest.endswith(last) or last.endswith(rest)):
                break
            rest, tokens = rest[: max(len(rest) - len(last), 0)], tokens[:-1]
        return tokens


@dataclass(frozen=True)
class Judgement:
    """A verifier's judgement of a step.

    Attributes:
        value: the value that is compared with the threshold; higher is better.
        probabilities: the probability of each score token, if the verifier uses score tokens.
        mass: the probability of all score tokens together; small if the model would write something else.
        tokens: the step's tokens as the base model read them; empty if they were not requested.
    """

    value: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    mass: float | None = None
    tokens: tuple[TokenLogprob, ...] = ()


class Verifier:
    """Base class of verifiers; a subclass defines `ask` and `read`. One that needs no request of the base
    model is simpler as a function, see `as_verifier`.

    Make it a frozen dataclass: traces show its fields. `Likelihood` is an example that reads the step's
    tokens, `UtilityScore` one that asks a question.

    Attributes:
        bounds: the least and the greatest value, for checking a threshold.
        default_threshold: used where no threshold is given; None: one must be given.
        question: the text after the step. A draft that contains its opening words is rejected unread.
    """

    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    default_threshold: ClassVar[float | None] = None
    question: str = ""

    def ask(self, s: ProgramState, drafted: Drafted) -> ProgramState:
        """Request `RESULT` on `s`, a fork with the chain of thought before the step; does not wait.

        Returns:
            The state that holds the result: `s`, or a state on another endpoint.
        """
        raise NotImplementedError

    def read(self, meta: Mapping[str, Any], drafted: Drafted) -> Judgement:
        """Make a judgement of the result.

        Args:
            meta: `get_meta_info(RESULT)` of the state that `ask` returned.
            drafted: as for `ask`.
        """
        raise NotImplementedError

    def judgement(self, s: ProgramState, drafted: Drafted) -> Judgement:
        """Wait for the result on `s`, and read it.

        Raises:
            VerifierError: the verifier failed.
            SpecReasonError: the request failed.
        """
        meta = s.get_meta_info(RESULT)
        return _check(self, lambda: self.read(meta, drafted))


class _Function(Verifier):
    """A verifier that calls a user's function of the fork and the step."""

    def __init__(self, function: Callable[[ProgramState, Drafted], Judgement | float]):
        self.function = function

    def ask(self, s: ProgramState, drafted: Drafted) -> ProgramState:
        return s

    def judgement(self, s: ProgramState, drafted: Drafted) -> Judgement:
        return _check(self.function, lambda: self.function(s, drafted))


def as_verifier(verifier: Verifier | Callable[..., Any]) -> Verifier:
    """A verifier as it is, or a function as a verifier."""
    return verifier if isinstance(verifier, Verifier) else _Function(verifier)


@contextlib.contextmanager
def verifier_errors(verifier: Any) -> Iterator[str]:
    """Turn what a verifier raises within the context into an error of the package; yields its name.

    Raises:
        VerifierError: the verifier raised an exception of its own.
        SpecReasonError: the verifier raised this error of the package.
    """
    name = getattr(verifier, "__name__", type(verifier).__name__)
    try:
        yield name
    except SpecReasonError:
        raise
    except Exception as error:
        raise VerifierError(f"the verifier {name} failed: {type(error).__name__}: {error}") from error


def _check(verifier: Any, work: Callable[[], Judgement | float]) -> Judgement:
    with verifier_errors(verifier) as name:
        result = work()
    result = result if isinstance(result, Judgement) else Judgement(result)
    if not isinstance(result.value, numbers.Real) or math.isnan(result.value):  # NumPy's are Real
        raise VerifierError(f"the verifier {name} must return a number or a Judgement, got {result.value!r}")
    return replace(result, value=float(result.value))


def is_askable(text: str, verifier: Verifier | Callable[..., Any]) -> bool:
    """Whether a drafted step can be judged: it is not empty, and does not contain the opening words of the
    verifier's question.

    With such a text the draft model could answer the question itself. A very short question is not searched
    for.
    """
    opening = _opening(as_verifier(verifier).question)
    return bool(text.strip()) and not (len(opening) >= LEAST_OPENING and opening in _normalize(text))


def _opening(question: str) -> str:
    """A question's first words, or the whole question if these are short."""
    question = _normalize(question)
    first_words = re.split(r"[^\w ]", question, maxsplit=1)[0].strip()
    return first_words if len(first_words) >= LEAST_OPENING else question


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split())
