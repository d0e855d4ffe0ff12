"""SGLang's command-line flags: reading a value from a list of them, refusing those SGLang would refuse."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from specreason_sgl.errors import ConfigError


def flag_value(args: Sequence[str], names: Sequence[str]) -> str | None:
    """The last value of a flag (`--name value` or `--name=value`), or None if it is absent."""
    last = None
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in names:
            last = value if equals else args[i + 1] if i + 1 < len(args) else ""
    return last


def parse_flags(option: str, args: Sequence[str]) -> dict[str, Any]:
    """Read flags with SGLang's own parser, which refuses wrong ones before a server is started.

    Takes some seconds, because it imports SGLang; with no flags it returns at once.

    Args:
        option: where the flags come from, such as `--base-args`; errors begin with it.
        args: the flags.

    Returns:
        The values of those that are given, by SGLang's names, such as `tp_size`.

    Raises:
        ConfigError: SGLang has no such flag (names the most similar one), or refuses its value.
    """
    if not args:
        return {}
    from sglang.srt.server_args import ServerArgs

    parser = _Parser(option)
    ServerArgs.add_cli_args(parser)
    known, unknown = parser.parse_known_args(["--model-path", "any", *args])
    if not unknown:
        return {name: value for name, value in vars(known).items() if name != "model_path"}
    name = unknown[0].partition("=")[0]
    if not name.startswith("-"):
        raise ConfigError(f"{option} must be flags of SGLang, got {name!r}, which belongs to none")
    similar = difflib.get_close_matches(name, parser.names, n=1)
    hint = f"did you mean {similar[0]}?" if similar else "see `sglang serve --help`"
    raise ConfigError(f"{option} must be flags of SGLang, got {name!r}: {hint}")


class _Parser(argparse.ArgumentParser):
    """Has no defaults, remembers the names of flags, and raises where argparse would end the process."""

    def __init__(self, option: str):
        self.option, self.names = option, []
        super().__init__(add_help=False)  # --help would end the process

    def add_argument(self, *names, **settings) -> argparse.Action:
        self.names += names
        action = super().add_argument(*names, **settings)
        action.default = argparse.SUPPRESS
        return action

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.option} has a flag that SGLang refuses: {message}")
