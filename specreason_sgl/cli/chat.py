"""`specreason-sgl chat`."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

from rich.text import Text

from specreason_sgl.cli.options import Given, Models, Remote, Servers, knob_options, option
from specreason_sgl.cli.output import err, out
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.display.terminal_live import watching
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.reasoning.config import Message
from specreason_sgl.reasoning.plain import KNOBS, config_of
from specreason_sgl.reasoning.trace import Trace

Knobs = knob_options(Given, KNOBS.values())
Turn = Callable[[list[Message]], Trace]


@dataclass(frozen=True)
class Options:
    timeout: Annotated[float, option("Deadline of an answer, in seconds.", "Budget and sampling")] = 3600.0
    quiet: Annotated[bool, option("Show the answers only, not the steps.", front=True)] = False


def chat(options: Options, models: Models, remote: Remote, servers: Servers, knobs: Knobs) -> None:
    """Hold a conversation with a pair, or with a running `serve`.

    Ctrl-C interrupts an answer; at the prompt, Ctrl-C or Ctrl-D ends the conversation. After a failed or
    interrupted answer the conversation continues from before the question.
    """
    given = knobs.values()
    config = config_of(given, pair=models.named)

    def told() -> AbstractContextManager[dict[str, Any]]:
        return nullcontext({}) if options.quiet else watching(out)

    if remote.server:
        from specreason_sgl.serving.client import ask

        def turn(messages: list[Message]) -> Trace:
            with told() as callbacks:
                return ask(
                    remote.server, messages, given, remote.api_key, timeout=options.timeout, **callbacks
                )

        _converse(turn)
        return
    with endpoints(models, servers, options.timeout) as (draft, base):
        from specreason_sgl.reasoning.solve import solve

        def turn(messages: list[Message]) -> Trace:
            with told() as callbacks:
                return solve(
                    messages, draft=draft, base=base, config=config, timeout=options.timeout, **callbacks
                )

        _converse(turn)


def _converse(turn: Turn) -> None:
    messages: list[Message] = []
    while (line := _read_line()) is not None:
        if not line.strip():
            continue
        asked: list[Message] = [*messages, {"role": "user", "content": line}]
        try:
            trace = turn(asked)
        except SpecReasonError as error:
            err.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
            continue
        except KeyboardInterrupt:
            err.print("the answer was interrupted")
            continue
        out.print(Text(trace.answer or "(no answer: the token budget is used up)"), soft_wrap=True)
        messages = [*asked, {"role": "assistant", "content": trace.answer}]


def _read_line() -> str | None:
    """The next line, or None at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
