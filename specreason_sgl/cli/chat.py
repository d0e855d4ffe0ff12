"""`specreason-sgl chat`."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated

from rich.text import Text

from specreason_sgl.cli.options import Given, Models, Servers, knob_options, option
from specreason_sgl.cli.output import err, out
from specreason_sgl.cli.runtimes import endpoints
from specreason_sgl.errors import SpecReasonError
from specreason_sgl.reasoning.config import Message
from specreason_sgl.reasoning.plain import KNOBS, config_of
from specreason_sgl.reasoning.trace import Trace
from specreason_sgl.serving import show

Knobs = knob_options(Given, KNOBS.values())
Turn = Callable[[list[Message]], Trace]


def chat(
    models: Models,
    servers: Servers,
    knobs: Knobs,
    server: Annotated[
        str, option("Talk to this running `serve` instead of a pair.", "Models", front=True, metavar="URL")
    ] = "",
    api_key: Annotated[
        str, option("Key of the server at --server.", "Models", envvar="SPECREASON_SGL_API_KEY")
    ] = "",
    timeout: Annotated[float, option("Deadline of an answer, in seconds.", "Budget and sampling")] = 3600.0,
    quiet: Annotated[
        bool, option("Show the answers only, not the steps.", None, "--quiet", front=True)
    ] = False,
) -> None:
    """Hold a conversation with a pair, or with a running `serve`.

    An empty line is skipped; Ctrl-D ends the conversation. Ctrl-C ends an answer, and at the prompt the
    conversation. A failed answer leaves the conversation as it was.
    """
    given = knobs.values()
    config = config_of(given, pair=models.named)
    on_step = None if quiet else partial(show.print_step, out)
    with ExitStack() as stack:
        if server:
            from specreason_sgl.serving.client import ask

            def turn(messages: list[Message]) -> Trace:
                return ask(server, messages, given, api_key, timeout=timeout, on_step=on_step)

        else:
            draft, base = stack.enter_context(endpoints(models, servers, timeout))
            from specreason_sgl.reasoning.solve import solve

            def turn(messages: list[Message]) -> Trace:
                return solve(
                    messages, draft=draft, base=base, config=config, timeout=timeout, on_step=on_step
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
