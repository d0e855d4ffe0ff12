"""`Trace`: the one record of a run. Plain data; reading or showing one needs neither SGLang nor a GPU."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from specreason_sgl import files

Side = Literal["draft", "base"]
Author = Literal["draft", "base", "both"]
End = Literal["delimiter", "length", "eos", "think"]
Stop = Literal["answer", "end", "repetition", "budget", "context", "failed"]
Purpose = Literal["draft", "score", "read", "rewrite", "answer", "reason"]


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request to a runtime, with the server's own counts.

    Attributes:
        side: which runtime; a verifier's request counts as the base's.
        purpose: `draft`, `score`, `read` (logprobs of a drafted text), `rewrite`, `answer`, or `reason` (a
            whole chain of thought at once).
        prompt_tokens: of the whole prompt; `cached_tokens` of them came from the radix cache.
        completion_tokens: generated.
        start: when it was sent, in seconds since the run began.
        seconds: from sending it to reading its answer.
    """

    side: Side
    purpose: Purpose
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    start: float
    seconds: float


class ReadToken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A token of a step as the base model read it. In JSON it is an array of these five values.

    Attributes:
        at: position of its first character in the step's text; the delimiter's tokens begin at its end.
        text: the token. Empty where a later token completes the character.
        logprob: the base model's (natural logarithm). Null in JSON: minus infinity.
        first: the base model's own first choice here.
        regret: logprob of `first` less `logprob`, in nats; 0: the same token. Null in JSON: infinity.
    """

    at: int
    text: str
    logprob: float | None
    first: str
    regret: float | None

    def __post_init__(self):
        _replace_null(self, "logprob", -math.inf)
        _replace_null(self, "regret", math.inf)


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drafted token that the base model replaced.

    Attributes:
        at: position in the step's text where the base model's text begins.
        drafted: the replaced token; empty where the draft ended before it.
        text: the base model's replacement; empty where it ended the step, the thinking or the turn.
        regret: of the drafted token, in nats. Null in JSON: infinity.
        kept: number of drafted tokens kept before it, since the last correction or the step's beginning.
    """

    at: int
    drafted: str
    text: str
    regret: float | None
    kept: int

    def __post_init__(self):
        _replace_null(self, "regret", math.inf)


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kept step of the chain of thought: exactly the text between delimiters, or, where `step_tokens` cut
    it (`end` is "length"), a part of it.

    Attributes:
        text: its text in the chain of thought.
        author: who wrote it; `both`: the draft model, corrected or continued by the base model.
        end: what ended it: the delimiter, its length limit, the end of the turn, or `</think>`. None: the run
            ended before the step did.
        tokens: of this text and what ended it.
        draft_tokens: those of them that the draft model generated.
        score: the verifier's value of the drafted step; None where nothing was scored. An infinite value
            becomes the largest finite number of its sign, because JSON has no infinity.
        probabilities: of each score token.
        rejected: the drafted text that was rejected for this step, or None.
        corrections: the drafted tokens that the base model replaced, in order.
        reading: the tokens as the base model read them, its own replacements included; only of the parts
            that it read.
        calls: the requests made for this step, in order. A draft that was cut off is in `Trace.wasted`.
        undrafted: why the draft model did not write the step where it should have: its runtime's failure,
            the pause after one, a pause after rejections, or its context; else None.
    """

    text: str
    author: Author
    end: End | None
    tokens: int
    draft_tokens: int = 0
    score: float | None = None
    probabilities: dict[str, float] = msgspec.field(default_factory=dict)
    rejected: str | None = None
    corrections: tuple[Correction, ...] = ()
    reading: tuple[ReadToken, ...] = ()
    calls: tuple[Call, ...] = ()
    undrafted: str | None = None

    def __post_init__(self):
        if self.score is not None and math.isinf(self.score):
            finite = math.copysign(sys.float_info.max, self.score)
            msgspec.structs.force_setattr(self, "score", finite)


class Trace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run. Its steps joined by the delimiter (without one after a step that its length limit cut)
    are the chain of thought, byte for byte.

    A run that failed has a trace too (`stop` is "failed"), as the error's `trace`.

    Attributes:
        config: the run's settings, as plain data (`SpecReasonConfig.as_dict`).
        answer_call: the request for the answer; None where there was none.
        seconds: of the whole run.
        wasted: requests that were cut off, or made ahead of a decision and then not needed: drafts and
            readings beyond a rejected or corrected text, and rewrites of a kept one. An aborted request
            counts what it had generated; some of a draft's tokens may have been kept before
            (`Step.draft_tokens`).
        earlier: the messages of the conversation before the question.
        version: of the trace's format.
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
    version: Literal[2] = 2

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
        """Number of steps that are the draft model's, word for word."""
        return sum(step.author == "draft" for step in self.steps)

    @property
    def rewritten(self) -> int:
        """Number of drafted steps that were rejected and written by the base model."""
        return sum(step.rejected is not None for step in self.steps)

    @property
    def corrections(self) -> int:
        """Number of drafted tokens that the base model replaced."""
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
        if self.mode != "specreason":
            return 0
        calls = [call for step in self.steps for call in step.calls] + list(self.wasted)
        drafted = sum(call.completion_tokens for call in calls if call.purpose == "draft")
        kept = sum(step.draft_tokens for step in self.steps)
        unneeded = sum(call.completion_tokens for call in self.wasted if call.purpose == "rewrite")
        return max(drafted - kept, 0) + unneeded

    @property
    def resumable(self) -> bool:
        """Whether `solve` can resume it: it is of a run of two models that failed."""
        return self.mode == "specreason" and self.stop == "failed"

    def to_json(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Trace":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: it is not a trace, or one of another version.
        """
        return files.decode(text, cls, "a trace of specreason-sgl")


def model_name(path: str) -> str:
    """A model's name, from the folder or the name that its server gives."""
    return Path(path).name.replace("--", "/")


def joined(steps: Sequence[Step], delimiter: str) -> str:
    """The steps' texts with the delimiter between them, but none after a step that its length limit cut."""
    parts = []
    for i, step in enumerate(steps):
        parts.append(step.text)
        if i < len(steps) - 1 and step.end != "length":
            parts.append(delimiter)
    return "".join(parts)


def _replace_null(struct: msgspec.Struct, name: str, value: float) -> None:
    if getattr(struct, name) is None:
        msgspec.structs.force_setattr(struct, name, value)
