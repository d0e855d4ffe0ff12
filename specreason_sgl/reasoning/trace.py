"""`Trace`: the record of a run. Plain data; reading or showing a trace needs neither SGLang nor a GPU."""

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
Undrafted = Literal["rejections", "failure", "breaker", "context", "load"]

UNDRAFTED: dict[Undrafted, str] = {
    "rejections": "a pause after rejections",
    "failure": "the draft runtime failed",
    "breaker": "a pause after the draft runtime failed",
    "context": "the draft model's context is full",
    "load": "the base model alone is faster at this load, or on trial",
}


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request to a runtime, with the server's own counts.

    Attributes:
        side: the runtime; a verifier's request counts as the base model's.
        purpose: `draft`, `score`, `read` (logprobs of a drafted text), `rewrite`, `answer`, or `reason` (a
            whole chain of thought at once).
        prompt_tokens: tokens of the whole prompt.
        cached_tokens: those of them that came from the radix cache.
        completion_tokens: generated tokens.
        start: when the request was sent, in seconds since the run began.
        seconds: time from sending the request to reading its answer.
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
        at: position of the token's first character in the step's text; the delimiter's tokens begin at the
            end of the text.
        text: the token's text; empty if a later token completes the character.
        logprob: the base model's logprob (natural logarithm). Null in JSON: minus infinity.
        first: the text of the base model's first choice here.
        regret: logprob of `first` minus `logprob`, in nats; 0 for the same token. Null in JSON: infinity.
    """

    at: int
    text: str
    logprob: float | None
    first: str
    regret: float | None

    def __post_init__(self) -> None:
        _replace_null(self, "logprob", -math.inf)
        _replace_null(self, "regret", math.inf)


class Correction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drafted token that the base model replaced.

    Attributes:
        at: position in the step's text where the base model's text begins.
        drafted: the replaced token; empty if the draft ended before it.
        text: the base model's replacement; empty if it ended the step, the thinking or the turn.
        regret: regret of the drafted token, in nats. Null in JSON: infinity.
        kept: number of drafted tokens kept before it, since the last correction or the start of the step.
    """

    at: int
    drafted: str
    text: str
    regret: float | None
    kept: int

    def __post_init__(self) -> None:
        _replace_null(self, "regret", math.inf)


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of the chain of thought: exactly the text between two delimiters, or a part of it if
    `step_tokens` cut it (`end` is "length").

    Attributes:
        text: the step's text in the chain of thought.
        author: the model that wrote the step; `both`: the draft model, corrected or continued by the base
            model.
        end: what ended the step: the delimiter, the length limit, the end of the turn (`eos`), or
            `</think>`. None: the run ended before the step did.
        tokens: number of tokens of the text and what ended it.
        draft_tokens: number of those that the draft model generated.
        score: the verifier's value of the drafted step; None if no verifier scored it. An infinite value
            becomes the largest finite number of its sign, because JSON has no infinity.
        probabilities: the probability of each score token.
        rejected: the drafted text that was rejected for this step, or None.
        corrections: the drafted tokens that the base model replaced, in order.
        reading: the tokens that the base model read, and its own replacements.
        calls: the requests made for this step, in order. An aborted draft is in `Trace.wasted`.
        undrafted: why the draft model did not write the step, though it was its turn: `rejections`, a pause
            after useless drafts; `failure`, its runtime failed; `breaker`, a pause after such a failure;
            `context`, its context is full; `load`, the base model alone is faster at this load, or on
            trial. Else None.
        undrafted_detail: the error message of a `failure`.
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
    undrafted: Undrafted | None = None
    undrafted_detail: str = ""

    def __post_init__(self) -> None:
        if self.score is not None and math.isinf(self.score):
            finite = math.copysign(sys.float_info.max, self.score)
            msgspec.structs.force_setattr(self, "score", finite)

    @property
    def kept_last(self) -> int:
        """Number of drafted tokens kept since the last correction, or since the start of the step."""
        return self.draft_tokens - sum(correction.kept for correction in self.corrections)

    @property
    def undrafted_reason(self) -> str:
        """`undrafted` and its detail in words; empty if there is no reason."""
        if self.undrafted is None:
            return ""
        reason = UNDRAFTED[self.undrafted]
        return f"{reason}: {self.undrafted_detail}" if self.undrafted_detail else reason


