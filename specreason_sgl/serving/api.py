"""What clients may ask for: OpenAI's chat completions, with `specreason` as an extension."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.acceptance import Quantile
from specreason_sgl.reasoning.calibration import WINDOWS, judging
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Correct

MOST_CHOICES = 8
MOST_MESSAGES = 1000
LEAST_TOKENS = 16  # a chain of thought and an answer do not fit in fewer
TOKENS = ("delta", "numeric_delta", "window")  # how tokens are corrected
JUDGE = ("verifier", "threshold", "keep")  # how steps are judged

# OpenAI's parameters that this server does not support, with the values that change nothing.
WITHOUT_EFFECT: dict[str, tuple] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
# They say who asks or why, and do not affect the answer.
NOTES = ("user", "metadata", "safety_identifier", "prompt_cache_key")


def _join_parts(content: Any) -> Any:
    """The text of a content that comes as a list of text parts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    return content


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, got half of a surrogate pair") from None
    return text


def _tokens_or_word(window: Any) -> Any:
    # Before the union below, whose errors would name its branches.
    is_count = isinstance(window, int) and not isinstance(window, bool) and 1 <= window <= 1_000_000
    if not is_count and window not in (None, *WINDOWS):
        raise ValueError("must be a whole number from 1, 'auto' or 'step'")
    return window


Text = Annotated[str, AfterValidator(_check_unicode)]
Window = Annotated[int | Literal["auto", "step"] | None, BeforeValidator(_tokens_or_word)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_join_parts)]

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        # Clients send an answer back as they got it; its thinking is not part of the conversation.
        if isinstance(data, dict):
            return {
                name: value
                for name, value in data.items()
                if value is not None and name not in ("reasoning_content", "name")
            }
        return data

    def plain(self) -> dict[str, str]:
        """The message as `SpecReasonConfig.messages` takes it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class StreamOptions(_Strict):
    include_usage: bool = False


class Extension(_Strict):
    """The knobs of `SpecReasonConfig`, as far as a client may turn them."""

    repair: Literal["correct", "rewrite"] | None = None
    delta: float | None = Field(None, ge=0, allow_inf_nan=False)
    numeric_delta: float | None = Field(None, ge=0, allow_inf_nan=False)
    window: Window = None
    confidence: float | None = Field(None, le=0, allow_inf_nan=False)
    verifier: Text | None = None
    threshold: float | None = None
    keep: float | None = Field(None, gt=0, le=1)
    lookahead: int | None = Field(None, ge=0, le=16)
    first_base_steps: int | None = Field(None, ge=0, le=1_000_000)
    patience: int | None = Field(None, ge=0, le=1_000_000)
    draft_timeout: float | None = Field(None, gt=0, le=86400)
    token_budget: int | None = Field(None, ge=1, le=1_000_000)
    step_tokens: int | None = Field(None, ge=1, le=1_000_000)
    answer_tokens: int | None = Field(None, ge=1, le=1_000_000)
    at_budget: Literal["answer", "stop"] | None = None
    instruction: Text | None = None
    trace: bool = False


class ChatRequest(_Strict):
    model: str
    messages: list[ChatMessage] = Field(max_length=MOST_MESSAGES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=LEAST_TOKENS, le=1_000_000)
    max_completion_tokens: int | None = Field(None, ge=LEAST_TOKENS, le=1_000_000)
    stop: Text | list[Text] | None = None
    seed: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    specreason: Extension = Extension()

    @model_validator(mode="before")
    @classmethod
    def _without_no_ops(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            name: value
            for name, value in data.items()
            if name not in NOTES
            and not (value is None and name in WITHOUT_EFFECT)
            and not any(_same(value, default) for default in WITHOUT_EFFECT.get(name, ()))
        }

    def config(self, defaults: SpecReasonConfig, pair: str | None = None) -> SpecReasonConfig:
        """The server's settings, with what the client asked for in their place.

        Args:
            defaults: the server's settings.
            pair: the named pair that is served, whose calibration judges where steps are to be rewritten and
                neither the server nor the client says how.

        Raises:
            ConfigError: they cannot be.
        """
        asked = self.specreason.model_dump(exclude_none=True, exclude={"trace"})
        sampling = {"temperature": self.temperature, "top_p": self.top_p}
        asked.update({name: value for name, value in sampling.items() if value is not None})
        judging_names = [name for name in ("repair", *TOKENS, *JUDGE) if name in asked]
        asked.update(_judging({name: asked.pop(name) for name in judging_names}, defaults, pair))
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4:
            raise ConfigError("stop takes at most 4 texts")
        template = defaults.template if self.chat_template_kwargs is None else self.chat_template_kwargs
        config = dataclasses.replace(defaults, **asked, template=template, answer_stop=tuple(stops))
        if self.seed is not None and config.temperature > 0:
            raise ConfigError("seed works with temperature 0 only: sampling cannot be repeated")
        most = min(filter(None, (self.max_tokens, self.max_completion_tokens)), default=None)
        if most is None:
            return config
        answer = min(config.answer_tokens, most // 2)
        return dataclasses.replace(
            config, answer_tokens=answer, token_budget=min(config.token_budget, most - answer)
        )


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _judging(asked: dict[str, Any], defaults: SpecReasonConfig, pair: str | None) -> dict[str, Any]:
    """`repair`, `verifier` and `threshold` as `judging` makes them, but with the server's where the client
    leaves something out: its verifier for another threshold, its numbers for another correction."""
    if not asked:
        return {}
    tokens = {name: asked[name] for name in TOKENS if name in asked}
    judge = {name: asked[name] for name in JUDGE if name in asked}
    served = "correct" if isinstance(defaults.repair, Correct) else "rewrite"
    repair = asked.get("repair") or ((served if defaults.judge else None) if judge else "correct")
    settings = judging(pair=pair, repair=repair, **tokens, **judge)
    if repair == served == "correct":
        given = {name: getattr(settings["repair"], name) for name in tokens}
        settings["repair"] = dataclasses.replace(defaults.repair, **given)
    if defaults.judge and "verifier" not in judge and (judge or repair == served):
        settings |= {"verifier": defaults.verifier, "threshold": _threshold(defaults.threshold, **judge)}
    return settings


def _threshold(default: Any, threshold: float | None = None, keep: float | None = None) -> Any:
    if keep is not None:
        return Quantile(keep, default.known if isinstance(default, Quantile) else ())
    return default if threshold is None else threshold
