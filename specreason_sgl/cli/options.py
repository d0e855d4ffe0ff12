"""Options that several commands share: a group of them is a dataclass, and `command` makes options of it."""

import dataclasses
import inspect
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from specreason_sgl.cli.help import HELP_ALL, show_all
from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.problems import NAMES
from specreason_sgl.reasoning.knobs import Knob
from specreason_sgl.runtime.pairs import PAIRS, PairSpec, get_model, get_pair

MODELS, SERVERS = "Models", "Servers"
PROBLEMS = (  # of the option --data
    f"{', '.join(NAMES)} (a task of reasoning-gym), or a JSON Lines file with question, answer and maybe id "
    "and choices."
)


def option(
    help: str, panel: str | None = None, *names: str, front: bool = False, **settings: Any
) -> typer.models.OptionInfo:
    """An option in a panel of the help.

    Args:
        panel: a heading of the help; None: "Options".
        names: the option's names, if they do not follow from the parameter's.
        front: whether `--help` shows it; `--help-all` shows every option.
        settings: further arguments of `typer.Option`.
    """
    return typer.Option(*names, help=help, rich_help_panel=panel, hidden=not front, **settings)


@dataclass(frozen=True)
class Models:
    """Which two models, and where they run."""

    pair: Annotated[
        str,
        option(f"A named pair: {', '.join(PAIRS)}.", MODELS, front=True, autocompletion=lambda: list(PAIRS)),
    ] = "mini"
    draft: Annotated[str, option("Draft model: Hugging Face name or folder.", MODELS, front=True)] = ""
    base: Annotated[str, option("Base model: Hugging Face name or folder.", MODELS, front=True)] = ""
    draft_url: Annotated[
        str, option("Use this running SGLang server as the draft.", MODELS, front=True, metavar="URL")
    ] = ""
    base_url: Annotated[
        str, option("Use this running SGLang server as the base.", MODELS, front=True, metavar="URL")
    ] = ""
    runtime_key: Annotated[
        str, option("API key of the servers at the URLs.", MODELS, envvar="SPECREASON_SGL_RUNTIME_KEY")
    ] = ""

    def __post_init__(self):
        if bool(self.draft) != bool(self.base):
            raise ConfigError("draft and base must be given together", "draft", "base")
        if bool(self.draft_url) != bool(self.base_url):
            raise ConfigError("draft_url and base_url must be given together", "draft_url", "base_url")

    @property
    def named(self) -> str | None:
        """The named pair that is started, if it is one."""
        return None if self.draft or self.draft_url else self.pair

    def spec(self) -> PairSpec:
        if self.draft:
            return PairSpec("custom", get_model(self.draft), get_model(self.base))
        return get_pair(self.pair)


@dataclass(frozen=True)
class Remote:
    """A running `serve` to ask instead of a pair."""

    server: Annotated[
        str, option("Ask this running `serve` instead of a pair.", MODELS, front=True, metavar="URL")
    ] = ""
    api_key: Annotated[
        str, option("Key of the server at --server.", MODELS, envvar="SPECREASON_SGL_API_KEY")
    ] = ""


@dataclass(frozen=True)
class Servers:
    """How the two runtimes are started."""

    draft_args: Annotated[
        str, option("Flags passed on to the draft's sglang serve.", SERVERS, metavar="FLAGS")
    ] = ""
    base_args: Annotated[
        str, option("Flags passed on to the base's sglang serve.", SERVERS, metavar="FLAGS")
    ] = ""
    draft_port: Annotated[int, option("Port of the draft server; 0: a free one.", SERVERS)] = 0
    base_port: Annotated[int, option("Port of the base server; 0: a free one.", SERVERS)] = 0
    draft_gpus: Annotated[
        str, option("GPUs of the draft model, with commas: tensor parallel.", SERVERS, metavar="N,...")
    ] = ""
    base_gpus: Annotated[
        str,
        option("GPUs of the base model. The draft model may share them.", SERVERS, metavar="N,..."),
    ] = ""
    pin: Annotated[bool, option("Give each runtime its own half of the processor's cores.", SERVERS)] = False
    decode: Annotated[
        str,
        option(
            "Speculative decoding in the base model by an algorithm of SGLang: standalone, eagle3, ngram ...",
            SERVERS,
            metavar="NAME",
        ),
    ] = ""

    def launch(self, models: Models) -> dict[str, Any] | None:
        """How the servers are started, without their ports; None if they run already."""
        if models.draft_url:
            return None
        return {name: value for name, value in self.arguments().items() if not name.endswith("_port")}

    def arguments(self, *flags: str) -> dict[str, Any]:
        """Arguments of `launch_pair`. Both servers get `flags`, before the user's own."""
        return {
            "draft_args": [*flags, *_flags(self.draft_args)],
            "base_args": [*flags, *_flags(self.base_args)],
            "draft_port": self.draft_port,
            "base_port": self.base_port,
            "draft_gpus": _gpus("draft_gpus", self.draft_gpus),
            "base_gpus": _gpus("base_gpus", self.base_gpus),
            "pin": self.pin,
            "decode": self.decode or None,
        }