class Trace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run. Its steps, joined by the delimiter (except after a step that the length limit cut), are
    the chain of thought, byte for byte.

    A failed run has a trace too, as the error's `trace`; its `stop` is "failed".

    Attributes:
        config: the run's settings, as plain data (`SpecReasonConfig.as_dict`).
        answer_call: the request for the answer, or None.
        answer_end: what ended the answer: "length" if it was cut, "delimiter" if by one of its stop texts.
        seconds: duration of the whole run.
        wasted: requests that were aborted, or sent ahead of a decision and then not needed: drafts and reads
            beyond a rejected or corrected text, and rewrites of a kept text. An aborted request counts the
            tokens that it had generated; some of an aborted draft's tokens may have been kept
            (`Step.draft_tokens`).
        earlier: the messages of the conversation before the question.
        version: version of the trace's format.
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
    answer_end: End | None = None
    version: Literal[3] = 3

    @property
    def reasoning(self) -> str:
        """The chain of thought."""
        return joined(self.steps, self.config["delimiter"])

    @property
    def calls(self) -> list[Call]:
        """The requests whose results were used, in order."""
        calls = [call for step in self.steps for call in step.calls]
        return calls + ([self.answer_call] if self.answer_call else [])

    @property
    def kept(self) -> int:
        """Number of steps that the draft model wrote, unchanged."""
        return sum(step.author == "draft" for step in self.steps)

    @property
    def rewritten(self) -> int:
        """Number of drafted steps that were rejected and rewritten by the base model."""
        return sum(step.rejected is not None for step in self.steps)

    @property
    def corrections(self) -> int:
        """Number of drafted tokens that the base model replaced."""
        return sum(len(step.corrections) for step in self.steps)

    @property
    def tokens(self) -> int:
        """Number of tokens of the chain of thought and the answer."""
        answer = self.answer_call.completion_tokens if self.answer_call else 0
        return sum(step.tokens for step in self.steps) + answer

    @property
    def wasted_tokens(self) -> int:
        """Number of tokens that were generated for the chain of thought but are not part of it: in rejected
        and aborted drafts, and in rewrites that were not needed."""
        if self.mode != "specreason":
            return 0
        calls = [call for step in self.steps for call in step.calls] + list(self.wasted)
        drafted = sum(call.completion_tokens for call in calls if call.purpose == "draft")
        kept = sum(step.draft_tokens for step in self.steps)
        unneeded = sum(call.completion_tokens for call in self.wasted if call.purpose == "rewrite")
        return max(drafted - kept, 0) + unneeded

    @property
    def resumable(self) -> bool:
        """Whether `solve` can resume it: the trace of a failed run of two models."""
        return self.mode == "specreason" and self.stop == "failed"

    def to_json(self) -> str:
        """The trace as one line of JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> "Trace":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: the text is not a trace, or a trace of another version.
        """
        return files.decode(text, cls, "a trace of specreason-sgl")


def model_name(path: str) -> str:
    """A model's name, from the folder or the name that its server reports."""
    return Path(path).name.replace("--", "/")


def joined(steps: Sequence[Step], delimiter: str) -> str:
    """The steps' texts with the delimiter between them, except after a step that the length limit cut."""
    parts = []
    for i, step in enumerate(steps):
        parts.append(step.text)
        if i < len(steps) - 1 and step.end != "length":
            parts.append(delimiter)
    return "".join(parts)


def _replace_null(struct: msgspec.Struct, name: str, value: float) -> None:
    if getattr(struct, name) is None:
        msgspec.structs.force_setattr(struct, name, value)
