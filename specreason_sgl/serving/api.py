"""What clients may ask for: OpenAI's chat completions, with `specreason` as an extension."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import Knob
from specreason_sgl.reasoning.plain import KNOBS, config_of

MOST_CHOICES = 8
MOST_MESSAGES = 1000
LEAST_TOKENS = 16  # a chain of thought and an answer do not fit in fewer
SAMPLING = ("temperature", "top_p")  # settings that are OpenAI's own parameters

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


Text = Annotated[str, AfterValidator(_check_unicode)]


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


def _field(knob: Knob) -> tuple[Any, Any]:
    """The type and the description of a knob in the extension. `config_of` checks the ranges."""
    kind = Text if knob.kind is str else knob.kind
    hint = Literal[knob.words] if knob.kind is str and knob.words else kind
    if knob.kind is not str and knob.words:
        hint = kind | Literal[knob.words]
    limits = {_SCHEMA[name]: limit for name, limit in knob.limits.items()}
    return hint | None, Field(None, description=knob.help, json_schema_extra=limits)


_SCHEMA = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
OPENAI_NAMES = {"answer_stop": "stop", "template": "chat_template_kwargs"}  # settings with another name there
EXTENSION_KNOBS = {
    name: knob for name, knob in KNOBS.items() if "api" in knob.places and name not in SAMPLING
}


def parameter(knob: str) -> str:
    """A setting's name in a request, such as `specreason.threshold`."""
    return f"specreason.{knob}" if knob in EXTENSION_KNOBS else OPENAI_NAMES.get(knob, knob)


class _Extension(_Strict):
    trace: bool = Field(False, description="Send the steps as they come, and the whole trace.")


Extension = create_model(
    "Extension",
    __base__=_Extension,
    __doc__="The knobs of a run, as far as a client may turn them.",
    **{name: _field(knob) for name, knob in EXTENSION_KNOBS.items()},
)


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
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 4:
            raise ConfigError(f"stop must be at most 4 texts, got {len(stops)}", "stop")
        template = defaults.template if self.chat_template_kwargs is None else self.chat_template_kwargs
        config = config_of({**asked, **sampling}, defaults=defaults, pair=pair)
        config = dataclasses.replace(config, template=template, answer_stop=tuple(stops))
        if self.seed is not None and config.temperature > 0:
            raise ConfigError("seed works with temperature 0 only: sampling cannot be repeated", "seed")
        most = min(filter(None, (self.max_tokens, self.max_completion_tokens)), default=None)
        if most is None:
            return config
        answer = min(config.answer_tokens, most // 2)
        return dataclasses.replace(
            config, answer_tokens=answer, token_budget=min(config.token_budget, most - answer)
        )


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)
