"""A knob is declared once, where it lives: its type, range, unit and a line of help.

    @settings
    class SpecReasonConfig:
        token_budget: int = knob(8192, "Tokens of the whole chain of thought.", unit="tokens", ge=1)

From `knobs_of` come the command line's options, the `specreason` extension of the API, what `eval` can sweep,
and the table of the docs. A value out of its range is a `ConfigError` in the knob's own words.
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

from specreason_sgl.errors import ConfigError

T = TypeVar("T")
_KINDS = {dict: "a mapping of names to values", tuple: "a tuple of texts"}
Scope = Literal["run", "drafting", "judging", "correcting"]
Place = Literal["cli", "api"]
BOTH: tuple[Place, ...] = ("cli", "api")
JUDGE, SPECULATION, BUDGET, ADVANCED = "Judge and repair", "Speculation", "Budget and sampling", "Advanced"


@dataclass(frozen=True)
class Knob:
    """A setting as a user gives it: in words and numbers.

    Attributes:
        name: as an argument of the Python interface.
        default: its own; None where something else decides.
        help: one line.
        kind: of the value: `int`, `float`, `str` or `dict` (JSON).
        words: texts that may be given; beside numbers, or, where `kind` is `str`, instead of others.
        unit: of numbers.
        panel: of the command line's help.
        front: whether the short help shows it.
        scope: `run`, of every run; `drafting`, of those with a draft model; `judging`, of those where steps
            are judged as wholes; `correcting`, of those where single tokens are corrected.
        places: where it can be given, besides the Python interface.
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
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def expected(self) -> str:
        """What a value must be, as in "a whole number of at least 1"."""
        if self.kind not in (int, float):
            return _either(self.words) or _KINDS.get(self.kind, "a text")
        number = ("a whole number" if self.kind is int else "a number") + range_of(**self.limits)
        return f"{number}, or {_either(self.words)}" if self.words else number

    def parse(self, text: str) -> Any:
        """The value that a text means.

        Raises:
            ConfigError: it means none. Ranges are checked by the settings themselves.
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
        return ConfigError(f"{self.name} must be {self.expected}, got {value!r}", self.name)


def knob(
    default: Any,
    help: str,
    *,
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
        given_as: the type of what a user gives, where that is not the field's own; a `Literal` for words.
        limits: `ge`, `gt`, `le`, `lt`.
    """
    about = {
        "unit": unit, "panel": panel, "front": front, "scope": scope, "places": places,
        "given_as": given_as, "limits": limits,
    }  # fmt: skip
    return pydantic.Field(default, description=help, json_schema_extra={"knob": about})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(knob,))
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose values are checked: of the types and in the ranges that its knobs declare.

    Raises, when one is made:
        ConfigError: a value is not; the message names the field, what it must be, and the value.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if about := _about(vars(cls).get(name)):
            check = pydantic.AfterValidator(functools.partial(_within, about["limits"]))
            cls.__annotations__[name] = Annotated[hint, check]
    checked = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=config)(cls)
    initialize = checked.__init__

    @functools.wraps(initialize)
    def __init__(self, **values: Any) -> None:
        try:
            initialize(self, **values)
        except pydantic.ValidationError as error:
            raise _config_error(checked, error) from None

    checked.__init__ = __init__
    return checked


def knobs_of(*classes: type) -> dict[str, Knob]:
    """The knobs of classes made by `settings`, by name."""
    return {knob.name: knob for cls in classes for knob in _knobs(cls)}


def _knobs(cls: type) -> Iterator[Knob]:
    hints = typing.get_type_hints(cls)
    for name, field in cls.__pydantic_fields__.items():
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
    """The kind and the words of what a type takes."""
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
    if not first["loc"]:  # a check of several fields together
        cause = first.get("ctx", {}).get("error")
        return cause if isinstance(cause, ConfigError) else ConfigError(first["msg"])
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "unexpected_keyword_argument":
        return ConfigError(f"{cls.__name__} has no setting {name}", name)
    for other in _knobs(cls):
        if other.name == name:
            return other.error(value)
    return ConfigError(f"{name}: {first['msg']}", name)


def range_of(
    ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> str:
    """A range in words, after "a number"; empty where there is no limit."""
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
        raise ValueError("no mapping")
    return value


def as_markdown(knobs: dict[str, Knob]) -> str:
    """A table of the docs: a row for each knob."""
    rows = [
        "| Python | command line | API | default | value | what it is for |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for knob in knobs.values():
        option = f"`{knob.option}`" if "cli" in knob.places else ""
        field = f"`{knob.name}`" if "api" in knob.places else ""
        default = "" if knob.default is None else f"`{knob.default!r}`"
        unit = f" ({knob.unit})" if knob.unit else ""
        cells = (f"`{knob.name}`", option, field, default, knob.expected + unit, knob.help)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n"
