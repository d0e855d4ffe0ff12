"""`SpecReasonConfig`: the settings of a run."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Rule, Threshold
from specreason_sgl.reasoning.knobs import (
    BUDGET,
    EVERYWHERE,
    JUDGE,
    SPECULATION,
    knob,
    knobs_of,
    range_of,
    settings,
)
from specreason_sgl.reasoning.repair import DEFAULT_REPAIR, JUDGED_REPAIR, REPAIRS, Repair
from specreason_sgl.reasoning.verifier import Verifier, as_verifier
from specreason_sgl.reasoning.verifiers import VERIFIERS, UtilityScore

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)
MOST = 1_000_000
ROLES = ("system", "user", "assistant")
_WHAT_REPAIRS_DO = ", ".join(f"{name} {repair.does}" for name, repair in REPAIRS.items())

Message = Mapping[str, str]  # with role and content
Question = str | Sequence[Message]


def _repair_by_name(repair: Any) -> Any:
    return REPAIRS.get(repair, repair) if isinstance(repair, str) else repair


def _verifier_by_name(verifier: Any) -> Any:
    return VERIFIERS.get(verifier, verifier) if isinstance(verifier, str) else verifier


@settings
class SpecReasonConfig:
    """The settings of a run; docs/reference/settings.md describes each in a table.

    By default single tokens are corrected (`repair=Correct()`). The paper's method is
    `SpecReasonConfig(repair=Rewrite(), threshold=7)` (SpecReason, arXiv 2504.07891, sections 4 and 5).

    Besides names and numbers, `repair` accepts a `Correct` or a `Rewrite` with knobs of its own, `verifier` a
    `Verifier` or a function of the fork and the drafted step, and `threshold` a rule (see
    `specreason_sgl.verifiers`). With `Correct`, a step that passes the verifier is kept whole, and a step
    that fails is corrected.

    Raises:
        ConfigError: a value is out of range, or two values contradict each other.
    """

    repair: Annotated[Repair, BeforeValidator(_repair_by_name)] = knob(
        default=REPAIRS[DEFAULT_REPAIR],
        help=f"How a draft is repaired that is not kept: {_WHAT_REPAIRS_DO}. Default: {DEFAULT_REPAIR}; "
        f"{JUDGED_REPAIR} if a verifier, a threshold, keep or a calibration is given.",
        panel=JUDGE,
        front=True,
        places=EVERYWHERE,
        given_as=Literal[tuple(REPAIRS)],
    )
    verifier: Annotated[Any, BeforeValidator(_verifier_by_name)] = knob(
        default=None,
        help="What judges a drafted step as a whole. Default with rewrite: score, the paper's digit.",
        panel=JUDGE,
        scope="judging",
        given_as=Literal[tuple(VERIFIERS)],
    )
    threshold: Any = knob(
        default=None,
        help="Keep a drafted step whose value is at least this. Default for the paper's digit (0 to 9): 7.",
        panel=JUDGE,
        places=EVERYWHERE,
        front=True,
        scope="judging",
        given_as=float,
    )
    confidence: float | None = knob(
        default=None,
        help="Keep a draft unread if all its tokens have at least this logprob under the draft model itself "
        "(as in ConfSpec, arXiv 2602.18447).",
        unit="nats",
        panel=JUDGE,
        le=0,
    )
    lookahead: int = knob(
        default=1,
        help="Number of steps drafted beyond the step that is being judged; with 0 the models take turns.",
        unit="steps",
        panel=SPECULATION,
        places=EVERYWHERE,
        ge=0,
        le=16,
    )
    first_base_steps: int = knob(
        default=0,
        help="Number of steps that the base model writes at the start.",
        unit="steps",
        panel=SPECULATION,
        ge=0,
        le=MOST,
    )
    patience: int = knob(
        default=3,
        help="Number of useless drafts, beyond two per useful draft, before drafting pauses; 0: it never "
        "pauses.",
        unit="drafts",
        ge=0,
        le=MOST,
    )
    at_load: Literal["draft", "base"] = knob(
        default="draft",
        help="What to do where drafting saves no time at the present load: go on drafting, or have the base "
        "model write alone until it does. With base the text of corrected steps depends on the load.",
        panel=SPECULATION,
    )
    draft_timeout: float = knob(
        default=60.0,
        help="Time limit for a drafted step; if the draft runtime exceeds it or fails, the base model writes "
        "the next steps alone.",
        unit="seconds",
        gt=0,
        le=86400,
    )
    token_budget: int = knob(
        default=8192,
        help="Maximum number of tokens of the whole chain of thought; 0: answer without one.",
        unit="tokens",
        panel=BUDGET,
        places=EVERYWHERE,
        front=True,
        scope="run",
        ge=0,
        le=MOST,
    )
    at_budget: Literal["answer", "stop"] = knob(
        default="answer",
        help="What to do when the token budget is used up: close the thinking and answer, or stop without an "
        "answer.",
        panel=BUDGET,
        scope="run",
    )
    step_tokens: int = knob(
        default=512,
        help="Maximum number of tokens of a step; a longer step is judged in parts.",
        unit="tokens",
        panel=BUDGET,
        ge=1,
        le=MOST,
    )
    answer_tokens: int = knob(
        default=512,
        help="Maximum number of tokens of the final answer, which the base model writes.",
        unit="tokens",
        panel=BUDGET,
        front=True,
        scope="run",
        ge=1,
        le=MOST,
    )
    answer_stop: tuple[str, ...] = knob(
        default=(), help="Texts that end the final answer and are cut off.", scope="run", places=()
    )
    answer_schema: str | None = knob(
        default=None,
        help="A JSON schema, as a text, that the final answer follows, by SGLang's constrained decoding.",
        scope="run",
        places=(),
    )
    temperature: float = knob(
        default=0.6,
        help="Sampling temperature; 0 is greedy decoding.",
        panel=BUDGET,
        places=EVERYWHERE,
        front=True,
        scope="run",
        ge=0,
        le=2,
    )
    top_p: float = knob(default=0.95, help="Nucleus sampling: top-p.", panel=BUDGET, scope="run", gt=0, le=1)
    top_k: int = knob(
        default=-1,
        help="Sample from the k likeliest tokens only; 0 or -1: from all.",
        unit="tokens",
        scope="run",
        ge=-1,
        le=MOST,
    )
    min_p: float = knob(
        default=0.0,
        help="Sample only tokens with at least this share of the likeliest token's probability.",
        scope="run",
        ge=0,
        le=1,
    )
    repetition_penalty: float = knob(
        default=1.0,
        help="Divides the scores of tokens that have occurred, in what both models write; the base model "
        "reads drafts without it.",
        scope="run",
        gt=0,
        le=2,
    )
    seed: int | None = knob(
        default=None,
        help="Seed of the sampling, as far as that goes: the runtimes use it with SGLang's deterministic "
        "inference only.",
        scope="run",
        places=("api",),
        ge=-(2**63),
        le=2**63 - 1,
    )
    template: Mapping[str, Any] | None = knob(
        default=None,
        help='Arguments for both models\' chat templates, as JSON: {"enable_thinking": false} for Qwen3. '
        "Default: the endpoints' own.",
        panel=BUDGET,
        scope="run",
        places=("cli",),
        given_as=dict,
    )
    delimiter: str = knob(default="\n\n", help="The text between steps.", places=())
    instruction: str = knob(
        default=INSTRUCTION, help="Text after the question; may be empty.", panel=BUDGET, scope="run"
    )

    @model_validator(mode="after")
    def _check(self) -> "SpecReasonConfig":
        if not self.delimiter:
            raise ConfigError("delimiter must be a non-empty text, got ''", "delimiter")
        if "" in self.answer_stop:
            raise ConfigError(
                f"answer_stop must be a tuple of non-empty texts, got {self.answer_stop!r}", "answer_stop"
            )
        self._check_judging()
        return self

    def _check_judging(self) -> None:
        if not (self.verifier is None or isinstance(self.verifier, Verifier) or callable(self.verifier)):
            raise knobs_of(SpecReasonConfig)["verifier"].error(self.verifier)
        threshold, judge = self.threshold, self.judge
        if callable(getattr(threshold, "keeps", None)):
            return
        if judge is None:
            if threshold is not None:
                raise ConfigError(
                    "threshold must come with repair=Rewrite(), or with a verifier, got neither", "threshold"
                )
        elif threshold is None:
            if judge.default_threshold is None:
                raise ConfigError(f"threshold must be given with the verifier {self.verifier!r}", "threshold")
        elif not _is_number(threshold) or not judge.bounds[0] <= threshold <= judge.bounds[1]:
            low, high = (bound if math.isfinite(bound) else None for bound in judge.bounds)
            expected = f"a number{range_of(ge=low, le=high)}"
            raise ConfigError(f"threshold must be {expected}, got {threshold!r}", "threshold")

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling arguments of `sgl.gen`."""
        names = ("temperature", "top_p", "min_p")
        return {**{name: getattr(self, name) for name in names}, "top_k": self.top_k or -1}

    @property
    def runtime_sampling(self) -> dict[str, Any]:
        """SGLang's sampling parameters that `sgl.gen` does not take, where they are set; see
        `Endpoint.with_sampling`."""
        penalty = {} if self.repetition_penalty == 1 else {"repetition_penalty": self.repetition_penalty}
        return penalty if self.seed is None else {**penalty, "sampling_seed": self.seed}

    @property
    def judge(self) -> Verifier | None:
        """What judges a step as a whole; None if each token is judged instead."""
        if self.verifier is not None:
            return as_verifier(self.verifier)
        return None if self.repair.reads_tokens else UtilityScore()

    @property
    def rule(self) -> Rule:
        """The rule that decides whether a judged step is kept."""
        threshold = self.threshold
        if threshold is None and self.judge:
            threshold = self.judge.default_threshold
        return threshold if callable(getattr(threshold, "keeps", None)) else Threshold(threshold)

    @property
    def window(self) -> int | Literal["auto"] | None:
        """Drafted tokens after which the base model reads; None if it judges whole steps."""
        window = self.repair.window if self.judge is None else None
        return None if window == "step" else window

    def prompt(self, question: str) -> str:
        """The content of the user's message: the question and the instruction.

        Raises:
            ConfigError: the question is empty.
        """
        return self.messages(question)[-1]["content"]

    def messages(self, question: Question) -> list[Message]:
        """The conversation before the chain of thought, with the instruction at the end of its last message.

        Raises:
            ConfigError: the question is empty, a message is malformed, or the last message is not the user's.
        """
        if isinstance(question, str):
            question = [{"role": "user", "content": question}]
        if not question:
            raise ConfigError("the question is empty")
        for message in question:
            if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                raise ConfigError(
                    f"a message must have a role ({', '.join(ROLES)}) and a text as content, got {message!r}"
                )
        if question[-1]["role"] != "user":
            raise ConfigError(f"the last message must have the role user, got {question[-1]['role']}")
        texts = [self.instruction, *(message["content"] for message in question)]
        if not all(map(_is_unicode, texts)):
            raise ConfigError("the question must be valid Unicode, got half of a surrogate pair")
        last = question[-1]["content"]
        if not last.strip():
            raise ConfigError("the question is empty")
        text = f"{last}\n\n{self.instruction}" if self.instruction else last
        return [*question[:-1], {"role": "user", "content": text}]

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain data; a verifier or rule as its name (`kind`) and its settings."""
        values = {knob.name: getattr(self, knob.name) for knob in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        settings = {knob.name: _plain(getattr(value, knob.name)) for knob in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **settings}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return getattr(value, "base_url", None) or getattr(value, "__name__", None) or type(value).__name__
