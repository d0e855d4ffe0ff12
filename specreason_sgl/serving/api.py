"""What goes over the wire: OpenAI's chat completions, with `specreason` as an extension."""

import dataclasses
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)

from specreason_sgl.errors import (
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    RequestAborted,
    ServerBusy,
    ServerUnreachable,
    SpecReasonError,
    TemplateError,
)
from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import Knob
from specreason_sgl.reasoning.plain import KNOBS, config_of
from specreason_sgl.reasoning.trace import Trace

MOST_CHOICES = 8
LEAST_TOKENS = 16  # a chain of thought and an answer do not fit in fewer
SAMPLING = ("temperature", "top_p")

# Parameters of OpenAI's that this server does not have, with the values that ask for nothing.
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
# They say who asks or why, and change nothing in an answer.
NOTES = ("user", "metadata", "safety_identifier", "prompt_cache_key")


class ApiError(Exception):
    """A refusal, in OpenAI's error format."""

    def __init__(
        self,
        status: int,
        message: str,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.headers = status, headers
        self.body = {"error": {"message": message, "type": type, "param": param, "code": code}}


def api_error(error: SpecReasonError) -> ApiError:
    """What an error of this package's is to a client."""
    if isinstance(error, ContextLengthExceeded):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, ConfigError):
        return ApiError(400, error.reworded(_parameter), param=next(map(_parameter, error.knobs), None))
    if isinstance(error, TemplateError):
        return ApiError(400, str(error))
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, str(error), "timeout_error")
    status = 503 if isinstance(error, ServerUnreachable | ServerBusy | RequestAborted) else 502
    return ApiError(status, str(error), "server_error")


def _parameter(knob: str) -> str:
    """A knob's name in a request."""
    return f"specreason.{knob}" if knob in _KNOBS else _OPENAIS.get(knob, knob)


def invalid(error: RequestValidationError) -> ApiError:
    """What does not fit `ChatRequest`: the first thing, and where."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    if path[:1] == ["specreason"] and len(path) > 1 and path[1] in _KNOBS:
        return api_error(_KNOBS[path[1]].error(first["input"]))
    where = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        return ApiError(
            400, f"the parameter {where} is not supported", param=where, code="unsupported_parameter"
        )
    return ApiError(400, f"{where or 'the body'}: {first['msg']}", param=where)


def _join_parts(content: Any) -> Any:
    """A message's content may come as a list of texts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    return content


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("this is no valid Unicode: it has half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_valid)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_join_parts)]

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        # Clients send an answer back as it came: its thinking is not part of the conversation.
        if isinstance(data, dict):
            return {
                name: value
                for name, value in data.items()
                if value is not None and name not in ("reasoning_content", "name")
            }
        return data

    def plain(self) -> dict[str, str]:
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class StreamOptions(_Strict):
    include_usage: bool = False


def _field(knob: Knob) -> tuple[Any, Any]:
    """The type and the description of a knob in the extension. Ranges are checked by `config_of`, in whose
    words the client is told."""
    kind = Text if knob.kind is str else knob.kind
    hint = Literal[knob.words] if knob.kind is str and knob.words else kind
    if knob.kind is not str and knob.words:
        hint = kind | Literal[knob.words]
    limits = {_SCHEMA[name]: limit for name, limit in knob.limits.items()}
    return hint | None, Field(None, description=knob.help, json_schema_extra=limits)


_SCHEMA = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
# Sampling has parameters of OpenAI's own.
_OPENAIS = {"answer_stop": "stop", "template": "chat_template_kwargs"}
_KNOBS = {name: knob for name, knob in KNOBS.items() if "api" in knob.places and name not in SAMPLING}


class _Extension(_Strict):
    trace: bool = Field(False, description="Send the steps as they come, and the whole trace.")


Extension = create_model(
    "Extension",
    __base__=_Extension,
    __doc__="The knobs of a run, as far as a client may turn them.",
    **{name: _field(knob) for name, knob in _KNOBS.items()},
)


class ChatRequest(_Strict):
    model: Text
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
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
    def _what_asks_for_nothing(cls, data: Any) -> Any:
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


def usage(prompt_tokens: int, traces: list[Trace]) -> dict[str, Any]:
    """OpenAI's counts, over all choices; in `specreason` each model's, and what came of the drafts."""
    reasoning = sum(step.tokens for trace in traces for step in trace.steps)
    written = sum(trace.tokens for trace in traces)
    by_side = {"draft": 0, "base": 0}
    for trace in traces:
        for call in [*trace.calls, *trace.wasted]:
            by_side[call.side] += call.completion_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "specreason": {
            "draft_tokens": by_side["draft"],
            "base_tokens": by_side["base"],
            "wasted_tokens": sum(trace.wasted_tokens for trace in traces),
            "steps_kept": sum(trace.kept for trace in traces),
            "corrections": sum(trace.corrections for trace in traces),
            "steps_rewritten": sum(trace.rewritten for trace in traces),
        },
    }


def finish_reason(trace: Trace) -> str:
    """`length` where the answer, or for want of tokens no answer, was cut off."""
    call = trace.answer_call
    cut = call is None or call.completion_tokens >= trace.config["answer_tokens"]
    return "length" if cut else "stop"
