"""`Trace`: the one record of a run. Plain data; reading or showing one needs neither SGLang nor a GPU."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from specreason_sgl.errors import ConfigError

VERSION = 2

Side = Literal["draft", "base"]
Author = Literal["draft", "base", "both"]
End = Literal["delimiter", "length", "eos", "think"]
Stop = Literal["answer", "end", "repetition", "budget", "context", "failed"]
Purpose = Literal["draft", "score", "read", "rewrite", "answer", "reason"]


@dataclass(frozen=True)
class Call:
    """One request to a runtime, with the server's own counts.

    Attributes:
        side: which runtime; a verifier's request counts as the base's.
        purpose: `draft`, `score`, `read` (logprobs of a drafted text), `rewrite`, `answer`, or `reason` (a
            whole chain of thought at once).
        prompt_tokens: of the whole prompt; `cached_tokens` of them came from the radix cache.
        completion_tokens: generated.
        start: seconds from the run's beginning until it was sent; `seconds`: until its answer was read.
    """

    side: Side
    purpose: Purpose
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    start: float
    seconds: float


class ReadToken(NamedTuple):
    """A token of a step as the base model read it.

    Attributes:
        at: position of its first character in the step's text; the delimiter's tokens begin at its end.
        text: the token. Empty where a later token completes the character.
        logprob: the base model's (natural logarithm).
        first: what the base model itself would have written here.
        regret: logprob of `first` less `logprob`, in nats; 0: the same token.
    """

    at: int
    text: str
    logprob: float
    first: str
    regret: float


@dataclass(frozen=True)
class Correction:
    """A drafted token that the base model replaced.

    Attributes:
        at: position in the step's text where the base model's text begins.
        drafted: the token of the draft's that is not there; empty where it ended before this.
        text: what the base model put there; empty where it ended the step, the thinking or the turn.
        regret: of the drafted token, in nats.
        kept: drafted tokens that were kept before it, since the last correction or the step's beginning.
    """

    at: int
    drafted: str
    text: str
    regret: float
    kept: int


@dataclass(frozen=True)
class Step:
    """A kept step of the chain of thought: exactly the text between delimiters, or, where `step_tokens` cut
    it (`end` is "length"), a part of it.

    Attributes:
        text: what the chain of thought has.
        author: who wrote it; `both`: the draft model, corrected or continued by the base model.
        end: what ended it: the delimiter, its length limit, the end of the turn, or `</think>`. None: it is
            not finished, because the run ended here.
        tokens: of this text and what ended it.
        draft_tokens: those of them that the draft model generated.
        score: what the verifier gave the drafted step; None where nothing was scored.
        probabilities: of each score token.
        rejected: the drafted text that was rejected for this step, or None.
        corrections: the drafted tokens that the base model replaced, in order.
        reading: the tokens as the base model read them, those that it put there included; of the parts
            that it read.
        calls: the requests made for this step, in order. A draft that was cut off is in `Trace.wasted`.
        undrafted: why the draft model was not there to write it, where it should have: its runtime's failure,
            the pause after one, a pause after rejections, or its context; else None.
    """

    text: str
    author: Author
    end: End | None
    tokens: int
    draft_tokens: int = 0
    score: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    rejected: str | None = None
    corrections: tuple[Correction, ...] = ()
    reading: tuple[ReadToken, ...] = ()
    calls: tuple[Call, ...] = ()
    undrafted: str | None = None


@dataclass(frozen=True)
class Trace:
    """A whole run. Its steps joined by the delimiter (without one after a step that its length limit cut)
    are the chain of thought, byte for byte.

    `wasted` are requests that were cut off, or made ahead of a decision and then not needed: drafts and
    readings beyond a rejected or corrected text, and rewrites of a kept one. An aborted one counts what it
    had generated; some of a draft's tokens may have been kept before (`Step.draft_tokens`).
    A run that failed has its trace too (`stop` is "failed"), as the error's `trace`.
    `earlier` are the messages of the conversation before the question.
    """

    question: str
    mode: Literal["specreason", "base", "draft"]
    draft_model: str | None
    base_model: str | None
    config: dict[str, Any]
    steps: tuple[Step, ...]
    stop: Stop
    answer: str
    answer_call: Call | None
    seconds: float
    wasted: tuple[Call, ...] = ()
    earlier: tuple[dict[str, str], ...] = ()
    version: int = VERSION

    @property
    def reasoning(self) -> str:
        """The chain of thought."""
        return joined(self.steps, self.config["delimiter"])

    @property
    def calls(self) -> list[Call]:
        """Every request whose result was used, in order."""
        calls = [call for step in self.steps for call in step.calls]
        return calls + ([self.answer_call] if self.answer_call else [])

    @property
    def kept(self) -> int:
        """How many steps are the draft model's, word for word."""
        return sum(step.author == "draft" for step in self.steps)

    @property
    def rewritten(self) -> int:
        """How many drafted steps were rejected, and written by the base model."""
        return sum(step.rejected is not None for step in self.steps)

    @property
    def corrections(self) -> int:
        """How many drafted tokens the base model replaced."""
        return sum(len(step.corrections) for step in self.steps)

    @property
    def tokens(self) -> int:
        """Tokens of the chain of thought and the answer."""
        answer = self.answer_call.completion_tokens if self.answer_call else 0
        return sum(step.tokens for step in self.steps) + answer

    @property
    def wasted_tokens(self) -> int:
        """Tokens that were generated for the chain of thought and are not in it: of rejected and cut off
        drafts, and of rewrites that were not needed."""
        calls = [call for step in self.steps for call in step.calls] + list(self.wasted)
        written = sum(call.completion_tokens for call in calls if call.purpose in ("draft", "rewrite"))
        in_chain = sum(step.tokens - len(step.corrections) for step in self.steps)
        return max(written - in_chain, 0) if self.mode == "specreason" else 0

    @property
    def resumable(self) -> bool:
        """Whether there is something to go on with: it is of a run of `solve` that failed."""
        return self.mode == "specreason" and self.stop == "failed"

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Trace":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: it is not a trace, or one of another version.
        """
        try:
            data = json.loads(text)
            if data["version"] != VERSION:
                raise ConfigError(
                    f"the trace has version {data['version']!r}; this package reads version {VERSION}"
                )
            call = data["answer_call"]
            return cls(
                **{
                    **data,
                    "steps": tuple(_step(step) for step in data["steps"]),
                    "answer_call": Call(**call) if call else None,
                    "wasted": tuple(Call(**call) for call in data["wasted"]),
                    "earlier": tuple(data.get("earlier", ())),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"this is not a trace of specreason-sgl ({error})") from None


def model_name(path: str) -> str:
    """A model's name, from the folder or the name that its server gives."""
    return Path(path).name.replace("--", "/")


def joined(steps: Sequence[Step], delimiter: str) -> str:
    """The text of some steps: a delimiter between them, but none after one that its length limit cut."""
    parts = []
    for i, step in enumerate(steps):
        parts.append(step.text)
        if i < len(steps) - 1 and step.end != "length":
            parts.append(delimiter)
    return "".join(parts)


def _step(data: dict[str, Any]) -> Step:
    return Step(
        **{
            **data,
            "corrections": tuple(Correction(**correction) for correction in data["corrections"]),
            "reading": tuple(ReadToken(*token) for token in data["reading"]),
            "calls": tuple(Call(**call) for call in data["calls"]),
        }
    )
