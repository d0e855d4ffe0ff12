"""`Trace`: the one record of a run. Plain data; reading or showing one needs neither SGLang nor a GPU."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from specreason_sgl.errors import ConfigError

VERSION = 1

Side = Literal["draft", "base"]
Author = Literal["draft", "base", "both"]
End = Literal["delimiter", "length", "eos", "think"]
Stop = Literal["answer", "end", "repetition", "budget", "context", "failed"]


@dataclass(frozen=True)
class Call:
    """One request to a runtime, with the server's own counts.

    Attributes:
        side: which runtime; a verifier's request counts as the base's.
        purpose: `draft`, `score`, `rewrite`, `answer`, or `reason` (a whole chain of thought at once).
        prompt_tokens: of the whole prompt; `cached_tokens` of them came from the radix cache.
        completion_tokens: generated.
        start: seconds from the run's beginning until it was sent; `seconds`: until its answer was read.
    """

    side: Side
    purpose: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    start: float
    seconds: float


@dataclass(frozen=True)
class Step:
    """One kept step of the chain of thought: exactly the text between delimiters.

    Attributes:
        text: what the chain of thought has.
        author: who wrote it; `both`: the draft its head, the base model what follows.
        end: what ended it: the delimiter, its length limit, the end of the turn, or `</think>`.
        tokens: of this text, in its author's tokenizer.
        score: what the verifier gave the drafted step; None where nothing was scored.
        probabilities: of each score token.
        rejected: the drafted text that was rejected for this step, or None.
        head: how many characters at the beginning come from the rejected draft.
        calls: the requests made for this step, in order.
        undrafted: why the draft model was not there to write it, where it should have: its runtime's failure,
            the pause after one, a pause after rejections, or its context; else None.
    """

    text: str
    author: Author
    end: End
    tokens: int
    score: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    rejected: str | None = None
    head: int = 0
    calls: tuple[Call, ...] = ()
    undrafted: str | None = None


@dataclass(frozen=True)
class Trace:
    """A whole run. `delimiter.join(step.text for step in steps)` is the chain of thought, byte for byte.

    `wasted` are requests that were made ahead of a decision and turned out not to be needed: drafts and
    scores after a rejected step, and rewrites of a kept one. An aborted one counts what it had generated.
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
        return self.config["delimiter"].join(step.text for step in self.steps)

    @property
    def calls(self) -> list[Call]:
        """Every request whose result was used, in order."""
        calls = [call for step in self.steps for call in step.calls]
        return calls + ([self.answer_call] if self.answer_call else [])

    @property
    def kept(self) -> int:
        """How many drafted steps were kept."""
        return sum(step.author == "draft" for step in self.steps)

    @property
    def rewritten(self) -> int:
        """How many drafted steps were rejected, and written by the base model."""
        return sum(step.rejected is not None for step in self.steps)

    @property
    def tokens(self) -> int:
        """Tokens of the chain of thought and the answer."""
        answer = self.answer_call.completion_tokens if self.answer_call else 0
        return sum(step.tokens for step in self.steps) + answer

    @property
    def wasted_tokens(self) -> int:
        """Tokens that were generated and thrown away: of rejected drafts but for what is salvaged, of the
        candidates that were not chosen, and of what was done ahead."""
        thrown = 0
        for step in self.steps:
            drafted, rewritten = (
                sum(call.completion_tokens for call in step.calls if call.purpose == purpose)
                for purpose in ("draft", "rewrite")
            )
            kept = 0 if step.author == "base" else step.tokens - rewritten
            thrown += max(drafted - kept, 0)
        return thrown + sum(call.completion_tokens for call in self.wasted)

    @property
    def resumable(self) -> bool:
        """Whether there is something to go on with: it is of a run of `solve` that failed."""
        return self.mode == "specreason" and self.stop == "failed"

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        """What a notebook shows."""
        from specreason_sgl.reasoning import display

        return {"text/html": display.as_table(self), "text/plain": display.totals(self)}

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
                    "wasted": tuple(Call(**one) for one in data["wasted"]),
                    "earlier": tuple(data.get("earlier", ())),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"this is not a trace of specreason-sgl ({error})") from None


def _step(data: dict[str, Any]) -> Step:
    return Step(**{**data, "calls": tuple(Call(**call) for call in data["calls"])})