class Given:
    """Values of knobs, as options that `knob_options` makes."""

    knobs: Mapping[str, Knob]

    def values(self) -> dict[str, Any]:
        """The values that were given, by knob name."""
        texts = {name: getattr(self, name) for name in self.knobs}
        return {name: self._parse(name, text) for name, text in texts.items() if text is not None}

    def _parse(self, name: str, text: str) -> Any:
        return self.knobs[name].parse(text)


class Swept(Given):
    """The same, with a list of values for each knob."""

    def _parse(self, name: str, text: str) -> list[Any]:
        knob = self.knobs[name]
        is_free_text = knob.kind is str and not knob.words
        return [knob.parse(part.strip()) for part in ([text] if is_free_text else text.split(","))]


def knob_options(
    base: type[Given], knobs: Iterable[Knob], *, defaults: Mapping[str, Any] | None = None
) -> type:
    """A group of options, one per knob.

    Args:
        base: `Given` or `Swept`.
        defaults: the command's own defaults, for its help; the command applies them.
    """
    knobs = {knob.name: knob for knob in knobs if "cli" in knob.places}
    fields = []
    for knob in knobs.values():
        default = (defaults or {}).get(knob.name, knob.default)
        info = option(
            knob.help + _words(knob) + _default(default),
            knob.panel,
            knob.option,
            front=knob.front,
            metavar=_metavar(knob) + (",..." if base is Swept else ""),
            show_default=False,
        )
        fields.append((knob.name, Annotated[str | None, info], dataclasses.field(default=None)))
    return dataclasses.make_dataclass(
        base.__name__, fields, bases=(base,), namespace={"knobs": knobs}, frozen=True
    )


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: each parameter that is a group becomes the options of its fields."""
    parameters, groups = {}, {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            options = inspect.signature(parameter.annotation, eval_str=True).parameters.values()
        else:
            options = [parameter]
        for item in options:
            parameters[item.name] = item.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    help_all = typer.Option(HELP_ALL, is_eager=True, callback=show_all, help="Show every option and exit.")
    parameters["help_all"] = inspect.Parameter(
        "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, help_all]
    )

    def run(**values: Any) -> None:
        del values["help_all"]
        for name, group in groups.items():
            values[name] = group(
                **{field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            )
        function(**values)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {name: item.annotation for name, item in parameters.items()}
    run.__signature__ = inspect.Signature(list(parameters.values()))
    return run


def split(name: str, text: str, kind: type, allowed: Collection[Any] = ()) -> list[Any]:
    """Read a list with commas.

    Raises:
        ConfigError: an item is not of the kind, or not `allowed`.
    """
    try:
        parts = [kind(part.strip()) for part in text.split(",")]
        if allowed and not all(part in allowed for part in parts):
            raise ValueError
    except ValueError:
        expected = {int: "whole numbers", float: "numbers"}.get(kind, "words")
        if isinstance(allowed, range):
            expected += f" from {allowed[0]} to {allowed[-1]}"
        elif allowed:
            expected = f"some of {', '.join(map(str, allowed))}"
        raise ConfigError(f"{name} must be {expected}, with commas; got {text!r}", name) from None
    return parts


def _flags(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"flags for SGLang cannot be read ({error}): {text}") from None


def _gpus(name: str, text: str) -> tuple[int, ...]:
    return tuple(split(name, text, int)) if text else ()


def _words(knob: Knob) -> str:
    return f" One of {', '.join(knob.words)}." if len(knob.words) > 2 else ""


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    return f"  [default: {value if isinstance(value, str) else f'{value:g}'}]"


def _metavar(knob: Knob) -> str:
    kinds = {int: "N", float: "X", dict: "JSON"}
    if knob.kind in kinds:
        return "|".join([kinds[knob.kind], *knob.words])
    return "|".join(knob.words) if 0 < len(knob.words) <= 2 else "NAME" if knob.words else "TEXT"
