"""Knobs: settings that are declared once, with type, range, unit and one line of help.

    @settings
    class SpecReasonConfig:
        token_budget: int = knob(default=8192, help="Tokens of the chain of thought.", unit="tokens", ge=1)

The command line's options, the API's `specreason` extension, the sweeps of `eval` and the table in the docs
are made from `knobs_of`. A value out of range is a `ConfigError` that names the knob and its range.
"""

import functools
import json
import math
import operator
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic
from pydantic.fields import FieldInfo

from specreason_sgl.errors import ConfigError

T = TypeVar("T")
_KINDS: dict[type, str] = {dict: "a mapping of names to values", tuple: "a tuple of texts"}
Scope = Literal["run", "drafting", "judging", "correcting"]
Place = Literal["cli", "api", "page"]
BOTH: tuple[Place, ...] = ("cli", "api")
EVERYWHERE: tuple[Place, ...] = (*BOTH, "page")
JUDGE, SPECULATION, BUDGET, ADVANCED = "Judge and repair", "Speculation", "Budget and sampling", "Advanced"


@dataclass(frozen=True)
class Knob:
    """A setting as a user gives it: a number or a word.

    Attributes:
        name: the argument's name in Python.
        default: the default value; None if it depends on other settings.
        help: one line.
        kind: type of the value: `int`, `float`, `str` or `dict` (JSON).
        words: words that are accepted besides numbers; if `kind` is `str`, instead of any text.
        unit: unit of numbers.
        panel: panel of the command line's help.
        front: whether the short help shows the knob.
        scope: the runs that the knob applies to: `run`, all; `drafting`, with a draft model; `judging`, with
            a verifier; `correcting`, with corrected tokens.
        places: where the knob can be given, besides Python; the page offers numbers and words.
        limits: `ge`, `gt`, `le` and `lt` of numbers.
    """

    name: str
    default: Any
    help: str
    kind: type
    words: tuple[str, ...]
    unit: str
    panel: str
    front: bool
    scope: Scope
    places: tuple[Place, ...]
    limits: dict[str, float]

    @property
    def option(self) -> str:
        """The knob's name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def expected(self) -> str:
        """What a value must be, as in "a whole number of at least 1"."""
        if self.kind not in (int, float):
            return _either(self.words) or _KINDS.get(self.kind, "a text")
        number = ("a whole number" if self.kind is int else "a number") + range_of(**self.limits)
        return f"{number}, or {_either(self.words)}" if self.words else number

    def parse(self, text: str) -> Any:
        """Read a value from a text.

        Raises:
            ConfigError: the text is not a value of this kind. Ranges are checked by the settings class.
        """
        if text in self.words or (self.kind is str and not self.words):
            return text
        if self.kind is not str:
            try:
                return _json(text) if self.kind is dict else self.kind(text)
            except ValueError:
                pass
        raise self.error(text)

    def error(self, value: Any) -> ConfigError:
        """The error for a value that is not valid."""
        return ConfigError(f"{self.name} must be {self.expected}, got {value!r}", self.name)


def knob(
    *,
    default: Any,
    help: str,
    unit: str = "",
    panel: str = ADVANCED,
    front: bool = False,
    scope: Scope = "drafting",
    places: tuple[Place, ...] = BOTH,
    given_as: Any = None,
    **limits: float,
) -> Any:
    """Declare a field of `settings` as a knob; arguments as the attributes of `Knob`.

    Args:
        given_as: type of the values that users give, if it differs from the field's; a `Literal` for words.
        limits: `ge`, `gt`, `le`, `lt`.
    """
    about = {
        "unit": unit, "panel": panel, "front": front, "scope": scope, "places": places,
        "given_as": given_as, "limits": limits,
    }  # fmt: skip
    return pydantic.Field(default, description=help, json_schema_extra={"knob": about})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(knob,))
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks its values against the types and ranges of its knobs.

    An invalid value raises a `ConfigError` that names the field, what it must be, and the value.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if about := _about(vars(cls).get(name)):
            check = pydantic.AfterValidator(functools.partial(_within, about["limits"]))
            cls.__annotations__[name] = Annotated[hint, check]
    checked = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
    initialize = checked.__init__

    @functools.wraps(initialize)
    def __init__(self: Any, **values: Any) -> None:
        try:
            initialize(self, **values)
        except pydantic.ValidationError as error:
            raise _config_error(checked, error) from None

    checked.__init__ = __init__  # type: ignore[method-assign]  # to translate pydantic's errors
    return typing.cast(type[T], checked)


def knobs_of(*classes: type) -> dict[str, Knob]:
    """The knobs of classes made by `settings`, by name."""
    return {knob.name: knob for cls in classes for knob in _knobs(cls)}


def _knobs(cls: type) -> Iterator[Knob]:
    hints = typing.get_type_hints(cls)
    fields: dict[str, FieldInfo] = cls.__pydantic_fields__  # type: ignore[attr-defined]  # by `settings`
    for name, field in fields.items():
        if about := _about(field):
            about = dict(about)
            kind, words = _given(about.pop("given_as") or hints[name])
            default = field.default if isinstance(field.default, int | float | str | None) else None
            yield Knob(name, default, field.description or "", kind, words, **about)


def _about(field: Any) -> dict[str, Any] | None:
    extra = getattr(field, "json_schema_extra", None)
    return extra.get("knob") if isinstance(extra, dict) else None


def _within(limits: dict[str, float], value: Any) -> Any:
    if isinstance(value, int | float):
        in_range = all(getattr(operator, name)(value, limit) for name, limit in limits.items())
        if not (in_range and math.isfinite(value)):
            raise ValueError("out of its range")  # becomes the knob's own error
    return value


def _given(hint: Any) -> tuple[type, tuple[str, ...]]:
    """The kind and the words that a type accepts."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return str, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [_given(part) for part in typing.get_args(hint) if part is not type(None)]
        kinds = [kind for kind, words in parts if not words]
        return (kinds or [str])[0], tuple(word for _, words in parts for word in words)
    if origin is typing.Annotated:
        return _given(typing.get_args(hint)[0])
    return (origin or hint), ()


def _config_error(cls: type, error: pydantic.ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:  # from a check of several fields
        cause = first.get("ctx", {}).get("error")
        return cause if isinstance(cause, ConfigError) else ConfigError(first["msg"])
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "unexpected_keyword_argument":
        return ConfigError(f"{cls.__name__} has no setting {name}", name)
    knobs = knobs_of(cls)
    return knobs[name].error(value) if name in knobs else ConfigError(f"{name}: {first['msg']}", name)


def range_of(
    ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> str:
    """A range in words, to follow "a number"; empty without limits."""
    if ge is not None and le is not None:
        return f" from {_plain(ge)} to {_plain(le)}"
    limits = {"of at least": ge, "above": gt, "of at most": le, "below": lt}
    parts = [f"{words} {_plain(limit)}" for words, limit in limits.items() if limit is not None]
    return " " + " and ".join(parts).replace("and of", "and") if parts else ""


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def _either(words: tuple[str, ...]) -> str:
    if len(words) > 2:
        return f"one of {', '.join(map(repr, words))}"
    return " or ".join(map(repr, words))


def _json(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    return value
