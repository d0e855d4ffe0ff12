"""What a request's parameters have in common: their types, and those that this server does not act on.

A parameter is supported if a request model declares it, else it is in `UNSUPPORTED` or unknown. A null is the
same as no parameter at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema

from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.knobs import Knob
from specreason_sgl.reasoning.plain import KNOBS

MOST_CHOICES = 8
MOST_TOKENS = 1_000_000
# Settings that are parameters of the request itself; the others are in `specreason`.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
OPENAI_NAMES = {"answer_stop": "stop", "template": "chat_template_kwargs", "answer_schema": "response_format"}
EXTENSION_KNOBS = {
    name: knob for name, knob in KNOBS.items() if "api" in knob.places and name not in SAMPLING
}


@dataclass(frozen=True)
class Unsupported:
    """A parameter that this server does not act on.

    Attributes:
        harmless: values that ask for nothing here, and are accepted; None: any value.
        why: what else to do, or why the answer does not depend on it.
    """

    harmless: tuple | None
    why: str = ""

    def accepts(self, value: Any) -> bool:
        return self.harmless is None or any(_same(value, harmless) for harmless in self.harmless)


NOTE = Unsupported(None, "says who asks or how it is filed; the answer does not depend on it")
FALSE = Unsupported((False,))
ZERO = Unsupported((0,))
NOTHING = Unsupported(())
UNSUPPORTED: dict[str, Unsupported] = {
    **dict.fromkeys(("user", "metadata", "safety_identifier", "store", "service_tier", "rid"), NOTE),
    **dict.fromkeys(
        ("prompt_cache_key", "prompt_cache_retention", "verbosity", "include", "truncation"), NOTE
    ),
    "audio": NOTHING,
    "background": FALSE,
    "best_of": Unsupported((1,)),
    "conversation": NOTHING,
    "echo": FALSE,
    "frequency_penalty": ZERO,
    "function_call": Unsupported(("none",), "use tool_choice"),
    "functions": Unsupported(([],), "use tools"),
    "ignore_eos": FALSE,
    "logit_bias": Unsupported(({},)),
    "logprobs": Unsupported((False,), "two models write the text"),
    "max_tool_calls": NOTHING,
    "min_tokens": ZERO,
    "modalities": Unsupported((["text"],)),
    "parallel_tool_calls": Unsupported((True, False), "nothing to choose from without tools"),
    "prediction": NOTHING,
    "presence_penalty": ZERO,
    "previous_response_id": Unsupported((), "no answers are kept here: send the conversation as input"),
    "prompt": Unsupported((), "no prompts are kept here: send instructions and input"),
    "response_format": Unsupported(({"type": "text"},)),
    "skip_special_tokens": Unsupported((True,)),
    "stream_reasoning": Unsupported((True,)),
    "suffix": Unsupported(("",)),
    "tool_choice": Unsupported(("none", "auto"), "nothing to choose from without tools"),
    "tools": Unsupported(([],), "supported by /v1/chat/completions only"),
    "top_logprobs": ZERO,
    "web_search_options": NOTHING,
}


def without_nulls(data: Any) -> Any:
    """An object without its nulls."""
    if isinstance(data, dict):
        return {name: value for name, value in data.items() if value is not None}
    return data


def join_parts(content: Any) -> Any:
    """The text of a content that comes as a list of text parts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") in TEXTS and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    return content


TEXTS = ("text", "input_text", "output_text")  # types of text parts, of chats and of responses


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, got half of a surrogate pair") from None
    return text


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, AfterValidator(_check_unicode)]
Content = Annotated[Text, BeforeValidator(join_parts)]
# The range stands before the validator: after it, the schema would call it `ge` and `le`, which say nothing.
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS), BeforeValidator(_whole)]
Choices = Annotated[int, Field(ge=1, le=MOST_CHOICES), BeforeValidator(_whole)]
Stops = Annotated[Text | list[Text], Field(description="Up to 4 texts that end the answer.")]


class Strict(BaseModel):
    """An object of a request: a null is no value, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return without_nulls(data)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = handler(schema)
        whole = handler.resolve_ref_schema(described)
        needed = whole.get("required", ())
        for name, value in whole.get("properties", {}).items():
            if name not in needed:
                whole["properties"][name] = _nullable(value)
        return described


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value that may also be null."""
    kinds = schema.get("anyOf", [])
    if {"type": "null"} in kinds or None in schema.get("enum", ()):
        return schema
    about = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    kind = {name: value for name, value in schema.items() if name not in about}
    return {"anyOf": [kind, {"type": "null"}], **about} if kind else schema


# The share of the token budget that an effort allows, in eighths.
EFFORTS: dict[str, int] = {"none": 0, "minimal": 1, "low": 2, "medium": 4, "high": 8, "xhigh": 8, "max": 8}
Effort = Literal[tuple(EFFORTS)]
EFFORT_HELP = "A share of the server's token budget, for the thinking."


class StreamOptions(Strict):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = Field(False, description="Send the counts in a last event.")


def _field(knob: Knob) -> tuple[Any, Any]:
    """The type and the description of a knob as a parameter. `config_of` checks the ranges."""
    kind = Text if knob.kind is str else knob.kind
    hint = Literal[knob.words] if knob.kind is str and knob.words else kind
    if knob.kind is not str and knob.words:
        hint = kind | Literal[knob.words]
    limits = {_SCHEMA[name]: limit for name, limit in knob.limits.items()}
    return hint | None, Field(None, description=knob.help, json_schema_extra=limits)


_SCHEMA = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def parameter(knob: str) -> str:
    """A setting's name in a request, such as `specreason.threshold`."""
    return f"specreason.{knob}" if knob in EXTENSION_KNOBS else OPENAI_NAMES.get(knob, knob)


class _Extension(Strict):
    trace: bool = Field(False, description="Send the steps as they come, and the whole trace.")
    drafts: bool = Field(
        False,
        description="In a stream with `trace`, also send what is drafted and not judged yet, and the "
        "unfinished step.",
    )


Extension = create_model(
    "Extension",
    __base__=_Extension,
    __doc__="The knobs of a run, as far as a client may turn them.",
    **{name: _field(knob) for name, knob in EXTENSION_KNOBS.items()},
)


def _describe_unsupported(schema: dict[str, Any]) -> None:
    """Add to a request's schema what is accepted of `UNSUPPORTED`."""
    schema["additionalProperties"] = False
    for name, entry in UNSUPPORTED.items():
        values = {} if entry.harmless is None else {"enum": [*entry.harmless, None]}
        schema["properties"].setdefault(name, {"description": entry.why, **values})


class _Request(Strict):
    model_config = ConfigDict(extra="allow", json_schema_extra=_describe_unsupported)

    model: str = Field(description="The pair's name, or it with -base or -draft for one model alone.")
    stream: bool = Field(False, description="Send the answer as it comes, as server-sent events.")
    specreason: Extension = Field(Extension(), description="Settings of the run; docs/reference lists them.")

    @property
    def unsupported(self) -> dict[str, str]:
        """Parameters that ask for what this server does not do, and why it does not."""
        unknown = Unsupported(())
        entries = {name: UNSUPPORTED.get(name, unknown) for name in self.model_extra or {}}
        return {
            name: entry.why
            for name, entry in entries.items()
            if not entry.accepts((self.model_extra or {})[name])
        }

    def asked(self) -> dict[str, Any]:
        """The values of knobs, by name."""
        extension = self.specreason.model_dump(exclude_none=True, exclude={*_Extension.model_fields})
        return {**extension, **self.model_dump(include={*SAMPLING}, exclude_none=True)}


Request = create_model(
    "Request", __base__=_Request, __doc__=None, **{name: _field(KNOBS[name]) for name in SAMPLING}
)


def budgets(
    config: SpecReasonConfig, asked: dict[str, Any], effort: str | None, limits: Sequence[int | None]
) -> dict[str, int]:
    """How many tokens the thinking and the answer get.

    The answer gets half of the limit, and what the thinking's budget leaves of it, up to `answer_tokens`.

    Args:
        config: the settings.
        asked: the knobs that the client turned; an effort does not change a `token_budget` among them.
        limits: of the tokens of both together; None: no limit.
    """
    budget, answer = config.token_budget, config.answer_tokens
    if effort and "token_budget" not in asked:
        budget = budget * EFFORTS[effort] // 8
    limit = min((limit for limit in limits if limit is not None), default=budget + answer)
    answer = min(answer, max(limit - budget, limit // 2, 1))
    return {"answer_tokens": answer, "token_budget": min(budget, limit - answer)}


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)
